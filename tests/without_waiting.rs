//! `Batch::try_submit`, `Agent::try_view`, policies in batches, and the small items of the API.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::{Duration, SystemTime};

use memlog::sim::{SimDisk, SimFault};
use memlog::{Durability, Error, ErrorKind, Lsn, Maintenance, NewEntry, Options, Retention, Store};

const DIR: &str = "/mem";

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual)
}

/// A store at rest with entries and state of `a`, opened anew.
fn at_rest() -> (SimDisk, Store) {
    let disk = SimDisk::new(1);
    let store = options().open_on(&disk, DIR).unwrap();
    let agent = store.agent("a").unwrap();
    for n in 0..30 {
        store
            .batch()
            .append(&agent, NewEntry::user("x"))
            .set(&agent, &format!("k{n}"), "v")
            .commit()
            .unwrap();
    }
    // Sealed, so that nothing of it is in memory.
    while store.compact().unwrap() == memlog::CompactOutcome::More {}
    store.close().unwrap();
    (disk.clone(), options().open_on(&disk, DIR).unwrap())
}

#[test]
fn what_would_read_is_not_submitted_and_stays_to_be_submitted() {
    let (disk, store) = at_rest();
    let agent = store.agent("a").unwrap();
    let mut batch = store.batch();
    batch.append(&agent, NewEntry::user("31")).durability(Durability::Write);
    let (calls, reads) = (disk.calls(), disk.reads());
    assert!(batch.try_submit().is_none(), "the agent is not in use");
    assert!(agent.try_view().unwrap().is_none());
    assert_eq!((disk.calls(), disk.reads()), (calls, reads));
    assert_eq!(agent.view().unwrap().next_seq(), 31);
    // The batch is as it was, its durability too.
    let (calls, reads) = (disk.calls(), disk.reads());
    let commit = batch.try_submit().unwrap();
    assert_eq!((disk.calls(), disk.reads()), (calls, reads), "nothing was read or written");
    assert_eq!(commit.wait().unwrap().seqs(&agent), 31..32);
    assert!(batch.try_submit().unwrap().wait().unwrap().seqs(&agent).is_empty(), "it is empty now");
    // What a key had so far lies in pages of the state index.
    let mut batch = store.batch();
    batch.set(&agent, "k1", "w");
    assert!(batch.try_submit().is_none());
    batch.submit().wait().unwrap();
    let mut batch = store.batch();
    batch.append(&agent, NewEntry::user("x")).expect_revision(&agent, "k1", None);
    assert!(batch.try_submit().is_none());
    assert_eq!(batch.submit().wait().unwrap_err().kind(), ErrorKind::Conflict);
    // Of an agent without sealed state nothing is read.
    let fresh = store.agent("fresh").unwrap();
    fresh.append(NewEntry::user("x")).unwrap();
    let mut batch = store.batch();
    batch.set(&fresh, "k", "v").try_submit().unwrap().wait().unwrap();
    assert_eq!(&fresh.view().unwrap().state("k").unwrap().unwrap().value()[..], b"v");
}

#[test]
fn a_view_is_had_from_memory_or_not_at_all() {
    let (disk, store) = at_rest();
    let agent = store.agent("a").unwrap();
    agent.view().unwrap();
    let (calls, reads) = (disk.calls(), disk.reads());
    assert_eq!(agent.try_view().unwrap().unwrap().next_seq(), 31);
    assert_eq!((disk.calls(), disk.reads()), (calls, reads));
    // What is buffered would have to be written first.
    let mut batch = store.batch();
    let commit = batch.append(&agent, NewEntry::user("y")).durability(Durability::Buffer).submit();
    let calls = disk.calls();
    assert!(agent.try_view().unwrap().is_none_or(|view| view.next_seq() == 32));
    assert_eq!(disk.calls(), calls, "nothing was written for it");
    commit.wait().unwrap();
    assert_eq!(agent.view().unwrap().next_seq(), 32);
    assert_eq!(agent.try_view().unwrap().unwrap().iter().count(), 31);
    agent.set_retention(Some(Retention::new().max_bytes(10))).unwrap();
    assert!(agent.try_view().unwrap().is_none(), "its floor takes reading");
    agent.set_retention(Some(Retention::new().max_entries(3))).unwrap();
    assert_eq!(agent.try_view().unwrap().unwrap().iter().count(), 3);
    store.close().unwrap();
    assert_eq!(agent.try_view().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn no_room_is_waited_for_and_what_is_wrong_is_answered() {
    let disk = SimDisk::new(2);
    let store = options().segment_bytes(256 << 10).open_on(&disk, DIR).unwrap();
    let agent = store.agent("a").unwrap();
    agent.append(NewEntry::user("x")).unwrap();
    let payload = vec![7; 60 << 10];
    let mut batch = store.batch();
    let (mut submitted, mut refused) = (0, 0);
    for _ in 0..60 {
        batch
            .append(&agent, NewEntry::new(memlog::Kind::USER, &payload))
            .durability(Durability::Write);
        let calls = disk.calls();
        match batch.try_submit() {
            Some(commit) => {
                assert_eq!(disk.calls(), calls);
                submitted += 1;
                commit.wait().unwrap();
            }
            None => {
                assert_eq!(disk.calls(), calls, "it made no segment, and wrote nothing");
                refused += 1;
                batch.submit().wait().unwrap();
            }
        }
    }
    assert!(submitted > 20 && refused > 0, "{submitted} submitted, {refused} not");
    assert_eq!(agent.view().unwrap().next_seq(), 62);
    let kind = |commit: Option<memlog::Commit>| commit.unwrap().wait().unwrap_err().kind();
    let mut batch = store.batch();
    batch.append(&agent, NewEntry::user("x")).expect_next(&agent, 5);
    assert_eq!(kind(batch.try_submit()), ErrorKind::Conflict);
    batch.set(&agent, "", "v");
    assert_eq!(kind(batch.try_submit()), ErrorKind::InvalidInput);
    disk.fail_at(disk.calls(), SimFault::Eio, true);
    assert!(agent.append(NewEntry::user("x")).is_err());
    disk.clear_faults();
    batch.append(&agent, NewEntry::user("x"));
    assert_eq!(kind(batch.try_submit()), ErrorKind::Poisoned);
}

#[test]
fn without_waiting_appenders_and_their_order_hold_beside_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().segment_bytes(256 << 10).open(dir.path().join("mem")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                let agent = store.agent("shared").unwrap();
                let own = store.agent(&format!("own/{thread}")).unwrap();
                let mut last = Lsn::ZERO;
                for n in 0..500_u64 {
                    let mut batch = store.batch();
                    batch.append(&agent, NewEntry::user(&"x".repeat(1_000)));
                    batch
                        .append(&own, NewEntry::user(&n.to_string()))
                        .durability(Durability::Buffer);
                    let commit = batch.try_submit().unwrap_or_else(|| batch.submit());
                    let receipt = commit.wait().unwrap();
                    assert_eq!(receipt.seqs(&own), n + 1..n + 2);
                    assert!(receipt.lsn() > last);
                    last = receipt.lsn();
                }
            });
        }
    });
    let view = store.agent("shared").unwrap().view().unwrap();
    assert_eq!((&view).into_iter().filter(|entry| entry.is_ok()).count(), 2_000);
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn a_policy_in_a_batch_revives_nothing_and_takes_effect_with_it() {
    let disk = SimDisk::new(3);
    let store = options().open_on(&disk, DIR).unwrap();
    let agent = store.agent("a").unwrap();
    agent.set_retention(Some(Retention::new().max_entries(2))).unwrap();
    for text in ["1", "2", "3", "4"] {
        agent.append(NewEntry::user(text)).unwrap();
    }
    assert_eq!(agent.view().unwrap().floor(), 3);
    // Loosened: what was dropped stays dropped.
    let mut batch = store.batch();
    batch.set_retention(&agent, None).append(&agent, NewEntry::user("5")).commit().unwrap();
    let view = agent.view().unwrap();
    assert_eq!((view.floor(), view.next_seq(), agent.retention().unwrap()), (3, 6, None));
    // Changed in between: nothing of the batch happens.
    batch.set_retention(&agent, Some(Retention::new().max_entries(1)));
    agent.append(NewEntry::user("6")).unwrap();
    let late = batch.append(&agent, NewEntry::user("7")).commit().unwrap_err();
    assert_eq!((late.kind(), late.agent()), (ErrorKind::Conflict, Some("a")));
    assert_eq!((agent.view().unwrap().next_seq(), agent.retention().unwrap()), (7, None));
    // A new life in the same batch begins with it.
    let policy = Retention::new().max_entries(5).max_bytes(100).max_age(Duration::from_secs(60));
    batch.forget(&agent).set_retention(&agent, Some(policy)).append(&agent, NewEntry::user("new"));
    batch.commit().unwrap();
    let view = agent.view().unwrap();
    assert_eq!((view.floor(), view.next_seq(), agent.retention().unwrap()), (1, 2, Some(policy)));
    assert_eq!((policy.entries(), policy.bytes()), (Some(5), Some(100)));
    assert_eq!(policy.age(), Some(Duration::from_secs(60)));
    // Absent agents begin to exist, and all of it survives.
    let other = store.agent("b").unwrap();
    batch.set_retention(&other, Some(policy)).commit().unwrap();
    store.close().unwrap();
    let store = options().open_on(&disk, DIR).unwrap();
    assert_eq!(store.agents("").count(), 2);
    assert_eq!(store.agent("b").unwrap().retention().unwrap(), Some(policy));
    assert_eq!(store.agent("c").unwrap().retention().unwrap(), None);
}

#[test]
fn errors_of_the_programs_own_have_their_source_and_others_their_path() {
    let parse = "x".parse::<u32>().unwrap_err();
    let error = Error::other(parse.clone());
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Other, parse.to_string()));
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.downcast_ref::<std::num::ParseIntError>(), Some(&parse));
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::Other);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = Store::open(file.join("mem")).unwrap_err();
    assert!(error.path() == Some(file.join("mem").as_path()), "{error}");
}

#[test]
fn an_entry_says_when_it_expires() {
    let disk = SimDisk::new(4);
    let store = options().open_on(&disk, DIR).unwrap();
    let agent = store.agent("a").unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(4_000_000_000_123);
    agent.append(NewEntry::user("x").expires_at(time + Duration::from_nanos(7))).unwrap();
    agent.append(NewEntry::user("y")).unwrap();
    let view = agent.view().unwrap();
    let expires: Vec<_> = (&view).into_iter().map(|entry| entry.unwrap().expires_at()).collect();
    assert_eq!(expires, [Some(time), None]);
    assert_eq!((Lsn::new(7).get(), Lsn::ZERO.get()), (7, 0));
}

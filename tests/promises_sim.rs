//! The promises that need a disk that loses power and a clock that moves when told to: durability,
//! visibility, poison, and time; each with a test that names it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use memlog::sim::{SimDisk, SimFault};
use memlog::{
    Agent, Commit, Durability, ErrorKind, Kind, Lsn, Maintenance, NewEntry, Options, Retention,
    Store,
};

const DIR: &str = "/mem";
const HOUR: Duration = Duration::from_secs(3600);

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual)
}

fn open(disk: &SimDisk) -> Store {
    options().open_on(disk, DIR).unwrap()
}

fn next(store: &Store, name: &str) -> u64 {
    store.agent(name).unwrap().view().unwrap().next_seq()
}

/// Submits an entry for an agent.
fn submit(store: &Store, agent: &Agent, text: &str, durability: Durability) -> Commit {
    store.batch().append(agent, NewEntry::user(text)).durability(durability).submit()
}

#[test]
fn sync_survives_a_power_failure() {
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let store = open(&disk);
        let agent = store.agent("a").unwrap();
        for i in 1..=7 {
            assert_eq!(agent.append(NewEntry::user("x")).unwrap(), i);
            let after = open(&disk.fork_without_power(seed + i));
            assert_eq!(next(&after, "a"), i + 1);
            assert_eq!(after.verify().unwrap(), []);
        }
    }
}

#[test]
fn memory_lets_go_of_no_agent_that_it_alone_knows() {
    let disk = SimDisk::new(31);
    let store = options().resident_bytes(0).open_on(&disk, DIR).unwrap();
    for agent in 0..1500 {
        let agent = store.agent(&format!("a{agent}")).unwrap();
        drop(submit(&store, &agent, "x", Durability::Buffer));
    }
    assert!((0..1500).all(|agent| next(&store, &format!("a{agent}")) == 2));
}

#[test]
fn a_refusal_is_answered_when_its_reason_can_be_read() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let agent = store.agent("a").unwrap();
    let refused = [
        |store: &Store, agent: &Agent| store.batch().expect_next(agent, 2).commit().unwrap_err(),
        |store: &Store, agent: &Agent| {
            store.batch().truncate_before(agent, 2).commit().unwrap_err()
        },
        |store: &Store, agent: &Agent| store.batch().redact(agent, 1).commit().unwrap_err(),
    ];
    for refused in refused {
        agent.append(NewEntry::user("x")).unwrap();
        // Ordered, and not durable yet: others still see the entry.
        let forgetting = store.batch().forget(&agent).submit();
        assert_eq!(next(&store, "a"), 2);
        let error = refused(&store, &agent);
        assert_eq!(next(&store, "a"), 1, "behind {error}");
        forgetting.wait().unwrap();
    }
}

#[test]
fn write_survives_a_killed_process_and_maybe_not_a_power_failure() {
    let mut lost = 0;
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let store = open(&disk);
        let agent = store.agent("a").unwrap();
        for _ in 0..5 {
            submit(&store, &agent, "x", Durability::Write).wait().unwrap();
        }
        let after = open(&disk.fork_without_power(seed));
        lost += 6 - next(&after, "a");
        assert_eq!(
            after.agent("a").unwrap().view().unwrap().iter().count() as u64 + 1,
            next(&after, "a")
        );
        disk.restart();
        assert_eq!(next(&open(&disk), "a"), 6);
    }
    assert!(lost > 0, "this disk loses what is not synced");
}

#[test]
fn buffer_is_in_memory_and_sync_takes_it_to_stable_storage() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let agent = store.agent("a").unwrap();
    let calls = disk.calls();
    submit(&store, &agent, "x", Durability::Buffer).wait().unwrap();
    assert_eq!(disk.calls(), calls, "nothing is written");
    assert_eq!(next(&open(&disk.fork()), "a"), 1, "a killed process loses it");
    assert_eq!(next(&store, "a"), 2, "the writer reads its own write");
    store.sync().unwrap();
    assert_eq!(next(&open(&disk.fork_without_power(1)), "a"), 2);
}

#[test]
fn what_is_lost_below_sync_is_given_again_in_another_incarnation_and_at_another_lsn() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let mut highest = Lsn(0);
        let mut incarnations = Vec::new();
        for round in 0..6 {
            let store = open(&disk);
            assert!(!incarnations.contains(&store.incarnation()));
            incarnations.push(store.incarnation());
            let agent = store.agent("a").unwrap();
            let durable = next(&store, "a");
            for i in 0..4 {
                let commit = submit(&store, &agent, "x", Durability::Buffer);
                let receipt = commit.wait().unwrap();
                assert_eq!(receipt.seqs(&agent), durable + i..durable + i + 1);
                assert!(receipt.lsn() > highest, "an lsn is never used again");
                highest = receipt.lsn();
            }
            match round % 3 {
                0 => disk.power_cycle(seed + round),
                1 => disk.restart(),
                _ => store.close().unwrap(),
            }
        }
    }
}

#[test]
fn others_see_a_commit_when_it_has_reached_its_durability() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let agent = store.agent("a").unwrap();
    let commit = submit(&store, &agent, "x", Durability::Sync);
    assert_eq!(next(&store, "a"), 1, "not durable, not seen");
    assert_eq!(store.agents("").count(), 0);
    commit.wait().unwrap();
    assert_eq!((next(&store, "a"), store.agents("").count()), (2, 1));
    let written = submit(&store, &agent, "x", Durability::Write);
    assert_eq!(next(&store, "a"), 2, "not written, not seen");
    written.wait().unwrap();
    assert_eq!(next(&store, "a"), 3);
    let buffered = submit(&store, &agent, "x", Durability::Buffer);
    assert_eq!(next(&store, "a"), 4, "seen at once");
    buffered.wait().unwrap();
    // A forgetting is always at Sync.
    let forgotten = store.batch().forget(&agent).durability(Durability::Buffer).submit();
    assert_eq!(next(&store, "a"), 4);
    forgotten.wait().unwrap();
    assert_eq!(next(&open(&disk.fork_without_power(3)), "a"), 1);
}

#[test]
fn a_batch_is_raised_to_the_durability_of_what_it_follows_on_an_agent() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let (a, b) = (store.agent("a").unwrap(), store.agent("b").unwrap());
    let first = submit(&store, &a, "1", Durability::Sync);
    // Another agent is not held up.
    submit(&store, &b, "1", Durability::Buffer).wait().unwrap();
    assert_eq!((next(&store, "a"), next(&store, "b")), (1, 2));
    let mut both = store.batch();
    both.append(&a, NewEntry::user("2")).append(&b, NewEntry::user("2"));
    let both = both.durability(Durability::Buffer).submit();
    assert_eq!((next(&store, "a"), next(&store, "b")), (1, 2), "neither shows half of it");
    let third = submit(&store, &b, "3", Durability::Buffer);
    assert_eq!(next(&store, "b"), 2, "no gap");
    third.wait().unwrap();
    assert_eq!((next(&store, "a"), next(&store, "b")), (3, 4));
    let after = open(&disk.fork_without_power(1));
    assert_eq!((next(&after, "a"), next(&after, "b")), (3, 4), "raised to Sync");
    first.wait().unwrap();
    both.wait().unwrap();
}

#[test]
fn a_conflict_is_answered_when_what_it_conflicts_with_is_visible() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let agent = store.agent("a").unwrap();
    let first = submit(&store, &agent, "x", Durability::Sync);
    let error = store.batch().expect_next(&agent, 1).set(&agent, "k", "v").commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(next(&store, "a"), 2);
    first.wait().unwrap();
    // What cannot become visible any more: the batch itself is not in doubt.
    let lost = submit(&store, &agent, "x", Durability::Sync);
    disk.fail_at(disk.calls() + 1, SimFault::Eio, false);
    let error = store.batch().expect_next(&agent, 1).set(&agent, "k", "v").commit().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Poisoned), "{error:?}");
    assert_eq!(lost.wait().unwrap_err().kind(), ErrorKind::Indeterminate);
}

#[test]
fn an_empty_commit_is_a_barrier() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    for i in 0..5 {
        drop(submit(&store, &store.agent(&format!("{i}")).unwrap(), "x", Durability::Buffer));
    }
    let lsn = store.batch().commit().unwrap().lsn();
    assert_eq!(lsn, store.stats().next_lsn);
    let after = open(&disk.fork_without_power(1));
    assert!((0..5).all(|i| next(&after, &i.to_string()) == 2));
}

#[test]
fn without_threads_a_poll_flushes_and_dropping_a_commit_cancels_nothing() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let agent = store.agent("a").unwrap();
    let mut commit = submit(&store, &agent, "x", Durability::Sync);
    let polled = Pin::new(&mut commit).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Ok(_))));
    assert_eq!(next(&open(&disk.fork_without_power(1)), "a"), 2);
    drop(submit(&store, &agent, "x", Durability::Sync));
    store.close().unwrap();
    assert_eq!(next(&open(&disk), "a"), 3);
}

#[test]
fn a_batch_over_several_agents_is_there_whole_or_not_at_all() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let store = open(&disk);
        let agents: Vec<_> = (0..4).map(|i| store.agent(&format!("a{i}")).unwrap()).collect();
        let text = "x".repeat(300 + seed as usize * 40);
        // In the second segment, which has room for all of them.
        while store.stats().segments == 0 {
            store.agent("filler").unwrap().append(NewEntry::new(Kind::USER, &[7; 50_000])).unwrap();
        }
        disk.crash_at(disk.calls() + 6 + seed % 12);
        let mut acknowledged = 0;
        loop {
            let mut batch = store.batch();
            for agent in &agents {
                batch.append(agent, NewEntry::user(&text)).set(agent, "k", &text);
            }
            match batch.commit() {
                Ok(_) => acknowledged += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
                    break;
                }
            }
        }
        disk.power_cycle(seed);
        let store = open(&disk);
        let nexts: Vec<_> = (0..4).map(|i| next(&store, &format!("a{i}"))).collect();
        assert!(nexts.iter().all(|n| *n == nexts[0]), "{nexts:?}");
        assert!(nexts[0] == acknowledged + 1 || nexts[0] == acknowledged + 2, "{nexts:?}");
    }
}

#[test]
fn a_failed_flush_is_indeterminate_then_poisoned_while_reads_go_on() {
    for what in 0..2 {
        for fault in [SimFault::Eio, SimFault::NoSpace, SimFault::ShortWrite] {
            let disk = SimDisk::new(1);
            let store = open(&disk);
            let agent = store.agent("a").unwrap();
            agent.append(NewEntry::user("1")).unwrap();
            let view = agent.view().unwrap();
            let in_doubt = store.stats().next_lsn;
            disk.fail_at(disk.calls() + what, fault, false);
            let error = agent.append(NewEntry::user("2")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
            for error in [
                agent.append(NewEntry::user("3")).unwrap_err(),
                agent.forget().unwrap_err(),
                store.forget_prefix("a/").unwrap_err(),
                store.batch().set(&agent, "k", "v").submit().wait().unwrap_err(),
            ] {
                assert_eq!(error.kind(), ErrorKind::Poisoned);
                assert!(error.to_string().contains(&in_doubt.to_string()), "{error}");
            }
            assert_eq!(view.get(1).unwrap().unwrap().payload(), b"1");
            assert_eq!(agent.view().unwrap().next_seq(), 2, "only what is certain is shown");
            assert_eq!(store.agents("").count(), 1);
            assert!(store.close().is_err());
            disk.power_cycle(1);
            let store = open(&disk);
            let next = next(&store, "a");
            assert!(next == 2 || next == 3);
            assert_eq!(store.agent("a").unwrap().append(NewEntry::user("4")).unwrap(), next);
        }
    }
}

#[test]
fn the_engines_now_is_never_behind_the_last_time_on_disk() {
    for crash in [false, true] {
        let disk = SimDisk::new(1);
        let mut store = open(&disk);
        let mut last = SystemTime::UNIX_EPOCH;
        for round in 0..6 {
            // No more ahead than is believed at once.
            disk.set_wall_offset([0, 3_000_000, -90_000_000, -1, 5, i64::MIN / 4][round]);
            let agent = store.agent("a").unwrap();
            let seq = agent.append(NewEntry::user("x")).unwrap();
            let at = agent.view().unwrap().get(seq).unwrap().unwrap().at();
            assert!(at >= last, "{crash} {round}: {at:?} {last:?}");
            last = at;
            if crash {
                disk.power_cycle(round as u64);
            } else {
                store.close().unwrap();
            }
            store = open(&disk);
        }
    }
}

#[test]
fn expiry_hides_from_views_opened_afterwards() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let agent = store.agent("a").unwrap();
    let now = {
        agent.append(NewEntry::user("stays")).unwrap();
        agent.view().unwrap().get(1).unwrap().unwrap().at()
    };
    let secret = NewEntry::user("secret").meta("m").expires_at(now + HOUR);
    agent.append(secret).unwrap();
    agent.append(NewEntry::user("gone already").expires_at(now)).unwrap();
    let early = agent.view().unwrap();
    let shown = |view: &memlog::View| -> Vec<bool> {
        view.iter().map(|e| !e.unwrap().is_redacted()).collect()
    };
    assert_eq!(shown(&early), [true, true, false]);
    disk.advance(HOUR * 2);
    assert_eq!(shown(&early), [true, true, false], "an open view is not disturbed");
    let late = agent.view().unwrap();
    assert_eq!(shown(&late), [true, false, false]);
    let entry = late.get(2).unwrap().unwrap();
    assert!(entry.payload().is_empty() && entry.meta().is_empty());
    store.close().unwrap();
    // Neither does it come back when the clock is set back.
    disk.set_wall_offset(-(HOUR.as_millis() as i64) * 48);
    assert_eq!(shown(&open(&disk).agent("a").unwrap().view().unwrap()), [true, false, false]);
}

#[test]
fn age_retention_moves_with_the_clock_and_not_under_an_open_view() {
    for own in [true, false] {
        let disk = SimDisk::new(1);
        let age = Retention::new().max_age(HOUR * 5);
        let options = if own { options() } else { options().retention(age) };
        let mut store = options.open_on(&disk, DIR).unwrap();
        if own {
            store.agent("a").unwrap().set_retention(Some(age)).unwrap();
        }
        for i in 0..20u64 {
            let agent = store.agent("a").unwrap();
            assert_eq!(agent.append(NewEntry::user("x")).unwrap(), i + 1);
            let view = agent.view().unwrap();
            assert_eq!(view.floor(), (i + 1).saturating_sub(5).max(1), "{own} {i}");
            disk.advance(HOUR);
            assert_eq!(view.iter().count() as u64, view.next_seq() - view.floor());
            if i % 6 == 5 {
                disk.power_cycle(i);
                store = options.open_on(&disk, DIR).unwrap();
            }
        }
        disk.advance(HOUR * 24);
        let view = store.agent("a").unwrap().view().unwrap();
        assert_eq!((view.floor(), view.next_seq()), (21, 21), "emptied, and seqs go on");
    }
}

/// The floor comes down for nobody: neither when the clock is set back nor by a looser policy.
#[test]
fn what_a_policy_dropped_stays_dropped() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let agent = store.agent("a").unwrap();
    agent.set_retention(Some(Retention::new().max_age(HOUR))).unwrap();
    agent.append(NewEntry::user("1")).unwrap();
    disk.advance(HOUR * 2);
    agent.append(NewEntry::user("2")).unwrap();
    assert_eq!(agent.view().unwrap().floor(), 2);
    disk.set_wall_offset(-(HOUR.as_millis() as i64) * 10);
    assert_eq!(agent.view().unwrap().floor(), 2);
    disk.power_cycle(1);
    let store = open(&disk);
    let agent = store.agent("a").unwrap();
    assert_eq!(agent.view().unwrap().floor(), 2);
    agent.set_retention(Some(Retention::new())).unwrap();
    assert_eq!(agent.view().unwrap().floor(), 2);
    agent.set_retention(None).unwrap();
    disk.power_cycle(2);
    assert_eq!(open(&disk).agent("a").unwrap().view().unwrap().floor(), 2);
}

#[test]
fn what_a_default_dropped_stays_dropped_of_agents_that_once_had_a_policy() {
    let disk = SimDisk::new(1);
    let strict = options().retention(Retention::new().max_entries(2));
    let store = strict.open_on(&disk, DIR).unwrap();
    let [cleared, own] = ["cleared", "own"].map(|name| store.agent(name).unwrap());
    for agent in [&cleared, &own] {
        agent.set_retention(Some(Retention::new())).unwrap();
    }
    cleared.set_retention(None).unwrap();
    for _ in 0..10 {
        cleared.append(NewEntry::user("x")).unwrap();
        own.append(NewEntry::user("x")).unwrap();
    }
    let floors = |store: &Store| {
        ["cleared", "own"].map(|name| store.agent(name).unwrap().view().unwrap().floor())
    };
    assert_eq!(floors(&store), [9, 1]);
    store.close().unwrap();
    // The strict default ends in the middle of a segment that goes on.
    let store = open(&disk);
    assert_eq!(floors(&store), [9, 1]);
    store.agent("own").unwrap().set_retention(None).unwrap();
    assert_eq!(floors(&store), [9, 1]);
    let filler = store.agent("filler").unwrap();
    while store.stats().segments == 0 {
        filler.append(NewEntry::new(memlog::Kind::USER, &[7; 100 << 10])).unwrap();
    }
    assert_eq!(floors(&store), [9, 1], "both sealed");
    store.close().unwrap();
    for _ in 0..2 {
        let store = open(&disk);
        assert_eq!(floors(&store), [9, 1], "looked up in footers");
        store.close().unwrap();
    }
}

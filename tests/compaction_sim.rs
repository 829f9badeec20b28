//! Compaction, erasing and backups on a disk that fails, and by a clock that moves when told to.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::time::Duration;

use memlog::sim::{SimDisk, SimFault};
use memlog::{
    CompactOutcome, Durability, Kind, Maintenance, NewEntry, Options, Result, Retention, Store,
};

const DIR: &str = "/mem";

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual).segment_bytes(256 << 10).resident_bytes(0)
}

fn append(store: &Store, name: &str, text: &str, len: usize) {
    let mut payload = text.as_bytes().to_vec();
    payload.resize(payload.len().max(len), b'.');
    store.agent(name).unwrap().append(NewEntry::new(Kind::USER, &payload)).unwrap();
}

fn compact(store: &Store) -> Result<()> {
    while store.compact()? == CompactOutcome::More {}
    Ok(())
}

/// Entries that lie scattered over several segments.
fn fill(store: &Store, agents: u32, rounds: u32) {
    for round in 0..rounds {
        for agent in 0..agents {
            append(store, &format!("agent/{agent:03}"), &format!("{round}"), 20 << 10);
        }
    }
}

fn holds(disk: &SimDisk, needle: &[u8]) -> Vec<String> {
    let has = |bytes: Vec<u8>| bytes.windows(needle.len()).any(|window| window == needle);
    let files = disk.files().into_iter().filter(|file| file.starts_with(DIR));
    let found = files.filter(|file| disk.read_file(file).is_some_and(has));
    found.map(|file| file.display().to_string()).collect()
}

/// Room is looked for when a job begins, and taken as it goes on.
#[test]
fn a_compaction_whose_room_others_take_is_given_up_before_the_disk_is_full() {
    let disk = SimDisk::new(1);
    let store = options().segment_bytes(1 << 20).open_on(&disk, DIR).unwrap();
    fill(&store, 12, 100);
    let runs = || disk.files().iter().filter(|f| f.extension().is_some_and(|x| x == "run")).count();
    while runs() == 0 {
        assert_eq!(store.compact().unwrap(), CompactOutcome::More);
    }
    let (used, calls, made) = (disk.used(), disk.calls(), runs() as u64);
    disk.set_capacity(used + (3 << 20));
    let CompactOutcome::DiskFull { need, free } = store.compact().unwrap() else {
        panic!("there was room, or nothing left to do");
    };
    assert!(need > free && free > 3 << 20, "{need} bytes needed of {free}");
    // It removes what it has made, and does nothing else.
    assert!(disk.calls() <= calls + made + 1, "it wrote all the same");
    assert_eq!(runs(), 0);
    assert!(disk.used() < used);
    store.agent("agent/000").unwrap().forget().unwrap();
    disk.set_capacity(u64::MAX);
    compact(&store).unwrap();
    assert!(runs() > 0);
}

#[test]
fn a_compaction_that_comes_to_nothing_leaves_no_file() {
    let left = SimDisk::new(1);
    let store = options().open_on(&left, DIR).unwrap();
    fill(&store, 6, 8);
    store.close().unwrap();
    let mut failed = 0;
    for call in 0.. {
        let disk = left.fork();
        let store = options().open_on(&disk, DIR).unwrap();
        let before = disk.calls();
        disk.fail_at(before + call, SimFault::NoSpace, false);
        let outcome = store.compact();
        if disk.calls() <= before + call {
            break;
        }
        let poisoned = store.batch().set(&store.agent("x").unwrap(), "k", "v").commit().is_err();
        if !matches!(outcome, Ok(CompactOutcome::DiskFull { .. }) | Err(_)) || poisoned {
            continue;
        }
        failed += 1;
        let runs = disk.files().into_iter().filter(|f| f.extension().is_some_and(|e| e == "run"));
        assert_eq!(runs.count(), 0, "call {call}: {outcome:?}");
        compact(&store).unwrap();
    }
    assert!(failed > 5, "{failed} compactions failed");
}

#[test]
fn what_may_be_lost_kills_nothing() {
    for seed in 0..2 {
        let disk = SimDisk::new(seed);
        let store = options().segment_bytes(1 << 20).open_on(&disk, DIR).unwrap();
        fill(&store, 40, 8);
        // More than one step: what comes in between is no part of the segments that are compacted.
        assert_eq!(store.compact().unwrap(), CompactOutcome::More);
        let mut batch = store.batch();
        for agent in 0..40 {
            batch.truncate_before(&store.agent(&format!("agent/{agent:03}")).unwrap(), 5);
        }
        batch.append(&store.agent("witness").unwrap(), NewEntry::user("of the batch"));
        batch.durability(Durability::Buffer).commit().unwrap();
        let lost = options().open_on(&disk.fork_synced(), DIR).unwrap();
        assert_eq!(lost.agent("witness").unwrap().view().unwrap().next_seq(), 1);
        loop {
            let more = store.compact().unwrap() == CompactOutcome::More;
            let after = options().open_on(&disk.fork_synced(), DIR).unwrap();
            let survived = after.agent("witness").unwrap().view().unwrap().next_seq() == 2;
            for agent in 0..40 {
                let view = after.agent(&format!("agent/{agent:03}")).unwrap().view().unwrap();
                assert_eq!(view.floor(), if survived { 5 } else { 1 }, "agent {agent}");
                let there: Result<Vec<()>> = view.iter().map(|entry| entry.map(drop)).collect();
                assert_eq!(there.unwrap().len() as u64, 9 - view.floor(), "agent {agent}");
            }
            if !more {
                break;
            }
        }
    }
}

#[test]
fn an_entry_is_whole_until_it_expires() {
    let disk = SimDisk::new(3);
    let store = options().open_on(&disk, DIR).unwrap();
    let agent = store.agent("agent/000").unwrap();
    let now = {
        agent.append(NewEntry::user("now")).unwrap();
        agent.view().unwrap().get(1).unwrap().unwrap().at()
    };
    let soon = now + Duration::from_secs(30);
    agent.append(NewEntry::user("not yet").expires_at(soon)).unwrap();
    fill(&store, 3, 9);
    store.agent("agent/002").unwrap().truncate_before(9).unwrap();
    compact(&store).unwrap();
    store.purge().unwrap();
    let shown = |seq| {
        let view = agent.view().unwrap();
        let entry = view.get(seq).unwrap().unwrap();
        (entry.is_redacted(), entry.payload().to_vec())
    };
    assert_eq!(shown(2), (false, b"not yet".to_vec()));
    disk.advance(Duration::from_secs(31));
    assert_eq!(shown(2), (true, Vec::new()));
    store.purge().unwrap();
    assert_eq!(holds(&disk, b"not yet"), [""; 0]);
}

#[test]
fn a_purge_leaves_nothing_of_what_a_recovery_has_moved() {
    for len in 0..4 {
        let disk = SimDisk::new(4 + len as u64);
        let whole = options().segment_bytes(4 << 20);
        let store = whole.open_on(&disk, DIR).unwrap();
        append(&store, "lives", "", (1200 << 10) + 700 * len);
        append(&store, "lives", "a witness", 10);
        let agent = store.agent("dies").unwrap();
        let mut batch = store.batch();
        batch.append(&agent, NewEntry::user("SECRET")).durability(Durability::Write);
        batch.commit().unwrap();
        let disk = disk.fork();
        let store = whole.open_on(&disk, DIR).unwrap();
        assert_eq!(store.agent("dies").unwrap().view().unwrap().next_seq(), 2);
        store.agent("dies").unwrap().forget().unwrap();
        let report = store.purge().unwrap();
        assert!(report.is_complete(), "{len}: {report:?} {:?}", store.health());
        assert_eq!(holds(&disk, b"SECRET"), [""; 0]);
        assert_eq!(store.agent("lives").unwrap().view().unwrap().next_seq(), 3);
    }
}

#[test]
fn a_purge_takes_out_what_a_later_segment_has_redacted() {
    let disk = SimDisk::new(5);
    let store = options().open_on(&disk, DIR).unwrap();
    append(&store, "agent/000", "SECRET", 10);
    fill(&store, 3, 8);
    compact(&store).unwrap();
    store.agent("agent/000").unwrap().redact(1).unwrap();
    fill(&store, 3, 8);
    assert!(store.purge().unwrap().is_complete());
    assert_eq!(holds(&disk, b"SECRET"), [""; 0]);
    let view = store.agent("agent/000").unwrap().view().unwrap();
    assert!(view.get(1).unwrap().unwrap().is_redacted());
}

#[test]
fn what_was_forgotten_stays_so_in_a_backup() {
    let disk = SimDisk::new(6);
    let store = options().open_on(&disk, DIR).unwrap();
    fill(&store, 3, 8);
    append(&store, "other", "lives", 10);
    store.forget_prefix("agent/").unwrap();
    store.backup("/copy").unwrap();
    for copy in [disk.fork(), disk.fork_without_power(1), disk.fork_synced()] {
        let store = options().open_on(&copy, "/copy").unwrap();
        let names: Result<Vec<_>> =
            store.agents("").map(|a| a.map(|a| a.name().to_owned())).collect();
        assert_eq!(names.unwrap(), ["other"]);
        let view = store.agent("agent/001").unwrap().view().unwrap();
        assert_eq!(view.next_seq(), 1, "it lives again");
    }
}

#[test]
fn every_agent_of_a_run_with_many_pages_of_names_is_found() {
    let disk = SimDisk::new(7);
    let store = options().open_on(&disk, DIR).unwrap();
    let name = |i: u32| format!("agent/{i:04}/{}", "n".repeat(300));
    for round in 0..3 {
        for i in 0..200 {
            append(&store, &name(i), &format!("{round}"), 700);
        }
    }
    compact(&store).unwrap();
    assert!(disk.files().iter().any(|file| file.extension().is_some_and(|e| e == "run")));
    store.close().unwrap();
    let store = options().open_on(&disk, DIR).unwrap();
    for i in 0..200 {
        let view = store.agent(&name(i)).unwrap().view().unwrap();
        assert_eq!((view.next_seq(), view.iter().filter(|e| e.is_ok()).count()), (4, 3));
    }
    assert_eq!(store.agents("").count(), 200);
}

/// The seqs that an agent shows.
fn shown(store: &Store, name: &str) -> Vec<u64> {
    let view = store.agent(name).unwrap().view().unwrap();
    let seqs: Result<Vec<u64>> = view.iter().map(|entry| entry.map(|entry| entry.seq())).collect();
    let seqs = seqs.unwrap();
    assert_eq!(seqs.first().copied().unwrap_or(view.next_seq()), view.floor());
    seqs
}

#[test]
fn a_floor_by_bytes_stays_when_all_below_it_has_left_its_segment() {
    let disk = SimDisk::new(8);
    let store = options().retention(Retention::new().max_bytes(64 << 10)).open_on(&disk, DIR);
    let store = store.unwrap();
    // The first entry lies alone in its segment, which is the only one that a purge rewrites.
    for (len, others) in [(27 << 10, 4), (1 << 10, 4), (40 << 10, 0)] {
        append(&store, "a", "", len);
        for i in 0..others {
            append(&store, &format!("b/{len}/{i}"), "", 60 << 10);
        }
    }
    assert_eq!(shown(&store, "a"), [2, 3]);
    store.purge().unwrap();
    assert_eq!(shown(&store, "a"), [2, 3]);
    store.close().unwrap();
    let store = options().retention(Retention::new().max_bytes(64 << 10)).open_on(&disk, DIR);
    assert_eq!(shown(&store.unwrap(), "a"), [2, 3]);
}

#[test]
fn a_floor_by_age_is_none_where_older_segments_hold_entries() {
    let disk = SimDisk::new(9);
    let aged = options().retention(Retention::new().max_age(Duration::from_secs(86_400)));
    let store = aged.open_on(&disk, DIR).unwrap();
    // Each segment holds some entries of the agent; a purge rewrites the second one alone.
    for round in 0..3 {
        append(&store, "a", "", 1 << 10);
        append(&store, &format!("dies/{round}"), "", 1 << 10);
        for i in 0..4 {
            append(&store, &format!("b/{round}/{i}"), "", 60 << 10);
        }
    }
    store.agent("dies/1").unwrap().forget().unwrap();
    store.purge().unwrap();
    assert_eq!(shown(&store, "a"), [1, 2, 3]);
    disk.advance(Duration::from_secs(90_000));
    assert_eq!(shown(&store, "a"), [0_u64; 0]);
}

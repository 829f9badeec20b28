//! A disk that fills: in the middle of a batch, of making a segment, of a seal, of a manifest's
//! replacement, at opening. It answers `DiskFull`, nothing changed, and writing goes on once there
//! is room; what takes away works on the full disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::collections::BTreeMap;

use memlog::sim::{SimDisk, SimFault};
use memlog::{
    Durability, Error, ErrorKind, Kind, Maintenance, NewEntry, Options, Retention, Store,
};

const DIR: &str = "/mem";
const ENTRY: usize = 30 << 10;

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual).segment_bytes(1 << 20).resident_bytes(0)
}

/// A store on a small disk, and what it acknowledged: the floor and next seq of each agent.
struct World {
    disk: SimDisk,
    store: Store,
    acked: BTreeMap<String, (u64, u64)>,
    made: u64,
}

impl World {
    fn new(seed: u64, capacity: u64) -> World {
        let disk = SimDisk::with_capacity(seed, capacity);
        let store = options().open_on(&disk, DIR).unwrap();
        World { disk, store, acked: BTreeMap::new(), made: 0 }
    }

    /// What the entry with that seq holds.
    fn payload(name: &str, seq: u64) -> Vec<u8> {
        let mut payload = format!("{name} {seq} ").into_bytes();
        payload.resize(ENTRY, seq as u8);
        payload
    }

    fn append(&mut self, name: &str) -> Result<(), Error> {
        let next = self.acked.get(name).map_or(1, |(_, next)| *next);
        let agent = self.store.agent(name).unwrap();
        let payload = World::payload(name, next);
        let seq = agent.append(NewEntry::new(Kind::USER, &payload))?;
        assert_eq!(seq, next);
        self.acked.entry(name.to_owned()).or_insert((1, 1)).1 = next + 1;
        Ok(())
    }

    /// Appends to a few agents until something fails.
    fn fill(&mut self) -> Error {
        loop {
            self.made += 1;
            let name = format!("p{}/a{}", self.made % 3, self.made % 7);
            if let Err(error) = self.append(&name) {
                return error;
            }
            assert!(self.made < 10_000, "the disk never fills");
        }
    }

    fn check(&self) {
        for (name, (floor, next)) in &self.acked {
            let view = self.store.agent(name).unwrap().view().unwrap();
            assert_eq!((view.floor(), view.next_seq()), (*floor, *next), "{name}");
            for (entry, seq) in view.iter().zip(*floor..) {
                let entry = entry.unwrap();
                assert_eq!(entry.seq(), seq);
                if !entry.is_redacted() {
                    assert!(entry.payload() == World::payload(name, seq), "{name} {seq}");
                }
            }
        }
        let names: Vec<_> = self.store.agents("").map(|a| a.unwrap().name().to_owned()).collect();
        assert!(names.iter().eq(self.acked.keys()), "{names:?}");
        assert_eq!(self.store.verify().unwrap(), []);
    }

    /// After a failure for want of room the store is as it was.
    fn unchanged(&mut self, attempt: impl FnOnce(&mut World) -> Error) {
        let before = self.store.stats().next_lsn;
        let error = attempt(self);
        assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
        // A switch of segments may move the log on; nobody's batch does.
        assert!(self.store.stats().next_lsn >= before);
        self.check();
    }

    fn lose_power(&mut self, seed: u64) {
        self.disk.power_cycle(seed);
        self.reopen();
    }

    /// After the process is gone, and its maps with it, which would keep room taken.
    fn reopen(&mut self) {
        self.store = options().open_on(&SimDisk::new(0), DIR).unwrap();
        self.store = options().open_on(&self.disk, DIR).unwrap();
    }

    /// Takes away in all the ways there are, on a disk without room.
    fn take_away(&mut self) {
        let victims: Vec<String> = self.acked.keys().cloned().collect();
        let (first, rest) = victims.split_first().unwrap();
        let agent = |name: &String| self.store.agent(name).unwrap();
        agent(first).forget().unwrap();
        self.acked.remove(first);
        for name in rest {
            let (floor, next) = self.acked[name];
            agent(name).redact(next - 1).unwrap();
            agent(name).truncate_before(floor + 1).unwrap();
            self.acked.insert(name.clone(), (floor + 1, next));
        }
        self.store.forget_prefix("p1/").unwrap();
        self.acked.retain(|name, _| !name.starts_with("p1/"));
        self.check();
    }
}

#[test]
fn a_disk_that_fills_in_a_batch_changes_nothing_and_writing_goes_on_with_room() {
    let mut w = World::new(1, 6 << 20);
    w.unchanged(World::fill);
    let agents: Vec<_> = (0..3).map(|i| w.store.agent(&format!("new/{i}")).unwrap()).collect();
    for _ in 0..3 {
        w.unchanged(|w| {
            let payload = vec![1; ENTRY * 2];
            let mut batch = w.store.batch();
            for agent in &agents {
                batch.append(agent, NewEntry::new(Kind::USER, &payload)).set(agent, "k", &payload);
            }
            batch.commit().unwrap_err()
        });
    }
    w.unchanged(|w| {
        let payload = vec![1; ENTRY * 2];
        let agent = w.store.agent("new/1").unwrap();
        w.store.batch().set(&agent, "k", &payload).submit().wait().unwrap_err()
    });
    let error = w.fill();
    assert_eq!(error.kind(), ErrorKind::DiskFull);
    w.disk.set_capacity(20 << 20);
    (0..100).for_each(|i| w.append(&format!("p{}/a{}", i % 3, i % 7)).unwrap());
    w.check();
    w.lose_power(2);
    w.check();
}

#[test]
fn whatever_takes_away_works_on_a_full_disk_and_room_comes_back() {
    for seed in 0..6 {
        let mut w = World::new(seed, (5 << 20) + seed * 100_000);
        w.unchanged(World::fill);
        w.take_away();
        w.disk.set_capacity(w.disk.used());
        assert_eq!(w.fill().kind(), ErrorKind::DiskFull);
        w.take_away();
        w.lose_power(seed);
        w.check();
        w.disk.set_capacity(20 << 20);
        (0..40).for_each(|_| w.append("p0/a0").unwrap());
        w.check();
    }
}

#[test]
fn forgetting_one_by_one_works_for_long_on_a_full_disk() {
    let disk = SimDisk::with_capacity(9, 6 << 20);
    let store = options().open_on(&disk, DIR).unwrap();
    let name = |i: u32| format!("{}/{i}", "n".repeat(60));
    for i in 0..400 {
        store.agent(&name(i)).unwrap().append(NewEntry::user("x")).unwrap();
    }
    let filler = store.agent("filler").unwrap();
    let mut size = 200 << 10;
    while size > 100 {
        let payload = vec![1; size];
        if let Err(error) = filler.append(NewEntry::new(Kind::USER, &payload)) {
            assert_eq!(error.kind(), ErrorKind::DiskFull);
            size /= 2;
        }
    }
    disk.set_capacity(disk.used());
    for i in 0..400 {
        let forgotten = store.agent(&name(i)).unwrap().forget();
        assert!(forgotten.is_ok(), "the forgetting of agent {i}: {forgotten:?}");
    }
    assert_eq!(store.agents("").count(), 1);
    assert_eq!(store.verify().unwrap(), []);
    disk.power_cycle(1);
    drop((store, filler));
    let store = options().open_on(&disk, DIR).unwrap();
    assert_eq!(store.agents("").count(), 1);
}

#[test]
fn wherever_the_disk_fills_nothing_acknowledged_is_lost() {
    // The whole of making a segment, of sealing and of the manifest lies between two of these.
    for capacity in (0..9).map(|i| (3 << 20) + i * 150_000) {
        let mut w = World::new(capacity, capacity);
        w.unchanged(World::fill);
        w.disk.set_capacity(capacity + (4 << 20));
        w.unchanged(World::fill);
        w.lose_power(capacity);
        w.check();
        w.disk.set_capacity(16 << 20);
        (0..40).for_each(|_| w.append("p0/a0").unwrap());
        w.store.close().unwrap();
        w.store = options().open_on(&w.disk, DIR).unwrap();
        w.check();
    }
}

#[test]
fn reopening_works_on_a_disk_without_a_byte_left() {
    for seed in 0..6 {
        for clean in [true, false] {
            let mut w = World::new(seed, (5 << 20) + seed * 70_000);
            assert_eq!(w.fill().kind(), ErrorKind::DiskFull);
            w.disk.set_capacity(w.disk.used());
            if clean {
                // Closing wants to tell of a clean end; without room it may say that it cannot.
                if let Err(error) = w.store.close() {
                    assert_eq!(error.kind(), ErrorKind::DiskFull);
                }
            }
            for round in 0..3 {
                if clean {
                    w.disk.restart();
                } else {
                    w.disk.power_cycle(seed + round);
                }
                w.reopen();
                w.check();
            }
            w.take_away();
            w.disk.set_capacity(20 << 20);
            (0..60).for_each(|_| w.append("p0/a0").unwrap());
            w.lose_power(seed);
            w.check();
        }
    }
}

/// The recovery that makes do with the reserve may be cut short anywhere, and again.
#[test]
fn a_recovery_on_a_full_disk_may_be_cut_short_at_any_call() {
    let mut w = World::new(2, (5 << 20) + 90_000);
    assert_eq!(w.fill().kind(), ErrorKind::DiskFull);
    w.disk.set_capacity(w.disk.used());
    let full = w.disk.fork_without_power(3);
    let first = full.calls();
    let probe = full.fork();
    drop(options().open_on(&probe, DIR).unwrap());
    for (call, again) in (first..probe.calls()).zip((0..9).cycle()) {
        w.disk = full.fork();
        w.disk.crash_at(call);
        // Closing what was opened before the power failed fails too.
        let _ = options().open_on(&w.disk, DIR);
        w.disk.power_cycle(call);
        w.disk.crash_at(w.disk.calls() + again * 3);
        let _ = options().open_on(&w.disk, DIR);
        w.disk.power_cycle(call + 1);
        w.reopen();
        w.check();
    }
}

/// The call of every number in turn finds the disk full, once: outside of the log itself nothing
/// happens but `DiskFull`, and the next attempt succeeds.
#[test]
fn any_one_call_may_find_the_disk_full() {
    let workload = |w: &mut World| -> Vec<Error> {
        let mut errors = Vec::new();
        for i in 0..80 {
            if let Err(error) = w.append(&format!("p{}/a{}", i % 3, i % 7)) {
                errors.push(error);
            }
        }
        errors
    };
    let mut whole = World::new(1, 1 << 30);
    let first = whole.disk.calls();
    whole.disk.set_trace(true);
    assert!(workload(&mut whole).is_empty());
    let trace = whole.disk.take_trace();
    for (call, line) in (first..).zip(&trace) {
        // The log's own writes and syncs are all alike.
        if (line.contains(".log write") || line.contains(".log sync")) && call % 61 != 0 {
            continue;
        }
        let mut w = World::new(1, 1 << 30);
        assert_eq!(w.disk.calls(), first);
        w.disk.fail_at(call, SimFault::NoSpace, false);
        let errors = workload(&mut w);
        let of_the_log = line.contains(".log write") || line.contains("sync");
        let unknown = line.contains("rename");
        for error in &errors {
            let kind = error.kind();
            let fine = kind == ErrorKind::DiskFull && !unknown;
            let stops = matches!(kind, ErrorKind::Indeterminate | ErrorKind::Poisoned);
            assert!(fine || (stops && (of_the_log || unknown)), "{line}: {error:?}");
        }
        if errors.iter().all(|e| e.kind() == ErrorKind::DiskFull) {
            assert!(errors.len() <= 1, "{line}: {errors:?}");
            w.check();
        }
        w.disk.power_cycle(call);
        w.store = options().open_on(&w.disk, DIR).unwrap();
        for (name, (_, next)) in &w.acked {
            let view = w.store.agent(name).unwrap().view().unwrap();
            assert!(view.next_seq() >= *next, "{line}: {name}");
        }
        assert_eq!(w.store.verify().unwrap(), [], "{line}");
    }
}

/// Agents go on, die and live again, for a few segments.
fn live_and_die(w: &mut World) {
    for _ in 0..30 {
        for _ in 0..2 {
            for name in ["p1/a", "p0/a"] {
                // An attempt that finds no room may be made again.
                if let Err(error) = w.append(name) {
                    assert_eq!(error.kind(), ErrorKind::DiskFull);
                    w.append(name).unwrap();
                }
            }
        }
        w.store.forget_prefix("p1/").unwrap();
        w.acked.remove("p1/a");
        assert_eq!(w.store.agents("p1/").count(), 0);
    }
}

/// A seal that fails for want of room is tried again: meanwhile agents go on, die and live again.
#[test]
fn a_seal_that_has_to_wait_for_room_loses_nothing() {
    let mut whole = World::new(3, 1 << 30);
    let first = whole.disk.calls();
    whole.disk.set_trace(true);
    live_and_die(&mut whole);
    whole.check();
    let trace = whole.disk.take_trace();
    let calls = (first..).zip(&trace).filter(|(_, line)| line.contains("create /mem/MANIFEST.tmp"));
    let mut seals = 0;
    for (call, _) in calls {
        let mut w = World::new(3, 1 << 30);
        w.disk.fail_at(call, SimFault::NoSpace, false);
        live_and_die(&mut w);
        seals += w.store.stats().segments;
        w.check();
        w.append("p0/a").unwrap();
        w.lose_power(call);
        w.check();
    }
    assert!(seals > 8);
}

/// The same run each time: an agent fills a segment and the next one is begun, its forgetting is
/// submitted, and others fill that segment too. Gives the calls that were made, with their numbers.
fn end_a_life(faults: &[u64], check: impl FnOnce(&World, u64)) -> Vec<(u64, String)> {
    let mut w = World::new(5, 1 << 30);
    let first = w.disk.calls();
    w.disk.set_trace(true);
    faults.iter().for_each(|call| w.disk.fail_at(*call, SimFault::NoSpace, false));
    while !w.disk.files().iter().any(|path| path.ends_with("0000000000000002.log")) {
        w.append("p0/a").unwrap();
        w.check();
    }
    let entries = w.acked["p0/a"].1 - 1;
    let agent = w.store.agent("p0/a").unwrap();
    let commit = w.store.batch().forget(&agent).submit();
    // At a durability that leaves the forgetting where it is.
    let payload = vec![1; ENTRY];
    let other = w.store.agent("other").unwrap();
    for _ in 0..40 {
        let mut batch = w.store.batch();
        batch.append(&other, NewEntry::new(Kind::USER, &payload)).durability(Durability::Write);
        if batch.commit().is_err() {
            break;
        }
    }
    check(&w, entries);
    if faults.len() < 2 {
        commit.wait().unwrap();
        assert_eq!(agent.view().unwrap().next_seq(), 1);
    } else {
        assert_eq!(commit.wait().unwrap_err().kind(), ErrorKind::Indeterminate);
    }
    assert_eq!(w.store.verify().unwrap(), []);
    (first..).zip(w.disk.take_trace()).collect()
}

/// A forgetting that is under way while the segment before is sealed: until it is durable everybody
/// sees the old life, whole.
#[test]
fn a_life_about_to_end_stays_whole_through_a_late_seal() {
    let call = |trace: &[(u64, String)], what: &str, nth: usize| -> u64 {
        trace.iter().filter(|(_, line)| line.contains(what)).nth(nth).unwrap().0
    };
    // The first seal finds no room for its manifest (that of the spare comes before it). The sync
    // that follows once it was made up for, and would have made the forgetting durable, fails.
    let trace = end_a_life(&[], |_, _| {});
    let seal = call(&trace, "create /mem/MANIFEST.tmp", 1);
    let trace = end_a_life(&[seal], |_, _| {});
    let sealed = call(&trace, "0000000000000001.log punch", 0);
    let behind: Vec<_> = trace.into_iter().filter(|(at, _)| *at > sealed).collect();
    let sync = call(&behind, "0000000000000002.log sync", 0);
    end_a_life(&[seal, sync], |w, entries| {
        assert_eq!(w.store.stats().segments, 1, "the first segment was sealed late");
        let view = w.store.agent("p0/a").unwrap().view().unwrap();
        assert_eq!(view.next_seq(), entries + 1, "the forgetting is not durable yet");
        for (entry, seq) in view.iter().zip(1..) {
            assert!(entry.unwrap().payload() == World::payload("p0/a", seq));
        }
        assert_eq!(view.iter().count() as u64, entries);
    });
}

#[test]
fn bulk_at_lower_durabilities_meets_a_full_disk_without_loss_before_it() {
    for durability in [Durability::Buffer, Durability::Write] {
        let disk = SimDisk::with_capacity(4, 6 << 20);
        let store = options().durability(durability).open_on(&disk, DIR).unwrap();
        let agent = store.agent("a").unwrap();
        agent.set_retention(Some(Retention::new())).unwrap();
        let payload = vec![3; ENTRY];
        let mut next = 1;
        let error = loop {
            match agent.append(NewEntry::new(Kind::USER, &payload)) {
                Ok(seq) => assert_eq!((seq, next), (next, seq)),
                Err(error) => break error,
            }
            next += 1;
        };
        assert_eq!(error.kind(), ErrorKind::DiskFull);
        assert_eq!(agent.view().unwrap().next_seq(), next);
        store.sync().unwrap();
        disk.set_capacity(12 << 20);
        assert_eq!(agent.append(NewEntry::new(Kind::USER, &payload)).unwrap(), next);
        store.sync().unwrap();
        disk.power_cycle(1);
        let store = options().open_on(&disk, DIR).unwrap();
        assert_eq!(store.agent("a").unwrap().view().unwrap().next_seq(), next + 1);
    }
}

/// Compacts until there is nothing left to do; true if it got to its end.
fn compact(store: &Store) -> bool {
    for _ in 0..1_000 {
        match store.compact().unwrap() {
            memlog::CompactOutcome::More => {}
            outcome => return outcome == memlog::CompactOutcome::Done,
        }
    }
    panic!("compaction goes on for ever");
}

/// Whoever has filled a disk to its last byte frees it by what takes away, and by compaction: in the
/// process that filled it, in another, and after a power failure that came with the reserve used up.
#[test]
fn a_full_disk_is_freed_by_the_means_of_the_store() {
    for (seed, (half, purges, then)) in [false, true]
        .into_iter()
        .flat_map(|half| [false, true].map(|purges| (half, purges)))
        .flat_map(|(half, purges)| {
            ["same", "another", "crash", "bare"].map(|then| (half, purges, then))
        })
        .enumerate()
    {
        if half && then == "bare" {
            // Nothing can be written anew without any room.
            continue;
        }
        let what = format!("half {half}, purge {purges}, {then}");
        let mut w = World::new(seed as u64, 24 << 20);
        assert_eq!(w.fill().kind(), ErrorKind::DiskFull);
        let full = w.disk.used();
        w.disk.set_capacity(full);
        match then {
            "another" => {
                w.store.close().unwrap();
                w.reopen();
            }
            "crash" => {
                // What takes away first uses the reserve.
                w.take_away();
                w.lose_power(seed as u64);
            }
            "bare" => {
                // No reserve, and room for a manifest, but not for a segment.
                assert!(w.disk.remove_file("/mem/RESERVE"));
                assert!(w.disk.remove_file("/mem/RESERVE.open"));
                w.disk.set_capacity(w.disk.used() + (128 << 10));
            }
            _ => {}
        }
        let victims: Vec<String> = w.acked.keys().cloned().collect();
        for name in victims.iter().step_by(if half { 2 } else { 1 }) {
            w.store.agent(name).unwrap().forget().unwrap_or_else(|e| panic!("{what}: {e}"));
            w.acked.remove(name);
        }
        if purges {
            let report = w.store.purge().unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(report.is_complete(), "{what}: {report:?}");
        } else {
            assert!(compact(&w.store), "{what}: {:?}", w.store.stats());
        }
        w.check();
        let (used, lives) = (w.disk.used(), w.store.stats().live_bytes);
        assert!(used <= lives + lives / 4 + (4 << 20), "{what}: {used} bytes, {lives} live");
        // Writing goes on by itself.
        for _ in 0..50 {
            w.append("new/a").unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        w.store.close().unwrap();
        w.reopen();
        w.check();
    }
}

/// In the background too: room comes back by itself, and writing goes on.
#[test]
fn a_full_disk_is_freed_in_the_background() {
    for half in [false, true] {
        let disk = SimDisk::with_capacity(7, 24 << 20);
        let tasks = memlog::sim::SimTasks::new(&disk, 7);
        let options = Options::new().segment_bytes(1 << 20);
        let store = options.open_stepped(&disk, &tasks, DIR).unwrap();
        let append = |i: usize| {
            let agent = store.agent(&format!("{}/a", i % 10)).unwrap();
            agent.append(NewEntry::new(Kind::USER, &vec![7; ENTRY])).map(drop)
        };
        let error = (0..).find_map(|i| append(i).err()).unwrap();
        assert_eq!(error.kind(), ErrorKind::DiskFull);
        disk.set_capacity(disk.used());
        for i in (0..10).step_by(if half { 2 } else { 1 }) {
            store.forget_prefix(&format!("{i}/")).unwrap();
        }
        tasks.run_for(std::time::Duration::from_secs(300));
        let left = (0..10).filter(|i| half && i % 2 == 1).count();
        assert!(disk.used() < 9 << 20 || half && disk.used() < 17 << 20, "{} bytes", disk.used());
        assert!((0..60).all(|i| append(i).is_ok()), "no room with {left} agents left");
        store.close().unwrap();
    }
}

/// What a killed process left in the page cache may be what the medium never got, after a sync that
/// failed. On a full disk it is not copied: it is written over itself and synced.
#[test]
fn what_was_not_synced_is_written_over_itself_on_a_full_disk() {
    for attempt in 0..4 {
        let disk = SimDisk::new(attempt);
        let options = options().segment_bytes(4 << 20).durability(Durability::Write);
        let store = options.open_on(&disk, DIR).unwrap();
        let agent = store.agent("a").unwrap();
        for _ in 0..40 {
            agent.append(NewEntry::new(Kind::USER, &vec![7; 60 << 10])).unwrap();
        }
        disk.fail_at(disk.calls() + attempt, SimFault::Eio, false);
        let synced = store.sync();
        let killed = disk.fork();
        killed.restart();
        killed.set_capacity(killed.used());
        let opened = options.open_on(&killed, DIR);
        let opened = opened.unwrap_or_else(|e| panic!("sync {synced:?}, then {e}"));
        assert_eq!(opened.agent("a").unwrap().view().unwrap().next_seq(), 41);
        for seed in 0..4 {
            let after = options.open_on(&killed.fork_without_power(seed), DIR).unwrap();
            let view = after.agent("a").unwrap().view().unwrap();
            assert_eq!(view.next_seq(), 41, "attempt {attempt}, sync {synced:?}");
            assert!(view.iter().all(|entry| entry.is_ok()));
        }
    }
}

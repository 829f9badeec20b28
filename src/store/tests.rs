//! What a store promises while its disk is stopped or fails between two steps of another thread.
#![allow(clippy::unwrap_used)]

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock, mpsc};
use std::time::Duration;

use parking_lot::Mutex;

use super::gate::{Op, Stop, gated, is_log, skip_first_segment};
use crate::io::sim::SimDisk;
use crate::segment::Segment;
use crate::{
    Agent, Durability, ErrorKind, Kind, Maintenance, NewEntry, Options, Retention, Store, Verify,
};

const DIR: &str = "/mem";
/// Long enough for another thread to come to where it waits. On a slow machine a test passes then
/// without having tried anything.
const MOMENT: Duration = Duration::from_millis(200);

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual)
}

fn next(store: &Store, name: &str) -> u64 {
    store.agent(name).unwrap().view().unwrap().next_seq()
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn pause(time: Duration) {
    let (_sender, nothing) = mpsc::channel::<()>();
    let _ = nothing.recv_timeout(time);
}

#[test]
fn what_a_failed_write_took_along_is_not_acknowledged() {
    let disk = SimDisk::new(3);
    let (stop, is_writing, go) = Stop::new();
    let armed = Arc::clone(&stop);
    let io = gated(&disk, move |op, path| {
        let fails = matches!(op, Op::Write(_)) && is_log(path) && armed.pass();
        if fails { Err(broken()) } else { Ok(()) }
    });
    let store = options().open_with(io, Path::new(DIR)).unwrap();
    let agents: Vec<Agent> = ["a", "b", "c", "d"].map(|name| store.agent(name).unwrap()).into();
    let [a, b, c, d] = agents.as_slice() else { unreachable!() };
    for agent in &agents {
        agent.append(NewEntry::user("0")).unwrap();
    }
    let entry = |agent, text| {
        let mut batch = store.batch();
        batch.append(agent, NewEntry::user(text));
        batch
    };
    // The first waits for a flush, and the second's write takes it along.
    let first = entry(a, "A").submit();
    entry(b, "B").durability(Durability::Write).commit().unwrap();
    // The last waits for a flush too, and the third's write takes it along, and fails.
    let lost = entry(d, "D").submit();
    let mut third = entry(c, "C");
    stop.arm();
    let failing = std::thread::spawn(move || third.durability(Durability::Write).commit());
    is_writing.recv().unwrap();
    // The first's leader comes between.
    let leader = std::thread::spawn(move || first.wait());
    pause(MOMENT);
    go.send(()).unwrap();
    assert!(failing.join().unwrap().is_err());
    let _ = leader.join().unwrap();
    let acknowledged = lost.wait();
    let after = options().open_on(&disk.fork_without_power(9), DIR).unwrap();
    assert!(acknowledged.is_err() || next(&after, "d") == 3, "{acknowledged:?}");
}

#[test]
fn nothing_is_durable_before_the_segment_before_it_is() {
    let disk = SimDisk::new(11);
    let armed = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&armed);
    let io = gated(&disk, move |op, path| {
        let first = path.ends_with("0000000000000001.log");
        if op == Op::Sync && first && fails.load(Ordering::SeqCst) { Err(broken()) } else { Ok(()) }
    });
    let store = options().segment_bytes(256 << 10).open_with(io, Path::new(DIR)).unwrap();
    let (a, b) = (store.agent("a").unwrap(), store.agent("b").unwrap());
    armed.store(true, Ordering::SeqCst);
    let mut batch = store.batch();
    batch.append(&a, NewEntry::user("waits for a flush"));
    let waits = batch.submit();
    // Enough for the next segment, so that a flush is of both, and the sync of the first fails.
    let payload = vec![7; 60 << 10];
    for _ in 0..6 {
        let mut batch = store.batch();
        batch.append(&b, NewEntry::new(Kind::USER, &payload)).durability(Durability::Write);
        if batch.commit().is_err() {
            break;
        }
    }
    let acknowledged = waits.wait();
    assert!(acknowledged.is_err(), "{acknowledged:?}");
}

#[test]
fn a_purge_answers_for_what_was_dropped_before_it_swept() {
    let store: Arc<OnceLock<Store>> = Arc::default();
    let (purging, disk) = (Arc::new(Mutex::new(None)), SimDisk::new(13));
    let (appends_to, is_purging) = (Arc::clone(&store), Arc::clone(&purging));
    // Where the purge looks at what it has removed, an entry comes that no spare has room for: the
    // spare is dropped for a longer one.
    let io = gated(&disk, move |op, _| {
        if op == Op::List && *is_purging.lock() == Some(std::thread::current().id()) {
            let long = NewEntry::new(Kind::USER, &[7; 600 << 10]);
            appends_to.get().unwrap().agent("long").unwrap().append(long).unwrap();
        }
        Ok(())
    });
    let options = Options::new().segment_bytes(256 << 10).durability(Durability::Write);
    let store = store.get_or_init(|| options.open_with(io, Path::new(DIR)).unwrap());
    for _ in 0..20 {
        let agent = store.agent("short").unwrap();
        agent.append(NewEntry::user("gone soon")).unwrap();
        agent.forget().unwrap();
        *purging.lock() = Some(std::thread::current().id());
        let report = store.purge();
        *purging.lock() = None;
        assert_eq!(report.unwrap().agents, ["short"]);
    }
    assert!(next(store, "long") > 20);
}

#[test]
fn a_purge_whose_files_cannot_be_unlinked_names_one() {
    let (disk, armed) = (SimDisk::new(14), Arc::new(AtomicBool::new(true)));
    let fails = Arc::clone(&armed);
    let io = gated(&disk, move |op, path| {
        let stays = op == Op::Remove && is_log(path) && fails.load(Ordering::SeqCst);
        if stays { Err(broken()) } else { Ok(()) }
    });
    let store = options().open_with(io, Path::new(DIR)).unwrap();
    let agent = store.agent("a").unwrap();
    agent.append(NewEntry::user("to be gone")).unwrap();
    agent.forget().unwrap();
    let first = Path::new(DIR).join("0000000000000001.log");
    let error = store.purge().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains(&*first.to_string_lossy()), "{error}");
    assert!(disk.read_file(&first).is_some());
    armed.store(false, Ordering::SeqCst);
    store.purge().unwrap();
    assert!(disk.read_file(&first).is_none());
}

#[test]
fn a_run_that_is_not_what_was_to_be_written_replaces_nothing() {
    let disk = SimDisk::new(12);
    let (inner, armed) = (disk.clone(), Arc::new(AtomicU64::new(0)));
    let flips = Arc::clone(&armed);
    let io = gated(&disk, move |op, path| {
        let is_run = path.extension().is_some_and(|extension| extension == "run");
        if is_run && op == Op::Sync {
            // Its header is synced first, and then what was written of it.
            match flips.fetch_add(1, Ordering::SeqCst) {
                0 => {}
                _ => assert!(inner.flip_bit(path, 2_000, 3)),
            }
        }
        Ok(())
    });
    let store = options().segment_bytes(256 << 10).open_with(io, Path::new(DIR)).unwrap();
    for seq in 1..=40 {
        for name in ["a", "b", "c"] {
            let payload = vec![seq; 6_000];
            store.agent(name).unwrap().append(NewEntry::new(Kind::USER, &payload)).unwrap();
        }
    }
    let before = store.stats().segments;
    let error = loop {
        match store.compact() {
            Ok(crate::CompactOutcome::More) => {}
            other => break other.unwrap_err(),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(armed.load(Ordering::SeqCst) > 1);
    assert!(store.stats().segments >= before);
    for name in ["a", "b", "c"] {
        let view = store.agent(name).unwrap().view().unwrap();
        assert_eq!(view.iter().filter(|entry| entry.is_ok()).count(), 40);
    }
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn a_write_that_failed_is_acknowledged_to_nobody() {
    for round in 0..500 {
        let disk = SimDisk::new(round);
        let armed = Arc::new(AtomicBool::new(false));
        let fails = Arc::clone(&armed);
        let io = gated(&disk, move |op, path| {
            if matches!(op, Op::Write(_)) && is_log(path) && fails.load(Ordering::SeqCst) {
                // Long enough for the others to queue up behind the lock, with their frames.
                pause(Duration::from_micros(100));
                return Err(broken());
            }
            Ok(())
        });
        let store = options().open_with(io, Path::new(DIR)).unwrap();
        armed.store(true, Ordering::SeqCst);
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let (store, barrier) = (&store, &barrier);
                scope.spawn(move || {
                    let agent = store.agent(name).unwrap();
                    barrier.wait();
                    let mut batch = store.batch();
                    batch.append(&agent, NewEntry::user("x")).durability(Durability::Write);
                    assert!(batch.commit().is_err(), "round {round}, {name}");
                });
            }
        });
    }
}

/// Somebody appends to an agent while a prefix of it is being forgotten, and another one under it is
/// still seen to live; `before` says what had happened until then.
fn append_behind_a_forgetting(before: fn(&Store)) {
    let disk = SimDisk::new(9);
    let (stop, is_syncing, go) = Stop::new();
    let armed = Arc::clone(&stop);
    let io = gated(&disk, move |op, path| {
        if op == Op::Sync && is_log(path) {
            armed.pass();
        }
        Ok(())
    });
    let store = options().open_with(io, Path::new(DIR)).unwrap();
    before(&store);
    store.agent("p/old").unwrap().append(NewEntry::user("x")).unwrap();
    stop.arm();
    let forgetting = store.clone();
    let forgetting = std::thread::spawn(move || forgetting.forget_prefix("p/"));
    is_syncing.recv().unwrap();
    let (seen, is_seen) = mpsc::channel();
    let appending = store.clone();
    let appending = std::thread::spawn(move || {
        let new = appending.agent("p/new").unwrap();
        let mut batch = appending.batch();
        batch.append(&new, NewEntry::user("y")).durability(Durability::Buffer).commit().unwrap();
        seen.send((next(&appending, "p/new"), next(&appending, "p/old"))).unwrap();
    });
    let early = is_seen.recv_timeout(MOMENT);
    go.send(()).unwrap();
    assert_eq!(early.or_else(|_| is_seen.recv()), Ok((2, 1)));
    appending.join().unwrap();
    forgetting.join().unwrap().unwrap();
}

#[test]
fn a_new_life_behind_a_forgotten_prefix_is_not_seen_before_the_forgetting() {
    // Nothing lives under the name, nothing dies, and yet its life begins behind the forgetting.
    append_behind_a_forgetting(|_| {});
    // It is dead already of another one, of which it has not heard.
    append_behind_a_forgetting(|store| {
        store.agent("p/new").unwrap().append(NewEntry::user("x")).unwrap();
        store.forget_prefix("p/").unwrap();
    });
}

#[test]
fn a_list_of_agents_keeps_no_forgotten_one_alive() {
    let disk = SimDisk::new(10);
    let store = options().open_on(&disk, DIR).unwrap();
    store.agent("p/a").unwrap().append(NewEntry::user("x")).unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    let store = options().open_on(&disk, DIR).unwrap();
    store.forget_prefix("p/").unwrap();
    // Somebody is about to look the agent up.
    let engine = store.engine();
    let name = Arc::from("p/a");
    let resident = engine.catalog.resident(&name, engine.catalog.hash(&name), engine.progress());
    assert_eq!(store.agents("").count(), 0);
    drop(resident);
    assert_eq!(next(&store, "p/a"), 1);
}

#[test]
fn a_flush_is_for_all_that_is_queued() {
    let disk = SimDisk::new(6);
    let syncs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&syncs);
    let io = gated(&disk, move |op, path| {
        if op == Op::Sync && is_log(path) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    });
    let store = options().open_with(io, Path::new(DIR)).unwrap();
    let entry = |name| {
        let mut batch = store.batch();
        batch.append(&store.agent(name).unwrap(), NewEntry::user("x"));
        batch
    };
    // Written along with the second, so that its own flush has nothing to write for itself.
    let first = entry("a").submit();
    entry("b").durability(Durability::Write).commit().unwrap();
    let third = entry("c").submit();
    let before = syncs.load(Ordering::SeqCst);
    first.wait().unwrap();
    third.wait().unwrap();
    assert_eq!(syncs.load(Ordering::SeqCst) - before, 1);
}

#[test]
fn a_sync_that_cannot_be_confirmed_acknowledges_nothing() {
    let disk = SimDisk::new(11);
    let (armed, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (fails, counted) = (Arc::clone(&armed), Arc::clone(&asked));
    let io = gated(&disk, move |op, path| {
        let here = op == Op::Confirm && is_log(path);
        counted.fetch_add(u64::from(here), Ordering::SeqCst);
        if here && fails.load(Ordering::SeqCst) { Err(broken()) } else { Ok(()) }
    });
    let store = options().open_with(io, Path::new(DIR)).unwrap();
    skip_first_segment(&store);
    asked.store(0, Ordering::SeqCst);
    let agent = store.agent("a").unwrap();
    // A flush writes zeros ahead: for the commits that come to lie in them one answer is enough.
    for _ in 0..100 {
        agent.append(NewEntry::user("small")).unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    armed.store(true, Ordering::SeqCst);
    agent.append(NewEntry::user("in the zeros")).unwrap();
    let large = vec![7; 300 << 10];
    let error = agent.append(NewEntry::new(Kind::USER, &large)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
    assert_eq!(agent.append(NewEntry::user("x")).unwrap_err().kind(), ErrorKind::Poisoned);
}

#[test]
fn a_segment_whose_sync_failed_takes_no_frames() {
    let disk = SimDisk::new(10);
    let (failed, has_failed) = mpsc::channel();
    let (bad, zeros) = (Mutex::new(None), AtomicU64::new(0));
    let frames = Arc::new(AtomicBool::new(false));
    let came = Arc::clone(&frames);
    let io = gated(&disk, move |op, path| {
        let mut bad = bad.lock();
        if bad.as_deref() == Some(path) {
            came.fetch_or(matches!(op, Op::Write(_)), Ordering::SeqCst);
        } else if std::thread::current().name() == Some("memlog-spares") && is_log(path) {
            // The first spare is being filled: of all that it writes only zeros lie behind its head.
            zeros.fetch_add(u64::from(matches!(op, Op::Write(1..))), Ordering::SeqCst);
            if op == Op::Sync && zeros.load(Ordering::SeqCst) > 0 && bad.is_none() {
                *bad = Some(path.to_owned());
                failed.send(()).unwrap();
                return Err(broken());
            }
        }
        Ok(())
    });
    let store = Options::new().open_with(io, Path::new(DIR)).unwrap();
    let agent = store.agent("a").unwrap();
    // A flush of little: the next segments are filled with zeros.
    agent.append(NewEntry::user("x")).unwrap();
    store.engine().ask_for_a_spare();
    has_failed.recv().unwrap();
    for _ in 0..29 {
        agent.append(NewEntry::new(Kind::USER, &vec![7; 100 << 10])).unwrap();
    }
    assert!(!frames.load(Ordering::SeqCst), "frames where a sync has failed");
    store.close().unwrap();
    let after = options().open_on(&disk.fork_without_power(1), DIR).unwrap();
    assert_eq!(next(&after, "a"), 31);
}

/// Closes the store while the first segment that a filled one leaves is being sealed: the sealing
/// thread is stopped where `is_there`. Gives the disk once both are done, and the agents filled.
fn close_in_a_seal(is_there: fn(Op) -> bool) -> (SimDisk, usize) {
    let disk = SimDisk::new(4);
    let (stop, is_sealing, go) = Stop::new();
    let armed = Arc::clone(&stop);
    let io = gated(&disk, move |op, path| {
        let sealing = std::thread::current().name() == Some("sealing");
        if sealing && is_log(path) && is_there(op) {
            armed.pass();
        }
        Ok(())
    });
    let store = options().open_with(io, Path::new(DIR)).unwrap();
    skip_first_segment(&store);
    stop.arm();
    let appending = store.clone();
    let append = move || {
        let payload = vec![7; 100 << 10];
        let append = |i: &usize| {
            let agent = appending.agent(&format!("a{i}")).unwrap();
            agent.append(NewEntry::new(Kind::USER, &payload)).is_ok()
        };
        (0..12).take_while(append).count()
    };
    let filling = std::thread::Builder::new().name("sealing".into()).spawn(append).unwrap();
    is_sealing.recv().unwrap();
    let (closed, is_closed) = mpsc::channel();
    let closing = std::thread::spawn(move || closed.send(store.close()));
    if is_closed.recv_timeout(MOMENT).is_ok() {
        // Not in the middle of it, and so another process may take over, while that one goes on.
        let second = options().open_on(&disk, DIR).unwrap();
        second.agent("new").unwrap().append(NewEntry::user("by the second")).unwrap();
        go.send(()).unwrap();
        filling.join().unwrap();
        panic!("closed in the middle of a seal; then: {:?}", second.verify());
    }
    go.send(()).unwrap();
    let filled = filling.join().unwrap();
    is_closed.recv().unwrap().unwrap();
    closing.join().unwrap().unwrap();
    (disk, filled)
}

#[test]
fn closing_waits_for_a_seal_under_way() {
    let footer = |op| matches!(op, Op::Write(at) if at > 1_000_000);
    for is_there in [footer, |op| op == Op::Punch] {
        let (disk, filled) = close_in_a_seal(is_there);
        assert!(filled > 0);
        let after = options().open_on(&disk.fork_without_power(1), DIR).unwrap();
        assert_eq!(after.agents("").map(Result::unwrap).count(), filled);
        assert_eq!(after.verify().unwrap(), []);
    }
}

#[test]
fn a_segment_is_not_sealed_twice() {
    let disk = SimDisk::new(5);
    let store = options().open_on(&disk, DIR).unwrap();
    store.agent("a").unwrap().append(NewEntry::user("x")).unwrap();
    let engine = store.engine();
    engine.tend(1 << 20, false).unwrap();
    let job = {
        let mut order = engine.order.lock();
        assert!(order.switch(engine.now()));
        Arc::clone(order.sealing.front().unwrap())
    };
    engine.seal(&job).unwrap();
    assert_eq!(engine.seal(&job).unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(store.close().is_err());
    let after = options().open_on(&disk, DIR).unwrap();
    assert_eq!(next(&after, "a"), 2);
}

/// An agent of 230 small entries between large ones of another, in a sealed segment just opened.
fn scattered(options: &Options, disk: &SimDisk) -> Store {
    let store = options.open_on(disk, DIR).unwrap();
    skip_first_segment(&store);
    let (agent, other) = (store.agent("a").unwrap(), store.agent("other").unwrap());
    for i in 1..=230 {
        agent.append(NewEntry::user(&format!("{i}"))).unwrap();
        other.append(NewEntry::new(Kind::USER, &vec![1; 5000])).unwrap();
    }
    store.close().unwrap();
    options.open_on(disk, DIR).unwrap()
}

#[test]
fn only_what_is_asked_for_is_read() {
    let disk = SimDisk::new(5);
    let store = scattered(&options(), &disk);
    let view = store.agent("a").unwrap().view().unwrap();
    let segments = store.engine().catalog.segments();
    let touched = || -> usize {
        let touched =
            |s: &Segment| (0..s.capacity).step_by(32).filter(|at| s.is_touched(*at)).count();
        segments.sealed.iter().map(|segment| touched(segment)).sum()
    };
    let extent = view.snapshot.base.extents.first().unwrap();
    let (end, all) = (extent.end(), usize::try_from(extent.end() - extent.first).unwrap());
    let before = touched();
    view.get(5).unwrap().unwrap();
    assert_eq!(touched() - before, 1);
    let read = |seqs| view.snapshot.entries(end - seqs, end).map(Result::unwrap).count() as u64;
    assert_eq!(read(50), 50);
    assert_eq!((touched() - before, extent.is_verified()), (51, false));
    assert_eq!(read(150), 150);
    assert_eq!((touched() - before, extent.is_verified()), (151, false), "nor the rest of most");
    // Who reads nearly all of it is spared the bits of single records from then on.
    assert_eq!(read(180), 180);
    assert_eq!((touched() - before, extent.is_verified()), (all, true));
}

#[test]
fn openings_with_two_defaults_in_turn_leave_one_line() {
    let disk = SimDisk::new(7);
    let strict = options().retention(Retention::new().max_entries(3));
    for i in 0..20 {
        let options = if i % 2 == 0 { strict.clone() } else { options() };
        let store = options.open_on(&disk, DIR).unwrap();
        store.agent("a").unwrap().append(NewEntry::user("x")).unwrap();
        store.close().unwrap();
    }
    // Looser ones, and of another kind, leave the first in force.
    for retention in [Retention::new().max_entries(9), Retention::new().max_bytes(5)] {
        options().retention(retention).open_on(&disk, DIR).unwrap().close().unwrap();
    }
    let store = options().open_on(&disk, DIR).unwrap();
    let past: Vec<Retention> = store.engine().past_defaults.iter().map(|d| d.retention).collect();
    let entries = |most| Retention::new().max_entries(most);
    assert_eq!(past, [entries(3), entries(9), Retention::new().max_bytes(5)]);
    assert_eq!(store.agent("a").unwrap().view().unwrap().floor(), 17);
}

#[test]
fn always_means_the_offsets_too() {
    let disk = SimDisk::new(8);
    let store = scattered(&options().verify(Verify::Always), &disk);
    let view = store.agent("a").unwrap().view().unwrap();
    assert_eq!(view.get(5).unwrap().unwrap().text().unwrap(), "5");
    // The offset of seq 5 becomes that of seq 6: behind the view's back, and of a sound record.
    let extent = view.snapshot.base.extents.first().unwrap();
    let bytes = disk.read_file(extent.segment.path()).unwrap();
    let [old, new] = [5, 6].map(|seq| extent.spot(seq).unwrap().0.to_le_bytes());
    let footer_at = usize::try_from(extent.segment.trailer().unwrap().footer_at).unwrap();
    let pair = [old, new].concat();
    let footer = bytes.get(footer_at..).unwrap();
    let at = footer_at + footer.windows(8).position(|window| window == pair).unwrap();
    for (byte, (old, new)) in old.into_iter().zip(new).enumerate() {
        for bit in (0..8).filter(|bit| (old ^ new) >> bit & 1 == 1) {
            assert!(disk.flip_bit(extent.segment.path(), (at + byte) as u64, bit));
        }
    }
    assert_eq!(view.get(5).unwrap_err().kind(), ErrorKind::Damaged);
    assert!(view.range(4..7).all(|entry| entry.is_err()));
}

#[test]
fn a_full_disk_keeps_nothing_from_being_sealed_for_want_of_a_spare() {
    let disk = SimDisk::new(11);
    let store = Options::new().open_on(&disk, DIR).unwrap();
    store.agent("a").unwrap().append(NewEntry::user("x")).unwrap();
    store.engine().ask_for_a_spare();
    while store.engine().order.lock().spares.is_empty() {
        pause(Duration::from_millis(1));
    }
    // Room for a manifest, and not for a segment.
    disk.set_capacity(disk.used() + (64 << 10));
    store.engine().seal_active().unwrap();
    assert!(store.engine().order.lock().sealing.is_empty());
    store.close().unwrap();
}

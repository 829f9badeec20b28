//! Appends at `Buffer` are written in whole chunks: what lies behind the last is held back.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::gate::{Op, gated, is_log, skip_first_segment};
use crate::commit::pace::Owed;
use crate::io::sim::SimDisk;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{Durability, Kind, Maintenance, NewEntry, Options, Store};

const DIR: &str = "/mem";
/// Of a small segment.
const CHUNK: u64 = 64 << 10;
/// Lengths of entries: small ones, such as are not copied, and more than a chunk.
const LENGTHS: [usize; 7] = [10, 700, 2500, 20_000, 0, 150_000, 5000];

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual).durability(Durability::Buffer)
}

fn payload(seq: u64) -> Vec<u8> {
    let len = *LENGTHS.iter().cycle().nth(usize::try_from(seq % 7).unwrap()).unwrap();
    (0..len).map(|i| u8::try_from((seq * 31 + i as u64) % 251).unwrap()).collect()
}

fn append(store: &Store, seqs: std::ops::Range<u64>) {
    let agent = store.agent("a").unwrap();
    for seq in seqs {
        assert_eq!(agent.append(NewEntry::new(Kind::USER, &payload(seq))).unwrap(), seq);
    }
}

/// Reads everything, and gives the next seq.
fn check(store: &Store) -> u64 {
    let view = store.agent("a").unwrap().view().unwrap();
    for seq in 1..view.next_seq() {
        assert!(view.get(seq).unwrap().unwrap().payload() == payload(seq), "seq {seq}");
    }
    view.next_seq()
}

#[test]
fn buffered_appends_are_written_in_whole_chunks() {
    let disk = SimDisk::new(21);
    let offsets = Arc::new(Mutex::new(vec![]));
    let noted = Arc::clone(&offsets);
    let io = gated(&disk, move |op, path| {
        if let (Op::Write(offset), true) = (op, is_log(path)) {
            noted.lock().push(offset);
        }
        Ok(())
    });
    let store = options().open_with(io, Path::new(DIR)).unwrap();
    skip_first_segment(&store);
    offsets.lock().clear();
    append(&store, 1..16);
    let written = std::mem::take(&mut *offsets.lock());
    assert!(written.len() >= 3, "{written:?}");
    assert!(written.iter().skip(1).all(|offset| offset % CHUNK == 0), "{written:?}");
    // A reader has the rest written, and zeros behind it; after that it goes on at a multiple again.
    assert_eq!(check(&store), 16);
    assert_eq!(offsets.lock().len(), 2);
    append(&store, 16..31);
    let written = std::mem::take(&mut *offsets.lock());
    assert!(written.len() >= 4, "{written:?}");
    assert!(written.iter().skip(3).all(|offset| offset % CHUNK == 0), "{written:?}");

    // Segments begin small, and have larger chunks later.
    let filler = store.agent("filler").unwrap();
    let room = || {
        let order = store.engine().order.lock();
        order.active.segment.capacity - order.tail
    };
    while room() < 8 << 20 {
        filler.append(NewEntry::new(Kind::USER, &vec![7; 1 << 20])).unwrap();
    }
    offsets.lock().clear();
    append(&store, 31..151);
    let written = std::mem::take(&mut *offsets.lock());
    assert!(written.len() >= 5, "{written:?}");
    assert!(written.iter().skip(1).all(|offset| offset % (8 * CHUNK) == 0), "{written:?}");
    assert_eq!(check(&store), 151);
}

/// The offsets at which files of a kind are written.
fn watched(disk: &SimDisk, kind: fn(&Path) -> bool) -> (Store, Arc<Mutex<Vec<u64>>>) {
    let offsets = Arc::new(Mutex::new(vec![]));
    let noted = Arc::clone(&offsets);
    let io = gated(disk, move |op, path| {
        if let (Op::Write(offset), true) = (op, kind(path)) {
            noted.lock().push(offset);
        }
        Ok(())
    });
    let options = options().segment_bytes(16 << 20).resident_bytes(64 << 20);
    (options.open_with(io, Path::new(DIR)).unwrap(), offsets)
}

/// Where memory for a file comes slowly a large write keeps the processor for milliseconds.
#[test]
fn appenders_that_are_slowed_down_write_little_at_a_time() {
    let disk = SimDisk::new(29);
    let (store, offsets) = watched(&disk, is_log);
    let filler = store.agent("filler").unwrap();
    let active = || store.engine().order.lock().active.segment.capacity;
    while active() < 16 << 20 {
        filler.append(NewEntry::new(Kind::USER, &vec![7; 1 << 20])).unwrap();
    }
    // A large entry first: what is behind is made up for by those who come.
    let steps = |from: u64| -> Vec<u64> {
        offsets.lock().clear();
        filler.append(NewEntry::new(Kind::USER, &[7; 1 << 20])).unwrap();
        for _ in 0..1000 {
            filler.append(NewEntry::new(Kind::USER, &[7; 2500])).unwrap();
        }
        let written = std::mem::take(&mut *offsets.lock());
        assert!(written.iter().skip(1).all(|offset| offset % from == 0), "{written:?}");
        written.windows(2).skip(1).map(|pair| pair[1] - pair[0]).collect()
    };
    let large = steps(8 * CHUNK);
    assert!(large.len() > 2 && large.iter().all(|step| *step == 8 * CHUNK), "{large:?}");
    let end = store.engine().ordered_end();
    let (dead, soft, hard) = (2 << 20, 1 << 20, 4 << 20);
    let owed = Owed { dead, soft, hard, rate: 1 << 30, end, kill: 0 };
    store.engine().pace.owe(Some(owed));
    let brief = steps(CHUNK);
    assert!(brief.len() > 30 && brief.iter().all(|step| *step == CHUNK), "{brief:?}");
    store.engine().pace.owe(None);
    filler.append(NewEntry::new(Kind::USER, &[7; 2500])).unwrap();
    assert!(steps(CHUNK).contains(&(8 * CHUNK)));
}

/// What lasts is laid out for its readers, and all else for those who append meanwhile.
#[test]
fn a_run_that_does_not_last_is_written_little_at_a_time() {
    const PIECE: u64 = 128 << 10;
    let is_run = |path: &Path| path.extension().is_some_and(|extension| extension == "run");
    let steps = |dies: bool| -> Vec<u64> {
        let disk = SimDisk::new(30);
        let (store, offsets) = watched(&disk, is_run);
        skip_first_segment(&store);
        let name = |i: usize| store.agent(&format!("agent {}", i % 100)).unwrap();
        for i in 0..2200 {
            name(i).append(NewEntry::new(Kind::USER, &[7; 4000])).unwrap();
        }
        for i in 0..if dies { 100 } else { 0 } {
            name(i).truncate_before(8).unwrap();
        }
        while store.compact().unwrap() != crate::CompactOutcome::Done {}
        let written = std::mem::take(&mut *offsets.lock());
        // The header and the first piece, and at the end the rest and the footer.
        written.windows(2).skip(2).rev().skip(2).map(|pair| pair[1] - pair[0]).collect()
    };
    let (lasting, dying) = (steps(false), steps(true));
    assert!(!lasting.is_empty() && lasting.iter().all(|step| *step == 16 * PIECE), "{lasting:?}");
    assert!(dying.len() > 20 && dying.iter().all(|step| *step == PIECE), "{dying:?}");
}

#[test]
fn what_is_held_back_of_a_chunk_is_torn_off_and_read_by_whoever_asks() {
    let disk = SimDisk::new(22);
    let store = options().open_on(&disk, DIR).unwrap();
    let (mut kept, mut ends) = (0, vec![]);
    for seq in 1..40 {
        append(&store, seq..seq + 1);
        ends.push(store.engine().ordered_end());
        let written = store.engine().log.written();
        let told = ends.iter().filter(|end| **end <= written).count() as u64;
        let killed = disk.fork();
        killed.restart();
        assert_eq!(check(&options().open_on(&killed, DIR).unwrap()), told + 1);
        for crashed in [disk.fork(), disk.fork_without_power(seq)] {
            crashed.restart();
            let next = check(&options().open_on(&crashed, DIR).unwrap());
            assert!(next <= seq + 1);
            kept += next;
        }
        if seq % 5 == 0 {
            assert_eq!(check(&store), seq + 1);
            let killed = disk.fork();
            killed.restart();
            assert_eq!(check(&options().open_on(&killed, DIR).unwrap()), seq + 1);
        }
    }
    assert!(kept > 200, "hardly anything was written: {kept}");
    store.sync().unwrap();
    append(&store, 40..42);
    let crashed = disk.fork_without_power(77);
    assert!(check(&options().open_on(&crashed, DIR).unwrap()) >= 40);
    store.close().unwrap();
    assert_eq!(check(&options().open_on(&disk, DIR).unwrap()), 42);
}

/// Many frames behind the last whole chunk: they came while somebody wrote.
#[test]
fn what_came_behind_a_chunk_does_not_count_as_written() {
    // Little enough for one segment: nobody could seal it while somebody writes.
    const EACH: usize = 30;
    const MOST: usize = 5 * EACH;
    let disk = SimDisk::new(23);
    let beside = Arc::new(Mutex::new(None::<(Store, Vec<u64>)>));
    let seen = Arc::clone(&beside);
    let io = gated(&disk, move |op, path| {
        if let (Op::Write(_), true, Some(mut beside)) = (op, is_log(path), seen.try_lock())
            && let Some((store, ends)) = beside.as_mut()
            && ends.len() < MOST
        {
            let more = || {
                let agent = store.agent("b").unwrap();
                for _ in 0..EACH {
                    agent.append(NewEntry::new(Kind::USER, &payload(2))).unwrap();
                    ends.push(store.engine().ordered_end());
                }
            };
            std::thread::scope(|scope| scope.spawn(more).join()).unwrap();
        }
        Ok(())
    });
    let store = options().open_with(io, Path::new(DIR)).unwrap();
    skip_first_segment(&store);
    append(&store, 1..2);
    *beside.lock() = Some((store.clone(), vec![]));
    let read = |store: &Store| {
        let view = store.agent("b").unwrap().view().unwrap();
        assert!(view.iter().all(|entry| entry.unwrap().payload() == payload(2)));
        view.iter().count()
    };
    for seq in 2..12 {
        append(&store, seq..seq + 1);
        let written = store.engine().log.written();
        let ends = beside.lock().as_ref().map(|(_, ends)| ends.clone()).unwrap();
        let told = ends.iter().filter(|end| **end <= written).count();
        let killed = disk.fork();
        killed.restart();
        assert_eq!(read(&options().open_on(&killed, DIR).unwrap()), told);
    }
    drop(beside.lock().take());
    assert_eq!(read(&store), MOST);
}

/// Without a segment behind it the second half of the active one is used up slowly, in small steps:
/// the alternative is to stand still once it is full.
#[test]
fn appends_slow_down_before_they_have_no_room() {
    let disk = SimDisk::new(24);
    let (ready, is_ready) = mpsc::channel::<()>();
    let is_ready = Mutex::new((is_ready, false));
    let io = gated(&disk, move |op, path| {
        if op == Op::Write(0) && is_log(path) && thread::current().name() == Some("memlog-spares") {
            let mut turn = is_ready.lock();
            // The second spare comes late.
            if std::mem::replace(&mut turn.1, true) {
                let _ = turn.0.recv();
            }
        }
        Ok(())
    });
    let clock = Arc::clone(&io.clock);
    let options = options().maintenance(Maintenance::Background);
    let store = options.open_with(io, Path::new(DIR)).unwrap();
    skip_first_segment(&store);
    // Let go of before the store, whose thread waits for it.
    let ready = ready;
    let agent = store.agent("a").unwrap();
    let append = |bytes: usize| {
        let before = clock.monotonic();
        (0..bytes / 5000).for_each(|_| {
            agent.append(NewEntry::new(Kind::USER, &[7; 5000])).unwrap();
        });
        clock.monotonic() - before
    };
    assert!(append(500_000) < Duration::from_millis(1));
    let took = append(400_000);
    assert!(took > Duration::from_millis(1), "{took:?}");
    drop(ready);
    store.close().unwrap();
}

/// The longer segments take to be made, the earlier appends slow down.
#[test]
fn appends_leave_the_time_that_a_segment_takes_to_be_made() {
    const TAKES: Duration = Duration::from_millis(300);
    let disk = SimDisk::new(25);
    let clock = disk.io().clock;
    let beside = Arc::clone(&clock);
    let (ready, is_ready) = mpsc::channel::<()>();
    let turn = Mutex::new((is_ready, 0));
    let io = gated(&disk, move |op, path| {
        if op == Op::Write(0) && is_log(path) && thread::current().name() == Some("memlog-spares") {
            let mut turn = turn.lock();
            turn.1 += 1;
            if turn.1 == 1 {
                beside.sleep(TAKES);
            } else {
                let _ = turn.0.recv();
            }
        }
        Ok(())
    });
    let store = options().maintenance(Maintenance::Background).open_with(io, Path::new(DIR));
    let store = store.unwrap();
    // Let go of before the store, whose thread waits for it.
    let ready = ready;
    let engine = store.engine();
    engine.ask_for_a_spare();
    while engine.order.lock().spares.is_empty() {
        thread::yield_now();
    }
    let agent = store.agent("a").unwrap();
    let append = || agent.append(NewEntry::new(Kind::USER, &[7; 500])).map(drop).unwrap();
    while !engine.order.lock().spares.is_empty() {
        append();
    }
    let used = || {
        let order = engine.order.lock();
        order.tail * 100 / order.active.segment.capacity
    };
    while used() < 50 {
        append();
    }
    let before = clock.monotonic();
    // The footer needs some of it too.
    while used() < 85 {
        append();
    }
    let took = clock.monotonic() - before;
    assert!(took > TAKES / 3, "{took:?}");
    drop(ready);
    store.close().unwrap();
}

/// A segment that was full is no reason for smaller ones, however much larger its successors are.
#[test]
fn segments_that_fill_up_fast_only_get_larger() {
    let disk = SimDisk::new(26);
    let store = options().segment_bytes(8 << 20).open_on(&disk, DIR).unwrap();
    let agent = store.agent("a").unwrap();
    let mut sizes = vec![];
    for _ in 0..40 {
        agent.append(NewEntry::new(Kind::USER, &vec![7; 1 << 20])).unwrap();
        let capacity = store.engine().order.lock().active.segment.capacity;
        if sizes.last() != Some(&capacity) {
            sizes.push(capacity);
        }
    }
    assert!(sizes.is_sorted() && sizes.ends_with(&[8 << 20]), "{sizes:?}");
}

/// What came while a write was held up is written a piece at a time: no append pays for all of it.
#[test]
fn a_backlog_is_written_in_pieces_by_those_who_come() {
    const PIECE: u64 = 512 << 10;
    let disk = SimDisk::new(27);
    let (stuck, is_stuck) = mpsc::channel::<()>();
    let (free, is_free) = mpsc::channel::<()>();
    let hold = Arc::new(Mutex::new(None));
    let offsets = Arc::new(Mutex::new(vec![]));
    let (held, noted) = (Arc::clone(&hold), Arc::clone(&offsets));
    let io = gated(&disk, move |op, path| {
        if let (Op::Write(offset), true) = (op, is_log(path)) {
            noted.lock().push(offset);
            if let Some(is_free) = held.lock().take() {
                let is_free: mpsc::Receiver<()> = is_free;
                let _ = (stuck.send(()), is_free.recv());
            }
        }
        Ok(())
    });
    let store = options().open_with(io, Path::new(DIR)).unwrap();
    let append = |store: &Store, name: &str, bytes: usize| {
        let agent = store.agent(name).unwrap();
        agent.append(NewEntry::new(Kind::USER, &vec![7; bytes])).unwrap();
    };
    let room = |store: &Store| {
        let order = store.engine().order.lock();
        order.active.segment.capacity - order.tail
    };
    // A frame that is longer than all that may be queued is written by who brings it.
    while room(&store) < 40 << 20 {
        append(&store, "filler", 9 << 20);
        assert!(store.engine().ordered_end() - store.engine().log.written() <= 8 << 20);
    }
    *hold.lock() = Some(is_free);
    thread::scope(|scope| {
        let slow = scope.spawn(|| append(&store, "slow", 700 << 10));
        is_stuck.recv().unwrap();
        // Nobody waits for it, in less time than a test may take.
        let (done, is_done) = mpsc::channel();
        let (store, append) = (&store, &append);
        scope.spawn(move || {
            (0..50).for_each(|_| append(store, "quick", 100 << 10));
            done.send(()).unwrap();
        });
        let quick = is_done.recv_timeout(Duration::from_secs(60));
        free.send(()).unwrap();
        slow.join().unwrap();
        quick.unwrap();
    });
    let backlog = || store.engine().ordered_end() - store.engine().log.written();
    assert!(backlog() > 3 * PIECE, "{}", backlog());
    offsets.lock().clear();
    let mut appends = 0;
    while backlog() > PIECE {
        append(&store, "next", 10);
        appends += 1;
    }
    // Each write begins where the one before it ends.
    let offsets = std::mem::take(&mut *offsets.lock());
    assert!(appends >= 3 && offsets.len() == appends, "{appends} appends, writes at {offsets:?}");
    assert!(offsets.windows(2).all(|pair| pair[1] - pair[0] <= PIECE), "{offsets:?}");
    assert_eq!(store.agent("quick").unwrap().view().unwrap().iter().flatten().count(), 50);
}

/// What comes while a flush waits for its turn may be cut in the middle of a frame. The zeros ahead of
/// small groups are not written over the beginning of that frame.
#[test]
fn a_flush_that_cuts_a_frame_leaves_its_beginning_alone() {
    let disk = SimDisk::new(28);
    let (stuck, is_stuck) = mpsc::channel::<()>();
    let (free, is_free) = mpsc::channel::<()>();
    let hold = Arc::new(Mutex::new(None::<mpsc::Receiver<()>>));
    let held = Arc::clone(&hold);
    let io = gated(&disk, move |op, path| {
        if let (Op::Write(_), true) = (op, is_log(path))
            && let Some(is_free) = held.lock().take()
        {
            let _ = (stuck.send(()), is_free.recv());
        }
        Ok(())
    });
    let store = options().open_with(io, Path::new(DIR)).unwrap();
    let append = |name: &str, bytes: usize, durability: Durability| {
        let agent = store.agent(name).unwrap();
        let mut batch = store.batch();
        batch.append(&agent, NewEntry::new(Kind::USER, &vec![7; bytes])).durability(durability);
        batch.commit().unwrap();
    };
    let room = || {
        let order = store.engine().order.lock();
        order.active.segment.capacity - order.tail
    };
    while room() < 20 << 20 {
        append("filler", 9 << 20, Durability::Buffer);
    }
    store.sync().unwrap();
    *hold.lock() = Some(is_free);
    thread::scope(|scope| {
        scope.spawn(|| append("first", 10, Durability::Write));
        is_stuck.recv().unwrap();
        let before = store.engine().ordered_end();
        let flush = scope.spawn(|| append("flushed", 10, Durability::Sync));
        while store.engine().ordered_end() == before {
            thread::yield_now();
        }
        // For the writer's lock: there is nothing to tell that somebody waits for it.
        let _ = is_stuck.recv_timeout(Duration::from_millis(100));
        append("cut", 900 << 10, Durability::Buffer);
        free.send(()).unwrap();
        flush.join().unwrap();
    });
    store.sync().unwrap();
    let view = store.agent("cut").unwrap().view().unwrap();
    let entry = view.iter().next().unwrap().unwrap();
    assert!(entry.payload().iter().all(|byte| *byte == 7));
}

/// Memory for the file is got for many small writes at once, by zeros; a large one gets its own.
#[test]
fn small_writes_find_zeros_where_they_go() {
    let disk = SimDisk::new(29);
    let writes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&writes);
    let io = gated(&disk, move |op, path| {
        let here = matches!(op, Op::Write(_)) && is_log(path);
        counted.fetch_add(u64::from(here), Ordering::SeqCst);
        Ok(())
    });
    let store = options().open_with(io, Path::new(DIR)).unwrap();
    skip_first_segment(&store);
    let agent = store.agent("a").unwrap();
    let append = |bytes: usize| {
        let mut batch = store.batch();
        batch.append(&agent, NewEntry::new(Kind::USER, &vec![7; bytes]));
        batch.durability(Durability::Write).commit().unwrap();
        writes.swap(0, Ordering::SeqCst)
    };
    append(2000);
    let zeros: u64 = (0..100).map(|_| append(2000) - 1).sum();
    assert!((2..=4).contains(&zeros), "{zeros} writes of zeros for 200 KiB");
    assert_eq!(append(60 << 10), 1, "what is large needs no zeros");
    let view = agent.view().unwrap();
    let entries = view.iter().map(Result::unwrap);
    assert_eq!(entries.filter(|e| e.payload().iter().all(|b| *b == 7)).count(), 102);
}

/// Sixty-four turns in one flush are a quarter faster on blocks that hold zeros; larger ones are not.
#[test]
fn groups_of_many_turns_ask_for_filled_segments() {
    let disk = SimDisk::new(31);
    let (store, _) = watched(&disk, is_log);
    let agent = store.agent("a").unwrap();
    let asks = |bytes: usize| {
        let mut batch = store.batch();
        batch.append(&agent, NewEntry::new(Kind::USER, &vec![7; bytes]));
        batch.durability(Durability::Sync).commit().unwrap();
        store.engine().log.takes_small_groups()
    };
    assert!(asks(2500) && asks(160_000));
    assert!(!asks(300_000) && asks(2500));
}

//! Background tasks, and calls beside them, at moments that a test picks.
#![allow(clippy::unwrap_used)]

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::task::{Context, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::gate::{Op, Stop, gated, is_log};
use crate::io::sim::{SimDisk, SimTasks};
use crate::io::tasks::Step;
use crate::io::{Clock, Io, Task, Tasks};
use crate::sync::Notify;
use crate::{Commit, Durability, ErrorKind, Kind, Maintenance, NewEntry, Options, Store};

const DIR: &str = "/mem";
const SECOND: Duration = Duration::from_secs(1);
/// Long enough for another thread to come to where it waits.
const MOMENT: Duration = Duration::from_millis(200);

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn manual() -> Options {
    Options::new().maintenance(Maintenance::Manual)
}

fn payload(len: usize) -> Vec<u8> {
    vec![7; len]
}

/// Handles of which no task of that name starts.
struct Refusing(Arc<dyn Tasks>, &'static str);

struct Refused(Arc<dyn Task>);

impl Tasks for Refusing {
    fn make(&self, name: &'static str) -> Arc<dyn Task> {
        let task = self.0.make(name);
        if name == self.1 { Arc::new(Refused(task)) } else { task }
    }

    fn wait(&self, on: &Notify, seen: u64, at_most: Option<Duration>) {
        self.0.wait(on, seen, at_most);
    }

    fn pause(&self, clock: &dyn Clock, time: Duration) {
        self.0.pause(clock, time);
    }
}

impl Task for Refused {
    fn start(&self, _step: Step) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn start_asleep(&self, step: Step) {
        self.0.start_asleep(step);
    }

    fn wake(&self) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn end(&self) {
        self.0.end();
    }

    fn is_current(&self) -> bool {
        self.0.is_current()
    }

    fn is_over(&self) -> bool {
        self.0.is_over()
    }

    fn ends(&self) -> &Notify {
        self.0.ends()
    }
}

fn refusing(disk: &SimDisk, name: &'static str) -> Io {
    let io = disk.io();
    Io { tasks: Arc::new(Refusing(Arc::clone(&io.tasks), name)), ..io }
}

#[test]
fn a_store_whose_threads_cannot_be_started_does_not_open() {
    let disk = SimDisk::new(1);
    // Something is sealed, so that there may be work.
    let store = manual().open_on(&disk, DIR).unwrap();
    store.agent("a").unwrap().append(NewEntry::user("x")).unwrap();
    store.engine().seal_active().unwrap();
    store.close().unwrap();
    let io = refusing(&disk, "memlog-compact");
    let error = Options::new().open_with(io, Path::new(DIR)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("thread"), "{error}");
    // Nothing of it goes on, and nothing holds the directory.
    Options::new().open_on(&disk, DIR).unwrap().close().unwrap();
}

/// Threads that are started when there is work may not be had then: the log is written and synced by
/// the calls, and one that needs another segment says what is missing.
#[test]
fn work_whose_thread_cannot_be_started_is_done_by_calls_or_reported() {
    let disk = SimDisk::new(2);
    let store = Options::new().open_with(refusing(&disk, "memlog-log"), Path::new(DIR)).unwrap();
    let agent = store.agent("a").unwrap();
    for durability in [Durability::Buffer, Durability::Write, Durability::Sync] {
        let mut batch = store.batch();
        batch.append(&agent, NewEntry::user("x")).durability(durability);
        let commit = batch.submit();
        assert_eq!(store.stats().unsynced_bytes, 0, "{durability:?}");
        let mut commit = std::pin::pin!(commit);
        let ready = commit.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(ready.is_ready(), "{durability:?} waits for a thread");
    }
    store.close().unwrap();

    let store = Options::new().open_with(refusing(&disk, "memlog-spares"), Path::new(DIR)).unwrap();
    let agent = store.agent("a").unwrap();
    let fill = || {
        (0..100)
            .try_for_each(|_| agent.append(NewEntry::new(Kind::USER, &payload(10_000))).map(drop))
    };
    let error = fill().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("thread"), "{error}");
    assert!(store.health().last_error.is_some());
    store.close().unwrap();
    Options::new().open_on(&disk, DIR).unwrap().close().unwrap();
}

fn close_twice(fails: bool) {
    let disk = SimDisk::new(3);
    let (stop, is_syncing, go) = Stop::new();
    let armed = Arc::clone(&stop);
    let io = gated(&disk, move |op, path| {
        if op == Op::Sync && is_log(path) && armed.is_armed() {
            armed.pass();
            return if fails { Err(broken()) } else { Ok(()) };
        }
        Ok(())
    });
    let store = manual().open_with(io, Path::new(DIR)).unwrap();
    let agent = store.agent("a").unwrap();
    let mut batch = store.batch();
    batch.append(&agent, NewEntry::user("x")).durability(Durability::Buffer).commit().unwrap();
    stop.arm();
    let close = |store: &Store| {
        let (store, (closed, is_closed)) = (store.clone(), mpsc::channel());
        let thread = std::thread::spawn(move || closed.send(store.close()));
        (thread, is_closed)
    };
    let (first, first_closed) = close(&store);
    is_syncing.recv().unwrap();
    let (second, second_closed) = close(&store);
    let early = second_closed.recv_timeout(MOMENT);
    go.send(()).unwrap();
    assert!(early.is_err(), "a second close answered {early:?} before the first had flushed");
    let [first_outcome, second_outcome] =
        [first_closed, second_closed].map(|closed| closed.recv().unwrap());
    assert_eq!(first_outcome.is_err(), fails, "{first_outcome:?}");
    assert_eq!(first_outcome.map_err(|e| e.kind()), second_outcome.map_err(|e| e.kind()));
    assert_eq!(store.close().is_err(), fails, "and so does any later one");
    first.join().unwrap().unwrap();
    second.join().unwrap().unwrap();
}

#[test]
fn a_second_close_waits_for_the_first_and_answers_the_same() {
    close_twice(false);
    close_twice(true);
}

/// A batch at `Write` is submitted while the log task flushes for another one: the request is for
/// its next turn, and is not taken for one that this turn has seen to.
#[test]
fn a_request_to_write_that_comes_during_a_turn_is_not_lost() {
    let disk = SimDisk::new(5);
    let tasks = SimTasks::new(&disk, 6);
    let store: Arc<OnceLock<Store>> = Arc::default();
    let (armed, submitted) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
    let (handle, arms, keeps) = (Arc::clone(&store), Arc::clone(&armed), Arc::clone(&submitted));
    let io = gated(&disk, move |op, path| {
        if op == Op::Sync && is_log(path) && arms.swap(false, Ordering::SeqCst) {
            let store = handle.get().unwrap();
            let agent = store.agent("b").unwrap();
            let mut batch = store.batch();
            batch.append(&agent, NewEntry::user("y")).durability(Durability::Write);
            *keeps.lock() = Some(batch.submit());
        }
        Ok(())
    });
    let io = Io { tasks: tasks.io(&disk).tasks, ..io };
    let hour = SECOND * 3600;
    let options = Options::new().flush_interval(hour).sync_interval(hour);
    let store = store.get_or_init(|| options.open_with(io, Path::new(DIR)).unwrap());
    tasks.run_for(SECOND);
    let agent = store.agent("a").unwrap();
    let mut batch = store.batch();
    batch.append(&agent, NewEntry::user("x")).durability(Durability::Sync);
    let mut first = batch.submit();
    armed.store(true, Ordering::SeqCst);
    tasks.run_for(SECOND);
    let is_done = |commit: &mut Commit| {
        Pin::new(commit).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    };
    assert!(is_done(&mut first));
    let mut second = submitted.lock().take().unwrap();
    assert!(is_done(&mut second), "the batch waits for flush_interval");
    store.close().unwrap();
}

/// A sweep of obsolete files in a call is at work on the manifest: a close waits for it.
#[test]
fn closing_waits_for_a_sweep_under_way() {
    let disk = SimDisk::new(7);
    let (stop, is_sweeping, go) = Stop::new();
    let (armed, stays) = (Arc::clone(&stop), Arc::new(AtomicBool::new(true)));
    let fails = Arc::clone(&stays);
    let io = gated(&disk, move |op, path| {
        if op == Op::Remove && is_log(path) && fails.load(Ordering::SeqCst) {
            return Err(broken());
        }
        if op == Op::List {
            armed.pass();
        }
        Ok(())
    });
    let store = manual().open_with(io, Path::new(DIR)).unwrap();
    let agent = store.agent("a").unwrap();
    agent.append(NewEntry::user("x")).unwrap();
    agent.forget().unwrap();
    assert!(store.purge().is_err(), "a file that cannot be unlinked is left to be swept");
    stays.store(false, Ordering::SeqCst);
    stop.arm();
    let appending = store.clone();
    let filling = std::thread::spawn(move || {
        let agent = appending.agent("b").unwrap();
        let append =
            |_: &usize| agent.append(NewEntry::new(Kind::USER, &payload(100 << 10))).is_ok();
        (0..40).take_while(append).count()
    });
    is_sweeping.recv().unwrap();
    let (closed, is_closed) = mpsc::channel();
    let closing = std::thread::spawn(move || closed.send(store.close()));
    let early = is_closed.recv_timeout(MOMENT);
    go.send(()).unwrap();
    let filled = filling.join().unwrap();
    assert!(early.is_err(), "closed in the middle of a sweep");
    is_closed.recv().unwrap().unwrap();
    closing.join().unwrap().unwrap();
    let after = manual().open_on(&disk, DIR).unwrap();
    assert_eq!(after.verify().unwrap(), []);
    assert_eq!(after.agent("b").unwrap().view().unwrap().next_seq(), filled as u64 + 1);
}

/// Compacts a store at a low rate, and stops that at the pause of that number. Gives the bytes that
/// reached the disk from then on, and the simulated time.
fn stopped_at(pause: u64, fill: impl Fn(&Store)) -> (u64, Duration) {
    let disk = SimDisk::new(9);
    let tasks = SimTasks::new(&disk, 10);
    let options = Options::new().durability(Durability::Buffer).compaction_rate(1 << 20);
    let store = options.open_stepped(&disk, &tasks, DIR).unwrap();
    fill(&store);
    let stopped: Arc<Mutex<Option<(Duration, u64)>>> = Arc::default();
    let (handle, at, clock, medium) =
        (store.clone(), Arc::clone(&stopped), tasks.clone(), disk.clone());
    let mut pauses = 0;
    tasks.on_pause(move |_| {
        pauses += 1;
        if pauses == pause {
            // As the beginning of a close does; the rest of it cannot run within a step.
            handle.0.compactor.stop();
            *at.lock() = Some((clock.now(), medium.device_bytes_written()));
        }
    });
    while tasks.names().contains(&"memlog-compact") {
        tasks.run_for(SECOND / 50);
        assert!(tasks.now() < SECOND * 600, "it compacts");
    }
    tasks.on_pause(|_| {});
    let (since, bytes) = stopped.lock().take().unwrap();
    (disk.device_bytes_written() - bytes, tasks.now() - since)
}

#[test]
fn compaction_of_a_large_agent_stops_soon() {
    let fill = |store: &Store| {
        let [agent, dead] = ["large", "dead"].map(|name| store.agent(name).unwrap());
        for _ in 0..10 * 64 {
            agent.append(NewEntry::new(Kind::USER, &payload(16 << 10))).unwrap();
            dead.append(NewEntry::new(Kind::USER, &payload(18 << 10))).unwrap();
        }
        dead.forget().unwrap();
        store.agent("next").unwrap().append(NewEntry::user("x")).unwrap();
    };
    for pause in [1, 10, 25] {
        let (bytes, time) = stopped_at(pause, fill);
        assert!(bytes <= 1 << 20, "{bytes} bytes were written after the stop");
        assert!(time <= SECOND / 10, "it took {time:?} to stop");
    }
}

//! Ideal group commits: nothing but a shared buffer, one write and one flush for all who came.
//!
//! Three ways to wait for the flush, since which is best depends on the machine and on how many
//! wait; the best of them is the limit.

use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::Thread;

use crate::common::limits::ZeroFile;
use crate::common::{Run, crew};

/// How the followers of a leader wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// All on one condition variable.
    Condvar,
    /// Each parked by itself; the leader hands on the lead before it wakes the others.
    Park,
    /// Each group on an event of its own, which one call sets off.
    Event,
}

pub(crate) const WAYS: [Waiting; 3] = [Waiting::Condvar, Waiting::Park, Waiting::Event];

/// `threads` threads commit `bytes` at a time, in groups.
pub(crate) fn commits(
    file: &ZeroFile,
    way: Waiting,
    bytes: &[u8],
    threads: usize,
    ops: u64,
) -> Run {
    match way {
        Waiting::Condvar => {
            let group = OnCondvar::new(file);
            crew(threads, ops, |_, _| group.commit(bytes))
        }
        Waiting::Park => {
            let group = OnPark::new(file);
            crew(threads, ops, |_, _| group.commit(bytes))
        }
        Waiting::Event => {
            let group = OnEvent::new(file);
            crew(threads, ops, |_, _| group.commit(bytes))
        }
    }
}

fn buffer() -> Vec<u8> {
    Vec::with_capacity(1 << 20)
}

struct OnCondvar<'f> {
    file: &'f ZeroFile,
    state: Mutex<CondvarState>,
    flushed: Condvar,
}

struct CondvarState {
    filling: Vec<u8>,
    spare: Vec<u8>,
    end: u64,
    durable: u64,
    leading: bool,
}

impl<'f> OnCondvar<'f> {
    fn new(file: &'f ZeroFile) -> Self {
        let (filling, spare) = (buffer(), buffer());
        let state = CondvarState { filling, spare, end: 0, durable: 0, leading: false };
        OnCondvar { file, state: Mutex::new(state), flushed: Condvar::new() }
    }

    fn commit(&self, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.filling.extend_from_slice(bytes);
        state.end += bytes.len() as u64;
        let mine = state.end;
        while state.durable < mine {
            if state.leading {
                state = self.flushed.wait(state).unwrap();
                continue;
            }
            state.leading = true;
            let empty = std::mem::take(&mut state.spare);
            let mut group = std::mem::replace(&mut state.filling, empty);
            let end = state.end;
            drop(state);
            self.file.write(&group);
            self.file.flush();
            group.clear();
            state = self.state.lock().unwrap();
            state.spare = group;
            state.durable = end;
            state.leading = false;
            self.flushed.notify_all();
        }
    }
}

struct OnPark<'f> {
    file: &'f ZeroFile,
    state: Mutex<ParkState>,
}

struct ParkState {
    filling: Vec<u8>,
    spare: Vec<u8>,
    waiting: Vec<Waiter>,
    no_waiters: Vec<Waiter>,
    leading: bool,
}

/// Somebody who waits, and what became of it.
struct Waiter {
    thread: Thread,
    fate: Arc<OnceLock<Fate>>,
}

#[derive(Clone, Copy)]
enum Fate {
    Durable,
    Lead,
}

impl<'f> OnPark<'f> {
    fn new(file: &'f ZeroFile) -> Self {
        let state = ParkState {
            filling: buffer(),
            spare: buffer(),
            waiting: Vec::new(),
            no_waiters: Vec::new(),
            leading: false,
        };
        OnPark { file, state: Mutex::new(state) }
    }

    fn commit(&self, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.filling.extend_from_slice(bytes);
        if state.leading {
            let fate = Arc::new(OnceLock::new());
            let thread = std::thread::current();
            state.waiting.push(Waiter { thread, fate: Arc::clone(&fate) });
            drop(state);
            loop {
                match fate.get() {
                    Some(Fate::Durable) => return,
                    Some(Fate::Lead) => break,
                    None => std::thread::park(),
                }
            }
            state = self.state.lock().unwrap();
        }
        state.leading = true;
        let empty = std::mem::take(&mut state.spare);
        let mut group = std::mem::replace(&mut state.filling, empty);
        let nobody = std::mem::take(&mut state.no_waiters);
        let mut followers = std::mem::replace(&mut state.waiting, nobody);
        drop(state);
        self.file.write(&group);
        self.file.flush();
        group.clear();
        self.hand_on(group);
        for follower in followers.drain(..) {
            let _ = follower.fate.set(Fate::Durable);
            follower.thread.unpark();
        }
        self.state.lock().unwrap().no_waiters = followers;
    }

    fn hand_on(&self, empty: Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        state.spare = empty;
        // The next leader is not among those whom it wakes.
        let Some(next) = state.waiting.pop() else {
            state.leading = false;
            return;
        };
        drop(state);
        let _ = next.fate.set(Fate::Lead);
        next.thread.unpark();
    }
}

struct OnEvent<'f> {
    file: &'f ZeroFile,
    state: Mutex<EventState>,
}

struct EventState {
    filling: Vec<u8>,
    spare: Vec<u8>,
    /// Set when the group that fills now is durable.
    event: Arc<OnceLock<()>>,
    /// That of the group before it.
    before: Arc<OnceLock<()>>,
}

impl<'f> OnEvent<'f> {
    fn new(file: &'f ZeroFile) -> Self {
        let state = EventState {
            filling: buffer(),
            spare: buffer(),
            event: Arc::default(),
            before: Arc::new(OnceLock::from(())),
        };
        OnEvent { file, state: Mutex::new(state) }
    }

    fn commit(&self, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let leads = state.filling.is_empty();
        state.filling.extend_from_slice(bytes);
        let (mine, before) = (Arc::clone(&state.event), Arc::clone(&state.before));
        drop(state);
        if !leads {
            mine.wait();
            return;
        }
        // The first of a group leads it, once the group before it is durable.
        before.wait();
        let mut state = self.state.lock().unwrap();
        let empty = std::mem::take(&mut state.spare);
        let mut group = std::mem::replace(&mut state.filling, empty);
        state.before = std::mem::take(&mut state.event);
        drop(state);
        self.file.write(&group);
        self.file.flush();
        group.clear();
        self.state.lock().unwrap().spare = group;
        let _ = mine.set(());
    }
}

//! Background work as tasks: each is a step function that does one bounded piece of work and says
//! when it is to be called again. On a real system a task has a thread of its own; a simulation
//! runs the steps of all tasks itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Clock;
use crate::sync::{Condvar, Mutex, Notify, OnceLock, thread};

/// What comes after a step of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another step, at once.
    Again,
    /// Another step after this time, or when the task is woken.
    After(Duration),
    /// Another step when the task is woken.
    Asleep,
    /// Nothing: the task is over.
    Ended,
}

/// The step function of a task. It is dropped when the task is over.
pub(crate) type Step = Box<dyn FnMut() -> Next + Send>;

/// What runs the tasks of a store, and what its calls wait through.
pub(crate) trait Tasks: Send + Sync {
    /// Makes a task, which has to be started.
    fn make(&self, name: &'static str) -> Arc<dyn Task>;

    /// Waits until `on` has counted more changes than `seen`, or for `at_most`. May return early: a
    /// caller looks at what it waits for again. A simulation runs other tasks meanwhile.
    fn wait(&self, on: &Notify, seen: u64, at_most: Option<Duration>);

    /// Lets time pass. A simulation runs other tasks meanwhile.
    fn pause(&self, clock: &dyn Clock, time: Duration);
}

/// One task of a store.
pub(crate) trait Task: Send + Sync {
    /// Starts the task with a first step. A task is started once.
    ///
    /// # Errors
    /// What kept the system from starting a thread. The task is over then.
    fn start(&self, step: Step) -> io::Result<()>;

    /// Has the task do another step. A wake that comes during a step is good for the next one.
    fn wake(&self);

    /// Whether the caller runs within a step of this task.
    fn is_current(&self) -> bool;

    /// Whether there will be no other step. A task that was not started counts as over.
    fn is_over(&self) -> bool;

    /// Changes when the task is over.
    fn ends(&self) -> &Notify;
}

/// Waits until a task is over; not within a step of that task.
pub(crate) fn join(tasks: &dyn Tasks, task: &dyn Task) {
    loop {
        let seen = task.ends().seen();
        if task.is_over() || task.is_current() {
            return;
        }
        tasks.wait(task.ends(), seen, None);
    }
}

/// Tasks with a thread each.
pub(crate) struct Threads;

impl Tasks for Threads {
    fn make(&self, name: &'static str) -> Arc<dyn Task> {
        let shared = Shared { name, ..Shared::default() };
        Arc::new(ThreadTask(Arc::new(shared)))
    }

    fn wait(&self, on: &Notify, seen: u64, at_most: Option<Duration>) {
        on.block(seen, at_most);
    }

    fn pause(&self, clock: &dyn Clock, time: Duration) {
        clock.sleep(time);
    }
}

struct ThreadTask(Arc<Shared>);

#[derive(Default)]
struct Shared {
    name: &'static str,
    state: Mutex<State>,
    woken: Condvar,
    thread: OnceLock<thread::ThreadId>,
    ends: Notify,
}

#[derive(Default)]
struct State {
    woken: bool,
    running: bool,
}

impl Task for ThreadTask {
    fn start(&self, step: Step) -> io::Result<()> {
        self.0.state.lock().running = true;
        let shared = Arc::clone(&self.0);
        let started = thread::Builder::new().name(self.0.name.into()).spawn(move || {
            let _ = shared.thread.set(thread::current().id());
            // Even if a step unwinds, which those of the store do not.
            let _over = Over(&shared);
            shared.run(step);
        });
        if started.is_err() {
            self.0.state.lock().running = false;
        }
        // The thread is not joined by its handle: a task that is over has dropped its step, and
        // touches nothing of the store any more.
        started.map(drop)
    }

    fn wake(&self) {
        self.0.state.lock().woken = true;
        self.0.woken.notify_one();
    }

    fn is_current(&self) -> bool {
        self.0.thread.get().is_some_and(|id| *id == thread::current().id())
    }

    fn is_over(&self) -> bool {
        !self.0.state.lock().running
    }

    fn ends(&self) -> &Notify {
        &self.0.ends
    }
}

impl Shared {
    fn run(&self, mut step: Step) {
        loop {
            let next = step();
            let mut state = self.state.lock();
            if !state.woken {
                match next {
                    Next::Again | Next::Ended => {}
                    Next::After(time) => {
                        self.woken.wait_for(&mut state, time);
                    }
                    Next::Asleep => {
                        while !state.woken {
                            self.woken.wait(&mut state);
                        }
                    }
                }
            }
            state.woken = false;
            if next == Next::Ended {
                return;
            }
        }
    }
}

/// Notes that a task is over. Its step has been dropped by then.
struct Over<'s>(&'s Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running = false;
        self.0.ends.notify();
    }
}

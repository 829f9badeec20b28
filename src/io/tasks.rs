//! Background work as tasks: each is a step function that does one bounded piece of work and says
//! when it is to be called again. On a real system a task has a thread of its own while it has work,
//! and for a while after; a simulation runs the steps of all tasks itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Clock;
use crate::sync::{Condvar, Mutex, Notify, thread};

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

    /// Starts the task asleep: its first step comes when it is woken.
    fn start_asleep(&self, step: Step);

    /// Has the task do another step. A wake that comes during a step is good for the next one.
    ///
    /// # Errors
    /// What kept the system from starting a thread for it. The next wake tries again.
    fn wake(&self) -> io::Result<()>;

    /// Ends the task: at once if it sleeps, else a step that finds out has to say so.
    fn end(&self);

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
pub(crate) struct Threads {
    /// How long the thread of a task that sleeps waits for more work before it ends.
    linger: Duration,
}

impl Default for Threads {
    fn default() -> Self {
        Threads { linger: LINGER }
    }
}

impl Tasks for Threads {
    fn make(&self, name: &'static str) -> Arc<dyn Task> {
        let shared = Shared { name, linger: self.linger, ..Shared::default() };
        Arc::new(ThreadTask(Arc::new(shared)))
    }

    fn wait(&self, on: &Notify, seen: u64, at_most: Option<Duration>) {
        on.block(seen, at_most);
    }

    fn pause(&self, clock: &dyn Clock, time: Duration) {
        clock.sleep(time);
    }
}

/// To start a thread takes some 50 us; a sleeping one holds a stack and three maps.
const LINGER: Duration = Duration::from_secs(10);

struct ThreadTask(Arc<Shared>);

#[derive(Default)]
struct Shared {
    name: &'static str,
    linger: Duration,
    state: Mutex<State>,
    woken: Condvar,
    ends: Notify,
}

#[derive(Default)]
struct State {
    woken: bool,
    /// The task is not over.
    running: bool,
    /// A thread was started for it, and has not ended.
    has_thread: bool,
    /// That thread, once it runs.
    thread: Option<thread::ThreadId>,
    /// `None` during a step.
    step: Option<Step>,
}

impl ThreadTask {
    fn register(&self, step: Step, woken: bool) {
        let mut state = self.0.state.lock();
        (state.running, state.woken) = (true, woken);
        state.step = Some(step);
    }

    /// Starts a thread for a task that has none and was woken.
    fn serve(&self) -> io::Result<()> {
        let mut state = self.0.state.lock();
        if !state.running || !state.woken || state.has_thread {
            return Ok(());
        }
        let shared = Arc::clone(&self.0);
        // The thread is not joined by its handle: a task that is over has dropped its step, and
        // touches nothing of the store any more.
        let body = move || shared.run();
        thread::Builder::new().name(self.0.name.into()).spawn(body).map(drop)?;
        state.has_thread = true;
        Ok(())
    }
}

impl Task for ThreadTask {
    fn start(&self, step: Step) -> io::Result<()> {
        self.register(step, true);
        self.serve().inspect_err(|_| {
            let step = {
                let mut state = self.0.state.lock();
                state.running = false;
                state.step.take()
            };
            // It may hold the last reference to a store.
            drop(step);
        })
    }

    fn start_asleep(&self, step: Step) {
        self.register(step, false);
    }

    fn wake(&self) -> io::Result<()> {
        {
            let mut state = self.0.state.lock();
            state.woken = true;
            if state.has_thread {
                drop(state);
                self.0.woken.notify_one();
                return Ok(());
            }
        }
        self.serve()
    }

    fn end(&self) {
        let step = {
            let mut state = self.0.state.lock();
            state.woken = true;
            let step = state.step.take();
            // During a step it is the step that finds out.
            if step.is_some() {
                state.running = false;
            }
            step
        };
        self.0.woken.notify_one();
        if step.is_some() {
            // A thread that waits finds nothing to do whenever it comes: nobody waits for it.
            drop(step);
            self.0.ends.notify();
        }
    }

    fn is_current(&self) -> bool {
        self.0.state.lock().thread == Some(thread::current().id())
    }

    fn is_over(&self) -> bool {
        !self.0.state.lock().running
    }

    fn ends(&self) -> &Notify {
        &self.0.ends
    }
}

impl Shared {
    fn run(&self) {
        // Even if a step unwinds, which those of the store do not: after the step was dropped.
        let over = Over(self);
        let Some(mut step) = self.begin() else { return };
        loop {
            let next = step();
            if next == Next::Ended {
                return;
            }
            let mut state = self.state.lock();
            state.step = Some(step);
            let linger = match next {
                Next::Again | Next::Ended => None,
                Next::After(time) => Some((time, false)),
                Next::Asleep => Some((self.linger, true)),
            };
            if let Some((time, ends)) = linger.filter(|_| !state.woken) {
                self.woken.wait_for(&mut state, time);
                if ends && !state.woken {
                    // Nothing to do for long: the next wake starts another thread.
                    (state.has_thread, state.thread) = (false, None);
                    std::mem::forget(over);
                    return;
                }
            }
            state.woken = false;
            // None: the task was ended meanwhile.
            let Some(again) = state.step.take() else { return };
            step = again;
        }
    }

    fn begin(&self) -> Option<Step> {
        let mut state = self.state.lock();
        state.thread = Some(thread::current().id());
        state.woken = false;
        state.step.take()
    }
}

/// Notes that a task is over. Its step has been dropped by then.
struct Over<'s>(&'s Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.0.state.lock();
            (state.running, state.has_thread, state.thread) = (false, false, None);
        }
        self.0.ends.notify();
    }
}

#[cfg(test)]
#[cfg(not(memlog_shuttle))]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_task_has_a_thread_only_while_it_has_work() {
        let shared = Shared { linger: Duration::from_millis(5), ..Shared::default() };
        let task = ThreadTask(Arc::new(shared));
        let (did, done) = channel();
        task.start_asleep(Box::new(move || {
            let _ = did.send(thread::current().id());
            Next::Asleep
        }));
        assert!(!task.0.state.lock().has_thread, "nothing was to be done");
        let mut before = None;
        for _ in 0..3 {
            task.wake().unwrap();
            let thread = done.recv().ok();
            assert!(thread.is_some() && thread != before, "a step on a thread that was over");
            before = thread;
            while task.0.state.lock().has_thread {
                thread::yield_now();
            }
            assert!(!task.is_over() && !task.is_current());
        }
        task.end();
        assert!(task.is_over() && done.recv().is_err(), "the step was dropped with the task");
    }

    /// On a busy machine the thread may not run for milliseconds, for which a close would wait.
    #[test]
    fn a_task_that_sleeps_ends_without_its_thread() {
        for next in [Next::Asleep, Next::After(Duration::from_secs(3600))] {
            let shared = Shared { linger: LINGER, ..Shared::default() };
            let task = ThreadTask(Arc::new(shared));
            let (did, done) = channel();
            task.start(Box::new(move || {
                let _ = did.send(());
                next
            }))
            .unwrap();
            done.recv().unwrap();
            while task.0.state.lock().step.is_none() {
                thread::yield_now();
            }
            task.end();
            assert!(task.is_over(), "it waits for its thread");
            assert!(done.recv().is_err(), "the step was dropped with the task");
        }
    }
}

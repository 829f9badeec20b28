//! A scheduler for the background tasks of stores: one thread, the simulated clock, and an order
//! that follows from a seed.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::SimDisk;
use super::chance::Chance;
use super::state::State;
use crate::io::tasks::Step;
use crate::io::{Clock, Io, Next, Task, Tasks};
use crate::sync::{Mutex, Notify};

/// Steps without simulated time passing, beyond which tasks are taken to run for ever.
const LIVELOCK: u64 = 100_000;
/// Simulated time beyond which a wait that has no end of its own is taken to last for ever.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// A deterministic scheduler of background tasks: the log flusher, the spare maker, the sealer and
/// the compactor of each store that was opened with
/// [`Options::open_stepped`](crate::Options::open_stepped). A clone is the same scheduler.
///
/// No thread runs a task. [`run_for`](Self::run_for) moves the simulated clock from deadline to
/// deadline and runs the steps that are due, and [`step`](Self::step) runs one. A call of the store
/// that waits for a task, or that is slowed down, runs tasks and moves the clock in the same way
/// until it can go on. Of several tasks that are due the seed decides which is first.
///
/// A step that sleeps, as compaction does to keep to its rate, lets the other tasks run meanwhile,
/// and calls the hook that was set with [`on_pause`](Self::on_pause).
///
/// The tasks of a store end with [`Store::close`](crate::Store::close), or when its last handle is
/// dropped. While the power of its disk is lost they do not run, unless a call waits for one: it
/// then learns that the disk is gone.
///
/// # Panics
/// A task that runs for ever while no time passes, and a call that waits for what no task will do,
/// end in a panic that names the task.
///
/// ```
/// use std::time::Duration;
/// use memlog::sim::{SimDisk, SimTasks};
/// use memlog::{Durability, NewEntry, Options};
///
/// let disk = SimDisk::new(1);
/// let tasks = SimTasks::new(&disk, 7);
/// let options = Options::new().durability(Durability::Buffer);
/// let store = options.open_stepped(&disk, &tasks, "/mem")?;
/// store.agent("a")?.append(NewEntry::user("hello"))?;
/// let unsynced = store.stats().unsynced_bytes;
/// tasks.run_for(Duration::from_secs(2));
/// assert!(store.stats().unsynced_bytes < unsynced);
/// store.close()?;
/// assert_eq!(tasks.next_due(), None);
/// # Ok::<(), memlog::Error>(())
/// ```
#[derive(Clone)]
pub struct SimTasks(Arc<Inner>);

struct Inner {
    disk: Arc<Mutex<State>>,
    schedule: Mutex<Schedule>,
}

struct Schedule {
    chance: Chance,
    tasks: Vec<Entry>,
    next_id: u64,
    hook: Option<Hook>,
    /// Steps since simulated time has passed, and what had passed then.
    steps: u64,
    passed: Duration,
    /// What the simulation has failed with, within a step.
    failed: Option<Box<dyn Any + Send>>,
}

type Hook = Box<dyn FnMut(&'static str) + Send>;

struct Entry {
    id: u64,
    task: Arc<Shared>,
    /// The run of the disk that the store was opened in.
    run: u64,
    when: When,
    woken: bool,
    /// `None` while the step is running.
    step: Option<Step>,
}

#[derive(Clone, Copy)]
enum When {
    At(Duration),
    Asleep,
    /// In its step.
    Running,
}

impl Entry {
    /// When it has something to do; `None`: when it is woken.
    fn due(&self) -> Option<Duration> {
        match self.when {
            When::Running => None,
            _ if self.woken => Some(Duration::ZERO),
            When::At(at) => Some(at),
            When::Asleep => None,
        }
    }
}

impl SimTasks {
    /// A scheduler without tasks, on the clock of `disk`. All that it decides follows from the seed.
    #[must_use]
    pub fn new(disk: &SimDisk, seed: u64) -> SimTasks {
        let schedule = Schedule {
            chance: Chance::new(seed),
            tasks: Vec::new(),
            next_id: 0,
            hook: None,
            steps: 0,
            passed: Duration::ZERO,
            failed: None,
        };
        SimTasks(Arc::new(Inner { disk: Arc::clone(&disk.state), schedule: Mutex::new(schedule) }))
    }

    /// Handles for one run of a process on `disk`, with this scheduler.
    ///
    /// # Panics
    /// If this is another disk than the scheduler's: its clock would be another one.
    pub(crate) fn io(&self, disk: &SimDisk) -> Io {
        assert!(
            Arc::ptr_eq(&self.0.disk, &disk.state),
            "a store runs on the disk of its scheduler: make SimTasks for this disk"
        );
        let run = disk.state.lock().run;
        Io { tasks: Arc::new(Handles { inner: Arc::clone(&self.0), run }), ..disk.io() }
    }

    /// Lets so much simulated time pass, and runs all steps that are due meanwhile. A step that
    /// sleeps may make it a little more.
    pub fn run_for(&self, time: Duration) {
        self.0.reset_livelock();
        let until = self.0.now().saturating_add(time);
        while self.0.now() < until {
            if !self.0.run_one(false) {
                self.0.move_to(self.0.next_due(false).map_or(until, |due| due.min(until)));
            }
        }
        // What became due by then.
        while self.0.now() <= until && self.0.run_one(false) {}
    }

    /// Runs one step of a task that is due or woken, as the seed has it. False if none is.
    pub fn step(&self) -> bool {
        self.0.reset_livelock();
        self.0.run_one(false)
    }

    /// The simulated time, on the monotonic clock, at which the next task is due; a time that has
    /// passed if one is due now. `None` if all tasks are asleep or over.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.0.next_due(false)
    }

    /// The simulated time on the monotonic clock.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.now()
    }

    /// The names of the tasks that are not over, in the order in which they were started.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.0.schedule.lock().tasks.iter().map(|entry| entry.task.name).collect()
    }

    /// Sets what is called whenever a step of a task sleeps, with the name of the task: a test
    /// appends, reads and forgets there, in the middle of a compaction. It is not called within
    /// itself. It may not close the store, nor call what waits for the task that sleeps.
    pub fn on_pause(&self, hook: impl FnMut(&str) + Send + 'static) {
        self.0.schedule.lock().hook = Some(Box::new(hook));
    }

    /// Ends all tasks without another step, as the death of the process does. Not within a step.
    pub fn kill(&self) {
        let gone = std::mem::take(&mut self.0.schedule.lock().tasks);
        for entry in &gone {
            entry.task.end();
        }
    }
}

impl fmt::Debug for SimTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimTasks").field("tasks", &self.names()).finish_non_exhaustive()
    }
}

impl Inner {
    fn now(&self) -> Duration {
        self.disk.lock().time.elapsed()
    }

    fn move_to(&self, time: Duration) {
        let mut disk = self.disk.lock();
        let more = time.saturating_sub(disk.time.elapsed());
        disk.time.advance(more);
    }

    fn next_due(&self, without_power: bool) -> Option<Duration> {
        let schedule = self.schedule.lock();
        let disk = self.disk.lock();
        let runs = |entry: &&Entry| without_power || disk.alive(entry.run).is_ok();
        schedule.tasks.iter().filter(runs).filter_map(Entry::due).min()
    }

    /// Runs a step of one task that is due, if there is any. With `without_power`, also of a store
    /// whose disk is gone.
    fn run_one(&self, without_power: bool) -> bool {
        let (id, task, mut step) = {
            let mut schedule = self.schedule.lock();
            let schedule = &mut *schedule;
            let disk = self.disk.lock();
            let now = disk.time.elapsed();
            let is_due = |entry: &Entry| {
                entry.due().is_some_and(|due| due <= now)
                    && (without_power || disk.alive(entry.run).is_ok())
            };
            let due: Vec<usize> = (0..)
                .zip(&schedule.tasks)
                .filter(|(_, entry)| is_due(entry))
                .map(|(index, _)| index)
                .collect();
            drop(disk);
            let picked = due.get(schedule.chance.index(due.len())).copied();
            let Some(entry) = picked.and_then(|index| schedule.tasks.get_mut(index)) else {
                return false;
            };
            let Some(step) = entry.step.take() else { return false };
            entry.when = When::Running;
            entry.woken = false;
            (entry.id, Arc::clone(&entry.task), step)
        };
        self.count_step(task.name);
        let depth = self.running();
        task.state.lock().depth = depth;
        let next = step();
        task.state.lock().depth = 0;
        self.put_back(id, next, step);
        self.fail_if_failed(depth);
        true
    }

    /// How many steps are running, one within the other.
    fn running(&self) -> usize {
        let schedule = self.schedule.lock();
        schedule.tasks.iter().filter(|entry| matches!(entry.when, When::Running)).count()
    }

    /// A simulation that has failed within a step fails again behind it: a store catches what
    /// unwinds through its steps.
    fn fail_if_failed(&self, depth: usize) {
        let mut schedule = self.schedule.lock();
        if schedule.failed.is_none() {
            return;
        }
        let failed = if depth <= 1 { schedule.failed.take() } else { None };
        drop(schedule);
        resume_unwind(failed.unwrap_or_else(|| Box::new("the simulation has failed")));
    }

    /// Fails the simulation, from within any number of steps.
    fn fail(&self, message: String) -> ! {
        if self.running() > 0 {
            self.schedule.lock().failed = Some(Box::new(message.clone()));
        }
        panic!("{message}");
    }

    fn put_back(&self, id: u64, next: Next, step: Step) {
        let now = self.now();
        let mut schedule = self.schedule.lock();
        let found = schedule.tasks.iter_mut().find(|entry| entry.id == id);
        match (found, next) {
            (Some(entry), Next::Again | Next::After(_) | Next::Asleep) => {
                entry.when = match next {
                    Next::After(time) => When::At(now.saturating_add(time)),
                    Next::Asleep => When::Asleep,
                    _ => When::At(now),
                };
                entry.step = Some(step);
            }
            (found, _) => {
                let task = found.map(|entry| Arc::clone(&entry.task));
                schedule.tasks.retain(|entry| entry.id != id);
                drop(schedule);
                // It may hold the last reference to a store.
                drop(step);
                task.into_iter().for_each(|task| task.end());
            }
        }
    }

    fn reset_livelock(&self) {
        let passed = self.disk.lock().time.passed();
        let mut schedule = self.schedule.lock();
        (schedule.steps, schedule.passed) = (0, passed);
    }

    fn count_step(&self, name: &str) {
        let passed = self.disk.lock().time.passed();
        let mut schedule = self.schedule.lock();
        if schedule.passed != passed {
            (schedule.steps, schedule.passed) = (0, passed);
        }
        schedule.steps += 1;
        if schedule.steps < LIVELOCK {
            return;
        }
        schedule.steps = 0;
        drop(schedule);
        self.fail(format!(
            "the task {name} runs for ever: {LIVELOCK} steps, and no simulated time has passed"
        ));
    }

    /// Runs tasks and moves the clock until `is_over`, or until `deadline`.
    fn wait(&self, deadline: Option<Duration>, is_over: impl Fn() -> bool) {
        self.reset_livelock();
        let since = self.now();
        if let Some(name) = self.current()
            && deadline.is_some()
        {
            self.call_hook(name);
        }
        loop {
            let now = self.now();
            if is_over() || deadline.is_some_and(|deadline| now >= deadline) {
                return;
            }
            if self.run_one(true) {
                continue;
            }
            let next = [self.next_due(true), deadline].into_iter().flatten().min();
            match next.filter(|_| deadline.is_some() || now - since < FOREVER) {
                Some(next) => self.move_to(next),
                None => self.fail(format!("a call waits for ever: {}", self.blame())),
            }
        }
    }

    /// The task whose step is running, the innermost one.
    fn current(&self) -> Option<&'static str> {
        let schedule = self.schedule.lock();
        let depth = |entry: &Entry| entry.task.state.lock().depth;
        let running = schedule.tasks.iter().filter(|entry| matches!(entry.when, When::Running));
        running.max_by_key(|entry| depth(entry)).map(|entry| entry.task.name)
    }

    fn blame(&self) -> String {
        match self.current() {
            Some(name) => format!("no task has anything to do, and {name} is in its step"),
            None => "no task has anything to do".to_owned(),
        }
    }

    fn call_hook(&self, name: &'static str) {
        let Some(mut hook) = self.schedule.lock().hook.take() else { return };
        let outcome = catch_unwind(AssertUnwindSafe(|| hook(name)));
        if let Err(panic) = outcome {
            // An assertion of a test: the store would take it for a panic of its own.
            self.schedule.lock().failed = Some(panic);
            panic!("the hook panicked");
        }
        // Unless the hook has set another.
        self.schedule.lock().hook.get_or_insert(hook);
    }
}

/// The handle of one store.
struct Handles {
    inner: Arc<Inner>,
    run: u64,
}

impl Tasks for Handles {
    fn make(&self, name: &'static str) -> Arc<dyn Task> {
        let shared = Shared { name, state: Mutex::default(), ends: Notify::default() };
        let inner = Arc::clone(&self.inner);
        Arc::new(SimTask { inner, run: self.run, shared: Arc::new(shared) })
    }

    fn wait(&self, on: &Notify, seen: u64, at_most: Option<Duration>) {
        let deadline = at_most.map(|time| self.inner.now().saturating_add(time));
        self.inner.wait(deadline, || on.seen() != seen);
    }

    fn pause(&self, _clock: &dyn Clock, time: Duration) {
        let deadline = self.inner.now().saturating_add(time);
        self.inner.wait(Some(deadline), || false);
    }
}

struct SimTask {
    inner: Arc<Inner>,
    run: u64,
    shared: Arc<Shared>,
}

/// What the scheduler and the store know of a task.
struct Shared {
    name: &'static str,
    state: Mutex<TaskState>,
    ends: Notify,
}

#[derive(Default)]
struct TaskState {
    /// 0: not started, or over.
    id: u64,
    /// How many steps were running when its own began, counting that one; 0: it is not running.
    depth: usize,
}

impl Shared {
    fn end(&self) {
        *self.state.lock() = TaskState::default();
        self.ends.notify();
    }
}

impl SimTask {
    fn register(&self, when: When, step: Step) {
        let mut schedule = self.inner.schedule.lock();
        schedule.next_id += 1;
        let id = schedule.next_id;
        self.shared.state.lock().id = id;
        schedule.tasks.push(Entry {
            id,
            task: Arc::clone(&self.shared),
            run: self.run,
            when,
            woken: false,
            step: Some(step),
        });
    }
}

impl Task for SimTask {
    fn start(&self, step: Step) -> io::Result<()> {
        self.register(When::At(self.inner.now()), step);
        Ok(())
    }

    fn start_asleep(&self, step: Step) {
        self.register(When::Asleep, step);
    }

    fn wake(&self) -> io::Result<()> {
        let id = self.shared.state.lock().id;
        let mut schedule = self.inner.schedule.lock();
        if let Some(entry) = schedule.tasks.iter_mut().find(|entry| entry.id == id) {
            entry.woken = true;
        }
        Ok(())
    }

    fn end(&self) {
        let id = self.shared.state.lock().id;
        let step = {
            let mut schedule = self.inner.schedule.lock();
            let found = schedule.tasks.iter_mut().find(|entry| entry.id == id);
            let Some(entry) = found else { return };
            entry.woken = true;
            let Some(step) = entry.step.take_if(|_| matches!(entry.when, When::Asleep)) else {
                return;
            };
            schedule.tasks.retain(|entry| entry.id != id);
            step
        };
        // It may hold the last reference to a store.
        drop(step);
        self.shared.end();
    }

    fn is_current(&self) -> bool {
        self.shared.state.lock().depth > 0
    }

    fn is_over(&self) -> bool {
        self.shared.state.lock().id == 0
    }

    fn ends(&self) -> &Notify {
        &self.shared.ends
    }
}

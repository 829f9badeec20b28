//! The process that is made to suffer: lanes that write, and others that compact, purge, back up
//! and read meanwhile. It tells every acknowledgement outside before it goes on.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use memlog::{Commit, Error, ErrorKind, Maintenance, Options, Store};

use crate::linux::acks::{Ack, What};
use crate::linux::history::History;
use crate::linux::lane::{Lane, Step};
use crate::linux::rng::{Rng, is_filled};
use crate::linux::{trail, trap};

#[derive(clap::Args, Clone, Debug)]
pub struct WriterArgs {
    #[arg(long)]
    pub dir: PathBuf,
    /// What was done so far.
    #[arg(long)]
    pub history: PathBuf,
    #[arg(long)]
    pub round: u64,
    /// Each lane does so many steps and ends; without, they go on for ever.
    #[arg(long)]
    pub steps: Option<u64>,
    /// Opens the store, and writes nothing.
    #[arg(long)]
    pub idle: bool,
    /// Without threads of the store's own, and one lane after the other.
    #[arg(long)]
    pub manual: bool,
    /// Where backups go.
    #[arg(long)]
    pub backups: Option<PathBuf>,
    /// The file in which the medium counts what it has logged.
    #[arg(long)]
    pub stamps: Option<PathBuf>,
    /// So many milliseconds after the beginning no step is begun any more.
    #[arg(long)]
    pub millis: Option<u64>,
    /// Where each system call is written down.
    #[arg(long)]
    pub trail: Option<PathBuf>,
}

/// How the stores of all campaigns are opened: everything small, so that everything happens often.
pub fn options(manual: bool) -> Options {
    let maintenance = if manual { Maintenance::Manual } else { Maintenance::Background };
    Options::new()
        .maintenance(maintenance)
        .segment_bytes(256 << 10)
        .extent_bytes(4 << 10)
        .dead_share(10)
        .resident_bytes(32 << 10)
        .max_unsynced(1 << 20)
        .sync_interval(Duration::from_millis(40))
        .flush_interval(Duration::from_millis(2))
}

/// What all threads share.
pub struct Shared<'a> {
    pub store: &'a Store,
    pub seed: u64,
    pub args: &'a WriterArgs,
    pipe: File,
    stamps: Option<File>,
    stop: AtomicBool,
    began: std::time::Instant,
}

impl<'a> Shared<'a> {
    pub fn new(store: &'a Store, seed: u64, args: &'a WriterArgs) -> Shared<'a> {
        Shared {
            store,
            seed,
            args,
            pipe: pipe(),
            stamps: args.stamps.as_ref().map(|path| File::open(path).unwrap()),
            stop: AtomicBool::new(false),
            began: std::time::Instant::now(),
        }
    }

    /// Tells it outside, in one write. If nobody listens any more there is nothing left to do.
    pub fn tell(&self, mut ack: Ack) {
        if let Some(stamps) = &self.stamps {
            let mut stamp = [0; 8];
            stamps.read_exact_at(&mut stamp, 0).unwrap();
            ack.stamp = u64::from_le_bytes(stamp);
        }
        ack.at = trail::now();
        if (&self.pipe).write_all(&ack.encode()).is_err() {
            std::process::exit(0);
        }
    }

    fn reached(&self, lane: &Lane, step: &Step, lsn: u64) {
        let (number, durability) = (step.number, step.durability);
        let what = What::Reached;
        self.tell(Ack { what, lane: lane.number, step: number, durability, lsn, stamp: 0, at: 0 });
    }

    fn is_over(&self) -> bool {
        let late =
            self.args.millis.is_some_and(|most| self.began.elapsed() > Duration::from_millis(most));
        late || self.stop.load(Ordering::Relaxed)
    }
}

fn pipe() -> File {
    std::io::stdout().as_fd().try_clone_to_owned().map(File::from).unwrap()
}

/// The process itself. Every error ends it: where nothing fails, none may come.
pub fn run(args: &WriterArgs) -> Result<(), Error> {
    let history = History::read(&args.history);
    let lanes = if args.idle { Vec::new() } else { history.lanes() };
    if let Some(trail) = &args.trail {
        trap::record(File::create(trail).unwrap());
        trap::install();
    }
    let store = options(args.manual).open(&args.dir)?;
    let shared = Shared::new(&store, history.seed, args);
    shared.tell(Ack::of(What::Opened, 0, 0));
    if args.idle {
        std::thread::sleep(Duration::from_secs(60));
        return Ok(());
    }
    let failures = work(&shared, lanes);
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// All lanes to their ends, with what else goes on meanwhile; gives what went wrong.
pub fn work(shared: &Shared<'_>, lanes: Vec<Lane>) -> Vec<Error> {
    if shared.args.manual {
        return work_in_turn(shared, lanes);
    }
    let lane_count = lanes.len() as u64;
    std::thread::scope(|scope| {
        let lanes: Vec<_> = lanes
            .into_iter()
            .map(|lane| scope.spawn(move || ended(shared, go(shared, lane))))
            .collect();
        let others = [
            scope.spawn(|| ended(shared, turmoil(shared))),
            scope.spawn(move || ended(shared, read(shared, lane_count))),
        ];
        let mut failures: Vec<Error> =
            lanes.into_iter().filter_map(|l| l.join().unwrap()).collect();
        shared.stop.store(true, Ordering::Relaxed);
        failures.extend(others.into_iter().filter_map(|other| other.join().unwrap()));
        failures
    })
}

fn ended(shared: &Shared<'_>, outcome: Result<(), Error>) -> Option<Error> {
    outcome.err().inspect(|_| shared.stop.store(true, Ordering::Relaxed))
}

/// One lane: policies as the model has them first (a crash leaves them in doubt), then steps.
fn go(shared: &Shared<'_>, mut lane: Lane) -> Result<(), Error> {
    settle(shared, &lane)?;
    let mut under_way = VecDeque::new();
    let last = shared.args.steps.map(|steps| lane.done + steps);
    while !shared.is_over() && last.is_none_or(|last| lane.done < last) {
        step(shared, &mut lane, &mut under_way)?;
    }
    under_way.into_iter().try_for_each(|submitted| wait(shared, &lane, submitted))
}

fn settle(shared: &Shared<'_>, lane: &Lane) -> Result<(), Error> {
    for (agent, life) in &lane.agents {
        lane.perform_single(shared.store, &crate::linux::lane::Single::Keep(*agent, life.keep))?;
    }
    Ok(())
}

fn step(
    shared: &Shared<'_>,
    lane: &mut Lane,
    under_way: &mut VecDeque<(Step, Commit)>,
) -> Result<(), Error> {
    let step = lane.step(shared.seed, shared.args.round);
    if let Some(single) = &step.single {
        lane.perform_single(shared.store, single)?;
    }
    let mut batch = shared.store.batch();
    lane.put(shared.store, &mut batch, &step)?;
    lane.apply(&step, None);
    if step.submitted {
        // One that failed at once is not there: nothing may follow it as if it were.
        let mut commit = batch.submit();
        match Pin::new(&mut commit).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(receipt) => shared.reached(lane, &step, receipt?.lsn().0),
            Poll::Pending => under_way.push_back((step, commit)),
        }
        if under_way.len() > 4 {
            under_way.pop_front().map_or(Ok(()), |oldest| wait(shared, lane, oldest))?;
        }
    } else {
        let receipt = batch.commit()?;
        shared.reached(lane, &step, receipt.lsn().0);
    }
    Ok(())
}

fn wait(shared: &Shared<'_>, lane: &Lane, (step, commit): (Step, Commit)) -> Result<(), Error> {
    let receipt = commit.wait()?;
    shared.reached(lane, &step, receipt.lsn().0);
    Ok(())
}

/// What an operator may do at any time.
fn turmoil(shared: &Shared<'_>) -> Result<(), Error> {
    let mut rng = Rng::of(&[shared.seed, shared.args.round, 1 << 40]);
    let mut backups = 0;
    while !shared.is_over() {
        disturb(shared, &mut rng, &mut backups)?;
        let bytes = shared.store.stats().compaction_bytes;
        shared.tell(Ack::of(What::Compacted, 0, bytes));
        std::thread::sleep(Duration::from_millis(rng.below(12)));
    }
    Ok(())
}

fn disturb(shared: &Shared<'_>, rng: &mut Rng, backups: &mut u64) -> Result<(), Error> {
    let store = shared.store;
    match rng.below(10) {
        0..5 => drop(store.compact()?),
        5..7 => drop(store.purge()?),
        7 => store.sync()?,
        8 => {
            if let Some(dir) = &shared.args.backups {
                let number = shared.args.round * 1000 + *backups;
                let lsn = store.backup(dir.join(number.to_string()))?;
                shared.tell(Ack::of(What::BackedUp, number, lsn.0));
                *backups += 1;
            }
        }
        _ => {
            let damage = store.verify()?;
            assert!(damage.is_empty(), "verify beside writers: {damage:?}");
        }
    }
    Ok(())
}

/// Readers beside the writers: no holes, and bytes that are what their own number says.
fn read(shared: &Shared<'_>, lanes: u64) -> Result<(), Error> {
    let mut rng = Rng::of(&[shared.seed, shared.args.round, 1 << 41]);
    while !shared.is_over() {
        let lane = Lane::new(rng.below(lanes));
        let name = lane.name(rng.below(crate::linux::lane::AGENTS as u64) as usize);
        look_through(shared.store, &name)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn look_through(store: &Store, name: &str) -> Result<(), Error> {
    let view = store.agent(name)?.view()?;
    let mut seq = view.floor();
    for entry in view.iter() {
        let entry = entry?;
        assert_eq!(entry.seq(), seq, "{name}: a hole in the timeline");
        assert!(is_filled(entry.payload()), "{name}/{seq}: other bytes than were ever written");
        seq += 1;
    }
    assert_eq!(seq, view.next_seq(), "{name}: the timeline ends early");
    Ok(())
}

/// Everything in one thread, in an order that the seed gives: the same calls at each run.
fn work_in_turn(shared: &Shared<'_>, lanes: Vec<Lane>) -> Vec<Error> {
    let mut failures = Vec::new();
    let mut rng = Rng::of(&[shared.seed, shared.args.round, 1 << 42]);
    let steps = shared.args.steps.unwrap_or(40);
    let mut lanes: Vec<_> = lanes.into_iter().map(|lane| (lane, VecDeque::new())).collect();
    let mut backups = 0;
    let mut all = || -> Result<(), Error> {
        for (lane, _) in &lanes {
            settle(shared, lane)?;
        }
        for at in 0..steps {
            for (lane, under_way) in &mut lanes {
                step(shared, lane, under_way)?;
            }
            if at % 4 == 3 {
                disturb(shared, &mut rng, &mut backups)?;
            }
        }
        for (lane, under_way) in &mut lanes {
            under_way.drain(..).try_for_each(|submitted| wait(shared, lane, submitted))?;
        }
        Ok(())
    };
    failures.extend(all().err());
    failures
}

/// Whether the failure of a system call may lead to that: it says that something failed, and
/// nothing wrong about the store.
pub fn is_fitting(error: &Error) -> bool {
    use ErrorKind::{Closed, DiskFull, Indeterminate, Io, Poisoned};
    matches!(error.kind(), Closed | DiskFull | Indeterminate | Io | Poisoned)
}

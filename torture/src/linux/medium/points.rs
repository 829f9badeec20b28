//! The power fails: at random points of a workload, and of the recovery from that.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::image::{Event, Image, Loss};
use super::replica::Replica;
use super::{Bench, Kind, MediumArgs, checker};
use crate::linux::rng::Rng;

#[derive(Default)]
struct Figures {
    points: u64,
    nested: u64,
    workloads: u64,
    acknowledged: u64,
    events: u64,
    /// The file system itself could not be mounted any more: that says nothing about the store.
    unmountable: u64,
    /// What was said of the first of them.
    first: Option<String>,
}

pub fn run(bench: &Bench, args: &MediumArgs, seed: u64) -> Result<(), String> {
    let began = Instant::now();
    // Two file systems of one name and no other difference are too much for btrfs.
    let jobs = if args.fs == Kind::Btrfs { 1 } else { args.jobs.max(1) };
    let replicas: Vec<Replica> =
        (0..jobs).map(|_| Replica::new(args.fs)).collect::<Result<_, _>>()?;
    let figures = Mutex::new(Figures::default());
    let until = began + Duration::from_secs(args.seconds);
    let mut outcome = Ok(());
    for seed in seed.. {
        let late = Instant::now() >= until;
        if figures.lock().unwrap().points >= args.points || late || outcome.is_err() {
            break;
        }
        outcome = one_workload(bench, &replicas, (args, until), seed, &figures);
    }
    let seconds = began.elapsed().as_secs_f64();
    let figures = figures.into_inner().unwrap();
    println!(
        "power on {}: {} points, {} of them in a recovery, of {} workloads ({} batches \
         acknowledged, {} writes and flushes), {} file systems lost, {seconds:.1} s, {:.1} points/s, seed {seed}",
        args.fs.name(),
        figures.points,
        figures.nested,
        figures.workloads,
        figures.acknowledged,
        figures.events,
        figures.unmountable,
        figures.points as f64 / seconds,
    );
    if let Some(first) = figures.first {
        println!("the first file system lost: {first}");
    }
    outcome
}

/// What the points of one workload share.
struct Workload<'a> {
    bench: Mutex<&'a Bench>,
    figures: &'a Mutex<Figures>,
    events: &'a [Event],
    new: &'a Image,
    seed: u64,
    /// No point is begun after this.
    until: Instant,
    acks: PathBuf,
    history: PathBuf,
}

fn one_workload(
    bench: &Bench,
    replicas: &[Replica],
    (args, until): (&MediumArgs, Instant),
    seed: u64,
    figures: &Mutex<Figures>,
) -> Result<(), String> {
    let mut rng = Rng::of(&[seed, 4711]);
    bench.device.medium().restart(bench.new.clone());
    let (status, acks, said) = {
        let _mounted = bench.mount()?;
        bench.write(seed, args.millis, false)
    };
    if !status.success() {
        return Err(format!("the writer ended with {status} where nothing fails: {said}"));
    }
    let acks_file = bench.path("acks");
    checker::write_acks(&acks_file, &acks);
    let mut events = std::mem::take(&mut bench.device.medium().events);
    for event in &mut events {
        if matches!(event, Event::Flush) && rng.below(100) < args.lie {
            *event = Event::Write(0, Vec::new());
        }
    }
    {
        let mut figures = figures.lock().unwrap();
        figures.workloads += 1;
        figures.acknowledged += acks.len() as u64;
        figures.events += events.len() as u64;
    }
    let mut points: Vec<usize> =
        (0..args.each).map(|_| rng.below(events.len() as u64 + 1) as usize).collect();
    points.sort_unstable();
    let workload = Workload {
        bench: Mutex::new(bench),
        figures,
        events: &events,
        new: &bench.new,
        seed,
        until,
        acks: acks_file,
        history: bench.path("history"),
    };
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for replica in replicas {
            let (workload, points, next) = (&workload, &points, &next);
            let (failed, failure) = (&failed, &failure);
            scope.spawn(move || {
                if let Err(reason) = workload.try_points(replica, points, next, failed) {
                    failed.store(true, Ordering::Relaxed);
                    failure.lock().unwrap().get_or_insert(reason);
                }
            });
        }
    });
    failure.into_inner().unwrap().map_or(Ok(()), Err)
}

impl Workload<'_> {
    /// Takes points as long as there are any, each later than the one before.
    fn try_points(
        &self,
        replica: &Replica,
        points: &[usize],
        next: &AtomicUsize,
        failed: &AtomicBool,
    ) -> Result<(), String> {
        let (mut base, mut based) = (self.new.clone(), 0);
        while !failed.load(Ordering::Relaxed) && Instant::now() < self.until {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(&point) = points.get(number) else { break };
            let mut rng = Rng::of(&[self.seed, 4712, number as u64]);
            let flushed = self.events[..point].iter().rposition(|e| matches!(e, Event::Flush));
            let flushed = flushed.map_or(0, |at| at + 1);
            base.apply(&self.events[based..flushed]);
            based = flushed;
            let loss = Loss::of(&mut rng);
            let image = base.after(&self.events[based..point], loss, &mut rng);
            let at = || {
                let (seed, all) = (self.seed, self.events.len());
                format!("workload {seed}, point {number} after event {point} of {all}, {loss:?}")
            };
            self.recover(replica, image, point as u64, &mut rng)
                .map_err(|e| format!("{}: {e}", at()))?;
        }
        Ok(())
    }

    /// Has what is left mounted and checked, and sometimes fails the power in the middle of that.
    fn recover(
        &self,
        replica: &Replica,
        mut image: Image,
        upto: u64,
        rng: &mut Rng,
    ) -> Result<(), String> {
        // Only a recovery that fails in its middle needs to be logged.
        while rng.one_in(8) {
            let bench = self.bench.lock().unwrap();
            bench.device.medium().restart(image.clone());
            self.figures().points += 1;
            match bench.mount() {
                Ok(_mounted) => self.check(&bench.path("mnt"), upto)?,
                Err(reason) => return self.lost(reason),
            }
            let events = std::mem::take(&mut bench.device.medium().events);
            let point = rng.below(events.len() as u64 + 1) as usize;
            image = image.after(&events[..point], Loss::of(rng), rng);
            self.figures().nested += 1;
        }
        self.figures().points += 1;
        replica.put(&image);
        match replica.mount() {
            Ok(_mounted) => self.check(&replica.path("mnt"), upto),
            Err(reason) => self.lost(reason),
        }
    }

    fn check(&self, mounted: &Path, upto: u64) -> Result<(), String> {
        checker::check(&mounted.join("store"), &self.history, &self.acks, upto)
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap()
    }

    fn lost(&self, reason: String) -> Result<(), String> {
        let mut figures = self.figures();
        figures.unmountable += 1;
        figures.first.get_or_insert_with(|| format!("{reason}\n{}", super::kernel_said()));
        Ok(())
    }
}

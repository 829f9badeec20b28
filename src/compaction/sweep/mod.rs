//! Sweeps of the pure policy over shapes of stores: the state that the background alone comes to,
//! what it writes for that, and what an explicit compaction writes then.
//!
//! A state is *clustered* when nothing is picked, and
//! - at most `LOGS` log segments wait for more of them, those aside that wait for deaths;
//! - at most `TIERS` tiers of runs lie over any name, those aside of an agent that is too long for
//!   one run;
//! - there are at most `FILES` segments.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, clippy::cast_possible_truncation)]
#![allow(clippy::cast_sign_loss)]

mod shapes;
mod world;

use crate::compaction::field::backlog;
use crate::compaction::pick::{Policy, SegmentStats, is_valid, pick};
use crate::options::Options;
use shapes::Shape;
use world::World;

/// Log segments that wait, and those that wait for deaths.
const LOGS: u64 = 31;
const LAG: u64 = 6;
/// Tiers of runs over one name at rest, and at any time.
const TIERS: u64 = 32;
const MOST_TIERS: u64 = 48;
/// Segments of a store of up to 16 TB, at any time.
const FILES: u64 = 8192;
/// What an explicit compaction writes for each byte that lives.
const COMPACT: f64 = 3.0;
/// The same where nothing was compacted before: log segments become tiers, and these one.
const FOLDED: f64 = 2.5;
/// Log segments that may wait before appenders wait for compaction.
const WAITING: u64 = 512;

/// What a store came to.
#[derive(Default)]
struct Row {
    lives: f64,
    logged: f64,
    written: f64,
    jobs: u64,
    most_tiers: u64,
    most_files: u64,
    disk: Vec<f64>,
}

impl Row {
    fn mean_disk(&self) -> f64 {
        self.disk.iter().sum::<f64>() / self.disk.len() as f64
    }
}

/// A store with what moves it.
struct Sweep<'s> {
    shape: &'s Shape,
    options: Options,
    world: World,
    row: Row,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Background,
    Idle,
    Thorough,
}

impl<'s> Sweep<'s> {
    fn new(shape: &'s Shape) -> Self {
        let options = Options::new().segment_bytes(shape.segment as u64);
        let mut world = World::new(shape.load.clone());
        world.begin_with(shape.base, shape.base_run);
        Sweep { shape, options, world, row: Row::default() }
    }

    /// Does the next job, if there is one; gives what it wrote.
    fn job(&mut self, mode: Mode) -> Option<f64> {
        let segments = &self.world.segments;
        let policy = Policy::of(&self.options, mode == Mode::Thorough, segments);
        let policy = if mode == Mode::Idle { policy.while_idle() } else { policy };
        let job = pick(segments, &policy)?;
        let is_input = |one: &&SegmentStats| job.inputs.contains(&one.id);
        let inputs: Vec<&SegmentStats> = segments.iter().filter(is_input).collect();
        assert!(is_valid(&inputs, segments), "{}: {job:?}", self.shape.name);
        assert!(job.output_bytes <= policy.max_job * 2 || inputs.len() == 1, "{job:?}");
        let wrote = self.world.job(&job);
        self.row.jobs += 1;
        let now = backlog(&self.world.segments);
        self.row.most_tiers = self.row.most_tiers.max(now.tiers);
        self.row.most_files = self.row.most_files.max(now.segments);
        Some(wrote)
    }

    /// Appends all that there is to append, with compaction beside it.
    fn fill(&mut self) {
        let Shape { load, segment, slow, speed, .. } = self.shape;
        let (mut size, mut credit, mut logged) = (0.0, 0.0, self.world.logged);
        while self.world.now + load.entry < load.total {
            let least =
                crate::commit::least_segment(self.world.disk() as u64, *segment as u64) as f64;
            size = if *slow { least } else { (size * 4.0).clamp(least, *segment) };
            self.world.append(size);
            credit += (self.world.logged - logged) * speed;
            logged = self.world.logged;
            let waiting = || self.world.segments.iter().filter(|one| one.generation == 0).count();
            let waits = waiting() as u64 > WAITING;
            while !self.shape.manual && (credit > 0.0 || waits) {
                let Some(wrote) = self.job(Mode::Background) else {
                    credit = 0.0;
                    break;
                };
                credit -= wrote;
                if waits && credit <= 0.0 {
                    break;
                }
            }
            if self.world.now > load.total / 2.0 {
                self.row.disk.push(self.world.disk() / self.world.lives());
            }
        }
    }

    /// Does jobs until nothing is picked.
    fn settle(&mut self, mode: Mode) {
        let segments = self.world.segments.len() as u64;
        for jobs in 0.. {
            if self.job(mode).is_none() {
                return;
            }
            self.world.age();
            assert!(jobs < 4 * segments + 100, "{}: picking does not end", self.shape.name);
        }
    }

    fn check(&self) {
        let name = &self.shape.name;
        let now = backlog(&self.world.segments);
        let logs = LOGS + if self.shape.dies() { LAG } else { 0 };
        assert!(now.log_segments <= logs, "{name}: {} log segments wait", now.log_segments);
        let tiers = TIERS.max(self.shape.giant_tiers());
        assert!(now.tiers <= tiers, "{name}: {} tiers", now.tiers);
        assert!(self.row.most_files <= FILES, "{name}: {} segments", self.row.most_files);
        let most = MOST_TIERS.max(self.shape.giant_tiers() * 3 / 2);
        assert!(self.row.most_tiers <= most, "{name}: {} tiers meanwhile", self.row.most_tiers);
        let written = self.row.written / self.row.logged;
        assert!(written <= self.shape.copies(), "{name}: {written} bytes written for each one");
    }
}

fn head() {
    let names = ["lives MB", "disk", "mean", "files", "most", "tiers", "most", "logs", "copies"];
    print!("{:40}", "store");
    names.iter().for_each(|name| print!(" {name:>8}"));
    println!(" {:>6} | compact {:>6} {:>6}", "jobs", "copies", "files");
}

/// Fills a store, lets the background come to its end, and compacts.
fn sweep(shape: &Shape) -> Row {
    let mut sweep = Sweep::new(shape);
    sweep.fill();
    if !shape.manual {
        sweep.settle(Mode::Background);
    }
    let (lives, now) = (sweep.world.lives(), backlog(&sweep.world.segments));
    sweep.row.lives = lives;
    sweep.row.logged = sweep.world.logged;
    sweep.row.written = sweep.world.written;
    let row = &sweep.row;
    print!("{:40} {:>8.0} {:>8.2}", shape.name, lives / 1e6, sweep.world.disk() / lives);
    print!(" {:>8.2} {:>8} {:>8}", row.mean_disk(), now.segments, row.most_files);
    print!(" {:>8} {:>8} {:>8}", now.tiers, row.most_tiers, now.log_segments);
    print!(" {:>8.2} {:>6}", row.written / row.logged, row.jobs);
    if !shape.manual {
        sweep.check();
    }
    // The policy of an idle store leaves less, and ends too.
    let mut idle = Sweep { world: sweep.world.clone(), row: Row::default(), ..Sweep::new(shape) };
    idle.settle(Mode::Idle);
    assert!(backlog(&idle.world.segments).log_segments <= 7, "{}", shape.name);
    if shape.load.total >= 1e12 {
        // Thousands of jobs, of which each slice is one.
        println!();
        return sweep.row;
    }
    sweep.world.written = 0.0;
    sweep.settle(Mode::Thorough);
    let copies = sweep.world.written / lives;
    println!(" |         {copies:>6.2} {:>6}", sweep.world.segments.len());
    let most = if shape.manual { FOLDED } else { COMPACT };
    assert!(copies <= most, "{}: {copies} bytes written for each that lives", shape.name);
    sweep.row
}

#[test]
fn every_shape_ends_clustered() {
    head();
    for shape in shapes::all() {
        sweep(&shape);
    }
}

#[test]
fn churn_keeps_the_disk_in_proportion() {
    head();
    for shape in shapes::churns() {
        let row = sweep(&shape);
        assert!(row.mean_disk() <= 1.6, "{}: {}", shape.name, row.mean_disk());
    }
}

#[test]
fn a_large_store_keeps_few_files() {
    head();
    for shape in shapes::large() {
        sweep(&shape);
    }
}

//! Sweeps of the pure policy over shapes of stores: what the background alone comes to, and what it
//! writes for it.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, clippy::cast_possible_truncation)]
#![allow(clippy::cast_sign_loss)]

mod world;

use std::time::{Duration, Instant};

use crate::compaction::pick::{Policy, Reason, pick};
use crate::options::Options;
use world::{Class, Deaths, Load, World};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;
const GIB: f64 = 1024.0 * MIB;
const TIB: f64 = 1024.0 * GIB;

/// A store to be filled.
struct Shape {
    name: String,
    load: Load,
    /// Log segments have this length at most,
    segment: f64,
    /// or one that follows what the store holds, since each takes long to fill.
    slow: bool,
    /// Bytes that compaction writes for each one that the log grows by.
    speed: f64,
}

#[derive(Default)]
struct Row {
    lives: f64,
    disk: f64,
    files: usize,
    most_files: usize,
    tiers: usize,
    most_tiers: usize,
    logs: usize,
    written: f64,
    logged: f64,
    most_disk: f64,
    mean_disk: f64,
    longest_pick: Duration,
}

fn options(shape: &Shape) -> Options {
    Options::new().segment_bytes(shape.segment as u64)
}

fn tiers(world: &World, from: u64) -> usize {
    let mut steps: Vec<(&str, i32)> = Vec::new();
    let mut all = 0;
    for one in world.segments.iter().filter(|one| one.generation >= from) {
        steps.push((&one.from, 1));
        match &one.to {
            Some(to) => steps.push((to, -1)),
            None => all += 1,
        }
    }
    let _ = all;
    steps.sort_by(|one, other| one.0.cmp(other.0).then(one.1.cmp(&other.1)));
    let sums = steps.iter().scan(0, |sum, (_, step)| {
        *sum += step;
        Some(*sum)
    });
    sums.max().unwrap_or(0) as usize
}

fn logs(world: &World) -> usize {
    world.segments.iter().filter(|one| one.generation == 0).count()
}

/// Does the next job, if there is one; gives what it wrote.
fn step(world: &mut World, options: &Options, thorough: bool, row: &mut Row) -> Option<f64> {
    let policy = Policy::of(options, thorough, &world.segments);
    let began = Instant::now();
    let job = pick(&world.segments, &policy);
    row.longest_pick = row.longest_pick.max(began.elapsed());
    if std::env::var_os("MEMLOG_SWEEP_TRACE").is_some() {
        eprintln!(
            "{} files, {:?}",
            world.segments.len(),
            job.as_ref().map(|job| (
                job.reason,
                job.inputs.len(),
                job.output_bytes >> 20,
                job.generation,
                job.run_bytes >> 20
            ))
        );
    }
    let wrote = world.job(&job?);
    row.most_tiers = row.most_tiers.max(tiers(world, 1));
    Some(wrote)
}

fn fill(shape: &Shape) -> (World, Row) {
    let mut world = World::new(shape.load.clone());
    let options = options(shape);
    let (mut row, mut credit, mut size, mut steps) = (Row::default(), 0.0, MIB, 0.0);
    while world.now + shape.load.entry < shape.load.total {
        let held = world.disk();
        size = if shape.slow { (held / 1024.0).max(MIB) } else { size * 4.0 };
        size = size.min(shape.segment);
        let before = world.logged;
        world.append(size, 60_000.0);
        credit += (world.logged - before) * shape.speed;
        while credit > 0.0 || logs(&world) > 128 {
            match step(&mut world, &options, false, &mut row) {
                Some(wrote) => credit -= wrote,
                None => credit = 0.0,
            }
            if credit == 0.0 {
                break;
            }
        }
        if world.now > shape.load.total / 2.0 {
            let disk = world.disk() / world.lives();
            row.most_disk = row.most_disk.max(disk);
            row.mean_disk += disk;
            steps += 1.0;
        }
    }
    row.mean_disk /= steps;
    (world, row)
}

fn settle(world: &mut World, options: &Options, thorough: bool, row: &mut Row) {
    let mut jobs = 0;
    while step(world, options, thorough, row).is_some() {
        world.age();
        jobs += 1;
        assert!(jobs < 20_000, "picking does not end");
    }
}

fn sweep(shapes: &[Shape]) {
    println!(
        "{:44} {:>9} {:>5} {:>6} {:>6} {:>5} {:>5} {:>5} {:>6} {:>6} {:>6} {:>8} | {:>6} {:>6} {:>5} {:>6}",
        "store",
        "lives MB",
        "d/l",
        "mean",
        "most",
        "files",
        "tiers",
        "logs",
        "w/live",
        "w/log",
        "jobs",
        "pick",
        "w/live",
        "job MB",
        "tiers",
        "files"
    );
    for shape in shapes {
        let (mut world, mut row) = fill(shape);
        let options = options(shape);
        settle(&mut world, &options, false, &mut row);
        row.lives = world.lives();
        row.files = world.segments.len();
        let (written, jobs, pickt) = (world.written, world.jobs, row.longest_pick);
        let (d, t, l) = (world.disk() / row.lives, tiers(&world, 1), logs(&world));
        world.written = 0.0;
        world.most_job = 0;
        settle(&mut world, &options, true, &mut row);
        println!(
            "{:44} {:>9.0} {:>5.2} {:>6.2} {:>6.2} {:>5} {:>2}/{:>2} {:>5} {:>6.2} {:>6.2} {:>6} {:>8.2?} | {:>6.2} {:>6} {:>5} {:>6}",
            shape.name,
            row.lives / 1e6,
            d,
            row.mean_disk,
            row.most_disk,
            row.files,
            t,
            row.most_tiers,
            l,
            written / row.lives,
            written / world.logged,
            jobs,
            pickt,
            world.written / row.lives,
            world.most_job >> 20,
            tiers(&world, 0),
            world.segments.len()
        );
    }
}

fn load(agents: f64, entry: f64, total: f64) -> Load {
    Load {
        classes: vec![Class { agents, share: 1.0 }],
        entry,
        once: 0.0,
        ascending: false,
        deaths: Deaths::None,
        total,
    }
}

fn shape(name: &str, load: Load) -> Shape {
    Shape { name: name.into(), load, segment: 64.0 * MIB, slow: false, speed: 1.0 }
}

/// Agents whose traffic falls off with their rank, in classes.
fn zipf(agents: f64, power: f64) -> Vec<Class> {
    let mut classes = Vec::new();
    let (mut rank, mut sum) = (1.0, 0.0);
    while rank < agents {
        let next = (rank * 2.0f64).min(agents + 1.0);
        let share = (next - rank) * ((rank + next) / 2.0).powf(-power);
        sum += share;
        classes.push(Class { agents: next - rank, share });
        rank = next;
    }
    classes.into_iter().map(|class| Class { share: class.share / sum, ..class }).collect()
}

#[test]
fn probe() {
    let mut all = Vec::new();
    let gb = 1e9;
    all.push(shape("1 KB, 20k agents, 3 GB", load(20e3, 1e3, 3.0 * gb)));
    all.push(Shape { speed: 0.0, ..shape("the same, bulk", load(20e3, 1e3, 3.0 * gb)) });
    all.push(shape("400 B, 20k agents, 1.5 GB", load(20e3, 400.0, 1.5 * gb)));
    all.push(Shape { speed: 0.0, ..shape("the same, bulk", load(20e3, 400.0, 1.5 * gb)) });
    all.push(shape("5M tiny", Load { once: 1.5, ..load(5e6, 200.0, 1.5 * gb) }));
    for at in [3.2, 3.3, 3.4, 3.5] {
        all.push(shape(&format!("2.5 KB, 20k, {at} GB"), load(20e3, 2.5e3, at * gb)));
    }
    all.push(shape("giant 10 GB", load(1.0, 20e3, 10.0 * gb)));
    all.push(shape("giant 100 GB", load(1.0, 20e3, 100.0 * gb)));
    all.push(Shape { slow: true, ..shape("8 busy slow 10 GB", load(8.0, 500.0, 10.0 * gb)) });
    all.push(Shape { slow: true, ..shape("8 busy slow 70 GB", load(8.0, 500.0, 70.0 * gb)) });
    all.push(shape("20 MB entries, 100 GB, 1000 agents", load(1000.0, 20e6, 100.0 * gb)));
    let churn = |power: f64| Load {
        classes: zipf(14e3, power),
        deaths: Deaths::Latest(200.0),
        ..load(1.0, 750.0, 20.0 * gb)
    };
    for power in [1.2, 1.0, 0.8, 0.5] {
        all.push(Shape {
            speed: 2.0,
            ..shape(&format!("churn latest 200 zipf {power}"), churn(power))
        });
    }
    sweep(&all);
}

//! Turns that die as fast as they come: each agent keeps its latest ones. What that costs in
//! writes, in disk space, and in stalls. Everybody is synced once a second, as memlog is by itself:
//! who never syncs may have most of it dead before the system writes anything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::model::{Heads, Model};
use super::{Figures, Job, figures};
use crate::Res;
use crate::disk::{allocated, device_written, flush_all, process_written};
use crate::engine::Engine;
use crate::load::Load;
use crate::measure::Latencies;

/// What the agents did.
struct Done {
    appends: Latencies,
    truncations: Latencies,
    took: Duration,
    appended: u64,
}

pub(super) fn churn(job: &Job, load: &Load, keep: u64, turns: usize) -> Res<Figures> {
    let engine = job.open(load)?;
    let (heads, floors) = (zeros(load), Heads::new(&vec![1; load.agents() as usize]));
    flush_all();
    let device = device_written(&job.open.dir);
    let process = process_written();
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let done = std::thread::scope(|scope| {
        let watch = || -> Res<()> {
            for round in 1u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                most.fetch_max(allocated(&job.open.dir), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(200));
                if round % 5 == 0 {
                    engine.sync()?;
                }
            }
            Ok(())
        };
        let watcher = scope.spawn(watch);
        let done = agents(job, load, &*engine, (&heads, &floors), (keep, turns));
        stop.store(true, Ordering::Relaxed);
        match watcher.join() {
            Ok(watched) => watched.and(done),
            Err(_) => Err("the watching thread panicked".into()),
        }
    })?;
    engine.close()?;
    flush_all();
    let end = allocated(&job.open.dir);
    let live = live(load, &floors.all(), &heads.all());
    let per = |after: Option<u64>, before: Option<u64>| match (after, before) {
        (Some(after), Some(before)) => (after - before) as f64 / done.appended as f64,
        _ => f64::NAN,
    };
    let all = figures([
        ("rate", done.appends.count() as f64 / done.took.as_secs_f64()),
        ("p99_us", done.appends.us(0.99)),
        ("truncate_p50_us", done.truncations.us(0.5)),
        ("truncate_p99_us", done.truncations.us(0.99)),
        ("longest_us", done.appends.longest().max(done.truncations.longest())),
        ("written_per_byte", per(device_written(&job.open.dir), device)),
        ("written_per_byte_process", per(process_written(), process)),
        ("disk_per_byte_most", most.into_inner().max(end) as f64 / live as f64),
        ("disk_per_byte", end as f64 / live as f64),
        ("live_mb", live as f64 / 1e6),
        ("appended_mb", done.appended as f64 / 1e6),
    ]);
    Model { floors: floors.all(), most: heads.all(), heads: heads.all() }.write(&job.model)?;
    Ok(all)
}

fn zeros(load: &Load) -> Heads {
    Heads::new(&vec![0; load.agents() as usize])
}

fn agents(
    job: &Job,
    load: &Load,
    engine: &dyn Engine,
    (heads, floors): (&Heads, &Heads),
    (keep, turns): (u64, usize),
) -> Res<Done> {
    let (mut appends, mut truncations) = (Latencies::new(), Latencies::new());
    let mut appended = 0;
    let order = load.order(0, 1, turns, job.salt);
    let start = Instant::now();
    for agent in order {
        let seq = heads.get(agent) + 1;
        let turn = load.turn(agent, seq);
        appended += turn.len() as u64;
        let begin = Instant::now();
        engine.append(agent, seq, turn, false)?;
        appends.add(begin.elapsed());
        heads.set(agent, seq);
        let floor = floors.get(agent);
        // A quarter more than what is kept, so that truncations come in some number.
        if seq + 1 - floor > keep + keep / 4 {
            let begin = Instant::now();
            engine.truncate(agent, floor, seq + 1 - keep)?;
            truncations.add(begin.elapsed());
            floors.set(agent, seq + 1 - keep);
        }
    }
    engine.sync()?;
    Ok(Done { appends, truncations, took: start.elapsed(), appended })
}

fn live(load: &Load, floors: &[u64], heads: &[u64]) -> u64 {
    let ranges = floors.iter().zip(heads).enumerate();
    let turns = ranges.flat_map(|(agent, (floor, head))| {
        (*floor..=*head).map(move |seq| load.turn(agent as u32, seq).len() as u64)
    });
    turns.sum()
}

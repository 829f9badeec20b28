//! The power fails: at random points of a workload, and of the recovery from that.

use std::time::Instant;

use super::image::{Event, Image, Loss};
use super::{Bench, MediumArgs, checker};
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
}

pub fn run(bench: &Bench, args: &MediumArgs, seed: u64) -> Result<(), String> {
    let began = Instant::now();
    let mut figures = Figures::default();
    let mut outcome = Ok(());
    for seed in seed.. {
        let late = began.elapsed().as_secs() >= args.seconds;
        if figures.points >= args.points || late || outcome.is_err() {
            break;
        }
        outcome = one_workload(bench, args, seed, &mut figures);
    }
    let seconds = began.elapsed().as_secs_f64();
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
    outcome
}

fn one_workload(
    bench: &Bench,
    args: &MediumArgs,
    seed: u64,
    figures: &mut Figures,
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
    figures.workloads += 1;
    figures.acknowledged += acks.len() as u64;
    figures.events += events.len() as u64;

    let mut points: Vec<usize> =
        (0..args.each).map(|_| rng.below(events.len() as u64 + 1) as usize).collect();
    points.sort_unstable();
    let (mut base, mut based) = (bench.new.clone(), 0);
    for point in points {
        let flushed = events[..point].iter().rposition(|e| matches!(e, Event::Flush));
        let flushed = flushed.map_or(0, |at| at + 1);
        base.apply(&events[based..flushed]);
        based = flushed;
        let loss = Loss::of(&mut rng);
        let image = base.after(&events[based..point], loss, &mut rng);
        let at = format!("workload {seed}, point {point} of {}, {loss:?}", events.len());
        recover(bench, image, &acks_file, point as u64, &mut rng, figures)
            .map_err(|e| format!("{at}: {e}"))?;
    }
    Ok(())
}

/// Mounts what is left, has it checked, and sometimes fails the power in the middle of that.
fn recover(
    bench: &Bench,
    mut image: Image,
    acks: &std::path::Path,
    upto: u64,
    rng: &mut Rng,
    figures: &mut Figures,
) -> Result<(), String> {
    loop {
        bench.device.medium().restart(image.clone());
        figures.points += 1;
        match bench.mount() {
            Ok(_mounted) => bench.check(acks, upto)?,
            Err(_) => {
                figures.unmountable += 1;
                return Ok(());
            }
        }
        if !rng.one_in(8) {
            return Ok(());
        }
        let events = std::mem::take(&mut bench.device.medium().events);
        let point = rng.below(events.len() as u64 + 1) as usize;
        image = image.after(&events[..point], Loss::of(rng), rng);
        figures.nested += 1;
    }
}

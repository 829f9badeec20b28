//! Appends: without durability as many as asked for, durable ones as long as asked for.

use std::time::{Duration, Instant};

use super::model::{Heads, Model};
use super::{Figures, Job, crew, figures, times};
use crate::Res;
use crate::load::Load;

pub(super) fn buffer(job: &Job, load: &Load, threads: u32, turns: usize) -> Res<Figures> {
    let engine = job.open(load)?;
    let heads = Heads::new(&vec![0; load.agents() as usize]);
    let each = turns / threads as usize;
    let orders: Vec<_> = (0..threads).map(|t| load.order(t, threads, each, job.salt)).collect();
    let start = Instant::now();
    let (latencies, took) = crew(threads, |thread, latencies| {
        for agent in &orders[thread as usize] {
            let seq = heads.get(*agent) + 1;
            let turn = load.turn(*agent, seq);
            let start = Instant::now();
            engine.append(*agent, seq, turn, false)?;
            latencies.add(start.elapsed());
            heads.set(*agent, seq);
        }
        Ok(())
    })?;
    engine.sync()?;
    let synced = start.elapsed();
    engine.close()?;
    let bytes = written(load, &heads.all());
    Model::whole(heads.all()).write(&job.model)?;
    let count = latencies.count() as f64;
    let mut all = times(&latencies);
    all.extend(figures([
        ("rate", count / synced.as_secs_f64()),
        ("rate_acknowledged", count / took.as_secs_f64()),
        ("mb_per_s", bytes as f64 / 1e6 / synced.as_secs_f64()),
    ]));
    Ok(all)
}

/// Bytes of the turns that so many turns of each agent have.
pub(super) fn written(load: &Load, heads: &[u64]) -> u64 {
    let of = |agent: usize, head: u64| -> u64 {
        (1..=head).map(|seq| load.turn(agent as u32, seq).len() as u64).sum()
    };
    heads.iter().enumerate().map(|(agent, head)| of(agent, *head)).sum()
}

pub(super) fn sync(job: &Job, load: &Load, threads: u32, seconds: f64) -> Res<Figures> {
    let engine = job.open(load)?;
    let heads = Heads::new(&vec![0; load.agents() as usize]);
    // A first turn of each, so that no agent and no file is new any more.
    for agent in 0..load.agents() {
        engine.append(agent, 1, load.turn(agent, 1), false)?;
        heads.set(agent, 1);
    }
    engine.sync()?;
    let all = for_a_while(job, load, threads, seconds, |agent| {
        let seq = heads.get(agent) + 1;
        engine.append(agent, seq, load.turn(agent, seq), true)?;
        heads.set(agent, seq);
        Ok(())
    })?;
    engine.close()?;
    Model::whole(heads.all()).write(&job.model)?;
    Ok(all)
}

/// Has threads do something with one agent after the other, until the time is over.
pub(super) fn for_a_while<F>(
    job: &Job,
    load: &Load,
    threads: u32,
    seconds: f64,
    step: F,
) -> Res<Figures>
where
    F: Fn(u32) -> Res<()> + Sync,
{
    let orders: Vec<_> = (0..threads).map(|t| load.order(t, threads, 1 << 16, job.salt)).collect();
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let (latencies, took) = crew(threads, |thread, latencies| {
        for agent in orders[thread as usize].iter().cycle() {
            let start = Instant::now();
            if start >= end {
                break;
            }
            step(*agent)?;
            latencies.add(start.elapsed());
        }
        Ok(())
    })?;
    let mut all = times(&latencies);
    all.extend(figures([("rate", latencies.count() as f64 / took.as_secs_f64())]));
    Ok(all)
}

//! Loads of the latest turns and gets of one, of a store that was filled before.

use std::time::Instant;

use super::model::Model;
use super::{Figures, Job, LATEST, figures, times};
use crate::Res;
use crate::disk::make_cold;
use crate::engine::Engine;
use crate::load::{Dice, Load};
use crate::measure::{Latencies, touch};

/// Loads and looks at every byte; how many turns there were.
pub(super) fn load_latest(engine: &dyn Engine, agent: u32) -> Res<u64> {
    let mut found = 0;
    engine.load_last(agent, LATEST, &mut |_, turn| {
        touch(turn);
        found += 1;
    })?;
    Ok(found)
}

fn loads(engine: &dyn Engine, model: &Model, agents: &[u32]) -> Res<Figures> {
    let mut latencies = Latencies::new();
    let start = Instant::now();
    for agent in agents {
        let start = Instant::now();
        let found = load_latest(engine, *agent)?;
        latencies.add(start.elapsed());
        if found != model.heads[*agent as usize].min(LATEST) {
            return Err(format!("agent {agent}: {found} turns were loaded").into());
        }
    }
    let mut all = times(&latencies);
    all.extend(figures([("rate", agents.len() as f64 / start.elapsed().as_secs_f64())]));
    Ok(all)
}

pub(super) fn hot(job: &Job, load: &Load, count: usize) -> Res<Figures> {
    let model = Model::read(&job.model)?;
    let engine = job.open(load)?;
    let mut dice = Dice::new(job.salt);
    for agent in 0..load.agents() {
        load_latest(&*engine, agent)?;
    }
    let agents: Vec<_> = (0..count).map(|_| dice.below(u64::from(load.agents())) as u32).collect();
    let mut all = loads(&*engine, &model, &agents)?;
    all.extend(figures([("resident_mb", crate::disk::resident() as f64 / 1e6)]));
    engine.close()?;
    Ok(all)
}

/// Each load is the first of its agent since caches were emptied and the store was opened.
pub(super) fn cold(job: &Job, load: &Load, count: usize) -> Res<Figures> {
    let model = Model::read(&job.model)?;
    let mut agents: Vec<_> = (0..load.agents()).collect();
    Dice::new(job.salt).shuffle(&mut agents);
    agents.truncate(count);
    make_cold(&job.open.dir)?;
    let engine = job.open(load)?;
    let all = loads(&*engine, &model, &agents)?;
    engine.close()?;
    Ok(all)
}

pub(super) fn get(job: &Job, load: &Load, count: usize) -> Res<Figures> {
    let model = Model::read(&job.model)?;
    let engine = job.open(load)?;
    for agent in 0..load.agents() {
        engine.load_last(agent, u64::from(u32::MAX), &mut |_, turn| touch(turn))?;
    }
    let mut dice = Dice::new(job.salt);
    let wanted: Vec<_> = (0..count)
        .map(|_| {
            let agent = dice.below(u64::from(load.agents())) as u32;
            (agent, 1 + dice.below(model.heads[agent as usize]))
        })
        .collect();
    let mut latencies = Latencies::new();
    let begin = Instant::now();
    // Engines whose gets are slow need not do all of them.
    let enough = std::time::Duration::from_secs(5);
    for (agent, seq) in wanted {
        let start = Instant::now();
        let found = engine.get(agent, seq, &mut |_, turn| touch(turn))?;
        latencies.add(start.elapsed());
        if !found {
            return Err(format!("agent {agent}: turn {seq} is not there").into());
        }
        if start - begin > enough {
            break;
        }
    }
    let mut all = times(&latencies);
    all.extend(figures([("rate", latencies.count() as f64 / begin.elapsed().as_secs_f64())]));
    engine.close()?;
    Ok(all)
}

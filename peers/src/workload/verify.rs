//! Opens a store anew and compares every byte with what has to be there.

use super::model::Model;
use super::{Figures, Job, figures};
use crate::Res;
use crate::engine::Engine;
use crate::load::Load;

pub(super) fn verify(job: &Job, load: &Load) -> Res<Figures> {
    let model = Model::read(&job.model)?;
    let engine = job.open(load)?;
    let mut turns = 0;
    for agent in 0..load.agents() {
        turns += check(&*engine, &model, load, agent).map_err(|e| format!("agent {agent}: {e}"))?;
    }
    engine.close()?;
    Ok(figures([("verified", turns as f64)]))
}

/// How many turns the agent has.
fn check(engine: &dyn Engine, model: &Model, load: &Load, agent: u32) -> Res<u64> {
    let at = agent as usize;
    let (floor, head, most) = (model.floors[at], model.heads[at], model.most[at]);
    let (mut seqs, mut wrong) = (vec![], None);
    engine.load_last(agent, u64::from(u32::MAX), &mut |seq, turn| {
        if seq == 0 || load.turn(agent, seq) != turn {
            wrong = Some(seq);
        }
        seqs.push(seq);
    })?;
    if let Some(seq) = wrong {
        return Err(format!("turn {seq} has other bytes").into());
    }
    seqs.sort_unstable();
    let last = seqs.last().copied().unwrap_or(floor - 1);
    if !seqs.iter().copied().eq(floor..=last) || last < head || last > most {
        let first = seqs.first().copied().unwrap_or(0);
        return Err(format!(
            "{} turns from {first} to {last}, and not {floor} to {head} (or at most {most})",
            seqs.len()
        )
        .into());
    }
    Ok(seqs.len() as u64)
}

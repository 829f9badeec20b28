//! Fills a store: the turns of all agents mixed, as they come in life; then whatever the engine
//! does to be prepared for reads.

use super::model::Model;
use super::{Figures, Job, figures};
use crate::Res;
use crate::load::{Load, heads};

pub(super) fn fill(job: &Job, load: &Load, each: u64) -> Res<Figures> {
    let engine = job.open(load)?;
    let order = load.filling(each);
    let mut next = vec![1; load.agents() as usize];
    let mut bytes = 0;
    for agent in &order {
        let seq = &mut next[*agent as usize];
        let turn = load.turn(*agent, *seq);
        engine.append(*agent, *seq, turn, false)?;
        bytes += turn.len();
        *seq += 1;
    }
    engine.sync()?;
    engine.settle()?;
    engine.close()?;
    Model::whole(heads(load.agents(), &order)).write(&job.model)?;
    let disk = crate::disk::allocated(&job.open.dir);
    Ok(figures([
        ("turns", order.len() as f64),
        ("bytes", bytes as f64),
        ("disk_per_byte", disk as f64 / bytes as f64),
    ]))
}

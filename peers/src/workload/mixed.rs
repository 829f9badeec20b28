//! An agent's step: the latest turns are loaded, and a turn is appended durably.

use super::append::for_a_while;
use super::model::{Heads, Model};
use super::read::load_latest;
use super::{Figures, Job};
use crate::Res;
use crate::load::Load;

pub(super) fn mixed(job: &Job, load: &Load, threads: u32, seconds: f64) -> Res<Figures> {
    let model = Model::read(&job.model)?;
    let engine = job.open(load)?;
    let heads = Heads::new(&model.heads);
    for agent in 0..load.agents() {
        load_latest(&*engine, agent)?;
    }
    let all = for_a_while(job, load, threads, seconds, |agent| {
        load_latest(&*engine, agent)?;
        let seq = heads.get(agent) + 1;
        engine.append(agent, seq, load.turn(agent, seq), true)?;
        heads.set(agent, seq);
        Ok(())
    })?;
    engine.close()?;
    Model::whole(heads.all()).write(&job.model)?;
    Ok(all)
}

//! Opening a store, and dying with one open.

use std::time::Instant;

use super::model::{Heads, Model};
use super::read::load_latest;
use super::{Figures, Job, figures};
use crate::Res;
use crate::disk::{make_cold, make_hot, resident};
use crate::load::{Dice, Load};

/// Until the store is open, and until a first agent is loaded; memory that is then in use.
pub(super) fn open(job: &Job, load: &Load, cold: bool) -> Res<Figures> {
    if cold {
        make_cold(&job.open.dir)?;
    } else {
        make_hot(&job.open.dir)?;
    }
    let agent = Dice::new(job.salt).below(u64::from(load.agents())) as u32;
    let before = resident();
    let start = Instant::now();
    let engine = job.open(load)?;
    let opened = start.elapsed();
    load_latest(&*engine, agent)?;
    let loaded = start.elapsed();
    let memory = resident().saturating_sub(before);
    engine.close()?;
    Ok(figures([
        ("open_ms", opened.as_secs_f64() * 1e3),
        ("loaded_ms", loaded.as_secs_f64() * 1e3),
        ("resident_mb", memory as f64 / 1e6),
    ]))
}

/// Appends; three quarters are synced, the rest is acknowledged without. Then this process is
/// killed by itself, and gives no figures.
pub(super) fn kill(job: &Job, load: &Load, turns: usize) -> Res<Figures> {
    let mut model = Model::read(&job.model)?;
    let engine = job.open(load)?;
    let heads = Heads::new(&model.heads);
    for (number, agent) in load.order(0, 1, turns, job.salt).into_iter().enumerate() {
        let seq = heads.get(agent) + 1;
        engine.append(agent, seq, load.turn(agent, seq), false)?;
        heads.set(agent, seq);
        if number == turns / 4 * 3 {
            engine.sync()?;
            model.heads = heads.all();
        }
    }
    model.most = heads.all();
    model.write(&job.model)?;
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    Err("it lives".into())
}

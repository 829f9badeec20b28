//! Checkpoints by compare-and-set: of two workers that run the same agent, only one gets its step
//! in, and the other reads again.
//!
//! ```text
//! cargo run --example checkpointer -- DIR
//! ```

use std::thread;

use memlog::{Agent, ErrorKind, Kind, Lsn, NewEntry, Store};

const KEY: &str = "checkpoint";
const STEPS: u64 = 20;

/// The last checkpoint and its revision.
fn last(agent: &Agent) -> Result<(u64, Option<Lsn>), Box<dyn std::error::Error + Send + Sync>> {
    match agent.view()?.state(KEY)? {
        None => Ok((0, None)),
        Some(found) => Ok((std::str::from_utf8(found.value())?.parse()?, Some(found.revision()))),
    }
}

/// Takes steps until there are `STEPS` more than at the beginning; gives how many were its own and
/// how many times somebody else was faster.
fn work(
    store: &Store,
    agent: &Agent,
    until: u64,
) -> Result<(u64, u64), Box<dyn std::error::Error + Send + Sync>> {
    let (mut mine, mut conflicts) = (0, 0);
    loop {
        let (step, revision) = last(agent)?;
        if step >= until {
            return Ok((mine, conflicts));
        }
        let next = (step + 1).to_string();
        // The step and its checkpoint get in together or not at all.
        let mut batch = store.batch();
        batch
            .expect_revision(agent, KEY, revision)
            .append(agent, NewEntry::new(Kind::OBSERVATION, &format!("step {next}")))
            .set(agent, KEY, &next);
        match batch.commit() {
            Ok(_) => mine += 1,
            Err(error) if error.kind() == ErrorKind::Conflict => conflicts += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let dir = std::env::args().nth(1).unwrap_or("memlog-store".into());
    let store = Store::open(dir)?;
    let agent = store.agent("acme/graph/run-1")?;
    let until = last(&agent)?.0 + STEPS;
    let before = agent.view()?.next_seq();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(|| work(&store, &agent, until))).collect();
        workers.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    for (worker, outcome) in outcomes.into_iter().enumerate() {
        let (mine, conflicts) = outcome.map_err(|_| "a worker panicked")??;
        println!("worker {worker}: {mine} steps, {conflicts} times somebody else was faster");
    }
    let written = agent.view()?.next_seq() - before;
    println!("checkpoint {until}, {written} steps in the timeline, none twice and none missing");
    store.close()?;
    if written == STEPS { Ok(()) } else { Err("steps and checkpoints disagree".into()) }
}

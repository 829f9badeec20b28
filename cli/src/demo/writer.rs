//! The process that the demo kills: appends without end and reports what is acknowledged.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use clap::Args;
use memlog::{Agent, Durability, Options, Store};

use super::acks::Ack;
use super::source::{COUNTER, Conversation, Source};
use crate::args::Globals;
use crate::failure::Failure;
use crate::open::{Access, open_with};

/// `demo-writer`
#[derive(Args)]
pub(crate) struct WriterArgs {
    #[arg(long)]
    input: Option<PathBuf>,
    #[arg(long)]
    agents: u32,
    #[arg(long)]
    threads: u32,
}

/// What all threads share.
struct Shared<'a> {
    store: &'a Store,
    source: &'a Source,
    /// The pipe to the demo. Each acknowledgement is one write of its own.
    pipe: &'a File,
    next_agent: &'a AtomicU32,
    stop: &'a AtomicBool,
}

pub(crate) fn run(globals: &Globals, args: &WriterArgs) -> Result<(), Failure> {
    let source = Source::load(args.input.as_deref())?;
    let options = Options::new().durability(Durability::Sync);
    let store = open_with(globals, Access::Create, options)?;
    let pipe = std::io::stdout().as_fd().try_clone_to_owned().map(File::from)?;
    let (next_agent, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let shared = Shared {
        store: &store,
        source: &source,
        pipe: &pipe,
        next_agent: &next_agent,
        stop: &stop,
    };
    let threads = args.threads.clamp(1, args.agents.max(1));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|n| {
                let slots = args.agents / threads + u32::from(n < args.agents % threads);
                let shared = &shared;
                scope.spawn(move || {
                    let ended = work(shared, slots);
                    shared.stop.store(true, Ordering::Relaxed);
                    ended
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(Failure::other("a thread of the writer panicked")))
        })
    })
}

/// One agent that is being written.
struct Slot<'a> {
    index: u32,
    agent: Agent,
    conversation: &'a Conversation,
    next: usize,
    batches: u64,
}

/// Appends to `slots` agents in turn, one batch each, and takes up a new agent for a finished one.
fn work(shared: &Shared<'_>, slots: u32) -> Result<(), Failure> {
    let mut writing = Vec::new();
    for _ in 0..slots.max(1) {
        writing.push(take_up(shared)?);
    }
    loop {
        for slot in &mut writing {
            if shared.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let Some(unit) = slot.conversation.units.get(slot.next).cloned() else {
                *slot = take_up(shared)?;
                continue;
            };
            append(shared, slot, unit)?;
            slot.next += 1;
        }
    }
}

fn take_up<'a>(shared: &Shared<'a>) -> Result<Slot<'a>, Failure> {
    let index = shared.next_agent.fetch_add(1, Ordering::Relaxed);
    let (conversation, name) =
        shared.source.agent(index).ok_or_else(|| Failure::other("out of agents"))?;
    let agent = shared.store.agent(&name)?;
    Ok(Slot { index, agent, conversation, next: 0, batches: 0 })
}

fn append(shared: &Shared<'_>, slot: &mut Slot<'_>, unit: Range<usize>) -> Result<(), Failure> {
    let messages = slot.conversation.messages.get(unit.clone()).unwrap_or_default();
    let begun = Instant::now();
    let last = match messages {
        [message] => slot.agent.append(message.entry())?,
        messages => {
            slot.batches += 1;
            let mut batch = shared.store.batch();
            for message in messages {
                batch.append(&slot.agent, message.entry());
            }
            batch.set(&slot.agent, COUNTER, &slot.batches.to_string());
            batch.commit()?.seqs(&slot.agent).end.saturating_sub(1)
        }
    };
    let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let ack = Ack {
        agent: slot.index,
        seq: u32::try_from(last).unwrap_or(u32::MAX),
        entries: u16::try_from(messages.len()).unwrap_or(u16::MAX),
        nanos,
    };
    // If the demo is gone there is nobody to write for: the error ends the writer quietly.
    let mut pipe = shared.pipe;
    pipe.write_all(&ack.encode())?;
    Ok(())
}

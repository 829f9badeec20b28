//! Stores that are filled for a measurement.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use memlog::{Agent, Durability, Kind, NewEntry, Options, Store};

use crate::common::{Dice, text, touch};

/// How many agents with how many entries of how many bytes.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) agents: u64,
    pub(crate) entries: u64,
    pub(crate) bytes: usize,
}

impl Shape {
    pub(crate) fn logical(&self) -> u64 {
        self.agents * self.entries * self.bytes as u64
    }
}

/// The options of these programs: appends wait for no disk.
pub(crate) fn options() -> Options {
    Options::new().durability(Durability::Buffer)
}

pub(crate) fn name(agent: u64) -> String {
    format!("tenant-{}/user-{agent}", agent % 100)
}

/// What every payload is made of.
pub(crate) struct Payloads {
    text: Vec<u8>,
    buffer: Vec<u8>,
}

impl Payloads {
    pub(crate) fn new(bytes: usize) -> Payloads {
        Payloads { text: text(bytes), buffer: Vec::with_capacity(bytes) }
    }

    /// The agent's name, the marker if there is one, and text up to the number of bytes.
    pub(crate) fn of(&mut self, agent: &Agent, marker: &[u8]) -> &[u8] {
        let (bytes, buffer) = (self.text.len(), &mut self.buffer);
        buffer.clear();
        write!(buffer, "{} ", agent.name()).unwrap();
        buffer.extend_from_slice(marker);
        buffer.extend_from_slice(&self.text[buffer.len().min(bytes)..]);
        buffer.truncate(bytes.max(marker.len()));
        buffer
    }
}

/// Whether a payload is that agent's.
pub(crate) fn belongs_to(payload: &[u8], agent: &str) -> bool {
    payload.strip_prefix(agent.as_bytes()).is_some_and(|rest| rest.first() == Some(&b' '))
}

/// Appends an entry to each agent in turn, in another random order each time, so that every agent
/// is scattered over the whole of the log.
pub(crate) fn round_robin(store: &Store, agents: &[(Agent, Vec<u8>)], shape: &Shape) -> Duration {
    let mut payloads = Payloads::new(shape.bytes);
    let mut dice = Dice::new(7);
    let mut order: Vec<usize> = (0..agents.len()).collect();
    let start = Instant::now();
    for _ in 0..shape.entries {
        dice.shuffle(&mut order);
        for (agent, marker) in order.iter().map(|at| &agents[*at]) {
            append(agent, marker, &mut payloads);
        }
    }
    store.sync().unwrap();
    start.elapsed()
}

/// Appends all of an agent's entries before those of the next: what no compaction can surpass.
pub(crate) fn clustered(store: &Store, agents: &[(Agent, Vec<u8>)], shape: &Shape) -> Duration {
    let mut payloads = Payloads::new(shape.bytes);
    let start = Instant::now();
    for (agent, marker) in agents {
        for _ in 0..shape.entries {
            append(agent, marker, &mut payloads);
        }
    }
    store.sync().unwrap();
    start.elapsed()
}

fn append(agent: &Agent, marker: &[u8], payloads: &mut Payloads) {
    let entry = NewEntry::new(Kind::ASSISTANT, payloads.of(agent, marker));
    agent.append(entry).unwrap();
}

/// Agents of a store by number, without a marker.
pub(crate) fn agents(store: &Store, numbers: impl Iterator<Item = u64>) -> Vec<(Agent, Vec<u8>)> {
    numbers.map(|agent| (store.agent(&name(agent)).unwrap(), vec![])).collect()
}

/// Looks at the latest entries of an agent; gives their bytes.
pub(crate) fn load(store: &Store, name: &str, latest: usize) -> u64 {
    let view = store.agent(name).unwrap().view().unwrap();
    let mut bytes = 0;
    for entry in view.latest(latest) {
        let entry = entry.unwrap();
        touch(entry.payload());
        bytes += entry.payload().len() as u64;
    }
    bytes
}

/// Closes a store and lets go of its maps, then takes its files out of the page cache.
pub(crate) fn close_and_evict(store: Store, dir: &Path) {
    store.close().unwrap();
    drop(store);
    super::disk::evict(dir).unwrap();
}

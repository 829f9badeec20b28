//! What is appended: whose turn comes when, and which bytes it has. The same for every engine, and
//! told by (agent, seq) alone, so that any process can check any content.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Res;

/// How long turns are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Sizes {
    /// As in conversations: median 350 B, p90 2 KB, p99 12 KB, at most 64 KB.
    Conversation,
    /// All alike.
    Fixed(usize),
}

impl std::str::FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "conversation" {
            return Ok(Sizes::Conversation);
        }
        match text.parse() {
            Ok(bytes) if (1..=LARGEST).contains(&bytes) => Ok(Sizes::Fixed(bytes)),
            _ => Err(format!("{text}: `conversation`, or bytes from 1 to {LARGEST}")),
        }
    }
}

const LARGEST: usize = 64 << 10;

/// Shares of all turns, and the length that so many do not exceed. Between two of these the
/// logarithm of the length grows evenly.
const CONVERSATION: [(f64, f64); 6] = [
    (0.0, 40.0),
    (0.5, 350.0),
    (0.9, 2000.0),
    (0.99, 12_000.0),
    (0.9999, 40_000.0),
    (1.0, LARGEST as f64),
];

impl Sizes {
    fn len(self, share: f64) -> usize {
        match self {
            Sizes::Fixed(bytes) => bytes,
            Sizes::Conversation => {
                let above = CONVERSATION.partition_point(|point| point.0 <= share).clamp(1, 5);
                let ((from, least), (to, most)) = (CONVERSATION[above - 1], CONVERSATION[above]);
                let along = (share - from) / (to - from);
                (least * (most / least).powf(along)) as usize
            }
        }
    }
}

/// How the load is made; goes to each child process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadSpec {
    pub agents: u32,
    pub sizes: Sizes,
    /// Exponent of Zipf's law over the agents; 0 is all alike.
    pub zipf: f64,
    /// A JSONL file whose turns are taken instead.
    pub replay: Option<std::path::PathBuf>,
    pub seed: u64,
}

/// A source of turns.
pub struct Load {
    spec: LoadSpec,
    /// Text that turns are slices of.
    pool: Vec<u8>,
    replay: Option<Replay>,
}

/// The turns of a file. After its end it begins anew.
struct Replay {
    /// Whose turn it is, in the order of the file.
    order: Vec<u32>,
    /// Of each agent: where in the pool its turns lie.
    turns: Vec<Vec<(usize, usize)>>,
}

const POOL: usize = 4 << 20;

impl Load {
    pub fn new(spec: &LoadSpec) -> Res<Load> {
        let mut spec = spec.clone();
        let (pool, replay) = match &spec.replay {
            None => (text(POOL + LARGEST, spec.seed), None),
            Some(path) => {
                let (pool, replay) = read(path)?;
                spec.agents = replay.turns.len() as u32;
                (pool, Some(replay))
            }
        };
        Ok(Load { spec, pool, replay })
    }

    pub fn agents(&self) -> u32 {
        self.spec.agents
    }

    /// The bytes of a turn.
    pub fn turn(&self, agent: u32, seq: u64) -> &[u8] {
        if let Some(replay) = &self.replay {
            let turns = &replay.turns[agent as usize];
            let (at, len) = turns[(seq - 1) as usize % turns.len()];
            return &self.pool[at..at + len];
        }
        let dice = mix(self.spec.seed ^ mix(u64::from(agent) << 32 | seq));
        let share = (dice >> 11) as f64 / (1u64 << 53) as f64;
        let len = self.spec.sizes.len(share);
        let at = mix(dice) as usize % POOL;
        &self.pool[at..at + len]
    }

    /// Whose turns come, for one of several threads: each agent belongs to one thread.
    pub fn order(&self, thread: u32, threads: u32, count: usize, salt: u64) -> Vec<u32> {
        if let Some(replay) = &self.replay {
            let mine = |agent: &&u32| **agent % threads == thread;
            return replay.order.iter().filter(mine).copied().cycle().take(count).collect();
        }
        let zipf = Zipf::new(self.agents(), self.spec.zipf);
        let mut dice = Dice::new(self.spec.seed ^ salt ^ (u64::from(thread) << 40));
        // A rank is not an agent: the busy ones lie anywhere in the order of keys.
        (0..count)
            .map(|_| {
                let agent = scatter(zipf.draw(&mut dice), self.agents());
                let mine = agent - agent % threads + thread;
                if mine < self.agents() { mine } else { thread % self.agents() }
            })
            .collect()
    }

    /// A filling in which each agent gets as many turns, all mixed. A replay is taken as it is.
    pub fn filling(&self, each: u64) -> Vec<u32> {
        let total = u64::from(self.agents()) * each;
        if self.replay.is_some() {
            return self.order(0, 1, total as usize, 0);
        }
        let mut order: Vec<u32> =
            (0..total).map(|i| (i % u64::from(self.agents())) as u32).collect();
        Dice::new(self.spec.seed).shuffle(&mut order);
        order
    }
}

/// How many turns each agent has after these.
pub fn heads(agents: u32, order: &[u32]) -> Vec<u64> {
    let mut heads = vec![0; agents as usize];
    for agent in order {
        heads[*agent as usize] += 1;
    }
    heads
}

fn scatter(rank: u32, agents: u32) -> u32 {
    // Odd, and no multiple of a usual number of agents: a walk that visits each once.
    let step = 2_654_435_761 % u64::from(agents).max(1);
    let step = (step..).find(|step| gcd(*step, u64::from(agents)) == 1).unwrap_or(1);
    (u64::from(rank) * step % u64::from(agents)) as u32
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Zipf's law by its running sums.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(agents: u32, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let sums = (1..=agents).map(|rank| {
            sum += f64::from(rank).powf(-exponent);
            sum
        });
        Zipf(sums.collect())
    }

    fn draw(&self, dice: &mut Dice) -> u32 {
        let most = self.0.last().copied().unwrap_or(1.0);
        let mark = dice.share() * most;
        self.0.partition_point(|sum| *sum < mark).min(self.0.len() - 1) as u32
    }
}

/// Splitmix64.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(mix(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Printable text that no compressor makes anything of, and that JSON need not escape.
fn text(len: usize, seed: u64) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .";
    let mut dice = Dice::new(seed ^ 0x7e87);
    (0..len).map(|_| LETTERS[(dice.next() >> 58) as usize]).collect()
}

/// Reads a JSONL file: `agent`, `thread`, `session` or `id` says whose turn a line is, `content`,
/// `text` or `payload` what was said. Where there is neither, the line as it is is a turn.
fn read(path: &Path) -> Res<(Vec<u8>, Replay)> {
    let file = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut names: HashMap<String, u32> = HashMap::new();
    let (mut pool, mut order, mut turns) = (vec![], vec![], vec![]);
    for (number, line) in file.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value: serde_json::Value = serde_json::from_str(line)
            .map_err(|e| format!("{}, line {}: {e}", path.display(), number + 1))?;
        let field = |names: &[&str]| names.iter().find_map(|name| value.get(*name));
        let name = field(&["agent", "thread", "session", "id"]).map_or(String::new(), plain);
        let turn = field(&["content", "text", "payload"]).map_or(line.to_owned(), plain);
        let next = names.len() as u32;
        let agent = *names.entry(name).or_insert(next);
        if agent == next {
            turns.push(vec![]);
        }
        turns[agent as usize].push((pool.len(), turn.len()));
        pool.extend_from_slice(turn.as_bytes());
        order.push(agent);
    }
    if order.is_empty() {
        return Err(format!("{}: no line with a turn", path.display()).into());
    }
    Ok((pool, Replay { order, turns }))
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(agents: u32) -> LoadSpec {
        LoadSpec { agents, sizes: Sizes::Conversation, zipf: 1.0, replay: None, seed: 1 }
    }

    #[test]
    fn lengths_are_those_of_conversations() {
        let load = Load::new(&spec(100)).unwrap();
        let mut lens: Vec<_> =
            (0..200_000).map(|i| load.turn(i % 100, u64::from(i / 100) + 1).len()).collect();
        lens.sort_unstable();
        let at = |share: f64| lens[(lens.len() as f64 * share) as usize] as f64;
        for (share, len) in [(0.5, 350.0), (0.9, 2000.0), (0.99, 12_000.0)] {
            assert!((at(share) / len - 1.0).abs() < 0.1, "{share}: {}", at(share));
        }
        assert!(lens[lens.len() - 1] > 30_000 && lens[lens.len() - 1] <= LARGEST);
    }

    #[test]
    fn each_agent_belongs_to_one_thread_and_few_are_busy() {
        let load = Load::new(&spec(1000)).unwrap();
        for thread in 0..4 {
            let order = load.order(thread, 4, 10_000, 7);
            assert!(order.iter().all(|agent| agent % 4 == thread));
            let mut counts = heads(1000, &order);
            counts.sort_unstable_by(|a, b| b.cmp(a));
            assert!(counts[0] > 500 && counts[..25].iter().sum::<u64>() > 4000, "{counts:?}");
        }
    }

    #[test]
    fn a_replayed_file_gives_its_turns_in_its_order() {
        let path = std::env::temp_dir().join(format!("replay-{}.jsonl", std::process::id()));
        let lines = "{\"agent\":\"a\",\"content\":\"one\"}\n{\"agent\":\"b\",\"text\":\"two\"}\n\
                     \n{\"agent\":\"a\",\"content\":{\"x\":3}}\n";
        std::fs::write(&path, lines).unwrap();
        let load = Load::new(&LoadSpec { replay: Some(path.clone()), ..spec(9) }).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!(load.agents(), 2);
        assert_eq!(load.order(0, 1, 5, 0), [0, 1, 0, 0, 1]);
        assert_eq!(load.turn(0, 2), b"{\"x\":3}");
        assert_eq!(load.turn(1, 4), b"two");
    }
}

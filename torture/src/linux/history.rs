//! What was done to a store in its rounds, short enough to hand to another process.

use std::fmt::Write;
use std::path::Path;

use crate::linux::lane::Lane;

/// One round: a process that wrote, and how far each lane came.
#[derive(Clone, Debug, Default)]
pub struct Round {
    pub number: u64,
    /// Of each lane: how many steps in all, and whether what the next one does alone was done too.
    pub reached: Vec<(u64, bool)>,
}

/// A store's past.
#[derive(Clone, Debug)]
pub struct History {
    pub seed: u64,
    pub lanes: u64,
    pub rounds: Vec<Round>,
}

impl History {
    pub fn new(seed: u64, lanes: u64) -> History {
        History { seed, lanes, rounds: Vec::new() }
    }

    /// The lanes as the rounds left them.
    pub fn lanes(&self) -> Vec<Lane> {
        let mut lanes: Vec<Lane> = (0..self.lanes).map(Lane::new).collect();
        for round in &self.rounds {
            for (lane, (done, single)) in lanes.iter_mut().zip(&round.reached) {
                while lane.done < *done {
                    let step = lane.step(self.seed, round.number);
                    lane.apply(&step, None);
                }
                if let (true, Some(single)) = (single, lane.step(self.seed, round.number).single) {
                    lane.apply_single(&single);
                }
            }
        }
        lanes
    }

    pub fn write(&self, path: &Path) {
        let mut out = format!("{} {}\n", self.seed, self.lanes);
        for round in &self.rounds {
            write!(out, "{}", round.number).unwrap();
            for (done, single) in &round.reached {
                write!(out, " {done}{}", if *single { "+" } else { "" }).unwrap();
            }
            out.push('\n');
        }
        std::fs::write(path, out).unwrap();
    }

    pub fn read(path: &Path) -> History {
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        let (seed, lanes) = lines.next().and_then(|line| line.split_once(' ')).unwrap();
        let mut history = History::new(seed.parse().unwrap(), lanes.parse().unwrap());
        for line in lines {
            let mut words = line.split(' ');
            let number = words.next().unwrap().parse().unwrap();
            let reached = words
                .map(|word| (word.trim_end_matches('+').parse().unwrap(), word.ends_with('+')))
                .collect();
            history.rounds.push(Round { number, reached });
        }
        history
    }
}

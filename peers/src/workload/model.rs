//! What a store has to hold, passed from the process that wrote it to the one that checks it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::Res;

/// Of each agent: its lowest seq, the highest that has to be there, and the highest that may be.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Model {
    pub floors: Vec<u64>,
    pub heads: Vec<u64>,
    pub most: Vec<u64>,
}

impl Model {
    /// Everything from the first turn on is there.
    pub fn whole(heads: Vec<u64>) -> Model {
        Model { floors: vec![1; heads.len()], most: heads.clone(), heads }
    }

    pub fn read(path: &Path) -> Res<Model> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    pub fn write(&self, path: &Path) -> Res<()> {
        Ok(std::fs::write(path, serde_json::to_vec(self)?)?)
    }
}

/// Heads while threads append. Each agent belongs to one thread.
pub struct Heads(Vec<AtomicU64>);

impl Heads {
    pub fn new(heads: &[u64]) -> Heads {
        Heads(heads.iter().map(|head| AtomicU64::new(*head)).collect())
    }

    pub fn get(&self, agent: u32) -> u64 {
        self.0[agent as usize].load(Ordering::Relaxed)
    }

    pub fn set(&self, agent: u32, head: u64) {
        self.0[agent as usize].store(head, Ordering::Relaxed);
    }

    pub fn all(&self) -> Vec<u64> {
        self.0.iter().map(|head| head.load(Ordering::Relaxed)).collect()
    }
}

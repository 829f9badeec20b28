//! The set of sealed segments as it changes, and the work that keeps look-ups in it cheap.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::hash_name;
use crate::catalog::set::SegmentSet;
use crate::catalog::sieve::{Columns, Sieve};
use crate::error::Result;
use crate::segment::Segment;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};

/// Log segments that may stay unknown to all sieves: a look-up reads the filter of each.
const FEW: usize = 8;
/// Agents that are sifted in the time of one look-up in a filter: 100 ns an agent against 200 ns.
const AGENTS_A_PROBE: u64 = 2;

/// The set of sealed segments.
pub(crate) struct Sealed {
    current: RwLock<Arc<SegmentSet>>,
    /// Held while a set is made from the one before it, so that readers never wait for that.
    changing: Mutex<()>,
    /// Held while segments are sifted: the ids of those that cannot be, since their directories are
    /// damaged.
    sifting: Mutex<BTreeSet<u64>>,
    /// Filters that look-ups read since a look-up sifted a segment.
    asked: AtomicU64,
}

impl Sealed {
    pub(crate) fn new() -> Self {
        Sealed {
            current: RwLock::new(Arc::new(SegmentSet::new(0, Vec::new()))),
            changing: Mutex::default(),
            sifting: Mutex::default(),
            asked: AtomicU64::new(0),
        }
    }

    pub(crate) fn current(&self) -> Arc<SegmentSet> {
        Arc::clone(&self.current.read())
    }

    /// Installs a new set made from the old one; gives its generation.
    pub(crate) fn install(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>, u64)) -> u64 {
        let _changing = self.changing.lock();
        let before = self.current();
        let generation = before.generation + 1;
        let mut sealed = before.sealed.clone();
        change(&mut sealed, generation);
        *self.current.write() = Arc::new(before.succeeded_by(generation, sealed));
        generation
    }

    /// Notes that a look-up read the filters of the segments of this set that no sieve knows. Once that
    /// has cost as much as sifting a segment, the look-up sifts one. An opening sifts nothing; look-ups
    /// after it take at most twice the time that sifting everything at the opening would take.
    pub(crate) fn note_look_up(&self, set: &SegmentSet, seed: u64) {
        let Some(oldest) = set.unsifted().get(FEW) else { return };
        let count = set.unsifted().len() as u64;
        let asked = self.asked.fetch_add(count, Ordering::Relaxed).saturating_add(count);
        let agents = oldest.trailer().map_or(0, |trailer| trailer.agents);
        if asked >= agents / AGENTS_A_PROBE {
            self.asked.store(0, Ordering::Relaxed);
            self.sift(1, seed);
        }
    }

    /// Adds up to this many log segments to the sieves, the newest first. Walks their directories.
    /// `seed` is that of the hash of names.
    pub(crate) fn sift(&self, most: usize, seed: u64) {
        // Another thread is at it. Look-ups read the filters of the segments meanwhile.
        let Some(mut failed) = self.sifting.try_lock() else { return };
        for _ in 0..most {
            let set = self.current();
            let mut left = set.unsifted().iter().rev();
            let Some(segment) = left.find(|log| !failed.contains(&log.id)) else { return };
            match sieve_of(segment, seed) {
                Ok(sieve) => self.add(&set, Some(sieve)),
                // Look-ups go on to read its filter, and report the damage if they meet it.
                Err(_) => drop(failed.insert(segment.id)),
            }
        }
    }

    /// Gives memory back that sieves take for segments that are gone.
    pub(crate) fn tidy(&self) {
        if let Some(_sifting) = self.sifting.try_lock() {
            self.add(&self.current(), None);
        }
    }

    /// Adds a sieve, and joins sieves where that is due. Called by one thread at a time, under
    /// `sifting`.
    fn add(&self, set: &SegmentSet, sieve: Option<Sieve>) {
        let mut sieves: Vec<(Arc<Sieve>, Columns)> =
            set.sieves().map(|(sieve, live)| (Arc::clone(sieve), live)).collect();
        let added = sieve.is_some();
        sieves.extend(sieve.map(|sieve| (Arc::new(sieve), 1)));
        let mut joined_any = false;
        loop {
            let all: Vec<_> = sieves.iter().map(|(sieve, live)| (&**sieve, *live)).collect();
            let Some(due) = Sieve::to_join(&all) else { break };
            joined_any = true;
            let parts: Vec<_> = due.iter().filter_map(|at| all.get(*at).copied()).collect();
            let joined = Sieve::join(&parts);
            let live = Columns::MAX >> (64 - joined.columns().len().clamp(1, 64));
            let mut at = 0;
            sieves.retain(|_| {
                at += 1;
                !due.contains(&(at - 1))
            });
            sieves.push((Arc::new(joined), live));
        }
        if !added && !joined_any {
            return;
        }
        let _changing = self.changing.lock();
        // Segments that came or went meanwhile are told apart by their ids.
        let next = self.current().sifted_by(sieves.into_iter().map(|(sieve, _)| sieve).collect());
        *self.current.write() = Arc::new(next);
    }
}

/// A sieve that knows the names of one segment.
fn sieve_of(segment: &Segment, seed: u64) -> Result<Sieve> {
    let fault = |fault| segment.footer_damage(fault);
    let agents = segment.trailer().map_or(0, |trailer| trailer.agents);
    let mut sieve = Sieve::new(segment.id, agents);
    let Some(footer) = segment.footer() else { return Ok(sieve) };
    let footer = footer?;
    segment.announce_directory();
    let mut position = footer.first();
    while let Some((name, _)) = footer.entry(position).map_err(fault)? {
        sieve.insert(hash_name(seed, name));
        position = footer.next(position).map_err(fault)?;
    }
    Ok(sieve)
}

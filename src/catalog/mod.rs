//! The agents in use and the set of sealed segments. Memory is spent on agents in use: whatever is
//! at rest can be dropped, and is found again through the footers.

pub(crate) mod base;
#[cfg(all(test, feature = "sim"))]
mod base_tests;
pub(crate) mod dead;
pub(crate) mod deaths;
mod evict;
mod forgotten;
pub(crate) mod lookup;
pub(crate) mod names;
#[cfg(all(test, feature = "sim"))]
mod names_tests;
pub(crate) mod part;
pub(crate) mod resident;
pub(crate) mod roll;
pub(crate) mod runs;
mod sealed;
pub(crate) mod set;
#[cfg(all(test, feature = "sim"))]
mod set_tests;
mod sieve;
pub(crate) mod version;

use std::borrow::Borrow;
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Weak};

use smallvec::SmallVec;

use crate::catalog::base::Base;
use crate::catalog::deaths::Deaths;
use crate::catalog::evict::{Evicted, STEPS};
use crate::catalog::forgotten::{Over, Prefixes};
use crate::catalog::lookup::Lookup;
use crate::catalog::resident::{Progress, Resident, Slot};
use crate::catalog::sealed::Sealed;
use crate::catalog::set::SegmentSet;
use crate::error::Result;
use crate::format::head::Head;
use crate::format::manifest::Forgotten;
use crate::segment::Segment;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const SHARDS: usize = 64;
/// Agents taken from a shard under one hold of its lock, where all are gone through.
const A_FEW: usize = 256;

/// The agents in use and the set of sealed segments.
pub(crate) struct Catalog {
    seed: u64,
    shards: Box<[Mutex<Shard>]>,
    /// Bytes that agents at rest may take, for one shard.
    budget: usize,
    sealed: Sealed,
    prefixes: Prefixes,
    resident_bytes: AtomicUsize,
    /// The shard that agents at rest are let go of next.
    hand: AtomicUsize,
    /// What died since the store was opened.
    pub(crate) deaths: Deaths,
    /// The generation of the last set from which segments were taken.
    exchanged: AtomicU64,
    /// Segments taken out of the set whose bytes somebody may still look at.
    retired: Mutex<Vec<Weak<Segment>>>,
}

#[derive(Default)]
struct Shard {
    agents: HashSet<Known, BuildHasherDefault<Passed>>,
    /// The same agents in the order of the eviction clock.
    clock: VecDeque<Arc<Resident>>,
    /// How many the hand of the clock has passed.
    passed: u64,
}

/// An agent in the table of its shard. The hash is beside it, so that a table grows without looking
/// at its agents.
struct Known {
    hash: u64,
    resident: Arc<Resident>,
}

/// What an agent is found by, in the table and by whoever looks for it.
trait Named {
    fn name(&self) -> (u64, &str);
}

impl Named for Known {
    fn name(&self) -> (u64, &str) {
        (self.hash, &self.resident.name)
    }
}

impl Named for (u64, &str) {
    fn name(&self) -> (u64, &str) {
        *self
    }
}

impl PartialEq for dyn Named + '_ {
    fn eq(&self, other: &Self) -> bool {
        let ((hash, name), (other_hash, other_name)) = (self.name(), other.name());
        // Mostly it is the very string that the agent was made with.
        hash == other_hash && (std::ptr::eq(name, other_name) || name == other_name)
    }
}

impl Eq for dyn Named + '_ {}

impl std::hash::Hash for dyn Named + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.name().0);
    }
}

impl<'a> Borrow<dyn Named + 'a> for Known {
    fn borrow(&self) -> &(dyn Named + 'a) {
        self
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        let other: &dyn Named = other;
        self as &dyn Named == other
    }
}

impl Eq for Known {}

impl std::hash::Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Shard {
    /// The agent at the hand of the clock, which moves on.
    fn pass(&mut self) -> Option<Arc<Resident>> {
        let first = self.clock.pop_front()?;
        self.passed += 1;
        Some(first)
    }

    /// The agents from a place of the clock on. Places are counted from the first agent that there ever
    /// was. An agent that the hand has passed is gone, or comes again later.
    fn clock_from(&self, at: &mut u64) -> impl Iterator<Item = &Arc<Resident>> {
        *at = (*at).max(self.passed);
        let from = usize::try_from(*at - self.passed).unwrap_or(usize::MAX);
        self.clock.range(from.min(self.clock.len())..)
    }

    fn find(&self, name: &str, hash: u64) -> Option<&Arc<Resident>> {
        self.agents.get(&(hash, name) as &dyn Named).map(|known| &known.resident)
    }
}

/// Passes on a hash that was computed before.
#[derive(Default)]
struct Passed(u64);

impl Hasher for Passed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {}

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

impl Catalog {
    /// `store` is the store's id, which seeds the hash of names.
    pub(crate) fn new(store: u128, budget: usize, forgotten: Vec<Forgotten>) -> Self {
        Catalog {
            seed: name_seed(store),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            budget: budget / SHARDS,
            sealed: Sealed::new(),
            prefixes: Prefixes::new(name_seed(store), forgotten),
            resident_bytes: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
            deaths: Deaths::default(),
            exchanged: AtomicU64::new(0),
            retired: Mutex::default(),
        }
    }

    /// The hash of a name, in memory and in filters.
    pub(crate) fn hash(&self, name: &str) -> u64 {
        hash_name(self.seed, name)
    }

    /// The agent of this name, made resident if it was not.
    pub(crate) fn resident(&self, name: &Arc<str>, hash: u64, progress: Progress) -> Arc<Resident> {
        // Let go of behind the lock: giving memory back may take the allocator long.
        let mut evicted = Evicted::default();
        let mut shard = self.shard(hash).lock();
        if let Some(resident) = shard.find(name, hash) {
            resident.touch();
            return Arc::clone(resident);
        }
        let resident = Arc::new(Resident::new(Arc::clone(name), hash));
        self.charge(&resident, &mut resident.lock());
        self.make_room(&mut shard, progress, STEPS, &mut evicted);
        shard.agents.insert(Known { hash, resident: Arc::clone(&resident) });
        shard.clock.push_back(Arc::clone(&resident));
        resident
    }

    /// The agent of this name, if it is resident.
    pub(crate) fn peek(&self, name: &str, hash: u64) -> Option<Arc<Resident>> {
        self.shard(hash).lock().find(name, hash).cloned()
    }

    /// Calls `each` with every resident agent.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Arc<Resident>)) {
        for shard in &self.shards {
            let mut at = 0;
            loop {
                // A few at a time, so that a thread that needs the shard does not wait for all of them.
                // They are copied first: `each` may take other locks.
                let few: Vec<_> = shard.lock().clock_from(&mut at).take(A_FEW).cloned().collect();
                if few.is_empty() {
                    break;
                }
                few.iter().for_each(&mut each);
                at += few.len() as u64;
            }
        }
    }

    /// Books what an agent takes now.
    pub(crate) fn charge(&self, resident: &Resident, slot: &mut Slot) {
        let bytes = slot.bytes(&resident.name);
        let before = std::mem::replace(&mut slot.charged, bytes);
        self.resident_bytes.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Bytes that resident agents take.
    pub(crate) fn resident_bytes(&self) -> usize {
        self.resident_bytes.load(Ordering::Relaxed)
    }

    /// Whether an agent in use exists, as far as is published.
    pub(crate) fn exists(&self, resident: &Resident, progress: Progress) -> bool {
        let mut slot = resident.lock();
        self.apply_prefixes(resident, &mut slot);
        slot.settle(progress);
        slot.published(progress).head.life != 0
    }

    /// The prefixes over the name whose forgetting is published.
    pub(crate) fn forgotten_over(&self, name: &str, progress: Progress) -> SmallVec<[Over; 2]> {
        self.prefixes.over(name, progress.durable)
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        let index = usize::try_from(hash >> 58).unwrap_or(0) % SHARDS;
        // The index is below the length, which is fixed.
        self.shards.get(index).unwrap_or_else(|| unreachable!("{SHARDS} shards"))
    }

    /// The sealed segments now.
    pub(crate) fn segments(&self) -> Arc<SegmentSet> {
        self.sealed.current()
    }

    /// Installs a new set made from the old one; gives its generation.
    pub(crate) fn install(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>, u64)) -> u64 {
        self.sealed.install(change)
    }

    /// Adds up to this many log segments to the sieves, the newest first. Look-ups then need not read the
    /// filter of each of them. Walks the names in their footers.
    pub(crate) fn sift(&self, most: usize) {
        self.sealed.sift(most, self.seed);
    }

    /// Puts compacted segments in the place of those that they were made from, and lets go of
    /// what refers to the latter.
    pub(crate) fn exchange(&self, gone: &[Arc<Segment>], come: &[Arc<Segment>]) {
        let is_gone = |id: u64| gone.iter().any(|segment| segment.id == id);
        let generation = self.install(|sealed, generation| {
            sealed.retain(|segment| !is_gone(segment.id));
            come.iter().for_each(|segment| segment.set_sealed_at(generation));
            sealed.extend(come.iter().cloned());
            // For one name that is the order of their ages: see `Lookup`.
            sealed.sort_by_key(|segment| (segment.lowest_lsn(), segment.id));
        });
        self.exchanged.fetch_max(generation, Ordering::SeqCst);
        self.sealed.tidy();
        let mut retired = self.retired.lock();
        retired.retain(|segment| segment.strong_count() > 0);
        retired.extend(gone.iter().map(Arc::downgrade));
        drop(retired);
        self.for_each(|resident| {
            let mut slot = resident.lock();
            if slot.base().is_some_and(|base| base.refers_to(is_gone)) {
                slot.drop_base();
                self.charge(resident, &mut slot);
            }
        });
    }

    /// Whether segments were replaced after the set of that generation.
    pub(crate) fn has_exchanged_since(&self, generation: u64) -> bool {
        self.exchanged.load(Ordering::SeqCst) > generation
    }

    /// Segments that were taken out of the set and that somebody still looks at: views, values,
    /// iterators.
    pub(crate) fn retired(&self) -> Vec<Arc<Segment>> {
        let mut retired = self.retired.lock();
        retired.retain(|segment| segment.strong_count() > 0);
        retired.iter().filter_map(Weak::upgrade).collect()
    }

    /// The forgotten prefixes whose forgetting lies below `durable`, with its lsn.
    pub(crate) fn forgotten(&self, durable: u64) -> Vec<Forgotten> {
        self.prefixes.below(durable)
    }

    /// How many prefixes are forgotten that something is held against.
    pub(crate) fn forgotten_prefixes(&self) -> usize {
        self.prefixes.len()
    }

    /// Drops forgettings of prefixes of which nothing is left to be held against.
    pub(crate) fn drop_forgotten(&self, over: &[Forgotten]) {
        // Whoever is resident may not have heard of them yet, and would live on.
        self.for_each(|resident| {
            let mut slot = resident.lock();
            if slot.is_known() {
                self.apply_prefixes(resident, &mut slot);
            }
        });
        self.prefixes.drop_up_to(over);
    }

    /// Adds a forgotten prefix. Called in the order of the lsns; what lies below `durable` is on
    /// stable storage.
    pub(crate) fn forget_prefix(&self, prefix: &str, lsn: u64, durable: u64) {
        self.prefixes.add(prefix, lsn, durable);
    }

    /// The lsn of the first forgetting of a prefix over the name since that life began. One probe for
    /// each `/` in the name.
    pub(crate) fn forgotten_since(&self, name: &str, life: u64) -> Option<u64> {
        self.prefixes.first_since(name, life)
    }

    /// Looks the agent up if it is not known yet. Reads footers, under no lock.
    pub(crate) fn learn(&self, resident: &Resident) -> Result<()> {
        while !resident.lock().is_known() {
            let set = self.segments();
            let head = lookup(&set, resident).head()?;
            self.sealed.note_look_up(&set, self.seed);
            let mut slot = resident.lock();
            // Segments that were taken out meanwhile may tell of a life that a prefix ended which
            // is forgotten itself by now.
            let outdated = set.generation < self.exchanged.load(Ordering::SeqCst);
            if !outdated && !slot.is_known() {
                // Forgotten prefixes are held against it by `apply_prefixes`, like those to come.
                slot.learn_head(head);
                self.charge(resident, &mut slot);
            }
        }
        Ok(())
    }

    /// Looks the agent up if it is not known yet, and loads with it what sealed segments hold of its
    /// life. Reads footers, under no lock. What is loaded stays while it is held.
    pub(crate) fn learn_all(
        &self,
        resident: &Resident,
        progress: Progress,
    ) -> Result<Option<Arc<Base>>> {
        let mut loaded = None;
        while !resident.lock().is_known() {
            let set = self.segments();
            let lives = |head: &Head| {
                head.life != 0 && self.forgotten_since(&resident.name, head.life).is_none()
            };
            let (head, base) = lookup(&set, resident).head_and_base(lives)?;
            self.sealed.note_look_up(&set, self.seed);
            let mut slot = resident.lock();
            // As in `learn` and `learn_base`.
            let outdated = set.generation < self.exchanged.load(Ordering::SeqCst);
            if !outdated && !slot.is_known() {
                slot.learn_head(head);
                // An outdated base is loaded again when it is needed.
                let _ = base.is_some_and(|base| slot.learn_base(base));
                loaded = slot.base().cloned();
                self.charge(resident, &mut slot);
            }
        }
        self.make_room_beside(resident, progress);
        Ok(loaded)
    }

    /// Loads what sealed segments hold of the life that `head` tells of, if it is not there yet. It
    /// stays while it is held.
    pub(crate) fn learn_base(
        &self,
        resident: &Resident,
        head: &Head,
        progress: Progress,
    ) -> Result<Option<Arc<Base>>> {
        loop {
            let found = resident.lock().base().filter(|base| base.life == head.life).cloned();
            if found.is_some() {
                return Ok(found);
            }
            let set = self.segments();
            let base = lookup(&set, resident).load(head)?;
            let mut slot = resident.lock();
            // Segments that were taken out meanwhile are not to be held on to.
            let outdated = set.generation < self.exchanged.load(Ordering::SeqCst);
            if !outdated && slot.learn_base(base) {
                let loaded = slot.base().cloned();
                self.charge(resident, &mut slot);
                drop(slot);
                self.make_room_beside(resident, progress);
                return Ok(loaded);
            }
        }
    }

    /// Holds the prefixes forgotten since the last time against the agent. `slot` is its own.
    #[inline]
    pub(crate) fn apply_prefixes(&self, resident: &Resident, slot: &mut Slot) {
        let count = self.prefixes.count();
        // What has not been looked up yet may live: it is held against that.
        if slot.prefixes_seen == count || !slot.is_known() {
            return;
        }
        // It dies of the first forgetting since its life began. Where nothing lives any more nothing
        // dies, but a life to come begins behind the last one, and must not be seen before others are
        // seen to be forgotten.
        let life = slot.latest().head.life;
        let first = self.forgotten_since(&resident.name, life).filter(|_| life != 0);
        let last = self.prefixes.last(&resident.name);
        let last = last.filter(|last| *last > first.unwrap_or(life));
        for lsn in first.into_iter().chain(last) {
            // The forgetting is published as soon as anything behind its first byte is durable.
            slot.queue_death(lsn, lsn + 1);
        }
        slot.prefixes_seen = count;
    }
}

fn lookup<'a>(set: &'a SegmentSet, resident: &'a Resident) -> Lookup<'a> {
    Lookup { set, name: &resident.name, hash: resident.hash }
}

/// What seeds the hash of names in a store: whoever chooses names does not know it.
pub(crate) fn name_seed(store: u128) -> u64 {
    let bytes = store.to_le_bytes();
    crate::format::codec::u64_at(&bytes, 0).unwrap_or(0)
}

/// The hash of a name (XXH3, 64 bits), which filters on disk depend on.
pub(crate) fn hash_name(seed: u64, name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), seed)
}

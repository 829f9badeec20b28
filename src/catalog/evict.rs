//! Eviction: agents at rest leave the memory while all of them take more than the budget.
//!
//! An eviction clock per shard has a few steps for each agent that comes, that is loaded, or that
//! comes to rest as its segment is sealed. So the steps keep up with any rate, and none is done for
//! agents that something holds. A store that rests goes round once more.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::catalog::base::Base;
use crate::catalog::resident::{Progress, Resident};
use crate::catalog::{Catalog, Known, Named, SHARDS, Shard};
use crate::sync::atomic::Ordering;

/// Agents looked at for eviction for one that comes, or that comes to rest,
pub(super) const STEPS: usize = 4;
/// and for one that is loaded, which takes more: most of the others may have nothing to let go of.
const STEPS_A_LOAD: usize = 16;
/// Agents looked at under one hold of a shard's lock, which appenders may wait for.
const A_HOLD: usize = 64;

/// What went. It is dropped outside of the shard's lock: giving memory back may take the allocator
/// long.
#[derive(Default)]
pub(super) struct Evicted {
    agents: SmallVec<[Resident; STEPS]>,
    /// Of agents that have to stay.
    bases: SmallVec<[Arc<Base>; STEPS]>,
}

impl Catalog {
    /// Whether agents at rest may take more than they are to.
    pub(crate) fn is_over_budget(&self) -> bool {
        self.resident_bytes() / SHARDS > self.budget
    }

    /// So many agents came to rest: lets go of as many, or of others, where they take too much.
    pub(crate) fn let_go(&self, at_rest: usize, progress: Progress) {
        self.go_round(at_rest.saturating_mul(STEPS), progress);
    }

    /// Lets go of agents at rest until they take no more than they are to. Each is looked at twice at
    /// most, since one that was used lately goes at the second look.
    pub(crate) fn let_go_of_all(&self, progress: Progress) {
        if !self.is_over_budget() {
            return;
        }
        // The shards take turns, so that the longest of them tells how many turns it takes.
        let longest = self.shards.iter().map(|shard| shard.lock().clock.len()).max().unwrap_or(0);
        let holds = longest.div_ceil(A_HOLD) * 2 * SHARDS;
        self.go_round(holds.saturating_mul(A_HOLD), progress);
    }

    /// Takes steps of all clocks, some of each at a time, until enough are let go of.
    fn go_round(&self, mut steps: usize, progress: Progress) {
        while steps > 0 && self.is_over_budget() {
            let at = self.hand.fetch_add(1, Ordering::Relaxed) % SHARDS;
            let Some(shard) = self.shards.get(at) else { return };
            let some = steps.min(A_HOLD);
            steps -= some;
            let mut evicted = Evicted::default();
            self.make_room(&mut shard.lock(), progress, some, &mut evicted);
        }
    }

    /// An agent that is there takes more than before: others of its shard make room for it.
    pub(super) fn make_room_beside(&self, resident: &Resident, progress: Progress) {
        if self.is_over_budget() {
            let (mut evicted, shard) = (Evicted::default(), self.shard(resident.hash));
            self.make_room(&mut shard.lock(), progress, STEPS_A_LOAD, &mut evicted);
        }
    }

    /// Lets go of agents at rest that were not used lately, if they take too much, in so many steps of
    /// the clock.
    pub(super) fn make_room(
        &self,
        shard: &mut Shard,
        progress: Progress,
        steps: usize,
        evicted: &mut Evicted,
    ) {
        for _ in 0..steps.min(shard.clock.len()) {
            if !self.is_over_budget() {
                break;
            }
            let Some(candidate) = shard.pass() else { break };
            match self.evict(shard, candidate, progress) {
                Ok(gone) => evicted.agents.push(gone),
                Err((kept, base)) => {
                    evicted.bases.extend(base);
                    shard.clock.push_back(kept);
                }
            }
        }
    }

    /// Takes an agent out of its table. Of one that somebody has, or that unsealed segments say more
    /// of than footers do, only the base goes. One that was used lately stays as it is.
    fn evict(
        &self,
        shard: &mut Shard,
        candidate: Arc<Resident>,
        progress: Progress,
    ) -> std::result::Result<Resident, (Arc<Resident>, Option<Arc<Base>>)> {
        if candidate.take_used() {
            return Err((candidate, None));
        }
        // Those that nobody has are had by the table, and by the hand that holds it now.
        if Arc::strong_count(&candidate) > 2 || candidate.lock_idle(progress).is_none() {
            let base = self.drop_base(&candidate);
            return Err((candidate, base));
        }
        let hash = candidate.hash;
        shard.agents.remove(&(hash, &*candidate.name) as &dyn Named);
        // A handle may get it, use it and let go of it without asking the table: until it is nobody's.
        let kept = match Arc::try_unwrap(candidate) {
            Ok(gone) => match gone.lock_idle(progress).map(|slot| slot.charged) {
                Some(charged) => {
                    self.resident_bytes.fetch_sub(charged, Ordering::Relaxed);
                    return Ok(gone);
                }
                None => Arc::new(gone),
            },
            Err(had) => had,
        };
        shard.agents.insert(Known { hash, resident: Arc::clone(&kept) });
        Err((kept, None))
    }

    fn drop_base(&self, resident: &Resident) -> Option<Arc<Base>> {
        let mut slot = resident.try_lock()?;
        // One that a view looks at would take its memory on, and be loaded once more.
        let unseen = slot.base().is_some_and(|base| Arc::strong_count(base) == 1);
        let base = if unseen { slot.drop_base() } else { None }?;
        self.charge(resident, &mut slot);
        Some(base)
    }
}

//! An agent in use: its versions that wait to be published, and what is known of its past.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::catalog::base::Base;
use crate::catalog::part::Part;
use crate::catalog::version::Version;
use crate::format::head::Head;
use crate::segment::Segment;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::types::{Durability, Retention};

/// How far the log has got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Everything below this lsn is with the operating system.
    pub(crate) written: u64,
    /// Everything below this lsn is on stable storage.
    pub(crate) durable: u64,
}

impl Progress {
    /// True if a batch that ends at `end` has reached the durability that it asked for.
    pub(crate) fn reached(&self, end: u64, durability: Durability) -> bool {
        match durability {
            Durability::Buffer => true,
            Durability::Write => end <= self.written,
            Durability::Sync => end <= self.durable,
        }
    }
}

/// An agent in use.
pub(crate) struct Resident {
    pub(crate) name: Arc<str>,
    pub(crate) hash: u64,
    slot: Mutex<Slot>,
    /// Held by whoever changes the agent by what it is now, while nobody else may.
    turn: Mutex<()>,
    /// Set by every use, cleared by the hand of the clock that evicts.
    used: AtomicBool,
}

/// A batch that is ordered and that not everybody may see yet.
struct Pending {
    /// The lsn at which the batch ends.
    end: u64,
    durability: Durability,
    after: Version,
}

/// The last state of an agent in a segment that is being sealed.
struct Sealing {
    segment: u64,
    head: Head,
    part: Option<Part>,
}

/// What is known of an agent in use.
pub(crate) struct Slot {
    /// False until the head has been looked up.
    known: bool,
    /// What everybody may see, as far as it was looked at.
    settled: Version,
    /// The lsn up to which the log must be written before the bytes of `settled` can be read.
    settled_end: u64,
    /// Ordered batches behind it, oldest first.
    pending: VecDeque<Pending>,
    base: Option<Arc<Base>>,
    /// A base of an older generation than this lacks a segment.
    sealed_at: u64,
    /// The segment that the last batch went to; 0: none that is unsealed.
    last_segment: u64,
    /// What the footers of segments that wait for them are to say, oldest first.
    sealing: Vec<Sealing>,
    /// How many forgettings of prefixes have been held against the name.
    pub(crate) prefixes_seen: u64,
    /// Bytes that the shard has charged for it.
    pub(crate) charged: usize,
    /// Somebody has the turn: other batches wait for it.
    held: bool,
    /// The floor of the version that was looked at last under a policy by bytes.
    floor: Option<Box<FloorMemo>>,
}

/// The floor of a version under a policy, and what it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FloorMemo {
    /// The version's head and lsn.
    pub(crate) version: (Head, u64),
    /// The base's.
    pub(crate) generation: u64,
    pub(crate) policy: Retention,
    pub(crate) floor: u64,
}

/// The right to be the only one who changes an agent.
pub(crate) struct Turn<'a> {
    resident: &'a Resident,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.resident.lock().held = false;
    }
}

impl Resident {
    pub(crate) fn new(name: Arc<str>, hash: u64) -> Self {
        let slot = Slot {
            known: false,
            settled: Version::at_rest(Head::absent()),
            settled_end: 0,
            pending: VecDeque::new(),
            base: None,
            sealed_at: 0,
            last_segment: 0,
            sealing: Vec::new(),
            prefixes_seen: 0,
            charged: 0,
            held: false,
            floor: None,
        };
        let turn = Mutex::default();
        Resident { name, hash, slot: Mutex::new(slot), turn, used: AtomicBool::new(true) }
    }

    /// Keeps others from changing the agent: they are not ordered before the turn is over.
    ///
    /// A change that depends on what is read of the agent could otherwise be outrun for ever by
    /// whoever appends. Forgetting a prefix is not kept out, since it knows no agents.
    pub(crate) fn take_turn(&self) -> Turn<'_> {
        let turn = self.turn.lock();
        self.lock().held = true;
        Turn { resident: self, _turn: turn }
    }

    /// Waits until nobody has the turn.
    pub(crate) fn await_turn(&self) {
        drop(self.turn.lock());
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock()
    }

    pub(crate) fn touch(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was used since it was last asked.
    pub(crate) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Its slot, if nobody holds it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Slot>> {
        self.slot.try_lock()
    }

    /// Its slot, if nobody holds it and nothing in it is needed.
    pub(crate) fn lock_idle(&self, progress: Progress) -> Option<MutexGuard<'_, Slot>> {
        let mut slot = self.slot.try_lock()?;
        slot.settle(progress);
        (!slot.is_ahead_of_footers()).then_some(slot)
    }
}

impl Slot {
    /// Whether somebody has the turn.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    /// The floor that was found last, of whichever version.
    #[inline]
    pub(crate) fn floor_memo(&self) -> Option<FloorMemo> {
        self.floor.as_deref().copied()
    }

    pub(crate) fn keep_floor(&mut self, memo: FloorMemo) {
        match &mut self.floor {
            Some(kept) => **kept = memo,
            none => *none = Some(Box::new(memo)),
        }
    }

    /// Whether the head has been looked up.
    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    /// Takes what a look-up found, unless somebody was faster.
    pub(crate) fn learn_head(&mut self, head: Head) {
        if !self.known {
            self.known = true;
            self.settled = Version::at_rest(head);
        }
    }

    /// Takes what recovery found of the agent in the active segment.
    pub(crate) fn adopt(&mut self, version: Version, segment: u64) {
        self.known = true;
        self.settled = version;
        self.last_segment = segment;
    }

    /// Takes a base. False if it is outdated already and must be loaded again.
    #[must_use]
    pub(crate) fn learn_base(&mut self, base: Base) -> bool {
        if base.generation < self.sealed_at {
            return false;
        }
        self.base = Some(Arc::new(base));
        true
    }

    /// Lets go of the base, which is read again when it is needed.
    pub(crate) fn drop_base(&mut self) -> Option<Arc<Base>> {
        self.base.take()
    }

    pub(crate) fn base(&self) -> Option<&Arc<Base>> {
        self.base.as_ref()
    }

    /// The agent as of the last ordered batch.
    pub(crate) fn latest(&self) -> &Version {
        self.pending.back().map_or(&self.settled, |p| &p.after)
    }

    /// The agent as everybody may see it, and the lsn up to which the log must be written before
    /// its bytes can be read.
    pub(crate) fn settled(&self) -> (&Version, u64) {
        (&self.settled, self.settled_end)
    }

    /// The agent as everybody may know it, its bytes written or not.
    pub(crate) fn published(&self, progress: Progress) -> &Version {
        let published = self.pending.iter().take_while(|p| progress.reached(p.end, p.durability));
        published.last().map_or(&self.settled, |p| &p.after)
    }

    /// Moves batches that have been published, and whose bytes can be read, out of the queue.
    #[inline(always)]
    pub(crate) fn settle(&mut self, progress: Progress) {
        if !self.pending.is_empty() {
            self.settle_pending(progress);
        }
    }

    fn settle_pending(&mut self, progress: Progress) {
        while let Some(first) = self.pending.front() {
            let readable = first.end <= progress.written;
            if !readable || !progress.reached(first.end, first.durability) {
                break;
            }
            if let Some(first) = self.pending.pop_front() {
                (self.settled, self.settled_end) = (first.after, first.end);
            }
        }
        if self.pending.is_empty() {
            // From the beginning again, which the processor's caches may still hold.
            self.pending.clear();
        }
    }

    /// The end of the last batch in the queue that is published but not written.
    pub(crate) fn unwritten(&self, progress: Progress) -> Option<u64> {
        let published = self.pending.iter().take_while(|p| progress.reached(p.end, p.durability));
        published.last().map(|p| p.end).filter(|end| *end > progress.written)
    }

    /// The end of the last batch in the queue that is not written, published or not.
    pub(crate) fn unwritten_at_all(&self, progress: Progress) -> Option<u64> {
        self.pending.back().map(|p| p.end).filter(|end| *end > progress.written)
    }

    /// Whether unsealed segments or batches in flight say more of the agent than footers do.
    pub(crate) fn is_ahead_of_footers(&self) -> bool {
        self.last_segment != 0 || !self.sealing.is_empty() || !self.pending.is_empty()
    }

    /// Whether the next batch would be the agent's first in this segment.
    pub(crate) fn is_first_in(&self, segment: u64) -> bool {
        self.last_segment != segment
    }

    /// The strongest durability that a batch not yet published asked for: the last one's, because
    /// each was raised to that of those before it.
    pub(crate) fn strongest(&self, progress: Progress) -> Option<Durability> {
        let last = self.pending.back()?;
        (!progress.reached(last.end, last.durability)).then_some(last.durability)
    }

    /// The end of the last ordered batch that touched the agent, if it may not be published yet.
    pub(crate) fn last_pending(&self) -> Option<(u64, Durability)> {
        self.pending.back().map(|p| (p.end, p.durability))
    }

    /// Queues the agent as it is after a batch that went to `segment` and ends at `end`.
    /// True if it is the first batch of the agent in that segment.
    pub(crate) fn queue(
        &mut self,
        segment: &Segment,
        end: u64,
        durability: Durability,
        after: Version,
    ) -> bool {
        let first = self.enter(segment);
        self.pending.push_back(Pending { end, durability, after });
        first
    }

    /// The version to be changed in place by a batch at `Buffer`, which everybody may see at once.
    /// `None` if others are to be seen before.
    pub(crate) fn change_at_once(&mut self, segment: &Segment, end: u64) -> Option<&mut Version> {
        if !self.pending.is_empty() {
            return None;
        }
        self.enter(segment);
        self.settled_end = end;
        Some(&mut self.settled)
    }

    /// The next batch goes to this segment. True if it is the first of the agent there.
    fn enter(&mut self, segment: &Segment) -> bool {
        let first = self.last_segment != segment.id;
        if first {
            self.note_sealing();
        }
        self.last_segment = segment.id;
        first
    }

    /// Queues the death of the agent under a forgotten prefix.
    ///
    /// The footer of the segment that it was last touched in goes on to speak of the dead life: the
    /// batch of the forgetting may still be lost, and then the agent lives on.
    pub(crate) fn queue_death(&mut self, lsn: u64, end: u64) {
        self.note_sealing();
        self.last_segment = 0;
        let mut after = Version::at_rest(Head::absent());
        after.lsn = lsn;
        self.pending.push_back(Pending { end, durability: Durability::Sync, after });
    }

    fn note_sealing(&mut self) {
        if self.last_segment != 0 {
            let before = self.latest();
            let part = before.parts().find(|p| p.segment.id == self.last_segment).cloned();
            let (segment, head) = (self.last_segment, before.head);
            self.sealing.retain(|s| s.segment != segment);
            self.sealing.push(Sealing { segment, head, part });
        }
    }

    /// The agent as it was at the end of a segment that is being sealed, if it was touched there.
    pub(crate) fn at_end_of(&self, segment: u64) -> Option<(Head, Option<Part>)> {
        if self.last_segment == segment {
            let latest = self.latest();
            let part = latest.parts().find(|p| p.segment.id == segment).cloned();
            return Some((latest.head, part));
        }
        let sealing = self.sealing.iter().find(|s| s.segment == segment)?;
        Some((sealing.head, sealing.part.clone()))
    }

    /// The footer of `segment` stands for its parts from now on, in sets from `generation`.
    ///
    /// Gives the part, which is to be let go of where nobody waits: it may hold very many keys.
    #[must_use]
    pub(crate) fn sealed(
        &mut self,
        segment: &Segment,
        generation: u64,
        name: &str,
    ) -> Option<Part> {
        // All that the segment holds is published by now.
        let part = self.settled.parts().find(|p| p.segment.id == segment.id).cloned();
        if let Some(base) = self.base.take() {
            // A base that cannot be extended is dropped and read again, with the error, when needed.
            self.base = extended(base, part.as_ref(), generation, name);
        }
        self.sealed_at = self.sealed_at.max(generation);
        self.sealing.retain(|s| s.segment != segment.id);
        if self.last_segment == segment.id {
            self.last_segment = 0;
        }
        if self.base.as_ref().is_none_or(|b| b.generation >= generation) {
            self.settled.drop_sealed(generation);
            for pending in &mut self.pending {
                pending.after.drop_sealed(generation);
            }
        }
        part
    }

    /// About how much memory it takes, parts of unsealed segments aside.
    pub(crate) fn bytes(&self, name: &str) -> usize {
        let base = self.base.as_ref().map_or(0, |b| b.bytes());
        size_of::<Resident>() + name.len() + 96 + base
    }
}

fn extended(
    mut base: Arc<Base>,
    part: Option<&Part>,
    generation: u64,
    name: &str,
) -> Option<Arc<Base>> {
    if base.generation < generation {
        let extended = Arc::make_mut(&mut base);
        if let Some(part) = part {
            extended.absorb(part, name).ok()?;
        }
        extended.generation = generation;
    }
    Some(base)
}

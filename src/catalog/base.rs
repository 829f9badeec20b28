//! What sealed segments hold of one life of an agent, found through their footers.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::catalog::part::{Part, Spot, StateSlot};
use crate::error::Result;
use crate::format::footer::{Block, Pages, PagesFacts, StateChange};
use crate::format::record::Change;
use crate::segment::Segment;
use crate::segment::writer::FIRST_FRAME;
use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::types::Retention;

/// What offsets in segments are multiples of.
const UNIT: u64 = 8;

/// The entries of one life in one sealed segment. Kept small: an agent in use has one a segment.
pub(crate) struct Extent {
    pub(crate) segment: Arc<Segment>,
    pub(crate) first: u64,
    pub(crate) max_at: u64,
    /// Payload and meta of the entries, in bytes.
    bytes: u64,
    count: u32,
    /// The block in the footer, in units of 8 bytes.
    block: u32,
    /// From the block to the offsets in it.
    offsets: u16,
    /// Every record of it has been verified since the store was opened.
    verified: AtomicBool,
}

impl Clone for Extent {
    fn clone(&self) -> Self {
        Extent {
            segment: Arc::clone(&self.segment),
            verified: AtomicBool::new(self.verified.load(Ordering::Relaxed)),
            ..*self
        }
    }
}

/// Extents up to this many entries and bytes are verified as a whole when most of them is read:
/// then one flag, next to what is read anyway, stands for all of their records.
const WHOLE_ENTRIES: u32 = 256;
const WHOLE_BYTES: u64 = 256 << 10;

impl Extent {
    /// `None` if the block has no entries.
    fn of(segment: &Arc<Segment>, block: &Block<'_>) -> Option<Self> {
        let at = block.at();
        let delta = block.offsets_at().checked_sub(at)?;
        (block.count() > 0).then(|| Extent {
            segment: Arc::clone(segment),
            first: block.first_seq(),
            max_at: block.max_at().unwrap_or(0),
            bytes: block.bytes(),
            count: block.count(),
            // Both are far below their limits in a segment, as its block was read.
            block: u32::try_from(at / UNIT).unwrap_or(u32::MAX),
            offsets: u16::try_from(delta).unwrap_or(u16::MAX),
            verified: AtomicBool::new(false),
        })
    }

    /// The seq after the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count))
    }

    /// Payload and meta of the entries, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Payload and meta of the entries in the groups before this one, in bytes.
    pub(crate) fn bytes_before(&self, group: usize) -> Result<u64> {
        if group == 0 {
            return Ok(0);
        }
        let Some(footer) = self.segment.footer() else { return Ok(self.bytes) };
        let sums = footer?.block_at(self.block_at()).and_then(|block| block.sums_before(group));
        sums.map(|sums| sums.bytes).map_err(|fault| self.segment.footer_damage(fault))
    }

    /// About how long the record of an entry is.
    pub(crate) fn mean_record(&self) -> u64 {
        self.bytes() / u64::from(self.count.max(1)) + crate::catalog::dead::ENTRY_COST
    }

    fn block_at(&self) -> u64 {
        u64::from(self.block) * UNIT
    }

    /// Where the entry with this seq lies. `None` if it is not of this extent.
    #[inline]
    pub(crate) fn spot(&self, seq: u64) -> Option<Spot> {
        let index = seq.checked_sub(self.first).filter(|i| *i < u64::from(self.count))?;
        if self.segment.verifies_always() && !self.is_block_sound() {
            return None;
        }
        let offsets_at = self.block_at() + u64::from(self.offsets);
        self.segment.extent_offset(offsets_at, index).map(Spot)
    }

    /// Verifies the block with the offsets again: an offset that has changed leads to a record that
    /// is sound, and another one.
    #[cold]
    fn is_block_sound(&self) -> bool {
        let Some(Ok(footer)) = self.segment.footer() else { return false };
        footer.block_at(self.block_at()).is_ok()
    }

    /// Where the entries with these seqs lie, of those that are of this extent: the first of these, and
    /// the spots as they are stored.
    pub(crate) fn spots(&self, seqs: Range<u64>, sound: &mut Sound) -> (u64, &[[u8; 4]]) {
        let from = seqs.start.max(self.first);
        let to = if sound.is(self) { seqs.end.min(self.end()) } else { from };
        let to = to.max(from);
        let offsets_at = self.block_at() + u64::from(self.offsets);
        let offsets = self.segment.extent_offsets(offsets_at, from - self.first..to - self.first);
        (from, offsets.as_chunks::<4>().0)
    }

    /// Whether every record of it has been verified.
    #[inline]
    pub(crate) fn is_verified(&self) -> bool {
        self.verified.load(Ordering::Relaxed)
    }

    /// Called before these seqs are read. If they are nearly all of it, and it is not large,
    /// every record of it is verified, so that one flag stands for all. Who wants less would wait
    /// for pages that nobody asked for. A record that is damaged is left to whoever reads it.
    pub(crate) fn verify_for(&self, seqs: &Range<u64>) {
        if self.is_verified() || self.segment.verifies_always() {
            return;
        }
        let wanted = seqs.end.min(self.end()).saturating_sub(seqs.start.max(self.first));
        let whole = self.count <= WHOLE_ENTRIES && self.bytes() <= WHOLE_BYTES;
        if whole && wanted.saturating_mul(8) >= u64::from(self.count) * 7 {
            self.verify();
        }
    }

    #[cold]
    fn verify(&self) {
        let sound = |seq| match self.spot(seq) {
            Some(spot) => spot.offset().is_none_or(|at| self.segment.record(at).is_ok()),
            None => false,
        };
        if (self.first..self.end()).all(sound) {
            self.verified.store(true, Ordering::Relaxed);
        }
    }

    /// The first seq of the first group whose running maximum of `at` reaches `time`.
    pub(crate) fn group_reaching(&self, time: u64) -> Result<Option<u64>> {
        if self.max_at < time {
            return Ok(None);
        }
        let Some(footer) = self.segment.footer() else { return Ok(None) };
        let block =
            footer?.block_at(self.block_at()).map_err(|fault| self.segment.footer_damage(fault))?;
        let group = block.first_at_or_after(time);
        Ok(group.map(|group| {
            self.first.saturating_add(u64::from(group) * crate::format::footer::GROUP as u64)
        }))
    }
}

/// The extent that an iterator was in last, whose block it then found sound: where every read
/// verifies, each extent's is verified once while an iterator is in it, and not for a few entries
/// at a time, since the block is as long as the extent.
#[derive(Default)]
pub(crate) struct Sound(Option<(u64, u32)>);

impl Sound {
    fn is(&mut self, extent: &Extent) -> bool {
        let this = Some((extent.segment.id, extent.block));
        if extent.segment.verifies_always() && self.0 != this {
            self.0 = this.filter(|_| extent.is_block_sound());
            return self.0.is_some();
        }
        true
    }
}

/// The state index of one life in one sealed segment, which is searched where it lies.
pub(crate) struct StateSource {
    pub(crate) segment: Arc<Segment>,
    /// Offset of its pages in the file.
    at: u64,
    facts: PagesFacts,
    /// Bytes of its values that were booked as dead one by one.
    booked: AtomicU64,
}

impl Clone for StateSource {
    fn clone(&self) -> Self {
        StateSource {
            segment: Arc::clone(&self.segment),
            booked: AtomicU64::new(self.booked.load(Ordering::Relaxed)),
            ..*self
        }
    }
}

impl StateSource {
    /// `None` if the block changes no key.
    fn of(segment: &Arc<Segment>, block: &Block<'_>) -> Option<Self> {
        let (at, facts) = block.pages_at();
        (facts.count > 0).then(|| StateSource {
            segment: Arc::clone(segment),
            at,
            facts,
            booked: AtomicU64::new(0),
        })
    }

    /// The pages.
    pub(crate) fn pages(&self) -> Result<Pages<'_>> {
        let none = || self.segment.damage(self.at, "a segment with state pages has no footer");
        let footer = self.segment.footer().ok_or_else(none)??;
        footer.pages_at(self.at, &self.facts).map_err(|fault| self.segment.footer_damage(fault))
    }

    /// Bytes of its values that were not booked as dead before; they are from now on.
    pub(crate) fn take_unbooked(&self) -> u64 {
        let booked = self.booked.swap(self.facts.bytes, Ordering::Relaxed);
        self.facts.bytes.saturating_sub(booked)
    }

    /// Notes that a value of it was booked as dead.
    pub(crate) fn book(&self, bytes: u64) {
        self.booked.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What sealed segments hold of one life.
#[derive(Clone)]
pub(crate) struct Base {
    pub(crate) life: u64,
    /// Segments sealed up to this generation are in it.
    pub(crate) generation: u64,
    /// The highest floor that a block told of: a run may lack entries below a floor that no other
    /// block knows, since it came of retention when the run was made.
    pub(crate) floor: u64,
    /// Oldest first, and none overlaps another: they are found by halving and walked in line.
    /// After a compaction it is mostly one, which is then at hand.
    pub(crate) extents: SmallVec<[Extent; 1]>,
    /// Where keys were changed, oldest first.
    pub(crate) states: SmallVec<[StateSource; 1]>,
    /// Ascending.
    pub(crate) redacted: Vec<u64>,
    pub(crate) policy: Option<Retention>,
    /// The newest segment that tells of the policy.
    policy_in: Option<Arc<Segment>>,
    /// The lsn of the policy's last change, once that was looked up.
    policy_lsn: OnceLock<Option<u64>>,
}

impl Base {
    pub(crate) fn empty(life: u64, generation: u64) -> Self {
        Base {
            life,
            generation,
            floor: 0,
            extents: SmallVec::new(),
            states: SmallVec::new(),
            redacted: Vec::new(),
            policy: None,
            policy_in: None,
            policy_lsn: OnceLock::new(),
        }
    }

    /// Whether the policy was changed last before `lsn`.
    ///
    /// Blocks do not tell when, and mostly need not: their segment lies before or behind. A past
    /// default can only end within a segment that was active over a clean close; then the frames
    /// are asked, once. That of a run counts as changed where the run's lsns end, like its entries.
    pub(crate) fn policy_is_before(&self, name: &str, lsn: u64) -> bool {
        let Some(segment) = &self.policy_in else { return true };
        if lsn >= segment.end_lsn() {
            return true;
        }
        if segment.run || lsn <= segment.base {
            return false;
        }
        let last = self.policy_lsn.get_or_init(|| last_policy(segment, name));
        // What cannot be read drops nothing.
        last.is_some_and(|last| last < lsn)
    }

    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let extents =
            if self.extents.spilled() { self.extents.capacity() * size_of::<Extent>() } else { 0 };
        let states = if self.states.spilled() {
            self.states.capacity() * size_of::<StateSource>()
        } else {
            0
        };
        size_of::<Base>() + extents + states + self.redacted.capacity() * 8
    }

    /// The last change of a key: in which index, and what. A key that was unset has one too.
    ///
    /// Looks through the indices newest first, a few pages each.
    pub(crate) fn state(&self, key: &str) -> Result<Option<(&StateSource, StateSlot)>> {
        for source in self.states.iter().rev() {
            let found = source.pages()?.find(key, u64::MAX);
            if let Some(change) = found.map_err(|fault| source.segment.footer_damage(fault))? {
                return Ok(Some((source, slot_of(&change))));
            }
        }
        Ok(None)
    }

    /// Whether anything of it lies in a segment whose id `is_one` of those asked about.
    pub(crate) fn refers_to(&self, is_one: impl Fn(u64) -> bool) -> bool {
        self.extents.iter().any(|extent| is_one(extent.segment.id))
            || self.states.iter().any(|state| is_one(state.segment.id))
            || self.policy_in.as_ref().is_some_and(|segment| is_one(segment.id))
    }

    /// Takes over what a part holds whose segment was sealed.
    pub(crate) fn absorb(&mut self, part: &Part, name: &str) -> Result<()> {
        let segment = &part.segment;
        let Some(footer) = segment.footer() else { return Ok(()) };
        let fault = |fault| segment.footer_damage(fault);
        let footer = footer?;
        if let Some((_, block)) = footer.find(name).map_err(fault)?
            && block.head().life == self.life
        {
            self.add_newer(segment, &block);
        }
        Ok(())
    }

    /// Leaves out extents that reach beyond `seq`, where something newer begins. Only blocks that lie
    /// tell of such; whoever reads what no other extent has is told that it is damaged.
    pub(super) fn keep_below(&mut self, seq: u64) {
        while self.extents.last().is_some_and(|last| last.end() > seq) {
            self.extents.pop();
        }
    }

    /// Takes over what a block holds that is newer than what it has.
    pub(crate) fn add_newer(&mut self, segment: &Arc<Segment>, block: &Block<'_>) {
        self.floor = self.floor.max(block.head().floor);
        if let Some(extent) = Extent::of(segment, block) {
            self.keep_below(extent.first);
            self.extents.push(extent);
        }
        self.states.extend(StateSource::of(segment, block));
        self.redacted.extend(block.redacted());
        self.redacted.sort_unstable();
        self.redacted.dedup();
        if let Some(policy) = block.policy() {
            self.policy = policy;
            self.policy_in = Some(Arc::clone(segment));
            self.policy_lsn = OnceLock::new();
        }
    }
}

/// What a change says of where the value is.
pub(crate) fn slot_of(change: &StateChange<'_>) -> StateSlot {
    StateSlot { revision: change.revision, spot: Spot(change.offset), len: change.len }
}

/// The lsn of the last frame of a log segment that changes the agent's policy. `None` if frames
/// cannot be read.
fn last_policy(segment: &Segment, name: &str) -> Option<u64> {
    let frames = segment.published_frames();
    let mut at = usize::try_from(FIRST_FRAME).ok()?;
    let mut last = None;
    while at < frames.bytes.len() {
        let (header, agents) = frames.header(at).ok()?;
        if agents.iter().any(|agent| agent.name == name) {
            let frame = frames.frame(at).ok()?;
            for placed in frame.records() {
                let record = placed.ok()?.record;
                let agent = usize::try_from(record.agent).ok().and_then(|i| agents.get(i));
                let changes = matches!(record.change, Change::Policy(_));
                if changes && agent.is_some_and(|agent| agent.name == name) {
                    last = Some(header.lsn);
                }
            }
        }
        at = at.checked_add(header.len())?;
    }
    last
}

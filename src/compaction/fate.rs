//! What lives of an agent: what compaction must keep of what some segments tell, by everything that
//! is known now.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use crate::catalog::dead::{ENTRY_COST, share};
use crate::catalog::part::Part;
use crate::catalog::version::Version;
use crate::commit::Engine;
use crate::compaction::merge::Told;
use crate::error::Result;
use crate::format::footer::{Block, StateChange, Trailer};
use crate::format::head::Head;
use crate::format::record::{Append, REDACTED};
use crate::segment::Segment;
use crate::snapshot::Snapshot;
use crate::types::Retention;

/// What surrounds the segments that are looked at.
pub(crate) struct Knowledge<'e> {
    pub(crate) engine: &'e Arc<Engine>,
    /// Sealed segments that are newer than those looked at, newest first.
    pub(crate) newer: Vec<Arc<Segment>>,
    /// Sealed segments that are older.
    pub(crate) older: Vec<Arc<Segment>>,
}

/// What lives of what some segments tell of one agent.
#[derive(Default)]
pub(crate) struct Living<'a> {
    /// What a block has to say of the agent; `None` if none is needed. Life 0: that it is absent.
    pub(crate) head: Option<Head>,
    /// The entries that live, by the index of their segment, oldest first.
    pub(crate) entries: Vec<(usize, Range<u64>)>,
    /// Redacted entries, here or in older segments.
    pub(crate) redacted: BTreeSet<u64>,
    /// The last change of each key and the index of its segment.
    pub(crate) state: BTreeMap<&'a str, (usize, StateChange<'a>)>,
    /// The last change of the policy.
    pub(crate) policy: Option<Option<Retention>>,
    /// Older segments may hold something of the name.
    pub(crate) older: bool,
}

/// What is newer than the segments looked at.
struct Newer<'a> {
    /// `None`: nothing newer tells of the agent.
    head: Option<Head>,
    /// A newer sealed segment tells of it.
    is_sealed: bool,
    version: Option<Version>,
    blocks: Vec<Block<'a>>,
}

impl Newer<'_> {
    /// What unsealed segments hold. Parts of a segment that has just been sealed, and that may be
    /// one of those looked at, may still be among them.
    fn parts(&self) -> impl Iterator<Item = &Part> {
        let parts = self.version.iter().flat_map(Version::parts);
        parts.filter(|part| part.segment.sealed_at() == u64::MAX)
    }

    fn parts_of(&self, life: u64) -> impl Iterator<Item = &Part> {
        let is_of = self.version.as_ref().is_some_and(|version| version.head.life == life);
        self.parts().filter(move |_| is_of)
    }

    fn redacted(&self, life: u64) -> impl Iterator<Item = u64> {
        let blocks = self.blocks.iter().filter(move |block| block.head().life == life);
        let parts = self.parts_of(life).flat_map(|part| part.redacted());
        blocks.flat_map(Block::redacted).chain(parts.copied())
    }

    fn changes_key(&self, life: u64, key: &str) -> bool {
        if self.parts_of(life).any(|part| part.state(key, u64::MAX).is_some()) {
            return true;
        }
        let blocks = self.blocks.iter().filter(|block| block.head().life == life);
        blocks.flat_map(Block::states).flatten().any(|change| change.key == key)
    }

    fn policy(&self) -> Option<Option<Retention>> {
        let policy = self.parts().find_map(|part| part.policy());
        policy.or_else(|| self.blocks.iter().find_map(Block::policy))
    }
}

impl Knowledge<'_> {
    /// What lives of an agent, of which the segments in `told`, oldest first, tell.
    pub(crate) fn living<'a>(&self, name: &str, told: &[Told<'a>]) -> Result<Living<'a>> {
        let hash = self.engine.catalog.hash(name);
        let newer = self.newer(name, hash)?;
        let Some(last) = told.last().map(|told| told.block.head()) else {
            return Ok(Living::default());
        };
        let older = self.older_may_hold(name, hash)?;
        let mut living = Living { older, ..Living::default() };
        let now = newer.head.unwrap_or(last);
        let dead = now.life == 0
            || now.life != last.life
            || self.engine.catalog.forgotten_since(name, now.life).is_some();
        if dead {
            // Where a newer footer tells that the life is over, or a forgotten prefix does, this need
            // not; nor where there is nothing of it that is older. What is resident may know it from
            // these very segments.
            if last.life == 0 && !newer.is_sealed && older {
                living.head = Some(Head::absent());
            }
            return Ok(living);
        }
        living.take(told, last.life, &newer)?;
        let known = told.iter().map(|told| told.block.head()).filter(|head| head.life == now.life);
        let blocks = newer.blocks.iter().map(Block::head).filter(|head| head.life == now.life);
        let floor = known.chain(blocks).map(|head| head.floor).fold(now.floor, u64::max);
        let floor = floor.max(self.retained(name, &now, &newer, living.policy)?);
        living.cut(floor, last.next);
        let empty = living.entries.is_empty()
            && living.state.is_empty()
            && living.policy.is_none()
            && living.redacted.is_empty();
        if !(empty && newer.is_sealed && !older) {
            living.head = Some(Head { floor: floor.min(last.next), ..last });
        }
        Ok(living)
    }

    fn newer(&self, name: &str, hash: u64) -> Result<Newer<'_>> {
        let version = self.engine.catalog.peek(name, hash).and_then(|resident| {
            let slot = resident.lock();
            slot.is_known().then(|| slot.latest().clone())
        });
        let mut blocks = Vec::new();
        for segment in &self.newer {
            blocks.extend(segment.look_up(name, hash)?.map(|(_, block)| block));
        }
        let sealed = blocks.first().map(Block::head);
        Ok(Newer {
            head: version.as_ref().map(|version| version.head).or(sealed),
            is_sealed: sealed.is_some(),
            version,
            blocks,
        })
    }

    fn older_may_hold(&self, name: &str, hash: u64) -> Result<bool> {
        for segment in &self.older {
            if segment.may_tell_of(name, hash)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The floor that the policy in force, and those that were, make.
    fn retained(
        &self,
        name: &str,
        now: &Head,
        newer: &Newer<'_>,
        here: Option<Option<Retention>>,
    ) -> Result<u64> {
        let own = if now.flags & Head::POLICY != 0 { newer.policy().or(here) } else { Some(None) };
        let default = self.engine.options.retention;
        // An agent without a policy of its own, or that gave it up, may be under earlier defaults.
        let past = !matches!(own, Some(Some(_))) && !self.engine.past_defaults.is_empty();
        if let Some(own) = own
            && !past
        {
            let policy = own.unwrap_or(default);
            if policy.max_bytes.is_none() && policy.max_age.is_none() {
                return Ok(policy.max_entries.map_or(0, |most| now.next.saturating_sub(most)));
            }
        }
        let hash = self.engine.catalog.hash(name);
        let resident = self.engine.catalog.resident(&Arc::from(name), hash, self.engine.progress());
        let snapshot = Snapshot::open_to_erase(self.engine, resident)?;
        Ok(if snapshot.version.head.life == now.life { snapshot.floor } else { 0 })
    }
}

impl<'a> Living<'a> {
    /// Takes everything of a life, the floor aside.
    fn take(&mut self, told: &[Told<'a>], life: u64, newer: &Newer<'_>) -> Result<()> {
        for (index, Told { segment, block }) in told.iter().enumerate() {
            if block.head().life != life {
                continue;
            }
            if block.count() > 0 {
                let end = block.first_seq().saturating_add(u64::from(block.count()));
                self.entries.push((index, block.first_seq()..end));
            }
            self.redacted.extend(block.redacted());
            if let Some(policy) = block.policy() {
                self.policy = Some(policy);
            }
            for change in block.states() {
                let change = change.map_err(|fault| segment.footer_damage(fault))?;
                self.state.insert(change.key, (index, change));
            }
        }
        let older = self.older;
        // That a key was unset matters only to values that are older.
        self.state.retain(|key, (_, change)| {
            (change.offset != 0 || older) && !newer.changes_key(life, key)
        });
        self.redacted.extend(newer.redacted(life));
        Ok(())
    }

    /// Leaves out what does not lie between the floor and the next seq.
    fn cut(&mut self, floor: u64, next: u64) {
        for (_, seqs) in &mut self.entries {
            seqs.start = seqs.start.max(floor);
        }
        self.entries.retain(|(_, seqs)| !seqs.is_empty());
        self.redacted = self.redacted.split_off(&floor);
        self.redacted.split_off(&next);
    }

    /// Whether anything that the segments tell of the agent is left out.
    pub(crate) fn leaves_out(&self, told: &[Told<'_>]) -> bool {
        told.iter().enumerate().any(|(index, told)| self.leaves_out_of(index, told))
    }

    /// Whether anything that this segment tells of the agent is left out.
    pub(crate) fn leaves_out_of(&self, index: usize, told: &Told<'_>) -> bool {
        let block = &told.block;
        let Some(head) = self.head.filter(|head| head.life == block.head().life) else {
            return true;
        };
        let kept = self.entries.iter().filter(|(of, _)| *of == index).map(|(_, seqs)| seqs);
        let kept: u64 = kept.map(|seqs| seqs.end - seqs.start).sum();
        let keys = self.state.values().filter(|(of, _)| *of == index).count();
        kept < u64::from(block.count())
            || keys < block.state_count()
            || (head.life == 0 && !self.older)
    }

    /// Bytes of this segment's entries that keep their place and are to lose what is in them:
    /// redacted ones, and with `time` those that have expired by then. Footers tell neither which
    /// redactions a run has taken to heart already nor any expiry, so the records are asked.
    pub(crate) fn hollow_of(
        &self,
        index: usize,
        told: &Told<'_>,
        time: Option<u64>,
    ) -> Result<u64> {
        let Some(head) = self.head else { return Ok(0) };
        let time = time.filter(|_| head.flags & Head::EXPIRES != 0);
        let mut bytes = 0;
        for (_, seqs) in self.entries.iter().filter(|(of, _)| *of == index) {
            for seq in self.redacted.range(seqs.clone()) {
                let entry = told.entry(*seq)?.filter(|entry| entry.flags & REDACTED == 0);
                bytes += entry.as_ref().map_or(0, hollow);
            }
            let Some(time) = time else { continue };
            for seq in seqs.clone().filter(|seq| !self.redacted.contains(seq)) {
                let entry = told.entry(seq)?;
                let entry = entry.filter(|entry| entry.expires.is_some_and(|at| at <= time));
                bytes += entry.as_ref().map_or(0, hollow);
            }
        }
        Ok(bytes)
    }

    /// What of a block's content lives, by what footers know; what is redacted counts as living.
    pub(crate) fn content_of(&self, index: usize, block: &Block<'_>) -> u64 {
        let whole = entries_content(block);
        let seqs = self.entries.iter().filter(|(of, _)| *of == index).map(|(_, seqs)| seqs);
        let live = seqs.map(|seqs| seqs.end - seqs.start);
        let (live, all) = (live.sum::<u64>(), u64::from(block.count()));
        let entries = if live >= all { whole } else { share(whole, live, all) };
        let state = self.state.values().filter(|(of, _)| *of == index);
        entries + state.map(|(_, change)| u64::from(change.len)).sum::<u64>()
    }
}

/// What an entry loses with what is in it.
fn hollow(entry: &Append<'_>) -> u64 {
    (entry.meta.len() + entry.payload.len()) as u64 + 1
}

/// What a block's entries take.
pub(crate) fn entries_content(block: &Block<'_>) -> u64 {
    block.bytes().saturating_add(u64::from(block.count()).saturating_mul(ENTRY_COST))
}

/// What everything that a block tells of takes.
pub(crate) fn content(block: &Block<'_>) -> u64 {
    let state = block.states().flatten().map(|change| u64::from(change.len));
    entries_content(block).saturating_add(state.sum::<u64>())
}

/// What everything that the blocks of a segment tell of takes.
pub(crate) fn content_of_all(trailer: &Trailer) -> u64 {
    let entries = trailer.bytes.saturating_add(trailer.entries.saturating_mul(ENTRY_COST));
    entries.saturating_add(trailer.state_bytes).saturating_add(trailer.facts.hidden)
}

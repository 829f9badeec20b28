//! What lives of an agent: what compaction must keep of what some segments tell, by everything that
//! is known now.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use crate::catalog::base::Base;
use crate::catalog::dead::{ENTRY_COST, share};
use crate::catalog::part::Part;
use crate::catalog::resident::Resident;
use crate::catalog::version::{Seen, Version};
use crate::commit::Engine;
use crate::compaction::around::{Around, Nearby, OlderKeys, Side};
use crate::compaction::job::Manners;
use crate::compaction::keys::{KeyJoin, KeyMerge, Tally};
use crate::compaction::merge::Told;
use crate::error::{ErrorKind, Result};
use crate::format::footer::{Block, GROUP, NEVER, StateChange, Trailer};
use crate::format::head::Head;
use crate::format::record::{Append, REDACTED};
use crate::segment::Segment;
use crate::snapshot::Snapshot;
use crate::types::Retention;

/// What is known beside what some segments tell.
#[derive(Clone, Copy)]
pub(crate) struct Knowledge<'e> {
    pub(crate) engine: &'e Arc<Engine>,
    pub(crate) around: &'e Around,
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
    /// What the last changes of keys come to that are kept: see [`each_state`](Self::each_state).
    pub(crate) state: Tally,
    /// The last change of the policy.
    pub(crate) policy: Option<Option<Retention>>,
    /// Whether older segments may hold something of the name. `None` until a rule needs it.
    older: Option<bool>,
    /// The keys that they change, if that is to be exact.
    older_keys: Option<OlderKeys<'a>>,
    /// The age that the policy in force allows, in ms.
    age: Option<u64>,
    newer: Newer<'a>,
}

/// What of some entries is there no more, or will not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hollow {
    /// Bytes of entries that keep their place and are to lose what is in them.
    pub(crate) bytes: u64,
    /// When the next of them expires.
    pub(crate) next_expiry: Option<u64>,
}

/// Records gone through between two calls of [`Manners`].
pub(crate) const AT_A_TIME: u64 = 256;

/// What is newer than the segments looked at.
#[derive(Default)]
struct Newer<'a> {
    /// `None`: nothing newer tells of the agent.
    head: Option<Head>,
    /// A newer sealed segment tells of it.
    is_sealed: bool,
    version: Option<Version>,
    /// Of the set of sealed segments that was looked at.
    generation: u64,
    /// Newest first.
    blocks: Vec<(&'a Arc<Segment>, Block<'a>)>,
    /// Some newer segment cannot be read: what it says of the agent is not known.
    is_partial: bool,
}

impl Newer<'_> {
    /// What segments hold that are in no set yet up to the one that was looked at. Parts of one that
    /// is, and that may be one of those looked at, may still be in memory. A segment that is sealed
    /// from then on changes nothing: no block here tells what its part does.
    fn parts(&self) -> impl Iterator<Item = &Part> {
        let parts = self.version.iter().flat_map(Version::parts);
        parts.filter(|part| part.segment.sealed_at() > self.generation)
    }

    fn parts_of(&self, life: u64) -> impl Iterator<Item = &Part> {
        let is_of = self.version.as_ref().is_some_and(|version| version.head.life == life);
        self.parts().filter(move |_| is_of)
    }

    fn blocks_of(&self, life: u64) -> impl Iterator<Item = &Block<'_>> {
        self.blocks.iter().map(|(_, block)| block).filter(move |block| block.head().life == life)
    }

    fn redacted(&self, life: u64) -> impl Iterator<Item = u64> {
        let parts = self.parts_of(life).flat_map(|part| part.redacted());
        self.blocks_of(life).flat_map(Block::redacted).chain(parts.copied())
    }

    /// Whether anything newer may change keys of the life.
    fn changes_keys(&self, life: u64) -> bool {
        self.parts_of(life).any(Part::has_state)
            || self.blocks_of(life).any(|block| block.states().count() > 0)
    }
}

/// What retention makes of an agent.
#[derive(Clone, Copy, Debug, Default)]
struct Retained {
    floor: u64,
    /// The age that the policy in force allows.
    age: Option<u64>,
    /// Bytes were counted for the floor. Once the entries below it are gone, what is left may seem to
    /// have room for them: the floor does not follow from it, as one by entries or by age does.
    by_bytes: bool,
}

impl<'e> Knowledge<'e> {
    /// What lives of an agent, of which the segments in `told`, oldest first, tell. `manners` is
    /// told now and then that it goes on.
    pub(crate) fn living<'a>(
        &self,
        name: &str,
        told: &[Told<'a>],
        manners: Manners<'_>,
    ) -> Result<Living<'a>>
    where
        'e: 'a,
    {
        let hash = self.engine.catalog.hash(name);
        let nearby = self.around.nearby(name, hash);
        let newer = self.newer(&nearby)?;
        let Some(last) = told.last().map(|told| told.block.head()) else {
            return Ok(Living::default());
        };
        let now = newer.head.unwrap_or(last);
        let is_sealed = newer.is_sealed;
        let mut living = Living { newer, ..Living::default() };
        let dead = now.life == 0
            || now.life != last.life
            || self.engine.catalog.forgotten_since(name, now.life).is_some();
        if dead {
            // Where a newer footer tells that the life is over, or a forgotten prefix does, this need
            // not; nor where there is nothing of it that is older. What is resident may know it from
            // these very segments.
            if last.life == 0 && !is_sealed && living.has_older(&nearby)? {
                living.head = Some(Head::absent());
            }
            return Ok(living);
        }
        living.take(told, last.life, &nearby, manners)?;
        let known = told.iter().map(|told| told.block.head()).filter(|head| head.life == now.life);
        let blocks = living.newer.blocks_of(now.life).map(Block::head);
        let floor = known.chain(blocks).map(|head| head.floor).fold(now.floor, u64::max);
        let retained = self.retained(&nearby, &now, &mut living, told)?;
        let floor = floor.max(retained.floor);
        living.cut(floor, last.next);
        living.age = retained.age;
        let told_by_newer = living.newer.blocks_of(now.life).map(|block| block.head().floor).max();
        let must_tell = retained.by_bytes && told_by_newer.is_none_or(|told| told < floor);
        let empty = living.entries.is_empty()
            && living.state.records == 0
            && living.policy.is_none()
            && living.redacted.is_empty();
        if !empty || !is_sealed || must_tell || living.has_older(&nearby)? {
            living.head = Some(Head { floor: floor.min(last.next), ..last });
        }
        Ok(living)
    }

    fn newer<'a>(&self, nearby: &Nearby<'_, 'a>) -> Result<Newer<'a>> {
        let version = self.engine.catalog.peek(nearby.name, nearby.hash).and_then(|resident| {
            let slot = resident.lock();
            slot.is_known().then(|| slot.latest().clone())
        });
        let mut blocks = Vec::new();
        let all_read = nearby.blocks(Side::Newer, &mut |segment, block| {
            blocks.push((segment, block));
            true
        })?;
        let sealed = blocks.first().map(|(_, block)| block.head());
        Ok(Newer {
            head: version.as_ref().map(|version| version.head).or(sealed),
            is_sealed: sealed.is_some(),
            version,
            generation: self.around.generation(),
            blocks,
            is_partial: !all_read,
        })
    }

    /// What the policy in force, and those that were, make of the agent.
    fn retained(
        &self,
        nearby: &Nearby<'_, '_>,
        now: &Head,
        living: &mut Living<'_>,
        told: &[Told<'_>],
    ) -> Result<Retained> {
        if living.newer.is_partial {
            // Its policy may be another one by now: nothing is dropped by the one that is known.
            return Ok(Retained::default());
        }
        let default = self.engine.options.retention;
        let changed = living.newer.parts().find_map(Part::policy);
        let latest = living.own_policy(now, changed).map(|own| own.unwrap_or(default));
        let is_past =
            |own: Option<Retention>| own.is_none() && !self.engine.past_defaults.is_empty();
        // An agent without a policy of its own, or that gave it up, may be under earlier defaults.
        let past = is_past(living.own_policy(now, changed).flatten());
        let counts = |policy: &Retention| policy.max_bytes.is_none() && policy.max_age.is_none();
        if let Some(policy) = latest.filter(|policy| counts(policy) && !past) {
            let floor = policy.max_entries.map_or(0, |most| now.next.saturating_sub(most));
            return Ok(Retained { floor, ..Retained::default() });
        }
        // What reads entries goes by what is settled. A policy that is to be replaced says nothing by
        // the time of now, so that nothing is dropped while a change is on its way.
        let Some(seen) = self.settled(nearby, now)? else { return Ok(Retained::default()) };
        let mut older = Vec::new();
        let changed = seen.parts.iter().find_map(Part::policy);
        let own = match living.own_policy(&seen.head, changed) {
            Some(own) => own,
            // The policy lies in an older segment.
            None => match nearby.older_policy(now.life, &mut older)? {
                Some(own) => own,
                // What is not known drops nothing.
                None => return Ok(Retained::default()),
            },
        };
        let (policy, past) = (own.unwrap_or(default), is_past(own));
        // An age is held against the oldest entries first, wherever they are.
        if (policy.max_age.is_some() || past)
            && living.has_older(nearby)?
            && !nearby.older_blocks(now.life, &mut older)?
        {
            return Ok(Retained::default());
        }
        let floor = self.floor_of_blocks(nearby, seen, &living.newer, told, &older)?;
        let age = latest.and_then(|policy| policy.max_age).into_iter().chain(policy.max_age).min();
        Ok(Retained { floor, age, by_bytes: past || policy.max_bytes.is_some() })
    }

    /// The agent as everybody may see it, its bytes written. `None` if that is another life, or if a
    /// change of its policy is on its way. It is not made resident.
    fn settled(&self, nearby: &Nearby<'_, '_>, now: &Head) -> Result<Option<Seen>> {
        // Parts of segments in this set are told by their blocks.
        let generation = self.around.generation();
        let policy_of = |version: &Version| {
            (version.head.flags & Head::POLICY, version.parts().find_map(Part::policy))
        };
        let mut in_memory = None;
        if let Some(resident) = self.engine.catalog.peek(nearby.name, nearby.hash) {
            let mut slot = resident.lock();
            if slot.is_known() {
                // What nobody has looked at for hours may be settled as it was then.
                slot.settle(self.engine.progress());
                let (settled, end) = slot.settled();
                if policy_of(settled) != policy_of(slot.latest()) {
                    return Ok(None);
                }
                in_memory = Some((settled.seen(generation), end));
            }
        }
        let seen = match in_memory {
            Some((seen, end)) => {
                self.engine.write_for_reader(end)?;
                seen
            }
            None => Version::at_rest(*now).seen(generation),
        };
        Ok(Some(seen).filter(|seen| seen.head.life == now.life))
    }

    /// The floor under retention by what the segments looked at, older and newer ones and memory
    /// tell. Without an age older segments bear on no floor, since it is counted from the newest
    /// entry back.
    fn floor_of_blocks(
        &self,
        nearby: &Nearby<'_, '_>,
        seen: Seen,
        newer: &Newer<'_>,
        told: &[Told<'_>],
        older: &[(&Arc<Segment>, Block<'_>)],
    ) -> Result<u64> {
        let life = seen.head.life;
        let mut base = Base::empty(life, 0);
        for (segment, block) in older.iter().rev() {
            base.add_newer(segment, block);
        }
        let of_life = |block: &Block<'_>| block.head().life == life;
        for Told { segment, block } in told.iter().filter(|told| of_life(&told.block)) {
            base.add_newer(segment, block);
        }
        for (segment, block) in newer.blocks.iter().rev().filter(|(_, block)| of_life(block)) {
            base.add_newer(segment, block);
        }
        let resident = Arc::new(Resident::new(Arc::from(nearby.name), nearby.hash));
        Ok(Snapshot::of_blocks(self.engine, resident, seen, base)?.floor)
    }
}

impl<'a> Living<'a> {
    /// Whether older segments may hold something of the name.
    fn has_older(&mut self, nearby: &Nearby<'_, '_>) -> Result<bool> {
        let older = match self.older {
            Some(older) => older,
            None => nearby.older_may_hold()?,
        };
        self.older = Some(older);
        Ok(older)
    }

    /// The own policy of an agent with this head. `changed` is the last change in unsealed segments,
    /// if there is one. `None`: only an older segment tells the policy.
    fn own_policy(
        &self,
        head: &Head,
        changed: Option<Option<Retention>>,
    ) -> Option<Option<Retention>> {
        if head.flags & Head::POLICY == 0 {
            return Some(None);
        }
        let sealed = || self.newer.blocks.iter().find_map(|(_, block)| block.policy());
        changed.or_else(sealed).or(self.policy)
    }

    /// Takes everything of a life, the floor aside.
    fn take(
        &mut self,
        told: &[Told<'a>],
        life: u64,
        nearby: &Nearby<'_, 'a>,
        manners: Manners<'_>,
    ) -> Result<()> {
        for (index, Told { block, .. }) in told.iter().enumerate() {
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
        }
        // Those of entries that older segments hold are told by the newer one: there may be more of them
        // when the agent is written than were planned for.
        let entries = &self.entries;
        let is_here = |seq: &u64| entries.iter().any(|(_, seqs)| seqs.contains(seq));
        self.redacted.extend(self.newer.redacted(life).filter(is_here));
        self.state = self.tally(told, life, nearby, manners)?;
        Ok(())
    }

    /// Counts what is kept of the state.
    fn tally(
        &mut self,
        told: &[Told<'a>],
        life: u64,
        nearby: &Nearby<'_, 'a>,
        manners: Manners<'_>,
    ) -> Result<Tally> {
        let mut tally = Tally::new(told.len());
        let of_life = |(_, told): &(usize, &Told<'a>)| told.block.head().life == life;
        let mut with_state = told
            .iter()
            .enumerate()
            .filter(of_life)
            .filter(|(_, told)| told.block.states().count() > 0);
        let Some((index, only)) = with_state.next() else { return Ok(tally) };
        let is_only = with_state.next().is_none();
        let has_older = self.has_older(nearby)?;
        self.older_keys = if has_older { nearby.older_keys(life)? } else { None };
        let all = has_older && self.older_keys.is_none() && is_only;
        if all && !self.newer.changes_keys(life) {
            // All of it is kept, and need not be gone through.
            tally.add_all(index, &only.block.states());
        } else {
            self.each_state_of(life, told, manners, &mut |index, change| {
                tally.add(index, change);
                Ok(())
            })?;
        }
        Ok(tally)
    }

    /// Calls `each` with the last change of each key that is kept and the index of its segment, in
    /// the order of the keys. Holds one key a segment, and goes through none twice.
    pub(crate) fn each_state(
        &self,
        told: &[Told<'a>],
        manners: Manners<'_>,
        each: &mut dyn FnMut(usize, &StateChange<'a>) -> Result<()>,
    ) -> Result<()> {
        match self.head {
            Some(head) if head.life != 0 => self.each_state_of(head.life, told, manners, each),
            _ => Ok(()),
        }
    }

    fn each_state_of(
        &self,
        life: u64,
        told: &[Told<'a>],
        manners: Manners<'_>,
        each: &mut dyn FnMut(usize, &StateChange<'a>) -> Result<()>,
    ) -> Result<()> {
        let mut keys = KeyMerge::new(told, life)?;
        let newer = self.newer.blocks_of(life).map(Block::states);
        let mut newer_keys = KeyJoin::new(newer.filter(|pages| pages.count() > 0).collect());
        let parts: Vec<&Part> = self.newer.parts_of(life).filter(|part| part.has_state()).collect();
        let mut gone_through = 0_u64;
        while let Some((index, change)) = keys.next()? {
            gone_through += 1;
            if gone_through.is_multiple_of(AT_A_TIME) {
                manners(0)?;
            }
            // That a key was unset matters only to values that are older.
            if change.offset == 0 && !self.older_may_have(change.key) {
                continue;
            }
            let in_memory = |part: &&Part| part.state(change.key, u64::MAX).is_some();
            if !parts.iter().any(in_memory) && !newer_keys.has(change.key) {
                each(index, &change)?;
            }
        }
        Ok(())
    }

    fn older_may_have(&self, key: &str) -> bool {
        let exactly = |keys: &OlderKeys<'_>| keys.may_have(key);
        self.older != Some(false) && self.older_keys.as_ref().is_none_or(exactly)
    }

    /// When the oldest of the entries dies of its age, in ms since the epoch. Unless that is to be
    /// exact, which reads a record, it is at the latest then: the running maximum of its group tells.
    pub(crate) fn next_death(&self, told: &[Told<'_>], exact: bool) -> Result<Option<u64>> {
        let Some((age, (index, seqs))) = self.age.zip(self.entries.first()) else {
            return Ok(None);
        };
        let Some(told) = told.get(*index) else { return Ok(None) };
        let block = &told.block;
        let group = seqs.start.saturating_sub(block.first_seq()) / GROUP as u64;
        let group = usize::try_from(group).ok().and_then(|group| block.group(group));
        let entry = if exact { told.entry(seqs.start) } else { Ok(None) };
        let at = match entry {
            Ok(entry) => entry.map(|entry| entry.at).or(group.map(|group| group.max_at)),
            // The job that copies the record reports it.
            Err(error) if error.kind() == ErrorKind::Damaged => group.map(|group| group.max_at),
            Err(error) => return Err(error),
        };
        Ok(at.map(|at| at.saturating_add(age)))
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
        kept < u64::from(block.count())
            || self.state.of(index).0 < u64::from(block.states().count())
            || (head.life == 0 && self.older == Some(false))
    }

    /// What this segment's entries lose that keep their place: redacted ones, and with `time` those
    /// that have expired by then. Footers do not tell which redactions a run has taken to heart
    /// already, so these records are asked; of expiries they tell the lowest of each group, and only
    /// groups that are reached are.
    pub(crate) fn hollow_of(
        &self,
        index: usize,
        told: &Told<'_>,
        time: Option<u64>,
    ) -> Result<Hollow> {
        let mut found = Hollow::default();
        if self.head.is_none() {
            return Ok(found);
        }
        let block = &told.block;
        for (_, seqs) in self.entries.iter().filter(|(of, _)| *of == index) {
            for seq in self.redacted.range(seqs.clone()) {
                let entry = told.entry(*seq)?.filter(|entry| entry.flags & REDACTED == 0);
                found.bytes += entry.as_ref().map_or(0, hollow);
            }
            if block.soonest() == NEVER {
                continue;
            }
            let of = |seq: u64| (seq.saturating_sub(block.first_seq())) / GROUP as u64;
            for group in of(seqs.start)..=of(seqs.end.saturating_sub(1)) {
                let soonest = block.soonest_of(usize::try_from(group).unwrap_or(usize::MAX));
                if time.is_none_or(|time| soonest > time) {
                    found.expires_at(soonest);
                    continue;
                }
                let first = block.first_seq().saturating_add(group * GROUP as u64);
                let group = seqs.start.max(first)..seqs.end.min(first + GROUP as u64);
                for seq in group.filter(|seq| !self.redacted.contains(seq)) {
                    let Some(entry) = told.entry(seq)? else { continue };
                    match entry.expires.filter(|_| entry.flags & REDACTED == 0) {
                        Some(at) if time.is_some_and(|time| at <= time) => {
                            found.bytes += hollow(&entry);
                        }
                        Some(at) => found.expires_at(at),
                        None => {}
                    }
                }
            }
        }
        Ok(found)
    }

    /// What of a block's content lives, by what footers know; what is redacted counts as living.
    pub(crate) fn content_of(&self, index: usize, block: &Block<'_>) -> u64 {
        let whole = entries_content(block);
        let seqs = self.entries.iter().filter(|(of, _)| *of == index).map(|(_, seqs)| seqs);
        let live = seqs.map(|seqs| seqs.end - seqs.start);
        let (live, all) = (live.sum::<u64>(), u64::from(block.count()));
        let entries = if live >= all { whole } else { share(whole, live, all) };
        entries.saturating_add(self.state.of(index).1)
    }
}

impl Hollow {
    fn expires_at(&mut self, at: u64) {
        if at != NEVER {
            self.next_expiry = Some(self.next_expiry.map_or(at, |next| next.min(at)));
        }
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
    entries_content(block).saturating_add(block.states().state_bytes())
}

/// What everything that the blocks of a segment tell of takes.
pub(crate) fn content_of_all(trailer: &Trailer) -> u64 {
    let entries = trailer.bytes.saturating_add(trailer.entries.saturating_mul(ENTRY_COST));
    entries.saturating_add(trailer.state_bytes).saturating_add(trailer.facts.hidden)
}

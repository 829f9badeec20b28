//! An agent as of one batch: its head, and what unsealed segments hold of it.

use std::sync::Arc;

use crate::catalog::base::Base;
use crate::catalog::part::{Part, Pushed, Spot, StateSlot};
use crate::error::Result;
use crate::format::head::Head;
use crate::format::record::{self, Append, Change};
use crate::segment::Segment;
use crate::types::Retention;

/// A change as it bears on the index: the bytes stay where they are.
///
/// An append says beside what its part is told whether the entry has an expiry. Of a set, `len` is that of the record with its padding, and `revision` its own, if it is not the
/// lsn of its frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Applied<'a> {
    Append(Pushed, bool),
    Set { key: &'a str, len: u32, revision: Option<u64> },
    Unset { key: &'a str },
    Truncate { seq: u64 },
    Redact { seq: u64 },
    Forget,
    Policy(Option<Retention>),
}

impl<'a> Applied<'a> {
    /// What an entry means to the index of its agent.
    pub(crate) fn append(append: &Append<'_>) -> Self {
        let has_bytes = append.flags & (record::LOST | record::REDACTED) == 0;
        let entry = Pushed {
            at: append.at,
            bytes: (append.meta.len() + append.payload.len()) as u64,
            weight: append.weight,
            joined: append.flags & record::JOINED != 0,
            lost: append.flags & record::LOST != 0,
            expires: append.expires.filter(|_| has_bytes),
        };
        Applied::Append(entry, append.expires.is_some())
    }

    /// What a stored change means to the index of its agent. `None` if it is of no one agent.
    pub(crate) fn of(change: &Change<'a>) -> Option<Self> {
        Some(match *change {
            Change::Append(ref append) => Applied::append(append),
            Change::Set { key, value } => {
                Applied::Set { key, len: record::set_len(key, value, false), revision: None }
            }
            Change::Kept { key, revision, value } => Applied::Set {
                key,
                len: record::set_len(key, value, true),
                revision: Some(revision),
            },
            Change::Unset { key } => Applied::Unset { key },
            Change::Truncate { seq } => Applied::Truncate { seq },
            Change::Redact { seq } => Applied::Redact { seq },
            Change::Forget => Applied::Forget,
            Change::Policy(policy) => Applied::Policy(policy),
            Change::ForgetPrefix { .. } | Change::KeptPrefix { .. } => return None,
        })
    }
}

/// Where a record lies and in which batch.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) segment: &'a Arc<Segment>,
    pub(crate) spot: Spot,
    /// The batch's.
    pub(crate) lsn: u64,
    /// The record's number in its batch: with the lsn it names a life that begins here.
    pub(crate) ordinal: u64,
}

/// An agent as of one batch.
#[derive(Clone)]
pub(crate) struct Version {
    pub(crate) head: Head,
    /// The lsn of the last batch that touched the agent, as far as it is known.
    pub(crate) lsn: u64,
    /// What the active segment holds.
    pub(crate) new: Option<Part>,
    /// What the segments before it hold that are being sealed, oldest first.
    pub(crate) old: Vec<Part>,
}

/// A version as readers keep it: small where it is at rest, for it is moved about.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) head: Head,
    /// The lsn of the last batch that touched the agent, as far as it is known.
    pub(crate) lsn: u64,
    /// What unsealed segments hold, newest first.
    pub(crate) parts: Vec<Part>,
}

impl Version {
    /// An agent at rest: all of it is in sealed segments.
    pub(crate) fn at_rest(head: Head) -> Self {
        Version { head, lsn: 0, new: None, old: Vec::new() }
    }

    /// The parts, newest first.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.new.iter().chain(self.old.iter().rev())
    }

    /// The revision of a key, 0 if it is absent; `None` if sealed segments must be asked, and their
    /// indices are not at hand.
    pub(crate) fn revision(&self, base: Option<&Arc<Base>>, key: &str) -> Result<Option<u64>> {
        // A key that was unset is absent.
        let revision = |slot: StateSlot| slot.spot.offset().map_or(0, |_| slot.revision);
        if let Some(slot) = self.parts().find_map(|part| part.state(key, self.lsn)) {
            return Ok(Some(revision(slot)));
        }
        if self.head.flags & Head::STATE == 0 {
            return Ok(Some(0));
        }
        let Some(base) = base.filter(|base| base.life == self.head.life) else { return Ok(None) };
        Ok(Some(base.state(key)?.map_or(0, |(_, slot)| revision(slot))))
    }

    /// The version for a reader who has what footers stand for in a set of this generation.
    #[inline]
    pub(crate) fn seen(&self, generation: u64) -> Seen {
        let mut parts = Vec::new();
        if self.new.is_some() || !self.old.is_empty() {
            let unsealed = self.parts().filter(|part| part.segment.sealed_at() > generation);
            parts.reserve_exact(1 + self.old.len());
            parts.extend(unsealed.cloned());
        }
        Seen { head: self.head, lsn: self.lsn, parts }
    }

    /// Applies one change.
    pub(crate) fn apply(&mut self, change: &Applied<'_>, place: &Place<'_>) {
        self.lsn = place.lsn;
        match *change {
            Applied::Append(ref entry, expires) => {
                self.begin_life(place);
                let spot = if entry.lost { Spot::default() } else { place.spot };
                self.part(place.segment).push(spot, entry);
                self.head.next += 1;
                if expires {
                    self.head.flags |= Head::EXPIRES;
                }
            }
            Applied::Set { key, len, revision } => {
                self.begin_life(place);
                let revision = revision.unwrap_or(place.lsn);
                self.change_state(key, StateSlot { revision, spot: place.spot, len }, place);
            }
            Applied::Unset { key } if self.head.life != 0 => {
                let slot = StateSlot { revision: place.lsn, spot: Spot::default(), len: 0 };
                self.change_state(key, slot, place);
            }
            Applied::Truncate { seq } if self.head.life != 0 => {
                self.head.floor = self.head.floor.max(seq.min(self.head.next));
            }
            Applied::Redact { seq } if (self.head.floor..self.head.next).contains(&seq) => {
                self.head.flags |= Head::REDACTED;
                self.part(place.segment).redact(seq);
            }
            Applied::Policy(policy) => {
                self.begin_life(place);
                self.part(place.segment).set_policy(policy, place.lsn);
                self.head.flags |= Head::POLICY;
            }
            Applied::Forget => {
                let lsn = self.lsn;
                *self = Version { lsn, ..Version::at_rest(Head::absent()) };
            }
            Applied::Unset { .. } | Applied::Truncate { .. } | Applied::Redact { .. } => {}
        }
    }

    /// Takes the head that a frame tells of as the truth: entries between are lost, and keep their
    /// seqs. For recovery and salvage, where frames may be missing.
    pub(crate) fn catch_up(&mut self, told: &Head, segment: &Arc<Segment>) {
        if self.head.life != told.life {
            let lsn = self.lsn;
            *self = Version { lsn, ..Version::at_rest(*told) };
            return;
        }
        if told.life != 0 && told.next > self.head.next {
            self.lose(told.next, segment);
        } else if told.next < self.head.next {
            // More was taken for entries of this agent than there were: which seqs the others have is
            // not known.
            self.new = None;
            self.old.clear();
        }
        self.head = *told;
    }

    /// Marks the seqs up to `next` as lost.
    fn lose(&mut self, next: u64, segment: &Arc<Segment>) {
        // A hole that no real history leaves is not worth a table of its size: the timeline then
        // begins behind it, and what is missing is missed by its seqs.
        const MOST: u64 = 1 << 20;
        if next - self.head.next > MOST {
            self.new = None;
            self.old.clear();
            return;
        }
        let at = self.head.next;
        let part = self.part(segment);
        for _ in at..next {
            part.push(Spot::default(), &Pushed { lost: true, ..Pushed::default() });
        }
    }

    fn begin_life(&mut self, place: &Place<'_>) {
        if self.head.life == 0 {
            self.head = Head { life: place.lsn + place.ordinal, ..Head::absent() };
        }
    }

    fn change_state(&mut self, key: &str, slot: StateSlot, place: &Place<'_>) {
        self.head.flags |= Head::STATE;
        self.part(place.segment).change_state(key, slot);
    }

    /// The part of the segment that is written now. When that is another one than before, the part
    /// so far joins the old ones.
    fn part(&mut self, segment: &Arc<Segment>) -> &mut Part {
        let next = self.head.next;
        if self.new.as_ref().is_some_and(|part| part.segment.id != segment.id) {
            self.old.extend(self.new.take());
        }
        self.new.get_or_insert_with(|| Part::new(Arc::clone(segment), next))
    }

    /// Forgets the parts of segments whose footers stand for them in a set of this generation.
    pub(crate) fn drop_sealed(&mut self, generation: u64) {
        if !self.old.is_empty() {
            self.old.retain(|part| part.segment.sealed_at() > generation);
        }
        if self.new.as_ref().is_some_and(|p| p.segment.sealed_at() <= generation) {
            self.new = None;
        }
    }
}

//! Building a footer, agent by agent in name order.

use super::super::codec::pad;
use super::super::head::Head;
use super::super::{ALIGN, Fault, LIMIT, PAGE, check};
use super::block::{
    CHANGE, GROUP, HEAD_FLAGS, HEADER, INDEX, POLICY_CLEARED, POLICY_SET, StateChange,
};
use super::directory::Plan;
use super::{
    Bound, COVERED, MAX_NAME, SegmentFacts, TRAILER_LEN, Trailer, bounds, filter, prefix, seal,
};
use crate::types::Retention;

/// What a segment knows of one agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary<'a> {
    pub(crate) name: &'a str,
    /// At the end of the segment. Life 0 makes a tombstone: everything below is empty then.
    pub(crate) head: Head,
    /// The seq of the first of `offsets`.
    pub(crate) first_seq: u64,
    /// Where the entries are, in units of 8 bytes; 0: lost.
    pub(crate) offsets: &'a [u32],
    /// The maximum of `at` from the first entry to the end of each group of [`GROUP`].
    pub(crate) ats: &'a [u64],
    /// Bytes of payloads and meta.
    pub(crate) bytes: u64,
    /// The last change of each key, in the order of the keys.
    pub(crate) state: &'a [StateChange<'a>],
    /// Ascending.
    pub(crate) redacted: &'a [u64],
    /// Whether the policy was changed, and to what.
    pub(crate) policy: Option<Option<Retention>>,
}

/// A finished footer.
#[derive(Debug)]
pub(crate) struct Footer {
    /// From `trailer.footer_at` to the end of the file.
    pub(crate) bytes: Vec<u8>,
    pub(crate) trailer: Trailer,
}

/// Takes the agents of a segment in name order, and makes its footer.
#[derive(Debug)]
pub(crate) struct Builder {
    facts: SegmentFacts,
    /// The blocks; each check lacks the mask of its place, which is not known before the end.
    blocks: Vec<u8>,
    places: Vec<Place>,
    hashes: Vec<u64>,
    prefixes: Vec<u8>,
    prefix_count: u32,
    /// The range of names that a run covers; empty without one.
    bounds: Option<(String, Option<String>)>,
    bound: Bound,
    entries: u64,
    bytes: u64,
    state_bytes: u64,
}

/// Where in `blocks` a block starts, in units of 8 bytes, and how long its name is.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u32,
    name_len: u16,
}

const TOO_LARGE: Fault = Fault("the footer is too large");

impl Builder {
    pub(crate) fn new(facts: SegmentFacts) -> Self {
        Builder {
            facts,
            blocks: Vec::new(),
            places: Vec::new(),
            hashes: Vec::new(),
            prefixes: Vec::new(),
            prefix_count: 0,
            bounds: None,
            bound: Bound::new(),
            entries: 0,
            bytes: 0,
            state_bytes: 0,
        }
    }

    /// Adds an agent, whose name is above all names before. After a fault nothing was added.
    pub(crate) fn add(&mut self, agent: &Summary<'_>, name_hash: u64) -> Result<(), Fault> {
        agent.validate()?;
        if self.places.last().is_some_and(|&last| self.name(last) >= agent.name.as_bytes()) {
            return Err(Fault("agents are not in name order"));
        }
        let start = self.blocks.len();
        let place = Place { start: units(start)?, name_len: short(agent.name.len())? };
        let entries = self.entries.checked_add(agent.offsets.len() as u64).ok_or(TOO_LARGE)?;
        let bytes = self.bytes.checked_add(agent.bytes).ok_or(TOO_LARGE)?;
        let lens = agent.state.iter().map(|change| u64::from(change.len));
        let state_bytes = self.state_bytes.checked_add(lens.sum()).ok_or(TOO_LARGE)?;
        if let Err(fault) = agent.write(&mut self.blocks) {
            self.blocks.truncate(start);
            return Err(fault);
        }
        let last = agent.ats.last().copied().unwrap_or_default();
        self.facts.max_at = self.facts.max_at.max(last);
        (self.entries, self.bytes, self.state_bytes) = (entries, bytes, state_bytes);
        self.places.push(place);
        self.hashes.push(name_hash);
        agent.count(&mut self.bound);
        Ok(())
    }

    /// Adds a prefix that was forgotten in this segment, by the lsn of that batch.
    pub(crate) fn add_prefix(&mut self, lsn: u64, prefix: &str) -> Result<(), Fault> {
        let count = self.prefix_count.checked_add(1).ok_or(TOO_LARGE)?;
        prefix::write(&mut self.prefixes, lsn, prefix)?;
        self.prefix_count = count;
        self.bound.add_prefix(prefix.len());
        Ok(())
    }

    /// Says which names the segment, a run, covers: from `from` on, up to `to`, itself excluded.
    /// It is a fault of [`finish`](Self::finish) if an agent lies outside.
    pub(crate) fn set_bounds(&mut self, from: &str, to: Option<&str>) -> Result<(), Fault> {
        bounds::check((from, to))?;
        self.bounds = Some((from.to_owned(), to.map(str::to_owned)));
        Ok(())
    }

    /// What the trailer is to say, as far as it is not known before all agents are added. `max_at`
    /// goes on to be raised by agents; store, id and salt are those of the segment to the end.
    pub(crate) fn facts_mut(&mut self) -> &mut SegmentFacts {
        &mut self.facts
    }

    /// The most that the footer takes if nothing is added any more: it fits with a data end that
    /// far before the end of the file, whatever the bounds will be.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the writer of runs"))]
    pub(crate) fn bytes_so_far(&self) -> u64 {
        let mut bound = self.bound;
        bound.add_bounds(MAX_NAME, MAX_NAME);
        bound.bytes()
    }

    /// Makes the footer of a file of that length (a multiple of 8). It is a fault if the footer
    /// would start before the data end.
    pub(crate) fn finish(mut self, file_len: u64) -> Result<Footer, Fault> {
        self.put_bounds()?;
        let plan = Plan::new(self.places.iter().map(|&place| self.name(place)).collect());
        let trailer = self.lay_out(&plan, file_len)?;
        let length = super::in_memory(trailer.footer_len())?;
        let mut out = Vec::with_capacity(length);

        let base = trailer.blocks_at / ALIGN as u64;
        let target = |place: &Place| u32::try_from(base + u64::from(place.start));
        let targets: Result<Vec<u32>, _> = self.places.iter().map(target).collect();
        plan.write(&mut out, &targets.map_err(|_| TOO_LARGE)?)?;

        let filter_start = out.len();
        let filter_len = super::in_memory(trailer.blocks_at - trailer.filter_at)?;
        out.resize(filter_start + filter_len, 0);
        for &hash in &self.hashes {
            let place = filter::place(hash, trailer.filter_pages);
            let start = filter_start + super::in_memory(place.page)? * PAGE;
            place.insert(out.get_mut(start..).unwrap_or_default());
        }
        seal_pages(&mut out, &trailer);

        self.write_blocks(&mut out, &trailer);
        self.write_prefixes(&mut out, &trailer)?;
        out.extend_from_slice(&trailer.encode()?);
        if out.len() != length {
            return Err(Fault("the footer did not get the length that was planned"));
        }
        Ok(Footer { bytes: out, trailer })
    }

    /// Puts the bounds before the prefixes, if there are any.
    fn put_bounds(&mut self) -> Result<(), Fault> {
        let Some((from, to)) = &self.bounds else { return Ok(()) };
        let (from, to) = (from.as_str(), to.as_deref());
        let (first, last) = (self.places.first(), self.places.last());
        let below = first.is_some_and(|&first| self.name(first) < from.as_bytes());
        let above = |to: &str| last.is_some_and(|&last| self.name(last) >= to.as_bytes());
        if below || to.is_some_and(above) {
            return Err(Fault("an agent lies outside the names that the run covers"));
        }
        let mut section = bounds::write((from, to))?;
        section.append(&mut self.prefixes);
        self.prefixes = section;
        Ok(())
    }

    /// Where everything goes.
    fn lay_out(&self, plan: &Plan<'_>, file_len: u64) -> Result<Trailer, Fault> {
        let agents = self.places.len() as u64;
        let directory_pages = number(plan.pages())?;
        let filter_pages = u32::try_from(filter::pages(agents)).map_err(|_| TOO_LARGE)?;
        let page = PAGE as u64;
        let directory_len = u64::from(directory_pages) * page;
        let filter_len = u64::from(filter_pages) * page;
        let blocks_len = self.blocks.len() as u64;
        let least = directory_len
            + filter_len
            + blocks_len
            + (prefix::HEADER + self.prefixes.len() + TRAILER_LEN) as u64;
        let no_room = Fault("the footer does not fit between the data and the end of the file");
        let footer_at = file_len.checked_sub(least).ok_or(no_room)? / page * page;
        if footer_at < self.facts.data_end {
            return Err(no_room);
        }
        let filter_at = footer_at + directory_len;
        let blocks_at = filter_at + filter_len;
        let prefixes_at = blocks_at + blocks_len;
        let trailer = Trailer {
            facts: self.facts,
            file_len,
            footer_at,
            directory_pages,
            leaf_pages: number(plan.leaves())?,
            root: directory_pages.saturating_sub(1),
            filter_pages,
            filter_at,
            blocks_at,
            blocks_len,
            prefixes_at,
            prefixes_len: file_len - TRAILER_LEN as u64 - prefixes_at,
            agents,
            entries: self.entries,
            bytes: self.bytes,
            state_bytes: self.state_bytes,
        };
        trailer.validate(file_len)?;
        Ok(trailer)
    }

    /// Appends the blocks, and binds their checks to their places.
    fn write_blocks(&self, out: &mut Vec<u8>, trailer: &Trailer) {
        let start = out.len();
        out.extend_from_slice(&self.blocks);
        for place in &self.places {
            let within = place.start as usize * ALIGN;
            let mask = check::mask(self.facts.salt, trailer.blocks_at + within as u64);
            let block = out.get_mut(start + within..).unwrap_or_default();
            for (byte, mask) in block.iter_mut().zip(mask.to_le_bytes()) {
                *byte ^= mask;
            }
        }
    }

    /// Appends the prefixes with the filler, which is theirs to cover.
    fn write_prefixes(&self, out: &mut Vec<u8>, trailer: &Trailer) -> Result<(), Fault> {
        let start = out.len();
        let len = u32::try_from(trailer.prefixes_len).map_err(|_| TOO_LARGE)?;
        out.extend_from_slice(&prefix::header(len, self.prefix_count, self.bounds.is_some()));
        out.extend_from_slice(&self.prefixes);
        out.resize(start + len as usize, 0);
        let section = out.get_mut(start..).unwrap_or_default();
        seal(section, self.facts.salt, trailer.prefixes_at);
        Ok(())
    }

    fn name(&self, place: Place) -> &[u8] {
        let start = place.start as usize * ALIGN + HEADER;
        self.blocks.get(start..start + usize::from(place.name_len)).unwrap_or_default()
    }
}

/// Fills in the checks of the pages of directory and filter.
fn seal_pages(pages: &mut [u8], trailer: &Trailer) {
    let mut at = trailer.footer_at;
    for page in pages.chunks_exact_mut(PAGE) {
        seal(page, trailer.facts.salt, at);
        at += PAGE as u64;
    }
}

impl Summary<'_> {
    fn validate(&self) -> Result<(), Fault> {
        let empty = self.offsets.is_empty() && self.state.is_empty() && self.redacted.is_empty();
        let faults = [
            (self.name.is_empty() || self.name.len() > MAX_NAME, "a name is empty or too long"),
            (self.head.flags & !HEAD_FLAGS != 0, "a head has unknown flags"),
            (
                self.head.life == 0 && !(empty && self.policy.is_none()),
                "an absent agent has content",
            ),
            (
                self.ats.len() != self.offsets.len().div_ceil(GROUP) || !self.ats.is_sorted(),
                "the running maxima do not fit the entries",
            ),
            (!self.redacted.is_sorted_by(|a, b| a < b), "redacted seqs are not in order"),
            (!self.state.is_sorted_by(|a, b| a.key < b.key), "keys are not in order"),
            (
                !self.state.iter().all(StateChange::is_sound),
                "a state change's record has an impossible length",
            ),
            (self.head.check().is_err(), "an agent's head is none that an agent comes to"),
            (
                self.first_seq.saturating_add(self.offsets.len() as u64) > LIMIT,
                "an extent ends beyond the last seq",
            ),
        ];
        match faults.into_iter().find(|(wrong, _)| *wrong) {
            Some((_, why)) => Err(Fault(why)),
            None => Ok(()),
        }
    }

    /// Counts what it adds to a footer.
    fn count(&self, bound: &mut Bound) {
        bound.add_agent(self.name.len());
        bound.add_entries(self.offsets.len());
        self.state.iter().for_each(|change| bound.add_state(change.key.len()));
        self.redacted.iter().for_each(|_| bound.add_redaction());
        self.policy.iter().for_each(|_| bound.add_policy());
    }

    /// Appends the block, its check without a mask.
    fn write(&self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let start = out.len();
        out.extend_from_slice(&self.header()?);
        out.extend_from_slice(self.name.as_bytes());
        pad(out);
        if let Some(Some(policy)) = self.policy {
            for limit in [policy.max_entries, policy.max_bytes, policy.max_age] {
                out.extend_from_slice(&limit.unwrap_or(u64::MAX).to_le_bytes());
            }
        }
        out.extend(self.offsets.iter().flat_map(|offset| offset.to_le_bytes()));
        pad(out);
        for value in self.ats.iter().chain(self.redacted) {
            out.extend_from_slice(&value.to_le_bytes());
        }
        self.write_state(out, start)?;
        let block = out.get_mut(start..).unwrap_or_default();
        let len = number(block.len())?;
        if let Some((field, rest)) = block.split_first_chunk_mut::<COVERED>() {
            if let Some(place) = rest.first_chunk_mut() {
                *place = len.to_le_bytes();
            }
            *field = check::crc(rest).to_le_bytes();
        }
        Ok(())
    }

    /// The fixed part of the block, its check and length still zero.
    fn header(&self) -> Result<[u8; HEADER], Fault> {
        let policy = match self.policy {
            None => 0,
            Some(None) => POLICY_CLEARED,
            Some(Some(_)) => POLICY_SET,
        };
        let counts = u64::from(number(self.offsets.len())?)
            | u64::from(self.head.flags | policy) << 32
            | u64::from(short(self.name.len())?) << 48;
        let lists =
            u64::from(number(self.state.len())?) | u64::from(number(self.redacted.len())?) << 32;
        let Head { life, next, floor, .. } = self.head;
        let words = [0, life, next, floor, self.first_seq, counts, self.bytes, lists];
        let mut header = [0; HEADER];
        for (place, word) in header.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Ok(header)
    }

    /// Appends the index of the state changes, and the changes.
    fn write_state(&self, out: &mut Vec<u8>, start: usize) -> Result<(), Fault> {
        let index = super::super::align(self.state.len() * INDEX);
        let mut at = out.len() - start + index;
        for change in self.state {
            out.extend_from_slice(&number(at)?.to_le_bytes());
            at += CHANGE + super::super::align(change.key.len());
        }
        pad(out);
        for change in self.state {
            out.extend_from_slice(&change.revision.to_le_bytes());
            out.extend_from_slice(&change.offset.to_le_bytes());
            out.extend_from_slice(&change.len.to_le_bytes());
            out.extend_from_slice(&short(change.key.len())?.to_le_bytes());
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(change.key.as_bytes());
            pad(out);
        }
        Ok(())
    }
}

fn number(n: usize) -> Result<u32, Fault> {
    u32::try_from(n).map_err(|_| TOO_LARGE)
}

fn short(n: usize) -> Result<u16, Fault> {
    u16::try_from(n).map_err(|_| Fault("a name or key is too long"))
}

fn units(n: usize) -> Result<u32, Fault> {
    number(n / ALIGN)
}

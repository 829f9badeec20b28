//! Building a footer, agent by agent in name order.

use super::super::codec::{self, pad};
use super::super::head::Head;
use super::super::{ALIGN, Fault, LIMIT, PAGE, check};
use super::block::{
    GROUP, Group, HAS_EXPIRIES, HAS_REDACTIONS, HAS_STATES, HEAD_FLAGS, HEADER, NEVER,
    POLICY_CLEARED, POLICY_SET,
};
use super::directory::Plan;
use super::paging::BuiltPages;
use super::{
    MAX_NAME, SegmentFacts, TRAILER_LEN, Trailer, bounds, filter, prefix, put_plain_check, seal,
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
    /// What is told of each group of [`GROUP`] entries.
    pub(crate) groups: &'a [Group],
    /// The last change of each key, if any was changed.
    pub(crate) state: Option<&'a BuiltPages>,
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
    /// The blocks and their state pages; each check lacks the mask of its place, which is not known
    /// before the end.
    blocks: Vec<u8>,
    places: Vec<Place>,
    hashes: Vec<u64>,
    prefixes: Vec<u8>,
    prefix_count: u32,
    /// The range of names that a run covers; empty without one.
    bounds: Option<(String, Option<String>)>,
    entries: u64,
    bytes: u64,
    state_bytes: u64,
    weight: u64,
    soonest: u64,
    flags: u16,
    oldest: u64,
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
            entries: 0,
            bytes: 0,
            state_bytes: 0,
            weight: 0,
            soonest: NEVER,
            flags: 0,
            oldest: NEVER,
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
        let of_all = agent.groups.last();
        let bytes = of_all.map_or(0, |group| group.bytes);
        let bytes = self.bytes.checked_add(bytes).ok_or(TOO_LARGE)?;
        let state_bytes = agent.state.map_or(0, |pages| pages.facts.bytes);
        let state_bytes = self.state_bytes.checked_add(state_bytes).ok_or(TOO_LARGE)?;
        if let Err(fault) = agent.write(&mut self.blocks) {
            self.blocks.truncate(start);
            return Err(fault);
        }
        if let Some(last) = of_all {
            self.facts.max_at = self.facts.max_at.max(last.max_at);
            self.weight = self.weight.wrapping_add(last.weight);
        }
        self.soonest = self.soonest.min(agent.soonest());
        self.flags |= agent.flags();
        self.oldest = self.oldest.min(agent.groups.first().map_or(NEVER, |group| group.max_at));
        (self.entries, self.bytes, self.state_bytes) = (entries, bytes, state_bytes);
        self.places.push(place);
        self.hashes.push(name_hash);
        Ok(())
    }

    /// Adds a prefix that was forgotten in this segment, by the lsn of that batch.
    pub(crate) fn add_prefix(&mut self, lsn: u64, prefix: &str) -> Result<(), Fault> {
        let count = self.prefix_count.checked_add(1).ok_or(TOO_LARGE)?;
        prefix::write(&mut self.prefixes, lsn, prefix)?;
        self.prefix_count = count;
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
            compatible: 0,
            weight: self.weight,
            soonest: self.soonest,
            flags: self.flags,
            oldest: self.oldest,
        };
        trailer.validate(file_len)?;
        Ok(trailer)
    }

    /// Appends the blocks and their pages, and binds their checks to their places.
    fn write_blocks(&self, out: &mut Vec<u8>, trailer: &Trailer) {
        let start = out.len();
        out.extend_from_slice(&self.blocks);
        let mut within = 0_usize;
        // Blocks and pages follow each other, and each begins with its check and its length.
        while let Some(len) = codec::u32_at(&self.blocks, within.saturating_add(4)) {
            let mask = check::mask(self.facts.salt, trailer.blocks_at + within as u64);
            let structure = out.get_mut(start + within..).unwrap_or_default();
            for (byte, mask) in structure.iter_mut().zip(mask.to_le_bytes()) {
                *byte ^= mask;
            }
            debug_assert!(len as usize >= super::GRANULE, "a structure is too short");
            within = within.saturating_add((len as usize).max(ALIGN));
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
        let empty = self.offsets.is_empty() && self.state.is_none() && self.redacted.is_empty();
        let totals = |group: &Group| (group.max_at, group.bytes, group.weight, group.unweighted);
        let rising = |a: &Group, b: &Group| {
            let ((a, b, c, d), (at, bytes, weight, none)) = (totals(a), totals(b));
            a <= at && b <= bytes && c <= weight && d <= none
        };
        let faults = [
            (self.name.is_empty() || self.name.len() > MAX_NAME, "a name is empty or too long"),
            (self.head.flags & !HEAD_FLAGS != 0, "a head has unknown flags"),
            (
                self.head.life == 0 && !(empty && self.policy.is_none()),
                "an absent agent has content",
            ),
            (
                self.groups.len() != self.offsets.len().div_ceil(GROUP)
                    || !self.groups.is_sorted_by(rising),
                "the running maxima and sums do not fit the entries",
            ),
            (!self.redacted.is_sorted_by(|a, b| a < b), "redacted seqs are not in order"),
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

    /// The lowest expiry of an entry that has its bytes.
    fn soonest(&self) -> u64 {
        self.groups.iter().map(|group| group.soonest).min().unwrap_or(NEVER)
    }

    /// The flags of the block.
    fn flags(&self) -> u16 {
        let policy = match self.policy {
            None => 0,
            Some(None) => POLICY_CLEARED,
            Some(Some(_)) => POLICY_SET,
        };
        let with = |flag, is_there| if is_there { flag } else { 0 };
        self.head.flags
            | policy
            | with(HAS_STATES, self.state.is_some())
            | with(HAS_REDACTIONS, !self.redacted.is_empty())
            | with(HAS_EXPIRIES, self.soonest() != NEVER)
    }

    /// Appends the block and its state pages, the checks without masks.
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
        if let Some(BuiltPages { facts, .. }) = self.state {
            out.extend_from_slice(&facts.count.to_le_bytes());
            out.extend_from_slice(&facts.root.to_le_bytes());
            out.extend_from_slice(&facts.len.to_le_bytes());
            out.extend_from_slice(&facts.bytes.to_le_bytes());
        }
        if !self.redacted.is_empty() {
            out.extend_from_slice(&u64::from(number(self.redacted.len())?).to_le_bytes());
        }
        out.extend(self.offsets.iter().flat_map(|offset| offset.to_le_bytes()));
        pad(out);
        self.write_groups(out);
        for seq in self.redacted {
            out.extend_from_slice(&seq.to_le_bytes());
        }
        let block = out.get_mut(start..).unwrap_or_default();
        let len = number(block.len())?;
        if let Some(place) = block.get_mut(4..8) {
            place.copy_from_slice(&len.to_le_bytes());
        }
        put_plain_check(block);
        out.extend_from_slice(self.state.map_or(&[], |pages| &pages.bytes));
        Ok(())
    }

    fn write_groups(&self, out: &mut Vec<u8>) {
        let mut put = |number: u64| out.extend_from_slice(&number.to_le_bytes());
        self.groups.iter().for_each(|group| put(group.max_at));
        for group in self.groups {
            put(u64::from(group.unweighted) | u64::from(group.joined) << 32);
        }
        if self.soonest() != NEVER {
            self.groups.iter().for_each(|group| put(group.soonest));
        }
        // What the sums of the last one would say, the header says.
        for group in self.groups.split_last().map_or(&[][..], |(_, before)| before) {
            put(group.bytes);
            put(group.weight);
        }
    }

    /// The fixed part of the block, its check and length still zero.
    fn header(&self) -> Result<[u8; HEADER], Fault> {
        let counts = u64::from(number(self.offsets.len())?)
            | u64::from(self.flags()) << 32
            | u64::from(short(self.name.len())?) << 48;
        let (bytes, weight) = self.groups.last().map_or((0, 0), |all| (all.bytes, all.weight));
        let Head { life, next, floor, .. } = self.head;
        let words = [0, life, next, floor, self.first_seq, counts, bytes, weight];
        let mut header = [0; HEADER];
        for (place, word) in header.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Ok(header)
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

//! The block of one agent: everything that a segment knows of it.

use std::str;

use super::super::codec::{Cursor, u32_at, u64_at};
use super::super::head::Head;
use super::super::{ALIGN, Fault, LIMIT, align};
use super::pages::{Home, Pages, PagesFacts};
use super::{MAX_FILE, MAX_NAME};
use crate::types::Retention;

/// Entries that share running sums and a running maximum of `at`.
pub(crate) const GROUP: usize = 32;

/// What stands for no expiry.
pub(crate) const NEVER: u64 = u64::MAX;

/// The fixed part of a block.
pub(super) const HEADER: usize = 64;
/// The position of an entry.
pub(super) const OFFSET: usize = 4;
/// A running maximum, and a lowest expiry.
pub(super) const MAXIMUM: usize = 8;
/// The traits of a group.
pub(super) const TRAITS: usize = 8;
/// The running sums of a group.
pub(super) const SUMS: usize = 16;
/// A redacted seq.
pub(super) const REDACTION: usize = 8;
/// A policy.
pub(super) const POLICY: usize = 24;
/// What a block says of its state pages.
pub(super) const STATES: usize = 24;
/// How many entries were redacted.
pub(super) const REDACTIONS: usize = 8;

/// The flags of a block that are those of the head.
pub(super) const HEAD_FLAGS: u16 = 0x00FF;
/// The agent's policy was changed in this segment, to the one in the block.
pub(super) const POLICY_SET: u16 = 0x0100;
/// The agent's policy was changed in this segment, to none.
pub(super) const POLICY_CLEARED: u16 = 0x0200;
/// Keys were changed in this segment: state pages follow the block.
pub(super) const HAS_STATES: u16 = 0x0400;
/// Entries were redacted in this segment.
pub(super) const HAS_REDACTIONS: u16 = 0x0800;
/// An entry of the extent has an expiry.
pub(super) const HAS_EXPIRIES: u16 = 0x1000;
/// The flags of features that are not built, and reserved ones.
const NOT_BUILT: u16 = 0xE000;

/// Bytes and weight of the first entries of an extent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) bytes: u64,
    pub(crate) weight: u64,
}

/// What a block tells of a group of entries. All but `joined` and `soonest` are of the entries from
/// the extent's first one up to the last of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// The highest `at`.
    pub(crate) max_at: u64,
    /// Payload and meta.
    pub(crate) bytes: u64,
    pub(crate) weight: u64,
    /// Entries without a weight, lost ones left out.
    pub(crate) unweighted: u32,
    /// Which of the group's entries belong with the one before them, by their bits.
    pub(crate) joined: u32,
    /// The lowest expiry of the group's entries that have their bytes; [`NEVER`]: none has one.
    pub(crate) soonest: u64,
}

/// The block of one agent, found within its bounds; lists in it are read where they lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    name: &'a str,
    /// Offset in the file.
    at: u64,
    flags: u16,
    head: Head,
    first_seq: u64,
    count: u32,
    total: Sums,
    policy: Option<Option<Retention>>,
    offsets_at: u64,
    offsets: &'a [u8],
    maxima: &'a [u8],
    traits: &'a [u8],
    /// Empty if no entry has an expiry.
    soonest: &'a [u8],
    sums: &'a [u8],
    redacted: &'a [u8],
    pages: Pages<'a>,
    /// Offset of the first state page in the file.
    pages_at: u64,
    facts: PagesFacts,
}

/// The bytes of the block that `bytes` begins with, by its own word for their number.
pub(super) fn extent(bytes: &[u8]) -> Result<&[u8], Fault> {
    let outside = Fault("a block reaches beyond its section");
    let len = u32_at(bytes, 4).ok_or(outside)? as usize;
    if len < HEADER || !len.is_multiple_of(ALIGN) {
        return Err(Fault("a block has an impossible length"));
    }
    bytes.get(..len).ok_or(outside)
}

impl<'a> Block<'a> {
    /// The block in exactly these bytes, whose check has been verified, at `at` in the file. Its
    /// state pages are what `behind` it begins with, and lie at `home`.
    pub(super) fn parse(
        whole: &'a [u8],
        at: u64,
        behind: &'a [u8],
        home: &Home<'a>,
    ) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(whole);
        cursor.u64()?;
        let (life, next, floor) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
        let first_seq = cursor.u64()?;
        let count = cursor.u32()?;
        let flags = cursor.u16()?;
        let name_len = usize::from(cursor.u16()?);
        let total = Sums { bytes: cursor.u64()?, weight: cursor.u64()? };
        let head = Head { life, next, floor, flags: flags & HEAD_FLAGS };
        check_fields(&head, first_seq, count, flags)?;
        if total.bytes > MAX_FILE {
            return Err(TOO_MUCH);
        }
        let name = read_name(&mut cursor, name_len)?;
        let policy = match flags & (POLICY_SET | POLICY_CLEARED) {
            0 => None,
            POLICY_CLEARED => Some(None),
            POLICY_SET => Some(Some(read_policy(&mut cursor)?)),
            _ => return Err(Fault("a policy is both set and cleared")),
        };
        let facts =
            if flags & HAS_STATES == 0 { PagesFacts::default() } else { read_states(&mut cursor)? };
        let redactions =
            if flags & HAS_REDACTIONS == 0 { 0 } else { read_redactions(&mut cursor)? };
        let offsets_at = whole.len().saturating_sub(cursor.rest().len());
        let entries = count as usize;
        let groups = entries.div_ceil(GROUP);
        let offsets = padded(&mut cursor, entries, OFFSET)?;
        let maxima = padded(&mut cursor, groups, MAXIMUM)?;
        let traits = padded(&mut cursor, groups, TRAITS)?;
        let expiring = if flags & HAS_EXPIRIES == 0 { 0 } else { groups };
        let soonest = padded(&mut cursor, expiring, MAXIMUM)?;
        let sums = padded(&mut cursor, groups.saturating_sub(1), SUMS)?;
        let redacted = padded(&mut cursor, redactions, REDACTION)?;
        if !cursor.rest().is_empty() {
            return Err(Fault("a block is longer than what is in it"));
        }
        let len = usize::try_from(facts.len).map_err(|_| OUTSIDE)?;
        let pages = Pages::new(behind.get(..len).ok_or(OUTSIDE)?, home, &facts)?;
        Ok(Block {
            name,
            at,
            flags,
            head,
            first_seq,
            count,
            total,
            policy,
            offsets_at: at.saturating_add(offsets_at as u64),
            offsets,
            maxima,
            traits,
            soonest,
            sums,
            redacted,
            pages,
            pages_at: home.at,
            facts,
        })
    }

    pub(crate) fn name(&self) -> &'a str {
        self.name
    }

    /// Where in the file the block lies.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Its flags, those of the head included.
    pub(crate) fn flags(&self) -> u16 {
        self.flags
    }

    /// The agent's head at the end of the segment.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// The seq of the extent's first entry.
    pub(crate) fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// The number of entries in the extent, lost ones included.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of payloads and meta in the extent.
    pub(crate) fn bytes(&self) -> u64 {
        self.total.bytes
    }

    /// The weights of the extent's entries.
    pub(crate) fn weight(&self) -> u64 {
        self.total.weight
    }

    /// The number of groups of [`GROUP`] entries.
    pub(crate) fn groups(&self) -> usize {
        self.maxima.len() / MAXIMUM
    }

    /// Bytes and weight of the entries before a group; before the one behind the last: of all.
    pub(crate) fn sums_before(&self, group: usize) -> Result<Sums, Fault> {
        let Some(before) = group.checked_sub(1) else { return Ok(Sums::default()) };
        if group >= self.groups() {
            return Ok(self.total);
        }
        let at = before.saturating_mul(SUMS);
        let read = |at| u64_at(self.sums, at).ok_or(Fault("a block lacks sums of its entries"));
        let sums = Sums { bytes: read(at)?, weight: read(at.saturating_add(8))? };
        if sums.bytes > self.total.bytes || sums.weight > self.total.weight {
            return Err(Fault("the sums of a block are above those of all its entries"));
        }
        Ok(sums)
    }

    /// What the block tells of a group; `None` behind the last.
    pub(crate) fn group(&self, group: usize) -> Option<Group> {
        let (maximum, traits) = (group.checked_mul(MAXIMUM)?, group.checked_mul(TRAITS)?);
        let sums = self.sums_before(group.checked_add(1)?).ok()?;
        let soonest = if self.soonest.is_empty() { NEVER } else { u64_at(self.soonest, maximum)? };
        Some(Group {
            max_at: u64_at(self.maxima, maximum)?,
            bytes: sums.bytes,
            weight: sums.weight,
            unweighted: u32_at(self.traits, traits)?,
            joined: u32_at(self.traits, traits.checked_add(4)?)?,
            soonest,
        })
    }

    /// The lowest expiry of a group's entries that have their bytes; [`NEVER`]: none has one.
    pub(crate) fn soonest_of(&self, group: usize) -> u64 {
        let at = group.saturating_mul(MAXIMUM);
        if self.soonest.is_empty() { NEVER } else { u64_at(self.soonest, at).unwrap_or(0) }
    }

    /// The lowest expiry of the extent's entries that have their bytes; [`NEVER`]: none has one.
    pub(crate) fn soonest(&self) -> u64 {
        let all = self.soonest.chunks_exact(MAXIMUM).map(|at| u64_at(at, 0).unwrap_or(0));
        all.min().unwrap_or(NEVER)
    }

    /// Whether the agent's policy was changed in this segment, and to what.
    pub(crate) fn policy(&self) -> Option<Option<Retention>> {
        self.policy
    }

    /// Where in the file the offsets start, for [`offset_at`].
    pub(crate) fn offsets_at(&self) -> u64 {
        self.offsets_at
    }

    /// Where the entry `first_seq + i` is, in units of 8 bytes; 0: it is lost. `None` outside the
    /// extent.
    pub(crate) fn offset(&self, i: u32) -> Option<u32> {
        u32_at(self.offsets, (i as usize).checked_mul(OFFSET)?)
    }

    /// The highest `at` in the extent; `None` if it is empty.
    pub(crate) fn max_at(&self) -> Option<u64> {
        u64_at(self.maxima, self.maxima.len().checked_sub(MAXIMUM)?)
    }

    /// The first group of [`GROUP`] entries that an entry with `at >= t` is in; `None` if there is
    /// no such entry in the extent.
    pub(crate) fn first_at_or_after(&self, t: u64) -> Option<u32> {
        let (mut low, mut high) = (0_u32, u32::try_from(self.maxima.len() / MAXIMUM).ok()?);
        let groups = high;
        while low < high {
            let middle = low + (high - low) / 2;
            if u64_at(self.maxima, (middle as usize).checked_mul(MAXIMUM)?)? < t {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low < groups).then_some(low)
    }

    /// The seqs redacted in this segment, ascending; their entries may be in older ones.
    pub(crate) fn redacted(&self) -> impl ExactSizeIterator<Item = u64> + use<'a> {
        self.redacted.chunks_exact(REDACTION).map(|seq| u64_at(seq, 0).unwrap_or_default())
    }

    /// The last change of each key changed in this segment.
    pub(crate) fn states(&self) -> Pages<'a> {
        self.pages
    }

    /// Where in the file its state pages begin, and what it says of them.
    pub(crate) fn pages_at(&self) -> (u64, PagesFacts) {
        (self.pages_at, self.facts)
    }
}

const TOO_MUCH: Fault = Fault("a block tells of more bytes than a file has");
const OUTSIDE: Fault = Fault("a block's state pages reach beyond its section");

/// A list of `count` things of `size` bytes, and the zeros that align what follows.
fn padded<'a>(cursor: &mut Cursor<'a>, count: usize, size: usize) -> Result<&'a [u8], Fault> {
    let len = count.checked_mul(size).ok_or(Fault("a list in a block is too long"))?;
    let list = cursor.bytes(len)?;
    cursor.bytes(align(len).saturating_sub(len))?;
    Ok(list)
}

/// Refuses what no block says of an agent.
fn check_fields(head: &Head, first_seq: u64, count: u32, flags: u16) -> Result<(), Fault> {
    head.check()?;
    if first_seq.saturating_add(u64::from(count)) > LIMIT {
        return Err(Fault("an extent ends beyond the last seq"));
    }
    if flags & NOT_BUILT != 0 {
        return Err(Fault("a block has parts that its segment's features do not name"));
    }
    if head.life == 0 && (count > 0 || flags & !HEAD_FLAGS != 0) {
        return Err(Fault("an absent agent has content"));
    }
    Ok(())
}

fn read_name<'a>(cursor: &mut Cursor<'a>, len: usize) -> Result<&'a str, Fault> {
    let name = padded(cursor, len, 1)?;
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Fault("the name in a block is empty or too long"));
    }
    str::from_utf8(name).map_err(|_| Fault("the name in a block is not UTF-8"))
}

fn read_redactions(cursor: &mut Cursor<'_>) -> Result<usize, Fault> {
    let count = cursor.length()?;
    cursor.u32()?;
    if count == 0 {
        return Err(Fault("a block has a list of nothing"));
    }
    Ok(count)
}

fn read_states(cursor: &mut Cursor<'_>) -> Result<PagesFacts, Fault> {
    let (count, root) = (cursor.u32()?, cursor.u32()?);
    let facts = PagesFacts { count, root, len: cursor.u64()?, bytes: cursor.u64()? };
    if facts.count == 0 || !facts.len.is_multiple_of(ALIGN as u64) {
        return Err(Fault("a block's state pages have an impossible length"));
    }
    if facts.bytes > MAX_FILE {
        return Err(TOO_MUCH);
    }
    Ok(facts)
}

fn read_policy(cursor: &mut Cursor<'_>) -> Result<Retention, Fault> {
    let mut limit = || cursor.u64().map(|limit| (limit != u64::MAX).then_some(limit));
    Ok(Retention { max_entries: limit()?, max_bytes: limit()?, max_age: limit()? })
}

//! The block of one agent: everything that a segment knows of it.

use std::str;

use super::super::codec::{Cursor, u32_at, u64_at};
use super::super::head::Head;
use super::super::{ALIGN, Fault, LIMIT, align};
use super::MAX_NAME;
use crate::types::Retention;

/// Entries that share a running maximum of `at`.
pub(crate) const GROUP: usize = 32;

/// The fixed part of a block.
pub(super) const HEADER: usize = 64;
/// The position of an entry.
pub(super) const OFFSET: usize = 4;
/// A running maximum.
pub(super) const MAXIMUM: usize = 8;
/// A redacted seq.
pub(super) const REDACTION: usize = 8;
/// A policy.
pub(super) const POLICY: usize = 24;
/// Where a state change is.
pub(super) const INDEX: usize = 4;
/// A state change without its key.
pub(super) const CHANGE: usize = 24;

/// What of it is in use.
const CHANGE_USED: usize = 18;

/// The flags of a block that are those of the head.
pub(super) const HEAD_FLAGS: u16 = 0x00FF;
/// The agent's policy was changed in this segment, to the one in the block.
pub(super) const POLICY_SET: u16 = 0x0100;
/// The agent's policy was changed in this segment, to none.
pub(super) const POLICY_CLEARED: u16 = 0x0200;

/// The last change of a key in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateChange<'a> {
    pub(crate) key: &'a str,
    /// The lsn of the batch that made the change.
    pub(crate) revision: u64,
    /// The file offset of the record, in units of 8 bytes; 0: the key was unset.
    pub(crate) offset: u32,
    /// Bytes of that record with its padding; 0: the key was unset.
    pub(crate) len: u32,
}

impl StateChange<'_> {
    /// Whether there is a record of some length, or neither.
    pub(super) fn is_sound(&self) -> bool {
        (self.offset == 0) == (self.len == 0) && (self.len as usize).is_multiple_of(ALIGN)
    }
}

/// The block of one agent, found within its bounds; lists in it are read where they lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    name: &'a str,
    head: Head,
    first_seq: u64,
    count: u32,
    bytes: u64,
    policy: Option<Option<Retention>>,
    offsets_at: u64,
    offsets: &'a [u8],
    maxima: &'a [u8],
    redacted: &'a [u8],
    index: &'a [u8],
    whole: &'a [u8],
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
    /// The block in exactly these bytes, whose check has been verified, at `at` in the file.
    pub(super) fn parse(whole: &'a [u8], at: u64) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(whole);
        cursor.u64()?;
        let (life, next, floor) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
        let first_seq = cursor.u64()?;
        let count = cursor.u32()?;
        let flags = cursor.u16()?;
        let name_len = usize::from(cursor.u16()?);
        let bytes = cursor.u64()?;
        let (states, redactions) = (cursor.length()?, cursor.length()?);
        let head = Head { life, next, floor, flags: flags & HEAD_FLAGS };
        head.check()?;
        if first_seq.saturating_add(u64::from(count)) > LIMIT {
            return Err(Fault("an extent ends beyond the last seq"));
        }
        if life == 0 && (count > 0 || states > 0 || redactions > 0) {
            return Err(Fault("an absent agent has content"));
        }
        let name = padded(&mut cursor, name_len, 1)?;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Fault("the name in a block is empty or too long"));
        }
        let name = str::from_utf8(name).map_err(|_| Fault("the name in a block is not UTF-8"))?;
        let policy = match flags & (POLICY_SET | POLICY_CLEARED) {
            0 => None,
            POLICY_CLEARED => Some(None),
            POLICY_SET => Some(Some(read_policy(&mut cursor)?)),
            _ => return Err(Fault("a policy is both set and cleared")),
        };
        let offsets_at = whole.len().saturating_sub(cursor.rest().len());
        let entries = count as usize;
        let offsets = padded(&mut cursor, entries, OFFSET)?;
        let maxima = padded(&mut cursor, entries.div_ceil(GROUP), MAXIMUM)?;
        let redacted = padded(&mut cursor, redactions, REDACTION)?;
        let index = padded(&mut cursor, states, INDEX)?;
        Ok(Block {
            name,
            head,
            first_seq,
            count,
            bytes,
            policy,
            offsets_at: at.saturating_add(offsets_at as u64),
            offsets,
            maxima,
            redacted,
            index,
            whole,
        })
    }

    pub(crate) fn name(&self) -> &'a str {
        self.name
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
        self.bytes
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

    /// The number of keys changed in this segment.
    pub(crate) fn state_count(&self) -> usize {
        self.index.len() / INDEX
    }

    /// The last change of each key changed in this segment, in the order of the keys.
    pub(crate) fn states(
        &self,
    ) -> impl ExactSizeIterator<Item = Result<StateChange<'a>, Fault>> + use<'a> {
        let block = *self;
        (0..self.state_count()).map(move |i| block.change(i))
    }

    fn change(&self, i: usize) -> Result<StateChange<'a>, Fault> {
        let outside = Fault("a state change lies outside its block");
        let start = i.checked_mul(INDEX).and_then(|at| u32_at(self.index, at)).ok_or(outside)?;
        let mut cursor = Cursor::new(self.whole.get(start as usize..).ok_or(outside)?);
        let (revision, offset, len) = (cursor.number()?, cursor.u32()?, cursor.u32()?);
        let key_len = usize::from(cursor.u16()?);
        cursor.bytes(CHANGE - CHANGE_USED)?;
        let key = cursor.bytes(key_len)?;
        let key = str::from_utf8(key).map_err(|_| Fault("a key is not UTF-8"))?;
        let change = StateChange { key, revision, offset, len };
        if !change.is_sound() {
            return Err(Fault("a state change's record has an impossible length"));
        }
        Ok(change)
    }
}

/// A list of `count` things of `size` bytes, and the zeros that align what follows.
fn padded<'a>(cursor: &mut Cursor<'a>, count: usize, size: usize) -> Result<&'a [u8], Fault> {
    let len = count.checked_mul(size).ok_or(Fault("a list in a block is too long"))?;
    let list = cursor.bytes(len)?;
    cursor.bytes(align(len).saturating_sub(len))?;
    Ok(list)
}

fn read_policy(cursor: &mut Cursor<'_>) -> Result<Retention, Fault> {
    let mut limit = || cursor.u64().map(|limit| (limit != u64::MAX).then_some(limit));
    Ok(Retention { max_entries: limit()?, max_bytes: limit()?, max_age: limit()? })
}

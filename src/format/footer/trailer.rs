//! The trailer: the last bytes of the file, from which everything else is found.

use super::super::codec::Cursor;
use super::super::{ALIGN, Fault, LIMIT, PAGE, VERSION, check, features};
use super::block::OFFSET;
use super::{MAX_FILE, filter, in_memory, prefix};

/// The length of the trailer.
pub(crate) const TRAILER_LEN: usize = 320;

const MAGIC: [u8; 8] = *b"memlogFT";
/// Where the check is; what lies on both sides of it is covered.
const CHECK_AT: usize = 12;
const CHECK_END: usize = 16;
const FLAGS_END: usize = 266;
const OLDEST_AT: usize = 272;

/// The footer needs features that this crate does not read.
pub(crate) const LACKS_FEATURES: Fault =
    Fault("the footer needs features of the format that this memlog does not have");

/// The least that a block takes: its header and a name of one byte, padded.
const LEAST_BLOCK: u64 = 72;

/// What the footer says of its segment, told by whoever seals it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentFacts {
    /// The store's id.
    pub(crate) store: u128,
    /// The segment's id.
    pub(crate) segment: u64,
    /// The segment's random salt, which every check of the file is bound to.
    pub(crate) salt: u64,
    /// The lsn that the segment's data start at.
    pub(crate) first_lsn: u64,
    /// Where the data end, in bytes from the start of the file.
    pub(crate) data_end: u64,
    /// 0 for a log segment; for a run, higher wins where two cover the same lsns and names.
    pub(crate) generation: u64,
    /// The lowest lsn that the segment covers.
    pub(crate) lowest_lsn: u64,
    /// The highest lsn that the segment covers.
    pub(crate) highest_lsn: u64,
    /// The highest `at` of all entries ever written here, those forgotten since included.
    pub(crate) max_at: u64,
    /// Bytes of the frames' bodies: what of it is not live content is dead.
    pub(crate) record_bytes: u64,
    /// What was dead by what is known below this lsn has been left out; 0 for a log segment.
    pub(crate) cleaned: u64,
    /// Bytes of content, roughly, that were dead before the segment was sealed and that no block
    /// tells of; 0 only if there is no such byte.
    pub(crate) hidden: u64,
}

/// The trailer of a footer: facts, totals, and where the sections are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) facts: SegmentFacts,
    /// The length of the file.
    pub(crate) file_len: u64,
    /// Where the footer starts, with its directory; a multiple of the page.
    pub(crate) footer_at: u64,
    pub(crate) directory_pages: u32,
    /// The leaves are the first pages of the directory.
    pub(crate) leaf_pages: u32,
    /// The number of the root: the last page of the directory.
    pub(crate) root: u32,
    pub(crate) filter_pages: u32,
    pub(crate) filter_at: u64,
    pub(crate) blocks_at: u64,
    pub(crate) blocks_len: u64,
    pub(crate) prefixes_at: u64,
    /// With the filler up to the trailer.
    pub(crate) prefixes_len: u64,
    /// Blocks, tombstones included.
    pub(crate) agents: u64,
    /// Entries in all extents, lost ones included.
    pub(crate) entries: u64,
    /// Bytes of payloads and meta in all extents.
    pub(crate) bytes: u64,
    /// Bytes of the records that hold the values of all state changes.
    pub(crate) state_bytes: u64,
    /// Features that the footer may use and a reader may ignore.
    pub(crate) compatible: u64,
    /// The weights of all entries, modulo 2^64.
    pub(crate) weight: u64,
    /// The lowest expiry of the entries; MAX: none has one.
    pub(crate) soonest: u64,
    /// The flags of all blocks.
    pub(crate) flags: u16,
    /// The lowest of the first maxima of the blocks: no group is older; MAX without entries.
    pub(crate) oldest: u64,
}

impl Trailer {
    /// Reads the trailer off the last bytes of a file of that length, verifies it, and holds the
    /// sections against each other: what is returned describes ranges that exist in the file.
    pub(crate) fn read(tail: &[u8], file_len: u64) -> Result<Trailer, Fault> {
        if tail.len() != TRAILER_LEN {
            return Err(Fault("the file is too short for a footer"));
        }
        let mut cursor = Cursor::new(tail);
        if cursor.bytes(MAGIC.len())? != MAGIC {
            return Err(Fault("there is no footer at the end of the file"));
        }
        let version = cursor.u32()?;
        let stored = cursor.u32()?;
        let (trailer, incompatible, annexes_len) = Trailer::decode(&mut cursor)?;
        if stored != trailer.check(tail, file_len)? {
            return Err(Fault("the check of the footer's trailer does not match"));
        }
        if version != VERSION {
            return Err(Fault("the footer is of another version"));
        }
        if features::lacking(incompatible) != 0 {
            return Err(LACKS_FEATURES);
        }
        if annexes_len != 0 {
            return Err(Fault("the footer has annexes, and its segment no such feature"));
        }
        // What a feature that may be ignored put there is no concern of a reader.
        if trailer.compatible == 0 && cursor.rest().iter().any(|&byte| byte != 0) {
            return Err(Fault("reserved bytes of the footer's trailer are in use"));
        }
        trailer.validate(file_len)?;
        Ok(trailer)
    }

    /// The fields; with them the incompatible features and the length of the annexes.
    fn decode(cursor: &mut Cursor<'_>) -> Result<(Trailer, u64, u64), Fault> {
        let (low, high) = (cursor.u64()?, cursor.u64()?);
        // Struct fields are evaluated in the order written, which is that of the bytes.
        let facts = SegmentFacts {
            store: u128::from(high) << 64 | u128::from(low),
            segment: cursor.u64()?,
            salt: cursor.u64()?,
            first_lsn: cursor.u64()?,
            data_end: cursor.u64()?,
            generation: cursor.u64()?,
            lowest_lsn: cursor.u64()?,
            highest_lsn: cursor.u64()?,
            max_at: cursor.u64()?,
            ..SegmentFacts::default()
        };
        let mut trailer = Trailer {
            facts,
            file_len: cursor.u64()?,
            footer_at: cursor.u64()?,
            directory_pages: cursor.u32()?,
            leaf_pages: cursor.u32()?,
            root: cursor.u32()?,
            filter_pages: cursor.u32()?,
            filter_at: cursor.u64()?,
            blocks_at: cursor.u64()?,
            blocks_len: cursor.u64()?,
            prefixes_at: cursor.u64()?,
            prefixes_len: cursor.u64()?,
            agents: cursor.u64()?,
            entries: cursor.u64()?,
            bytes: cursor.u64()?,
            state_bytes: 0,
            compatible: 0,
            weight: 0,
            soonest: 0,
            flags: 0,
            oldest: 0,
        };
        trailer.facts.record_bytes = cursor.u64()?;
        trailer.facts.cleaned = cursor.u64()?;
        trailer.state_bytes = cursor.u64()?;
        trailer.facts.hidden = cursor.u64()?;
        trailer.compatible = cursor.u64()?;
        let incompatible = cursor.u64()?;
        (trailer.weight, trailer.soonest) = (cursor.u64()?, cursor.u64()?);
        let annexes_len = cursor.u64()?;
        trailer.flags = cursor.u16()?;
        cursor.bytes(OLDEST_AT - FLAGS_END)?;
        trailer.oldest = cursor.u64()?;
        Ok((trailer, incompatible, annexes_len))
    }

    /// The bytes of the trailer, its check included.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Fault> {
        let facts = &self.facts;
        let mut out = Vec::with_capacity(TRAILER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; CHECK_END - CHECK_AT]);
        out.extend_from_slice(&facts.store.to_le_bytes());
        for value in [
            facts.segment,
            facts.salt,
            facts.first_lsn,
            facts.data_end,
            facts.generation,
            facts.lowest_lsn,
            facts.highest_lsn,
            facts.max_at,
            self.file_len,
            self.footer_at,
        ] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for value in [self.directory_pages, self.leaf_pages, self.root, self.filter_pages] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for value in [
            self.filter_at,
            self.blocks_at,
            self.blocks_len,
            self.prefixes_at,
            self.prefixes_len,
            self.agents,
            self.entries,
            self.bytes,
            facts.record_bytes,
            facts.cleaned,
            self.state_bytes,
            facts.hidden,
            self.compatible,
            // No feature that a reader must know is in use, and there are no annexes.
            0,
            self.weight,
            self.soonest,
            0,
        ] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.resize(OLDEST_AT, 0);
        out.extend_from_slice(&self.oldest.to_le_bytes());
        out.resize(TRAILER_LEN, 0);
        let check = self.check(&out, self.file_len)?;
        if let Some(field) = out.get_mut(CHECK_AT..CHECK_END) {
            field.copy_from_slice(&check.to_le_bytes());
        }
        Ok(out)
    }

    pub(super) fn check(&self, bytes: &[u8], file_len: u64) -> Result<u32, Fault> {
        let short = Fault("the file is too short for a footer");
        let (before, after) = bytes.get(..CHECK_AT).zip(bytes.get(CHECK_END..)).ok_or(short)?;
        let at = file_len.checked_sub(TRAILER_LEN as u64).ok_or(short)?;
        Ok(check::crc_of_two(before, after) ^ check::mask(self.facts.salt, at))
    }

    /// Holds the sections against each other and the file.
    pub(super) fn validate(&self, file_len: u64) -> Result<(), Fault> {
        let page = PAGE as u64;
        let directory_len = u64::from(self.directory_pages) * page;
        let filter_len = u64::from(self.filter_pages) * page;
        let sum = |at: u64, len: u64| at.checked_add(len);
        let end = file_len.checked_sub(TRAILER_LEN as u64);
        let sections = file_len == self.file_len
            && file_len <= MAX_FILE
            && file_len.is_multiple_of(ALIGN as u64)
            && self.footer_at.is_multiple_of(page)
            && self.footer_at >= self.facts.data_end
            && sum(self.footer_at, directory_len) == Some(self.filter_at)
            && sum(self.filter_at, filter_len) == Some(self.blocks_at)
            && self.blocks_len.is_multiple_of(ALIGN as u64)
            && sum(self.blocks_at, self.blocks_len) == Some(self.prefixes_at)
            && self.prefixes_len >= prefix::HEADER as u64
            && sum(self.prefixes_at, self.prefixes_len).is_some()
            && sum(self.prefixes_at, self.prefixes_len) == end;
        let contents = self.leaf_pages >= 1
            && self.leaf_pages <= self.directory_pages
            && self.directory_pages.checked_sub(1) == Some(self.root)
            && u64::from(self.filter_pages) == filter::pages(self.agents)
            && self.agents <= self.blocks_len / LEAST_BLOCK
            && self.entries <= self.blocks_len / OFFSET as u64;
        // So that what is dead can be told from what is not by subtraction.
        let sums = self.state_bytes <= self.facts.record_bytes
            && self.facts.record_bytes <= self.facts.data_end
            && self.bytes.max(self.facts.hidden) <= MAX_FILE;
        let SegmentFacts {
            segment, first_lsn, generation, lowest_lsn, highest_lsn, cleaned, ..
        } = self.facts;
        let numbers = [segment, first_lsn, generation, lowest_lsn, highest_lsn, cleaned];
        in_memory(file_len)?;
        if numbers.iter().any(|number| *number > LIMIT) {
            return Err(Fault("the footer tells of what is beyond all lsns"));
        }
        if !sections || !contents {
            return Err(Fault("the sections of the footer do not fit each other"));
        }
        if !sums {
            return Err(Fault("the footer counts more bytes of records than there are"));
        }
        Ok(())
    }

    /// The length of the footer, this trailer included.
    pub(crate) fn footer_len(&self) -> u64 {
        self.file_len.saturating_sub(self.footer_at)
    }
}

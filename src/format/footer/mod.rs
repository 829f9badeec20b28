//! The footer of a sealed segment: the index that ends its file.
//!
//! From `footer_at`, a multiple of the page, to the end of the file, without a gap: the directory
//! of agents in name order, the filter of their names, one block an agent with the pages of its state
//! index, the range of names that a run covers and the forgotten prefixes (with the filler), the
//! trailer. Every byte is covered by the check of the structure it lies in, and every check is bound
//! to the segment's salt and to the structure's offset in the file.
//! `docs/format.md` has the tables.

mod block;
mod bound;
mod bounds;
mod build;
mod directory;
mod filter;
mod pages;
mod paging;
mod prefix;
mod read;
#[cfg(test)]
mod tests;
mod trailer;

pub(crate) use block::{Block, GROUP, Group, NEVER, Sums};
pub(crate) use bound::{Bound, ENTRY_MOST, Keys};
pub(crate) use bounds::{Bounds, contain};
pub(crate) use build::{Builder, Footer, Summary};
pub(crate) use pages::{Pages, PagesFacts, PagesIter, Place, StateChange};
pub(crate) use paging::{BuiltPages, PagesBuilder};
pub(crate) use read::{FooterRef, Position};
pub(crate) use trailer::{LACKS_FEATURES, SegmentFacts, TRAILER_LEN, Trailer};

use super::{Fault, check, codec};

/// The longest name of an agent, and of a prefix, in bytes.
pub(crate) const MAX_NAME: usize = 512;
/// The longest file: positions in it are kept as 32-bit numbers of 8 bytes.
const MAX_FILE: u64 = super::ALIGN as u64 * (1 << 32);

/// The granule of a footer's [`Touched`](super::touched::Touched): no two of its structures start
/// closer to each other.
pub(crate) const GRANULE: usize = 64;

/// Where the field `check` of pages, blocks and prefixes ends, and what it covers begins.
const COVERED: usize = 4;

/// Fills in the check of the structure `bytes`, which lies at `at` in the file.
fn seal(bytes: &mut [u8], salt: u64, at: u64) {
    if let Some((field, covered)) = bytes.split_first_chunk_mut::<COVERED>() {
        *field = (check::crc(covered) ^ check::mask(salt, at)).to_le_bytes();
    }
}

/// Fills in the check of a structure whose place is not known yet.
fn put_plain_check(bytes: &mut [u8]) {
    if let Some((field, covered)) = bytes.split_first_chunk_mut::<COVERED>() {
        *field = check::crc(covered).to_le_bytes();
    }
}

/// Verifies the check of the structure `bytes`, which lies at `at` in the file.
fn verify(bytes: &[u8], salt: u64, at: u64, fault: Fault) -> Result<(), Fault> {
    let covered = bytes.get(COVERED..).ok_or(fault)?;
    let wanted = check::crc(covered) ^ check::mask(salt, at);
    if codec::u32_at(bytes, 0) == Some(wanted) { Ok(()) } else { Err(fault) }
}

/// A number of bytes of the file as a number of bytes in memory.
fn in_memory(n: u64) -> Result<usize, Fault> {
    usize::try_from(n).map_err(|_| Fault("a length does not fit this machine"))
}

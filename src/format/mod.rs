//! Bytes <-> values of every structure on disk; pure, no I/O. `docs/format.md` is the
//! specification, and changes together with this module.

pub(crate) mod check;
pub(crate) mod codec;
#[cfg(test)]
mod doc_tests;
pub(crate) mod features;
pub(crate) mod footer;
pub(crate) mod frame;
pub(crate) mod head;
pub(crate) mod header;
#[cfg(feature = "unstable-internals")]
pub mod internals;
pub(crate) mod manifest;
pub(crate) mod record;
pub(crate) mod touched;

/// Bytes that are not what the format allows, and why. The caller knows the file and the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) &'static str);

/// Number of the format that this crate reads and writes.
pub(crate) const VERSION: u32 = 2;

/// When something was ordered or made: in which opening of the store, and in which lineage of lsns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Era {
    /// The opening, counted modulo 2^32.
    pub(crate) incarnation: u32,
    /// The lineage: lsns compare within one only. Random, never 0.
    pub(crate) history: u64,
}

impl Era {
    /// The era of an opening.
    #[expect(clippy::cast_possible_truncation, reason = "it is counted modulo 2^32")]
    pub(crate) const fn new(incarnation: u64, history: u64) -> Self {
        Era { incarnation: incarnation as u32, history }
    }
}

/// Seqs, lsns and the numbers of lives and segments are at most this: to count on from one, or to add
/// a few, never overflows. Whoever appends a byte each nanosecond gets there in three centuries.
pub(crate) const LIMIT: u64 = 1 << 63;

/// The alignment of headers, frames, records and footer sections.
pub(crate) const ALIGN: usize = 8;

/// The unit of footer pages, of hole punching and of verification.
pub(crate) const PAGE: usize = 4096;

/// Rounds up to the alignment. Lengths in memory stay far below the point where this could wrap.
pub(crate) const fn align(n: usize) -> usize {
    n.saturating_add(ALIGN - 1) & !(ALIGN - 1)
}

/// A length in memory as the format stores it. Every structure is bounded far below 4 GiB before
/// it is encoded, so this never saturates; if it did, the checks of the reader would say so.
pub(crate) fn len32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

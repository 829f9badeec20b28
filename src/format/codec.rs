//! Little-endian reading that cannot go out of bounds, and writing.

use super::{Fault, LIMIT};

/// Reads values off the front of a byte string.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(Fault("ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Fault("ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    /// A u64 that is a seq, an lsn, or the number of a life or a segment.
    pub(crate) fn number(&mut self) -> Result<u64, Fault> {
        let number = self.u64()?;
        if number <= LIMIT {
            Ok(number)
        } else {
            Err(Fault("a number is beyond all lsns and seqs"))
        }
    }

    /// A u32 that counts bytes or things in memory.
    pub(crate) fn length(&mut self) -> Result<usize, Fault> {
        usize::try_from(self.u32()?).map_err(|_| Fault("a length does not fit this machine"))
    }
}

/// The little-endian u16 at `at`, if there is one.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The little-endian u32 at `at`, if there is one.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The little-endian u64 at `at`, if there is one.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Overwrites the bytes at `at`. Out of bounds it does nothing and says so.
#[must_use]
pub(crate) fn put_at(bytes: &mut [u8], at: usize, value: &[u8]) -> bool {
    let end = at.saturating_add(value.len());
    match bytes.get_mut(at..end) {
        Some(place) => {
            place.copy_from_slice(value);
            true
        }
        None => false,
    }
}

/// Appends zeros up to the format's alignment.
pub(crate) fn pad(out: &mut Vec<u8>) {
    out.resize(super::align(out.len()), 0);
}

//! The names that a run covers, the prefixes forgotten in a segment, and the filler before the
//! trailer.

use std::str;

use super::super::codec::{Cursor, pad};
use super::super::{Fault, align};
use super::{MAX_NAME, bounds};

/// The header of the section.
pub(super) const HEADER: usize = 16;

const NUMBERS: usize = 10;

/// What one prefix takes of the section.
pub(super) const fn cost(len: usize) -> usize {
    align(NUMBERS.saturating_add(len))
}

/// Appends one prefix to the section's content.
pub(super) fn write(out: &mut Vec<u8>, lsn: u64, prefix: &str) -> Result<(), Fault> {
    let len = u16::try_from(prefix.len()).map_err(|_| Fault("a prefix is too long"))?;
    if prefix.is_empty() || prefix.len() > MAX_NAME {
        return Err(Fault("a prefix is empty or too long"));
    }
    out.extend_from_slice(&lsn.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(prefix.as_bytes());
    pad(out);
    Ok(())
}

/// The header of a section of `len` bytes, its check still zero. `bounded`: bounds follow.
pub(super) fn header(len: u32, count: u32, bounded: bool) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let values = [len, count, u32::from(bounded)];
    for (place, value) in header.chunks_exact_mut(4).skip(1).zip(values) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    header
}

/// What a section begins with, its check verified: the bounds if it has any, and the prefixes.
pub(super) fn open(section: &[u8]) -> Result<(Option<bounds::Bounds<'_>>, Prefixes<'_>), Fault> {
    let mut cursor = Cursor::new(section);
    cursor.u32()?;
    if cursor.length()? != section.len() {
        return Err(Fault("the prefixes and the trailer disagree about their length"));
    }
    let left = cursor.u32()?;
    let bounds = match cursor.u32()? {
        0 => None,
        1 => Some(bounds::read(&mut cursor)?),
        _ => return Err(Fault("a footer has bounds of an unknown kind")),
    };
    Ok((bounds, Prefixes { cursor, left }))
}

/// The prefixes of a footer with the lsn of their forgetting, in the order they were added.
#[derive(Clone)]
pub(crate) struct Prefixes<'a> {
    cursor: Cursor<'a>,
    left: u32,
}

impl<'a> Prefixes<'a> {
    fn step(&mut self) -> Result<(u64, &'a str), Fault> {
        let lsn = self.cursor.number()?;
        let len = usize::from(self.cursor.u16()?);
        let prefix = self.cursor.bytes(len)?;
        self.cursor.bytes(cost(len) - NUMBERS - len)?;
        Ok((lsn, str::from_utf8(prefix).map_err(|_| Fault("a prefix is not UTF-8"))?))
    }
}

impl<'a> Iterator for Prefixes<'a> {
    type Item = Result<(u64, &'a str), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let step = self.step();
        if step.is_err() {
            self.left = 0;
        }
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::LIMIT;

    #[test]
    fn prefixes_come_back_in_order_and_damage_ends_them() {
        let mut section = header(0, 3, false).to_vec();
        let written = [(7, "acme/"), (9, "a/"), (12, "tenant/user-12/")];
        for (lsn, prefix) in written {
            let before = section.len();
            write(&mut section, lsn, prefix).unwrap();
            assert_eq!(section.len() - before, cost(prefix.len()));
        }
        let len = u32::try_from(section.len()).unwrap();
        section[..HEADER].copy_from_slice(&header(len, 3, false));
        let (bounds, prefixes) = open(&section).unwrap();
        assert_eq!(bounds, None);
        let read: Result<Vec<_>, _> = prefixes.collect();
        assert_eq!(read.unwrap(), written);

        section[..HEADER].copy_from_slice(&header(len, u32::MAX, false));
        let read: Vec<_> = open(&section).unwrap().1.collect();
        assert_eq!(read.len(), 4);
        assert!(read[3].is_err());
        section[HEADER..HEADER + 8].copy_from_slice(&(LIMIT + 1).to_le_bytes());
        assert!(open(&section).unwrap().1.next().unwrap().is_err(), "beyond all lsns");
        section[12] = 2;
        assert!(open(&section).is_err(), "bounds of an unknown kind");
    }
}

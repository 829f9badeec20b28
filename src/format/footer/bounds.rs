//! The range of names that a run covers, whether or not it holds agents everywhere in it.

use std::str;

use super::super::codec::{Cursor, pad};
use super::super::{Fault, align};
use super::MAX_NAME;

/// The names from the first on, up to the second, itself excluded; `None`: to the end of all names.
pub(crate) type Bounds<'a> = (&'a str, Option<&'a str>);

const NUMBERS: usize = 8;

/// What bounds of these lengths take of their section.
pub(super) const fn cost(from_len: usize, to_len: usize) -> usize {
    align(NUMBERS.saturating_add(from_len).saturating_add(to_len))
}

/// Whether they are no longer than names are, and there is room for a name between them.
pub(super) fn check((from, to): Bounds<'_>) -> Result<(), Fault> {
    if from.len() > MAX_NAME || to.is_some_and(|to| to.len() > MAX_NAME) {
        return Err(Fault("a bound of the names is too long"));
    }
    if to.is_some_and(|to| to <= from) {
        return Err(Fault("the bounds of the names are not in order"));
    }
    Ok(())
}

/// Whether a name is between them.
pub(crate) fn contain((from, to): Bounds<'_>, name: &str) -> bool {
    from <= name && to.is_none_or(|to| name < to)
}

/// The bytes of bounds that were checked.
pub(super) fn write((from, to): Bounds<'_>) -> Result<Vec<u8>, Fault> {
    let to = to.unwrap_or_default();
    let mut out = Vec::with_capacity(cost(from.len(), to.len()));
    for text in [from, to] {
        let len =
            u16::try_from(text.len()).map_err(|_| Fault("a bound of the names is too long"))?;
        out.extend_from_slice(&len.to_le_bytes());
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(from.as_bytes());
    out.extend_from_slice(to.as_bytes());
    pad(&mut out);
    Ok(out)
}

/// Reads bounds off the front.
pub(super) fn read<'a>(cursor: &mut Cursor<'a>) -> Result<Bounds<'a>, Fault> {
    let (from_len, to_len) = (usize::from(cursor.u16()?), usize::from(cursor.u16()?));
    cursor.u32()?;
    let text = |bytes| str::from_utf8(bytes).map_err(|_| Fault("a bound is not UTF-8"));
    let (from, to) = (text(cursor.bytes(from_len)?)?, text(cursor.bytes(to_len)?)?);
    cursor.bytes(cost(from_len, to_len) - NUMBERS - from_len - to_len)?;
    let bounds = (from, Some(to).filter(|to| !to.is_empty()));
    check(bounds)?;
    Ok(bounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_read_back_and_hostile_ones_are_refused() {
        let long = "n".repeat(MAX_NAME);
        for bounds in
            [("", None), ("", Some("a")), ("a", None), ("a", Some("a/")), ("é", Some(&long[..]))]
        {
            let fits = check(bounds).is_ok();
            assert_eq!(fits, bounds.0 != "é");
            let bytes = write(bounds).unwrap();
            assert_eq!(bytes.len(), cost(bounds.0.len(), bounds.1.map_or(0, str::len)));
            let read_back = read(&mut Cursor::new(&bytes));
            assert_eq!(read_back.ok(), Some(bounds).filter(|_| fits));
            for len in 0..bytes.len() {
                assert!(read(&mut Cursor::new(&bytes[..len])).is_err(), "cut to {len}");
            }
        }
        for bad in [("b", Some("a")), ("a", Some("a")), ("a", Some("")), ("", Some(""))] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for bad in [format!("{long}n"), "n".repeat(65_535)] {
            for bounds in [(&bad[..], None), ("a", Some(&bad[..]))] {
                assert!(check(bounds).is_err());
                assert!(read(&mut Cursor::new(&write(bounds).unwrap())).is_err());
            }
        }
        assert!(write(("n".repeat(65_536).as_str(), None)).is_err());
        let mut bytes = write(("a", Some("b"))).unwrap();
        bytes[NUMBERS] = 0xFF;
        assert!(read(&mut Cursor::new(&bytes)).is_err(), "not UTF-8");
        for hostile in [[0xFF; 8], [0, 0, 0xFF, 0xFF, 0, 0, 0, 0]] {
            bytes[..NUMBERS].copy_from_slice(&hostile);
            assert!(read(&mut Cursor::new(&bytes)).is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn the_upper_bound_is_excluded() {
        let names = ["", "a", "aa", "b", "c"];
        let within = |bounds| names.map(|name| contain(bounds, name));
        assert_eq!(within(("", None)), [true; 5]);
        assert_eq!(within(("a", Some("b"))), [false, true, true, false, false]);
        assert_eq!(within(("aa", None)), [false, false, true, true, true]);
    }
}

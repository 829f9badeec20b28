//! The directory: a static B+tree of pages, the leaves first and the root last.

use std::cmp::Ordering;
use std::ops::Range;

use super::super::codec::{Cursor, u16_at, u32_at};
use super::super::{Fault, PAGE};

const HEADER: usize = 8;
const SLOT: usize = 2;
const ENTRY: usize = 8;

/// What the names of a page have to share.
pub(super) const ROOM: usize = PAGE - HEADER;

/// What a name takes of a page.
pub(super) const fn cost(name_len: usize) -> usize {
    SLOT + ENTRY + name_len
}

/// A page whose check has been verified. Its content is still not trusted.
#[derive(Clone, Copy)]
pub(super) struct Page<'a> {
    bytes: &'a [u8],
    slots: &'a [u8],
    pub(super) level: u16,
}

impl<'a> Page<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(bytes);
        cursor.u32()?;
        let count = usize::from(cursor.u16()?);
        let level = cursor.u16()?;
        Ok(Page { bytes, slots: cursor.bytes(count * SLOT)?, level })
    }

    pub(super) fn count(&self) -> usize {
        self.slots.len() / SLOT
    }

    /// The name in a slot, and what it leads to.
    pub(super) fn entry(&self, slot: usize) -> Result<(&'a [u8], u32), Fault> {
        self.get(slot).ok_or(Fault("a directory entry lies outside its page"))
    }

    fn get(&self, slot: usize) -> Option<(&'a [u8], u32)> {
        let start = usize::from(u16_at(self.slots, slot.checked_mul(SLOT)?)?);
        let entry = self.bytes.get(start..)?;
        let len = usize::from(u16_at(entry, 0)?);
        Some((entry.get(ENTRY..ENTRY + len)?, u32_at(entry, 4)?))
    }

    /// The first slot whose name is not below `name`, and where it leads if it is `name`.
    pub(super) fn search(&self, name: &[u8]) -> Result<(usize, Option<u32>), Fault> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            let (found, target) = self.entry(middle)?;
            match found.cmp(name) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok((middle, Some(target))),
                Ordering::Greater => high = middle,
            }
        }
        Ok((low, None))
    }
}

/// A directory whose pages are known, but not yet where they lead.
pub(super) struct Plan<'a> {
    levels: Vec<Level<'a>>,
}

/// The names of a level, and which of them each page holds.
struct Level<'a> {
    names: Vec<&'a [u8]>,
    pages: Vec<Range<usize>>,
}

impl<'a> Plan<'a> {
    /// Packs names, in order and of at most [`MAX_NAME`](super::MAX_NAME) bytes each, into pages.
    /// No names still make one page.
    pub(super) fn new(names: Vec<&'a [u8]>) -> Self {
        let mut levels = Vec::new();
        let mut names = names;
        loop {
            let pages = cut(&names);
            let first = |page: &Range<usize>| names.get(page.start).copied().unwrap_or_default();
            // The names above are those that the pages here begin with. A page holds at least
            // seven, so each level is smaller than the one below it.
            let above: Vec<&[u8]> = pages.iter().map(first).collect();
            levels.push(Level { names, pages });
            if above.len() <= 1 {
                return Plan { levels };
            }
            names = above;
        }
    }

    pub(super) fn pages(&self) -> usize {
        self.levels.iter().map(|level| level.pages.len()).sum()
    }

    pub(super) fn leaves(&self) -> usize {
        self.levels.first().map_or(0, |level| level.pages.len())
    }

    /// Appends the pages, their checks still zero; `targets` are those of the leaves.
    pub(super) fn write(&self, out: &mut Vec<u8>, targets: &[u32]) -> Result<(), Fault> {
        let mut below: Vec<u32> = targets.to_vec();
        let mut number = 0_u32;
        for (level, Level { names, pages }) in (0_u16..).zip(&self.levels) {
            let first = number;
            for page in pages {
                let names = names.get(page.clone()).unwrap_or_default();
                let targets = below.get(page.clone()).ok_or(Fault("a name leads nowhere"))?;
                write_page(out, level, names, targets)?;
                number = number.checked_add(1).ok_or(TOO_LARGE)?;
            }
            below = (first..number).collect();
        }
        Ok(())
    }
}

const TOO_LARGE: Fault = Fault("the directory is too large");

/// Which names go to which page: each page takes as many as fit.
fn cut(names: &[&[u8]]) -> Vec<Range<usize>> {
    let mut pages = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (i, name) in names.iter().enumerate() {
        let cost = cost(name.len());
        if used + cost > ROOM {
            pages.push(start..i);
            (start, used) = (i, 0);
        }
        used += cost;
    }
    pages.push(start..names.len());
    pages
}

fn write_page(
    out: &mut Vec<u8>,
    level: u16,
    names: &[&[u8]],
    targets: &[u32],
) -> Result<(), Fault> {
    let end = out.len() + PAGE;
    let short = |n: usize| u16::try_from(n).map_err(|_| TOO_LARGE);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&short(names.len())?.to_le_bytes());
    out.extend_from_slice(&level.to_le_bytes());
    let mut start = HEADER + SLOT * names.len();
    for name in names {
        out.extend_from_slice(&short(start)?.to_le_bytes());
        start += ENTRY + name.len();
    }
    for (name, target) in names.iter().zip(targets) {
        out.extend_from_slice(&short(name.len())?.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&target.to_le_bytes());
        out.extend_from_slice(name);
    }
    if out.len() > end {
        return Err(TOO_LARGE);
    }
    out.resize(end, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_takes_as_many_names_as_fit() {
        let longest: &[u8] = &[b'x'; 512];
        assert_eq!(cut(&[longest; 15]), [0..7, 7..14, 14..15]);
        assert_eq!(cut(&[]), [Range { start: 0, end: 0 }]);
        let exact: &[u8] = &[b'x'; 501]; // 8 * (501 + 10) = 4088
        assert_eq!(cut(&[exact; 9]), [0..8, 8..9]);
    }

    #[test]
    fn pages_are_written_leaves_first_and_root_last() {
        let names: Vec<String> = (0..1000).map(|i| format!("{i:0>100}")).collect();
        let plan = Plan::new(names.iter().map(String::as_bytes).collect());
        let mut out = Vec::new();
        plan.write(&mut out, &(5000..6000).collect::<Vec<u32>>()).unwrap();
        assert_eq!(out.len(), plan.pages() * PAGE);
        let pages: Vec<Page> = out.chunks(PAGE).map(|page| Page::open(page).unwrap()).collect();
        assert_eq!(pages.iter().map(Page::count).take(plan.leaves()).sum::<usize>(), 1000);
        let root = pages.last().unwrap();
        assert_eq!((root.level, root.count()), (1, plan.leaves()));
        for (slot, leaf) in pages.iter().enumerate().take(plan.leaves()) {
            let (name, child) = root.entry(slot).unwrap();
            assert_eq!(child as usize, slot);
            assert_eq!(leaf.entry(0).unwrap().0, name);
            assert_eq!(leaf.search(name).unwrap().0, 0);
        }
    }
}

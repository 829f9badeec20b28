//! The state index of a block: the last change of each key in pages, searched where they lie.
//!
//! A static B+tree over (key, tag). Each page has a check of its own, so that a look-up verifies
//! one page a level and touches nothing else.

use std::cmp::Ordering;
use std::str;

use super::super::codec::{Cursor, u16_at, u32_at, u64_at};
use super::super::touched::Touched;
use super::super::{ALIGN, Fault};
use super::verify;

/// The header of a page.
pub(super) const HEADER: usize = 16;
/// The place of an item in its page.
pub(super) const SLOT: usize = 2;
/// A change without its key.
pub(super) const CHANGE: usize = 32;
/// The way to a child without its key.
pub(super) const FENCE: usize = 16;
/// The shortest page: no two structures of a footer start closer to each other.
pub(super) const LEAST: usize = super::GRANULE;
/// The longest page that is read: four of the longest keys take half of it.
const MOST: usize = 512 << 10;
/// The items that an inner page has at least, but for the last of its level.
pub(super) const FAN_OUT: usize = 4;
/// The levels of a tree whose inner pages have [`FAN_OUT`] items, and 2^32 leaves.
const LEVELS: u16 = 16;

/// The last change of a key in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateChange<'a> {
    pub(crate) key: &'a str,
    /// Tells versions of a key apart: 0 as long as there is one change a key.
    pub(crate) tag: u64,
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

/// The state pages of a block, where they lie. Nothing of them is trusted before it is verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages<'a> {
    bytes: &'a [u8],
    /// Offset of the first page in the file.
    at: u64,
    /// Offset of the first page in the footer, which `touched` counts from.
    within: usize,
    salt: u64,
    touched: &'a Touched,
    root: u32,
    count: u32,
    state_bytes: u64,
}

/// What a block says of its state pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PagesFacts {
    /// Changes in the leaves.
    pub(crate) count: u32,
    /// Unit offset of the root page.
    pub(crate) root: u32,
    /// Bytes of all pages.
    pub(crate) len: u64,
    /// Sum of the lengths of the records.
    pub(crate) bytes: u64,
}

/// Where pages lie.
#[derive(Clone, Copy)]
pub(super) struct Home<'a> {
    pub(super) at: u64,
    pub(super) within: usize,
    pub(super) salt: u64,
    pub(super) touched: &'a Touched,
}

/// A place in the order of the keys, the end included. Of use only with the pages that it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Offset of the leaf from the first page.
    leaf: usize,
    slot: usize,
}

/// The place behind the last change.
const END: Place = Place { leaf: usize::MAX, slot: 0 };

const OUTSIDE: Fault = Fault("a state page lies outside its index");
const CUT: Fault = Fault("an item of a state page lies outside its page");
const DISORDER: Fault = Fault("the keys of a state index are out of order");

/// A page whose check has been verified. Its content is still not trusted.
#[derive(Clone, Copy)]
pub(super) struct Page<'a> {
    /// Offset from the first page.
    at: usize,
    bytes: &'a [u8],
    pub(super) slots: &'a [u8],
    before: usize,
    level: u16,
}

impl<'a> Page<'a> {
    pub(super) fn open(at: usize, bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(bytes);
        cursor.u64()?;
        let before = cursor.length()?;
        let (count, level) = (usize::from(cursor.u16()?), cursor.u16()?);
        if count == 0 || level >= LEVELS {
            return Err(Fault("a state page has no items, or is of an impossible level"));
        }
        Ok(Page { at, bytes, slots: cursor.bytes(count.saturating_mul(SLOT))?, before, level })
    }

    fn count(&self) -> usize {
        self.slots.len() / SLOT
    }

    fn item(&self, slot: usize) -> Result<&'a [u8], Fault> {
        let start = slot.checked_mul(SLOT).and_then(|at| u16_at(self.slots, at)).ok_or(CUT)?;
        self.bytes.get(usize::from(start).saturating_mul(ALIGN)..).ok_or(CUT)
    }

    /// Key and tag of an item.
    pub(super) fn key(&self, slot: usize) -> Result<(&'a [u8], u64), Fault> {
        let item = self.item(slot)?;
        let (tag_at, len_at, key_at) =
            if self.level == 0 { (8, 24, CHANGE) } else { (0, 12, FENCE) };
        let tag = u64_at(item, tag_at).ok_or(CUT)?;
        let len = usize::from(u16_at(item, len_at).ok_or(CUT)?);
        let key = item.get(key_at..).and_then(|rest| rest.get(..len)).ok_or(CUT)?;
        Ok((key, tag))
    }

    /// How many items are below, or with `up_to` not above, this key and tag.
    fn rank(&self, key: &[u8], tag: u64, up_to: bool) -> Result<usize, Fault> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            let (found, found_tag) = self.key(middle)?;
            let below = match found.cmp(key).then(found_tag.cmp(&tag)) {
                Ordering::Less => true,
                Ordering::Equal => up_to,
                Ordering::Greater => false,
            };
            if below {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The child that an item of an inner page leads to.
    fn child(&self, slot: usize) -> Result<usize, Fault> {
        let child = u32_at(self.item(slot)?, 8).ok_or(CUT)?;
        usize::try_from(u64::from(child) * ALIGN as u64).map_err(|_| OUTSIDE)
    }

    fn change(&self, slot: usize) -> Result<StateChange<'a>, Fault> {
        let (key, tag) = self.key(slot)?;
        let mut cursor = Cursor::new(self.item(slot)?);
        let revision = cursor.number()?;
        cursor.u64()?;
        let (offset, len) = (cursor.u32()?, cursor.u32()?);
        let key = str::from_utf8(key).map_err(|_| Fault("a key is not UTF-8"))?;
        let change = StateChange { key, tag, revision, offset, len };
        if !change.is_sound() {
            return Err(Fault("a state change's record has an impossible length"));
        }
        if tag != 0 {
            return Err(Fault("a state change has a tag, and its segment no versions"));
        }
        Ok(change)
    }
}

impl<'a> Pages<'a> {
    /// The pages in exactly these bytes.
    pub(super) fn new(bytes: &'a [u8], home: &Home<'a>, facts: &PagesFacts) -> Result<Self, Fault> {
        let least = u64::from(facts.count).saturating_mul((SLOT + CHANGE) as u64);
        if bytes.len() as u64 != facts.len || least > facts.len {
            return Err(Fault("a state index has more changes than room for them"));
        }
        Ok(Pages {
            bytes,
            at: home.at,
            within: home.within,
            salt: home.salt,
            touched: home.touched,
            root: facts.root,
            count: facts.count,
            state_bytes: facts.bytes,
        })
    }

    /// Changes in the index, as its block tells.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the records that hold the values, as the block tells.
    pub(crate) fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// Bytes of the pages.
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The newest change of a key whose tag is at most this one.
    pub(crate) fn find(&self, key: &str, tag: u64) -> Result<Option<StateChange<'a>>, Fault> {
        if self.count == 0 {
            return Ok(None);
        }
        let leaf = self.descend(key.as_bytes(), tag, true)?;
        let Some(slot) = leaf.rank(key.as_bytes(), tag, true)?.checked_sub(1) else {
            return Ok(None);
        };
        if leaf.key(slot)?.0 != key.as_bytes() {
            return Ok(None);
        }
        leaf.change(slot).map(Some)
    }

    /// The place of the first change.
    pub(crate) fn first(&self) -> Place {
        if self.count == 0 { END } else { Place { leaf: 0, slot: 0 } }
    }

    /// The place behind the last change.
    pub(crate) fn end(&self) -> Place {
        END
    }

    /// The place of the first change whose key is not below this one; the end if all are.
    pub(crate) fn seek(&self, key: &str) -> Result<Place, Fault> {
        if self.count == 0 {
            return Ok(END);
        }
        let leaf = self.descend(key.as_bytes(), 0, true)?;
        let slot = leaf.rank(key.as_bytes(), 0, false)?;
        self.place(&leaf, slot)
    }

    /// The change at a place; `None` at the end.
    pub(crate) fn get(&self, place: Place) -> Result<Option<StateChange<'a>>, Fault> {
        if place == END { Ok(None) } else { self.leaf(place.leaf)?.change(place.slot).map(Some) }
    }

    /// The place after this one; the end stays the end.
    pub(crate) fn after(&self, place: Place) -> Result<Place, Fault> {
        if place == END {
            return Ok(END);
        }
        self.place(&self.leaf(place.leaf)?, place.slot.saturating_add(1))
    }

    /// The place before this one; `None` before the first.
    pub(crate) fn before(&self, place: Place) -> Result<Option<Place>, Fault> {
        if self.count == 0 {
            return Ok(None);
        }
        let leaf = if place == END {
            self.last()?
        } else if let Some(slot) = place.slot.checked_sub(1) {
            return Ok(Some(Place { slot, ..place }));
        } else {
            let leaf = self.leaf(place.leaf)?;
            let wrong = Fault("a state page is not behind the one before it");
            if leaf.before == 0 {
                return if leaf.at == 0 { Ok(None) } else { Err(wrong) };
            }
            let before = leaf.at.checked_sub(leaf.before).ok_or(wrong)?;
            let page = self.leaf(before)?;
            if page.bytes.len() != leaf.before {
                return Err(wrong);
            }
            page
        };
        Ok(Some(Place { leaf: leaf.at, slot: leaf.count().saturating_sub(1) }))
    }

    /// The changes from a place on.
    pub(crate) fn iter(&self, from: Place) -> PagesIter<'a> {
        PagesIter { pages: *self, at: from }
    }

    /// All changes, in the order of the keys.
    pub(crate) fn all(&self) -> PagesIter<'a> {
        self.iter(self.first())
    }

    /// Verifies every page, and holds them against each other and the block. `go_on` is asked before
    /// each; `false` ends it with a fault.
    pub(crate) fn check(&self, go_on: &mut dyn FnMut() -> bool) -> Result<(), Fault> {
        let (mut at, mut count, mut bytes) = (0_usize, 0_u64, 0_u64);
        let mut last: Option<(&[u8], u64)> = None;
        let (mut level, mut before) = (0, 0);
        while at < self.bytes.len() {
            if !go_on() {
                return Err(Fault("a state index was not read to its end"));
            }
            let page = self.page(at)?;
            if page.level < level || page.level > level.saturating_add(1) {
                return Err(Fault("the levels of a state index are out of order"));
            }
            level = page.level;
            if page.before != if level == 0 { before } else { 0 } {
                return Err(Fault("a state page is not behind the one before it"));
            }
            for slot in 0..page.count() {
                let key = page.key(slot)?;
                if level > 0 {
                    let child = self.below(&page, slot)?;
                    if child.key(0)? != key {
                        return Err(Fault(
                            "a state page leads to one that begins with another key",
                        ));
                    }
                    continue;
                }
                if last.replace(key).is_some_and(|last| last >= key) {
                    return Err(DISORDER);
                }
                count += 1;
                bytes = bytes.saturating_add(u64::from(page.change(slot)?.len));
            }
            before = page.bytes.len();
            at = at.saturating_add(before);
        }
        if count != u64::from(self.count) || bytes != self.state_bytes {
            return Err(Fault("a block and its state pages count different changes"));
        }
        let root = if self.count == 0 { 0 } else { self.root() };
        if self.bytes.len().checked_sub(before) != Some(root) {
            return Err(Fault("the root of a state index is not its last page"));
        }
        Ok(())
    }

    fn root(&self) -> usize {
        usize::try_from(u64::from(self.root) * ALIGN as u64).unwrap_or(usize::MAX)
    }

    /// The leaf that a key and tag are in, if they are in any.
    fn descend(&self, key: &[u8], tag: u64, up_to: bool) -> Result<Page<'a>, Fault> {
        let mut page = self.page(self.root())?;
        while page.level > 0 {
            // Below all children they can only be under the first.
            let slot = page.rank(key, tag, up_to)?.saturating_sub(1);
            page = self.below(&page, slot)?;
        }
        Ok(page)
    }

    fn last(&self) -> Result<Page<'a>, Fault> {
        let mut page = self.page(self.root())?;
        while page.level > 0 {
            page = self.below(&page, page.count().saturating_sub(1))?;
        }
        Ok(page)
    }

    /// The child of an inner page. It lies before its parent, so that a descent ends whatever the
    /// bytes are.
    fn below(&self, page: &Page<'a>, slot: usize) -> Result<Page<'a>, Fault> {
        let child = self.page(page.child(slot)?)?;
        if child.at.saturating_add(child.bytes.len()) > page.at {
            return Err(Fault("a state page leads to one that is not below it"));
        }
        if child.level.checked_add(1) != Some(page.level) {
            return Err(Fault("a state page is of the wrong level"));
        }
        Ok(child)
    }

    /// The place of a slot, or of the first in the next leaf when this one has no such slot.
    fn place(&self, leaf: &Page<'a>, slot: usize) -> Result<Place, Fault> {
        if slot < leaf.count() {
            return Ok(Place { leaf: leaf.at, slot });
        }
        let next = leaf.at.saturating_add(leaf.bytes.len());
        if next >= self.bytes.len() || self.page(next)?.level > 0 {
            return Ok(END);
        }
        Ok(Place { leaf: next, slot: 0 })
    }

    fn leaf(&self, at: usize) -> Result<Page<'a>, Fault> {
        let page = self.page(at)?;
        if page.level == 0 { Ok(page) } else { Err(Fault("a state page is of the wrong level")) }
    }

    /// The page that begins there, verified.
    fn page(&self, at: usize) -> Result<Page<'a>, Fault> {
        let rest = self.bytes.get(at..).ok_or(OUTSIDE)?;
        let len = u32_at(rest, 4).and_then(|len| usize::try_from(len).ok()).ok_or(OUTSIDE)?;
        if !(LEAST..=MOST).contains(&len) || !len.is_multiple_of(ALIGN) {
            return Err(Fault("a state page has an impossible length"));
        }
        let page = rest.get(..len).ok_or(OUTSIDE)?;
        let fault = Fault("a state page does not match its check");
        let place = self.at.saturating_add(at as u64);
        self.touched
            .first(self.within.saturating_add(at), || verify(page, self.salt, place, fault))?;
        Page::open(at, page)
    }
}

/// The changes of state pages, in the order of the keys. It ends behind a fault.
#[derive(Clone, Debug)]
pub(crate) struct PagesIter<'a> {
    pages: Pages<'a>,
    at: Place,
}

impl<'a> Iterator for PagesIter<'a> {
    type Item = Result<StateChange<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let change = self.pages.get(self.at).transpose()?;
        let stepped = change.and_then(|change| Ok((change, self.pages.after(self.at)?)));
        match stepped {
            Ok((change, next)) => {
                self.at = next;
                Some(Ok(change))
            }
            Err(fault) => {
                self.at = END;
                Some(Err(fault))
            }
        }
    }
}

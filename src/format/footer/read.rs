//! Looking things up in a footer.

use std::ops::Range;
use std::str;

use super::super::touched::Touched;
use super::super::{ALIGN, Fault, PAGE};
use super::block::{self, Block};
use super::directory::Page;
use super::pages::{Home, Pages, PagesFacts};
use super::prefix::{self, Prefixes};
use super::{Bounds, Trailer, filter, in_memory, verify};

/// A place in the name order of a footer's agents, the end included. Of use only with the footer
/// that it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    leaf: u32,
    slot: u16,
}

/// The bytes of a footer, with what is known of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FooterRef<'a> {
    trailer: &'a Trailer,
    bytes: &'a [u8],
    touched: &'a Touched,
}

impl<'a> FooterRef<'a> {
    /// `trailer` has been read off the end of this very file, `bytes` are those from
    /// `trailer.footer_at` to the end of the file, and `touched` is of `bytes.len()` and
    /// [`GRANULE`](super::GRANULE), and used for nothing else.
    pub(crate) fn new(
        trailer: &'a Trailer,
        bytes: &'a [u8],
        touched: &'a Touched,
    ) -> Result<Self, Fault> {
        if bytes.len() as u64 != trailer.footer_len() {
            return Err(Fault("the footer is not of the length that its trailer says"));
        }
        Ok(FooterRef { trailer, bytes, touched })
    }

    /// The same footer with other knowledge of what has been verified.
    pub(crate) fn with_touched<'b>(&self, touched: &'b Touched) -> FooterRef<'b>
    where
        'a: 'b,
    {
        FooterRef { trailer: self.trailer, bytes: self.bytes, touched }
    }

    /// Verifies every page of the directory.
    pub(crate) fn check_directory(&self) -> Result<(), Fault> {
        (0..self.trailer.directory_pages).try_for_each(|number| self.page(number).map(drop))
    }

    /// Verifies every page of the filter.
    pub(crate) fn check_filter(&self) -> Result<(), Fault> {
        let first = self.trailer.filter_at.saturating_sub(self.trailer.footer_at) / PAGE as u64;
        for page in 0..u64::from(self.trailer.filter_pages) {
            let fault = Fault("a filter page does not match its check");
            self.page_bytes(first.saturating_add(page), fault)?;
        }
        Ok(())
    }

    pub(crate) fn trailer(&self) -> &'a Trailer {
        self.trailer
    }

    /// Whether the segment may hold the agent whose name has this hash. `false` is certain.
    pub(crate) fn may_contain(&self, hash: u64) -> Result<bool, Fault> {
        let place = filter::place(hash, self.trailer.filter_pages);
        let first = self.trailer.filter_at.saturating_sub(self.trailer.footer_at);
        let number = place.page.saturating_add(first / PAGE as u64);
        let page = self.page_bytes(number, Fault("a filter page does not match its check"))?;
        Ok(place.is_in(page))
    }

    /// The block of the agent of this name, and its offset in the file.
    pub(crate) fn find(&self, name: &str) -> Result<Option<(u64, Block<'a>)>, Fault> {
        let (_, leaf) = self.descend(name.as_bytes())?;
        let (_, Some(target)) = leaf.search(name.as_bytes())? else { return Ok(None) };
        let at = offset(target);
        let block = self.block_at(at)?;
        if block.name() != name {
            return Err(Fault("the directory leads to the block of another agent"));
        }
        Ok(Some((at, block)))
    }

    /// The first name of each leaf of the directory, in order; empty if there is one leaf only.
    pub(crate) fn fences(&self) -> Result<Vec<Box<str>>, Fault> {
        let mut fences = Vec::new();
        for number in self.trailer.leaf_pages..self.trailer.directory_pages {
            let page = self.page(number)?;
            if page.level != 1 {
                break;
            }
            for slot in 0..page.count() {
                let name = str::from_utf8(page.entry(slot)?.0);
                fences.push(name.map_err(|_| Fault("a name is not UTF-8"))?.into());
            }
        }
        if !fences.is_empty() && fences.len() as u64 != u64::from(self.trailer.leaf_pages) {
            return Err(Fault("the directory does not lead to each of its leaves"));
        }
        Ok(fences)
    }

    /// Like [`find`](Self::find), with the fences at hand: reads one page of the directory and the
    /// block. `near` is told of a block that lies in several pages before it is read.
    pub(crate) fn find_behind(
        &self,
        fences: &[Box<str>],
        name: &str,
        near: &dyn Fn(Range<u64>),
    ) -> Result<Option<(u64, Block<'a>)>, Fault> {
        let Some(range) = self.locate(fences, name)? else { return Ok(None) };
        let (at, page) = (range.start, PAGE as u64);
        if at / page != (range.end - 1) / page && !self.has_read(at) {
            near(range);
        }
        let block = self.block_at(at)?;
        if block.name() != name {
            return Err(Fault("the directory leads to the block of another agent"));
        }
        Ok(Some((at, block)))
    }

    /// Where the block of the agent of this name lies, with the fences at hand: reads one page of the
    /// directory.
    pub(crate) fn locate(
        &self,
        fences: &[Box<str>],
        name: &str,
    ) -> Result<Option<Range<u64>>, Fault> {
        let page = self.leaf(leaf_of(fences, name)?)?;
        let (slot, Some(target)) = page.search(name.as_bytes())? else { return Ok(None) };
        let at = offset(target);
        // Blocks lie in the order of their names; that of the last name of a page ends somewhere.
        let end = page.entry(slot + 1).map_or(at + PAGE as u64, |(_, next)| offset(next));
        // Behind a block lie its state pages, which are not asked for.
        Ok(Some(at..end.clamp(at + 1, at + NEAR)))
    }

    /// Where the page of the directory lies that [`locate`](Self::locate) reads.
    pub(crate) fn leaf_behind(&self, fences: &[Box<str>], name: &str) -> Result<Range<u64>, Fault> {
        let start = u64::from(leaf_of(fences, name)?).saturating_mul(PAGE as u64);
        let at = self.trailer.footer_at.saturating_add(start);
        Ok(at..at.saturating_add(PAGE as u64))
    }

    /// Where the pages of the directory lie that [`fences`](Self::fences) reads, and a little more.
    pub(crate) fn inner_pages(&self) -> Range<u64> {
        let leaves = u64::from(self.trailer.leaf_pages).saturating_mul(PAGE as u64);
        self.trailer.footer_at.saturating_add(leaves)..self.trailer.filter_at
    }

    /// Where the page of the filter lies that has the bits of this hash.
    pub(crate) fn filter_page(&self, hash: u64) -> Range<u64> {
        let place = filter::place(hash, self.trailer.filter_pages);
        let start = place.page.saturating_mul(PAGE as u64);
        let at = self.trailer.filter_at.saturating_add(start);
        at..at.saturating_add(PAGE as u64)
    }

    /// Whether the structure at this offset in the file was read and found sound before.
    pub(crate) fn has_read(&self, at: u64) -> bool {
        let start = in_memory(at.saturating_sub(self.trailer.footer_at));
        start.is_ok_and(|start| self.touched.test(start))
    }

    /// The block at this offset in the file, which is one that [`entry`](Self::entry) gave.
    pub(crate) fn block_at(&self, at: u64) -> Result<Block<'a>, Fault> {
        let outside = Fault("a block lies outside its section");
        if at < self.trailer.blocks_at || !at.is_multiple_of(ALIGN as u64) {
            return Err(outside);
        }
        let start = in_memory(at.saturating_sub(self.trailer.footer_at))?;
        let section = self.section(at, self.trailer.prefixes_at).ok_or(outside)?;
        let whole = block::extent(section)?;
        let fault = Fault("a block does not match its check");
        self.touched.first(start, || verify(whole, self.trailer.facts.salt, at, fault))?;
        let behind = section.get(whole.len()..).unwrap_or_default();
        Block::parse(whole, at, behind, &self.home(at.saturating_add(whole.len() as u64))?)
    }

    /// The state pages that a block of this footer told of.
    pub(crate) fn pages_at(&self, at: u64, facts: &PagesFacts) -> Result<Pages<'a>, Fault> {
        let outside = Fault("state pages lie outside their section");
        let end = at.checked_add(facts.len).filter(|end| *end <= self.trailer.prefixes_at);
        let bytes = end.and_then(|end| self.section(at, end)).ok_or(outside)?;
        Pages::new(bytes, &self.home(at)?, facts)
    }

    /// What state pages at this offset in the file are verified by.
    fn home(&self, at: u64) -> Result<Home<'a>, Fault> {
        let within = in_memory(at.saturating_sub(self.trailer.footer_at))?;
        Ok(Home { at, within, salt: self.trailer.facts.salt, touched: self.touched })
    }

    /// The prefixes forgotten in this segment, in the order of their lsn.
    pub(crate) fn prefixes(&self) -> Result<Prefixes<'a>, Fault> {
        self.last_section().map(|(_, prefixes)| prefixes)
    }

    /// The range of names that the segment covers, if it is a run.
    pub(crate) fn bounds(&self) -> Result<Option<Bounds<'a>>, Fault> {
        self.last_section().map(|(bounds, _)| bounds)
    }

    fn last_section(&self) -> Result<(Option<Bounds<'a>>, Prefixes<'a>), Fault> {
        let at = self.trailer.prefixes_at;
        let end = at.saturating_add(self.trailer.prefixes_len);
        let section = self.section(at, end).ok_or(Fault("the prefixes lie outside the footer"))?;
        let start = in_memory(at.saturating_sub(self.trailer.footer_at))?;
        let fault = Fault("the prefixes do not match their check");
        self.touched.first(start, || verify(section, self.trailer.facts.salt, at, fault))?;
        prefix::open(section)
    }

    /// The position of the first agent; the end if there is none.
    pub(crate) fn first(&self) -> Position {
        if self.trailer.agents == 0 { self.end() } else { Position { leaf: 0, slot: 0 } }
    }

    /// The position behind the last agent.
    pub(crate) fn end(&self) -> Position {
        Position { leaf: self.trailer.leaf_pages, slot: 0 }
    }

    /// The position of the first agent whose name is not below this one; the end if all are.
    pub(crate) fn seek(&self, name: &str) -> Result<Position, Fault> {
        if self.trailer.agents == 0 {
            return Ok(self.end());
        }
        let (leaf, page) = self.descend(name.as_bytes())?;
        let (slot, _) = page.search(name.as_bytes())?;
        position(leaf, slot, &page)
    }

    /// The agent at a position: its name, and the offset of its block in the file. `None` at the
    /// end.
    pub(crate) fn entry(&self, position: Position) -> Result<Option<(&'a str, u64)>, Fault> {
        if position.leaf >= self.trailer.leaf_pages {
            return Ok(None);
        }
        let (name, target) = self.leaf(position.leaf)?.entry(usize::from(position.slot))?;
        let name = str::from_utf8(name).map_err(|_| Fault("a name is not UTF-8"))?;
        Ok(Some((name, offset(target))))
    }

    /// The position after this one; the end stays the end.
    pub(crate) fn next(&self, after: Position) -> Result<Position, Fault> {
        if after.leaf >= self.trailer.leaf_pages {
            return Ok(self.end());
        }
        position(after.leaf, usize::from(after.slot) + 1, &self.leaf(after.leaf)?)
    }

    /// The position before this one; `None` before the first.
    pub(crate) fn previous(&self, before: Position) -> Result<Option<Position>, Fault> {
        if before <= self.first() {
            return Ok(None);
        }
        if let Some(slot) = before.slot.checked_sub(1) {
            return Ok(Some(Position { slot, ..before }));
        }
        let leaf = before.leaf.saturating_sub(1);
        let last = self.leaf(leaf)?.count().checked_sub(1).ok_or(EMPTY_LEAF)?;
        let slot = u16::try_from(last).map_err(|_| EMPTY_LEAF)?;
        Ok(Some(Position { leaf, slot }))
    }

    /// The leaf that a name is in, if it is in any.
    fn descend(&self, name: &[u8]) -> Result<(u32, Page<'a>), Fault> {
        let mut number = self.trailer.root;
        let mut page = self.page(number)?;
        while page.level > 0 {
            // A child is known by its first name: the last that is not above the name wanted is
            // the one, and before all of them it can only be the first.
            let child = match page.search(name)? {
                (_, Some(child)) => child,
                (slot, None) => page.entry(slot.saturating_sub(1))?.1,
            };
            // Children lie before their parents, so this ends whatever the bytes are.
            if child >= number {
                return Err(Fault("a directory page leads to one that is not below it"));
            }
            let below = self.page(child)?;
            if below.level.checked_add(1) != Some(page.level) {
                return Err(Fault("a directory page is of the wrong level"));
            }
            (number, page) = (child, below);
        }
        if number >= self.trailer.leaf_pages {
            return Err(Fault("a directory leaf lies among the inner pages"));
        }
        Ok((number, page))
    }

    fn leaf(&self, number: u32) -> Result<Page<'a>, Fault> {
        let page = self.page(number)?;
        if page.level != 0 {
            return Err(Fault("an inner directory page lies among the leaves"));
        }
        Ok(page)
    }

    fn page(&self, number: u32) -> Result<Page<'a>, Fault> {
        if number >= self.trailer.directory_pages {
            return Err(Fault("a directory page lies outside the directory"));
        }
        let fault = Fault("a directory page does not match its check");
        Page::open(self.page_bytes(u64::from(number), fault)?)
    }

    /// A page of the footer, verified.
    fn page_bytes(&self, number: u64, fault: Fault) -> Result<&'a [u8], Fault> {
        let start = in_memory(number)?.checked_mul(PAGE).ok_or(fault)?;
        let page = self.bytes.get(start..).and_then(|rest| rest.get(..PAGE)).ok_or(fault)?;
        let at = self.trailer.footer_at.saturating_add(start as u64);
        self.touched.first(start, || verify(page, self.trailer.facts.salt, at, fault))?;
        Ok(page)
    }

    /// The bytes between two offsets in the file.
    fn section(&self, from: u64, to: u64) -> Option<&'a [u8]> {
        let start = from.checked_sub(self.trailer.footer_at)?;
        let end = to.checked_sub(self.trailer.footer_at)?;
        self.bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }
}

/// The longest part of a block that is announced before it is read.
const NEAR: u64 = 128 << 10;

const EMPTY_LEAF: Fault = Fault("a leaf of the directory is empty");

/// The leaf that a name is in, if it is in any.
fn leaf_of(fences: &[Box<str>], name: &str) -> Result<u32, Fault> {
    let behind = fences.partition_point(|first| **first <= *name);
    u32::try_from(behind.saturating_sub(1)).map_err(|_| EMPTY_LEAF)
}

/// What a leaf's target is in the file.
fn offset(target: u32) -> u64 {
    u64::from(target) * ALIGN as u64
}

/// The position of a slot, or of the first in the next leaf when this one has no such slot.
fn position(leaf: u32, slot: usize, page: &Page<'_>) -> Result<Position, Fault> {
    if slot >= page.count() {
        return Ok(Position { leaf: leaf.saturating_add(1), slot: 0 });
    }
    let slot = u16::try_from(slot).map_err(|_| Fault("a leaf of the directory is too full"))?;
    Ok(Position { leaf, slot })
}

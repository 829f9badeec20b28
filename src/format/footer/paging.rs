//! Making the state pages of a block.

use super::super::codec::{pad, u16_at};
use super::super::{ALIGN, Fault, LIMIT, PAGE, align};
use super::pages::{CHANGE, FAN_OUT, FENCE, HEADER, LEAST, Page, PagesFacts, SLOT, StateChange};

/// State pages in the making: changes go in in the order of their keys.
#[derive(Debug, Default)]
pub(crate) struct PagesBuilder {
    out: Vec<u8>,
    open: OpenPage,
    /// The leaves that are closed.
    fences: Vec<Fence>,
    /// The length of the last of them.
    before: usize,
    last: Option<(String, u64)>,
    count: u32,
    bytes: u64,
}

/// State pages that are done, their checks still without the masks of their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BuiltPages {
    pub(super) bytes: Vec<u8>,
    pub(super) facts: PagesFacts,
}

/// The way to a page: where its first key lies in what was written.
#[derive(Clone, Copy, Debug)]
struct Fence {
    child: u32,
    tag: u64,
    key_at: usize,
    key_len: u16,
}

/// A page that takes items.
#[derive(Debug, Default)]
struct OpenPage {
    /// Where each item begins among the items, in units of 8 bytes.
    slots: Vec<u16>,
    items: Vec<u8>,
}

const TOO_LARGE: Fault = Fault("a state index is too large");

impl OpenPage {
    /// Bytes of the page with one more item of so many bytes.
    fn with(&self, item: usize) -> usize {
        let slots = align((self.slots.len() + 1) * SLOT);
        HEADER + slots + self.items.len() + item
    }

    fn begin(&mut self) -> Result<(), Fault> {
        let at = u16::try_from(self.items.len() / ALIGN).map_err(|_| TOO_LARGE)?;
        self.slots.push(at);
        Ok(())
    }

    fn put_key(&mut self, key: &[u8]) {
        self.items.extend_from_slice(key);
        pad(&mut self.items);
    }

    /// Appends the page to `out`, and is empty again.
    fn close(&mut self, out: &mut Vec<u8>, before: usize, level: u16) -> Result<(), Fault> {
        let start = out.len();
        let items_at = HEADER + align(self.slots.len() * SLOT);
        let len = (items_at + self.items.len()).max(LEAST);
        let number = |n: usize| u32::try_from(n).map_err(|_| TOO_LARGE);
        let short = |n: usize| u16::try_from(n).map_err(|_| TOO_LARGE);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&number(len)?.to_le_bytes());
        out.extend_from_slice(&number(before)?.to_le_bytes());
        out.extend_from_slice(&short(self.slots.len())?.to_le_bytes());
        out.extend_from_slice(&level.to_le_bytes());
        for slot in &self.slots {
            let slot = slot.checked_add(short(items_at / ALIGN)?).ok_or(TOO_LARGE)?;
            out.extend_from_slice(&slot.to_le_bytes());
        }
        out.resize(start + items_at, 0);
        out.extend_from_slice(&self.items);
        out.resize(start + len, 0);
        super::put_plain_check(out.get_mut(start..).unwrap_or_default());
        self.slots.clear();
        self.items.clear();
        Ok(())
    }
}

impl PagesBuilder {
    /// The pages of these changes, which are in the order of their keys; `None` of none.
    #[cfg(any(test, feature = "unstable-internals"))]
    pub(crate) fn of<'a>(
        changes: impl IntoIterator<Item = StateChange<'a>>,
    ) -> Result<Option<BuiltPages>, Fault> {
        let mut builder = PagesBuilder::default();
        changes.into_iter().try_for_each(|change| builder.push(&change))?;
        builder.finish()
    }

    /// Adds a change, whose key is above those before.
    pub(crate) fn push(&mut self, change: &StateChange<'_>) -> Result<(), Fault> {
        if !change.is_sound() {
            return Err(Fault("a state change's record has an impossible length"));
        }
        if change.revision > LIMIT {
            return Err(Fault("a revision is beyond all lsns"));
        }
        let key_len =
            u16::try_from(change.key.len()).map_err(|_| Fault("a name or key is too long"))?;
        let item = CHANGE + align(change.key.len());
        match &mut self.last {
            Some((last, tag)) if (last.as_str(), *tag) >= (change.key, change.tag) => {
                return Err(Fault("keys are not in order"));
            }
            Some((last, tag)) => {
                last.clear();
                last.push_str(change.key);
                *tag = change.tag;
            }
            none => *none = Some((change.key.to_owned(), change.tag)),
        }
        if self.open.with(item) > PAGE && !self.open.slots.is_empty() {
            self.close_leaf()?;
        }
        self.count = self.count.checked_add(1).ok_or(TOO_LARGE)?;
        self.bytes = self.bytes.checked_add(u64::from(change.len)).ok_or(TOO_LARGE)?;
        self.open.begin()?;
        let items = &mut self.open.items;
        items.extend_from_slice(&change.revision.to_le_bytes());
        items.extend_from_slice(&change.tag.to_le_bytes());
        items.extend_from_slice(&change.offset.to_le_bytes());
        items.extend_from_slice(&change.len.to_le_bytes());
        items.extend_from_slice(&key_len.to_le_bytes());
        items.extend_from_slice(&[0; 6]);
        self.open.put_key(change.key.as_bytes());
        Ok(())
    }

    /// Whether there is no change yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn close_leaf(&mut self) -> Result<(), Fault> {
        let start = self.out.len();
        self.open.close(&mut self.out, self.before, 0)?;
        self.before = self.out.len() - start;
        let fence = fence(&self.out, start, 0)?;
        self.fences.push(fence);
        Ok(())
    }

    /// The pages, inner ones included; `None` without changes.
    pub(crate) fn finish(mut self) -> Result<Option<BuiltPages>, Fault> {
        if self.is_empty() {
            return Ok(None);
        }
        self.close_leaf()?;
        let mut below = std::mem::take(&mut self.fences);
        let mut level = 0_u16;
        while below.len() > 1 {
            level = level.checked_add(1).ok_or(TOO_LARGE)?;
            below = self.level(&below, level)?;
        }
        let root = below.first().map_or(0, |fence| fence.child);
        let facts =
            PagesFacts { count: self.count, root, len: self.out.len() as u64, bytes: self.bytes };
        Ok(Some(BuiltPages { bytes: self.out, facts }))
    }

    /// Writes the pages above others; gives the way to each.
    fn level(&mut self, below: &[Fence], level: u16) -> Result<Vec<Fence>, Fault> {
        let mut above = Vec::new();
        let mut close = |open: &mut OpenPage, out: &mut Vec<u8>| -> Result<(), Fault> {
            let start = out.len();
            open.close(out, 0, level)?;
            above.push(fence(out, start, level)?);
            Ok(())
        };
        for child in below {
            let key_end = child.key_at + usize::from(child.key_len);
            let item = FENCE + align(usize::from(child.key_len));
            if self.open.with(item) > PAGE && self.open.slots.len() >= FAN_OUT {
                close(&mut self.open, &mut self.out)?;
            }
            self.open.begin()?;
            let items = &mut self.open.items;
            items.extend_from_slice(&child.tag.to_le_bytes());
            items.extend_from_slice(&child.child.to_le_bytes());
            items.extend_from_slice(&child.key_len.to_le_bytes());
            items.extend_from_slice(&[0; 2]);
            let key = self.out.get(child.key_at..key_end).unwrap_or_default();
            self.open.put_key(key);
        }
        close(&mut self.open, &mut self.out)?;
        Ok(above)
    }
}

/// The way to the page that was just written at `start`.
fn fence(out: &[u8], start: usize, level: u16) -> Result<Fence, Fault> {
    let child = u32::try_from(start / ALIGN).map_err(|_| TOO_LARGE)?;
    let page = Page::open(start, out.get(start..).unwrap_or_default())?;
    let (key, tag) = page.key(0)?;
    let item_at = u16_at(page.slots, 0).map_or(0, |at| usize::from(at) * ALIGN);
    let key_at = start + item_at + if level == 0 { CHANGE } else { FENCE };
    let key_len = u16::try_from(key.len()).map_err(|_| TOO_LARGE)?;
    Ok(Fence { child, tag, key_at, key_len })
}

//! The keys of an agent in the state indices of several segments, merged where they lie.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::compaction::merge::Told;
use crate::error::Result;
use crate::format::footer::{Keys, Pages, PagesIter, Place, StateChange};

/// What some changes of keys come to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How many of each segment, and bytes of their records.
    of: Vec<(u64, u64)>,
    pub(crate) records: u64,
    /// Bytes of the records that hold values,
    pub(crate) bytes: u64,
    /// and the most that the keys take.
    pub(crate) key_bytes: u64,
    /// What they take of a footer.
    pub(crate) keys: Keys,
}

impl Tally {
    /// Of so many segments.
    pub(crate) fn new(segments: usize) -> Self {
        Tally { of: vec![(0, 0); segments], ..Tally::default() }
    }

    pub(crate) fn add(&mut self, index: usize, change: &StateChange<'_>) {
        self.count(index, 1, u64::from(change.len));
        self.key_bytes = self.key_bytes.saturating_add(change.key.len() as u64);
        self.keys.add(change.key.len());
    }

    /// Adds all changes of an index.
    pub(crate) fn add_all(&mut self, index: usize, pages: &Pages<'_>) {
        self.count(index, u64::from(pages.count()), pages.state_bytes());
        self.key_bytes = self.key_bytes.saturating_add(pages.len());
        self.keys.add_pages(u64::from(pages.count()), pages.len());
    }

    fn count(&mut self, index: usize, records: u64, bytes: u64) {
        if let Some(of) = self.of.get_mut(index) {
            *of = (of.0.saturating_add(records), of.1.saturating_add(bytes));
        }
        self.records = self.records.saturating_add(records);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// How many of a segment, and bytes of their records.
    pub(crate) fn of(&self, index: usize) -> (u64, u64) {
        self.of.get(index).copied().unwrap_or_default()
    }
}

/// The last change of each key that some segments tell, in the order of the keys.
pub(crate) struct KeyMerge<'a, 't> {
    told: &'t [Told<'a>],
    /// By the index of their segment.
    walks: Vec<Option<Walk<'a>>>,
    /// The next key of each walk; of equal ones that of the newest segment comes first.
    heap: BinaryHeap<Reverse<(&'a str, Reverse<usize>)>>,
}

struct Walk<'a> {
    left: PagesIter<'a>,
    next: StateChange<'a>,
}

impl<'a, 't> KeyMerge<'a, 't> {
    /// Over the blocks of a life, oldest first.
    pub(crate) fn new(told: &'t [Told<'a>], life: u64) -> Result<Self> {
        let mut merge = KeyMerge { told, walks: Vec::new(), heap: BinaryHeap::new() };
        for (index, Told { segment, block }) in told.iter().enumerate() {
            let mut left = block.states().all();
            let first = left.next().filter(|_| block.head().life == life).transpose();
            let first = first.map_err(|fault| segment.footer_damage(fault))?;
            if let Some(change) = &first {
                merge.heap.push(Reverse((change.key, Reverse(index))));
            }
            merge.walks.push(first.map(|next| Walk { left, next }));
        }
        Ok(merge)
    }

    /// The next key: the index of the newest segment that tells of it, and its change there.
    pub(crate) fn next(&mut self) -> Result<Option<(usize, StateChange<'a>)>> {
        let Some(Reverse((key, Reverse(newest)))) = self.heap.pop() else { return Ok(None) };
        let change = self.pass(newest)?;
        while let Some(Reverse((other, Reverse(index)))) = self.heap.peek().copied()
            && other == key
        {
            self.heap.pop();
            self.pass(index)?;
        }
        Ok(change.map(|change| (newest, change)))
    }

    /// Takes the change that a walk is at, and moves it on.
    fn pass(&mut self, index: usize) -> Result<Option<StateChange<'a>>> {
        let Some(Some(walk)) = self.walks.get_mut(index) else { return Ok(None) };
        let change = walk.next;
        let segment = self.told.get(index).map(|told| told.segment);
        match walk.left.next() {
            Some(Ok(next)) => {
                walk.next = next;
                self.heap.push(Reverse((next.key, Reverse(index))));
            }
            Some(Err(fault)) => {
                if let Some(segment) = segment {
                    return Err(segment.footer_damage(fault));
                }
            }
            None => {}
        }
        Ok(Some(change))
    }
}

/// Whether keys that are asked for in their order are in any of some indices.
///
/// An index is moved on to the key that is asked for, and not key by key: what it takes is bounded
/// by the keys asked for, and by those that there are.
pub(crate) struct KeyJoin<'a> {
    pages: Vec<Pages<'a>>,
    places: Vec<Place>,
    heap: BinaryHeap<Reverse<(&'a str, usize)>>,
    /// How often an index was moved on.
    steps: u64,
}

impl<'a> KeyJoin<'a> {
    pub(crate) fn new(pages: Vec<Pages<'a>>) -> Self {
        let places = pages.iter().map(Pages::first).collect();
        let mut join = KeyJoin { pages, places, heap: BinaryHeap::new(), steps: 0 };
        (0..join.pages.len()).for_each(|index| join.enter(index));
        join
    }

    /// How often an index was moved on.
    #[cfg(test)]
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether the key is in one of them; it is not below those asked for before.
    pub(crate) fn has(&mut self, key: &str) -> bool {
        while let Some(Reverse((next, index))) = self.heap.peek().copied() {
            if next >= key {
                return next == key;
            }
            self.heap.pop();
            self.steps += 1;
            let (Some(pages), Some(place)) = (self.pages.get(index), self.places.get_mut(index))
            else {
                continue;
            };
            // Mostly it is the next one or near it.
            let next = pages.after(*place).and_then(|after| match pages.get(after)? {
                Some(change) if change.key < key => pages.seek(key),
                _ => Ok(after),
            });
            *place = next.unwrap_or(pages.end());
            self.enter(index);
        }
        false
    }

    /// Puts the key that an index is at in line. Of an index that cannot be read no more is known:
    /// what it may have overwritten is kept.
    fn enter(&mut self, index: usize) {
        let change = self.pages.get(index).zip(self.places.get(index));
        if let Some(Ok(Some(change))) = change.map(|(pages, place)| pages.get(*place)) {
            self.heap.push(Reverse((change.key, index)));
        }
    }
}

//! The state of an agent in a snapshot: the state indices of blocks and the keys of unsealed
//! segments, merged where they lie.

use std::borrow::Cow;
use std::iter::FusedIterator;
use std::ops::Bound;
use std::sync::Arc;

use super::Snapshot;
use crate::catalog::base::{StateSource, slot_of};
use crate::catalog::part::{Part, StateSlot};
use crate::entry::StateValue;
use crate::error::Result;
use crate::format::footer::{Pages, Place, StateChange};
use crate::segment::Segment;

impl Snapshot {
    /// The value of a key; `None` if it is absent.
    pub(crate) fn state(&self, key: &str) -> Result<Option<StateValue>> {
        for part in &self.version.parts {
            if let Some(slot) = part.state(key, self.version.lsn) {
                return self.value(&part.segment, slot, key).transpose();
            }
        }
        match self.base.state(key).map_err(|e| e.for_agent(self.name()))? {
            Some((source, slot)) => self.value(&source.segment, slot, key).transpose(),
            None => Ok(None),
        }
    }

    /// The keys that begin with `prefix` and their values, in the order of the keys.
    pub(crate) fn states(&self, prefix: &str) -> States<'_> {
        let parts = self.version.parts.iter().map(Within::Part);
        let indices = self.base.states.iter().rev().map(Within::Index);
        let source =
            |within| Source { within, front: Peek::Unread(None), back: Peek::Unread(None) };
        States {
            snapshot: self,
            sources: parts.chain(indices).map(source).collect(),
            low: Bound::Included(prefix.into()),
            high: behind(prefix).map_or(Bound::Unbounded, |end| Bound::Excluded(end.into())),
        }
    }

    fn value(
        &self,
        segment: &Arc<Segment>,
        slot: StateSlot,
        key: &str,
    ) -> Option<Result<StateValue>> {
        let offset = slot.spot.offset()?;
        let value = StateValue::read(segment, offset, key, slot.revision);
        Some(value.map_err(|e| e.with_agent(self.name())))
    }
}

/// The first text behind all those that begin with `prefix`; `None` if there is none.
fn behind(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // Text is ordered as its characters are; surrogates are none.
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            _ => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// Values of a snapshot's state, from both ends. It holds a key for each source, not all of them.
pub(crate) struct States<'v> {
    snapshot: &'v Snapshot,
    /// Newest first.
    sources: Vec<Source<'v>>,
    /// What is left lies between these.
    low: Bound<Box<str>>,
    high: Bound<Box<str>>,
}

/// What keys come from.
#[derive(Clone, Copy)]
enum Within<'v> {
    Part(&'v Part),
    Index(&'v StateSource),
}

/// Where the walk of a source stands at both ends.
struct Source<'v> {
    within: Within<'v>,
    front: Peek<'v>,
    back: Peek<'v>,
}

/// The next change of a source from one end.
enum Peek<'v> {
    /// Not read yet; of an index, the place of the last one, if there was one.
    Unread(Option<Place>),
    Ended,
    At {
        key: Cow<'v, str>,
        slot: StateSlot,
        place: Option<Place>,
    },
}

/// A key, the newest of its changes, and the segment of that.
type Found<'v> = (&'v Arc<Segment>, StateSlot, Box<str>);

/// From which end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Front,
    Back,
}

impl<'v> Source<'v> {
    fn segment(&self) -> &'v Arc<Segment> {
        match self.within {
            Within::Part(part) => &part.segment,
            Within::Index(index) => &index.segment,
        }
    }

    fn peek(&mut self, end: End) -> &mut Peek<'v> {
        if end == End::Front { &mut self.front } else { &mut self.back }
    }

    /// Reads the next change from this end, if that was not done.
    fn fill(&mut self, end: End, low: Bound<&str>, high: Bound<&str>, lsn: u64) -> Result<()> {
        let Peek::Unread(last) = *self.peek(end) else { return Ok(()) };
        let next = match self.within {
            Within::Part(part) => {
                let next = part.next_state((low, high), end == End::Back, lsn);
                next.map(|(key, slot)| (Cow::Owned(String::from(key)), slot, None))
            }
            Within::Index(index) => {
                let pages = index.pages()?;
                let found = step(&pages, last, end, low, high);
                let found = found.map_err(|fault| index.segment.footer_damage(fault))?;
                found.map(|(change, place)| {
                    (Cow::Borrowed(change.key), slot_of(&change), Some(place))
                })
            }
        };
        *self.peek(end) =
            next.map_or(Peek::Ended, |(key, slot, place)| Peek::At { key, slot, place });
        Ok(())
    }

    /// Goes on behind this key.
    fn pass(&mut self, end: End, key: &str) {
        let peek = self.peek(end);
        if let Peek::At { key: at, place, .. } = peek
            && at == key
        {
            *peek = Peek::Unread(*place);
        }
    }
}

/// The next change of an index behind the last one, from this end, between the bounds.
fn step<'v>(
    pages: &Pages<'v>,
    last: Option<Place>,
    end: End,
    low: Bound<&str>,
    high: Bound<&str>,
) -> std::result::Result<Option<(StateChange<'v>, Place)>, crate::format::Fault> {
    let mut at = match (end, last) {
        (End::Front, Some(last)) => Some(pages.after(last)?),
        (End::Front, None) => Some(match low {
            Bound::Included(key) | Bound::Excluded(key) => pages.seek(key)?,
            Bound::Unbounded => pages.first(),
        }),
        (End::Back, Some(last)) => pages.before(last)?,
        (End::Back, None) => pages.before(match high {
            Bound::Included(key) | Bound::Excluded(key) => pages.seek(key)?,
            Bound::Unbounded => pages.end(),
        })?,
    };
    // One step suffices but for the key that the walk is at.
    while let Some(place) = at {
        let Some(change) = pages.get(place)? else { return Ok(None) };
        let (above, below) = (is_above(low, change.key), is_below(high, change.key));
        if above && below {
            return Ok(Some((change, place)));
        }
        at = match end {
            End::Front if below => Some(pages.after(place)?),
            End::Back if above => pages.before(place)?,
            _ => None,
        };
    }
    Ok(None)
}

fn is_above(low: Bound<&str>, key: &str) -> bool {
    match low {
        Bound::Included(low) => key >= low,
        Bound::Excluded(low) => key > low,
        Bound::Unbounded => true,
    }
}

fn is_below(high: Bound<&str>, key: &str) -> bool {
    match high {
        Bound::Included(high) => key <= high,
        Bound::Excluded(high) => key < high,
        Bound::Unbounded => true,
    }
}

fn as_text(bound: &Bound<Box<str>>) -> Bound<&str> {
    bound.as_ref().map(|key| &**key)
}

impl<'v> States<'v> {
    /// The next key from this end, with the newest of its changes and the segment of that.
    fn step(&mut self, end: End) -> Result<Option<Found<'v>>> {
        let lsn = self.snapshot.version.lsn;
        let (low, high) = (as_text(&self.low), as_text(&self.high));
        let mut best: Option<(&str, StateSlot, &'v Arc<Segment>)> = None;
        for source in &mut self.sources {
            source.fill(end, low, high, lsn)?;
            let segment = source.segment();
            let Peek::At { key, slot, .. } = &*source.peek(end) else { continue };
            // What was read ahead may have been passed from the other end.
            if !is_above(low, key) || !is_below(high, key) {
                continue;
            }
            let better =
                best.is_none_or(
                    |(best, ..)| {
                        if end == End::Front { **key < *best } else { **key > *best }
                    },
                );
            // Of equal keys the first counts, which is the newest.
            if better {
                best = Some((key, *slot, segment));
            }
        }
        let Some((key, slot, segment)) = best else { return Ok(None) };
        let key: Box<str> = key.into();
        for source in &mut self.sources {
            source.pass(end, &key);
        }
        match end {
            End::Front => self.low = Bound::Excluded(key.clone()),
            End::Back => self.high = Bound::Excluded(key.clone()),
        }
        Ok(Some((segment, slot, key)))
    }

    /// The next key and its value; no key if it cannot be told which are next.
    pub(crate) fn next_named(&mut self) -> Option<(Option<Box<str>>, Result<StateValue>)> {
        loop {
            match self.step(End::Front) {
                Ok(None) => return None,
                Ok(Some((segment, slot, key))) => {
                    if let Some(value) = self.snapshot.value(segment, slot, &key) {
                        return Some((Some(key), value));
                    }
                }
                Err(error) => {
                    self.sources.clear();
                    return Some((None, Err(error.with_agent(self.snapshot.name()))));
                }
            }
        }
    }

    fn read(&mut self, end: End) -> Option<Result<StateValue>> {
        loop {
            match self.step(end) {
                Ok(None) => return None,
                Ok(Some((segment, slot, key))) => {
                    let Some(value) = self.snapshot.value(segment, slot, &key) else { continue };
                    if value.is_err() && !self.snapshot.lenient {
                        self.sources.clear();
                    }
                    return Some(value);
                }
                // Without one index the keys of older ones would pass for the newest.
                Err(error) => {
                    self.sources.clear();
                    return Some(Err(error.with_agent(self.snapshot.name())));
                }
            }
        }
    }
}

impl Iterator for States<'_> {
    type Item = Result<StateValue>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read(End::Front)
    }
}

impl DoubleEndedIterator for States<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.read(End::Back)
    }
}

impl FusedIterator for States<'_> {}

#[cfg(test)]
mod tests {
    use super::behind;

    #[test]
    fn what_lies_behind_a_prefix() {
        assert_eq!(behind(""), None);
        assert_eq!(behind("a").as_deref(), Some("b"));
        assert_eq!(behind("a\u{D7FF}").as_deref(), Some("a\u{E000}"));
        assert_eq!(behind("a\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(behind("\u{10FFFF}\u{10FFFF}"), None);
    }
}

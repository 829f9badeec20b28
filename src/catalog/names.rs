//! The names of all agents in order: the directories of the sealed segments, merged, and the agents
//! of unsealed segments laid over them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use crate::catalog::set::SegmentSet;
use crate::error::Result;
use crate::format::Fault;
use crate::format::footer::{FooterRef, Position};
use crate::segment::Segment;

/// The direction of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Forward,
    Backward,
}

/// What one source has next in one direction.
struct Cursor {
    /// The position of `name`, or where the walk ended.
    at: Position,
    name: Option<String>,
    block: u64,
}

struct Source {
    segment: Arc<Segment>,
    front: Cursor,
    back: Cursor,
}

/// The names under a prefix, from both ends.
pub(crate) struct Names {
    prefix: String,
    /// Newest first.
    sources: Vec<Source>,
    /// Agents that unsealed segments speak of: whether they exist.
    overlay: BTreeMap<Arc<str>, bool>,
    /// The last name given at the front, and at the back.
    low: Option<String>,
    high: Option<String>,
}

/// A name, and the life that footers know under it; `None`: it was found in the overlay, alive.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) life: Option<u64>,
}

impl Names {
    /// The names in `set` that begin with `prefix`, under `overlay`.
    pub(crate) fn new(
        set: &SegmentSet,
        prefix: &str,
        overlay: BTreeMap<Arc<str>, bool>,
    ) -> Result<Self> {
        let mut sources = Vec::with_capacity(set.sealed.len());
        for segment in set.sealed.iter().rev() {
            let Some(footer) = segment.footer() else { continue };
            let source = Source::new(segment, &footer?, prefix);
            sources.push(source.map_err(|fault| segment.footer_damage(fault))?);
        }
        Ok(Names { prefix: prefix.to_owned(), sources, overlay, low: None, high: None })
    }

    /// The next name in a direction whose agent exists, as far as lives tell.
    pub(crate) fn step(&mut self, way: Way) -> Result<Option<Named>> {
        loop {
            let Some(name) = self.best(way) else { return Ok(None) };
            let met = match (way, &self.low, &self.high) {
                (Way::Forward, _, Some(high)) => name >= *high,
                (Way::Backward, Some(low), _) => name <= *low,
                _ => false,
            };
            if met {
                return Ok(None);
            }
            let life = self.take(way, &name)?;
            match way {
                Way::Forward => self.low = Some(name.clone()),
                Way::Backward => self.high = Some(name.clone()),
            }
            match self.overlay.get(name.as_str()) {
                Some(true) => return Ok(Some(Named { name, life: None })),
                Some(false) => {}
                None => match life {
                    Some(0) | None => {}
                    life => return Ok(Some(Named { name, life })),
                },
            }
        }
    }

    /// The nearest name of all sources in a direction.
    fn best(&self, way: Way) -> Option<String> {
        let sealed = self.sources.iter().filter_map(|s| s.cursor(way).name.as_deref());
        let low = self.low.as_deref().unwrap_or(&self.prefix);
        match way {
            Way::Forward => {
                let from = if self.low.is_some() { Excluded(low) } else { Included(low) };
                let mut laid = self.overlay.range::<str, _>((from, Unbounded));
                let laid = laid.next().map(|(n, _)| &**n).filter(|n| n.starts_with(&self.prefix));
                sealed.chain(laid).min().map(str::to_owned)
            }
            Way::Backward => {
                let laid = match &self.high {
                    Some(high) => self
                        .overlay
                        .range::<str, _>((Unbounded, Excluded(high.as_str())))
                        .next_back(),
                    None => {
                        let prefix = self.prefix.as_str();
                        let all = self.overlay.range::<str, _>((Included(prefix), Unbounded));
                        all.take_while(|(n, _)| n.starts_with(&self.prefix)).last()
                    }
                };
                let laid = laid.map(|(n, _)| &**n).filter(|n| n.starts_with(&self.prefix));
                sealed.chain(laid).max().map(str::to_owned)
            }
        }
    }

    /// Moves every source that stands at `name` on; gives the life that the newest of them knows.
    fn take(&mut self, way: Way, name: &str) -> Result<Option<u64>> {
        let mut life = None;
        for source in &mut self.sources {
            let cursor = source.cursor(way);
            if cursor.name.as_deref() != Some(name) {
                continue;
            }
            let (segment, block) = (Arc::clone(&source.segment), cursor.block);
            let Some(footer) = segment.footer() else { continue };
            let footer = footer?;
            if life.is_none() && !segment.hides(name) {
                let block = footer.block_at(block);
                let block = block.map_err(|f| segment.footer_damage(f).with_agent(name))?;
                life = Some(block.head().life);
            }
            source
                .advance(way, &footer, &self.prefix)
                .map_err(|fault| segment.footer_damage(fault))?;
        }
        Ok(life)
    }
}

impl Source {
    fn new(
        segment: &Arc<Segment>,
        footer: &FooterRef<'_>,
        prefix: &str,
    ) -> std::result::Result<Self, Fault> {
        let front = Cursor::read(footer, footer.seek(prefix)?, prefix)?;
        let mut behind = footer.seek(&format!("{prefix}{}", char::MAX))?;
        // Names may even go on behind the last character there is.
        while footer.entry(behind)?.is_some_and(|(name, _)| name.starts_with(prefix)) {
            behind = footer.next(behind)?;
        }
        let back = match footer.previous(behind)? {
            Some(last) => Cursor::read(footer, last, prefix)?,
            None => Cursor { at: behind, name: None, block: 0 },
        };
        Ok(Source { segment: Arc::clone(segment), front, back })
    }

    fn cursor(&self, way: Way) -> &Cursor {
        match way {
            Way::Forward => &self.front,
            Way::Backward => &self.back,
        }
    }

    fn advance(
        &mut self,
        way: Way,
        footer: &FooterRef<'_>,
        prefix: &str,
    ) -> std::result::Result<(), Fault> {
        let (cursor, next) = match way {
            Way::Forward => {
                let next = Cursor::read(footer, footer.next(self.front.at)?, prefix)?;
                (&mut self.front, next)
            }
            Way::Backward => {
                let next = match footer.previous(self.back.at)? {
                    Some(before) => Cursor::read(footer, before, prefix)?,
                    None => Cursor { at: self.back.at, name: None, block: 0 },
                };
                (&mut self.back, next)
            }
        };
        let wanted = if way == Way::Forward { Ordering::Less } else { Ordering::Greater };
        let before = std::mem::replace(cursor, next).name;
        if before.zip(cursor.name.as_ref()).is_some_and(|(before, name)| before.cmp(name) != wanted)
        {
            return Err(Fault("the names of a directory are out of order"));
        }
        Ok(())
    }
}

impl Cursor {
    fn read(
        footer: &FooterRef<'_>,
        at: Position,
        prefix: &str,
    ) -> std::result::Result<Self, Fault> {
        Ok(match footer.entry(at)? {
            Some((name, block)) if name.starts_with(prefix) => {
                Cursor { at, name: Some(name.to_owned()), block }
            }
            _ => Cursor { at, name: None, block: 0 },
        })
    }
}

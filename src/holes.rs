//! What a repaired store lacks: the store says so of itself until that is accepted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::commit::scratch::Scratch;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest;
use crate::format::record::Change;
use crate::store::Store;
use crate::types::Durability;
use crate::view::View;

/// Losses that are accepted in one batch.
const BATCH: usize = 4096;

/// What a repaired store lacks, as long as that is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holes {
    /// Entries that were lost. They keep their seqs, and read as [`Damaged`](ErrorKind::Damaged). Those
    /// that were truncated or forgotten since are counted until losses are accepted.
    pub entries: u64,
    /// Values of state that were lost: their keys are absent.
    pub values: u64,
    /// When the store was repaired.
    pub repaired: SystemTime,
    /// The id of the store that it was repaired from.
    pub from: u128,
}

impl From<manifest::Holes> for Holes {
    fn from(holes: manifest::Holes) -> Self {
        let since = Duration::from_millis(holes.repaired);
        Holes {
            entries: holes.entries,
            values: holes.values,
            repaired: UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH),
            from: holes.from,
        }
    }
}

impl Store {
    /// What the store lacks since it was repaired; `None` if it lacks nothing, or if the losses were
    /// accepted. Reads no file.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let store = memlog::Store::open(dir.path().join("mem"))?;
    /// assert_eq!(store.holes(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn holes(&self) -> Option<Holes> {
        self.stored_holes().map(Holes::from)
    }

    /// Accepts what a repair lost of an agent, or with `None` of all: from then on a lost entry reads
    /// as a redacted one, whose time is not known, and no longer as `Damaged`. Gives the number of
    /// entries that were accepted.
    ///
    /// Once no loss is left, [`holes`](Self::holes) answers `None`. Lost values of state are accepted
    /// with those of all agents. The call looks up each entry of each agent, reads none, and blocks
    /// until the acceptance is on stable storage. A store without holes is left as it is.
    ///
    /// # Errors
    /// `InvalidInput` if the name is none; otherwise those of [`Batch::commit`](crate::Batch::commit).
    /// What was accepted before an error stays accepted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let store = memlog::Store::open(dir.path().join("mem"))?;
    /// assert_eq!(store.accept_holes(None)?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn accept_holes(&self, agent: Option<&str>) -> Result<u64> {
        self.engine().check_open()?;
        self.engine().check_writable()?;
        let only = agent.map(|name| self.agent(name)).transpose()?;
        let Some(holes) = self.stored_holes() else { return Ok(0) };
        let (mut accepted, mut left) = (0_u64, 0_u64);
        for agent in self.agents("") {
            let agent = agent?;
            let view = agent.view()?;
            if only.as_ref().is_none_or(|only| only.name() == agent.name()) {
                accepted += self.accept(&view).map_err(|e| e.for_agent(agent.name()))?;
            } else {
                left += lost(&view).count() as u64;
            }
        }
        let values = if only.is_some() { holes.values } else { 0 };
        let rest =
            (left > 0 || values > 0).then_some(manifest::Holes { entries: left, values, ..holes });
        self.note_holes(rest)?;
        Ok(accepted)
    }

    /// Redacts the lost entries of an agent.
    fn accept(&self, view: &View) -> Result<u64> {
        let (mut seqs, mut accepted) = (lost(view).peekable(), 0);
        while seqs.peek().is_some() {
            let mut batch = Scratch::take();
            let agent = view.agent().number_in(&mut batch);
            for seq in seqs.by_ref().take(BATCH) {
                batch.push(agent, &Change::Redact { seq });
                accepted += 1;
            }
            let ordered = self.engine().order(&mut batch, Durability::Sync)?;
            drop(batch);
            self.engine().wait(ordered.end, ordered.durability)?;
        }
        Ok(accepted)
    }

    fn stored_holes(&self) -> Option<manifest::Holes> {
        match &self.engine().writing {
            Some(writing) => writing.manifest.current().holes,
            None => self.holes_when_opened(),
        }
    }

    /// Writes down what the store lacks.
    pub(crate) fn note_holes(&self, holes: Option<manifest::Holes>) -> Result<()> {
        let engine = self.engine();
        let Some(writing) = &engine.writing else {
            return Err(Error::new(ErrorKind::ReadOnly, "the store was opened read-only"));
        };
        engine.heed(writing.manifest.replace(|manifest| manifest.holes = holes))
    }
}

/// The lost entries of a view that are not accepted, ascending.
fn lost(view: &View) -> impl Iterator<Item = u64> {
    let mut from = view.floor();
    std::iter::from_fn(move || {
        let seq = view.snapshot.next_lost(from)?;
        from = seq.saturating_add(1);
        Some(seq)
    })
}

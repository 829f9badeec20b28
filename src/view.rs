//! Views: consistent reads of one agent at one moment.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::agent::Agent;
use crate::entry::{Entry, StateValue};
use crate::error::Result;
use crate::snapshot::{Entries, Snapshot, Unreadable};

/// A consistent point-in-time view of one agent.
///
/// It fixes position, time and segments: later appends, truncation, redaction, forgetting and
/// expiry do not disturb it. Cheap to clone. While it lives, it pins the segments it reads.
#[derive(Clone)]
pub struct View {
    agent: Agent,
    pub(crate) snapshot: Snapshot,
}

impl View {
    #[inline]
    pub(crate) fn open(agent: &Agent) -> Result<View> {
        let engine = agent.store().engine();
        engine.check_open()?;
        let snapshot = Snapshot::open(engine, agent.resident())?;
        Ok(View { agent: agent.clone(), snapshot })
    }

    /// The same, if it can be had without waiting.
    pub(crate) fn open_now(agent: &Agent) -> Result<Option<View>> {
        let engine = agent.store().engine();
        engine.check_open()?;
        let snapshot = Snapshot::open_now(engine, agent.resident())?;
        Ok(snapshot.map(|snapshot| View { agent: agent.clone(), snapshot }))
    }

    /// The agent that it is a view of.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The lowest live seq; [`next_seq`](Self::next_seq) if the timeline is empty.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.snapshot.floor
    }

    /// The seq that the next entry gets: 1 for an agent that is absent or was forgotten.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.snapshot.next_seq()
    }

    /// All entries, oldest first.
    ///
    /// Like every iterator here it ends after an error, which carries the seq, so that
    /// `range(seq + 1..)` goes on behind it. A store opened with
    /// [`salvage`](crate::Options::salvage) goes on by itself.
    pub fn iter(&self) -> Entries<'_> {
        self.range(..)
    }

    /// The latest `n` entries, oldest first; `.rev()` gives the newest first.
    pub fn latest(&self, n: usize) -> Entries<'_> {
        let from = self.next_seq().saturating_sub(n as u64).max(self.floor());
        self.snapshot.entries(from, self.next_seq())
    }

    /// The entries with seqs in `range`, clamped to those there are.
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path().join("mem"))?;
    /// # let agent = store.agent("a")?;
    /// for i in 1..=30 {
    ///     agent.append(NewEntry::user(&i.to_string()))?;
    /// }
    /// let view = agent.view()?;
    /// let texts: Vec<_> = view.range(10..=12).map(|e| e.unwrap().seq()).collect();
    /// assert_eq!(texts, [10, 11, 12]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn range(&self, range: impl RangeBounds<u64>) -> Entries<'_> {
        let from = match range.start_bound() {
            Bound::Included(seq) => *seq,
            Bound::Excluded(seq) => seq.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(seq) => seq.saturating_add(1),
            Bound::Excluded(seq) => *seq,
            Bound::Unbounded => u64::MAX,
        };
        self.snapshot.entries(from.max(self.floor()), to.min(self.next_seq()))
    }

    /// The entries from the first one with `at >= time` on. Later ones may be older: a timeline is
    /// ordered by seq, whatever the clocks said.
    pub fn since(&self, time: SystemTime) -> Entries<'_> {
        // Before 1970 is before everything, and what milliseconds cannot count is behind it.
        let time = match time.duration_since(UNIX_EPOCH) {
            Ok(since) => u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            Err(_) => 0,
        };
        match self.snapshot.find_since(time, Unreadable::Fails) {
            Ok(from) => self.snapshot.entries(from, self.next_seq()),
            Err(error) => Entries::failed(&self.snapshot, error),
        }
    }

    /// The entry with this seq; `None` outside of floor..next.
    ///
    /// # Errors
    /// `Damaged` if it cannot be read.
    pub fn get(&self, seq: u64) -> Result<Option<Entry<'_>>> {
        if seq < self.floor() || seq >= self.next_seq() {
            return Ok(None);
        }
        self.snapshot.entry(seq).map(Some)
    }

    /// The value of a key of the agent's state; `None` if it is absent.
    ///
    /// # Errors
    /// `Damaged` if it cannot be read.
    ///
    /// ```
    /// use memlog::Store;
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// store.batch().set(&agent, "goal", "refund").commit()?;
    /// let goal = agent.view()?.state("goal")?.unwrap();
    /// assert_eq!(&goal.value()[..], b"refund");
    /// // Compare and set: fails with `Conflict` if somebody else was faster.
    /// store
    ///     .batch()
    ///     .expect_revision(&agent, "goal", Some(goal.revision()))
    ///     .set(&agent, "goal", "done")
    ///     .commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn state(&self, key: &str) -> Result<Option<StateValue>> {
        self.snapshot.state(key)
    }

    /// The keys that begin with `prefix` and their values, in the order of the keys.
    pub fn states(
        &self,
        prefix: &str,
    ) -> impl DoubleEndedIterator<Item = Result<StateValue>> + FusedIterator + Send + use<'_> {
        self.snapshot.states(prefix)
    }
}

impl<'v> IntoIterator for &'v View {
    type Item = Result<Entry<'v>>;
    type IntoIter = Entries<'v>;

    /// All entries, oldest first, as [`View::iter`] gives them.
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path().join("mem"))?;
    /// # let agent = store.agent("a")?;
    /// agent.append(NewEntry::user("hello"))?;
    /// for entry in &agent.view()? {
    ///     assert_eq!(entry?.payload(), b"hello");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn into_iter(self) -> Entries<'v> {
        self.iter()
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("agent", &self.agent.name())
            .field("floor", &self.floor())
            .field("next_seq", &self.next_seq())
            .finish_non_exhaustive()
    }
}

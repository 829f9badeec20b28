//! The handle of an agent.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};

use crate::batch::NewEntry;
use crate::catalog::resident::Resident;
use crate::commit::order::Ordered;
use crate::commit::prepared::Prepared;
use crate::commit::scratch::Scratch;
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::Change;
use crate::options::MAX_NAME;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::sync::Mutex;
use crate::types::{Retention, Usage};
use crate::view::View;

/// The handle of an agent: it names the name, not the life.
///
/// The first use of an agent at rest looks it up in the files. Appends to an agent in use read nothing.
///
/// Cheap to clone, and good for as long as the store is open, whether or not there is such an agent
/// yet, and across its forgetting.
///
/// ```
/// use memlog::{NewEntry, Store};
/// # let dir = tempfile::tempdir()?;
/// let store = Store::open(dir.path().join("mem"))?;
/// let agent = store.agent("acme/support/t-7")?;
/// let seq = agent.append(NewEntry::user("hello"))?;
/// assert_eq!(seq, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Agent(Arc<Handle>);

/// Its clones share it: one counter, beside what is looked at anyway.
struct Handle {
    store: Store,
    name: Arc<str>,
    hash: u64,
    /// What the catalog gave last: with a million agents in use its table is in no cache of the
    /// processor.
    resident: Mutex<Weak<Resident>>,
}

impl Agent {
    pub(crate) fn new(store: &Store, name: &str) -> Result<Self> {
        check_name(name)?;
        Ok(Self::known(store, name))
    }

    /// The handle of a name that the store itself knows.
    pub(crate) fn known(store: &Store, name: &str) -> Self {
        let hash = store.engine().catalog.hash(name);
        let resident = Mutex::default();
        Agent(Arc::new(Handle { store: store.clone(), name: Arc::from(name), hash, resident }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// The agent's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A consistent view of the agent as it is now: later appends, forgets and compaction do not
    /// disturb it.
    ///
    /// An agent in use costs no I/O; one at rest may cost a few reads. In asynchronous code call it
    /// from a blocking task (`spawn_blocking`) if that matters.
    ///
    /// # Errors
    /// `Damaged` if what is known of the agent cannot be read; `Poisoned` if the agent has bytes
    /// that a failed write left in memory only; `Closed`.
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// agent.append(NewEntry::user("one"))?;
    /// let view = agent.view()?;
    /// agent.append(NewEntry::user("two"))?;
    /// assert_eq!(view.iter().count(), 1);
    /// assert_eq!(agent.view()?.iter().count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn view(&self) -> Result<View> {
        View::open(self)
    }

    /// A view like that of [`view`](Self::view), if it can be had from memory without waiting.
    ///
    /// `None`: it would have to read the disk, since the agent is not in use or has a policy by bytes
    /// or age, whose floor may take reading; or to write, since the agent has buffered entries that
    /// are not written yet. It takes short locks. Entries are read from the map of their file, when
    /// they are looked at, as with every view.
    ///
    /// # Errors
    /// `Closed`.
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// assert!(agent.try_view()?.is_none()); // not looked up yet
    /// agent.append(NewEntry::user("one"))?;
    /// assert_eq!(agent.view()?.iter().count(), 1);
    /// assert_eq!(agent.try_view()?.map(|view| view.iter().count()), Some(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_view(&self) -> Result<Option<View>> {
        View::open_now(self)
    }

    /// Appends one entry with the store's durability, and gives its seq.
    ///
    /// # Errors
    /// `TooLarge` or `InvalidInput` if the entry cannot be stored; `DiskFull`, `Poisoned`,
    /// `ReadOnly`, `Closed`, `Damaged`: nothing changed. `Indeterminate`: the entry may be there
    /// after the store is reopened.
    pub fn append(&self, entry: NewEntry<'_>) -> Result<u64> {
        self.commit_one(|batch, agent| {
            let (now, wall) = self.store().engine().now_and_wall();
            batch.time = Some(now);
            entry.encode(self.store(), batch, agent, self.name(), now.max(wall));
        })
        .map(|seqs| seqs.start)
    }

    /// Raises the floor to `seq`: entries before it are gone from views opened afterwards.
    ///
    /// `seq` may be the next seq, which empties the timeline; at or below the floor it does nothing.
    /// The agent keeps its seq, state and policy.
    ///
    /// # Errors
    /// `OutOfRange` if `seq` is 0 or beyond the next seq. Otherwise like [`append`](Self::append).
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// for text in ["one", "two", "three"] {
    ///     agent.append(NewEntry::user(text))?;
    /// }
    /// agent.truncate_before(3)?;
    /// let view = agent.view()?;
    /// assert_eq!((view.floor(), view.next_seq()), (3, 4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn truncate_before(&self, seq: u64) -> Result<()> {
        self.change(Change::Truncate { seq })
    }

    /// Takes payload and meta out of an entry. It keeps its seq, at and kind, and says that it was
    /// redacted. Below the floor it does nothing.
    ///
    /// # Errors
    /// `OutOfRange` if there is no such entry yet. Otherwise like [`append`](Self::append).
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// let seq = agent.append(NewEntry::user("my number is 1234"))?;
    /// agent.redact(seq)?;
    /// let view = agent.view()?;
    /// let entry = view.get(seq)?.unwrap();
    /// assert!(entry.is_redacted() && entry.payload().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn redact(&self, seq: u64) -> Result<()> {
        self.change(Change::Redact { seq })
    }

    /// Forgets the agent: timeline, state and policy are unreadable at once. The name may be used
    /// again, for a new life from seq 1. Forgetting an absent agent succeeds. Always `Sync`.
    ///
    /// # Errors
    /// Like [`append`](Self::append).
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// agent.append(NewEntry::user("one"))?;
    /// agent.forget()?;
    /// assert_eq!(agent.view()?.next_seq(), 1);
    /// assert_eq!(agent.append(NewEntry::user("a new life"))?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forget(&self) -> Result<()> {
        self.change(Change::Forget)
    }

    /// Gives the agent a retention policy of its own, or with `None` the store's again. An agent
    /// that does not exist begins to, empty.
    ///
    /// What the policy so far had dropped stays dropped: loosening revives nothing.
    ///
    /// # Errors
    /// Like [`append`](Self::append).
    ///
    /// ```
    /// use memlog::{NewEntry, Retention, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// agent.set_retention(Some(Retention::new().max_entries(2)))?;
    /// for text in ["one", "two", "three"] {
    ///     agent.append(NewEntry::user(text))?;
    /// }
    /// assert_eq!(agent.view()?.floor(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_retention(&self, retention: Option<Retention>) -> Result<()> {
        let engine = self.store().engine();
        engine.check_open()?;
        let resident = self.resident();
        // What the old policy dropped is made a floor that the new one cannot lower. It is that of
        // the moment of the change only if nobody appends, forgets or loosens in between.
        let turn = resident.take_turn();
        let (ordered, _) = loop {
            let before = Snapshot::open_latest(engine, Arc::clone(&resident))?;
            let ordered = self.order_one(|batch, agent| {
                if let Some(agent) = batch.agents.get_mut(agent) {
                    agent.expect_last = Some(before.version.lsn);
                }
                batch.push(agent, &Change::Truncate { seq: before.floor });
                batch.push(agent, &Change::Policy(retention));
            });
            match ordered {
                // Forgotten with a prefix in between: the floor is that of a life that is over.
                Err(e) if e.kind() == ErrorKind::Conflict => {}
                ordered => break ordered?,
            }
        };
        drop(turn);
        engine.wait(ordered.end, ordered.durability).map_err(|e| e.for_agent(self.name()))
    }

    /// The retention policy of the agent's own; `None` if the store's holds for it.
    ///
    /// # Errors
    /// Like [`view`](Self::view).
    ///
    /// ```
    /// use memlog::{Retention, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// assert_eq!(agent.retention()?, None);
    /// agent.set_retention(Some(Retention::new().max_entries(100)))?;
    /// assert_eq!(agent.retention()?, Some(Retention::new().max_entries(100)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retention(&self) -> Result<Option<Retention>> {
        Ok(self.view()?.snapshot.policy())
    }

    /// How much the agent has stored, as of now.
    ///
    /// # Errors
    /// Like [`view`](Self::view).
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// agent.append(NewEntry::user("12345"))?;
    /// assert_eq!(agent.usage()?.live_bytes, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn usage(&self) -> Result<Usage> {
        self.view()?.snapshot.usage()
    }

    /// What is known of it, which stays known as long as this is held.
    pub(crate) fn resident(&self) -> Arc<Resident> {
        let Handle { name, hash, resident, .. } = &*self.0;
        let mut known = resident.lock();
        if let Some(resident) = known.upgrade() {
            resident.touch();
            return resident;
        }
        let engine = self.store().engine();
        let resident = engine.catalog.resident(name, *hash, engine.progress());
        *known = Arc::downgrade(&resident);
        resident
    }

    /// Its number in a batch.
    pub(crate) fn number_in(&self, batch: &mut Prepared) -> usize {
        batch.agent(&self.0.name, self.0.hash, || self.resident())
    }

    fn change(&self, change: Change<'_>) -> Result<()> {
        self.commit_one(|batch, agent| batch.push(agent, &change)).map(|_| ())
    }

    /// Commits a batch of this agent alone; gives the seqs of its appends.
    fn commit_one(&self, fill: impl FnOnce(&mut Prepared, usize)) -> Result<Range<u64>> {
        let engine = self.store().engine();
        let (ordered, seqs) = self.order_one(fill)?;
        engine.wait(ordered.end, ordered.durability).map_err(|e| e.for_agent(self.name()))?;
        Ok(seqs)
    }

    fn order_one(&self, fill: impl FnOnce(&mut Prepared, usize)) -> Result<(Ordered, Range<u64>)> {
        let engine = self.store().engine();
        let mut batch = Scratch::take();
        let agent = self.number_in(&mut batch);
        fill(&mut batch, agent);
        let ordered = engine.order(&mut batch, engine.options.durability);
        let seqs = batch.agents.first().map_or(1..1, |a| a.seqs.clone());
        Ok((ordered.map_err(|e| e.for_agent(self.name()))?, seqs))
    }
}

/// Checks a name: UTF-8 of 1 to 512 bytes.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "an agent's name cannot be empty"));
    }
    if name.len() > MAX_NAME {
        let message = format!("an agent's name has at most {MAX_NAME} bytes, not {}", name.len());
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(())
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("name", &self.name()).finish_non_exhaustive()
    }
}

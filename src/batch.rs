//! Batches, what goes into them, and what comes of them.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::agent::Agent;
use crate::commit::order::Ordered;
use crate::commit::prepared::{ExpectedRevision, Prepared, Records};
use crate::commit::scratch::Scratch;
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::{Append, Change, JOINED, Record};
use crate::options::{MAX_KEY, MAX_META};
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::types::{Durability, Kind, Lsn, Retention};

/// An entry to be appended. It borrows what it is given: a batch encodes it at once.
///
/// ```
/// use memlog::{Kind, NewEntry};
/// let entry = NewEntry::new(Kind::TOOL_CALL, "{\"tool\":\"search\"}").weight(12).meta("{}");
/// # let _ = entry;
/// ```
#[derive(Clone, Copy)]
#[must_use]
pub struct NewEntry<'a> {
    kind: Kind,
    payload: &'a [u8],
    meta: &'a [u8],
    weight: u32,
    flags: u8,
    at: Option<SystemTime>,
    expires: Option<SystemTime>,
}

impl<'a> NewEntry<'a> {
    /// An entry of a kind, with a payload of 0 bytes to 32 MiB.
    pub fn new(kind: Kind, payload: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        NewEntry {
            kind,
            payload: payload.as_ref(),
            meta: &[],
            weight: 0,
            flags: 0,
            at: None,
            expires: None,
        }
    }

    /// Instructions that frame the conversation.
    pub fn system(text: &'a str) -> Self {
        NewEntry::new(Kind::SYSTEM, text)
    }

    /// A message of the user.
    pub fn user(text: &'a str) -> Self {
        NewEntry::new(Kind::USER, text)
    }

    /// A message of the model.
    pub fn assistant(text: &'a str) -> Self {
        NewEntry::new(Kind::ASSISTANT, text)
    }

    /// Bytes of the user's own, up to 64 KiB, readable without the payload.
    pub fn meta(mut self, meta: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.meta = meta.as_ref();
        self
    }

    /// The user's cost of the entry, for example in tokens. Default: 0.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Belongs with the entry before it, like a tool's result with its call.
    pub fn joined(mut self) -> Self {
        self.flags |= JOINED;
        self
    }

    /// When it happened, to the millisecond. Default: now, by the wall clock, but not before what was
    /// committed last. Not before 1970.
    pub fn at(mut self, time: SystemTime) -> Self {
        self.at = Some(time);
        self
    }

    /// From when on views show it as redacted: seq, at and kind stay, payload and meta are gone.
    pub fn expires_at(mut self, time: SystemTime) -> Self {
        self.expires = Some(time);
        self
    }

    /// Encodes it into a batch; what is wrong with it fails the batch.
    pub(crate) fn encode(
        self,
        store: &Store,
        batch: &mut Prepared,
        agent: usize,
        name: &str,
        now: u64,
    ) {
        match self.checked(store, now) {
            Ok(append) => batch.push(agent, &Change::Append(append)),
            Err(error) => batch.fail(error.for_agent(name)),
        }
    }

    fn checked(self, store: &Store, now: u64) -> Result<Append<'a>> {
        check_len("payload", self.payload.len(), store.max_payload())?;
        check_len("meta", self.meta.len(), MAX_META)?;
        let at = match self.at {
            Some(time) => millis(time)?,
            None => now,
        };
        Ok(Append {
            at,
            kind: self.kind,
            weight: self.weight,
            flags: self.flags,
            expires: self.expires.map(millis).transpose()?,
            meta: self.meta,
            payload: self.payload,
        })
    }
}

fn check_len(what: &str, len: usize, most: usize) -> Result<()> {
    if len > most {
        let message = format!("the {what} has {len} bytes, and at most {most} are allowed");
        return Err(Error::new(ErrorKind::TooLarge, message));
    }
    Ok(())
}

/// A time in ms since the epoch.
pub(crate) fn millis(time: SystemTime) -> Result<u64> {
    let since = time
        .duration_since(UNIX_EPOCH)
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "a time is before 1970"))?;
    u64::try_from(since.as_millis())
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "a time is too far in the future"))
}

impl fmt::Debug for NewEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEntry")
            .field("kind", &self.kind)
            .field("payload_len", &self.payload.len())
            .field("meta_len", &self.meta.len())
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}

/// Changes that happen together or not at all, to one agent or several, in the order in which they
/// were put in.
///
/// Bind the batch to a variable before chaining, as every method borrows it:
///
/// ```
/// use memlog::{Kind, NewEntry, Store};
/// # let dir = tempfile::tempdir()?;
/// let store = Store::open(dir.path().join("mem"))?;
/// let agent = store.agent("acme/support/t-7")?;
/// let mut batch = store.batch();
/// batch
///     .append(&agent, NewEntry::new(Kind::TOOL_CALL, "{}").weight(212))
///     .append(&agent, NewEntry::new(Kind::TOOL_RESULT, "ok").joined())
///     .set(&agent, "goal", "refund order 11")
///     .expect_next(&agent, 1);
/// let receipt = batch.commit()?;
/// assert_eq!(receipt.seqs(&agent), 1..3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What is wrong with a change (a key too long, an agent of another store) is answered by the
/// commit. After [`commit`](Self::commit) or [`submit`](Self::submit) the batch is empty and may be
/// filled again.
pub struct Batch {
    store: Store,
    prepared: Scratch,
    durability: Durability,
}

impl Batch {
    pub(crate) fn new(store: &Store) -> Self {
        let engine = store.engine();
        Batch {
            prepared: Scratch::take(),
            durability: engine.options.durability,
            store: store.clone(),
        }
    }

    /// Appends an entry.
    pub fn append(&mut self, agent: &Agent, entry: NewEntry<'_>) -> &mut Self {
        if let Some(index) = self.index(agent) {
            let (now, wall) = self.store.engine().now_and_wall();
            entry.encode(&self.store, &mut self.prepared, index, agent.name(), now.max(wall));
        }
        self
    }

    /// Sets a key of the agent's state, of 1 to 1024 bytes, to a value of up to 32 MiB.
    pub fn set(
        &mut self,
        agent: &Agent,
        key: &str,
        value: &(impl AsRef<[u8]> + ?Sized),
    ) -> &mut Self {
        let value = value.as_ref();
        let most = self.store.max_payload();
        match check_key(key).and_then(|()| check_len("value", value.len(), most)) {
            Ok(()) => self.push(agent, &Change::Set { key, value }),
            Err(error) => self.fail(error.for_agent(agent.name())),
        }
    }

    /// Takes a key out of the agent's state. An absent one may be.
    pub fn unset(&mut self, agent: &Agent, key: &str) -> &mut Self {
        match check_key(key) {
            Ok(()) => self.push(agent, &Change::Unset { key }),
            Err(error) => self.fail(error.for_agent(agent.name())),
        }
    }

    /// Raises the agent's floor: see [`Agent::truncate_before`].
    pub fn truncate_before(&mut self, agent: &Agent, seq: u64) -> &mut Self {
        self.push(agent, &Change::Truncate { seq })
    }

    /// Takes payload and meta out of an entry: see [`Agent::redact`].
    pub fn redact(&mut self, agent: &Agent, seq: u64) -> &mut Self {
        self.push(agent, &Change::Redact { seq })
    }

    /// Forgets the agent: see [`Agent::forget`]. Raises the batch to [`Durability::Sync`].
    pub fn forget(&mut self, agent: &Agent) -> &mut Self {
        self.push(agent, &Change::Forget)
    }

    /// Gives the agent a retention policy of its own, or with `None` the store's again: see
    /// [`Agent::set_retention`]. An agent that does not exist begins to, empty.
    ///
    /// What the policy so far has dropped as of this call stays dropped. So the batch expects the
    /// agent to be as it is now: if it was changed in between, the commit answers `Conflict`. The
    /// first use of an agent at rest reads it from the files.
    ///
    /// ```
    /// use memlog::{NewEntry, Retention, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// let policy = Retention::new().max_entries(1);
    /// store
    ///     .batch()
    ///     .set_retention(&agent, Some(policy))
    ///     .append(&agent, NewEntry::user("one"))
    ///     .append(&agent, NewEntry::user("two"))
    ///     .commit()?;
    /// assert_eq!(agent.retention()?, Some(policy));
    /// assert_eq!(agent.view()?.floor(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_retention(&mut self, agent: &Agent, retention: Option<Retention>) -> &mut Self {
        let Some(index) = self.index(agent) else { return self };
        // The life that the batch begins by forgetting the agent has nothing that was dropped.
        let mut records = Records::of(&self.prepared.body);
        let is_it = |number: u32| usize::try_from(number).is_ok_and(|number| number == index);
        let begins = |record: &Record<'_>| record.change == Change::Forget && is_it(record.agent);
        if !records.any(|(_, record)| begins(&record)) {
            let before = Snapshot::open_latest(self.store.engine(), agent.resident());
            let before = match before {
                Ok(before) => before,
                Err(error) => return self.fail(error.for_agent(agent.name())),
            };
            if let Some(prepared) = self.prepared.agents.get_mut(index) {
                prepared.expect_last.get_or_insert(before.version.lsn);
            }
            self.prepared.push(index, &Change::Truncate { seq: before.floor });
        }
        self.prepared.push(index, &Change::Policy(retention));
        self
    }

    /// Expects the agent's next seq to be `seq`, before this batch and with every batch committed
    /// or submitted before it counted. Otherwise the commit answers `Conflict`.
    pub fn expect_next(&mut self, agent: &Agent, seq: u64) -> &mut Self {
        if let Some(index) = self.index(agent)
            && let Some(prepared) = self.prepared.agents.get_mut(index)
        {
            if prepared.expect_next.is_some_and(|before| before != seq) {
                let message = "the batch expects two different next seqs of one agent";
                let error = Error::new(ErrorKind::InvalidInput, message);
                return self.fail(error.for_agent(agent.name()));
            }
            prepared.expect_next = Some(seq);
        }
        self
    }

    /// Expects a key of the agent's state to be at this revision, or absent, before this batch.
    /// Otherwise the commit answers `Conflict`.
    pub fn expect_revision(&mut self, agent: &Agent, key: &str, at: Option<Lsn>) -> &mut Self {
        if let Err(error) = check_key(key) {
            return self.fail(error.for_agent(agent.name()));
        }
        if let Some(index) = self.index(agent) {
            let revision = at.map_or(0, |lsn| lsn.0);
            let key = key.into();
            self.prepared.revisions.push(ExpectedRevision { agent: index, key, revision });
        }
        self
    }

    /// The durability of this batch, in place of the store's.
    pub fn durability(&mut self, durability: Durability) -> &mut Self {
        self.durability = durability;
        self
    }

    /// Commits, and returns when the batch has reached its durability. An empty batch is a barrier:
    /// it waits for everything ordered before it.
    ///
    /// # Errors
    /// `InvalidInput`, `TooLarge`, `OutOfRange`, `Conflict`, `DiskFull`, `Poisoned`, `ReadOnly`,
    /// `Closed`, `Damaged`: nothing changed. `Indeterminate`: a write or sync failed, and the batch
    /// may be there after the store is reopened.
    pub fn commit(&mut self) -> Result<Receipt> {
        let (ordered, receipt) = self.order()?;
        self.store.engine().wait(ordered.end, ordered.durability)?;
        Ok(receipt)
    }

    /// Orders the batch at once, and returns without waiting for the disk. The order of submits is
    /// the order of lsns.
    ///
    /// It does not wait for a write or a sync, but it may read: the first use of an agent at rest looks
    /// the agent up in the files, and so does an expectation of a revision. [`Agent::view`], or a
    /// batch before this one, brings an agent into memory; it stays there while it is in use.
    ///
    /// Up to 8 MiB wait in memory; beyond that, and beyond
    /// [`max_unsynced`](crate::Options::max_unsynced), it waits for room.
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// let mut batch = store.batch();
    /// let first = batch.append(&agent, NewEntry::user("one")).submit();
    /// let second = batch.append(&agent, NewEntry::user("two")).submit();
    /// assert!(first.wait()?.lsn() < second.wait()?.lsn());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit(&mut self) -> Commit {
        let state = match self.order() {
            Ok((ordered, receipt)) => {
                self.store.engine().push_along(ordered.end, ordered.durability);
                State::Waiting(ordered, receipt)
            }
            Err(error) => State::Failed(error),
        };
        Commit { store: self.store.clone(), state: Some(state) }
    }

    /// Submits the batch like [`submit`](Self::submit), if it can be ordered without waiting.
    ///
    /// `None`: it would have to read the disk, for an agent that is not in use or for the revision of
    /// a key; or to wait, for room, for another change of an agent that is under way, or for the pace
    /// that appends are slowed down to. The batch is then as it was, to be tried again, or submitted
    /// where waiting does no harm. [`Agent::view`] brings an agent into memory.
    ///
    /// It takes short locks, and memory for the batch. Like `submit` it does not wait for the batch to
    /// be durable, and a batch that is wrong or in conflict is answered by the [`Commit`].
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// let mut batch = store.batch();
    /// batch.append(&agent, NewEntry::user("one"));
    /// let commit = match batch.try_submit() {
    ///     Some(commit) => commit,
    ///     None => batch.submit(), // where this thread may wait
    /// };
    /// assert_eq!(commit.wait()?.seqs(&agent), 1..2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "None says that nothing was submitted"]
    pub fn try_submit(&mut self) -> Option<Commit> {
        let engine = self.store.engine();
        let ordered = engine.order_now(&mut self.prepared, self.durability).transpose()?;
        self.durability = engine.options.durability;
        let state = match self.ordered(ordered) {
            Ok((ordered, receipt)) => {
                self.store.engine().push_along(ordered.end, ordered.durability);
                State::Waiting(ordered, receipt)
            }
            Err(error) => State::Failed(error),
        };
        Some(Commit { store: self.store.clone(), state: Some(state) })
    }

    fn order(&mut self) -> Result<(Ordered, Receipt)> {
        let engine = self.store.engine();
        let durability = std::mem::replace(&mut self.durability, engine.options.durability);
        let ordered = engine.order(&mut self.prepared, durability);
        self.ordered(ordered)
    }

    /// What its agents got; the batch is empty then.
    fn ordered(&mut self, ordered: Result<Ordered>) -> Result<(Ordered, Receipt)> {
        let outcome = ordered.map(|ordered| {
            let seqs =
                self.prepared.agents.iter().map(|a| (Arc::clone(&a.resident.name), a.seqs.clone()));
            (ordered, Receipt { lsn: ordered.lsn, seqs: seqs.collect() })
        });
        self.prepared.reset();
        outcome
    }

    fn index(&mut self, agent: &Agent) -> Option<usize> {
        if !self.store.is_same(agent.store()) {
            let message = "an agent's handle is of another store";
            let error = Error::new(ErrorKind::InvalidInput, message);
            self.prepared.fail(error.for_agent(agent.name()));
            return None;
        }
        Some(agent.number_in(&mut self.prepared))
    }

    fn push(&mut self, agent: &Agent, change: &Change<'_>) -> &mut Self {
        if let Some(index) = self.index(agent) {
            self.prepared.push(index, change);
        }
        self
    }

    fn fail(&mut self, error: Error) -> &mut Self {
        self.prepared.fail(error);
        self
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("records", &self.prepared.records)
            .field("bytes", &self.prepared.len())
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

/// Checks a state key: 1 to 1024 bytes.
pub(crate) fn check_key(key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "a state key cannot be empty"));
    }
    check_len("state key", key.len(), MAX_KEY)
}

/// What a committed batch got.
#[derive(Clone)]
pub struct Receipt {
    lsn: Lsn,
    seqs: Vec<(Arc<str>, Range<u64>)>,
}

impl Receipt {
    /// The batch's position in the log: the revision of the state that it set. Of an empty batch it
    /// is the end of what it waited for.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The seqs that the agent's appends got; empty if there were none. If the batch also forgot
    /// the agent, those of the new life.
    #[must_use]
    pub fn seqs(&self, agent: &Agent) -> Range<u64> {
        let found = self.seqs.iter().find(|(name, _)| **name == *agent.name());
        found.map_or(0..0, |(_, seqs)| seqs.clone())
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("lsn", &self.lsn).finish_non_exhaustive()
    }
}

/// A submitted batch: a future, or something to [`wait`](Self::wait) for. It is tied to no runtime,
/// and dropping it cancels nothing.
///
/// With [`Maintenance::Manual`](crate::Maintenance::Manual) the poll itself flushes.
#[must_use = "the batch is under way; wait for it to know that it is durable"]
pub struct Commit {
    store: Store,
    state: Option<State>,
}

enum State {
    Waiting(Ordered, Receipt),
    Failed(Error),
}

impl Commit {
    /// Waits until the batch has reached its durability.
    ///
    /// # Errors
    /// Those of [`Batch::commit`].
    pub fn wait(mut self) -> Result<Receipt> {
        match self.state.take() {
            Some(State::Waiting(ordered, receipt)) => {
                self.store.engine().wait(ordered.end, ordered.durability)?;
                Ok(receipt)
            }
            Some(State::Failed(error)) => Err(error),
            None => Err(taken()),
        }
    }
}

fn taken() -> Error {
    Error::new(ErrorKind::InvalidInput, "the outcome of this commit was taken already")
}

impl Future for Commit {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (ordered, receipt) = match self.state.take() {
            Some(State::Waiting(ordered, receipt)) => (ordered, receipt),
            Some(State::Failed(error)) => return Poll::Ready(Err(error)),
            None => return Poll::Ready(Err(taken())),
        };
        let engine = self.store.engine();
        if !engine.has_threads() {
            let outcome = engine.wait(ordered.end, ordered.durability);
            return Poll::Ready(outcome.map(|()| receipt));
        }
        match engine.log.poll(ordered.end, ordered.durability, cx.waker()) {
            Some(outcome) => Poll::Ready(outcome.map(|()| receipt)),
            None => {
                self.state = Some(State::Waiting(ordered, receipt));
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit").finish_non_exhaustive()
    }
}

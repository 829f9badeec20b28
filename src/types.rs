//! The small values that every floor speaks of: positions, kinds, choices.

use std::fmt;
use std::time::Duration;

/// A position in the store-wide log, in bytes.
///
/// One total order of batches: a later batch has a higher lsn. An lsn is never reused, after a
/// crash neither. Zero is before every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position before every batch.
    pub const ZERO: Lsn = Lsn(0);

    /// The position with this number, as [`get`](Self::get) gave it: for one that was kept outside.
    ///
    /// ```
    /// use memlog::Lsn;
    /// assert_eq!(Lsn::new(4096).get(), 4096);
    /// assert!(Lsn::ZERO < Lsn::new(1));
    /// ```
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Lsn(number)
    }

    /// The position's number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an entry is: one of the well-known kinds below, or the user's own from 256 on.
///
/// Kinds that this version does not know read back as they were written.
///
/// ```
/// use memlog::Kind;
/// assert_eq!(Kind::new(3), Kind::ASSISTANT);
/// assert_eq!(Kind::new(4711).get(), 4711);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(u16);

impl Kind {
    /// Instructions that frame the conversation.
    pub const SYSTEM: Kind = Kind(1);
    /// A message of the user.
    pub const USER: Kind = Kind(2);
    /// A message of the model.
    pub const ASSISTANT: Kind = Kind(3);
    /// The model asks for a tool to be run.
    pub const TOOL_CALL: Kind = Kind(4);
    /// What a tool answered.
    pub const TOOL_RESULT: Kind = Kind(5);
    /// Something the agent perceived that nobody said.
    pub const OBSERVATION: Kind = Kind(6);
    /// A digest that stands for earlier entries.
    pub const SUMMARY: Kind = Kind(7);

    /// The kind with this number. Numbers below 256 are memlog's, the rest the user's own.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Kind(number)
    }

    /// The kind's number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The name of a well-known kind, as the command line prints it.
    pub(crate) const fn well_known(self) -> Option<&'static str> {
        Some(match self {
            Kind::SYSTEM => "system",
            Kind::USER => "user",
            Kind::ASSISTANT => "assistant",
            Kind::TOOL_CALL => "tool_call",
            Kind::TOOL_RESULT => "tool_result",
            Kind::OBSERVATION => "observation",
            Kind::SUMMARY => "summary",
            _ => return None,
        })
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.well_known() {
            Some(name) => f.write_str(name),
            None => write!(f, "kind {}", self.0),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What has happened to a batch when its commit returns.
///
/// The order is by strength: `Buffer < Write < Sync`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// In memory. Written within the store's flush interval, synced within its sync interval.
    Buffer,
    /// With the operating system: survives a killed process, not a power failure.
    Write,
    /// On stable storage: survives a power failure.
    #[default]
    Sync,
}

/// When checksums of data read are verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verify {
    /// At the first touch of each piece of data since the store was opened.
    #[default]
    FirstTouch,
    /// At every read: the record, and the index of the extent that it is in, 4 bytes for each of the
    /// extent's entries. An iterator verifies that index when it comes to the extent.
    Always,
}

/// Who does the background work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Maintenance {
    /// Threads of the store: they write buffered batches, sync, prepare segments and seal them.
    #[default]
    Background,
    /// No threads at all: the work is done inside the calls that need it, or by
    /// [`Store::sync`](crate::Store::sync).
    Manual,
}

/// How much of a timeline is kept. What falls outside is gone from every view opened afterwards.
///
/// Limits combine: an entry stays only while every limit allows it. A floor once raised stays,
/// so loosening a policy revives nothing.
///
/// ```
/// use memlog::Retention;
/// use std::time::Duration;
/// let week = Retention::new().max_entries(10_000).max_age(Duration::from_secs(7 * 86_400));
/// # let _ = week;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Retention {
    pub(crate) max_entries: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
    /// Milliseconds.
    pub(crate) max_age: Option<u64>,
}

impl Retention {
    /// Keeps everything.
    #[must_use]
    pub const fn new() -> Self {
        Retention { max_entries: None, max_bytes: None, max_age: None }
    }

    /// Keeps the latest `n` entries.
    #[must_use]
    pub const fn max_entries(mut self, n: u64) -> Self {
        self.max_entries = Some(n);
        self
    }

    /// Keeps the latest entries whose payloads and meta together take at most `n` bytes.
    #[must_use]
    pub const fn max_bytes(mut self, n: u64) -> Self {
        self.max_bytes = Some(n);
        self
    }

    /// Drops the longest prefix of entries that are all older than `age` (to the millisecond).
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// How many entries are kept, if that is bounded.
    ///
    /// ```
    /// use memlog::Retention;
    /// let policy = Retention::new().max_entries(100);
    /// assert_eq!((policy.entries(), policy.bytes(), policy.age()), (Some(100), None, None));
    /// ```
    #[must_use]
    pub const fn entries(&self) -> Option<u64> {
        self.max_entries
    }

    /// How many bytes of payload and meta are kept, if that is bounded.
    #[must_use]
    pub const fn bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    /// The age from which entries are dropped, if that is bounded. To the millisecond.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.max_age.map(Duration::from_millis)
    }
}

/// How much one agent has stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Live entries: from the floor to the last one.
    pub entries: u64,
    /// Payload and meta of the live entries, in bytes.
    pub live_bytes: u64,
    /// Payload and meta of entries of this life that are dead and still on disk, in bytes.
    pub dead_bytes: u64,
}

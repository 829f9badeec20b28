//! What a view hands out: entries and values of state, read in place.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::error::Result;
use crate::format::record::{self, Append, Change, JOINED, LOST, REDACTED};
use crate::segment::Segment;
use crate::types::{Kind, Lsn};

/// An entry of a timeline, read in place. All its bytes were verified.
///
/// It borrows from its view. Bind it before taking its payload:
///
/// ```
/// use memlog::{NewEntry, Store};
/// # let dir = tempfile::tempdir()?;
/// # let store = Store::open(dir.path().join("mem"))?;
/// # let agent = store.agent("a")?;
/// # agent.append(NewEntry::user("hello"))?;
/// let view = agent.view()?;
/// for entry in view.latest(50) {
///     let entry = entry?;
///     let payload = entry.payload();
///     assert_eq!(payload, b"hello");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct Entry<'v> {
    seq: u64,
    append: Append<'v>,
    /// Redacted or expired: payload and meta are not shown.
    hidden: bool,
    segment: &'v Arc<Segment>,
    offset: u64,
}

impl<'v> Entry<'v> {
    /// Reads the entry whose record lies at `offset`. `verified`: its checksum was looked at. A record
    /// that stands for a lost entry is one if the loss `is_accepted`.
    #[inline]
    pub(crate) fn read(
        segment: &'v Arc<Segment>,
        offset: u64,
        seq: u64,
        verified: bool,
        is_accepted: impl FnOnce() -> bool,
    ) -> Result<Self> {
        let append = segment.entry(offset, verified)?;
        if append.flags & LOST != 0 {
            if is_accepted() {
                return Ok(Entry::blank(segment, seq));
            }
            return Err(segment.damage(offset, "the entry was lost, and a repair kept its place"));
        }
        let hidden = append.flags & REDACTED != 0;
        Ok(Entry { seq, append, hidden, segment, offset })
    }

    /// An entry that was lost, once that is accepted: nothing is left of it but its seq.
    pub(crate) fn blank(segment: &'v Arc<Segment>, seq: u64) -> Self {
        let append = Append {
            at: 0,
            kind: Kind::new(0),
            weight: 0,
            flags: LOST | REDACTED,
            expires: None,
            meta: &[],
            payload: &[],
        };
        Entry { seq, append, hidden: true, segment, offset: 0 }
    }

    /// Hides payload and meta.
    pub(crate) fn hide(&mut self) {
        self.hidden = true;
    }

    pub(crate) fn at_ms(&self) -> u64 {
        self.append.at
    }

    pub(crate) fn expires_ms(&self) -> Option<u64> {
        self.append.expires
    }

    /// Bytes of payload and meta on disk, hidden or not.
    pub(crate) fn stored_len(&self) -> u64 {
        (self.append.meta.len() + self.append.payload.len()) as u64
    }

    /// The stored fields, hidden or not.
    pub(crate) fn stored(&self) -> &Append<'v> {
        &self.append
    }

    /// The entry's number in its agent's timeline, from 1.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When it happened, to the millisecond: as given, or what the wall clock said when it was
    /// appended.
    #[must_use]
    pub fn at(&self) -> SystemTime {
        let since = Duration::from_millis(self.append.at);
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.append.kind
    }

    /// The user's cost of the entry.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.append.weight
    }

    /// Whether it belongs with the entry before it.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.append.flags & JOINED != 0
    }

    /// Whether payload and meta were taken out, by redaction or by the entry's own expiry.
    #[must_use]
    pub fn is_redacted(&self) -> bool {
        self.hidden
    }

    /// From when on views show it as redacted, to the millisecond, as
    /// [`NewEntry::expires_at`](crate::NewEntry::expires_at) was given; `None` if it does not expire.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path().join("mem"))?;
    /// # let agent = store.agent("a")?;
    /// let hour = SystemTime::now() + Duration::from_secs(3600);
    /// agent.append(NewEntry::user("my code is 1234").expires_at(hour))?;
    /// let view = agent.view()?;
    /// let expires = view.get(1)?.and_then(|entry| entry.expires_at());
    /// assert!(expires.is_some_and(|time| time <= hour));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.append.expires?))
    }

    /// The user's own bytes beside the payload; empty if it was redacted.
    #[must_use]
    pub fn meta(&self) -> &'v [u8] {
        if self.hidden { &[] } else { self.append.meta }
    }

    /// The payload, where the store has it; empty if it was redacted.
    #[must_use]
    pub fn payload(&self) -> &'v [u8] {
        if self.hidden { &[] } else { self.append.payload }
    }

    /// The payload as text.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub fn text(&self) -> std::result::Result<&'v str, std::str::Utf8Error> {
        std::str::from_utf8(self.payload())
    }

    /// The payload as bytes that live on after the view, without a copy. They pin their segment: a
    /// purge reports it.
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path().join("mem"))?;
    /// # let agent = store.agent("a")?;
    /// # agent.append(NewEntry::user("hello"))?;
    /// let view = agent.view()?;
    /// let bytes = view.get(1)?.map(|entry| entry.payload_bytes());
    /// drop(view);
    /// assert_eq!(bytes.as_deref(), Some(&b"hello"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        let payload = self.payload();
        let offset = self.offset.saturating_add(record::payload_at(&self.append));
        pinned(self.segment, offset, payload)
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("seq", &self.seq)
            .field("kind", &self.append.kind)
            .field("payload_len", &self.payload().len())
            .field("meta_len", &self.meta().len())
            .field("redacted", &self.hidden)
            .finish_non_exhaustive()
    }
}

/// A value of an agent's state.
#[derive(Clone)]
pub struct StateValue {
    key: Box<str>,
    value: Bytes,
    revision: Lsn,
}

impl StateValue {
    /// Reads the value whose record lies at `offset`.
    pub(crate) fn read(
        segment: &Arc<Segment>,
        offset: u64,
        key: &str,
        revision: u64,
    ) -> Result<Self> {
        let (value, kept) = match segment.record(offset)?.change {
            Change::Set { key: found, value } if found == key => (value, false),
            Change::Kept { key: found, revision: told, value }
                if found == key && told == revision =>
            {
                (value, true)
            }
            _ => {
                let reason = "the index leads to a record that is not this key's";
                return Err(segment.damage(offset, reason));
            }
        };
        let value_at = offset.saturating_add(record::value_at(key, kept));
        let value = pinned(segment, value_at, value);
        Ok(StateValue { key: key.into(), value, revision: Lsn(revision) })
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value, where the store has it.
    #[must_use]
    pub fn value(&self) -> &Bytes {
        &self.value
    }

    /// The lsn of the batch that wrote it: what
    /// [`Batch::expect_revision`](crate::Batch::expect_revision) takes.
    #[must_use]
    pub fn revision(&self) -> Lsn {
        self.revision
    }
}

impl fmt::Debug for StateValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateValue")
            .field("key", &self.key)
            .field("value_len", &self.value.len())
            .field("revision", &self.revision)
            .finish()
    }
}

/// A slice of a segment that keeps the segment mapped.
struct Pinned {
    segment: Arc<Segment>,
    offset: u64,
    len: usize,
}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        self.segment.bytes(self.offset, self.len).unwrap_or_default()
    }
}

fn pinned(segment: &Arc<Segment>, offset: u64, bytes: &[u8]) -> Bytes {
    if bytes.is_empty() {
        return Bytes::new();
    }
    Bytes::from_owner(Pinned { segment: Arc::clone(segment), offset, len: bytes.len() })
}

//! A batch in the making: encoded at once, placed when it is ordered.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::resident::Resident;
use crate::catalog::version::Version;
use crate::commit::queue::RUN;
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::{self, HeaderBuilder, MAX_FRAME};
use crate::format::record::{self, Change};
use crate::options::MAX_BATCH;

/// An agent that a batch touches or expects something of.
pub(crate) struct PreparedAgent {
    pub(crate) resident: Arc<Resident>,
    /// Where its head lies in the frame header.
    pub(crate) head_at: usize,
    pub(crate) expect_next: Option<u64>,
    /// The lsn of the last batch that touched it, for whoever has its turn.
    pub(crate) expect_last: Option<u64>,
    /// While the batch is placed: as it is before it, and then what becomes of it.
    pub(crate) after: Option<Version>,
    /// The seqs that its appends got.
    pub(crate) seqs: std::ops::Range<u64>,
}

/// What a batch expects of a key before it.
pub(crate) struct ExpectedRevision {
    pub(crate) agent: usize,
    pub(crate) key: Box<str>,
    /// 0: absent.
    pub(crate) revision: u64,
}

/// A batch in the making.
pub(crate) struct Prepared {
    pub(crate) header: HeaderBuilder,
    pub(crate) body: Vec<u8>,
    pub(crate) digest: u32,
    pub(crate) records: u32,
    /// The engine's now, if the batch is ordered in the same breath as it was encoded.
    pub(crate) time: Option<u64>,
    pub(crate) agents: Vec<PreparedAgent>,
    pub(crate) revisions: Vec<ExpectedRevision>,
    /// Some change is checked against the timeline: a truncation or a redaction.
    pub(crate) checked: bool,
    /// Nothing but entries.
    pub(crate) appends_only: bool,
    /// Nothing but changes that take away: they may use the room kept back for a full disk.
    pub(crate) erasing: bool,
    /// Something is forgotten.
    pub(crate) forgets: bool,
    /// The prefix to forget, if the batch is one that forgets a prefix.
    pub(crate) prefix: Option<Box<str>>,
    /// The first thing that was wrong with it.
    error: Option<Error>,
    /// The agents' numbers by the hashes of their names, once there are many.
    index: BTreeMap<u64, usize>,
}

/// The most that a record takes beside its own bytes.
const RECORD_ROOM: usize = 64;
/// With more agents than this a batch finds them by an index.
const FEW: usize = 16;

impl Prepared {
    pub(crate) fn new() -> Self {
        Prepared {
            header: HeaderBuilder::start(Vec::new(), None),
            body: Vec::new(),
            digest: 0,
            records: 0,
            time: None,
            agents: Vec::new(),
            revisions: Vec::new(),
            checked: false,
            appends_only: true,
            erasing: true,
            forgets: false,
            prefix: None,
            error: None,
            index: BTreeMap::new(),
        }
    }

    /// Empties it. Buffers that are not too large are kept.
    pub(crate) fn reset(&mut self) {
        let small = |buffer: &Vec<u8>| buffer.capacity() <= RUN;
        let header = std::mem::take(&mut self.header).into_buffer();
        self.header = HeaderBuilder::start(Some(header).filter(small).unwrap_or_default(), None);
        if !small(&self.body) {
            self.body = Vec::new();
        }
        self.body.clear();
        (self.digest, self.records) = (0, 0);
        (self.checked, self.appends_only) = (false, true);
        (self.erasing, self.forgets) = (true, false);
        self.agents.clear();
        self.revisions.clear();
        self.index.clear();
        self.prefix = None;
        self.error = None;
        self.time = None;
    }

    /// The keys that it changes, with the numbers of their agents.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            loop {
                let len = record::padded_len(&self.body, at).ok()?;
                let record = record::decode(self.body.get(at..at.checked_add(len)?)?).ok()?;
                at = at.checked_add(len)?;
                if let Change::Set { key, .. } | Change::Kept { key, .. } | Change::Unset { key } =
                    record.change
                {
                    return Some((usize::try_from(record.agent).ok()?, key));
                }
            }
        })
    }

    /// True if nothing would be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Notes what is wrong with the batch; the first error is the one that its commit answers.
    pub(crate) fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    /// The first thing that was wrong.
    pub(crate) fn take_error(&mut self) -> Option<Error> {
        self.error.take()
    }

    /// The number of this agent in the batch; `resident` is asked for it if it is not in there yet.
    pub(crate) fn agent(
        &mut self,
        name: &Arc<str>,
        hash: u64,
        resident: impl FnOnce() -> Arc<Resident>,
    ) -> usize {
        let known = |a: &PreparedAgent| {
            let known = &a.resident;
            known.hash == hash && (Arc::ptr_eq(&known.name, name) || *known.name == **name)
        };
        let found = if self.agents.len() <= FEW {
            self.agents.iter().rposition(known)
        } else {
            match self.index.get(&hash).filter(|i| self.agents.get(**i).is_some_and(known)) {
                Some(index) => Some(*index),
                // Two names of one hash are all but impossible, and only slow.
                None if self.index.contains_key(&hash) => self.agents.iter().rposition(known),
                None => None,
            }
        };
        if let Some(index) = found {
            return index;
        }
        let head_at = self.header.add_agent(name);
        self.agents.push(PreparedAgent {
            resident: resident(),
            head_at,
            expect_next: None,
            expect_last: None,
            after: None,
            seqs: 1..1,
        });
        let index = self.agents.len() - 1;
        if index == FEW {
            self.index = self.agents.iter().map(|a| a.resident.hash).zip(0..).collect();
        } else if index > FEW {
            self.index.insert(hash, index);
        }
        index
    }

    /// Encodes a change.
    pub(crate) fn push(&mut self, agent: usize, change: &Change<'_>) {
        if self.error.is_some() {
            return;
        }
        let size = match change {
            Change::Append(a) => a.meta.len() + a.payload.len(),
            Change::Set { key, value } | Change::Kept { key, value, .. } => key.len() + value.len(),
            _ => 0,
        };
        if self.body.len().saturating_add(size) > MAX_BATCH {
            return self.fail(too_large());
        }
        let agent = u32::try_from(agent).unwrap_or(u32::MAX);
        self.body.reserve(size + RECORD_ROOM);
        let plain = record::encode(&mut self.body, agent, change);
        self.digest = frame::fold(self.digest, plain);
        self.records += 1;
        self.appends_only &= matches!(change, Change::Append(_));
        match change {
            Change::Append(_) | Change::Set { .. } | Change::Kept { .. } => self.erasing = false,
            Change::Truncate { .. } | Change::Redact { .. } => self.checked = true,
            Change::Forget | Change::ForgetPrefix { .. } | Change::KeptPrefix { .. } => {
                self.forgets = true;
            }
            Change::Unset { .. } | Change::Policy(_) => {}
        }
    }

    /// Bytes of the frame.
    pub(crate) fn len(&self) -> usize {
        self.header.len() + self.body.len()
    }

    /// Whether the whole of it is within the limit.
    pub(crate) fn check_len(&self) -> Result<()> {
        if self.len() > MAX_FRAME { Err(too_large()) } else { Ok(()) }
    }
}

fn too_large() -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("the encoded batch would be above {MAX_BATCH} bytes: split it"),
    )
}

/// The records of a body that was just encoded.
pub(crate) struct Records<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    pub(crate) fn of(body: &'a [u8]) -> Self {
        Records { body, at: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (usize, record::Record<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let here = self.at;
        let len = record::padded_len(self.body, here).ok()?;
        self.at = here + len;
        let bytes = self.body.get(here..self.at)?;
        record::decode(bytes).ok().map(|record| (here, record))
    }
}

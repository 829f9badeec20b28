//! What clients did and were answered.

use std::ops::Range;

/// A call: who made it, when it began and when its answer was there.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) client: usize,
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A batch that was committed, with the seqs that it got for each agent that it appended to.
    Wrote { lsn: u64, batch: Draft, seqs: Vec<(usize, Range<u64>)> },
    /// A batch of which an expectation did not hold, or that named a seq that there is not.
    Refused { batch: Draft, why: Refusal },
    /// All of these agents were forgotten at once.
    ForgotPrefix { lsn: u64, agents: Vec<usize> },
    /// A view of one agent was made; what it shows may have been read later.
    Read { agent: usize, seen: Seen },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Conflict,
    OutOfRange,
}

/// What a batch was to do, in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    pub(crate) expects: Vec<(usize, Expect)>,
    pub(crate) changes: Vec<(usize, Change)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Expect {
    Next(u64),
    /// The revision of a key; 0: it is not there.
    Revision(&'static str, u64),
}

/// A change; what it writes is known by a number that is used once.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Append(u64),
    Set(&'static str, u64),
    Unset(&'static str),
    Truncate(u64),
    Redact(u64),
    Forget,
}

/// What a view shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) floor: u64,
    pub(crate) next: u64,
    /// Some of the entries, or all; without a number: redacted.
    pub(crate) entries: Vec<(u64, Option<u64>)>,
    /// All keys: revision and number.
    pub(crate) state: Vec<(&'static str, u64, u64)>,
}

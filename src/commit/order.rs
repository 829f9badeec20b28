//! Ordering a batch: the short moment under the one lock in which its expectations are checked and
//! it gets its lsn, its seqs and its place. Nothing here touches the disk.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::catalog::dead;
use crate::catalog::part::{Part, Spot, StateLog};
use crate::catalog::resident::{Progress, Resident};
use crate::catalog::roll::Roll;
use crate::catalog::version::{Applied, Place, Version};
use crate::commit::Engine;
use crate::commit::costs::{TABLE_ENTRY, fresh_bound, table_bytes};
use crate::commit::log::Queue;
use crate::commit::pace::Scarce;
use crate::commit::prepared::{Prepared, Records};
use crate::commit::queue::{Group, Run, Waiting};
use crate::commit::worker::Worker;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Era;
use crate::format::footer::Bound;
use crate::format::frame::{FRAME_LEN, HeaderBuilder, LINK_LEN, Link};
use crate::format::record::{Append, Change};
use crate::segment::Segment;
use crate::segment::writer::{FIRST_FRAME, LogFile};
use crate::sync::Mutex;
use crate::types::{Durability, Lsn};

/// Room in each log segment that only changes which take away may use: so that a full disk can be
/// relieved.
pub(crate) const RESERVE: u64 = 32 << 10;
/// Segments that may wait for their footers; with more, appenders wait.
const MAX_SEALING: usize = 4;

/// What the order lock guards.
pub(crate) struct Order {
    pub(crate) active: LogFile,
    /// Offset in the active segment at which the next frame goes.
    pub(crate) tail: u64,
    /// The most that the active segment's footer may take.
    pub(crate) bound: Bound,
    /// Bytes that are surely left for entries of agents that the active segment knows, and for what
    /// they take of its footer, as long as the tail is at `left_at`.
    pub(super) left: u64,
    pub(super) left_at: u64,
    /// Memory that the active segment's table of agents takes, roughly.
    pub(crate) table_bytes: usize,
    /// The agents with changes in the active segment.
    pub(crate) touched: Roll,
    /// The prefixes forgotten in the active segment.
    pub(crate) prefixes: Vec<(u64, Box<str>)>,
    /// Bytes of the bodies of the frames in the active segment.
    pub(crate) record_bytes: u64,
    /// Bytes of content that died in the segment and that its footer will not tell of.
    pub(crate) hidden: u64,
    /// Where the last frame with records in it ends.
    pub(crate) content_end: u64,
    /// When the first batch of the active segment was ordered, in ms since the epoch; 0: none was.
    pub(crate) begun: u64,
    pub(crate) spares: VecDeque<LogFile>,
    /// Keys of agents that were forgotten in the active segment: whoever seals it lets go of them.
    pub(crate) forgotten_states: Vec<Arc<Mutex<StateLog>>>,
    /// What the last switches left to be sealed, oldest first.
    pub(crate) sealing: VecDeque<Arc<Sealing>>,
    /// How many bytes the segment before the active one took before it was left.
    pub(crate) last_filled: u64,
    /// Most of that one was left unused: its table of agents was full.
    pub(crate) left_early: bool,
    pub(crate) closed: bool,
    queue: Waiting,
}

/// A full log segment that waits for its footer.
pub(crate) struct Sealing {
    pub(crate) file: LogFile,
    /// Offset at which its frames end.
    pub(crate) data_end: u64,
    /// Bytes of the bodies of its frames.
    pub(crate) record_bytes: u64,
    /// Bytes of content that died in the segment and that its footer will not tell of.
    pub(crate) hidden: u64,
    /// The lsn behind the first frame of the next segment, which says where this one ends.
    pub(crate) linked: u64,
    /// Nobody but whoever seals takes it. `None`: the segment is sealed.
    pub(crate) touched: Mutex<Option<Roll>>,
    pub(crate) prefixes: Vec<(u64, Box<str>)>,
    /// The same agents, for listings, which do not wait for a seal that holds `touched`.
    pub(crate) roll: Roll,
    /// Keys of agents that were forgotten in it, which may be very many.
    pub(crate) forgotten_states: Mutex<Vec<Arc<Mutex<StateLog>>>>,
}

/// A batch that has its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ordered {
    pub(crate) lsn: Lsn,
    /// The lsn at which it ends.
    pub(crate) end: u64,
    /// The durability that it waits for, which may be stronger than what it asked for.
    pub(crate) durability: Durability,
    /// How scarce room is for the batches behind it.
    pub(crate) scarce: Scarce,
}

/// What became of an attempt to order.
pub(crate) enum Attempt {
    Ordered(Ordered),
    /// The active segment, with this id, has no room: the batch needs one of at least this size.
    NoRoom {
        active: u64,
        room: u64,
    },
    /// Something must be read from footers first.
    Unknown,
    /// Somebody has the turn of this agent, and is waited for.
    Held(Arc<Resident>),
    /// An expectation did not hold; the error is to be answered when the batch that it conflicts
    /// with is published.
    Refused(Error, Option<(u64, Durability)>),
}

impl Order {
    pub(crate) fn new(active: LogFile, tail: u64) -> Self {
        let content_end = active.segment.base + tail;
        Order {
            active,
            tail,
            bound: Bound::new(),
            left: 0,
            left_at: 0,
            table_bytes: 0,
            touched: Roll::default(),
            prefixes: Vec::new(),
            record_bytes: 0,
            hidden: 0,
            content_end,
            begun: 0,
            spares: VecDeque::new(),
            forgotten_states: Vec::new(),
            sealing: VecDeque::new(),
            last_filled: 0,
            left_early: false,
            closed: false,
            queue: Waiting::default(),
        }
    }

    /// Says what frames are to tell of when they were ordered.
    pub(crate) fn set_era(&mut self, era: Era) {
        self.queue.set_era(era);
    }

    /// Counts what the active segment held of an agent before the store was opened.
    pub(crate) fn note_adopted(&mut self, name: &str, version: &Version) {
        self.bound.add_agent(name.len());
        self.table_bytes += table_bytes(name);
        for part in version.parts() {
            (0..part.count).for_each(|_| self.bound.add_entry());
            part.redacted().iter().for_each(|_| self.bound.add_redaction());
            part.policy().iter().for_each(|_| self.bound.add_policy());
            part.states("", u64::MAX, |key, _| self.bound.add_state(key.len()));
            self.table_bytes += part.count * TABLE_ENTRY;
        }
    }

    /// The lsn at which the next frame goes.
    pub(crate) fn end(&self) -> u64 {
        self.active.segment.base + self.tail
    }

    /// Makes the next spare the active segment. The one so far is left to be sealed.
    pub(crate) fn switch(&mut self, time: u64) -> bool {
        if self.sealing.len() >= MAX_SEALING {
            return false;
        }
        let Some(next) = self.spares.pop_front() else { return false };
        let link = Link { id: self.active.segment.id, end: self.end() };
        let file = std::mem::replace(&mut self.active, next);
        let data_end = std::mem::replace(&mut self.tail, FIRST_FRAME);
        let record_bytes = std::mem::take(&mut self.record_bytes);
        let hidden = std::mem::take(&mut self.hidden);
        self.left_early = data_end < file.segment.capacity / 4;
        self.last_filled = data_end;
        self.bound = Bound::new();
        self.left_at = 0;
        self.table_bytes = 0;
        self.begun = 0;
        let header = HeaderBuilder::start(Vec::new(), Some(link)).finish(0, 0, 0);
        self.enqueue(&header, &mut Vec::new(), time);
        let touched = std::mem::take(&mut self.touched);
        self.sealing.push_back(Arc::new(Sealing {
            file,
            data_end,
            record_bytes,
            hidden,
            linked: self.end(),
            roll: touched.clone(),
            touched: Mutex::new(Some(touched)),
            prefixes: std::mem::take(&mut self.prefixes),
            forgotten_states: Mutex::new(std::mem::take(&mut self.forgotten_states)),
        }));
        true
    }

    pub(super) fn scarce(&self) -> Scarce {
        let ready = !self.spares.is_empty() && self.sealing.len() < MAX_SEALING;
        let half = self.active.segment.capacity / 2;
        Scarce { used: if ready { 0 } else { self.tail.saturating_sub(half) }, half }
    }

    /// The agents with changes in unsealed segments.
    pub(crate) fn rolls(&self) -> Vec<Roll> {
        let sealing = self.sealing.iter().map(|job| job.roll.clone());
        sealing.chain([self.touched.clone()]).collect()
    }

    /// The lsn at which the oldest unsealed segment begins.
    pub(crate) fn oldest_unsealed(&self) -> u64 {
        let oldest = self.sealing.front().map_or(&self.active, |job| &job.file);
        oldest.segment.base
    }

    /// Queues a frame at the tail.
    fn enqueue(&mut self, header: &[u8], body: &mut Vec<u8>, time: u64) {
        let len = (header.len() + body.len()) as u64;
        self.record_bytes += body.len() as u64;
        self.queue.push(&self.active, self.tail, header, body, time);
        self.tail += len;
    }

    /// Queues the frame of a batch whose agents have their places.
    pub(super) fn enqueue_batch(&mut self, batch: &mut Prepared, time: u64) {
        let header = batch.header.complete(batch.body.len(), batch.digest, batch.records);
        self.enqueue(header, &mut batch.body, time);
        self.content_end = self.end();
        if self.begun == 0 {
            self.begun = time;
        }
    }

    /// Queues a frame without records: it bears witness of how far the log is durable.
    pub(crate) fn enqueue_witness(&mut self, time: u64) -> bool {
        if self.room_behind(FRAME_LEN as u64, &self.bound, true).is_none() {
            return false;
        }
        let header = HeaderBuilder::start(Vec::new(), None).finish(0, 0, 0);
        self.enqueue(&header, &mut Vec::new(), time);
        true
    }
}

impl Queue for Engine {
    fn take(&self, into: &mut Vec<Group>) {
        self.order.lock().queue.take(into);
    }

    fn end(&self) -> u64 {
        self.order.lock().end()
    }

    fn recycle(&self, runs: Vec<Run>) {
        self.order.lock().queue.keep(runs);
    }
}

impl Engine {
    /// Tries to give the batch its place. After `Ordered` the batch is only good for what its agents got.
    pub(crate) fn try_order(
        &self,
        batch: &mut Prepared,
        durability: Durability,
    ) -> Result<Attempt> {
        // What was just encoded was encoded now; a batch that is tried again is ordered later.
        let time = batch.time.take().unwrap_or_else(|| self.now());
        let mut guard = self.order.lock();
        let order = &mut *guard;
        if order.closed {
            return Err(closed());
        }
        if let Some(error) = self.log.poisoned() {
            return Err(error);
        }
        let progress = self.log.progress();
        let attempt = match self.order_at_once(order, batch, durability, progress, time) {
            Some(ordered) => Attempt::Ordered(ordered),
            None => self.order_checked(order, batch, durability, progress, time)?,
        };
        drop(guard);
        // A barrier orders nothing.
        if let Attempt::Ordered(ordered) = &attempt
            && !batch.is_empty()
        {
            self.ordered_something(ordered.end);
        }
        Ok(attempt)
    }

    /// Checks what the batch expects of each of its agents, and gives it its place.
    fn order_checked(
        &self,
        order: &mut Order,
        batch: &mut Prepared,
        durability: Durability,
        progress: Progress,
        time: u64,
    ) -> Result<Attempt> {
        let mut raised = if batch.forgets { Durability::Sync } else { durability };
        let (mut table, mut new_names) = (0, Vec::new());
        let mut nexts = Vec::new();
        for index in 0..batch.agents.len() {
            match self.check_agent(batch, index, progress, order.active.segment.id)? {
                Checked::Fine { next, strongest, first } => {
                    if batch.checked {
                        nexts.push(next);
                    }
                    raised = raised.max(strongest.unwrap_or(Durability::Buffer));
                    if first && let Some(agent) = batch.agents.get(index) {
                        new_names.push(agent.resident.name.len());
                        table += table_bytes(&agent.resident.name);
                    }
                }
                Checked::Unknown => return Ok(Attempt::Unknown),
                Checked::Held(resident) => return Ok(Attempt::Held(resident)),
                Checked::Conflict(error, wait) => return Ok(Attempt::Refused(error, wait)),
            }
        }
        if batch.checked
            && let Err((error, index)) = check_seqs(batch, nexts)
        {
            // What it was held against may not be published yet.
            let resident = batch.agents.get(index).map(|agent| &agent.resident);
            let wait = resident.and_then(|resident| resident.lock().last_pending());
            return Ok(Attempt::Refused(error, wait));
        }
        if batch.is_empty() {
            // A barrier: it waits for everything ordered before it.
            let end = order.end();
            let lsn = Lsn(end);
            let scarce = Scarce::default();
            return Ok(Attempt::Ordered(Ordered { lsn, end, durability: raised, scarce }));
        }
        if !order.take_room(batch, &new_names, table) {
            let link = (FRAME_LEN + LINK_LEN) as u64;
            let room = FIRST_FRAME + link + batch.len() as u64 + fresh_bound(batch) + RESERVE;
            return Ok(Attempt::NoRoom { active: order.active.segment.id, room });
        }
        Ok(Attempt::Ordered(self.place(order, batch, raised, time)))
    }

    /// Checks what the batch expects of one agent. What it finds holds for as long as the order lock
    /// is held.
    fn check_agent(
        &self,
        batch: &mut Prepared,
        index: usize,
        progress: Progress,
        active: u64,
    ) -> Result<Checked> {
        let Some(agent) = batch.agents.get_mut(index) else { return Ok(Checked::Unknown) };
        let resident = &agent.resident;
        let mut slot = resident.lock();
        if !slot.is_known() {
            return Ok(Checked::Unknown);
        }
        self.catalog.apply_prefixes(resident, &mut slot);
        slot.settle(progress);
        let latest = slot.latest();
        if slot.is_held() && agent.expect_last.is_none() {
            return Ok(Checked::Held(Arc::clone(resident)));
        }
        if agent.expect_last.is_some_and(|lsn| lsn != latest.lsn) {
            let error = conflict("the agent was changed".into());
            return Ok(Checked::Conflict(error.with_agent(&resident.name), None));
        }
        if let Some(expected) = agent.expect_next
            && expected != latest.head.next
        {
            let error =
                conflict(format!("the next seq is {} and not {expected}", latest.head.next));
            return Ok(Checked::Conflict(error.with_agent(&resident.name), slot.last_pending()));
        }
        for expected in batch.revisions.iter().filter(|r| r.agent == index) {
            let Some(found) = latest
                .revision(slot.base(), &expected.key)
                .map_err(|e| e.for_agent(&resident.name))?
            else {
                return Ok(Checked::Unknown);
            };
            if found != expected.revision {
                let error = conflict(format!(
                    "the revision of state {:?} is {found} and not {}",
                    expected.key, expected.revision
                ));
                return Ok(Checked::Conflict(
                    error.with_agent(&resident.name),
                    slot.last_pending(),
                ));
            }
        }
        Ok(Checked::Fine {
            next: latest.head.next,
            strongest: slot.strongest(progress),
            first: slot.is_first_in(active),
        })
    }

    /// Gives the batch its place, its seqs and its lsn, and queues it.
    fn place(
        &self,
        order: &mut Order,
        batch: &mut Prepared,
        raised: Durability,
        time: u64,
    ) -> Ordered {
        let body_at = order.tail + batch.header.len() as u64;
        let (lsn, end) = (order.end(), order.end() + batch.len() as u64);
        if let Some(prefix) = batch.prefix.take() {
            self.catalog.forget_prefix(&prefix, lsn, self.log.durable());
            order.prefixes.push((lsn, prefix));
            // What it ended in unsealed segments is booked as a byte, which gives it a date.
            let sealing = order.sealing.iter().map(|job| &job.file);
            sealing.chain([&order.active]).for_each(|file| file.segment.add_dead(1, time));
            self.note_death(false, time);
        }
        let scarce = order.scarce();
        let ordered = Ordered { lsn: Lsn(lsn), end, durability: raised, scarce };
        self.place_agents(order, batch, ordered, body_at, time);
        batch.header.set_durability(match raised {
            Durability::Buffer => 0,
            Durability::Write => 1,
            Durability::Sync => 2,
        });
        order.enqueue_batch(batch, time);
        ordered
    }

    /// Counts a death; compaction is woken for the first one since it last looked.
    fn note_death(&self, booked: bool, time: u64) {
        if self.catalog.deaths.note(booked, time) {
            // What cannot be woken now is woken by the next death.
            let _ = self.wake(Worker::Compaction);
        }
    }

    /// Notes an entry's expiry; compaction is woken for the first one of a segment.
    pub(super) fn note_expiry(&self, segment: &Segment, date: u64) {
        if segment.note_expiry(date) {
            let _ = self.wake(Worker::Compaction);
        }
    }

    /// Queues each agent as it is after the batch.
    fn place_agents(
        &self,
        order: &mut Order,
        batch: &mut Prepared,
        ordered: Ordered,
        body_at: u64,
        time: u64,
    ) {
        let segment = Arc::clone(&order.active.segment);
        let Ordered { lsn: Lsn(lsn), end, durability, .. } = ordered;
        for agent in &mut batch.agents {
            let resident = &agent.resident;
            let version = resident.lock().latest().clone();
            batch.header.set_head(agent.head_at, &version.head);
            agent.seqs = version.head.next..version.head.next;
            agent.after = Some(version);
        }
        let records = Records::of(&batch.body);
        for (ordinal, (at, record)) in records.enumerate() {
            let agent = usize::try_from(record.agent).ok().and_then(|i| batch.agents.get_mut(i));
            let Some(agent) = agent else { continue };
            if let (Some(version), Some(change)) = (&mut agent.after, Applied::of(&record.change)) {
                let spot = Spot::at(body_at + at as u64);
                let ordinal = ordinal as u64;
                match record.change {
                    Change::Append(Append { expires: Some(date), .. }) => {
                        self.note_expiry(&segment, date);
                    }
                    Change::Policy(_) => {
                        segment.note_policy();
                        // Under a stricter one entries die at once.
                        self.note_death(false, time);
                    }
                    _ => {}
                }
                if !matches!(change, Applied::Append(..) | Applied::Policy(_)) {
                    order.hidden += dead::hidden_by(version, &change, segment.id);
                    let base = agent.resident.lock().base().cloned();
                    let known = dead::account(version, base.as_ref(), &change, time);
                    self.note_death(known, time);
                }
                if matches!(change, Applied::Forget) {
                    order.forgotten_states.extend(version.parts().filter_map(Part::state_log));
                }
                version.apply(&change, &Place { segment: &segment, spot, lsn, ordinal });
                if version.head.life == 0 {
                    // What is appended behind a forgetting begins a new life.
                    agent.seqs.start = 1;
                }
            }
        }
        for agent in &mut batch.agents {
            let Some(after) = agent.after.take() else { continue };
            let resident = &agent.resident;
            agent.seqs.end = after.head.next;
            if resident.lock().queue(&segment, end, durability, after) {
                order.touched.push(Arc::clone(resident));
            }
        }
    }
}

enum Checked {
    Fine { next: u64, strongest: Option<Durability>, first: bool },
    Unknown,
    Held(Arc<Resident>),
    Conflict(Error, Option<(u64, Durability)>),
}

fn conflict(message: String) -> Error {
    Error::new(ErrorKind::Conflict, format!("{message}: read the agent again and retry"))
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store was closed")
}

/// Goes through the batch's changes, to see that each names a seq that there is. `nexts` are the
/// next seqs of its agents before the batch. The error comes with the agent's place in the batch.
fn check_seqs(batch: &Prepared, mut nexts: Vec<u64>) -> std::result::Result<(), (Error, usize)> {
    for (_, record) in Records::of(&batch.body) {
        let index = usize::try_from(record.agent).unwrap_or(usize::MAX);
        let Some(next) = nexts.get_mut(index) else { continue };
        let (seq, end, what) = match record.change {
            Change::Append(_) => {
                *next += 1;
                continue;
            }
            Change::Forget => {
                *next = 1;
                continue;
            }
            Change::Truncate { seq } => (seq, *next, "truncate before"),
            Change::Redact { seq } => (seq, *next - 1, "redact"),
            _ => continue,
        };
        if seq == 0 || seq > end {
            let name = batch.agents.get(index).map_or("", |a| &a.resident.name);
            let message = format!("cannot {what} seq {seq}: the next seq is {next}");
            let error = Error::new(ErrorKind::OutOfRange, message).with_agent(name).with_seq(seq);
            return Err((error, index));
        }
    }
    Ok(())
}

//! Sealing: a full log segment gets its footer, and its line in the manifest says so.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::part::{Part, StateSlot};
use crate::catalog::resident::Resident;
use crate::catalog::roll::Roll;
use crate::commit::Engine;
use crate::commit::order::Sealing;
use crate::commit::worker::Worker;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Fault;
use crate::format::codec::u32_at;
use crate::format::footer::{
    Builder, BuiltPages, Footer, PagesBuilder, SegmentFacts, StateChange, Summary, TRAILER_LEN,
};
use crate::format::head::Head;
use crate::format::manifest::{Listed, Manifest, Role};
use crate::manifest::Failure;
use crate::segment::{Names, Segment};

/// What is kept of an agent for an unsealed segment is given back after its seal, of so few agents
/// at a time:
const FEW: usize = 512;
/// so long apart, unless there is more to seal. Appenders have made that memory, in small blocks; an
/// allocator may leave it to the next of them to tidy up what others gave back, who took 17 ms behind
/// all of a segment.
const REST: Duration = Duration::from_micros(200);

impl Engine {
    /// Seals everything that waits for it, in the order of the log.
    pub(crate) fn seal_waiting(&self) -> Result<()> {
        while self.seal_next()? {}
        Ok(())
    }

    /// Seals the oldest segment that waits for it. False if none does.
    pub(crate) fn seal_next(&self) -> Result<bool> {
        let Some(job) = self.order.lock().sealing.front().cloned() else { return Ok(false) };
        self.seal(&job)?;
        Ok(true)
    }

    /// Seals what a switch left. Nobody waits for it: readers find its entries in memory
    /// until its footer stands for them.
    ///
    /// # Errors
    /// If nothing is lost and the seal can be tried again. Other failures poison the log.
    pub(crate) fn seal(&self, job: &Arc<Sealing>) -> Result<()> {
        let Some(writing) = &self.writing else { return Ok(()) };
        let segment = &job.file.segment;
        let since = self.io.clock.monotonic();
        // With the first frame of the next segment, which says where this one ends: bytes of the
        // footer can then never be mistaken for a torn tail.
        self.log.flush_to(job.linked, self)?;
        let contents = Contents {
            data_end: job.data_end,
            record_bytes: job.record_bytes,
            hidden: job.hidden,
            prefixes: &job.prefixes,
            run: None,
        };
        let mut touched = job.touched.lock();
        let agents = touched.as_ref().ok_or_else(|| self.sealed_twice(segment))?;
        let agents = self.agents_at_end(segment, agents);
        let footer = build_footer(self.store, segment, segment.capacity, contents, agents)?;
        job.file.write(&[IoSlice::new(&footer.bytes)], footer.trailer.footer_at)?;
        job.file.sync().inspect_err(|cause| self.log.poison(cause))?;
        let check = footer_check(&footer);
        let (durable, recorded) = (self.log.durable(), self.recorded_time());
        let active = self.order.lock().active.segment.id;
        let forgotten = self.catalog.forgotten(durable);
        let replaced = writing.manifest.replace(|manifest| {
            list_sealed(manifest, segment.id, job.data_end, check);
            list_active(manifest, active);
            manifest.durable = durable;
            (manifest.time, manifest.claim) = (recorded.time, recorded.claim);
            manifest.forgotten = forgotten;
            self.note_dead(manifest);
        });
        self.heed(replaced)?;
        segment.load_footer(Some(check)).inspect_err(|cause| self.log.poison(cause))?;
        let generation = self.catalog.install(|sealed, generation| {
            segment.set_sealed_at(generation);
            sealed.push(Arc::clone(segment));
        });
        let pieces = touched.take().into_iter().flat_map(Roll::into_pieces);
        let rested = self.let_agents_rest(segment, generation, pieces);
        drop(touched);
        drop(std::mem::take(&mut *job.forgotten_states.lock()));
        job.file.punch(job.data_end, footer.trailer.footer_at);
        self.order.lock().sealing.pop_front();
        // Had somebody waited, there would have been no rest.
        self.note_turnover(since + rested);
        let _ = self.wake(Worker::Compaction);
        // One more than was sealed: so those that were sealed before an opening are all known in time.
        self.catalog.sift(2);
        Ok(())
    }

    /// Lets go of what was kept of agents for a segment that is sealed now. Gives the time rested
    /// meanwhile.
    fn let_agents_rest(
        &self,
        segment: &Arc<Segment>,
        generation: u64,
        pieces: impl Iterator<Item = Vec<Arc<Resident>>>,
    ) -> Duration {
        let mut rested = Duration::ZERO;
        for piece in pieces {
            for few in piece.chunks(FEW) {
                for resident in few {
                    // Let go of behind the lock: its keys may be very many.
                    let _part;
                    let mut slot = resident.lock();
                    slot.settle(self.progress());
                    _part = slot.sealed(segment, generation, &resident.name);
                    if self.catalog.has_exchanged_since(generation) {
                        // Perhaps this very segment: its footer is in nobody's way.
                        slot.drop_base();
                    }
                    self.catalog.charge(resident, &mut slot);
                }
                if few.len() == FEW && self.may_rest() {
                    self.io.clock.sleep(REST);
                    rested += REST;
                }
            }
            let at_rest = piece.len();
            drop(piece);
            self.catalog.let_go(at_rest, self.progress());
        }
        rested
    }

    /// Whether the thread that seals has time: nothing else waits to be sealed.
    fn may_rest(&self) -> bool {
        let order = self.order.lock();
        self.has_threads() && order.sealing.len() <= 1 && !order.closed
    }

    /// Writes down how much of each sealed segment is dead, as far as that is known.
    pub(crate) fn note_dead(&self, manifest: &mut Manifest) {
        let set = self.catalog.segments();
        let known: BTreeMap<u64, (u64, u64)> =
            set.sealed.iter().map(|segment| (segment.id, segment.dead())).collect();
        for line in &mut manifest.segments {
            if let Some(dead) = known.get(&line.id) {
                (line.dead, line.dead_since) = *dead;
            }
        }
    }

    /// The agents touched in a segment, as they were at its end, in the order of their names.
    ///
    /// One by one: of a hundred thousand the table would be tens of megabytes, which an allocator
    /// gives back to the system in one go, while appenders wait for it.
    fn agents_at_end(
        &self,
        segment: &Segment,
        touched: &Roll,
    ) -> impl Iterator<Item = Result<AgentAtEnd>> {
        touched.in_order().into_iter().map(|resident| {
            let at_end = resident.lock().at_end_of(segment.id);
            let (head, part) = at_end.ok_or_else(|| self.sealed_twice(segment))?;
            Ok(AgentAtEnd {
                name: Arc::clone(&resident.name),
                hash: resident.hash,
                head,
                part,
                pages: None,
            })
        })
    }

    /// Nobody knows any more how an agent was at the end of the segment, or which were touched in it:
    /// it was sealed before, and a footer without them would hide what is there.
    fn sealed_twice(&self, segment: &Segment) -> Error {
        let path = segment.path().display();
        let cause = Error::new(ErrorKind::Io, format!("{path} was to be sealed twice"));
        self.log.poison(&cause);
        self.log.poisoned().unwrap_or(cause)
    }

    /// Turns the failure of a manifest's replacement into an error; one of unknown outcome poisons.
    pub(crate) fn heed(&self, outcome: std::result::Result<(), Failure>) -> Result<()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(Failure::Unchanged(error)) => Err(error),
            Err(Failure::Unknown(error)) => {
                self.log.poison(&error);
                // Not an error that passes, like that of a full disk, even if it was one.
                Err(self.log.poisoned().unwrap_or(error))
            }
        }
    }
}

/// Marks a listed segment as sealed.
pub(crate) fn list_sealed(manifest: &mut Manifest, id: u64, data_end: u64, check: u32) {
    for line in manifest.segments.iter_mut().filter(|line| line.id == id) {
        line.role = Role::Sealed;
        line.data_end = data_end;
        line.footer_check = check;
    }
}

/// Marks a listed segment as the active one.
pub(crate) fn list_active(manifest: &mut Manifest, id: u64) {
    let unsealed = |line: &&mut Listed| line.id == id && line.role == Role::Spare;
    for line in manifest.segments.iter_mut().filter(unsealed) {
        line.role = Role::Active;
    }
}

/// The check that ties a footer to its line of the manifest: that of its trailer.
pub(crate) fn footer_check(footer: &Footer) -> u32 {
    let trailer = footer.bytes.len().saturating_sub(TRAILER_LEN);
    u32_at(&footer.bytes, trailer.saturating_add(12)).unwrap_or(0)
}

/// An agent as it was at the end of a segment.
pub(crate) struct AgentAtEnd {
    pub(crate) name: Arc<str>,
    pub(crate) hash: u64,
    pub(crate) head: Head,
    /// What the segment holds of the life.
    pub(crate) part: Option<Part>,
    /// Its state index, if that is not to be made from the part.
    pub(crate) pages: Option<BuiltPages>,
}

/// What the footer of a segment is made from, its agents aside.
pub(crate) struct Contents<'a> {
    /// Offset at which its frames end.
    pub(crate) data_end: u64,
    /// Bytes of the bodies of its frames.
    pub(crate) record_bytes: u64,
    /// Bytes of content that died in the segment and that no block tells of.
    pub(crate) hidden: u64,
    pub(crate) prefixes: &'a [(u64, Box<str>)],
    /// What a run covers; `None`: it is a log segment.
    pub(crate) run: Option<Run>,
}

/// What a run's footer says that its frames do not.
pub(crate) struct Run {
    pub(crate) generation: u64,
    pub(crate) lsns: Range<u64>,
    pub(crate) cleaned: u64,
    /// The names that it covers, if they are known.
    pub(crate) names: Option<Names>,
}

/// Makes the footer of a segment whose file ends at `file_len`; its agents come in the order of
/// their names.
pub(crate) fn build_footer(
    store: u128,
    segment: &Segment,
    file_len: u64,
    contents: Contents<'_>,
    agents: impl Iterator<Item = Result<AgentAtEnd>>,
) -> Result<Footer> {
    let Contents { data_end, record_bytes, hidden, prefixes, run } = contents;
    let first_lsn = segment.base.saturating_add(crate::segment::writer::FIRST_FRAME);
    let log = first_lsn..segment.base.saturating_add(data_end);
    let lsns = run.as_ref().map_or(log, |run| run.lsns.clone());
    let mut builder = Builder::new(SegmentFacts {
        store,
        segment: segment.id,
        salt: segment.salt,
        first_lsn,
        data_end,
        generation: run.as_ref().map_or(0, |run| run.generation),
        lowest_lsn: lsns.start,
        highest_lsn: lsns.end,
        max_at: 0,
        record_bytes,
        cleaned: run.as_ref().map_or(0, |run| run.cleaned),
        hidden,
    });
    let damage = |fault: Fault| segment.damage(data_end, fault.0);
    if let Some((from, to)) = run.as_ref().and_then(|run| run.names.as_ref()) {
        builder.set_bounds(from, to.as_deref()).map_err(damage)?;
    }
    for agent in agents {
        add(&mut builder, &agent?).map_err(damage)?;
    }
    for (lsn, prefix) in prefixes {
        builder.add_prefix(*lsn, prefix).map_err(damage)?;
    }
    builder.finish(file_len).map_err(damage)
}

/// Adds one agent to a footer.
pub(crate) fn add(builder: &mut Builder, agent: &AgentAtEnd) -> std::result::Result<(), Fault> {
    let head = agent.head;
    let part = agent.part.as_ref().filter(|_| head.life != 0);
    let (offsets, groups) = part.map_or_else(Default::default, |p| (p.spots(), p.groups()));
    let made = part.filter(|part| part.has_state()).map(pages_of).transpose()?.flatten();
    let state = made.as_ref().or(agent.pages.as_ref()).filter(|_| head.life != 0);
    let summary = Summary {
        name: &agent.name,
        head,
        first_seq: part.map_or(head.next, |p| p.first),
        offsets: &offsets,
        groups: &groups,
        state,
        redacted: part.map_or(&[], |p| p.redacted()),
        policy: part.and_then(|p| p.policy()),
    };
    builder.add(&summary, agent.hash)
}

/// The state index of a part: the last change of each key.
fn pages_of(part: &Part) -> std::result::Result<Option<BuiltPages>, Fault> {
    let mut builder = PagesBuilder::default();
    let mut pushed = Ok(());
    part.states("", u64::MAX, |key, slot| {
        let StateSlot { revision, spot, len } = slot;
        if pushed.is_ok() {
            pushed = builder.push(&StateChange { key, tag: 0, revision, offset: spot.0, len });
        }
    });
    pushed?;
    builder.finish()
}

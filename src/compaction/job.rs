//! One compaction: segments in, runs out, in steps, and nothing changes before the last of them.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::commit::Engine;
use crate::compaction::around::Around;
use crate::compaction::fate::{Knowledge, Living};
use crate::compaction::merge::{Merge, Told};
use crate::compaction::plan::{self, Output};
use crate::compaction::writer::{Covered, RunWriter};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Fault;
use crate::format::head::Head;
use crate::format::manifest::{Listed, Role};
use crate::format::record::{Append, Change, LOST, REDACTED};
use crate::segment::writer::{FIRST_FRAME, LogFile, new_listed};
use crate::segment::{Segment, file_name};
use crate::types::Kind;

/// A hole in a timeline that no real history leaves is not filled up.
const LARGEST_HOLE: u64 = 1 << 20;
/// What a job writes is soon written again where at least this part of what lives is dead.
const DYING: u64 = 8;

/// What a step is told after each piece of work, in bytes: it may slow it down, or stop the job
/// with an error.
pub(crate) type Manners<'m> = &'m mut dyn FnMut(u64) -> Result<()>;

/// While one agent is written, `Manners` are asked after so many bytes at the latest, and the entry
/// or value that they end in: a close waits for no more than that.
const BEAT: u64 = 64 << 10;

/// Asks `Manners` as the writing of an agent goes on.
struct Beat<'m> {
    manners: Manners<'m>,
    /// Bytes that they were told of.
    told: u64,
}

impl Beat<'_> {
    /// The agent has taken `bytes` so far: tells of them once there are more than `least` new ones.
    fn at(&mut self, bytes: u64, least: u64) -> Result<()> {
        let new = bytes.saturating_sub(self.told);
        if new < least {
            return Ok(());
        }
        self.told = bytes;
        (self.manners)(new)
    }
}

/// A compaction under way.
pub(crate) struct Job {
    engine: Arc<Engine>,
    inputs: Vec<Arc<Segment>>,
    around: Around,
    erases: bool,
    hull: Range<u64>,
    generation: u64,
    relieves: bool,
    /// Deaths counted before the job began.
    deaths: u64,
    cleaned: u64,
    time: u64,
    /// The runs that are not done, and the room that all of them were to need.
    outputs: Vec<Output>,
    need: u64,
    merge: Merge,
    places: Vec<(usize, u64)>,
    /// The next agent, whose name is behind the output that is written.
    waiting: Option<Box<str>>,
    writer: Option<RunWriter>,
    done: Vec<(LogFile, Listed)>,
    /// Files made so far, to be removed if the job comes to nothing.
    made: Vec<PathBuf>,
    /// Agents of which something was left out.
    pub(crate) erased: Vec<String>,
    /// What of the inputs lived and what was dead when it began, and what has been handled.
    live: u64,
    dead: u64,
    handled: u64,
}

/// What a finished job did.
#[derive(Default)]
pub(crate) struct Installed {
    /// The files of the inputs.
    pub(crate) replaced: Vec<PathBuf>,
    pub(crate) written: Vec<Arc<Segment>>,
    pub(crate) erased: Vec<String>,
}

impl Job {
    /// Plans the compaction of these sealed segments.
    ///
    /// # Errors
    /// What reading footers met, or what `manners` answered.
    pub(crate) fn plan(
        engine: &Arc<Engine>,
        ids: &[u64],
        shape: Shape,
        manners: Manners<'_>,
    ) -> Result<Job> {
        let set = engine.catalog.segments();
        let inputs = set.sealed.iter().filter(|segment| ids.contains(&segment.id));
        let inputs: Vec<Arc<Segment>> = inputs.cloned().collect();
        let hull = hull(&inputs);
        let around = Around::of(&set, hull.clone()).exactly(shape.erases);
        // The inputs are about to be read whole.
        inputs.iter().for_each(|input| input.will_need(0..input.capacity));
        let cleaned = engine.log.durable();
        let time = engine.confirmed_now();
        let content = inputs.iter().filter_map(|input| crate::compaction::content_of(input));
        let content = content.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let knowledge = Knowledge { engine, around: &around };
        let outputs = plan::outputs(&knowledge, &set, &inputs, &shape, manners)?;
        Ok(Job {
            engine: Arc::clone(engine),
            merge: Merge::new(&inputs)?,
            inputs,
            around,
            erases: shape.erases,
            hull,
            generation: shape.generation.max(1),
            relieves: shape.relieves,
            deaths: engine.catalog.deaths.all(),
            cleaned,
            time,
            need: outputs.iter().map(|output| output.capacity).sum(),
            outputs,
            places: Vec::new(),
            waiting: None,
            writer: None,
            done: Vec::new(),
            made: Vec::new(),
            erased: Vec::new(),
            live: content.0,
            dead: content.1,
            handled: 0,
        })
    }

    /// How much that is dead it has left behind, as far as it has got.
    pub(crate) fn dropped(&self) -> u64 {
        let part = u128::from(self.dead) * u128::from(self.handled.min(self.live));
        u64::try_from(part / u128::from(self.live.max(1))).unwrap_or(self.dead)
    }

    /// The ids of its inputs.
    pub(crate) fn input_ids(&self) -> Vec<u64> {
        self.inputs.iter().map(|input| input.id).collect()
    }

    /// How many deaths had been counted when it began, and when that was, in ms since the epoch.
    pub(crate) fn deaths_before(&self) -> (u64, u64) {
        (self.deaths, self.time)
    }

    /// The room that its outputs need until the inputs are gone.
    pub(crate) fn need(&self) -> u64 {
        self.need
    }

    /// Whether it relieves a full disk.
    pub(crate) fn relieves(&self) -> bool {
        self.relieves
    }

    /// How much of that it has taken so far.
    pub(crate) fn taken(&self) -> u64 {
        let done: u64 = self.done.iter().map(|(file, _)| file.segment.disk_len()).sum();
        done + self.writer.as_ref().map_or(0, RunWriter::len)
    }

    /// How much of it it may still take.
    pub(crate) fn left(&self) -> u64 {
        let capacities: u64 = self.outputs.iter().map(|output| output.capacity).sum();
        capacities.saturating_sub(self.writer.as_ref().map_or(0, RunWriter::len))
    }

    /// Goes on until about `budget` bytes were handled. True when there is nothing left but to
    /// install.
    pub(crate) fn step(&mut self, budget: u64, manners: Manners<'_>) -> Result<bool> {
        let mut handled = 0;
        while handled < budget {
            let name = match self.waiting.take() {
                Some(name) => Some(name),
                None => self.merge.next(&mut self.places)?,
            };
            let Some(name) = name else {
                while !self.outputs.is_empty() {
                    self.finish_output(manners)?;
                }
                return Ok(true);
            };
            let behind = |output: &Output| output.to.as_ref().is_some_and(|to| *name >= **to);
            if self.outputs.first().is_some_and(behind) {
                self.waiting = Some(name);
                self.finish_output(manners)?;
                continue;
            }
            let mut beat = Beat { manners: &mut *manners, told: 0 };
            let did = self.agent(&name, &mut beat)?;
            beat.at(did, 0)?;
            handled += did;
            self.handled += did;
        }
        Ok(false)
    }

    /// Writes what lives of one agent; gives about how many bytes that was.
    fn agent(&mut self, name: &str, beat: &mut Beat<'_>) -> Result<u64> {
        let told = self.merge.told_by(&self.places)?;
        // What was resident when the outputs were planned may have been sealed and let go of since:
        // its footer tells it now. Whoever knows less than the plan did keeps more than it has room
        // for.
        let living = loop {
            let set = self.engine.catalog.segments();
            if set.generation != self.around.generation() {
                self.around = Around::of(&set, self.hull.clone()).exactly(self.erases);
            }
            let knowledge = Knowledge { engine: &self.engine, around: &self.around };
            let living = knowledge.living(name, &told, &mut *beat.manners)?;
            if self.engine.catalog.segments().generation == self.around.generation() {
                break living;
            }
        };
        let left_out = living.leaves_out(&told);
        if left_out {
            self.erased.push(name.to_owned());
        }
        let Some(head) = living.head else { return Ok(64) };
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let Some(output) = self.outputs.first() else { return Ok(64) };
                let maker = Maker {
                    engine: &self.engine,
                    hull: &self.hull,
                    generation: self.generation,
                    cleaned: self.cleaned,
                    time: self.time,
                    lasts: self.dead < self.live / DYING,
                };
                none.insert(maker.create(output, &mut self.made)?)
            }
        };
        let before = writer.len();
        if write_agent(writer, name, head, &living, &told, self.time, beat)? && !left_out {
            self.erased.push(name.to_owned());
        }
        Ok(writer.len().saturating_sub(before) + 64)
    }

    /// Finishes the run that is written, if there is anything in it, and goes to the next.
    fn finish_output(&mut self, manners: Manners<'_>) -> Result<()> {
        if !self.outputs.is_empty() {
            self.outputs.remove(0);
        }
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        if self.around.has_older() {
            let lines = self.engine.catalog.forgotten(self.cleaned);
            let lines = lines.iter().filter(|line| self.hull.contains(&line.lsn));
            writer.add_prefixes(lines.map(|line| (line.lsn, line.prefix.as_str())))?;
        }
        let (file, listed) = writer.finish(manners)?;
        verify(&file.segment, manners)?;
        self.done.push((file, listed));
        Ok(())
    }

    /// Puts the outputs in the place of the inputs. After an error the inputs are what they were,
    /// unless the store is poisoned.
    pub(crate) fn install(mut self) -> Result<Installed> {
        let engine = Arc::clone(&self.engine);
        if engine.writing.is_none() {
            return Ok(Installed::default());
        }
        // What was left out because of later batches is gone only if those are there to stay.
        let end = engine.order.lock().end();
        engine.log.flush_to(end, &*engine)?;
        let gone: Vec<u64> = self.inputs.iter().map(|input| input.id).collect();
        let lines: Vec<Listed> = self.done.iter().map(|(_, listed)| *listed).collect();
        let (durable, recorded) = (engine.log.durable(), engine.recorded_time());
        // From here on either manifest may be in force: the files of both stay.
        let made = std::mem::take(&mut self.made);
        let heeded = engine.replace_relieving(|manifest| {
            manifest.segments.retain(|line| !gone.contains(&line.id));
            manifest.segments.extend_from_slice(&lines);
            manifest.obsolete.extend(&gone);
            engine.note_dead(manifest);
            manifest.durable = manifest.durable.max(durable);
            manifest.time = manifest.time.max(recorded.time);
            manifest.claim = recorded.claim;
        });
        if heeded.is_err() && engine.log.poisoned().is_none() {
            // Nothing has changed.
            self.made = made;
        }
        heeded?;
        let written: Vec<Arc<Segment>> =
            self.done.iter().map(|(file, _)| Arc::clone(&file.segment)).collect();
        engine.catalog.exchange(&self.inputs, &written);
        let replaced = self.inputs.iter().map(|input| input.path().to_owned()).collect();
        let erased = std::mem::take(&mut self.erased);
        // Or it would itself be what holds the room that the unlinking is to give back.
        drop(self);
        // What cannot be unlinked now is listed as such, and a later sweep tries again.
        let _ = engine.sweep_obsolete();
        Ok(Installed { replaced, written, erased })
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for path in &self.made {
            // Unlisted runs mean nothing: what is not removed now goes at the next opening.
            let _ = self.engine.io.fs.remove(path);
        }
    }
}

/// How a job's outputs are to be.
pub(crate) struct Shape {
    /// A run is cut at this length.
    pub(crate) run_bytes: u64,
    /// One of at least this length is cut at the bounds of other runs too.
    pub(crate) cut_from: u64,
    pub(crate) generation: u64,
    /// It erases: outputs begin and end at names of agents that they hold, and keep no tombstone or
    /// unset for which older segments hold nothing.
    pub(crate) erases: bool,
    /// It is to relieve a full disk: the room of the reserve is for it.
    pub(crate) relieves: bool,
}

/// What the runs of a job have in common.
struct Maker<'j> {
    engine: &'j Engine,
    hull: &'j Range<u64>,
    generation: u64,
    cleaned: u64,
    time: u64,
    lasts: bool,
}

impl Maker<'_> {
    fn create(&self, output: &Output, made: &mut Vec<PathBuf>) -> Result<RunWriter> {
        let engine = self.engine;
        let closed = || Error::new(ErrorKind::ReadOnly, "the store takes no writes");
        let writing = engine.writing.as_ref().ok_or_else(closed)?;
        let id = writing.manifest.take_id();
        let salt = engine.io.random.next();
        let listed = Listed {
            run: true,
            ..new_listed(id, salt, self.hull.start, output.capacity, Role::Sealed)
        };
        // What an attempt that failed could not take away again is in nobody's list.
        let path = engine.dir.join(file_name(id, true));
        let _ = engine.io.fs.remove(&path);
        let owner = engine.owner();
        let file =
            LogFile::create(&engine.io, &engine.dir, &owner, &listed, engine.options.verify)?;
        made.push(path);
        let covered = Covered {
            lsns: self.hull.clone(),
            from: output.from.clone(),
            to: output.to.clone(),
            generation: self.generation,
            cleaned: self.cleaned,
        };
        let writer = RunWriter::new(file, listed, owner, self.time, &covered)?;
        Ok(if self.lasts { writer.lasting() } else { writer })
    }
}

/// True if entries lost what was in them.
fn write_agent(
    writer: &mut RunWriter,
    name: &str,
    head: Head,
    living: &Living<'_>,
    told: &[Told<'_>],
    time: u64,
    beat: &mut Beat<'_>,
) -> Result<bool> {
    let before = writer.reached();
    let first = living.entries.first().map_or(head.next, |(_, seqs)| seqs.start);
    writer.begin(name, Head { next: first.max(head.floor), ..head });
    if head.life == 0 {
        writer.push(&Change::Forget)?;
        writer.end()?;
        return Ok(false);
    }
    if let Some(policy) = living.policy {
        writer.push(&Change::Policy(policy))?;
    }
    for seq in living.redacted.range(..first) {
        writer.push(&Change::Redact { seq: *seq })?;
    }
    let (mut next, mut hollowed) = (first, false);
    for (index, seqs) in &living.entries {
        let Some(told) = told.get(*index) else { continue };
        lose(writer, next..seqs.start)?;
        for seq in seqs.clone() {
            hollowed |= write_entry(writer, told, seq, living.redacted.contains(&seq), time)?;
            beat.at(writer.reached().saturating_sub(before), BEAT)?;
        }
        next = seqs.end;
    }
    lose(writer, next..head.next)?;
    living.each_state(told, &mut *beat.manners, &mut |index, change| match told.get(index) {
        Some(told) => write_value(writer, told, change.key, change.revision, change.offset),
        None => Ok(()),
    })?;
    beat.at(writer.reached().saturating_sub(before), BEAT)?;
    // Every agent has a record, or nobody would look at it.
    writer.push(&Change::Truncate { seq: head.floor })?;
    writer.end()?;
    Ok(hollowed)
}

/// True if the entry lost what was in it.
fn write_entry(
    writer: &mut RunWriter,
    told: &Told<'_>,
    seq: u64,
    redacted: bool,
    time: u64,
) -> Result<bool> {
    let Some(append) = told.entry(seq)? else {
        if redacted {
            // The loss was accepted: it reads as any redacted entry from here on.
            writer.push(&Change::Append(Append { flags: REDACTED, ..BLANK }))?;
        } else {
            lose(writer, seq..seq + 1)?;
        }
        return Ok(false);
    };
    let expired = append.expires.is_some_and(|expires| expires <= time);
    let is_hollow = append.flags & REDACTED != 0;
    let kept = if redacted || expired || is_hollow {
        let flags = append.flags | REDACTED;
        Append { flags, expires: None, meta: &[], payload: &[], ..append }
    } else {
        append
    };
    writer.push(&Change::Append(kept))?;
    Ok((redacted || expired) && !is_hollow)
}

fn write_value(
    writer: &mut RunWriter,
    told: &Told<'_>,
    key: &str,
    revision: u64,
    offset: u32,
) -> Result<()> {
    if offset == 0 {
        return writer.push(&Change::Unset { key });
    }
    let offset = u64::from(offset) * crate::format::ALIGN as u64;
    let segment = told.segment;
    let record = segment.record(offset).map_err(|e| e.with_agent(told.block.name()))?;
    match record.change {
        Change::Set { key: found, value } | Change::Kept { key: found, value, .. }
            if found == key =>
        {
            writer.push(&Change::Kept { key, revision, value })
        }
        _ => Err(segment.damage(offset, "the index leads to a record that is not this key's")),
    }
}

/// Keeps the place of entries that no segment has.
fn lose(writer: &mut RunWriter, seqs: Range<u64>) -> Result<()> {
    if seqs.end.saturating_sub(seqs.start) > LARGEST_HOLE {
        return Ok(());
    }
    let lost = Append { flags: LOST, ..BLANK };
    seqs.into_iter().try_for_each(|_| writer.push(&Change::Append(lost)))
}

/// An entry of which nothing is left but its place.
const BLANK: Append<'static> = Append {
    at: 0,
    kind: Kind::new(0),
    weight: 0,
    flags: 0,
    expires: None,
    meta: &[],
    payload: &[],
};

/// Reads a finished run again: every frame and every structure of its footer.
fn verify(segment: &Segment, manners: Manners<'_>) -> Result<()> {
    let damage = |at: u64, Fault(reason): Fault| segment.damage(at, reason);
    let end = segment.published();
    let frames = segment.published_frames();
    let mut at = FIRST_FRAME;
    while at < end {
        manners(0)?;
        let place = usize::try_from(at).unwrap_or(usize::MAX);
        at += frames.frame(place).map_err(|fault| damage(at, fault))?.header.len() as u64;
    }
    segment.check_footer_with(&mut || manners(0))
}

/// The lsns that these segments cover together.
pub(crate) fn hull(segments: &[Arc<Segment>]) -> Range<u64> {
    let from = segments.iter().map(|segment| segment.lowest_lsn()).min().unwrap_or(0);
    let to = segments.iter().map(|segment| segment.end_lsn()).max().unwrap_or(0);
    from..to
}

/// The first name that a sealed segment covers, and the one behind the last; `None`: there is none.
pub(crate) fn names(segment: &Segment) -> Result<(Box<str>, Option<Box<str>>)> {
    let index = segment.run_index()?;
    Ok(index.map_or_else(Default::default, |index| (index.from.clone(), index.to.clone())))
}

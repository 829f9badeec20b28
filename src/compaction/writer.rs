//! Writing a run: agent after agent in the order of their names, then the footer.

use std::io::IoSlice;
use std::sync::Arc;

use crate::catalog::version::{Applied, Place, Version};
use crate::catalog::{hash_name, name_seed, part::Spot};
use crate::commit::seal::{AgentAtEnd, add, footer_check};
use crate::compaction::job::Manners;
use crate::error::Result;
use crate::format::Fault;
use crate::format::footer::{Builder, PagesBuilder, SegmentFacts, StateChange};
use crate::format::frame::{self, AGENT_LEN, FRAME_LEN, HeaderBuilder};
use crate::format::head::Head;
use crate::format::manifest::{Listed, Role};
use crate::format::record::{self, Append, Change};
use crate::format::{align, frame::Place as FramePlace};
use crate::segment::writer::{FIRST_FRAME, LogFile, Owner};

/// Bodies above this are finished.
const BODY: usize = 1 << 20;
/// Bytes that are written at a time, at multiples of it: no more, since the system copies a large
/// write without letting go of the processor, and appenders want it. Where memory for the file is
/// slow to come, 2 MiB keep it for milliseconds.
const PIECE: u64 = 128 << 10;
/// A run that is to last is written in pieces that begin and end at multiples of this. Where large
/// pages of memory are as long, the system then keeps each piece in one, and maps it as one: a hot
/// read at a random place takes little more than half of the time that it takes in small pages.
const LARGE_PAGE: u64 = 2 << 20;
/// Bytes written between two syncs: none of them takes long then, nor do the log's in between.
const SYNC_EACH: u64 = 8 << 20;
/// Bytes of a footer that are written at a time.
const FOOTER_PIECE: usize = 1 << 20;

/// What a run is to say of itself.
pub(crate) struct Covered {
    /// The lsns that its job's inputs cover.
    pub(crate) lsns: std::ops::Range<u64>,
    /// Names from here on,
    pub(crate) from: Box<str>,
    /// up to here, itself excluded; `None`: all behind it.
    pub(crate) to: Option<Box<str>>,
    pub(crate) generation: u64,
    /// What was dead by knowledge below this lsn is left out.
    pub(crate) cleaned: u64,
}

/// A run in the making.
pub(crate) struct RunWriter {
    file: LogFile,
    listed: Listed,
    owner: Owner,
    time: u64,
    builder: Builder,
    /// Offset in the file of what is in `out`.
    at: u64,
    out: Vec<u8>,
    /// Bytes that are written at a time, at multiples of it.
    piece: u64,
    unsynced: u64,
    agent: Option<OpenAgent>,
    record_bytes: u64,
}

/// The agent whose records are being written.
struct OpenAgent {
    name: Arc<str>,
    /// What becomes of it, its state aside.
    version: Version,
    frame: OpenFrame,
    /// Its state, which comes in the order of the keys.
    state: PagesBuilder,
}

#[derive(Default)]
struct OpenFrame {
    header: HeaderBuilder,
    body: Vec<u8>,
    digest: u32,
    records: u32,
}

impl RunWriter {
    /// Begins a run in a file that was just created.
    pub(crate) fn new(
        file: LogFile,
        listed: Listed,
        owner: Owner,
        time: u64,
        covered: &Covered,
    ) -> Result<Self> {
        let segment = &file.segment;
        let mut builder = Builder::new(SegmentFacts {
            store: owner.store,
            segment: segment.id,
            salt: segment.salt,
            first_lsn: segment.base.saturating_add(FIRST_FRAME),
            generation: covered.generation,
            lowest_lsn: covered.lsns.start,
            highest_lsn: covered.lsns.end,
            cleaned: covered.cleaned,
            ..SegmentFacts::default()
        });
        let bounds = builder.set_bounds(&covered.from, covered.to.as_deref());
        bounds.map_err(|Fault(reason)| segment.damage(0, reason))?;
        Ok(RunWriter {
            file,
            listed,
            owner,
            time,
            builder,
            at: FIRST_FRAME,
            out: Vec::new(),
            piece: PIECE,
            unsynced: 0,
            agent: None,
            record_bytes: 0,
        })
    }

    /// The run is going to be read more often than written: it is laid out for that in memory.
    pub(crate) fn lasting(self) -> Self {
        RunWriter { piece: LARGE_PAGE, ..self }
    }

    /// Bytes of the file so far, the footer aside.
    pub(crate) fn len(&self) -> u64 {
        self.at + self.out.len() as u64
    }

    /// The same, with what is not in a frame yet: how far the writing has got.
    pub(crate) fn reached(&self) -> u64 {
        self.len() + self.agent.as_ref().map_or(0, |agent| agent.frame.body.len() as u64)
    }

    /// Begins an agent, whose name is above those before. `head` is as it is before its first
    /// record here.
    pub(crate) fn begin(&mut self, name: &str, head: Head) {
        let name: Arc<str> = Arc::from(name);
        let version = Version::at_rest(head);
        let frame = OpenFrame::start(Some((&name, &head)), Vec::new());
        self.agent = Some(OpenAgent { name, version, frame, state: PagesBuilder::default() });
    }

    /// Adds a record of the agent. Those of its state come in the order of their keys.
    pub(crate) fn push(&mut self, change: &Change<'_>) -> Result<()> {
        let start = self.len();
        let segment = Arc::clone(&self.file.segment);
        let Some(OpenAgent { name, version, frame, state }) = &mut self.agent else {
            return Ok(());
        };
        let header = FRAME_LEN + AGENT_LEN + align(name.len());
        let offset = start + (header + frame.body.len()) as u64;
        let ordinal = u64::from(frame.records);
        frame.push(0, change);
        if let Change::Append(Append { expires: Some(date), .. }) = change {
            segment.note_expiry(*date);
        }
        let (spot, lsn) = (Spot::at(offset), segment.base.saturating_add(start));
        let pushed = match Applied::of(change) {
            // Straight to the index: a table of very many keys would be in nobody's interest.
            Some(Applied::Set { key, len, revision }) => {
                let revision = revision.unwrap_or(lsn);
                state.push(&StateChange { key, tag: 0, revision, offset: spot.0, len })
            }
            Some(Applied::Unset { key }) => {
                state.push(&StateChange { key, tag: 0, revision: lsn, offset: 0, len: 0 })
            }
            Some(applied) => {
                version.apply(&applied, &Place { segment: &segment, spot, lsn, ordinal });
                Ok(())
            }
            None => Ok(()),
        };
        pushed.map_err(|fault| segment.damage(offset, fault.0).with_agent(name))?;
        if frame.body.len() >= BODY {
            let done = std::mem::take(frame);
            *frame = OpenFrame::start(Some((name, &version.head)), Vec::new());
            self.finish_frame(done)?;
        }
        Ok(())
    }

    /// Ends the agent.
    pub(crate) fn end(&mut self) -> Result<()> {
        let Some(OpenAgent { name, version, frame, state }) = self.agent.take() else {
            return Ok(());
        };
        if frame.records > 0 {
            self.finish_frame(frame)?;
        }
        let absent = version.head.life == 0;
        let agent = AgentAtEnd {
            hash: hash_name(name_seed(self.owner.store), &name),
            name,
            head: if absent { Head::absent() } else { version.head },
            part: version.new.filter(|_| !absent),
            pages: state.finish().map_err(|fault| self.damage(fault))?,
        };
        let added = add(&mut self.builder, &agent);
        added.map_err(|fault| self.damage(fault).with_agent(&agent.name))
    }

    /// Adds forgotten prefixes with the lsns of their forgetting, after all agents.
    pub(crate) fn add_prefixes<'a>(
        &mut self,
        prefixes: impl Iterator<Item = (u64, &'a str)>,
    ) -> Result<()> {
        let mut frame = OpenFrame::start(None, Vec::new());
        for (lsn, prefix) in prefixes {
            frame.push(0, &Change::KeptPrefix { lsn, prefix });
            self.builder.add_prefix(lsn, prefix).map_err(|fault| self.damage(fault))?;
        }
        if frame.records > 0 {
            self.finish_frame(frame)?;
        }
        Ok(())
    }

    /// Writes what is left and the footer, and syncs all of it. What is listed of it then.
    /// `manners` is told now and then that it goes on.
    pub(crate) fn finish(mut self, manners: Manners<'_>) -> Result<(LogFile, Listed)> {
        self.write_out()?;
        let data_end = self.at;
        let facts = self.builder.facts_mut();
        facts.data_end = data_end;
        facts.record_bytes = self.record_bytes;
        let segment = Arc::clone(&self.file.segment);
        let footer = self.builder.finish(segment.capacity);
        let footer = footer.map_err(|Fault(reason)| segment.damage(data_end, reason))?;
        let mut at = footer.trailer.footer_at;
        for piece in footer.bytes.chunks(FOOTER_PIECE) {
            manners(0)?;
            self.file.write(&[IoSlice::new(piece)], at)?;
            at = at.saturating_add(piece.len() as u64);
            self.unsynced = self.unsynced.saturating_add(piece.len() as u64);
            if self.unsynced >= SYNC_EACH {
                self.unsynced = 0;
                self.file.sync()?;
            }
        }
        self.file.sync()?;
        let check = footer_check(&footer);
        segment.load_footer(Some(check))?;
        let listed = Listed { role: Role::Sealed, data_end, footer_check: check, ..self.listed };
        Ok((self.file, listed))
    }

    fn finish_frame(&mut self, frame: OpenFrame) -> Result<()> {
        let OpenFrame { header, mut body, digest, records } = frame;
        let mut header = header.finish(body.len(), digest, records);
        let segment = &self.file.segment;
        let offset = self.len();
        let place = FramePlace {
            salt: segment.salt,
            offset,
            lsn: segment.base.saturating_add(offset),
            durable: segment.base,
            time: self.time,
            era: self.owner.era,
        };
        self.record_bytes += body.len() as u64;
        frame::seal(&mut header, &mut body, &place).map_err(|fault| self.damage(fault))?;
        self.put(&header)?;
        self.put(&body)
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        loop {
            let room = self.piece - self.len() % self.piece;
            let fits = usize::try_from(room).ok().and_then(|room| bytes.split_at_checked(room));
            let Some((piece, rest)) = fits else {
                self.out.extend_from_slice(bytes);
                return Ok(());
            };
            self.out.extend_from_slice(piece);
            self.write_out()?;
            bytes = rest;
        }
    }

    fn write_out(&mut self) -> Result<()> {
        self.file.write(&[IoSlice::new(&self.out)], self.at)?;
        self.at += self.out.len() as u64;
        self.unsynced += self.out.len() as u64;
        self.out.clear();
        if self.unsynced >= SYNC_EACH {
            self.unsynced = 0;
            self.file.sync()?;
        }
        Ok(())
    }

    fn damage(&self, Fault(reason): Fault) -> crate::error::Error {
        self.file.segment.damage(self.len(), reason)
    }
}

impl OpenFrame {
    fn start(agent: Option<(&str, &Head)>, body: Vec<u8>) -> Self {
        let mut header = HeaderBuilder::start(Vec::new(), None);
        if let Some((name, head)) = agent {
            let at = header.add_agent(name);
            header.set_head(at, head);
        }
        OpenFrame { header, body, digest: 0, records: 0 }
    }

    fn push(&mut self, agent: u32, change: &Change<'_>) {
        let plain = record::encode(&mut self.body, agent, change);
        self.digest = frame::fold(self.digest, plain);
        self.records += 1;
    }
}

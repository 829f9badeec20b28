//! What recovery does with the tail: frames proved durable stay in place under a footer, later ones
//! are copied to a fresh segment and synced before anybody is served, because after a crash the
//! page cache may show what the medium does not have.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use crate::catalog::name_seed;
use crate::commit::seal::{build_footer, footer_check};
use crate::error::Result;
use crate::format::Fault;
use crate::format::footer::Bound;
use crate::format::frame::{self, Place};
use crate::format::manifest::{Listed, Manifest, Role};
use crate::format::record::{self, Change};
use crate::io::Io;
use crate::recovery::replay::Replay;
use crate::recovery::tail::{Stretch, Tail};
use crate::segment::Segment;
use crate::segment::writer::{FIRST_FRAME, LogFile, Owner, new_listed};
use crate::types::Verify;

/// A stretch with fewer bytes than this that are proved durable is copied whole: small stores do
/// not gather a segment at every crash that keeps its first size.
const WORTH_KEEPING: u64 = 1 << 20;
/// Copied frames are written in pieces of about this size.
const PIECE: usize = 4 << 20;

/// Who the segments belong to.
pub(crate) struct Rewrite<'a> {
    pub(crate) io: &'a Io,
    pub(crate) dir: &'a Path,
    pub(crate) owner: Owner,
    pub(crate) verify: Verify,
}

/// What becomes of the tail.
#[derive(Default)]
pub(crate) struct Plan {
    /// Segments that stay, the offset from which on they are not proved durable, and the one at which
    /// their data end.
    pub(crate) kept: Vec<(Arc<Segment>, usize, usize)>,
    /// Segments whose frames from that offset on are copied, and the line of the copy.
    pub(crate) copied: Vec<(Arc<Segment>, usize, usize, Listed)>,
}

/// A segment that was given its footer.
pub(crate) struct Done {
    pub(crate) segment: Arc<Segment>,
    pub(crate) listed: Listed,
    pub(crate) prefixes: Vec<(u64, Box<str>)>,
}

impl Plan {
    /// Decides; ids from `next_id` on are used for copies.
    /// On a full disk, in a `tight` place, nothing is copied: what is not proved durable is written
    /// over itself, and synced.
    pub(crate) fn new(io: &Io, tail: &Tail, tight: bool, next_id: &mut u64) -> Result<Plan> {
        let mut plan = Plan::default();
        for stretch in &tail.stretches {
            let from = if tight {
                plan.keep_all(stretch, tail.proven)
            } else {
                plan.keep(stretch, tail.proven, WORTH_KEEPING)
            };
            let copied = stretch.frames.iter().any(|(at, h)| *at >= from && h.records > 0);
            if !copied {
                continue;
            }
            let bound = bound_of(stretch, from)?;
            let len = (stretch.end - from) as u64;
            let capacity = (FIRST_FRAME + len + bound.bytes()).next_multiple_of(4096);
            let base = stretch.segment.base + from as u64 - FIRST_FRAME;
            let listed = new_listed(*next_id, io.random.next(), base, capacity, Role::Draft);
            *next_id += 1;
            let source = Arc::clone(&stretch.segment);
            plan.copied.push((source, from, stretch.end, listed));
        }
        Ok(plan)
    }

    /// Keeps what is proved durable of a stretch, if it is worth it; gives the offset behind it.
    fn keep(&mut self, stretch: &Stretch, proven: u64, worth_keeping: u64) -> usize {
        let (first, end) = proven_part(stretch, proven);
        if ((end - first) as u64) < worth_keeping {
            return first;
        }
        self.kept.push((Arc::clone(&stretch.segment), end, end));
        end
    }

    /// Keeps all of a stretch; gives the offset behind it.
    fn keep_all(&mut self, stretch: &Stretch, proven: u64) -> usize {
        let (first, from) = proven_part(stretch, proven);
        let end = stretch.frames.last().map_or(first, |(at, header)| *at + header.len());
        if end > first {
            self.kept.push((Arc::clone(&stretch.segment), from, end));
        }
        end
    }
}

/// Where the frames of a stretch begin, and where those of them end that are proved durable.
fn proven_part(stretch: &Stretch, proven: u64) -> (usize, usize) {
    let base = stretch.segment.base;
    let durable = |(at, header): &&(usize, frame::FrameHeader)| {
        base.saturating_add((*at + header.len()) as u64) <= proven
    };
    let first = stretch.frames.first().map_or(0, |(at, _)| *at);
    let last = stretch.frames.iter().take_while(durable).last();
    (first, last.map_or(first, |(at, header)| *at + header.len()))
}

impl Rewrite<'_> {
    /// Gives a segment that stays its footer. What lies in it between `from` and `end` is not proved
    /// durable: it is written over itself, so that the sync counts for it. Until then the medium has
    /// what it had before, or the same.
    pub(crate) fn keep(
        &self,
        segment: &Arc<Segment>,
        from: usize,
        end: usize,
        line: &Listed,
    ) -> Result<Done> {
        let file = LogFile::reopen(self.io, Arc::clone(segment), true)?;
        let frames = segment.frames();
        for at in (from..end).step_by(PIECE) {
            let piece = frames.bytes.get(at..end.min(at.saturating_add(PIECE)));
            let piece = piece
                .ok_or_else(|| segment.damage(at as u64, "the file ends before its frames"))?;
            // Copied first: what is written is the map's own memory.
            let piece = piece.to_vec();
            file.write(&[IoSlice::new(&piece)], at as u64)?;
        }
        self.finish(&file, end, line)
    }

    /// Gives back what lies behind the data of a segment that stays: it was cut, or has been copied.
    pub(crate) fn clear(&self, segment: &Arc<Segment>, end: usize) {
        // Only space would be saved: that it could not be done is no error.
        if let Some(trailer) = segment.trailer()
            && let Ok(file) = LogFile::reopen(self.io, Arc::clone(segment), true)
        {
            file.punch(end as u64, trailer.footer_at);
        }
    }

    /// Copies frames into a segment that was created for them, and gives it its footer.
    pub(crate) fn copy(
        &self,
        source: &Segment,
        from: usize,
        to: usize,
        file: &LogFile,
        line: &Listed,
    ) -> Result<Done> {
        let target = &file.segment;
        let frames = source.frames();
        let (mut at, mut out, mut written) = (from, Vec::new(), FIRST_FRAME);
        while at < to {
            let damage = |fault: Fault| source.damage(at as u64, fault.0);
            let frame = frames.frame(at).map_err(damage)?;
            let (mut head, mut body) = (frame.head.to_vec(), frame.body.to_vec());
            let body_at = (at + frame.header.header_len) as u64;
            record::bind(&mut body, source.salt, body_at).map_err(damage)?;
            let place = Place {
                salt: target.salt,
                offset: written + out.len() as u64,
                lsn: frame.header.lsn,
                durable: frame.header.durable,
                time: frame.header.time,
                era: frame.header.era,
            };
            frame::seal(&mut head, &mut body, &place).map_err(damage)?;
            out.extend_from_slice(&head);
            out.extend_from_slice(&body);
            at += frame.header.len();
            if out.len() >= PIECE || at >= to {
                file.write(&[IoSlice::new(&out)], written)?;
                written += out.len() as u64;
                out.clear();
            }
        }
        let end = usize::try_from(written).unwrap_or(usize::MAX);
        self.finish(file, end, line)
    }

    /// Builds, writes and syncs the footer of a segment whose frames end at `end`.
    fn finish(&self, file: &LogFile, end: usize, line: &Listed) -> Result<Done> {
        let segment = &file.segment;
        segment.publish(end as u64);
        let mut replay = Replay::new(Arc::clone(segment), name_seed(self.owner.store));
        let frames = segment.frames();
        let mut at = usize::try_from(FIRST_FRAME).unwrap_or(0);
        while at < end {
            let damage = |fault: Fault| segment.damage(at as u64, fault.0);
            let frame = frames.frame(at).map_err(damage)?;
            replay.apply(&frame).map_err(damage)?;
            at += frame.header.len();
        }
        let len = segment.capacity;
        let (contents, agents) = (replay.contents(end as u64), replay.at_end());
        let agents = agents.into_iter().map(Ok);
        let footer = build_footer(self.owner.store, segment, len, contents, agents)?;
        file.write(&[IoSlice::new(&footer.bytes)], footer.trailer.footer_at)?;
        file.sync()?;
        let check = footer_check(&footer);
        segment.load_footer(Some(check))?;
        let listed =
            Listed { role: Role::Sealed, data_end: end as u64, footer_check: check, ..*line };
        Ok(Done { segment: Arc::clone(segment), listed, prefixes: replay.prefixes })
    }

    /// Creates the file of a copy, or of the next active segment.
    pub(crate) fn create(&self, listed: &Listed) -> Result<LogFile> {
        LogFile::create(self.io, self.dir, &self.owner, listed, self.verify)
    }
}

/// The most that the footer over the frames from `from` on may take.
fn bound_of(stretch: &Stretch, from: usize) -> Result<Bound> {
    let frames = stretch.segment.frames();
    let mut bound = Bound::new();
    let mut names = BTreeSet::new();
    for (at, _) in stretch.frames.iter().filter(|(at, _)| *at >= from) {
        let damage = |fault: Fault| stretch.segment.damage(*at as u64, fault.0);
        let frame = frames.frame(*at).map_err(damage)?;
        for agent in &frame.agents {
            if names.insert(agent.name) {
                bound.add_agent(agent.name.len());
            }
        }
        for placed in frame.records() {
            match placed.map_err(damage)?.record.change {
                Change::Append(_) => bound.add_entry(),
                Change::Set { key, .. } | Change::Kept { key, .. } | Change::Unset { key } => {
                    bound.add_state(key.len());
                }
                Change::Redact { .. } => bound.add_redaction(),
                Change::Policy(_) => bound.add_policy(),
                Change::ForgetPrefix { prefix } | Change::KeptPrefix { prefix, .. } => {
                    bound.add_prefix(prefix.len());
                }
                Change::Truncate { .. } | Change::Forget => {}
            }
        }
    }
    Ok(bound)
}

/// The base of a segment whose lsns are beyond all that were ever given out.
pub(crate) fn base_behind(manifest: &Manifest) -> u64 {
    // A run's base only says how old it is: its bytes have no lsns of their own.
    let logs = manifest.segments.iter().filter(|line| !line.run);
    let ends = logs.map(|line| line.base.saturating_add(line.capacity));
    ends.max().unwrap_or(0)
}

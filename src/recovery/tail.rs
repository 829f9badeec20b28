//! The unsealed end of the log: how far it is whole, and whether what is missing was acknowledged.

use std::sync::Arc;

use crate::error::{Damage, Error, Result};
use crate::format::frame::FrameHeader;
use crate::format::{Fault, PAGE};
use crate::io::Io;
use crate::segment::Segment;
use crate::segment::scan::is_zero;
use crate::segment::writer::FIRST_FRAME;
use crate::types::Lsn;

/// The whole frames at the beginning of an unsealed segment.
pub(crate) struct Stretch {
    pub(crate) segment: Arc<Segment>,
    /// Offset and header of each.
    pub(crate) frames: Vec<(usize, FrameHeader)>,
    /// Offset at which they end.
    pub(crate) end: usize,
    /// Why no frame follows.
    fault: Fault,
    /// A frame follows whose header is intact and not understood.
    unknown: bool,
}

impl Stretch {
    fn walk(segment: &Arc<Segment>) -> Self {
        let frames = segment.frames();
        let mut stretch = Stretch {
            segment: Arc::clone(segment),
            frames: Vec::new(),
            end: first_frame(),
            fault: Fault("no frame begins here"),
            unknown: false,
        };
        loop {
            match frames.frame(stretch.end) {
                Ok(frame) => {
                    stretch.frames.push((stretch.end, frame.header));
                    stretch.end = stretch.end.saturating_add(frame.header.len());
                }
                Err(fault) => {
                    stretch.fault = fault;
                    let header = frames.header(stretch.end);
                    stretch.unknown = header.is_ok_and(|(header, _)| header.unknown);
                    return stretch;
                }
            }
        }
    }

    /// The lsn at which the frames end.
    pub(crate) fn end_lsn(&self) -> u64 {
        self.segment.base.saturating_add(self.end as u64)
    }

    /// Whether the first frame says that it follows upon the end of the last segment before it,
    /// segments without a frame aside.
    fn follows(&self, before: &[Stretch]) -> bool {
        let Some(link) = self.frames.first().and_then(|(_, header)| header.link) else {
            return false;
        };
        let mut candidates = before.iter().rev();
        candidates
            .find(|s| s.segment.id == link.id || !s.frames.is_empty())
            .is_some_and(|s| s.segment.id == link.id && s.end_lsn() == link.end)
    }
}

/// The unsealed end of the log.
pub(crate) struct Tail {
    /// The whole part, in the order of the log, up to the last segment with a frame.
    pub(crate) stretches: Vec<Stretch>,
    /// Everything below this lsn was on stable storage, and is whole.
    pub(crate) proven: u64,
    /// The latest time that a frame tells of.
    pub(crate) time: u64,
    /// Bytes behind the last whole frame that were written.
    pub(crate) bytes_cut: u64,
}

/// Reads the unsealed segments, given in the order of the log. `durable` is what the manifest
/// knows to be on stable storage.
///
/// # Errors
/// `Damaged` if something is not whole that was on stable storage.
pub(crate) fn read(io: &Io, segments: &[Arc<Segment>], durable: u64) -> Result<Tail> {
    let (tail, broken) = Tail::gather(io, segments, durable)?;
    tail.judge(segments, broken)
}

/// Reads the unsealed segments of a log that a writer may append to meanwhile.
///
/// The segments are walked through twice. What was on stable storage when the first walk found
/// evidence of it was written before the second walk began, and has to be whole there. Evidence that
/// the second walk meets may tell of frames that were written after it had passed their place.
///
/// # Errors
/// Those of [`read`].
pub(crate) fn read_beside(io: &Io, segments: &[Arc<Segment>], durable: u64) -> Result<Tail> {
    let (first, _) = Tail::gather(io, segments, durable)?;
    let (stretches, broken) = walk(segments)?;
    segments.iter().for_each(|segment| segment.will_scan(false));
    let before = first.end_lsn();
    let mut tail = Tail { stretches, ..first };
    if before != tail.end_lsn() {
        // What follows the frames is on its way, and not cut.
        tail.bytes_cut = 0;
    }
    tail.judge(segments, broken)
}

/// The whole frames of all segments, up to the last segment with a frame; and whether that one does
/// not follow upon the end of the one before it.
fn walk(segments: &[Arc<Segment>]) -> Result<(Vec<Stretch>, bool)> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut broken = false;
    for segment in segments {
        segment.will_scan(true);
        let stretch = Stretch::walk(segment);
        if stretch.unknown {
            return Err(segment.damage(stretch.end as u64, stretch.fault.0));
        }
        if !stretches.is_empty() && !stretch.frames.is_empty() && !stretch.follows(&stretches) {
            broken = true;
            break;
        }
        stretches.push(stretch);
    }
    // The last frame ends the log. Blank segments behind it say nothing, not even that they were
    // never written: after a break they may have lost all they had.
    let used = stretches.iter().rposition(|s| !s.frames.is_empty()).map_or(0, |last| last + 1);
    stretches.truncate(used);
    Ok((stretches, broken))
}

impl Tail {
    /// Walks through the segments, and looks for what tells how far they were durable.
    fn gather(io: &Io, segments: &[Arc<Segment>], durable: u64) -> Result<(Tail, bool)> {
        let (stretches, broken) = walk(segments)?;
        let used = stretches.len();
        let mut tail = Tail { stretches, proven: durable, time: 0, bytes_cut: 0 };
        for (_, header) in tail.stretches.iter().flat_map(|s| &s.frames) {
            tail.proven = tail.proven.max(header.durable);
            tail.time = tail.time.max(header.time);
        }
        for segment in segments.iter().skip(used.saturating_sub(1)) {
            tail.look_behind(io, segment)?;
        }
        segments.iter().for_each(|segment| segment.will_scan(false));
        Ok((tail, broken))
    }

    /// The lsn at which the whole part ends; the start of the log if there is none.
    pub(crate) fn end_lsn(&self) -> Option<u64> {
        self.stretches.last().map(Stretch::end_lsn)
    }

    /// Looks at what lies behind the whole frames of a segment: for evidence of what was durable,
    /// and for how much is cut.
    fn look_behind(&mut self, io: &Io, segment: &Arc<Segment>) -> Result<()> {
        let last = self.stretches.last().filter(|s| s.segment.id == segment.id);
        let from = last.map_or(first_frame(), |s| s.end);
        let path = segment.path();
        let file = io.fs.open(path, false).map_err(|e| Error::io("open", path, e))?;
        let all = segment.frames();
        let mut at = from;
        let mut written = 0;
        // What was never written is skipped: it costs nothing, and holds no evidence.
        while let Some(data) =
            file.data_from(at as u64).map_err(|e| Error::io("search", path, e))?
        {
            let end = usize::try_from(data.end).unwrap_or(usize::MAX).min(all.bytes.len());
            let start = usize::try_from(data.start).unwrap_or(usize::MAX).max(at);
            let Some(bytes) = all.bytes.get(..end).filter(|_| start < end) else { break };
            if let Some(last) = last_written(bytes, start) {
                written = (last + 1 - from) as u64;
                for (_, header) in all.headers_behind(start).take_while(|(at, _)| *at < end) {
                    self.proven = self.proven.max(header.durable);
                    self.time = self.time.max(header.time);
                }
            }
            at = end;
        }
        self.bytes_cut = self.bytes_cut.saturating_add(written);
        Ok(())
    }

    /// The first segment behind the whole part whose first frame was durable and is not whole. It
    /// is this one that is damaged: that the one before it ends early, nothing says.
    fn unreadable<'a>(&self, segments: &'a [Arc<Segment>]) -> Option<(&'a Arc<Segment>, Fault)> {
        let last = self.stretches.last()?.segment.base;
        let begun = |s: &&Arc<Segment>| s.base.saturating_add(FIRST_FRAME) < self.proven;
        let next = segments.iter().filter(begun).find(|s| s.base > last)?;
        next.frames().frame(first_frame()).err().map(|fault| (next, fault))
    }

    /// A torn tail is cut; a hole in what was durable is damage.
    fn judge(self, segments: &[Arc<Segment>], broken: bool) -> Result<Tail> {
        let whole_to = match (self.end_lsn(), segments.first()) {
            (Some(end), _) => end,
            (None, Some(first)) => first.base.saturating_add(FIRST_FRAME),
            (None, None) => return Ok(self),
        };
        // Where nothing was ever written the manifest may know of a durable position before it.
        if self.proven <= whole_to {
            return Ok(self);
        }
        let (segment, at, fault) = match (self.stretches.last(), segments.first()) {
            (Some(last), _) => match self.unreadable(segments).filter(|_| !broken) {
                Some((next, fault)) => (next, first_frame(), fault),
                None => (&last.segment, last.end, last.fault),
            },
            (None, Some(first)) => (first, first_frame(), Fault("no frame begins here")),
            (None, None) => return Ok(self),
        };
        let missing = if broken { "; the next segment follows upon a later end" } else { "" };
        let reason = format!(
            "{}{missing}, though everything up to lsn {} was on stable storage",
            fault.0, self.proven
        );
        let mut damage = Damage::new(segment.path(), at as u64, reason);
        damage.lsn = segment.base.checked_add(at as u64).map(Lsn);
        if let Ok((_, agents)) = segment.frames().header(at) {
            damage.agents = agents.iter().map(|a| a.name.to_owned()).collect();
        }
        Err(Error::damaged(damage))
    }
}

/// The offset of the last byte from `from` on that is not zero.
fn last_written(bytes: &[u8], from: usize) -> Option<usize> {
    let mut end = bytes.len();
    while end > from {
        let start = end.saturating_sub(PAGE).max(from);
        let piece = bytes.get(start..end)?;
        if !is_zero(piece) {
            return piece.iter().rposition(|byte| *byte != 0).map(|last| start + last);
        }
        end = start;
    }
    None
}

fn first_frame() -> usize {
    crate::format::header::HEADER_LEN
}

#[cfg(all(test, feature = "sim"))]
#[path = "tail_tests.rs"]
mod tests;

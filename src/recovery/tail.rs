//! The unsealed end of the log: how far it is whole, and whether what is missing was acknowledged.

use std::sync::Arc;

use crate::error::{Damage, Error, Result};
use crate::format::Fault;
use crate::format::frame::FrameHeader;
use crate::segment::Segment;
use crate::segment::scan::Frames;
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
}

impl Stretch {
    fn walk(segment: &Arc<Segment>) -> Self {
        let frames = segment.frames();
        let mut stretch = Stretch {
            segment: Arc::clone(segment),
            frames: Vec::new(),
            end: first_frame(),
            fault: Fault("no frame begins here"),
        };
        loop {
            match frames.frame(stretch.end) {
                Ok(frame) => {
                    stretch.frames.push((stretch.end, frame.header));
                    stretch.end = stretch.end.saturating_add(frame.header.len());
                }
                Err(fault) => {
                    stretch.fault = fault;
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
pub(crate) fn read(segments: &[Arc<Segment>], durable: u64) -> Result<Tail> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut broken = false;
    for segment in segments {
        segment.will_need(0, segment.capacity);
        let stretch = Stretch::walk(segment);
        if !stretches.is_empty() && !stretch.frames.is_empty() && !stretch.follows(&stretches) {
            broken = true;
            break;
        }
        stretches.push(stretch);
    }
    // Behind a break the segment before it has lost its end; else the last frame ends the log.
    let used = if broken {
        stretches.len()
    } else {
        stretches.iter().rposition(|s| !s.frames.is_empty()).map_or(0, |last| last + 1)
    };
    stretches.truncate(used);
    let mut tail = Tail { stretches, proven: durable, time: 0, bytes_cut: 0 };
    for (_, header) in tail.stretches.iter().flat_map(|s| &s.frames) {
        tail.proven = tail.proven.max(header.durable);
        tail.time = tail.time.max(header.time);
    }
    for segment in segments.iter().skip(used.saturating_sub(1)) {
        tail.look_behind(segment);
    }
    tail.judge(segments, broken)
}

impl Tail {
    /// The lsn at which the whole part ends; the start of the log if there is none.
    pub(crate) fn end_lsn(&self) -> Option<u64> {
        self.stretches.last().map(Stretch::end_lsn)
    }

    /// Looks at what lies behind the whole frames of a segment: for evidence of what was durable,
    /// and for how much is cut.
    fn look_behind(&mut self, segment: &Arc<Segment>) {
        let last = self.stretches.last().filter(|s| s.segment.id == segment.id);
        let from = last.map_or(first_frame(), |s| s.end);
        let frames = segment.frames();
        let written = written_behind(&frames, from);
        if written == 0 {
            return;
        }
        for (_, header) in frames.headers_behind(from) {
            self.proven = self.proven.max(header.durable);
            self.time = self.time.max(header.time);
        }
        self.bytes_cut = self.bytes_cut.saturating_add(written);
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
            (Some(last), _) => (&last.segment, last.end, last.fault),
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

/// Bytes from `from` to the last one that is not zero.
fn written_behind(frames: &Frames<'_>, from: usize) -> u64 {
    let behind = frames.bytes.get(from..).unwrap_or_default();
    behind.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

fn first_frame() -> usize {
    crate::format::header::HEADER_LEN
}

//! Frames that wait to be written. They lie one behind the other in a few large buffers, as they
//! will lie on the disk: a write takes few slices, and the order lock is held for a copy.

use std::io::IoSlice;

use crate::format::Fault;
use crate::format::frame;
use crate::segment::Segment;
use crate::segment::writer::LogFile;

/// Bytes of a buffer, unless a single header is larger.
pub(crate) const RUN: usize = 64 << 10;
/// Bodies above this are not copied.
const LARGE: usize = 16 << 10;
/// Buffers kept to be used again.
const KEPT: usize = 64;

/// What waits to be written, in the order of the log.
#[derive(Default)]
pub(crate) struct Waiting {
    groups: Vec<Group>,
    /// Empty ones to be used again.
    kept: Vec<Run>,
}

/// Frames for one file, one behind the other.
pub(crate) struct Group {
    pub(crate) file: LogFile,
    pub(crate) runs: Vec<Run>,
}

/// Frames in one buffer. Only the last of them may have its body in a buffer of its own.
#[derive(Default)]
pub(crate) struct Run {
    bytes: Vec<u8>,
    large: Vec<u8>,
    frames: Vec<Mark>,
    /// Offset of the first frame in the file.
    offset: u64,
}

/// Where a frame lies in a run.
struct Mark {
    at: usize,
    header: usize,
    time: u64,
}

impl Waiting {
    /// Adds a frame that belongs at `offset` of `file`, behind the one before it. A large body is
    /// taken, and an empty buffer left in its place.
    pub(crate) fn push(
        &mut self,
        file: &LogFile,
        offset: u64,
        header: &[u8],
        body: &mut Vec<u8>,
        time: u64,
    ) {
        let group = match self.groups.last() {
            Some(group) if group.file.segment.id == file.segment.id => self.groups.last_mut(),
            _ => {
                self.groups.push(Group { file: file.clone(), runs: Vec::new() });
                self.groups.last_mut()
            }
        };
        let Some(Group { runs, .. }) = group else { return };
        let copied = header.len() + if body.len() > LARGE { 0 } else { body.len() };
        if !runs.last().is_some_and(|run| run.has_room(copied)) {
            let mut run = self.kept.pop().unwrap_or_default();
            run.bytes.reserve(RUN);
            run.offset = offset;
            runs.push(run);
        }
        if let Some(run) = runs.last_mut() {
            run.push(header, body, time);
        }
    }

    /// Everything that waits.
    pub(crate) fn take(&mut self) -> Vec<Group> {
        std::mem::take(&mut self.groups)
    }

    /// Takes buffers back, emptied.
    pub(crate) fn keep(&mut self, runs: Vec<Run>) {
        let room = KEPT.saturating_sub(self.kept.len());
        self.kept.extend(runs.into_iter().take(room));
    }
}

impl Run {
    fn has_room(&self, len: usize) -> bool {
        self.large.is_empty() && self.bytes.len() + len <= RUN
    }

    fn push(&mut self, header: &[u8], body: &mut Vec<u8>, time: u64) {
        self.frames.push(Mark { at: self.bytes.len(), header: header.len(), time });
        self.bytes.extend_from_slice(header);
        if body.len() > LARGE {
            std::mem::swap(&mut self.large, body);
        } else {
            self.bytes.extend_from_slice(body);
        }
    }

    /// Completes the frames: binds each to its place.
    pub(crate) fn seal(&mut self, segment: &Segment, durable: u64) -> Result<(), (u64, Fault)> {
        let mut rest = self.bytes.as_mut_slice();
        let mut frames = self.frames.iter().peekable();
        while let Some(mark) = frames.next() {
            let offset = self.offset + mark.at as u64;
            let cut = |_| (offset, Fault("a queued frame is cut short"));
            let len = frames.peek().map_or(rest.len(), |next| next.at - mark.at);
            let (frame, behind) = rest.split_at_mut_checked(len).ok_or(()).map_err(cut)?;
            let (header, body) = frame.split_at_mut_checked(mark.header).ok_or(()).map_err(cut)?;
            let last = frames.peek().is_none();
            let body = if last && !self.large.is_empty() { &mut self.large } else { body };
            let place = frame::Place {
                salt: segment.salt,
                offset,
                lsn: segment.base + offset,
                durable,
                time: mark.time,
            };
            frame::seal(header, body, &place).map_err(|fault| (offset, fault))?;
            rest = behind;
        }
        Ok(())
    }

    /// The offset in the file at which the last frame ends.
    pub(crate) fn end(&self) -> u64 {
        self.offset + (self.bytes.len() + self.large.len()) as u64
    }

    /// The offset in the file at which the first frame begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// What is to be written.
    pub(crate) fn slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let slices = [self.bytes.as_slice(), self.large.as_slice()].into_iter();
        slices.filter(|slice| !slice.is_empty()).map(IoSlice::new)
    }

    /// Empties it, and lets go of buffers too large to be kept.
    pub(crate) fn clear(&mut self) {
        self.frames.clear();
        for buffer in [&mut self.bytes, &mut self.large] {
            if buffer.capacity() > RUN {
                *buffer = Vec::new();
            }
            buffer.clear();
        }
    }
}

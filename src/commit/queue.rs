//! Frames that wait to be written. They lie one behind the other in a few large buffers, as they
//! will lie on the disk: a write takes few slices, and the order lock is held for a copy.

use std::io::IoSlice;

use crate::error::Result;
use crate::format::frame;
use crate::format::{Era, Fault};
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
    /// What frames say of when they were ordered.
    era: Era,
    groups: Vec<Group>,
    /// Empty ones to be used again, and an empty list of them.
    kept: Vec<Run>,
    list: Vec<Run>,
}

/// Frames for one file, one behind the other.
pub(crate) struct Group {
    pub(crate) file: LogFile,
    runs: Vec<Run>,
    /// Offset up to which they are in the file already.
    from: u64,
    era: Era,
}

/// Frames in one buffer. Only the last of them may have its body in a buffer of its own.
#[derive(Default)]
pub(crate) struct Run {
    bytes: Vec<u8>,
    large: Vec<u8>,
    frames: Vec<Mark>,
    /// Offset of the first frame in the file.
    offset: u64,
    /// The durable lsn that its frames carry, once they are sealed.
    durable: u64,
}

/// Where a frame lies in a run.
struct Mark {
    at: usize,
    header: usize,
    time: u64,
}

impl Waiting {
    /// Says what frames are to tell of when they were ordered.
    pub(crate) fn set_era(&mut self, era: Era) {
        self.era = era;
    }

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
                let runs = std::mem::take(&mut self.list);
                let era = self.era;
                self.groups.push(Group { file: file.clone(), runs, from: offset, era });
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

    /// Moves everything that waits to `into`, which is empty.
    pub(crate) fn take(&mut self, into: &mut Vec<Group>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut self.groups, into);
    }

    /// Takes buffers back, emptied.
    pub(crate) fn keep(&mut self, mut runs: Vec<Run>) {
        let room = KEPT.saturating_sub(self.kept.len());
        self.kept.extend(runs.drain(..).take(room));
        if self.list.capacity() == 0 {
            self.list = runs;
        }
    }
}

impl Group {
    /// Completes the frames: binds each to its place.
    pub(crate) fn seal(&mut self, durable: u64) -> std::result::Result<(), (u64, Fault)> {
        let (segment, era) = (&self.file.segment, self.era);
        self.runs.iter_mut().try_for_each(|run| run.seal(segment, durable, era))
    }

    /// Takes the frames of `next`, which lie behind its own, if they are for the same file.
    pub(crate) fn join(&mut self, next: &mut Group) -> bool {
        let same = self.file.segment.id == next.file.segment.id;
        if same {
            self.runs.append(&mut next.runs);
        }
        same
    }

    /// Offset up to which its bytes are in the file.
    pub(crate) fn from(&self) -> u64 {
        self.from
    }

    /// Offset at which the last frame ends.
    pub(crate) fn end(&self) -> u64 {
        self.runs.last().map_or(self.from, Run::end)
    }

    /// Of the last frame that ends at or below `cut`: where, and the durable lsn that it carries.
    pub(crate) fn last_frame(&self, cut: u64) -> Option<(u64, u64)> {
        let ends = |run: &Run| run.frame_end(cut).map(|end| (end, run.durable));
        self.runs.iter().rev().find_map(ends)
    }

    /// Writes what takes the file up to `cut`.
    pub(crate) fn write(&self, cut: u64) -> Result<()> {
        let slices = self.runs.iter().flat_map(|run| run.slices(self.from, cut));
        let mut slices = slices.filter(|slice| !slice.is_empty()).map(IoSlice::new);
        match (slices.next(), slices.next()) {
            // Mostly it is one, which needs no list.
            (Some(only), None) => self.file.write(&[only], self.from),
            (first, second) => {
                let all: Vec<_> = first.into_iter().chain(second).chain(slices).collect();
                self.file.write(&all, self.from)
            }
        }
    }

    /// Notes that the file has the bytes up to `cut`, and gives the buffers that are done with.
    pub(crate) fn written(&mut self, cut: u64) -> Vec<Run> {
        self.from = self.from.max(cut);
        let rest = self.runs.partition_point(|run| run.end() <= cut);
        let rest = self.runs.split_off(rest);
        let mut done = std::mem::replace(&mut self.runs, rest);
        done.iter_mut().for_each(Run::clear);
        done
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
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

    fn seal(
        &mut self,
        segment: &Segment,
        durable: u64,
        era: Era,
    ) -> std::result::Result<(), (u64, Fault)> {
        self.durable = durable;
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
                era,
            };
            frame::seal(header, body, &place).map_err(|fault| (offset, fault))?;
            rest = behind;
        }
        Ok(())
    }

    /// The offset in the file at which the last frame ends.
    fn end(&self) -> u64 {
        self.offset + (self.bytes.len() + self.large.len()) as u64
    }

    /// Where the last of its frames ends that does so at or below `cut`.
    fn frame_end(&self, cut: u64) -> Option<u64> {
        if self.end() <= cut {
            return Some(self.end());
        }
        // Each frame but the first begins where the one before it ends.
        let begins = self.frames.iter().skip(1).map(|mark| self.offset + mark.at as u64);
        begins.rev().find(|end| *end <= cut)
    }

    /// Its bytes between two offsets in the file.
    fn slices(&self, from: u64, to: u64) -> [&[u8]; 2] {
        let behind = self.offset + self.bytes.len() as u64;
        [(&self.bytes, self.offset), (&self.large, behind)].map(|(bytes, offset)| {
            let index = |at: u64| {
                usize::try_from(at.saturating_sub(offset))
                    .map_or(bytes.len(), |i| i.min(bytes.len()))
            };
            bytes.get(index(from)..index(to)).unwrap_or_default()
        })
    }

    /// Empties it, and lets go of buffers too large to be kept.
    fn clear(&mut self) {
        self.frames.clear();
        for buffer in [&mut self.bytes, &mut self.large] {
            if buffer.capacity() > RUN {
                *buffer = Vec::new();
            }
            buffer.clear();
        }
    }
}

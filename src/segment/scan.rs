//! Walking the frames of a log segment, and hunting for frames behind a hole.

use crate::format::codec::u64_at;
use crate::format::frame::{self, FrameAgent, FrameHeader};
use crate::format::record::{self, Record};
use crate::format::{ALIGN, Fault, PAGE};

/// What is needed to read the frames of a segment. Offsets are those of the file.
#[derive(Clone, Copy)]
pub(crate) struct Frames<'a> {
    /// Bytes of the file, from the offset `start` on.
    pub(crate) bytes: &'a [u8],
    pub(crate) start: usize,
    pub(crate) salt: u64,
    pub(crate) base: u64,
}

/// A whole frame, verified.
pub(crate) struct Frame<'a> {
    pub(crate) header: FrameHeader,
    pub(crate) offset: usize,
    pub(crate) agents: Vec<FrameAgent<'a>>,
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a [u8],
}

/// A record and where it lies.
pub(crate) struct Placed<'a> {
    /// Offset in the file.
    pub(crate) offset: usize,
    pub(crate) record: Record<'a>,
}

impl<'a> Frames<'a> {
    /// The bytes from an offset of the file on.
    pub(crate) fn from(&self, offset: usize) -> Option<&'a [u8]> {
        self.bytes.get(offset.checked_sub(self.start)?..)
    }

    /// The offset at which the bytes end.
    pub(crate) fn end(&self) -> usize {
        self.start.saturating_add(self.bytes.len())
    }

    /// The header of the frame at `offset`, and its agents.
    pub(crate) fn header(
        &self,
        offset: usize,
    ) -> Result<(FrameHeader, Vec<FrameAgent<'a>>), Fault> {
        self.decode_header(offset, self.from(offset).ok_or(Fault("the segment ends here"))?)
    }

    /// The header that `bytes` begin with, as if they lay at `offset`, and its agents.
    pub(crate) fn decode_header(
        &self,
        offset: usize,
        bytes: &'a [u8],
    ) -> Result<(FrameHeader, Vec<FrameAgent<'a>>), Fault> {
        let mut header = frame::decode_header(bytes, self.salt, self.base, offset as u64)?;
        // A table that is not understood under a check that matches was written so.
        let agents = frame::agents(&header, bytes).unwrap_or_default();
        header.unknown |= agents.len() != header.agents as usize;
        Ok((header, agents))
    }

    /// The whole frame at `offset`, every check verified.
    pub(crate) fn frame(&self, offset: usize) -> Result<Frame<'a>, Fault> {
        self.frame_under(offset, self.from(offset).ok_or(Fault("the segment ends here"))?)
    }

    /// The whole frame at `offset` with another header than lies there: its first bytes are those of
    /// `head`.
    pub(crate) fn frame_under(&self, offset: usize, head: &'a [u8]) -> Result<Frame<'a>, Fault> {
        let (header, agents) = self.decode_header(offset, head)?;
        if header.unknown {
            return Err(Fault("a frame says what this memlog does not understand"));
        }
        let bytes = self.from(offset).ok_or(Fault("the segment ends here"))?;
        let head = head.get(..header.header_len).ok_or(Fault("a frame is cut short"))?;
        let body =
            bytes.get(header.header_len..header.len()).ok_or(Fault("a frame is cut short"))?;
        let body_offset = (offset + header.header_len) as u64;
        frame::verify_body(&header, body, self.salt, body_offset)?;
        Ok(Frame { header, offset, agents, head, body })
    }

    /// The intact frame headers that begin at `from` or behind it, whatever lies between them.
    pub(crate) fn headers_behind(self, from: usize) -> impl Iterator<Item = (usize, FrameHeader)> {
        self.headers_between(from, self.end())
    }

    /// The intact frame headers that begin at `from` or behind it, and before `to`.
    pub(crate) fn headers_between(
        self,
        from: usize,
        to: usize,
    ) -> impl Iterator<Item = (usize, FrameHeader)> {
        let mut at = from;
        std::iter::from_fn(move || {
            while let Some(here) = self.candidate(at, to) {
                at = here + ALIGN;
                if let Ok((header, _)) = self.header(here) {
                    at = here + header.header_len;
                    return Some((here, header));
                }
            }
            None
        })
    }

    /// The first place at `from` or behind it, and before `to`, at which the salt stands where a frame
    /// header has it. Cheap: no check is looked at.
    pub(crate) fn candidate(&self, from: usize, to: usize) -> Option<usize> {
        let mut at = from.max(self.start).next_multiple_of(ALIGN);
        while at < to && at.saturating_add(frame::FRAME_LEN) <= self.end() {
            if at.is_multiple_of(PAGE) && self.is_blank(at) {
                at += PAGE;
                continue;
            }
            if u64_at(self.bytes, at - self.start + 8) == Some(self.salt) {
                return Some(at);
            }
            at += ALIGN;
        }
        None
    }

    /// Whether the page at `at` holds nothing but zeros.
    fn is_blank(&self, at: usize) -> bool {
        self.from(at).and_then(|bytes| bytes.get(..PAGE)).is_some_and(is_zero)
    }
}

/// Whether `bytes` are nothing but zeros.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    // Whole chunks at a time, so that it is done in wide registers.
    words.iter().all(|word| word.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

impl<'a> Frame<'a> {
    /// The frame's records in order.
    pub(crate) fn records(&self) -> impl Iterator<Item = Result<Placed<'a>, Fault>> + use<'a> {
        let (body, start) = (self.body, self.offset + self.header.header_len);
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= body.len() {
                return None;
            }
            let here = at;
            let placed = record::padded_len(body, here).and_then(|len| {
                at = here + len;
                let bytes = body.get(here..at).ok_or(Fault("a record is cut short"))?;
                Ok(Placed { offset: start + here, record: record::decode(bytes)? })
            });
            if placed.is_err() {
                at = body.len();
            }
            Some(placed)
        })
    }
}

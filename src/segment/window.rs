//! Reading a segment file in order, a piece at a time. Unlike a map, a read tells a failing medium
//! from damage, holds a bounded part of the file, and may meet bytes that a writer is writing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::codec::{u32_at, u64_at};
use crate::format::frame::{FRAME_LEN, FrameHeader, MAX_FRAME};
use crate::format::{ALIGN, Fault};
use crate::io::File;
use crate::segment::scan::{Frame, Frames, is_zero};

/// Bytes that one read takes, unless a frame is longer.
pub(crate) const PIECE: usize = 1 << 20;
/// More than this is given back once it is not needed any more.
const KEPT: usize = 4 * PIECE;

/// A file of which a part is in memory: at most [`PIECE`] bytes, or one frame if that is longer.
pub(crate) struct Window {
    file: Arc<dyn File>,
    path: PathBuf,
    /// Nothing at this offset or beyond it is read.
    end: u64,
    salt: u64,
    base: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// A window on the first `end` bytes of a file, for frames of this salt and base.
    pub(crate) fn new(file: Arc<dyn File>, path: &Path, end: u64, salt: u64, base: u64) -> Window {
        let path = path.to_owned();
        Window { file, path, end, salt, base, start: 0, bytes: Vec::new() }
    }

    /// Offset at which the bytes to be read end.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Forgets what was read: a writer may have written since.
    pub(crate) fn forget(&mut self) {
        self.bytes.clear();
    }

    /// What is in memory.
    pub(crate) fn frames(&self) -> Frames<'_> {
        let start = usize::try_from(self.start).unwrap_or(usize::MAX);
        Frames { bytes: &self.bytes, start, salt: self.salt, base: self.base }
    }

    /// Brings `len` bytes from `at` on into memory, or those up to the end.
    ///
    /// # Errors
    /// `Io` if the medium fails: it names the file and the offset.
    pub(crate) fn load(&mut self, at: u64, len: usize) -> Result<()> {
        let wanted = at.saturating_add(len as u64).min(self.end);
        let loaded = self.start.saturating_add(self.bytes.len() as u64);
        if !self.bytes.is_empty() && at >= self.start && wanted <= loaded {
            return Ok(());
        }
        let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = len.max(PIECE).min(left);
        if self.bytes.capacity() > KEPT && len <= KEPT {
            self.bytes = Vec::new();
        }
        (self.start, self.bytes) = (at, std::mem::take(&mut self.bytes));
        self.bytes.resize(len, 0);
        let read = read_exact(&*self.file, &self.path, &mut self.bytes, at);
        if read.is_err() {
            self.bytes.clear();
        }
        read
    }

    /// The frame at `at`, with every check verified.
    ///
    /// # Errors
    /// `Io` if the medium fails.
    pub(crate) fn frame(&mut self, at: u64) -> Result<std::result::Result<Frame<'_>, Fault>> {
        let offset = usize::try_from(at).unwrap_or(usize::MAX);
        if self.load_header(at)?.is_some() {
            let len = self.frames().header(offset).map_or(0, |(header, _)| header.len());
            self.load(at, len)?;
        }
        Ok(self.frames().frame(offset))
    }

    /// Brings the header into memory that may begin at `at`; its length as it says it itself. `None`:
    /// none begins there.
    fn load_header(&mut self, at: u64) -> Result<Option<usize>> {
        self.load(at, FRAME_LEN)?;
        let offset = usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = self.frames().from(offset).unwrap_or_default();
        let stated = u32_at(bytes, 4).and_then(|len| usize::try_from(len).ok());
        let begins = u64_at(bytes, 8) == Some(self.salt);
        let Some(len) = stated.filter(|len| begins && (FRAME_LEN..=MAX_FRAME).contains(len)) else {
            return Ok(None);
        };
        self.load(at, len)?;
        Ok(Some(len))
    }

    /// The header of the frame at `at` with the whole frame in memory, if the header is intact.
    ///
    /// # Errors
    /// `Io` if the medium fails.
    pub(crate) fn header(&mut self, at: u64) -> Result<Option<FrameHeader>> {
        if self.load_header(at)?.is_none() {
            return Ok(None);
        }
        let offset = usize::try_from(at).unwrap_or(usize::MAX);
        let Ok((header, _)) = self.frames().header(offset) else { return Ok(None) };
        self.load(at, header.len())?;
        Ok(Some(header))
    }

    /// The first intact frame header at `from` or behind it.
    ///
    /// # Errors
    /// `Io` if the medium fails.
    pub(crate) fn next_header(&mut self, from: u64) -> Result<Option<(u64, FrameHeader)>> {
        let mut at = from.next_multiple_of(ALIGN as u64);
        while at.saturating_add(FRAME_LEN as u64) <= self.end {
            let Some(data) = self.data_from(at)? else { break };
            at = at.max(data & !(ALIGN as u64 - 1));
            self.load(at, PIECE)?;
            let frames = self.frames();
            let from = usize::try_from(at).unwrap_or(usize::MAX);
            let Some(found) = frames.candidate(from, frames.end()) else {
                // The last bytes may be the beginning of a header.
                let behind = frames.end().saturating_sub(FRAME_LEN - ALIGN) as u64;
                at = behind.max(at + ALIGN as u64).next_multiple_of(ALIGN as u64);
                continue;
            };
            let found = found as u64;
            if let Some(header) = self.header(found)? {
                return Ok(Some((found, header)));
            }
            at = found + ALIGN as u64;
        }
        Ok(None)
    }

    /// The offset of the last byte from `from` on that is not zero.
    ///
    /// # Errors
    /// `Io` if the medium fails.
    pub(crate) fn last_written(&mut self, from: u64) -> Result<Option<u64>> {
        let (mut at, mut last) = (from, None);
        while at < self.end {
            let Some(data) = self.data_from(at)? else { break };
            at = at.max(data);
            self.load(at, PIECE)?;
            let offset = usize::try_from(at).unwrap_or(usize::MAX);
            let bytes = self.frames().from(offset).unwrap_or_default();
            if !is_zero(bytes) {
                let found = bytes.iter().rposition(|byte| *byte != 0);
                last = found.map(|found| at + found as u64).or(last);
            }
            at = at.saturating_add(bytes.len().max(1) as u64);
        }
        Ok(last)
    }

    /// The next offset that may hold anything but zeros.
    fn data_from(&self, at: u64) -> Result<Option<u64>> {
        let found = self.file.data_from(at).map_err(|e| Error::io("search", &self.path, e))?;
        Ok(found.map(|range| range.start).filter(|start| *start < self.end))
    }
}

/// Fills `bytes` from an offset of a file.
///
/// # Errors
/// `Io`: it says that the medium has failed, and what to do.
pub(crate) fn read_exact(file: &dyn File, path: &Path, bytes: &mut [u8], at: u64) -> Result<()> {
    file.read_at(bytes, at).map_err(|e| unreadable(path, at, e))
}

/// Reads a range of a file and drops it: what a map shows of it afterwards, the medium has given once.
///
/// # Errors
/// `Io` if the medium fails.
pub(crate) fn probe(file: &dyn File, path: &Path, from: u64, to: u64) -> Result<()> {
    let mut bytes = vec![0; PIECE.min(usize::try_from(to.saturating_sub(from)).unwrap_or(PIECE))];
    let mut at = from;
    while at < to {
        let len = usize::try_from(to - at).unwrap_or(PIECE).min(PIECE);
        let Some(piece) = bytes.get_mut(..len) else { break };
        read_exact(file, path, piece, at)?;
        at += len as u64;
    }
    Ok(())
}

/// A failing medium is no damage: what cannot be read now may be whole.
fn unreadable(path: &Path, at: u64, error: std::io::Error) -> Error {
    let message = format!(
        "cannot read {} at offset {at}: if the medium fails, copy it to another one as far as it can be \
         read, and work on the copy",
        path.display()
    );
    Error::new(ErrorKind::Io, message).with_source(error)
}

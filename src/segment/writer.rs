//! Making a log segment and writing its bytes.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::header::{HEADER_LEN, Header, Layout};
use crate::format::manifest::{Listed, Role};
use crate::io::{File, Io};
use crate::segment::{Segment, file_name};
use crate::types::Verify;

/// A log segment that takes writes: the file beside its map.
#[derive(Clone)]
pub(crate) struct LogFile {
    pub(crate) segment: Arc<Segment>,
    file: Arc<dyn File>,
}

impl LogFile {
    /// Creates the file of a segment: allocated, its header written and synced. Its name is durable
    /// only after the directory is synced.
    ///
    /// # Errors
    /// `DiskFull` if there is no room; nothing is left behind then.
    pub(crate) fn create(
        io: &Io,
        dir: &Path,
        store: u128,
        listed: &Listed,
        verify: Verify,
    ) -> Result<Self> {
        let path = dir.join(file_name(listed.id, listed.run));
        let file =
            io.fs.create(&path, listed.capacity).map_err(|e| Error::io("create", &path, e))?;
        let made = write_header(&*file, store, listed).and_then(|()| file.map(listed.capacity));
        let map = made.map_err(|e| {
            // A leftover would be an orphan without a frame, which the next opening removes.
            let _ = io.fs.remove(&path);
            Error::io("prepare", &path, e)
        })?;
        let segment = Arc::new(Segment::assemble(path, map, listed, verify));
        Ok(LogFile { segment, file })
    }

    /// Opens the file of a listed segment, for writing on if `write`.
    pub(crate) fn reopen(io: &Io, segment: Arc<Segment>, write: bool) -> Result<Self> {
        let path = segment.path();
        let file = io.fs.open(path, write).map_err(|e| Error::io("open", path, e))?;
        Ok(LogFile { segment, file })
    }

    /// Writes `bufs` one after the other at `offset`. Nothing is published.
    pub(crate) fn write(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.file.write_at(bufs, offset).map_err(|e| Error::io("write", self.segment.path(), e))
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync().map_err(|e| Error::io("sync", self.segment.path(), e))
    }

    /// Gives back the blocks between the data and the footer.
    pub(crate) fn punch(&self, from: u64, to: u64) {
        const BLOCK: u64 = 4096;
        let from = from.next_multiple_of(BLOCK);
        let to = to & !(BLOCK - 1);
        if to > from {
            // Only space would be saved: that it could not be done is no error.
            let _ = self.file.punch(from, to - from);
        }
    }
}

fn write_header(file: &dyn File, store: u128, listed: &Listed) -> std::io::Result<()> {
    let header = Header {
        store,
        id: listed.id,
        salt: listed.salt,
        base: listed.base,
        capacity: listed.capacity,
        layout: if listed.run { Layout::Run } else { Layout::Log },
    };
    file.write_at(&[IoSlice::new(&header.encode())], 0)?;
    file.sync()
}

/// The line of the manifest for a new segment.
pub(crate) fn new_listed(id: u64, salt: u64, base: u64, capacity: u64, role: Role) -> Listed {
    Listed { id, salt, role, run: false, base, capacity, data_end: 0, footer_check: 0 }
}

/// The offset of the first frame.
pub(crate) const FIRST_FRAME: u64 = HEADER_LEN as u64;

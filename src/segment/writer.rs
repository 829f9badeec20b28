//! Making a log segment and writing its bytes.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::Era;
use crate::format::header::{HEADER_LEN, Header, Layout};
use crate::format::manifest::{Listed, Role};
use crate::io::{File, Io};
use crate::segment::{Segment, file_name};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::types::Verify;

/// What segments are made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    /// The store's id.
    pub(crate) store: u128,
    pub(crate) era: Era,
}

/// A log segment that takes writes: the file beside its map.
#[derive(Clone)]
pub(crate) struct LogFile {
    pub(crate) segment: Arc<Segment>,
    shared: Arc<Shared>,
}

struct Shared {
    file: Arc<dyn File>,
    /// The offset up to which blocks are known to be written, with zeros or data.
    zeroed: AtomicU64,
    /// The offset up to which the file system has blocks recorded as written, for certain.
    recorded: AtomicU64,
    /// How far zeros are written ahead the next time, at most.
    ahead: AtomicU64,
}

/// Zeros that are written at a time, at most.
const SLICE: u64 = 256 << 10;
/// What of them is written first, to a file that may take little more: one that an opening goes on
/// with, or that an empty store begins with. It doubles each time.
const FIRST_SLICE: u64 = 16 << 10;
const BLOCK: u64 = 4096;
/// A slice and a block.
static ZEROS: [u8; 260 << 10] = [0; 260 << 10];

impl LogFile {
    fn new(segment: Arc<Segment>, file: Arc<dyn File>, ahead: u64) -> Self {
        let (zeroed, recorded) = (AtomicU64::new(0), AtomicU64::new(0));
        let ahead = AtomicU64::new(ahead);
        LogFile { segment, shared: Arc::new(Shared { file, zeroed, recorded, ahead }) }
    }

    /// Creates the file of a segment, its header written and synced. Its name is durable only after
    /// the directory is synced. A log segment is allocated whole, so that no commit wants for room; a
    /// run takes room as it is written, as its inputs lie beside it until it is done.
    ///
    /// # Errors
    /// `DiskFull` if there is no room; nothing is left behind then.
    pub(crate) fn create(
        io: &Io,
        dir: &Path,
        owner: &Owner,
        listed: &Listed,
        verify: Verify,
    ) -> Result<Self> {
        let path = dir.join(file_name(listed.id, listed.run));
        let created = if listed.run {
            io.fs.create_sparse(&path, listed.capacity)
        } else {
            io.fs.create(&path, listed.capacity)
        };
        let file = created.map_err(|e| Error::io("create", &path, e))?;
        let made = write_header(&*file, owner, listed).and_then(|()| file.map(listed.capacity));
        let map = made.map_err(|e| {
            // A leftover would be an orphan without a frame, which the next opening removes.
            let _ = io.fs.remove(&path);
            Error::io("prepare", &path, e)
        })?;
        let segment = Arc::new(Segment::assemble(path, map, listed, verify));
        let ahead = if listed.capacity <= SLICE { FIRST_SLICE } else { SLICE };
        Ok(LogFile::new(segment, file, ahead))
    }

    /// A segment whose file is open already.
    pub(crate) fn of(segment: Arc<Segment>, file: Arc<dyn File>) -> Self {
        LogFile::new(segment, file, FIRST_SLICE)
    }

    /// Opens the file of a listed segment, for writing on if `write`.
    pub(crate) fn reopen(io: &Io, segment: Arc<Segment>, write: bool) -> Result<Self> {
        let path = segment.path();
        let file = io.fs.open(path, write).map_err(|e| Error::io("open", path, e))?;
        Ok(LogFile::new(segment, file, FIRST_SLICE))
    }

    /// Fills the segment with zeros, slice by slice, as long as `go_on` says so before each. Only
    /// for a segment that nobody writes to yet.
    ///
    /// # Errors
    /// If a sync fails, this one or one of `go_on`: the file is not to be used then. The system may
    /// take its blocks for written from then on though they are not, and a later sync of frames in
    /// them would not find out.
    pub(crate) fn fill(&self, mut go_on: impl FnMut() -> Result<bool>) -> Result<()> {
        let mut at = FIRST_FRAME;
        while at < self.segment.capacity && go_on()? {
            let next = (at + 1).next_multiple_of(SLICE);
            // Only an optimisation: where there is no room for zeros, there may be for frames.
            let Ok(next) = self.write_zeros(at, next) else { break };
            at = next;
            self.shared.zeroed.store(at, Ordering::Release);
        }
        self.sync_frames(at)
    }

    /// Sees to it that the blocks behind `end`, the end of the frames, hold zeros when the next frames
    /// come, up to a multiple of `ahead`, a power of two of at most 256 KiB.
    ///
    /// On blocks that are merely allocated each sync would have to record in the file system that they
    /// are in use, and flush twice. And a small write takes three times as long where it must get
    /// memory for the file, page by page, than where one large write has got it.
    pub(crate) fn zero_ahead(&self, end: u64, ahead: u64) -> Result<()> {
        let zeroed = self.shared.zeroed.load(Ordering::Acquire);
        if end + BLOCK <= zeroed || end >= self.segment.capacity {
            return Ok(());
        }
        let most = self.shared.ahead.load(Ordering::Relaxed);
        let to = (end + BLOCK).next_multiple_of(ahead.min(most));
        self.shared.ahead.store((most * 2).min(SLICE), Ordering::Relaxed);
        let zeroed = self.write_zeros(end.max(zeroed), to)?;
        self.shared.zeroed.store(zeroed, Ordering::Release);
        Ok(())
    }

    /// Writes zeros up to `to`, or to the end of the file; gives where they end.
    fn write_zeros(&self, at: u64, to: u64) -> Result<u64> {
        let to = to.min(self.segment.capacity);
        let len = usize::try_from(to.saturating_sub(at)).unwrap_or(usize::MAX).min(ZEROS.len());
        self.write(&[IoSlice::new(ZEROS.get(..len).unwrap_or_default())], at)?;
        Ok(at + len as u64)
    }

    /// Writes `bufs` one after the other at `offset`. Nothing is published.
    pub(crate) fn write(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let file = &self.shared.file;
        file.write_at(bufs, offset).map_err(|e| Error::io("write", self.segment.path(), e))
    }

    /// Makes everything written up to `end` durable, and sure that it can be found again: where
    /// blocks were merely allocated before, that takes more than a sync.
    pub(crate) fn sync_frames(&self, end: u64) -> Result<()> {
        // Asked first: zeros that come in meanwhile may not be part of the sync.
        let zeroed = self.shared.zeroed.load(Ordering::Acquire);
        self.sync()?;
        if end > self.shared.recorded.load(Ordering::Acquire) {
            let path = self.segment.path();
            self.shared.file.confirm().map_err(|e| Error::io("confirm a sync of", path, e))?;
            self.shared.recorded.fetch_max(end.max(zeroed), Ordering::Release);
        }
        Ok(())
    }

    /// Makes everything written durable, if no frames lie where nothing lay before.
    pub(crate) fn sync(&self) -> Result<()> {
        self.shared.file.sync().map_err(|e| Error::io("sync", self.segment.path(), e))
    }

    /// Gives back the blocks between the data and the footer.
    pub(crate) fn punch(&self, from: u64, to: u64) {
        let from = from.next_multiple_of(BLOCK);
        let to = to & !(BLOCK - 1);
        if to > from {
            // Only space would be saved: that it could not be done is no error.
            let _ = self.shared.file.punch(from, to - from);
        }
    }
}

fn write_header(file: &dyn File, owner: &Owner, listed: &Listed) -> std::io::Result<()> {
    let header = Header {
        store: owner.store,
        id: listed.id,
        salt: listed.salt,
        base: listed.base,
        capacity: listed.capacity,
        layout: if listed.run { Layout::Run } else { Layout::Log },
        era: owner.era,
        compatible: 0,
    };
    file.write_at(&[IoSlice::new(&header.encode())], 0)?;
    file.sync()
}

/// The line of the manifest for a new segment.
pub(crate) fn new_listed(id: u64, salt: u64, base: u64, capacity: u64, role: Role) -> Listed {
    Listed {
        id,
        salt,
        role,
        run: false,
        base,
        capacity,
        data_end: 0,
        footer_check: 0,
        dead: 0,
        dead_since: 0,
    }
}

/// The offset of the first frame.
pub(crate) const FIRST_FRAME: u64 = HEADER_LEN as u64;

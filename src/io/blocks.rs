//! Blocks of files: taken before they are written, given back, and told from holes.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::io::retry_on_intr;

/// Gives an empty file `len` bytes of zero, with blocks of its own.
pub(super) fn allocate(file: &fs::File, len: u64) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if len > 0 {
        use rustix::{
            fs::{FallocateFlags, fallocate},
            io::Errno,
        };
        match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, len)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            done => return Ok(done?),
        }
    }
    fill(file, len)
}

/// Writes zeros: on a file system that cannot allocate, the one way to have the blocks.
pub(super) fn fill(file: &fs::File, len: u64) -> io::Result<()> {
    const STEP: usize = 256 << 10;
    static ZEROS: [u8; STEP] = [0; STEP];
    for offset in (0..len).step_by(STEP) {
        let rest = usize::try_from(len - offset).unwrap_or(STEP).min(STEP);
        file.write_all_at(ZEROS.get(..rest).unwrap_or_default(), offset)?;
    }
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn punch(file: &fs::File, offset: u64, len: u64) -> io::Result<()> {
    use rustix::{
        fs::{FallocateFlags, fallocate},
        io::Errno,
    };
    if len == 0 {
        return Ok(());
    }
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match retry_on_intr(|| fallocate(file, mode, offset, len)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        done => Ok(done?),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn data_from(file: &fs::File, offset: u64) -> io::Result<Option<Range<u64>>> {
    use rustix::{
        fs::{SeekFrom, seek},
        io::Errno,
    };
    let start = match seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that cannot tell: everything may be data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return whole_from(file, offset),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(start..seek(file, SeekFrom::Hole(start))?))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn data_from(file: &fs::File, offset: u64) -> io::Result<Option<Range<u64>>> {
    whole_from(file, offset)
}

fn whole_from(file: &fs::File, offset: u64) -> io::Result<Option<Range<u64>>> {
    let len = file.metadata()?.len();
    Ok((offset < len).then_some(offset..len))
}

/// Only Linux can, in a way that this knows of.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn punch(_file: &fs::File, _offset: u64, _len: u64) -> io::Result<()> {
    Ok(())
}

//! Whether what a sync relied on reached the journal of the file system. ext4 does not always say.
//!
//! When ext4 cannot write its journal, whoever waits for the very transaction that fails hears of
//! it. A sync beside that one may not: what it needs recorded (that blocks are in use now, that a
//! file has a name) was in the transaction that failed, or found the journal aborted already, and
//! there is nothing left for it to wait for. It answers success, as long as nobody else has tried to
//! change anything and found out; after the next mount the blocks read as zeros, and the name is
//! gone. Seen on Linux 6.18: with one failing write or flush of the medium, about one store in a
//! hundred lost acknowledged batches. XFS and btrfs answer with an error.
//!
//! An aborted journal stays so until the file system is mounted anew. So the file is given the
//! flags that it has: that asks for a place in the journal, and changes nothing. Where it is granted
//! behind a sync that succeeded, the journal has been alive up to here, and no transaction has
//! failed: what that sync and all others before it relied on was committed.
//!
//! It takes some microseconds; but it marks the inode as changed, which on an ext4 without a journal
//! the next sync then writes too. Syncs of blocks that were in use before do without.

use std::fs::File;
use std::io;

/// How ext4 names itself, and overlayfs, which may lie above it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const KINDS: [u32; 2] = [0xef53, 0x794c_7630];

/// Whether a successful sync of this file, or directory, says too little.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn is_asked(file: &File) -> bool {
    use rustix::{fs::fstatfs, io::retry_on_intr};
    // Who is not told the kind of the file system does without.
    let Ok(stat) = retry_on_intr(|| fstatfs(file)) else { return false };
    u32::try_from(stat.f_type).is_ok_and(|kind| KINDS.contains(&kind))
}

/// Asks for a place in the journal, behind a sync.
///
/// # Errors
/// If none is granted: what syncs relied on may be lost.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn ask(file: &File) -> io::Result<()> {
    use rustix::{
        fs::{ioctl_getflags, ioctl_setflags},
        io::{Errno, retry_on_intr},
    };
    let asked = retry_on_intr(|| ioctl_setflags(file, ioctl_getflags(file)?));
    match asked {
        Err(error @ (Errno::IO | Errno::ROFS)) => Err(error.into()),
        // Somebody else's file, or a system that keeps such calls from us: nothing is known then.
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn is_asked(_file: &File) -> bool {
    false
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn ask(_file: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_file_system_grants_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for file in [File::create(&path).unwrap(), File::open(&path).unwrap()] {
            ask(&file).unwrap();
        }
        ask(&File::open(dir.path()).unwrap()).unwrap();
    }
}

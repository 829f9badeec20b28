//! Whether what a sync relied on reached the journal of the file system. ext4 does not always say.
//!
//! When ext4 cannot write its journal, whoever waits for the very transaction that fails hears of
//! it. A sync beside that one may not: what it needs recorded (that blocks are in use now, that a
//! file has a name) was in the transaction that failed, or found the journal aborted already, and
//! there is nothing left for it to wait for. It answers success, as long as nobody else has tried to
//! change anything and found out; after the next mount the blocks read as zeros, and the name is
//! gone. Seen on Linux 6.18: with one failing write or flush of the medium, about one store in a
//! hundred lost acknowledged batches.
//!
//! An aborted journal stays so until the file system is mounted anew. So after a sync the file is
//! given the flags that it has: that asks for a place in the journal, and changes nothing. Where it
//! is granted, the journal was alive all the time that the sync took, and no transaction has failed.

use std::fs::File;
use std::io;

/// How ext4 names itself, and what it mounts for ext2 and ext3.
#[cfg(any(target_os = "linux", target_os = "android"))]
const EXT4: u32 = 0xef53;

/// Whether a successful sync of this file, or directory, says too little.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn is_asked(file: &File) -> bool {
    use rustix::{fs::fstatfs, io::retry_on_intr};
    // Who is not told the kind of the file system does without.
    retry_on_intr(|| fstatfs(file)).is_ok_and(|stat| u32::try_from(stat.f_type) == Ok(EXT4))
}

/// Asks for a place in the journal, behind a sync.
///
/// # Errors
/// If none is granted: what the sync relied on may be lost.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn ask(file: &File) -> io::Result<()> {
    use rustix::{
        fs::{ioctl_getflags, ioctl_setflags},
        io::{Errno, retry_on_intr},
    };
    let asked = retry_on_intr(|| ioctl_setflags(file, ioctl_getflags(file)?));
    match asked {
        // Somebody else's file, or a system that keeps such calls from us: nothing is known then.
        Err(Errno::PERM | Errno::ACCESS | Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        asked => Ok(asked?),
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

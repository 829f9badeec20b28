//! A directory that is made under a hidden name beside its place, and gets its name once it is whole.
//!
//! The name says what it is to become, and a lock in it that its maker lives. What a killed maker left
//! is therefore recognised, and removed, by the next one with the same target.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::failure::Failure;

/// The lock file: that of a store, which is left in it.
const LOCK: &str = "LOCK";
/// Characters at the end of a name that differ from one to the next.
const RANDOM: usize = 6;
/// Attempts to make one that no other process takes for a leftover at once.
const ATTEMPTS: u32 = 16;

/// A directory under a hidden name. Dropping it removes it.
pub(crate) struct Beside {
    directory: TempDir,
    /// Held as long as the directory has its hidden name.
    _lock: File,
}

impl Beside {
    /// Makes one for `target`, once the leftovers of killed ones are gone.
    pub(crate) fn new(target: &Path, mode: u32) -> Result<Beside, Failure> {
        let parent = parent(target);
        let prefix = prefix(target);
        remove_leftovers(parent, &prefix)?;
        let failed = |error| Failure::io("make a directory in", parent, &error);
        for _ in 0..ATTEMPTS {
            let directory = tempfile::Builder::new()
                .prefix(&prefix)
                .rand_bytes(RANDOM)
                .permissions(Permissions::from_mode(searchable(mode)))
                .tempdir_in(parent)
                .map_err(failed)?;
            let path = directory.path().join(LOCK);
            let mut options = File::options();
            let made = options.write(true).create_new(true).mode(mode).open(&path);
            match made.and_then(|file| file.try_lock().map_err(io::Error::from).map(|()| file)) {
                Ok(lock) => return Ok(Beside { directory, _lock: lock }),
                // Another process with the same target took it for a leftover.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::io("lock", &path, &error)),
            }
        }
        Err(failed(io::Error::from(io::ErrorKind::ResourceBusy)))
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Gives it its name, which an empty directory may have.
    pub(crate) fn become_target(self, target: &Path) -> Result<(), Failure> {
        fs::rename(self.path(), target).map_err(|error| Failure::io("create", target, &error))?;
        // It has another name now, and is not to be removed.
        let _ = self.directory.keep();
        Ok(())
    }
}

/// The directory that holds the name of `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What the hidden names for a target begin with.
fn prefix(target: &Path) -> OsString {
    let mut prefix = OsString::from(".memlog-restore-");
    prefix.push(target.file_name().unwrap_or(OsStr::new("store")));
    prefix.push("-");
    prefix
}

/// The bits of a directory: all who may read it may search it.
fn searchable(mode: u32) -> u32 {
    mode | (mode & 0o444) >> 2
}

/// Removes the directories that killed makers left: those that nothing has locked, and that hold only
/// what a store has.
fn remove_leftovers(parent: &Path, prefix: &OsStr) -> Result<(), Failure> {
    let listed = fs::read_dir(parent).map_err(|error| Failure::io("list", parent, &error))?;
    for item in listed {
        let path = item.map_err(|error| Failure::io("list", parent, &error))?.path();
        if is_for(path.file_name(), prefix) && is_left(&path) {
            fs::remove_dir_all(&path)
                .map_err(|error| Failure::io("remove the leftover", &path, &error))?;
        }
    }
    Ok(())
}

fn is_for(name: Option<&OsStr>, prefix: &OsStr) -> bool {
    let name = name.unwrap_or_default().as_encoded_bytes();
    let random = name.strip_prefix(prefix.as_encoded_bytes()).unwrap_or_default();
    random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric)
}

/// Whether a directory is one that its maker left.
fn is_left(path: &Path) -> bool {
    let Ok(listed) = fs::read_dir(path) else { return false };
    let names: Vec<PathBuf> = listed.flatten().map(|item| item.path()).collect();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name == LOCK || crate::backup::is_of_a_store(name)
    };
    if !names.iter().all(is_ours) {
        return false;
    }
    match File::open(path.join(LOCK)) {
        // The lock of a maker that lives is its own.
        Ok(file) => file.try_lock().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound && names.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_the_same_target_go_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let target = base.path().join("mem");
        let left = |name: &str, file: Option<&str>| {
            let path = base.path().join(name);
            fs::create_dir(&path).unwrap();
            if let Some(file) = file {
                fs::write(path.join(file), "x").unwrap();
            }
            path
        };
        let gone = [
            left(".memlog-restore-mem-abc123", Some(LOCK)),
            left(".memlog-restore-mem-ABCDEF", None),
        ];
        fs::write(gone[0].join("0000000000000001.log"), "x").unwrap();
        let stay = [
            left(".memlog-restore-other-abc123", Some(LOCK)),
            left(".memlog-restore-mem-abc12", Some(LOCK)),
            left(".memlog-restore-mem-2-abc123", Some(LOCK)),
            left(".memlog-restore-mem-thesis", Some("thesis.txt")),
            left(".memlog-restore-mem-nolock", Some("MANIFEST")),
        ];
        // Two at a time, which take no notice of each other.
        let first = Beside::new(&target, 0o600).unwrap();
        let second = Beside::new(&target, 0o640).unwrap();
        assert!(gone.iter().all(|path| !path.exists()));
        assert!(stay.iter().all(|path| path.exists()));
        assert!(first.path().exists() && second.path().exists());
        let hidden = second.path().to_owned();
        drop(second);
        assert!(!hidden.exists());
        first.become_target(&target).unwrap();
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(target.join(LOCK).exists());
    }
}

//! A directory that is made under a hidden name beside its place, and gets its name once it is whole.
//! What a killed process left under the hidden name is removed by the next one.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::io::{Io, Lock};

/// A directory in the making. Dropped before it is finished, it is removed.
pub(crate) struct Beside<'a> {
    io: &'a Io,
    target: &'a Path,
    parent: PathBuf,
    /// The directory until it is whole.
    hidden: PathBuf,
    /// The file whose lock keeps a second process out that makes the same directory.
    lock: PathBuf,
    held: Option<Box<dyn Lock>>,
}

impl<'a> Beside<'a> {
    /// Begins to make `target`, which must be absent or an empty directory. `what` names the work, in
    /// the hidden names and in errors.
    ///
    /// # Errors
    /// `InvalidInput` if `target` is not empty or names no directory; `InUse` if another process makes
    /// it; `Io`, `DiskFull`.
    pub(crate) fn begin(io: &'a Io, target: &'a Path, what: &str) -> Result<Self> {
        let name = target.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
            let message = format!("{} cannot be made: it is no name in UTF-8", target.display());
            Error::new(ErrorKind::InvalidInput, message)
        })?;
        check_empty(io, target, what)?;
        let above = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = above.unwrap_or(Path::new(".")).to_owned();
        io.fs.create_dir(&parent).map_err(|e| Error::io("create", &parent, e))?;
        let hidden = parent.join(format!(".{name}.memlog-{what}"));
        let lock = parent.join(format!(".{name}.memlog-{what}.lock"));
        let held = io.fs.lock(&lock).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => {
                let message = format!("another {what} into {} is under way", target.display());
                Error::new(ErrorKind::InUse, message)
            }
            _ => Error::io("lock", &lock, e),
        })?;
        let beside = Beside { io, target, parent, hidden, lock, held: Some(held) };
        // Looked at again: another process may have finished before the lock was free.
        check_empty(io, target, what)?;
        beside.clear()?;
        io.fs.create_dir(&beside.hidden).map_err(|e| Error::io("create", &beside.hidden, e))?;
        Ok(beside)
    }

    /// Where the directory is until it is finished.
    pub(crate) fn dir(&self) -> &Path {
        &self.hidden
    }

    /// Gives the directory its name. All files in it are durable.
    ///
    /// # Errors
    /// `Io`. If it is the name that could not be made durable, the directory is there and whole.
    pub(crate) fn finish(self) -> Result<()> {
        let fs = &self.io.fs;
        fs.sync_dir(&self.hidden).map_err(|e| Error::io("sync", &self.hidden, e))?;
        fs.rename(&self.hidden, self.target).map_err(|e| Error::io("create", self.target, e))?;
        fs.sync_dir(&self.parent).map_err(|e| Error::io("sync", &self.parent, e))
    }

    /// Removes what is there under the hidden name.
    fn clear(&self) -> Result<()> {
        let fs = &self.io.fs;
        let names = match fs.list(&self.hidden) {
            Ok(names) => names,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("list", &self.hidden, e)),
        };
        for name in names {
            let path = self.hidden.join(name);
            fs.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        fs.remove_dir(&self.hidden).map_err(|e| Error::io("remove", &self.hidden, e))
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        // What cannot be removed now, the next one removes.
        let _ = self.clear();
        let _ = self.io.fs.remove(&self.lock);
        self.held = None;
    }
}

fn check_empty(io: &Io, target: &Path, what: &str) -> Result<()> {
    let is_empty = match io.fs.list(target) {
        Ok(names) => names.is_empty(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => false,
        Err(e) => return Err(Error::io("list", target, e)),
    };
    if is_empty {
        return Ok(());
    }
    let message = format!("{} is not empty: a {what} needs a new directory", target.display());
    Err(Error::new(ErrorKind::InvalidInput, message))
}

//! The manifest on disk: read at open, replaced atomically afterwards.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::path::{Path, PathBuf};

use crate::error::{Damage, Error, ErrorKind, Result};
use crate::format::manifest::{MAX_LEN, Manifest, ManifestFault};
use crate::format::{Fault, VERSION, features};
use crate::io::{File, Io};
use crate::sync::Mutex;

/// The name of the manifest's file.
pub(crate) const NAME: &str = "MANIFEST";
/// The name that a new manifest has until it is complete.
pub(crate) const TEMP: &str = "MANIFEST.tmp";

/// The manifest of an open store.
pub(crate) struct ManifestFile {
    io: Io,
    dir: PathBuf,
    current: Mutex<Manifest>,
}

/// How far a failed replacement got.
pub(crate) enum Failure {
    /// The old manifest is in force, for certain.
    Unchanged(Error),
    /// Either may be in force after a crash: nothing more may be written.
    Unknown(Error),
}

/// The bytes of the file.
fn bytes_of(file: &dyn File, path: &Path) -> Result<Vec<u8>> {
    let len = file.len().map_err(|e| Error::io("measure", path, e))?;
    if len > MAX_LEN {
        return Err(Error::damaged(Damage::new(path, 0, "the manifest is too long")));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_at(&mut bytes, 0).map_err(|e| Error::io("read", path, e))?;
    Ok(bytes)
}

/// Whether there is an intact manifest that needs features which this crate does not have.
pub(crate) fn needs_features(io: &Io, dir: &Path) -> Result<bool> {
    let path = dir.join(NAME);
    let file = io.fs.open(&path, false).map_err(|e| Error::io("open", &path, e))?;
    let decoded = Manifest::decode(&bytes_of(&*file, &path)?);
    Ok(matches!(decoded, Err(ManifestFault::Features(_))))
}

/// Reads the manifest of the store in `dir`; `None` if there is none.
///
/// # Errors
/// `Damaged`, `Version` or `Io`; `NotAStore` if the file is something else.
pub(crate) fn read(io: &Io, dir: &Path) -> Result<Option<Manifest>> {
    let path = dir.join(NAME);
    let file = match io.fs.open(&path, false) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open", &path, e)),
    };
    let bytes = bytes_of(&*file, &path)?;
    match Manifest::decode(&bytes) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(ManifestFault::Version(found)) => Err(Error::version(&path, found, VERSION)),
        Err(ManifestFault::Features(bits)) => Err(Error::features(&path, &features::names(bits))),
        Err(ManifestFault::Damaged(Fault(reason))) => {
            Err(Error::damaged(Damage::new(&path, 0, reason)))
        }
        Err(ManifestFault::Foreign) => Err(Error::damaged(Damage::new(
            &path,
            0,
            "the file is not a manifest of memlog, or its beginning is damaged",
        ))),
    }
}

impl ManifestFile {
    /// Takes charge of a manifest that is in force.
    pub(crate) fn new(io: Io, dir: PathBuf, current: Manifest) -> Self {
        ManifestFile { io, dir, current: Mutex::new(current) }
    }

    /// A copy of the manifest in force.
    pub(crate) fn current(&self) -> Manifest {
        self.current.lock().clone()
    }

    /// The id of a segment that is about to be made. It is on disk with the next manifest: a file
    /// that is not listed before a crash means nothing, and its id may be given again.
    pub(crate) fn take_id(&self) -> u64 {
        let mut current = self.current.lock();
        let id = current.next_id;
        current.next_id += 1;
        id
    }

    /// Replaces the manifest by what `change` makes of it: temp file, sync, rename, sync of the
    /// directory; before all of it another sync of the directory, if segments are new or files were
    /// unlinked.
    pub(crate) fn replace(
        &self,
        change: impl FnOnce(&mut Manifest),
    ) -> std::result::Result<(), Failure> {
        let mut current = self.current.lock();
        let mut next = current.clone();
        change(&mut next);
        next.generation += 1;
        install(&self.io, &self.dir, &next, Some(&current))?;
        *current = next;
        Ok(())
    }
}

/// Puts a manifest in force, in the place of the one `before` it.
pub(crate) fn install(
    io: &Io,
    dir: &Path,
    manifest: &Manifest,
    before: Option<&Manifest>,
) -> std::result::Result<(), Failure> {
    let (temp, path) = (dir.join(TEMP), dir.join(NAME));
    let names = before.is_none_or(|before| relies_on_names(manifest, before));
    write_temp(io, dir, &temp, manifest, names).map_err(|e| {
        let _ = io.fs.remove(&temp);
        Failure::Unchanged(e)
    })?;
    io.fs.rename(&temp, &path).map_err(|e| Failure::Unknown(Error::io("replace", &path, e)))?;
    io.fs.sync_dir(dir).map_err(|e| Failure::Unknown(Error::io("sync", dir, e)))
}

/// Whether files must be there, or gone, whenever the manifest is in force, of which the one before
/// said otherwise: their names have to be durable first.
fn relies_on_names(manifest: &Manifest, before: &Manifest) -> bool {
    let known: BTreeSet<u64> = before.segments.iter().map(|line| line.id).collect();
    let dropped: BTreeSet<u64> = manifest.obsolete.iter().copied().collect();
    manifest.segments.iter().any(|line| !known.contains(&line.id))
        || before.obsolete.iter().any(|id| !dropped.contains(id))
}

fn write_temp(io: &Io, dir: &Path, temp: &Path, manifest: &Manifest, names: bool) -> Result<()> {
    if names {
        io.fs.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
    }
    let bytes = manifest.encode();
    match io.fs.remove(temp) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", temp, e));
        }
        _ => {}
    }
    let file = io.fs.create(temp, bytes.len() as u64).map_err(|e| Error::io("create", temp, e))?;
    file.write_at(&[IoSlice::new(&bytes)], 0).map_err(|e| Error::io("write", temp, e))?;
    file.sync().map_err(|e| Error::io("sync", temp, e))
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unchanged(e) => e,
            Failure::Unknown(e) => {
                e.restated(ErrorKind::Indeterminate, "the manifest may or may not be replaced")
            }
        }
    }
}

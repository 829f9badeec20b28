//! What lies in a store's directory, whether or not the manifest lists it.

use std::path::Path;
use std::sync::Arc;

use crate::commit::reserve::{LAST_RESERVE_FILE, RESERVE_FILE};
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::format::features;
use crate::format::header::{HEADER_LEN, Header, HeaderFault};
use crate::format::manifest::{Manifest, Role};
use crate::io::{File, Io};
use crate::manifest;
use crate::recovery::LOCK_FILE;
use crate::segment::window::{Window, read_exact};
use crate::segment::{file_name, parse_file_name};

/// The page that readers will map: nothing writes it yet, and it is no file of somebody else.
const HINT_FILE: &str = "HINT";

/// The mark of a backup that is not finished: it is there until the backup's manifest is.
pub(crate) const BACKUP_FILE: &str = "BACKUP.tmp";

/// The files in a directory, by what their names say.
pub(crate) struct Files {
    pub(crate) manifest: bool,
    pub(crate) temp: bool,
    pub(crate) reserve: bool,
    /// Ids of segment files, and whether each is a run.
    pub(crate) segments: Vec<(u64, bool)>,
    /// Names that a store does not use.
    others: usize,
}

impl Files {
    /// Looks into `dir`; an absent one is empty.
    pub(crate) fn look(io: &Io, dir: &Path) -> Result<Self> {
        let names = match io.fs.list(dir) {
            Ok(names) => names,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
                let message = format!("{} is not a store: it is no directory", dir.display());
                return Err(Error::new(ErrorKind::NotAStore, message).with_path(dir));
            }
            Err(e) => return Err(Error::io("list", dir, e)),
        };
        let mut files =
            Files { manifest: false, temp: false, reserve: false, segments: Vec::new(), others: 0 };
        for name in &names {
            match name.as_str() {
                manifest::NAME => files.manifest = true,
                manifest::TEMP => files.temp = true,
                RESERVE_FILE => files.reserve = true,
                LOCK_FILE | HINT_FILE | BACKUP_FILE | LAST_RESERVE_FILE => {}
                other => match parse_file_name(other) {
                    Some(segment) => files.segments.push(segment),
                    None => files.others += 1,
                },
            }
        }
        files.segments.sort_unstable();
        Ok(files)
    }

    /// True if there is nothing of a store.
    pub(crate) fn is_nothing(&self) -> bool {
        !self.manifest && self.segments.is_empty()
    }

    /// True if there are only files of somebody else.
    pub(crate) fn is_foreign(&self) -> bool {
        self.is_nothing() && self.others > 0
    }

    /// Without a manifest: only a creation that was cut short leaves segments without frames.
    pub(crate) fn check_nothing_lost(&self, io: &Io, dir: &Path) -> Result<()> {
        for (id, run) in &self.segments {
            if *run || has_frame(io, dir, *id)? {
                return Err(Error::damaged(Damage::new(
                    dir.join(manifest::NAME),
                    0,
                    "the manifest is missing, and there are segments with data",
                )));
            }
        }
        Ok(())
    }

    /// Removes what a creation that was cut short left.
    pub(crate) fn remove_leftovers(&self, io: &Io, dir: &Path) -> Result<()> {
        for (id, run) in &self.segments {
            let path = dir.join(file_name(*id, *run));
            io.fs.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        Ok(())
    }

    /// Whether a file is missing that the manifest counts on.
    pub(crate) fn lacks_listed(&self, manifest: &Manifest) -> bool {
        let counts = manifest.segments.iter().filter(|line| line.role != Role::Draft);
        counts.into_iter().any(|line| !self.segments.contains(&(line.id, line.run)))
    }

    /// Removes orphans, and refuses segments with data that the manifest does not know. Runs stay
    /// where a listed segment is missing: it may be the manifest that is wrong, and the run all that
    /// is left of it.
    ///
    /// # Errors
    /// `StaleManifest`.
    pub(crate) fn check_unlisted(&self, io: &Io, dir: &Path, manifest: &Manifest) -> Result<()> {
        let lacks = self.lacks_listed(manifest);
        let mut orphans = Vec::new();
        for (id, run) in &self.segments {
            let listed = manifest.segments.iter().any(|line| (line.id, line.run) == (*id, *run));
            if listed || manifest.obsolete.contains(id) {
                continue;
            }
            let path = dir.join(file_name(*id, *run));
            if !run && has_frame(io, dir, *id)? {
                return Err(Error::new(
                    ErrorKind::StaleManifest,
                    format!(
                        "{} holds data that the manifest does not list: the manifest is older than \
                         the segments. Bring the newest one back, or repair the store",
                        path.display()
                    ),
                ));
            }
            if !(*run && lacks) {
                orphans.push(path);
            }
        }
        // Only now: the newest manifest may list runs that an older one does not.
        for path in &orphans {
            io.fs.remove(path).map_err(|e| Error::io("remove", path, e))?;
        }
        if self.temp {
            // A leftover of a replacement that was cut short: the next one would remove it too.
            let _ = io.fs.remove(&dir.join(manifest::TEMP));
        }
        Ok(())
    }
}

/// Opens a file for reading; `None` if there is none.
///
/// # Errors
/// `Io`: rights and failing media are no damage.
pub(crate) fn open_file(io: &Io, path: &Path) -> Result<Option<Arc<dyn File>>> {
    match io.fs.open(path, false) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("open", path, e)),
    }
}

/// The header of a segment file of `len` bytes, if it is whole.
///
/// # Errors
/// `Version` if it is whole and needs features that this crate lacks; `Io`.
pub(crate) fn read_header(file: &dyn File, path: &Path, len: u64) -> Result<Option<Header>> {
    let mut bytes = [0; HEADER_LEN];
    if len < HEADER_LEN as u64 {
        return Ok(None);
    }
    read_exact(file, path, &mut bytes, 0)?;
    match Header::decode(&bytes) {
        Ok(header) => Ok(Some(header)),
        // It is intact: what follows must not be guessed without the features that it names.
        Err(HeaderFault::Features(bits)) => Err(Error::features(path, &features::names(bits))),
        Err(_) => Ok(None),
    }
}

/// Whether a log segment holds any frame that can be told as one.
pub(super) fn has_frame(io: &Io, dir: &Path, id: u64) -> Result<bool> {
    let path = dir.join(file_name(id, false));
    let file = io.fs.open(&path, false).map_err(|e| Error::io("open", &path, e))?;
    let len = file.len().map_err(|e| Error::io("measure", &path, e))?;
    let header = read_header(&*file, &path, len)?;
    let (salt, base) = header.map_or((0, 0), |header| (header.salt, header.base));
    let mut window = Window::new(file, &path, len, salt, base);
    let first = HEADER_LEN as u64;
    if header.is_none() {
        // Its creation was cut short, or it is rotten. Its bytes decide: no frame is written before
        // the header is synced.
        return Ok(window.last_written(first)?.is_some());
    }
    Ok(window.next_header(first)?.is_some())
}

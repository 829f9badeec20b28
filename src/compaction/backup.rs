//! Backup: a store in another directory that has everything durable up to a moment, made while the
//! store is written.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use crate::compaction::Compactor;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Era;
use crate::format::manifest::{Listed, Manifest, Role};
use crate::io::Lock;
use crate::manifest::{self, Failure};
use crate::recovery::LOCK_FILE;
use crate::recovery::files::BACKUP_FILE;
use crate::segment::writer::{FIRST_FRAME, LogFile, Owner, new_listed};
use crate::segment::{Segment, file_name, parse_file_name};
use crate::types::Lsn;

/// The active segment of a backup.
const FRESH: u64 = 1 << 20;
/// Bytes copied at a time.
const PIECE: usize = 4 << 20;

impl Compactor {
    /// Makes a backup in `dir`; gives the lsn up to which it has everything.
    pub(crate) fn backup(&self, dir: &Path) -> Result<Lsn> {
        let engine = &self.engine;
        engine.check_open()?;
        engine.check_writable()?;
        let io = &engine.io;
        let left = self.check_target(dir)?;
        // Nothing is compacted meanwhile; appends and seals go on.
        let _busy = self.take_busy()?;
        self.go_on()?;
        engine.seal_active()?;
        let Some(writing) = &engine.writing else { return Ok(Lsn(0)) };
        // Segments of which nothing is left are in no set, and what they forgot stays forgotten.
        let unsealed = engine.order.lock().oldest_unsealed();
        let set = engine.catalog.segments();
        let current = writing.manifest.current();
        let end = set.sealed.iter().map(|segment| segment.end_lsn()).fold(unsealed, u64::max);
        let _mark = self.mark(dir, left)?;
        for segment in &set.sealed {
            self.go_on()?;
            self.bring(segment, dir)?;
        }
        let sealed = |line: &&Listed| set.sealed.iter().any(|segment| segment.id == line.id);
        let mut segments: Vec<Listed> = current
            .segments
            .iter()
            .filter(|line| line.role == Role::Sealed)
            .filter(sealed)
            .copied()
            .collect();
        let logs = current.segments.iter().filter(|line| !line.run);
        let base = logs.map(|line| line.base.saturating_add(line.capacity)).max().unwrap_or(end);
        let fresh =
            new_listed(current.next_id, io.random.next(), base.max(end), FRESH, Role::Active);
        // What is appended there gets lsns that this store gives too: another lineage begins.
        let history = io.random.next().max(1);
        let owner = Owner { era: Era::new(current.incarnation, history), ..engine.owner() };
        LogFile::create(io, dir, &owner, &fresh, engine.options.verify)?;
        segments.push(fresh);
        let first = fresh.base.saturating_add(FIRST_FRAME);
        let made = Manifest {
            next_id: current.next_id + 1,
            durable: first,
            time: engine.now(),
            clean_end: first,
            segments,
            forgotten: engine.catalog.forgotten(end),
            obsolete: Vec::new(),
            history,
            ..current
        };
        // Whichever it is, what is there is no backup, and the store itself is as it was.
        let installed = manifest::install(io, dir, &made, None);
        installed.map_err(|(Failure::Unchanged(error) | Failure::Unknown(error))| error)?;
        // The manifest makes it a backup. A mark that stays says nothing any more.
        let _ = io.fs.remove(&dir.join(BACKUP_FILE));
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            io.fs.sync_dir(parent).map_err(|e| Error::io("sync", parent, e))?;
        }
        Ok(Lsn(end))
    }

    /// A backup goes where nothing is, or where an earlier one was cut short. Gives the names of what
    /// that one left.
    fn check_target(&self, dir: &Path) -> Result<Vec<String>> {
        let names = match self.engine.io.fs.list(dir) {
            Ok(names) => names,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io("list", dir, e)),
        };
        let made = |name: &&String| parse_file_name(name).is_some() || *name == manifest::TEMP;
        let marked = names.iter().any(|name| name == BACKUP_FILE);
        let left: Vec<String> = names.iter().filter(made).filter(|_| marked).cloned().collect();
        let known = |name: &String| name == LOCK_FILE || name == BACKUP_FILE || left.contains(name);
        if !names.iter().all(known) {
            let message = format!("{} is not empty: a backup needs a new directory", dir.display());
            return Err(Error::new(ErrorKind::InvalidInput, message).with_path(dir));
        }
        Ok(left)
    }

    /// Marks the directory as a backup that is not finished, and removes what an earlier one left there.
    fn mark(&self, dir: &Path, left: Vec<String>) -> Result<Box<dyn Lock>> {
        let (io, mark) = (&self.engine.io, dir.join(BACKUP_FILE));
        io.fs.create_dir(dir).map_err(|e| Error::io("create", dir, e))?;
        let lock = io.fs.lock(&mark).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => {
                let message = format!("another backup into {} is under way", dir.display());
                Error::new(ErrorKind::InUse, message).with_path(dir)
            }
            _ => Error::io("create", &mark, e),
        })?;
        for path in left.iter().map(|name| dir.join(name)) {
            io.fs.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        // The mark is there before anything that it is needed for.
        io.fs.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
        Ok(lock)
    }

    /// Brings a sealed segment's file there: by another name of the same file where that can be,
    /// else by a copy.
    fn bring(&self, segment: &Arc<Segment>, dir: &Path) -> Result<()> {
        let to = dir.join(file_name(segment.id, segment.run));
        if self.engine.io.fs.link(segment.path(), &to).is_ok() {
            return Ok(());
        }
        // Another file system, or one without hard links; what is missing or broken shows here.
        let fs = &self.engine.io.fs;
        let created = fs.create_sparse(&to, segment.capacity);
        let file = created.map_err(|e| Error::io("create", &to, e))?;
        let footer = segment.trailer().map_or(segment.capacity, |trailer| trailer.footer_at);
        for (from, end) in [(0, segment.data_len()), (footer, segment.capacity)] {
            let mut at = from;
            while at < end {
                self.go_on()?;
                let len = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
                let bytes = segment
                    .raw(at, len)
                    .ok_or_else(|| segment.damage(at, "the segment ends before its footer"))?;
                file.write_at(&[IoSlice::new(bytes)], at)
                    .map_err(|e| Error::io("write", &to, e))?;
                at += len as u64;
            }
        }
        file.sync().map_err(|e| Error::io("sync", &to, e))
    }
}

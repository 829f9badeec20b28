//! Which segment files a salvage reads, with or without a manifest.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::footer::{TRAILER_LEN, Trailer};
use crate::format::header::{HEADER_LEN, Header, Layout};
use crate::format::manifest::{Listed, Role};
use crate::io::File;
use crate::recovery::files::{Files, open_file, read_header};
use crate::recovery::salvage::Salvage;
use crate::segment::window::{Window, probe, read_exact};
use crate::segment::{Segment, file_name};
use crate::types::Verify;

/// A segment file that seems to be of the store.
pub(super) struct Found {
    pub(super) listed: Listed,
    /// Whether the manifest vouches for the line.
    pub(super) vouched: bool,
    pub(super) segment: Arc<Segment>,
    /// Held open where it may be read and removed meanwhile: there are few of these.
    file: Option<Arc<dyn File>>,
}

impl Salvage<'_> {
    /// Finds the segment files to read, in whatever state, and maps them.
    pub(super) fn gather(&mut self, files: &Files) -> Result<Vec<Found>> {
        let mut names = files.segments.clone();
        let lines: Vec<Listed> =
            self.manifest.iter().flat_map(|m| m.segments.iter().copied()).collect();
        // The manifest is younger than the list of the files.
        let counts = |line: &&Listed| line.role != Role::Draft;
        for line in lines.iter().filter(counts) {
            if !names.contains(&(line.id, line.run)) {
                names.push((line.id, line.run));
            }
        }
        names.sort_unstable();
        let (mut found, mut runs) = (Vec::new(), Vec::new());
        for (id, run) in names {
            let line = lines.iter().find(|line| (line.id, line.run) == (id, run)).copied();
            let dropped = self.manifest.as_ref().is_some_and(|m| m.obsolete.contains(&id));
            if dropped || line.is_some_and(|line| line.role == Role::Draft) {
                continue;
            }
            if run && line.is_none() && self.manifest.is_some() {
                // A compaction that was cut short left it, unless the manifest cannot be relied on.
                runs.push(id);
                continue;
            }
            found.extend(self.find(id, run, line)?);
        }
        if self.loose || self.manifest.is_none() {
            self.loose = true;
            for id in runs {
                found.extend(self.find(id, true, None)?);
            }
        }
        Ok(found)
    }

    /// Looks at one file; `None` if it cannot be told what it is, or if it is gone.
    fn find(&mut self, id: u64, run: bool, line: Option<Listed>) -> Result<Option<Found>> {
        let path = self.dir.join(file_name(id, run));
        let Some(file) = open_file(self.io, &path)? else {
            if let Some(line) = line {
                self.loose = true;
                self.found.lose_file(&line, 0);
                self.found.damage(&path, 0, "the segment is missing");
            }
            return Ok(None);
        };
        let len = file.len().map_err(|e| Error::io("measure", &path, e))?;
        self.probe_footer(&*file, &path, len)?;
        let header = read_header(&*file, &path, len)?;
        if header.is_none() && line.is_none() {
            let first = HEADER_LEN as u64;
            if Window::new(Arc::clone(&file), &path, len, 0, 0).last_written(first)?.is_none() {
                // Its creation was cut short: no frame is written before the header is synced.
                return Ok(None);
            }
        }
        let Some(listed) = self.recognise(&path, line, header, len) else { return Ok(None) };
        if (listed.id, listed.run) != (id, run) {
            self.found.damage(&path, 0, "the file is another segment than its name says");
            return Ok(None);
        }
        let map = file.map(len).map_err(|e| Error::io("map", &path, e))?;
        let segment = Arc::new(Segment::assemble(path, map, &listed, self.verify()));
        self.anchor.get_or_insert_with(|| (Arc::clone(&segment), Arc::clone(&file)));
        let unsealed = line.is_some_and(|line| line.role != Role::Sealed);
        Ok(Some(Found { listed, vouched: line.is_some(), segment, file: unsealed.then_some(file) }))
    }

    /// Reads a footer before it is looked at through a map, where a failing medium is a signal.
    fn probe_footer(&self, file: &dyn File, path: &Path, len: u64) -> Result<()> {
        let at = len.saturating_sub(TRAILER_LEN as u64);
        let mut trailer = [0; TRAILER_LEN];
        if len < TRAILER_LEN as u64 {
            return Ok(());
        }
        read_exact(file, path, &mut trailer, at)?;
        match Trailer::read(&trailer, len) {
            Ok(trailer) => probe(file, path, trailer.footer_at, len),
            Err(_) => Ok(()),
        }
    }

    /// A window on the first `end` bytes of a file; `None` if it is gone meanwhile.
    pub(super) fn window(&mut self, found: &Found, end: u64) -> Result<Option<Window>> {
        let (segment, Listed { salt, base, .. }) = (&found.segment, found.listed);
        let Some(file) = self.file_of(found)? else { return Ok(None) };
        Ok(Some(Window::new(file, segment.path(), end.min(segment.capacity), salt, base)))
    }

    /// The file mapped anew; `None` if it is gone meanwhile.
    pub(super) fn map(&mut self, found: &Found) -> Result<Option<Arc<Segment>>> {
        let path = found.segment.path();
        let Some(file) = self.file_of(found)? else { return Ok(None) };
        let map = file.map(found.listed.capacity).map_err(|e| Error::io("map", path, e))?;
        let segment = Segment::assemble(path.to_owned(), map, &found.listed, self.verify());
        Ok(Some(Arc::new(segment)))
    }

    fn file_of(&mut self, found: &Found) -> Result<Option<Arc<dyn File>>> {
        let file = match &found.file {
            Some(file) => Some(Arc::clone(file)),
            None => open_file(self.io, found.segment.path())?,
        };
        self.moved |= file.is_none();
        Ok(file)
    }

    /// What the manifest or, failing that, the file itself says that it is.
    fn recognise(
        &mut self,
        path: &Path,
        line: Option<Listed>,
        header: Option<Header>,
        len: u64,
    ) -> Option<Listed> {
        let Some(header) = header else {
            self.found.damage(path, 0, "the segment's header is damaged");
            return line.map(|line| Listed { capacity: len, ..line });
        };
        if self.store == 0 {
            self.store = header.store;
        }
        if header.store != self.store {
            self.found.damage(path, 0, "the segment is of another store");
            line.iter().for_each(|line| self.found.lose_file(line, 0));
            return None;
        }
        let told = Listed {
            id: header.id,
            salt: header.salt,
            role: Role::Spare,
            run: header.layout == Layout::Run,
            base: header.base,
            capacity: header.capacity,
            data_end: 0,
            footer_check: 0,
            dead: 0,
            dead_since: 0,
        };
        let listed = line.unwrap_or(told);
        if (listed.salt, listed.base) != (told.salt, told.base) {
            self.found.damage(path, 0, "the file is another segment than the manifest means");
            self.found.lose_file(&listed, 0);
            return None;
        }
        if len != listed.capacity {
            let reason = format!("the segment is {len} bytes long and not {}", listed.capacity);
            self.found.damage(path, len.min(listed.capacity), &reason);
            self.found.lose_file(&listed, len);
        }
        Some(Listed { capacity: len, ..listed })
    }

    fn verify(&self) -> Verify {
        self.options.verify
    }
}

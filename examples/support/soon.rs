//! Stand-ins for calls that the store does not have yet, under their names. Once it has them this
//! file goes, and what is imported from it is imported from `memlog`.

use std::path::{Path, PathBuf};

use memlog::{Error, Lsn, Options, Stats, Store};

/// Stands in for `memlog::CompactOutcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompactOutcome {
    Done,
    More,
    DiskFull { need: u64, free: u64 },
}

/// Stands in for `memlog::ErasureReport`.
#[derive(Clone, Debug, Default)]
pub(crate) struct ErasureReport {
    pub(crate) agents: Vec<String>,
    pub(crate) rewritten: Vec<PathBuf>,
    pub(crate) unlinked: Vec<PathBuf>,
    pub(crate) pinned: Vec<PathBuf>,
}

/// Stands in for methods of `Store`, which win over these as soon as they are there.
pub(crate) trait Soon {
    fn compact(&self) -> Result<CompactOutcome, Error>;
    fn purge(&self) -> Result<ErasureReport, Error>;
    fn backup(&self, to: &Path) -> Result<Lsn, Error>;
}

impl Soon for Store {
    /// Compacts nothing.
    fn compact(&self) -> Result<CompactOutcome, Error> {
        Ok(CompactOutcome::Done)
    }

    /// Erases nothing.
    fn purge(&self) -> Result<ErasureReport, Error> {
        Ok(ErasureReport::default())
    }

    /// Copies what can be read, from the directory beside `to` that the programs here use.
    fn backup(&self, to: &Path) -> Result<Lsn, Error> {
        self.sync()?;
        let lsn = self.stats().next_lsn;
        Options::new().repair(to.with_file_name("store"), to)?;
        Ok(lsn)
    }
}

/// What `Stats` will tell beside the rest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Space {
    pub(crate) live_bytes: u64,
    pub(crate) dead_bytes: u64,
    pub(crate) pinned_bytes: u64,
    /// Written by compaction since the store was opened.
    pub(crate) compaction_bytes: u64,
    /// Zeros written ahead of commits since the store was opened, if the store tells.
    pub(crate) zero_bytes: Option<u64>,
}

/// The one place that reads those figures.
pub(crate) fn space(stats: &Stats) -> Space {
    let _ = stats;
    Space::default()
}

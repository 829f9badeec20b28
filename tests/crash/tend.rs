//! What tends a store: compacting, purging, backing up, and the passing of time.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memlog::{CompactOutcome, Durability, Error, ErrorKind, Store};

use crate::bytes::Backup;
use crate::flavor::Trap;
use crate::ledger::look_at_all;
use crate::model::{Model, agrees, differences};
use crate::world::{DIR, EPOCH, World};

/// Runs of compactions that came to their end, purges and backups that succeeded, and refusals for
/// want of room.
pub static COMPACTED: AtomicU64 = AtomicU64::new(0);
pub static PURGED: AtomicU64 = AtomicU64::new(0);
pub static BACKED_UP: AtomicU64 = AtomicU64::new(0);
pub static FULL: AtomicU64 = AtomicU64::new(0);

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// So much time passes at once, in ms: once is less than an hour, twice is more.
const PERIOD: u64 = 2_400_000;
/// A compaction ends within so many steps.
const ENOUGH: u64 = 400;

/// Bytes of a disk that has room for everything.
const ROOMY: u64 = 16 << 30;

impl World {
    /// One step of this kind.
    pub fn tend(&mut self, dice: u64) -> Result<(), Error> {
        match dice {
            0..18 => self.compact_some(),
            18..23 => self.compact_all(),
            23..33 => self.purge(),
            33..37 => self.backup(),
            37..41 => self.let_time_pass(),
            41..44 => self.on_a_full_disk(),
            44..47 if self.flavor.turns => self.turn_default(),
            _ => self.close_and_reopen(),
        }
    }

    /// The time that entries expire by.
    pub fn now(&self) -> u64 {
        EPOCH + self.ledger.periods * PERIOD
    }

    /// When an entry is to expire.
    pub fn expiry(&mut self) -> Option<u64> {
        if !self.flavor.compacts || !self.rng.one_in(6) {
            return None;
        }
        Some(EPOCH + (self.ledger.periods + self.rng.below(4)) * PERIOD - PERIOD / 2)
    }

    fn let_time_pass(&mut self) -> Result<(), Error> {
        // What is recorded is kept up to date: a clock that is more than an hour ahead of it would
        // not be believed after a crash.
        let before = self.store().stats().next_lsn;
        self.commit_one(Durability::Sync)?;
        if self.store().stats().next_lsn == before {
            return Ok(());
        }
        self.ledger.recorded = self.ledger.periods;
        self.disk.advance(Duration::from_millis(PERIOD));
        self.ledger.periods += 1;
        self.ledger.confirmed += 1;
        let now = self.now();
        self.ledger.expire(now);
        Ok(())
    }

    fn turn_default(&mut self) -> Result<(), Error> {
        let mut flavor = self.flavor.clone();
        flavor.turn(&mut self.rng);
        self.wait_all()?;
        // Whether the new default is in force is known once an opening has succeeded.
        self.next_flavor = Some(flavor);
        self.close_and_reopen()
    }

    fn compact_some(&mut self) -> Result<(), Error> {
        for _ in 0..=self.rng.below(3) {
            if self.compact()? != CompactOutcome::More {
                break;
            }
        }
        Ok(())
    }

    fn compact_all(&mut self) -> Result<(), Error> {
        let mut steps = 0;
        while self.compact()? == CompactOutcome::More {
            steps += 1;
            assert!(steps < ENOUGH, "a compaction does not end");
        }
        count(&COMPACTED);
        Ok(())
    }

    fn compact(&mut self) -> Result<CompactOutcome, Error> {
        let outcome = self.store().compact();
        self.note(|| format!("compact -> {outcome:?}"));
        match outcome {
            Ok(CompactOutcome::DiskFull { .. }) => {
                assert!(self.trouble || self.is_full, "a full disk, and none is");
                Ok(CompactOutcome::Done)
            }
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(self.untended(error, "a compaction")),
        }
    }

    fn purge(&mut self) -> Result<(), Error> {
        self.wait_all()?;
        if self.rng.one_in(2) {
            self.check_held();
            self.held.clear();
        }
        let linked = self.linked();
        let outcome = self.store().purge();
        self.note(|| format!("purge -> {outcome:?}"));
        let report = outcome.map_err(|error| self.untended(error, "a purge"))?;
        count(&PURGED);
        let gone = report.rewritten.iter().chain(&report.unlinked);
        let linked: Vec<PathBuf> = gone.filter(|file| linked.contains(file)).cloned().collect();
        let named = linked.iter().all(|file| report.pinned.contains(file));
        assert!(named, "a backup holds {linked:?} by links: {report:?}");
        let others = report.pinned.iter().any(|file| !linked.contains(file));
        let unknown = matches!(self.trap, Trap::Look { .. }) && self.trapped();
        assert!(!others || !self.held.is_empty() || unknown, "what holds bytes? {report:?}");
        self.ledger.durable(self.ledger.last_number());
        if self.ledger.confirmed == self.ledger.periods {
            let now = self.ledger.now().clone();
            self.ledger.bytes.purge(&now);
        }
        self.ledger.bytes.check(&self.disk, DIR, "after a purge");
        Ok(())
    }

    /// Files of the store that have names elsewhere.
    fn linked(&self) -> Vec<PathBuf> {
        let ours = self.disk.files().into_iter().filter(|file| file.starts_with(DIR));
        ours.filter(|file| self.disk.links(file) > 1).collect()
    }

    /// An error of what tends the store: is it a fitting one?
    fn untended(&mut self, error: Error, what: &str) -> Error {
        let kind = error.kind();
        let full = self.is_full && kind == ErrorKind::DiskFull;
        assert!(self.trouble || full, "{what}, without any fault: {error:?}");
        let kinds =
            [ErrorKind::Indeterminate, ErrorKind::Poisoned, ErrorKind::DiskFull, ErrorKind::Io];
        assert!(kinds.contains(&kind), "{what} failed with {error:?}");
        self.poisoned |= [ErrorKind::Indeterminate, ErrorKind::Poisoned].contains(&kind);
        error
    }

    fn backup(&mut self) -> Result<(), Error> {
        self.wait_all()?;
        for file in self.disk.files().iter().filter(|file| file.starts_with("/backup")) {
            self.disk.remove_file(file);
        }
        self.ledger.bytes.backup = None;
        let path = Path::new("/backup").join(format!("{:x}", self.rng.next()));
        let outcome = self.store().backup(&path);
        self.note(|| format!("backup -> {outcome:?}"));
        let lsn = outcome.map_err(|error| self.untended(error, "a backup"))?;
        count(&BACKED_UP);
        assert!(lsn.0 <= self.store().stats().next_lsn.0, "a backup of what is to come");
        self.ledger.durable(self.ledger.last_number());
        let (model, periods) = (self.ledger.now().clone(), self.ledger.periods);
        self.ledger.bytes.backup = Some(Backup { path, model, periods });
        let seed = self.rng.next();
        self.check_backup(seed);
        Ok(())
    }

    /// The last backup opens by itself, and has what it should; after a power failure too.
    pub fn check_backup(&self, seed: u64) {
        let Some((path, model)) = self.ledger.backed_up() else { return };
        let disk = if self.stays || seed.is_multiple_of(3) {
            self.disk.fork()
        } else {
            self.disk.fork_without_power(seed)
        };
        disk.clear_faults();
        // To open it takes some room, also where there was just enough for it.
        disk.set_capacity(ROOMY);
        let options = self.flavor.options.clone().create(false);
        let store = options.open_on(&disk, &path);
        let store = store.unwrap_or_else(|e| panic!("a backup is refused: {e:?}"));
        assert!(store.recovery_report().damage.is_empty(), "a backup reports damage");
        holds_exactly(&store, &model, "a backup");
    }

    /// There is almost no room, for a while.
    fn on_a_full_disk(&mut self) -> Result<(), Error> {
        self.wait_all()?;
        let room = self.rng.below(1500 << 10);
        self.disk.set_capacity(self.disk.used() + room);
        self.is_full = true;
        let outcome = match self.rng.below(4) {
            0 => self.purge(),
            1 => self.backup(),
            _ => self.compact_all(),
        };
        self.disk.set_capacity(ROOMY);
        self.is_full = false;
        match outcome {
            Err(error) if error.kind() == ErrorKind::DiskFull => {
                count(&FULL);
                assert!(!self.poisoned || self.trouble, "a full disk poisons the store");
            }
            outcome => outcome?,
        }
        let names: Vec<String> = self.ledger.now().keys().cloned().collect();
        for name in names {
            self.read(&name)?;
        }
        Ok(())
    }

    /// Nothing that was purged is on the disk.
    pub fn check_bytes(&self) {
        if !self.trapped() {
            self.ledger.bytes.check(&self.disk, DIR, "after an opening");
        }
    }
}

/// Holds a store against a model.
fn holds_exactly(store: &Store, model: &Model, what: &str) {
    let seen = look_at_all(store).unwrap_or_else(|e| panic!("reading {what}: {e:?}"));
    assert!(agrees(model, &seen), "{what} differs: {}", differences(model, &seen));
    assert!(store.verify().unwrap().is_empty(), "{what} does not verify");
}

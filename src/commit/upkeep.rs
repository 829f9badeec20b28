//! Upkeep of log segments: spares made ahead, the switch to the next one, files that go.

use std::time::Duration;

use crate::commit::desk::{Desk, Want};
use crate::commit::order::closed;
use crate::commit::sizing::Sizing;
use crate::commit::worker::Worker;
use crate::commit::{Engine, Writing};
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::Role;
use crate::io::Next;
use crate::segment::file_name;
use crate::segment::writer::{LogFile, new_listed};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The segment that an empty store begins with, in bytes: one entry is to take little.
pub(crate) const NEW_SEGMENT: u64 = 128 << 10;
/// The smallest log segment of a store that goes on, in bytes.
pub(crate) const FIRST_SEGMENT: u64 = 1 << 20;
/// A segment small enough to be made from the reserve.
const LAST_RESORT: u64 = 256 << 10;
/// Spares where segments fill up within moments.
const SPARES: usize = 3;
/// Elsewhere one is made once this part of the active segment was filled.
const SPARE_FROM: u64 = 4;
/// Slices of zeros written between two syncs.
const SLICES_A_SYNC: u64 = 8;
/// What keeps segments ready: one thread makes the next ones, another seals those that were left,
/// which takes long; the first is not to wait for it.
#[derive(Default)]
pub(crate) struct Upkeep {
    pub(super) spares: Desk,
    pub(super) seals: Desk,
    /// The lsn from which on a spare is worth making; MAX: there is one, or it was asked for.
    pub(super) spare_from: AtomicU64,
    /// The longest that the next segments are to be; 0: as long as they may be.
    pub(super) most: AtomicU64,
    /// Segments fill up within moments.
    pub(super) hurry: AtomicBool,
    /// Nanoseconds that it lately took to make a segment, or to seal one: the longer of these.
    takes: AtomicU64,
    /// One at a time makes segments.
    pub(super) busy: Mutex<Sizing>,
    /// One at a time seals them.
    pub(super) sealing: Mutex<()>,
    /// One at a time unlinks them.
    pub(super) sweeping: Mutex<()>,
}

impl Engine {
    /// Makes room for a batch that found none in the segment `active` and needs one of `room`
    /// bytes: switches to the next segment,
    /// having it made first if there is none.
    ///
    /// # Errors
    /// `DiskFull` if there is no room for another segment.
    pub(crate) fn make_room(&self, active: u64, room: u64, erasing: bool) -> Result<()> {
        loop {
            let ready;
            {
                let mut order = self.order.lock();
                if order.closed {
                    return Err(closed());
                }
                if order.active.segment.id != active {
                    // Somebody else was faster.
                    return Ok(());
                }
                ready = order.spares.front().is_some_and(|s| s.segment.capacity >= room);
                if ready && order.switch(self.now()) {
                    let end = order.end();
                    drop(order);
                    self.ordered_end.fetch_max(end, Ordering::SeqCst);
                    break;
                }
            }
            if let Some(error) = self.log.poisoned() {
                return Err(error);
            }
            match self.has_threads() {
                // Too many wait to be sealed.
                true if ready => {
                    let wake = || self.wake(Worker::Seals);
                    self.upkeep.seals.wait(&self.io, wake, Want::default())?;
                }
                true => {
                    let wake = || self.wake(Worker::Spares);
                    self.upkeep.spares.wait(&self.io, wake, Want { room, erasing })?;
                }
                false => self.tend(room, erasing)?,
            }
        }
        if self.has_threads() {
            if self.upkeep.hurry.load(Ordering::Relaxed) {
                self.ask_for_a_spare();
            } else {
                self.expect_spare();
            }
            self.upkeep.seals.ask(|| self.wake(Worker::Seals));
            return Ok(());
        }
        // The batch has its room: a seal that fails now is tried again at the next switch.
        let _ = self.tend(0, false);
        Ok(())
    }

    /// Has everything that was ordered so far sealed.
    ///
    /// # Errors
    /// What kept it from being sealed; it is all there, then, and nothing changed.
    pub(crate) fn seal_active(&self) -> Result<()> {
        let active = {
            let order = self.order.lock();
            if order.closed {
                return Err(closed());
            }
            let used = !order.touched.is_empty() || !order.prefixes.is_empty();
            used.then_some(order.active.segment.id)
        };
        if let Some(active) = active {
            // It takes away in the end: the reserve may be used.
            self.make_room(active, LAST_RESORT, true)?;
        }
        while self.see_to_seal()? {}
        // What cannot be unlinked now stays listed for the next time.
        let _ = self.sweep_obsolete();
        Ok(())
    }

    /// Has the next segment made.
    pub(crate) fn ask_for_a_spare(&self) {
        self.upkeep.spare_from.store(u64::MAX, Ordering::Relaxed);
        self.upkeep.spares.ask(|| self.wake(Worker::Spares));
    }

    /// Has the next segment made once a part of the active one was filled from here on, unless there
    /// is one. A store that is opened for a few appends makes none.
    pub(super) fn expect_spare(&self) {
        let from = {
            let order = self.order.lock();
            let from = order.end().saturating_add(order.active.segment.capacity / SPARE_FROM);
            if order.spares.is_empty() { from } else { u64::MAX }
        };
        self.upkeep.spare_from.store(from, Ordering::Relaxed);
    }

    /// A step of the task that makes segments.
    pub(super) fn make_spares(&self) -> Next {
        self.upkeep.spares.serve(|want| {
            let made = self.reported(Worker::Spares, self.see_to_spares(want));
            made.map(|()| false)
        })
    }

    /// A step of the task that seals segments.
    pub(super) fn make_seals(&self) -> Next {
        // One at a time: a call that waits may wait for the first of them only.
        self.upkeep.seals.serve(|_| {
            let sealed = self.reported(Worker::Seals, self.see_to_seal())?;
            if !sealed && !self.upkeep.hurry.load(Ordering::Relaxed) {
                // To unlink large files takes long: who needs the next segment soon is not kept.
                // What cannot be unlinked now stays listed for the next time.
                let _ = self.reported(Worker::Seals, self.sweep_obsolete());
            }
            Ok(sealed)
        })
    }

    /// Seals what waits for it and sees to a spare of at least `room` bytes; 0: nobody waits for one.
    pub(crate) fn tend(&self, room: u64, erasing: bool) -> Result<()> {
        if room > 0 {
            self.see_to_spares(Want { room, erasing })?;
            // Whoever waits may wait for the first of these only.
            self.see_to_seal()?;
        } else {
            while self.see_to_seal()? {}
            // Where it fails, as on a full disk, whoever needs the next segment hears of it.
            let _ = self.see_to_spares(Want::default());
        }
        // What cannot be unlinked now stays listed for the next time.
        let _ = self.sweep_obsolete();
        Ok(())
    }

    /// Refuses to go on with a store that is closed or poisoned. Asked under `busy`, `sealing` or
    /// `sweeping`: the close has all of them for as long as it works on segments itself.
    pub(super) fn check_tended(&self) -> Result<()> {
        if self.order.lock().closed {
            return Err(closed());
        }
        self.log.poisoned().map_or(Ok(()), Err)
    }

    /// Seals the oldest segment that waits for it. False if none does.
    fn see_to_seal(&self) -> Result<bool> {
        let _one = self.upkeep.sealing.lock();
        self.check_tended()?;
        self.guarded(Worker::Seals, || self.seal_next())
    }

    fn see_to_spares(&self, want: Want) -> Result<()> {
        let mut sizing = self.upkeep.busy.lock();
        self.check_tended()?;
        self.guarded(Worker::Spares, || self.spares_for(want, &mut sizing))
    }

    fn spares_for(&self, want: Want, sizing: &mut Sizing) -> Result<()> {
        let Want { room, erasing } = want;
        let capacity = self.next_capacity(sizing).max(room).next_multiple_of(4096);
        // Where segments fill up within moments the next one comes as it is; else there is time to fill
        // it with zeros.
        let hurry = room > 0 || self.upkeep.hurry.load(Ordering::Relaxed);
        self.see_to_spare(capacity, room, erasing, !hurry && sizing.fills)?;
        if hurry && room == 0 {
            // More, for the case that the next is full soon. Nobody waits for these: where one fails,
            // the next that is needed says so.
            while let Ok(true) = self.see_to_another(capacity) {}
        }
        if !erasing {
            self.fit_reserve();
        }
        if self.has_threads() && self.has_too_much_ahead() {
            // Compaction sees to what a store at rest gives back.
            let _ = self.wake(Worker::Compaction);
        }
        Ok(())
    }

    fn see_to_spare(&self, capacity: u64, room: u64, erasing: bool, fill: bool) -> Result<()> {
        let (base, unfit) = {
            let order = self.order.lock();
            let after = |file: &LogFile| file.segment.base + file.segment.capacity;
            match (order.spares.front(), order.spares.back()) {
                (Some(spare), _) if spare.segment.capacity >= room => return Ok(()),
                (Some(_), Some(last)) => (after(last), true),
                _ => (after(&order.active), false),
            }
        };
        // Without threads nothing is made ahead, for the sake of stores that are simulated.
        if room == 0 && (!self.has_threads() || capacity > self.options.spare_bytes) {
            return Ok(());
        }
        if room == 0 && !self.has_reserve() {
            // The disk is full: what is left is for what gives room back.
            return Ok(());
        }
        if unfit {
            // Behind one that does not fit there is another: the log goes on behind both.
            while self.drop_spare()? {}
        }
        let made = match self.make_spare(capacity, base, fill) {
            Err(e) if e.kind() == ErrorKind::DiskFull => {
                self.make_smaller(capacity, base, room, erasing).map_err(|_| e)
            }
            made => made,
        }?;
        self.order.lock().spares.push_back(made);
        Ok(())
    }

    /// Makes a spare behind those that there are. False if that is enough of them.
    fn see_to_another(&self, capacity: u64) -> Result<bool> {
        let base = {
            let order = self.order.lock();
            let ahead: u64 = order.spares.iter().map(|file| file.segment.capacity).sum();
            if ahead.saturating_add(capacity) > self.options.spare_bytes || self.reserved() == 0 {
                return Ok(false);
            }
            match (order.spares.len(), order.spares.back()) {
                (1..SPARES, Some(spare)) => spare.segment.base + spare.segment.capacity,
                _ => return Ok(false),
            }
        };
        let made = self.make_spare(capacity, base, false)?;
        self.order.lock().spares.push_back(made);
        // This goes on for as long as segments fill up within moments.
        self.fit_reserve();
        Ok(true)
    }

    /// A disk without room for a segment of the size wanted may have some for a smaller one; and
    /// what takes away may use the reserve.
    fn make_smaller(&self, capacity: u64, base: u64, room: u64, erasing: bool) -> Result<LogFile> {
        let small = FIRST_SEGMENT.max(room).next_multiple_of(4096);
        if small < capacity
            && let Ok(made) = self.make_spare(small, base, false)
        {
            return Ok(made);
        }
        let least = LAST_RESORT.max(room).next_multiple_of(4096);
        let full = || Error::new(ErrorKind::DiskFull, "the disk is full");
        if !erasing || least > self.reserved() || !self.release_reserve() {
            return Err(full());
        }
        self.make_spare(least, base, false)
    }

    /// Notes that it took until now to make or to seal a segment. A single one that takes long is
    /// reckoned with for a while.
    pub(super) fn note_turnover(&self, since: Duration) {
        let took = self.io.clock.monotonic().saturating_sub(since);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.upkeep.takes.load(Ordering::Relaxed);
        self.upkeep.takes.store(took.max(before / 8 * 7), Ordering::Relaxed);
    }

    /// How long it takes until another segment is to be had.
    pub(super) fn turnover(&self) -> Duration {
        Duration::from_nanos(self.upkeep.takes.load(Ordering::Relaxed))
    }

    /// Limits the length of the segments to come; 0: as long as they may be.
    pub(crate) fn limit_segments(&self, most: u64) {
        self.upkeep.most.store(most, Ordering::Relaxed);
    }

    /// Creates a segment, fills it if there is time, and lists it before any frame goes in.
    fn make_spare(&self, capacity: u64, base: u64, fill: bool) -> Result<LogFile> {
        let Some(writing) = &self.writing else { return Err(closed()) };
        let since = self.io.clock.monotonic();
        let id = writing.manifest.take_id();
        let listed = new_listed(id, self.io.random.next(), base, capacity, Role::Spare);
        // What an attempt that failed could not take away again is in nobody's list.
        let _ = self.io.fs.remove(&self.dir.join(file_name(id, false)));
        let made =
            LogFile::create(&self.io, &self.dir, &self.owner(), &listed, self.options.verify)?;
        if fill
            && self.has_threads()
            && let Err(error) = self.fill(&made)
        {
            // Not listed, without a frame: nobody misses it.
            let _ = self.io.fs.remove(made.segment.path());
            return Err(error);
        }
        let replaced = writing.manifest.replace(|manifest| {
            manifest.segments.push(listed);
        });
        if let Err(error) = self.heed(replaced) {
            if self.log.poisoned().is_none() {
                // Not listed, without a frame: nobody misses it.
                let _ = self.io.fs.remove(made.segment.path());
            }
            return Err(error);
        }
        if !fill {
            self.note_turnover(since);
        }
        Ok(made)
    }

    /// Writes zeros, so that later commits find their blocks written: one write and one flush
    /// each. Only as long as nobody needs the segment, and at most every other moment.
    ///
    /// # Errors
    /// If the file is not to be used.
    fn fill(&self, file: &LogFile) -> Result<()> {
        let clock = &self.io.clock;
        let (mut started, mut slices) = (clock.monotonic(), 0u64);
        file.fill(|| {
            let pressed = self.upkeep.spares.is_pressed();
            if pressed || self.unsynced() > self.options.max_unsynced / 4 {
                return Ok(false);
            }
            slices += 1;
            if slices.is_multiple_of(SLICES_A_SYNC) {
                file.sync()?;
            }
            if file.segment.capacity > FIRST_SEGMENT {
                clock.sleep(clock.monotonic().saturating_sub(started));
            }
            started = clock.monotonic();
            Ok(true)
        })
    }

    /// Takes the last spare off the list and away. False if there is none.
    fn drop_spare(&self) -> Result<bool> {
        let Some(writing) = &self.writing else { return Ok(false) };
        // Taken first, so that nobody switches to it while it goes.
        let Some(spare) = self.order.lock().spares.pop_back() else { return Ok(false) };
        let id = spare.segment.id;
        let replaced = writing.manifest.replace(|manifest| {
            manifest.segments.retain(|line| line.id != id);
            manifest.obsolete.push(id);
        });
        let heeded = self.heed(replaced);
        heeded.inspect_err(|_| self.order.lock().spares.push_back(spare)).map(|()| true)
    }

    /// Unlinks the files of segments that the manifest has dropped.
    ///
    /// # Errors
    /// What kept one of those that were dropped by now from going; the next sweep tries again.
    pub(crate) fn sweep_obsolete(&self) -> Result<()> {
        let Some(writing) = &self.writing else { return Ok(()) };
        let _one = self.upkeep.sweeping.lock();
        self.check_tended()?;
        self.guarded(Worker::Seals, || self.sweep(writing))
    }

    fn sweep(&self, writing: &Writing) -> Result<()> {
        let obsolete = writing.manifest.current().obsolete;
        if obsolete.is_empty() {
            return Ok(());
        }
        let paths = |id| [false, true].map(|run| self.dir.join(file_name(id, run)));
        let mut failed = None;
        for path in obsolete.iter().flat_map(|id| paths(*id)) {
            match self.io.fs.remove(&path) {
                // Absent is as good as unlinked.
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    failed = failed.or(Some((path, e)));
                }
                _ => {}
            }
        }
        let (fs, dir) = (&self.io.fs, &self.dir);
        fs.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
        let found = fs.list(dir).map_err(|e| Error::io("list", dir, e))?;
        let stays =
            |id: &u64| [false, true].iter().any(|run| found.contains(&file_name(*id, *run)));
        let (stay, swept): (Vec<u64>, Vec<u64>) = obsolete.into_iter().partition(stays);
        // Others may have become obsolete meanwhile. What is gone and listed on does no harm.
        let _ = self.replace_relieving(|m| m.obsolete.retain(|id| !swept.contains(id)));
        if self.reserved() == 0 {
            self.fit_reserve();
        }
        match (stay.first(), failed) {
            (None, _) => Ok(()),
            (Some(_), Some((path, error))) => Err(Error::io("remove", &path, error)),
            (Some(id), None) => {
                let message =
                    format!("segment {id:x} of {} was removed and is there", dir.display());
                Err(Error::new(ErrorKind::Io, message))
            }
        }
    }
}

//! Upkeep of log segments: spares made ahead, the switch to the next one, files that go.

use std::path::Path;
use std::time::Duration;

use crate::commit::Engine;
use crate::commit::order::closed;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::Role;
use crate::io::Io;
use crate::segment::file_name;
use crate::segment::writer::{LogFile, new_listed};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::types::Durability;

/// The smallest log segment, and the one that a store begins with.
pub(crate) const FIRST_SEGMENT: u64 = 1 << 20;
/// A segment small enough to be made from the reserve.
const LAST_RESORT: u64 = 256 << 10;
/// The file that keeps room on a disk that is getting full.
pub(crate) const RESERVE_FILE: &str = "RESERVE";
/// Its length: room for a small segment and a manifest.
pub(crate) const RESERVE_LEN: u64 = 512 << 10;
/// Slices of zeros written between two syncs.
const SLICES_A_SYNC: u64 = 8;
/// A segment that was filled faster than this gets a bigger successor; one that took much longer a
/// smaller one.
const FAST: Duration = Duration::from_secs(2);
const SLOW: Duration = Duration::from_secs(120);

/// What the upkeep is asked for and has answered.
#[derive(Default)]
pub(crate) struct Upkeep {
    asked: Mutex<Asked>,
    wanted: Condvar,
    answered: Condvar,
    /// The longest that the next segments are to be; 0: as long as they may be.
    most: AtomicU64,
    /// One at a time changes segments.
    pub(super) busy: Mutex<Sizing>,
}

#[derive(Default)]
struct Asked {
    stop: bool,
    /// An appender waits for a segment of this size.
    room: u64,
    erasing: bool,
    /// Requests so far, and those that have been seen to.
    tickets: u64,
    done: u64,
    failed: Option<Error>,
}

/// How large the next segment is to be.
#[derive(Default)]
pub(super) struct Sizing {
    next: u64,
    /// The last segment was full within a moment.
    hurry: bool,
    switched: Duration,
    last_active: u64,
    /// Whether the next one is worth being filled with zeros.
    fills: bool,
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
            {
                let mut order = self.order.lock();
                if order.closed {
                    return Err(closed());
                }
                if order.active.segment.id != active {
                    // Somebody else was faster.
                    return Ok(());
                }
                let ready = order.spares.front().is_some_and(|s| s.segment.capacity >= room);
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
            if self.has_threads() {
                self.await_upkeep(room, erasing)?;
            } else {
                self.tend(room, erasing)?;
            }
        }
        if self.has_threads() {
            self.ask_upkeep();
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
            self.make_room(active, FIRST_SEGMENT.min(self.options.segment_bytes), true)?;
        }
        self.tend(0, false)
    }

    fn ask_upkeep(&self) {
        self.upkeep.asked.lock().tickets += 1;
        self.upkeep.wanted.notify_one();
    }

    fn await_upkeep(&self, room: u64, erasing: bool) -> Result<()> {
        let mut asked = self.upkeep.asked.lock();
        asked.room = asked.room.max(room);
        asked.erasing |= erasing;
        asked.tickets += 1;
        let ticket = asked.tickets;
        self.upkeep.wanted.notify_one();
        while asked.done < ticket && !asked.stop {
            self.upkeep.answered.wait(&mut asked);
        }
        if asked.stop {
            return Err(closed());
        }
        asked.failed.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn stop_upkeep(&self) {
        self.upkeep.asked.lock().stop = true;
        self.upkeep.wanted.notify_one();
        self.upkeep.answered.notify_all();
    }

    /// The upkeep thread.
    pub(crate) fn run_upkeep(&self) {
        // The first spare is made without being asked for; if that fails, whoever needs it hears.
        let _ = self.tend(0, false);
        loop {
            let (ticket, room, erasing) = {
                let mut asked = self.upkeep.asked.lock();
                while asked.tickets == asked.done && !asked.stop {
                    self.upkeep.wanted.wait(&mut asked);
                }
                if asked.stop {
                    return;
                }
                let room = std::mem::take(&mut asked.room);
                (asked.tickets, room, std::mem::take(&mut asked.erasing))
            };
            let outcome = self.tend(room, erasing);
            let more = outcome.is_ok() && !self.order.lock().sealing.is_empty();
            let mut asked = self.upkeep.asked.lock();
            asked.done = ticket;
            asked.tickets += u64::from(more);
            asked.failed = outcome.err();
            self.upkeep.answered.notify_all();
        }
    }

    /// Seals what waits for it and sees to a spare of at least `room` bytes.
    pub(crate) fn tend(&self, room: u64, erasing: bool) -> Result<()> {
        let mut sizing = self.upkeep.busy.lock();
        if self.order.lock().closed {
            // Asked under `busy`: the close has it for as long as it works on segments itself.
            return Err(closed());
        }
        if let Some(error) = self.log.poisoned() {
            return Err(error);
        }
        let capacity = self.next_capacity(&mut sizing).max(room).next_multiple_of(4096);
        // Where segments fill up quickly the next one comes first, as it is; else there is time to
        // fill it with zeros.
        let hurry = room > 0 || sizing.hurry;
        if hurry {
            self.see_to_spare(capacity, room, erasing, false)?;
            // Another one, for the case that the next is full before the last is sealed.
            if room == 0 {
                // Nobody waits for this one: where it fails, the next that is needed says so.
                let _ = self.see_to_another(capacity);
            }
        }
        if room > 0 {
            // Whoever waits may wait for the first of these only.
            self.seal_next()?;
        } else {
            self.seal_waiting()?;
        }
        self.see_to_spare(capacity, room, erasing, room == 0 && sizing.fills)?;
        if !hurry || !self.has_threads() {
            // To unlink large files takes long: who needs the next segment soon is not kept by it.
            self.sweep_obsolete();
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
        if room == 0 && !self.has_threads() {
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
        if !erasing {
            restore_reserve(&self.io, &self.dir);
        }
        Ok(())
    }

    /// Makes a second spare if there is one.
    fn see_to_another(&self, capacity: u64) -> Result<()> {
        let base = {
            let order = self.order.lock();
            match (order.spares.len(), order.spares.back()) {
                (1, Some(spare)) => spare.segment.base + spare.segment.capacity,
                _ => return Ok(()),
            }
        };
        let made = self.make_spare(capacity, base, false)?;
        self.order.lock().spares.push_back(made);
        Ok(())
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
        if !erasing || least > RESERVE_LEN {
            return Err(full());
        }
        let _ = self.io.fs.remove(&self.dir.join(RESERVE_FILE));
        self.make_spare(least, base, false)
    }

    /// Limits the length of the segments to come; 0: as long as they may be.
    pub(crate) fn limit_segments(&self, most: u64) {
        self.upkeep.most.store(most, Ordering::Relaxed);
    }

    fn next_capacity(&self, sizing: &mut Sizing) -> u64 {
        // Never more than a small share of what is left is taken ahead of need.
        let free = self.io.fs.free_space(&self.dir).unwrap_or(u64::MAX);
        let most = self.options.segment_bytes.min((free / 16).max(FIRST_SEGMENT));
        let most = match self.upkeep.most.load(Ordering::Relaxed) {
            0 => most,
            limit => most.min(limit.max(FIRST_SEGMENT)),
        };
        let (active, filled) = {
            let order = self.order.lock();
            (order.active.segment.id, order.last_filled)
        };
        let now = self.io.clock.monotonic();
        if sizing.next == 0 {
            sizing.next = FIRST_SEGMENT.min(most);
            sizing.switched = now;
            sizing.last_active = active;
            sizing.fills = self.options.durability == Durability::Sync;
        }
        if sizing.last_active != active {
            let took = now.saturating_sub(sizing.switched);
            sizing.hurry = took < FAST / 4;
            if filled < sizing.next / 4 {
                // It was left early, because its table of agents was full.
                let enough = (filled * 2).next_power_of_two().min(sizing.next);
                sizing.next = enough.max(FIRST_SEGMENT.min(most));
            } else if took < FAST {
                let factor = if took < FAST / 32 { 16 } else { 4 };
                sizing.next = sizing.next.saturating_mul(factor).min(most);
            } else if took > SLOW {
                sizing.next = (sizing.next / 4).max(FIRST_SEGMENT.min(most));
            }
            sizing.last_active = active;
            sizing.switched = now;
            sizing.fills = self.log.takes_small_groups();
        }
        sizing.next.min(most)
    }

    /// Creates a segment, fills it if there is time, and lists it before any frame goes in.
    fn make_spare(&self, capacity: u64, base: u64, fill: bool) -> Result<LogFile> {
        let Some(writing) = &self.writing else { return Err(closed()) };
        let id = writing.manifest.take_id();
        let listed = new_listed(id, self.io.random.next(), base, capacity, Role::Spare);
        // What an attempt that failed could not take away again is in nobody's list.
        let _ = self.io.fs.remove(&self.dir.join(file_name(id, false)));
        let made = LogFile::create(&self.io, &self.dir, self.store, &listed, self.options.verify)?;
        if fill && self.has_threads() {
            self.fill(&made);
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
        Ok(made)
    }

    /// Writes zeros, so that later commits find their blocks written: one write and one flush
    /// each. Only as long as nobody needs the segment, and at most every other moment.
    fn fill(&self, file: &LogFile) {
        let clock = &self.io.clock;
        let (mut started, mut slices) = (clock.monotonic(), 0u64);
        let filled = file.fill(|| {
            let pressed = {
                let asked = self.upkeep.asked.lock();
                asked.tickets > asked.done + 1 || asked.room != 0 || asked.stop
            };
            if pressed || self.unsynced() > self.options.max_unsynced / 4 {
                return false;
            }
            slices += 1;
            if slices.is_multiple_of(SLICES_A_SYNC) && file.sync().is_err() {
                return false;
            }
            if file.segment.capacity > FIRST_SEGMENT {
                clock.sleep(clock.monotonic().saturating_sub(started));
            }
            started = clock.monotonic();
            true
        });
        // Only an optimisation: what goes wrong here goes wrong again, and counts, later.
        drop(filled);
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
    pub(crate) fn sweep_obsolete(&self) {
        let Some(writing) = &self.writing else { return };
        let obsolete = writing.manifest.current().obsolete;
        if obsolete.is_empty() {
            return;
        }
        for id in &obsolete {
            for run in [false, true] {
                // Absent is as good as unlinked; what cannot be unlinked now is listed on.
                let _ = self.io.fs.remove(&self.dir.join(file_name(*id, run)));
            }
        }
        if self.io.fs.sync_dir(&self.dir).is_err() {
            return;
        }
        let gone = |id: &u64| {
            let names = [file_name(*id, false), file_name(*id, true)];
            let found = self.io.fs.list(&self.dir).unwrap_or_default();
            !names.iter().any(|name| found.contains(name))
        };
        let swept: Vec<u64> = obsolete.into_iter().filter(gone).collect();
        // Others may have become obsolete meanwhile.
        let replaced =
            writing.manifest.replace(|manifest| manifest.obsolete.retain(|id| !swept.contains(id)));
        let _ = self.heed(replaced);
    }
}

/// Sees to the reserve: it is made with the store, and again after a full disk has used it up.
pub(crate) fn restore_reserve(io: &Io, dir: &Path) {
    match io.fs.create(&dir.join(RESERVE_FILE), RESERVE_LEN) {
        // It is there already, or there is no room for it now: then the next spare tries again.
        Ok(_) | Err(_) => {}
    }
}

//! What a store that rests, or is closed, gives back of the segments that were made ahead of need.

use crate::commit::Engine;
use crate::commit::order::Order;
use crate::commit::upkeep::FIRST_SEGMENT;
use crate::commit::worker::Worker;
use crate::error::Result;
use crate::format::manifest::Role;
use crate::segment::file_name;
use crate::segment::writer::{FIRST_FRAME, LogFile, new_listed};
use crate::sync::atomic::Ordering;

/// Bytes that are allocated ahead of need, in spares and in the rest of the active segment, beyond
/// which a store that rests gives them back,
const AHEAD_AT_REST: u64 = 4 << 20;
/// and bytes in the rest of the active segment beyond which a store that is closed does. Spares go in
/// any case.
const AHEAD_CLOSED: u64 = 2 << 20;
/// An active segment with more than this is sealed at close, so that the next opening reads little.
const SEAL_ABOVE: u64 = 1 << 20;

/// Bytes allocated in the active segment that no frame has taken, and in spares.
fn ahead(order: &Order) -> (u64, u64) {
    let rest = order.active.segment.capacity.saturating_sub(order.tail);
    (rest, order.spares.iter().map(|file| file.segment.capacity).sum())
}

impl Engine {
    /// Whether a store that rests has allocated more ahead of need than it is to keep.
    pub(crate) fn has_too_much_ahead(&self) -> bool {
        let (rest, spares) = ahead(&self.order.lock());
        rest.saturating_add(spares) > AHEAD_AT_REST
    }

    /// Gives back what a store that rests has allocated ahead of need: spares, and the rest of a
    /// long active segment, which is sealed. True if there was something to give back.
    ///
    /// # Errors
    /// What making the next segment, or replacing the manifest met. Nothing changed then.
    pub(crate) fn give_back(&self) -> Result<bool> {
        // Segments do not fill up within moments any more: what was dropped is unlinked at once.
        self.upkeep.hurry.store(false, Ordering::Relaxed);
        self.fit_reserve();
        if !self.has_too_much_ahead() {
            return Ok(false);
        }
        {
            let _one = self.upkeep.busy.lock();
            self.check_tended()?;
            self.guarded(Worker::Spares, || {
                let (rest, _) = ahead(&self.order.lock());
                if rest > AHEAD_AT_REST { self.leave_active() } else { self.drop_spares() }
            })?;
        }
        self.expect_spare();
        self.upkeep.seals.ask(|| self.wake(Worker::Seals));
        Ok(true)
    }

    /// Makes a short segment the active one, in the place of all spares.
    fn leave_active(&self) -> Result<()> {
        self.exchange_spares(Some(FIRST_SEGMENT.min(self.options.segment_bytes)))?;
        let mut order = self.order.lock();
        // Not if too many wait to be sealed: it is tried again at the next rest.
        if order.switch(self.now()) {
            let end = order.end();
            drop(order);
            self.ordered_end.fetch_max(end, Ordering::SeqCst);
        }
        Ok(())
    }

    fn drop_spares(&self) -> Result<()> {
        self.exchange_spares(None)
    }

    /// Takes all spares off the list, and makes one of this length in their place.
    fn exchange_spares(&self, capacity: Option<u64>) -> Result<()> {
        let Some(writing) = &self.writing else { return Ok(()) };
        // Taken first, so that no switch takes one of them while it goes.
        let (spares, base) = {
            let mut order = self.order.lock();
            let segment = &order.active.segment;
            let base = segment.base.saturating_add(segment.capacity);
            (std::mem::take(&mut order.spares), base)
        };
        let ids: Vec<u64> = spares.iter().map(|file| file.segment.id).collect();
        let made = capacity.map(|capacity| {
            let id = writing.manifest.take_id();
            let listed = new_listed(id, self.io.random.next(), base, capacity, Role::Spare);
            let _ = self.io.fs.remove(&self.dir.join(file_name(id, false)));
            let file =
                LogFile::create(&self.io, &self.dir, &self.owner(), &listed, self.options.verify);
            file.map(|file| (listed, file))
        });
        let exchanged = made.transpose().and_then(|made| {
            let (listed, file) = made.unzip();
            let replaced = writing.manifest.replace(|manifest| {
                manifest.segments.retain(|line| !ids.contains(&line.id));
                manifest.obsolete.extend_from_slice(&ids);
                manifest.segments.extend(listed);
            });
            let heeded = self.heed(replaced);
            if heeded.is_err()
                && self.log.poisoned().is_none()
                && let Some(file) = &file
            {
                // Not listed, without a frame.
                let _ = self.io.fs.remove(file.segment.path());
            }
            heeded.map(|()| file)
        });
        let mut order = self.order.lock();
        match exchanged {
            Ok(file) => {
                order.spares.extend(file);
                drop(order);
                // Their maps would keep the room of files that are unlinked.
                drop(spares);
                Ok(())
            }
            Err(error) => {
                order.spares = spares;
                Err(error)
            }
        }
    }

    /// Seals what a close leaves to be sealed: everything that waits for it, and the active segment if
    /// it holds much, or has much room that no frame has taken.
    ///
    /// # Errors
    /// What kept a segment that the log has left from being sealed.
    pub(super) fn seal_for_close(&self) -> Result<()> {
        self.seal_waiting()?;
        let (tail, rest) = {
            let order = self.order.lock();
            (order.tail, ahead(&order).0)
        };
        if tail < FIRST_FRAME + SEAL_ABOVE && rest <= AHEAD_CLOSED {
            return Ok(());
        }
        // Where there is no room for another segment, this one stays the active one.
        if self.leave_active().is_err() {
            return self.log.poisoned().map_or(Ok(()), Err);
        }
        self.seal_waiting()
    }

    /// The spares that a close takes off the manifest.
    pub(super) fn spares_to_drop(&self) -> Vec<u64> {
        self.order.lock().spares.iter().map(|file| file.segment.id).collect()
    }

    /// Unlinks what the last manifest has dropped. What stays is unlinked by the next opening.
    pub(super) fn unlink_dropped(&self) {
        let Some(writing) = &self.writing else { return };
        let spares = std::mem::take(&mut self.order.lock().spares);
        drop(spares);
        let names = |id| [false, true].map(|run| self.dir.join(file_name(id, run)));
        for path in writing.manifest.current().obsolete.into_iter().flat_map(names) {
            let _ = self.io.fs.remove(&path);
        }
    }
}

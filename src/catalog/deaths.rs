//! A count of what died since the store was opened, with the dates that the garbage scan goes by.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Deaths since the store was opened.
///
/// A death is *booked* when its bytes are counted on the segments that hold them. A death of an
/// agent whose footers were not read is not booked: the next garbage scan finds it.
#[derive(Default)]
pub(crate) struct Deaths {
    all: AtomicU64,
    unbooked: AtomicU64,
    /// Dates in ms since the epoch; 0: none. The first death since compaction last looked, and the
    /// first one since the last scan that was not booked.
    first: AtomicU64,
    first_unbooked: AtomicU64,
    /// Compaction rests without a date at which to look for what appends push out.
    rests: AtomicBool,
}

impl Deaths {
    /// Counts a death at `time`. True for the first one since compaction last looked, so that the
    /// caller wakes it once and not at each death.
    pub(crate) fn note(&self, booked: bool, time: u64) -> bool {
        self.all.fetch_add(1, Ordering::Relaxed);
        if !booked {
            self.unbooked.fetch_add(1, Ordering::Relaxed);
            set_first(&self.first_unbooked, time);
        }
        set_first(&self.first, time)
    }

    /// Counts deaths since `time` whose bookings were lost with the segments that they were made on.
    pub(crate) fn lose_bookings(&self, time: u64) {
        self.unbooked.fetch_add(1, Ordering::Relaxed);
        let earliest = |date| (date == 0 || date > time).then_some(time.max(1));
        let _ = self.first_unbooked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earliest);
    }

    /// Whether the next append is to wake compaction, since it may push entries out.
    pub(crate) fn rest(&self, yes: bool) {
        self.rests.store(yes, Ordering::SeqCst);
    }

    /// Whether compaction is to be woken for an append: for the first one only.
    #[inline]
    pub(crate) fn take_rest(&self) -> bool {
        self.rests.load(Ordering::SeqCst) && self.rests.swap(false, Ordering::SeqCst)
    }

    /// How many changes killed something.
    pub(crate) fn all(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }

    /// How many of them were not booked.
    pub(crate) fn unbooked(&self) -> u64 {
        self.unbooked.load(Ordering::Relaxed)
    }

    /// The date of the first death since [`look`](Self::look).
    pub(crate) fn first(&self) -> Option<u64> {
        Some(self.first.load(Ordering::Relaxed)).filter(|date| *date != 0)
    }

    /// The date of the first death that no scan has found.
    pub(crate) fn first_unbooked(&self) -> Option<u64> {
        Some(self.first_unbooked.load(Ordering::Relaxed)).filter(|date| *date != 0)
    }

    /// Begins a new look: the next death is a first one again.
    pub(crate) fn look(&self) {
        self.first.store(0, Ordering::Relaxed);
    }

    /// Begins a scan: deaths from here on may be unknown to it. Gives the date of the first death
    /// that the scan is to find.
    pub(crate) fn begin_scan(&self) -> Option<u64> {
        Some(self.first_unbooked.swap(0, Ordering::Relaxed)).filter(|date| *date != 0)
    }

    /// Takes back a scan that failed: what it was to find is still unknown.
    pub(crate) fn abandon_scan(&self, date: Option<u64>) {
        if let Some(date) = date {
            self.lose_bookings(date);
        }
    }
}

fn set_first(date: &AtomicU64, time: u64) -> bool {
    date.load(Ordering::Relaxed) == 0
        && date.compare_exchange(0, time.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

//! How long the next log segment is to be.

use std::time::Duration;

use crate::commit::Engine;
use crate::commit::upkeep::FIRST_SEGMENT;
use crate::sync::atomic::Ordering;
use crate::types::Durability;

/// A segment that was filled faster than this gets a bigger successor; one that took much longer a
/// smaller one.
const FAST: Duration = Duration::from_secs(2);
const SLOW: Duration = Duration::from_secs(120);

/// However long it takes to fill one, a segment has this part of what the sealed ones hold: the log
/// of a store that grows slowly does not come in ever more files of the first size.
const HELD_SHARE: u64 = 1024;

/// The least length of a log segment of a store that holds so many bytes.
pub(crate) fn least_segment(held: u64, most: u64) -> u64 {
    (held / HELD_SHARE).max(FIRST_SEGMENT).min(most)
}

/// How large the next segment is to be.
#[derive(Default)]
pub(super) struct Sizing {
    next: u64,
    switched: Duration,
    last_active: u64,
    /// Whether the next one is worth being filled with zeros.
    pub(super) fills: bool,
}

impl Engine {
    /// The length of the next log segment.
    pub(super) fn next_capacity(&self, sizing: &mut Sizing) -> u64 {
        // Never more than a small share of what is left is taken ahead of need.
        let free = self.io.fs.free_space(&self.dir).unwrap_or(u64::MAX);
        let most = self.options.segment_bytes.min((free / 16).max(FIRST_SEGMENT));
        let most = match self.upkeep.most.load(Ordering::Relaxed) {
            0 => most,
            limit => most.min(limit.max(FIRST_SEGMENT)),
        };
        let (active, filled, early) = {
            let order = self.order.lock();
            (order.active.segment.id, order.last_filled, order.left_early)
        };
        let held = self.catalog.segments().sealed.iter().map(|segment| segment.disk_len()).sum();
        let least = least_segment(held, most);
        let now = self.io.clock.monotonic();
        if sizing.next == 0 {
            sizing.next = least;
            sizing.switched = now;
            sizing.last_active = active;
            sizing.fills = self.options.durability == Durability::Sync;
        }
        if sizing.last_active != active {
            let took = now.saturating_sub(sizing.switched);
            sizing.fills = self.log.takes_small_groups();
            let moments = if sizing.fills { FAST / 16 } else { FAST / 4 };
            self.upkeep.hurry.store(took < moments, Ordering::Relaxed);
            if early {
                let enough = (filled * 2).next_power_of_two().min(sizing.next);
                sizing.next = enough.max(FIRST_SEGMENT.min(most));
            } else if took < FAST {
                let factor = if took < FAST / 32 { 16 } else { 4 };
                sizing.next = sizing.next.saturating_mul(factor).min(most);
            } else if took > SLOW {
                sizing.next /= 4;
            }
            if !early {
                // One that was left early had no use for more.
                sizing.next = sizing.next.max(least);
            }
            sizing.last_active = active;
            sizing.switched = now;
        }
        sizing.next.min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_grow_with_the_store_however_slowly_they_fill() {
        let (mib, gib) = (1 << 20, 1 << 30);
        assert_eq!(least_segment(0, 64 * mib), mib);
        assert_eq!(least_segment(gib, 64 * mib), mib);
        assert_eq!(least_segment(10 * gib, 64 * mib), 10 * mib);
        assert_eq!(least_segment(1 << 44, 64 * mib), 64 * mib);
        // An option, or a disk that is nearly full, may ask for less.
        assert_eq!(least_segment(10 * gib, mib / 4), mib / 4);
    }
}

//! How the store of a history is opened.

use std::time::Duration;

use memlog::{Durability, Options, Retention, Verify};

use crate::model::Policy;
use crate::rng::Rng;

pub const HOUR: u64 = 3_600_000;
pub const DAY: u64 = 24 * HOUR;

#[derive(Clone, Debug)]
pub struct Flavor {
    pub options: Options,
    pub durability: Durability,
    pub segment: u64,
    /// Milliseconds within which the dead are to be erased.
    pub erase: Option<u64>,
    pub resident: u64,
    /// Bytes a second.
    pub rate: u64,
    /// The policy of agents without one of their own.
    pub default: Policy,
}

impl Flavor {
    pub fn of(rng: &mut Rng) -> Flavor {
        let durability = *rng.pick(&[Durability::Sync, Durability::Write, Durability::Buffer]);
        let segment = *rng.pick(&[256 << 10, 256 << 10, 256 << 10, 512 << 10, 1 << 20]);
        let erase = *rng.pick(&[None, None, Some(HOUR), Some(6 * HOUR), Some(DAY), Some(7 * DAY)]);
        let resident = *rng.pick(&[0, 64 << 10, 1 << 20]);
        let rate = *rng.pick(&[1 << 20, 4 << 20, 16 << 20, 256 << 20]);
        let default = match rng.below(6) {
            0 => Policy { entries: Some(50 + rng.below(400)), ..Policy::default() },
            1 => Policy { age: Some((2 + rng.below(12)) * DAY), ..Policy::default() },
            2 => Policy { bytes: Some(64 << 10 << rng.below(4)), ..Policy::default() },
            _ => Policy::default(),
        };
        let mut options = Options::new()
            .durability(durability)
            .segment_bytes(segment)
            .resident_bytes(resident as usize)
            .compaction_rate(rate)
            .extent_bytes(*rng.pick(&[4 << 10, 16 << 10, 64 << 10]))
            .dead_share(*rng.pick(&[30, 50, 50]))
            .verify(if rng.one_in(4) { Verify::Always } else { Verify::FirstTouch })
            .retention(retention(default))
            .scan_interval(Duration::from_secs(*rng.pick(&[30, 30, 300, 1200])));
        if let Some(within) = erase {
            options = options.erase_within(Duration::from_millis(within));
        }
        Flavor { options, durability, segment, erase, resident, rate, default }
    }
}

pub fn retention(policy: Policy) -> Retention {
    let mut retention = Retention::new();
    if let Some(most) = policy.entries {
        retention = retention.max_entries(most);
    }
    if let Some(most) = policy.bytes {
        retention = retention.max_bytes(most);
    }
    if let Some(age) = policy.age {
        retention = retention.max_age(Duration::from_millis(age));
    }
    retention
}

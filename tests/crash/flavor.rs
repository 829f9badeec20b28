//! How a history's store is opened, what is put in, and what is to go wrong.

use memlog::sim::SimFault;
use memlog::{Durability, Maintenance, Options, Retention, Verify};

use crate::rng::Rng;

/// How a history's store is opened and what is put in.
#[derive(Clone)]
pub struct Flavor {
    pub options: Options,
    pub default: Durability,
    /// One in so many entries is large.
    pub large: u64,
    /// One in so many entries takes a segment of its own.
    pub huge: u64,
    /// Whether there are compactions, purges and backups.
    pub compacts: bool,
    /// The most entries kept by default.
    pub keep: Option<u64>,
    /// Whether that changes. Then no policy of an agent's own ends: what a default drops after that
    /// comes back with the next one (known, and not about compaction).
    pub turns: bool,
    /// Segments and entries are large.
    pub wide: bool,
    /// The disk has hard links.
    pub links: bool,
}

impl Flavor {
    pub fn of(rng: &mut Rng) -> Flavor {
        let default = *rng.pick(&[Durability::Sync, Durability::Write, Durability::Buffer]);
        let wide = rng.one_in(8);
        let options = Options::new()
            .maintenance(Maintenance::Manual)
            .durability(default)
            .verify(if rng.one_in(4) { Verify::Always } else { Verify::FirstTouch })
            .segment_bytes(if wide { 2 << 20 } else { 256 << 10 })
            .resident_bytes(if rng.one_in(2) { 0 } else { 64 << 10 });
        let large = *rng.pick(&[3, 8, 20]);
        Flavor {
            options,
            default,
            large,
            huge: if wide { 12 } else { 60 },
            compacts: false,
            keep: None,
            turns: false,
            wide: false,
            links: true,
        }
    }

    /// One with compactions, purges and backups.
    pub fn compacting(rng: &mut Rng) -> Flavor {
        let flavor = Flavor::of(rng);
        // Only large segments are kept in place by a recovery, with what it cuts.
        let wide = rng.one_in(8);
        let options = flavor.options.segment_bytes(if wide { 4 << 20 } else { 256 << 10 });
        let mut flavor = Flavor { options, compacts: true, wide, ..flavor };
        flavor.turns = rng.one_in(2);
        flavor.links = !rng.one_in(4);
        if rng.one_in(3) {
            flavor.turn(rng);
        }
        flavor
    }

    /// Another default of retention.
    pub fn turn(&mut self, rng: &mut Rng) {
        self.keep = (!rng.one_in(3)).then(|| 2 + rng.below(12));
        let retention = Retention::new();
        self.options = self.options.clone().retention(match self.keep {
            Some(most) => retention.max_entries(most),
            None => retention,
        });
    }
}

/// What is to go wrong, and at which call.
#[derive(Clone, Copy, Debug)]
pub enum Trap {
    None,
    Crash {
        call: u64,
    },
    Fault {
        call: u64,
        fault: SimFault,
        sticky: bool,
    },
    /// At a call that only looks.
    Look {
        read: u64,
        sticky: bool,
    },
}

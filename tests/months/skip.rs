//! The checks by name, each of which can be left out for a diagnosis.

use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The number of segments.
    Segments,
    /// Figures of `stats` that contradict each other or the model.
    Stats,
    /// The length of the manifest.
    Manifest,
    /// Memory by agents.
    Resident,
    /// Bytes on the disk in proportion to what lives.
    Disk,
    /// What had to be erased by then is in no file.
    Erase,
    /// What was in no file any more came back.
    Revive,
    /// An idle store has clustered segments and gives back what is dead.
    Settle,
    /// Calls return within a simulated time.
    Starve,
    /// A clock that jumps ahead hides and drops nothing. Without this, clocks are right.
    Clock,
    /// The background reports no error without a fault.
    Health,
}

const ALL: [(Check, &str); 11] = [
    (Check::Segments, "segments"),
    (Check::Stats, "stats"),
    (Check::Manifest, "manifest"),
    (Check::Resident, "resident"),
    (Check::Disk, "disk"),
    (Check::Erase, "erase"),
    (Check::Revive, "revive"),
    (Check::Settle, "settle"),
    (Check::Starve, "starve"),
    (Check::Clock, "clock"),
    (Check::Health, "health"),
];

impl Check {
    pub fn is_on(self) -> bool {
        !skipped().contains(&self)
    }
}

fn skipped() -> &'static [Check] {
    static SKIPPED: OnceLock<Vec<Check>> = OnceLock::new();
    SKIPPED.get_or_init(|| {
        let named = std::env::var("MEMLOG_MONTHS_SKIP").unwrap_or_default();
        let named = named.split(',').filter(|name| !name.is_empty());
        let check = |name: &str| {
            let found = ALL.iter().find(|(_, known)| *known == name);
            found.unwrap_or_else(|| panic!("there is no check {name:?}: {ALL:?}")).0
        };
        named.map(check).collect()
    })
}

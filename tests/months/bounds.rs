//! What is promised of a store that runs for long, as formulas. They are those of
//! docs/operations.md: whoever changes one changes the other.

use std::time::Duration;

use memlog::Stats;

use crate::flavor::{DAY, HOUR};
use crate::model::{Item, Life, Span, Value};

/// Bytes that an entry costs besides its payload: its record, its place in an index.
const ENTRY: u64 = 48 + 8;
/// Bytes that a value costs besides key and value; its key is in an index too.
const VALUE: u64 = 32 + 40;
/// Bytes that an agent costs: a frame, a block, its place in directory and filter.
const AGENT: u64 = 96 + 160;

pub fn entry_bytes(item: &Item, span: Span) -> u64 {
    let len = if item.is_live(span) { u64::from(item.len) } else { 0 };
    ENTRY + len.next_multiple_of(8)
}

pub fn value_bytes(key: &str, value: &Value) -> u64 {
    VALUE + 2 * key.len() as u64 + u64::from(value.len).next_multiple_of(8)
}

/// Bytes that live of an agent.
pub fn life_bytes(name: &str, life: &Life, floor: u64, span: Span) -> u64 {
    let items = life.items.iter().skip((floor - life.floor) as usize);
    let entries: u64 = items.map(|item| entry_bytes(item, span)).sum();
    let values: u64 = life.state.iter().map(|(key, value)| value_bytes(key, value)).sum();
    AGENT + 3 * name.len() as u64 + entries + values
}

/// Bytes that the files of a store take at most: 1.6 times what lives, what open views hold, and
/// what is made ahead, waits or is under way.
pub fn disk_bytes(live: u64, pinned: u64, segment: u64, largest: u64) -> u64 {
    live * 8 / 5 + pinned + constant(segment, largest)
}

/// Segments made ahead and waiting to be sealed and clustered, the reserve, and a job's outputs.
pub fn constant(segment: u64, largest: u64) -> u64 {
    20 * segment + (1 << 20) + 2 * largest
}

/// Files of segments at most: some 300, log segments aside, and 128 of those before appends are
/// slowed down.
pub const SEGMENTS: u64 = 300 + 128 + 8;

/// Log segments at most in a store that has settled: 31 whose extents are long wait for one more, 6
/// more while much dies, and there are the active segment and its spares.
pub const SETTLED_LOGS: u64 = 31 + 6 + 4;

/// Dead bytes at most in a store that has settled.
pub fn settled_dead(live: u64, segment: u64) -> u64 {
    live / 4 + 4 * segment
}

/// A store has settled after so long without a change.
pub const SETTLES: u64 = 2 * HOUR;

/// Bytes of the manifest at most: a fixed part, a line for each segment, forgotten prefixes.
pub fn manifest_bytes(stats: &Stats, settled: bool) -> u64 {
    let segments = stats.segments + stats.unsealed_segments;
    (if settled { 16 << 10 } else { 256 << 10 }) + 512 * segments
}

/// Bytes of memory that agents with changes in an unsealed segment take for each of its bytes, at
/// most: `tests/residents.rs` holds the store against it.
pub const UNSEALED: u64 = 7;

/// Memory at most: the budget, and agents that unsealed segments or open views hold.
pub fn resident_bytes(budget: u64, in_use: u64) -> u64 {
    budget + (1 << 20) + in_use
}

/// What had died so long ago is in no file, milliseconds; without what disk and rate add.
pub fn erased_after(within: u64) -> u64 {
    within + (within / 8).max(HOUR)
}

/// Simulated time that one call takes at most, for so many bytes. A step of compaction that runs
/// meanwhile comes to its end first, which is an artefact of the simulation: one stack for all.
pub fn call(bytes: u64, rate: u64) -> Duration {
    let step = Duration::from_millis((4 << 20) * 1000 / rate.max(1));
    Duration::from_secs(1) + 2 * step + Duration::from_secs(bytes * 8 / rate.max(1))
}

/// Simulated time that a close takes at most.
pub const CLOSE: Duration = Duration::from_secs(1);

/// A reading of the wall clock is confirmed after so long, and a little more for what looks at it.
pub const CONFIRMS: u64 = HOUR + HOUR / 10;

/// The time that the store may go by, by the rule of docs/format.md. The true time is `now`, the
/// clock shows `wall`; the store was opened at `opened`, and had recorded `recorded` at least by
/// then. A clock that is ahead by more than an hour is not believed before it is confirmed, which
/// also holds for the right time where the store had been closed, or at rest before a crash.
pub fn believed(before: Span, now: u64, wall: u64, (opened, recorded): (u64, u64)) -> Span {
    let least = if now < opened + CONFIRMS { recorded } else { now };
    let hi = now.max(wall.min(now + HOUR));
    Span { lo: before.lo.max(least.min(now).min(wall)), hi: before.hi.max(hi) }
}

/// An idle store is looked at so often.
pub const LOOKS: u64 = DAY;

//! Repair: what salvage can read of a store, copied into a new one.

mod report;

use std::path::Path;
use std::time::Duration;

use crate::agent::Agent;
use crate::commit::scratch::Scratch;
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::format::head::Head;
use crate::format::manifest::Holes;
use crate::format::record::{Append, Change, LOST, REDACTED};
use crate::io::Io;
use crate::options::{MAX_PAYLOAD, Options};
use crate::recovery::beside::Beside;
use crate::recovery::salvage::{self, Probe};
use crate::recovery::{self, LOCK_FILE};
pub use crate::repair::report::RepairReport;
use crate::retention::Timeline;
use crate::segment::Segment;
use crate::store::Store;
use crate::types::{Durability, Kind, Maintenance};
use crate::view::View;

/// More seqs without a piece of the timeline than this are no real history's: the timeline of the
/// copy begins behind them.
const LARGEST_HOLE: u64 = 1 << 20;
/// A batch of the copy is committed when it has about this many bytes.
const BATCH: usize = 1 << 20;
/// Agents are gone through once: few of them are worth keeping in memory, of either store.
const RESIDENT: usize = 8 << 20;

/// Copies what can be read in `from` to a new store in `to`.
pub(crate) fn repair(io: &Io, options: &Options, from: &Path, to: &Path) -> Result<RepairReport> {
    let beside = Beside::begin(io, to, "repair")?;
    // Held if it can be had, so that the store does not change meanwhile; nothing depends on it.
    let _lock = io.fs.lock_existing(&from.join(LOCK_FILE));
    // Retention of the options must not drop anything on the way.
    let read = Options {
        retention: Default::default(),
        resident_bytes: options.resident_bytes.min(RESIDENT),
        ..options.clone()
    };
    let (engine, found) = salvage::open(io.clone(), from, &read, Probe::Everything)?;
    let mut report = RepairReport::of(found);
    let source = Store::from_parts(engine, Default::default(), None)?;
    let target = create(io, &read, &source, beside.dir())?;
    for agent in source.agents("") {
        copy(&agent?.view()?, &target, &mut report, from)?;
    }
    target.sync()?;
    if report.lost_in_place > 0 || report.lost_values > 0 {
        target.note_holes(Some(Holes {
            entries: report.lost_in_place,
            values: report.lost_values,
            repaired: io.clock.now(),
            from: source.engine().store,
        }))?;
    }
    target.close()?;
    drop(target);
    beside.finish()?;
    Ok(report)
}

/// Creates the new store. Its lsns begin behind those of the old one: lives are told by them.
fn create(io: &Io, options: &Options, source: &Store, to: &Path) -> Result<Store> {
    let set = source.engine().catalog.segments();
    let end = |s: &Segment| s.end_lsn().max(s.base.saturating_add(s.capacity));
    let last = set.sealed.iter().max_by_key(|segment| end(segment));
    let behind = |end: u64| end.checked_next_multiple_of(4096)?.checked_add(4096);
    let base = behind(last.map_or(0, |last| end(last))).ok_or_else(|| {
        let path = last.map_or(to, |last| last.path());
        Error::damaged(Damage::new(path, 0, "the segment takes the last lsns that there are"))
    })?;
    let store = u128::from(io.random.next()) << 64 | u128::from(io.random.next());
    let options = Options {
        salvage: false,
        read_only: false,
        create: true,
        max_payload: MAX_PAYLOAD,
        durability: Durability::Buffer,
        sync_interval: Duration::from_secs(3600),
        maintenance: Maintenance::Manual,
        ..options.clone()
    };
    recovery::create_with(io, to, &options, store, base)?;
    options.open_with(io.clone(), to)
}

/// The seq from which on an agent is copied: its floor, or the end of the last hole that is too
/// large to be filled.
fn begin(view: &View) -> u64 {
    let pieces = Timeline::pieces(&view.snapshot);
    let mut pieces: Vec<_> = pieces.map(|piece| (piece.first, piece.end)).collect();
    pieces.push((view.next_seq(), view.next_seq()));
    pieces.sort_unstable();
    let (mut begin, mut end) = (view.floor(), view.floor());
    for (first, behind) in pieces {
        if first.saturating_sub(end) > LARGEST_HOLE {
            begin = first.min(view.next_seq());
        }
        end = end.max(behind);
    }
    begin
}

/// Copies one agent: the same life, seqs, times and kinds.
fn copy(view: &View, target: &Store, report: &mut RepairReport, dir: &Path) -> Result<()> {
    let (name, floor) = (view.agent().name(), begin(view));
    if floor > view.floor() {
        let reason = format!("entries below seq {floor} are left out, behind a hole");
        let mut damage = Damage::new(dir, 0, reason);
        damage.agents.push(name.to_owned());
        report.lose_entries(name, view.floor(), floor, Some(damage));
    }
    let agent = target.agent(name)?;
    let head = Head { life: view.snapshot.version.head.life, next: floor, floor, flags: 0 };
    agent.resident().lock().learn_head(head);
    let mut copying = Copying { target, batch: Scratch::take(), agent: &agent };
    let mut at = 0;
    for seq in floor..view.next_seq() {
        let entry = view.snapshot.entry(seq);
        let append = match &entry {
            Ok(entry) => {
                at = entry.at_ms();
                let stored = *entry.stored();
                report.entries += 1;
                if entry.is_redacted() {
                    // A loss that was accepted reads as a redaction, and is one from here on.
                    let flags = stored.flags & !LOST | REDACTED;
                    Append { meta: &[], payload: &[], flags, ..stored }
                } else {
                    stored
                }
            }
            Err(error) if error.kind() == ErrorKind::Damaged => {
                report.lose_entry(name, seq, error.damage());
                lost(at)
            }
            Err(error) => return Err(error.clone()),
        };
        copying.push(&Change::Append(append))?;
    }
    let mut states = view.snapshot.states("");
    while let Some((key, value)) = states.next_named() {
        let value = match value {
            Ok(value) => value,
            Err(error) if error.kind() == ErrorKind::Damaged => {
                report.lose_value(name, key.as_deref(), error.damage());
                continue;
            }
            Err(error) => return Err(error),
        };
        report.values += 1;
        let (key, revision) = (value.key(), value.revision().0);
        copying.push(&Change::Kept { key, revision, value: value.value() })?;
    }
    if let Some(policy) = view.snapshot.policy() {
        copying.push(&Change::Policy(Some(policy)))?;
    }
    if view.next_seq() == floor {
        // So that an agent without entries exists too.
        copying.push(&Change::Truncate { seq: floor })?;
    }
    report.agents += 1;
    copying.commit()
}

/// Stands for an entry that was lost.
fn lost(at: u64) -> Append<'static> {
    Append {
        at,
        kind: Kind::new(0),
        weight: 0,
        flags: LOST,
        expires: None,
        meta: &[],
        payload: &[],
    }
}

struct Copying<'a> {
    target: &'a Store,
    batch: Scratch,
    agent: &'a Agent,
}

impl Copying<'_> {
    fn push(&mut self, change: &Change<'_>) -> Result<()> {
        let size = match change {
            Change::Append(a) => a.payload.len() + a.meta.len(),
            Change::Kept { value, .. } => value.len(),
            _ => 0,
        };
        if !self.batch.is_empty() && self.batch.len().saturating_add(size) > BATCH {
            self.commit()?;
        }
        let index = self.agent.number_in(&mut self.batch);
        self.batch.push(index, change);
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let engine = self.target.engine();
        let ordered = engine.order(&mut self.batch, Durability::Buffer);
        self.batch.reset();
        let ordered = ordered?;
        engine.wait(ordered.end, ordered.durability)
    }
}

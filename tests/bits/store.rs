//! Small stores on a simulated disk that have every kind of structure between them. The seeds of
//! the fuzz targets in `fuzz/` are made of the same ones.

use std::time::{Duration, UNIX_EPOCH};

use memlog::sim::{SimDisk, SimFault};
use memlog::{Durability, Kind, Maintenance, NewEntry, Options, Retention, Store};

/// Where the store is.
pub const DIR: &str = "/mem";
/// An expiry that has passed once the store is looked at, and one that has not.
const SOON: u64 = 1_000;
const LATE: u64 = 100 * 365 * 24 * 3600 * 1000;

/// How a store was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Closed: a run, sealed log segments, an active one with frames, an empty spare.
    Closed,
    /// The process died while two segments were unsealed: the one that the log switched to, still
    /// listed as a spare, has a link and frames.
    Killed,
    /// The process died again, in the recovery of that: drafts are listed.
    KilledEarly,
    /// The same at its end: what was copied is listed as obsolete, and still there.
    KilledLate,
}

/// Calls of a seal that creates its manifest, and tries once more.
const CREATIONS: &[u64] = &[18, 24];
/// The same of one that waits until a spare was made and listed.
const CREATION: &[u64] = &[15];
/// Calls of a recovery that are tried.
const CALLS: u64 = 100;

pub fn options() -> Options {
    Options::new()
        .maintenance(Maintenance::Manual)
        .segment_bytes(256 << 10)
        .retention(Retention::new().max_entries(40))
}

/// Makes the store. `look` is called with a store behind each batch that follows the last seal:
/// the last time for all that there is.
pub fn make(end: End, look: &mut dyn FnMut(&Store)) -> memlog::Result<SimDisk> {
    let disk = SimDisk::new(5);
    let store = begin(&disk)?;
    look(&store);
    life(&store, "acme/t-1", 1)?;
    look(&store);
    // Without the seal of it, which fails, two segments are unsealed.
    fail(&disk, &store, CREATIONS, 2);
    life(&store, "acme/t-4", 2)?;
    look(&store);
    store.agent("acme/t-2")?.truncate_before(20)?;
    look(&store);
    let agent = store.agent("acme/t-1")?;
    let mut batch = store.batch();
    batch.append(&agent, NewEntry::user("the last")).set(&agent, "goal", "none");
    batch.durability(Durability::Write).commit()?;
    look(&store);
    if end == End::Closed {
        // A spare is made, and not used.
        fail(&disk, &store, CREATION, 3);
        store.close()?;
        return Ok(disk);
    }
    disk.restart();
    drop(store);
    match end {
        End::KilledEarly => die_in_recovery(&disk, |lines| lines.drafts > 0),
        End::KilledLate => die_in_recovery(&disk, |lines| lines.obsolete > 0),
        End::Closed | End::Killed => {}
    }
    Ok(disk)
}

/// A store with a run, a sealed log segment, and an empty active one.
fn begin(disk: &SimDisk) -> memlog::Result<Store> {
    // A default of retention that ceases to hold.
    let earlier = options().retention(Retention::new().max_entries(30));
    let store = earlier.open_on(disk, DIR)?;
    life(&store, "acme/t-1", 6)?;
    life(&store, "acme/t-2", 36)?;
    life(&store, "acme/gone/x", 2)?;
    life(&store, "forgotten", 2)?;
    changes(&store)?;
    store.close()?;
    drop(store);
    disk.advance(Duration::from_millis(2 * SOON));
    let store = options().open_on(disk, DIR)?;
    // What lives of that becomes a run, beside what is dead.
    store.purge()?;
    life(&store, "acme/t-1", 3)?;
    life(&store, "acme/t-3", 2)?;
    later_changes(&store)?;
    // A backup seals the active segment.
    store.backup("/backup")?;
    clean_up(disk);
    Ok(store)
}

/// Lets a seal fail at these calls, so that the manifest then lists so many unsealed segments.
fn fail(disk: &SimDisk, store: &Store, calls: &[u64], unsealed: usize) {
    for call in calls {
        disk.fail_at(disk.calls() + call, SimFault::NoSpace, false);
    }
    let failed = store.backup("/backup");
    disk.clear_faults();
    clean_up(disk);
    assert!(failed.is_err(), "{calls:?} of a seal are other calls by now");
    assert_eq!(Lines::of(disk).unsealed, unsealed, "{calls:?} of a seal are other calls by now");
}

fn clean_up(disk: &SimDisk) {
    for file in disk.files().iter().filter(|file| !file.starts_with(DIR)) {
        disk.remove_file(file);
    }
}

/// Opens the store and dies where the manifest lists what is wanted.
fn die_in_recovery(disk: &SimDisk, wanted: fn(&Lines) -> bool) {
    let die = |disk: &SimDisk, call| {
        disk.crash_at(disk.calls() + call);
        let opened = options().open_on(disk, DIR).map(drop);
        disk.restart();
        opened
    };
    for call in 0..CALLS {
        let other = disk.fork();
        let _ = die(&other, call);
        if wanted(&Lines::of(&other)) {
            let _ = die(disk, call);
            return;
        }
    }
    panic!("a recovery never lists what is wanted");
}

/// What the manifest lists.
pub struct Lines {
    /// Spare and active.
    pub unsealed: usize,
    pub sealed: usize,
    pub runs: usize,
    pub drafts: usize,
    pub forgotten: usize,
    pub obsolete: usize,
    pub defaults: usize,
}

impl Lines {
    pub fn of(disk: &SimDisk) -> Lines {
        let manifest = disk.read_file(format!("{DIR}/MANIFEST")).unwrap_or_default();
        let count = |at: usize| manifest.get(at).map_or(0, |count| usize::from(*count));
        let field = |line: usize, at: usize| count(104 + line * 64 + at);
        let roles =
            |role: &[usize]| (0..count(80)).filter(|line| role.contains(&field(*line, 44))).count();
        Lines {
            unsealed: roles(&[1, 2]),
            sealed: roles(&[3]),
            runs: (0..count(80)).filter(|line| field(*line, 45) == 1).count(),
            drafts: roles(&[4]),
            forgotten: count(84),
            obsolete: count(88),
            defaults: count(92),
        }
    }
}

/// Some entries and values of an agent.
fn life(store: &Store, name: &str, entries: u64) -> memlog::Result<()> {
    let agent = store.agent(name)?;
    for number in 0..entries {
        let text = format!("{name} says {number}");
        let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + number);
        let kind = [Kind::USER, Kind::ASSISTANT, Kind::TOOL_CALL, Kind::new(300)];
        let mut entry = NewEntry::new(kind[number as usize % 4], &text).at(at).weight(7);
        if number % 2 == 1 {
            entry = entry.meta(r#"{"a":1}"#).joined();
        }
        let mut batch = store.batch();
        batch.append(&agent, entry).set(&agent, "goal", &text).set(&agent, name, "value");
        batch.commit()?;
    }
    Ok(())
}

/// Every other kind of change.
fn changes(store: &Store) -> memlog::Result<()> {
    let now = now(store)?;
    let agent = store.agent("acme/t-1")?;
    let mut batch = store.batch();
    for (text, after) in [("fades", SOON), ("stays", LATE)] {
        let expires = now + Duration::from_millis(after);
        batch.append(&agent, NewEntry::user(text).expires_at(expires));
    }
    batch.unset(&agent, "acme/t-1").redact(&agent, 2).truncate_before(&agent, 2);
    batch.commit()?;
    agent.set_retention(Some(Retention::new().max_entries(20).max_bytes(1 << 20)))?;
    let other = store.agent("acme/t-2")?;
    other.set_retention(Some(Retention::new().max_entries(35)))?;
    store.agent("forgotten")?.forget()?;
    store.forget_prefix("acme/gone/")?;
    Ok(())
}

/// The same behind the run, about what lies in it.
fn later_changes(store: &Store) -> memlog::Result<()> {
    let agent = store.agent("acme/t-1")?;
    let mut batch = store.batch();
    batch.redact(&agent, 3).unset(&agent, "goal").set(&agent, "plan", "wait");
    batch.commit()?;
    store.agent("acme/t-2")?.set_retention(None)?;
    life(store, "acme/old/y", 1)?;
    store.forget_prefix("acme/old/")?;
    life(store, "forgotten", 2)?;
    store.agent("forgotten")?.forget()
}

/// The engine's now: the time that an entry without one gets.
fn now(store: &Store) -> memlog::Result<std::time::SystemTime> {
    let agent = store.agent("clock")?;
    let seq = agent.append(NewEntry::user("tick"))?;
    let view = agent.view()?;
    let at = view.get(seq)?.map_or(UNIX_EPOCH, |entry| entry.at());
    Ok(at)
}

//! Everything that can be done with a hostile directory. Errors are fine; panics, hangs and memory
//! out of proportion are not, and what reads must read the same in every way.

use memlog::sim::SimDisk;
use memlog::{CompactOutcome, ErrorKind, NewEntry, Options, Store, Verify, View};

use crate::directory::Directory;
use crate::store::{DIR, options};

const MENDED: &str = "/mended";
/// What the disk has room for: a hostile file must not make a store that fills a real one.
const DISK: u64 = 24 << 20;
/// The most that is read of one agent, from both ends.
const MOST: usize = 300;

fn read(store: &Store) {
    let mut names = Vec::new();
    for agent in store.agents("") {
        let Ok(agent) = agent else { break };
        names.push(agent.name().to_owned());
        if let Ok(view) = agent.view() {
            look(&view);
        }
        let _ = agent.usage();
    }
    assert!(names.is_sorted_by(|a, b| a < b), "agents in the order of their names");
    let back = store.agents("").rev().take_while(Result::is_ok).count();
    assert!(back <= names.len() || store.agents("").any(|agent| agent.is_err()));
    let _ = store.agent("acme/none").and_then(|agent| agent.view());
    let _ = store.stats();
}

fn look(view: &View) {
    let (floor, next) = (view.floor(), view.next_seq());
    assert!(1 <= floor && floor <= next, "a floor above the end: {floor} {next}");
    let mut seq = floor;
    for entry in view.iter().take(MOST).flatten() {
        assert!(entry.seq() >= seq && entry.seq() < next, "an entry out of order");
        seq = entry.seq() + 1;
        let again = view.get(entry.seq()).expect("it reads again").expect("and is there");
        assert_eq!(again.payload(), entry.payload());
        let _ = (entry.text().is_ok(), entry.meta(), entry.at(), entry.payload_bytes());
    }
    let mut below = next;
    for entry in view.latest(MOST).rev().flatten() {
        assert!(entry.seq() < below && entry.seq() >= floor, "an entry out of order");
        below = entry.seq();
    }
    let _ = view.since(std::time::UNIX_EPOCH).next();
    let mut before: Option<String> = None;
    for value in view.states("").flatten().take(MOST) {
        assert!(before.is_none_or(|before| *before < *value.key()), "keys in order");
        before = Some(value.key().to_owned());
    }
    let _ = view.state("goal");
}

/// Everything that changes a store.
fn change(store: &Store) {
    let agents: Vec<_> = store.agents("").flatten().take(8).collect();
    for agent in &agents {
        let mut batch = store.batch();
        batch.append(agent, NewEntry::user("more")).set(agent, "goal", "g").unset(agent, "plan");
        let _ = batch.commit();
        if let Ok(view) = agent.view() {
            look(&view);
            let _ = agent.redact(view.floor());
            let _ = agent.truncate_before(view.floor().saturating_add(1));
        }
        let _ = agent.set_retention(None);
    }
    if let Some(agent) = agents.first() {
        let _ = agent.forget();
    }
    let _ = store.forget_prefix("acme/");
    for _ in 0..20 {
        if !matches!(store.compact(), Ok(CompactOutcome::More)) {
            break;
        }
    }
    let _ = store.backup("/backup");
    let _ = store.purge();
    read(store);
}

fn open(disk: &SimDisk, options: &Options, dir: &str) -> Option<Store> {
    let opened = options.open_on(disk, dir);
    if let Err(error) = &opened {
        let known = [
            ErrorKind::Damaged,
            ErrorKind::Version,
            ErrorKind::StaleManifest,
            ErrorKind::NotAStore,
            ErrorKind::DiskFull,
        ];
        assert!(known.contains(&error.kind()), "{error:?}");
    }
    opened.ok()
}

/// Everything, with the directory that an input tells of.
pub fn all(input: &[u8]) {
    let directory = Directory::read(input);
    let verify = if directory.flags & 2 != 0 { Verify::Always } else { Verify::FirstTouch };
    let disk = SimDisk::with_capacity(1, DISK);
    directory.put(&disk, DIR);
    let options = options().verify(verify);
    only_read(&disk, &options);
    let Some(store) = open(&disk, &options, DIR) else { return };
    read(&store);
    let _ = store.verify();
    change(&store);
    let _ = store.close();
    drop(store);
    if let Some(store) = open(&disk, &options, DIR) {
        read(&store);
    }
}

/// Salvage, and a repair into another directory.
fn only_read(disk: &SimDisk, options: &Options) {
    let before: Vec<_> = disk.files().iter().map(|file| disk.read_file(file)).collect();
    if let Some(store) = open(disk, &options.clone().salvage(true), DIR) {
        read(&store);
        let _ = store.verify();
    }
    let after: Vec<_> = disk.files().iter().map(|file| disk.read_file(file)).collect();
    assert!(before == after, "salvage changed a file");
    let other = disk.fork();
    if options.repair_on(&other, DIR, MENDED).is_ok() {
        let store = open(&other, options, MENDED).expect("what was repaired opens");
        read(&store);
        let damage = store.verify().expect("what was repaired verifies");
        assert!(damage.is_empty(), "what was repaired is damaged: {damage:?}");
    }
}

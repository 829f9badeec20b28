//! Damage: whatever is flipped, cut, grown, lost or swapped is an error that says where, or a row
//! in a report. Never wrong data, and never a silently shorter timeline.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use memlog::{
    Durability, Error, ErrorKind, Kind, Maintenance, NewEntry, Options, Retention, Store,
};
use tempfile::TempDir;

fn options() -> Options {
    Options::new()
        .durability(Durability::Write)
        .maintenance(Maintenance::Manual)
        .segment_bytes(256 << 10)
}

/// What an agent has: floor, next seq, payloads of the entries (`None`: redacted), state.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    floor: u64,
    next: u64,
    entries: Vec<Option<Vec<u8>>>,
    state: BTreeMap<String, Vec<u8>>,
}

type World = BTreeMap<String, Model>;

fn payload(name: &str, seq: u64, len: usize) -> Vec<u8> {
    let mut payload = format!("{name} {seq} ").into_bytes();
    payload.resize(payload.len() + len, b'a' + seq as u8 % 26);
    payload
}

/// Reads a store that is whole.
fn read(store: &Store) -> World {
    let mut world = World::new();
    for agent in store.agents("") {
        let view = agent.unwrap().view().unwrap();
        let hidden = |e: &memlog::Entry<'_>| (!e.is_redacted()).then(|| e.payload().to_vec());
        let state = view.states("").map(|s| s.unwrap());
        let model = Model {
            floor: view.floor(),
            next: view.next_seq(),
            entries: view.iter().map(|e| hidden(&e.unwrap())).collect(),
            state: state.map(|s| (s.key().to_owned(), s.value().to_vec())).collect(),
        };
        world.insert(view.agent().name().to_owned(), model);
    }
    world
}

fn fill(store: &Store, rounds: std::ops::Range<u64>) {
    for round in rounds {
        for a in 0..5 {
            let agent = store.agent(&format!("t{}/a{a}", a % 2)).unwrap();
            let seq = agent.view().unwrap().next_seq();
            let payload = payload(agent.name(), seq, 400 * a);
            let mut batch = store.batch();
            batch.append(&agent, NewEntry::new(Kind::USER, &payload).meta("meta"));
            batch.set(&agent, &format!("k{}", round % 3), &payload[..20.min(payload.len())]);
            batch.commit().unwrap();
        }
        let gone = store.agent(&format!("gone/{round}")).unwrap();
        gone.append(NewEntry::user("gone")).unwrap();
        if round % 7 == 3 {
            store.forget_prefix("gone/").unwrap();
        }
        if round % 10 == 5 {
            let agent = store.agent("t1/a3").unwrap();
            let next = agent.view().unwrap().next_seq();
            agent.redact(next - 2).unwrap();
            store.agent("t0/a4").unwrap().truncate_before(round / 2).unwrap();
        }
    }
}

/// Where the bytes of each segment file are covered by a checksum.
struct Sample {
    _dir: TempDir,
    path: PathBuf,
    world: World,
    covered: BTreeMap<String, Vec<std::ops::Range<u64>>>,
    /// Places to flip: file, offset, and what lies there.
    places: Vec<(String, u64, &'static str)>,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Sample {
    /// Three sealed segments and an active one; closed, or as a killed process leaves it.
    fn new(clean: bool) -> Sample {
        let dir = tempfile::tempdir().unwrap();
        let (open, path) = (dir.path().join("open"), dir.path().join("mem"));
        let store = options().open(&open).unwrap();
        store.agent("p/kept").unwrap().set_retention(Some(Retention::new().max_bytes(99))).unwrap();
        fill(&store, 0..96);
        store.agent("p/kept").unwrap().append(NewEntry::user("kept")).unwrap();
        store.sync().unwrap();
        fill(&store, 96..100);
        let (world, active) = (read(&store), store.stats().active_bytes);
        assert_eq!(store.stats().segments, 3);
        if clean {
            store.close().unwrap();
        } else {
            store.sync().unwrap();
        }
        copy(&open, &path);
        let mut sample =
            Sample { _dir: dir, path, world, covered: BTreeMap::new(), places: Vec::new() };
        sample.find_places(active);
        sample
    }

    fn find_places(&mut self, active: u64) {
        for name in segments(&self.path) {
            let bytes = fs::read(self.path.join(&name)).unwrap();
            let len = bytes.len() as u64;
            let trailer = bytes.len() - 320;
            let sealed = &bytes[trailer..trailer + 8] == b"memlogFT";
            let mut add = |at: u64, what| self.places.push((name.clone(), at, what));
            [0, 9, 13, 17, 33, 41, 49, 57, 65, 127]
                .iter()
                .for_each(|at| add(*at, "segment header"));
            let end = if sealed { u64_at(&bytes, trailer + 56) } else { active };
            // The first frame, and some everywhere.
            [0, 4, 9, 17, 25, 33, 41, 45, 49, 53, 57, 65]
                .iter()
                .for_each(|at| add(128 + at, "frame header"));
            (1..16).for_each(|i| add(128 + (end - 129) * i / 16 + i % 8, "frame"));
            add(end - 1, "frame");
            let mut covered: Vec<_> = std::iter::once(0..end).collect();
            if sealed {
                let section = |at: usize| u64_at(&bytes, trailer + at);
                let footer = section(104);
                covered.push(footer..len);
                for (at, what) in [(104, "directory"), (128, "filter"), (136, "block")] {
                    [0, 3, 9, 40].iter().for_each(|i| add(section(at) + i, what));
                }
                [0, 5, 9, 20].iter().for_each(|i| add(section(152) + i, "prefixes"));
                (0..320).step_by(31).for_each(|i| add(trailer as u64 + i, "trailer"));
            }
            self.covered.insert(name, covered);
        }
    }

    fn is_covered(&self, file: &str, at: u64) -> bool {
        self.covered[file].iter().any(|range| range.contains(&at))
    }

    /// A copy, for the harm that is done to it.
    fn copy(&self) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mem");
        copy(&self.path, &path);
        (dir, path)
    }
}

/// Copies a store without its lock, as a killed process leaves it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        if !["LOCK", "RESERVE", "RESERVE.open"].iter().any(|idle| name == *idle) {
            fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
    }
}

fn segments(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".log")).collect();
    names.sort();
    names
}

fn flip(path: &Path, at: u64, bit: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
}

/// An error of damage names file and offset.
fn is_damage(error: &Error, dir: &Path) {
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    let damage = error.damage().unwrap();
    assert!(damage.file.starts_with(dir), "{error}");
    assert!(error.to_string().contains(&*damage.file.to_string_lossy()), "{error}");
}

/// Every read is right or `Damaged`; gives what was damaged. Nothing is shorter than it was.
fn read_damaged(store: &Store, dir: &Path, world: &World) -> usize {
    let mut damaged = 0;
    let mut listed = BTreeSet::new();
    for agent in store.agents("") {
        match agent {
            Ok(agent) => drop(listed.insert(agent.name().to_owned())),
            Err(error) => {
                is_damage(&error, dir);
                damaged += 1;
            }
        }
    }
    if damaged == 0 {
        assert!(listed.iter().eq(world.keys()), "{listed:?}");
    }
    for (name, model) in world {
        let view = match store.agent(name).unwrap().view() {
            Ok(view) => view,
            Err(error) => {
                is_damage(&error, dir);
                assert_eq!(error.agent(), Some(&name[..]));
                damaged += 1;
                continue;
            }
        };
        assert_eq!((view.floor(), view.next_seq()), (model.floor, model.next), "{name}");
        damaged += read_entries(&view, dir, model);
    }
    damaged
}

fn read_entries(view: &memlog::View, dir: &Path, model: &Model) -> usize {
    let name = view.agent().name();
    let mut damaged = 0;
    for (wanted, seq) in model.entries.iter().zip(model.floor..) {
        match view.get(seq) {
            Ok(entry) => {
                let entry = entry.unwrap();
                assert_eq!((entry.seq(), entry.is_redacted()), (seq, wanted.is_none()), "{name}");
                assert!(entry.payload() == wanted.as_deref().unwrap_or_default(), "{name} {seq}");
            }
            Err(error) => {
                is_damage(&error, dir);
                assert_eq!((error.agent(), error.seq()), (Some(name), Some(seq)));
                // An iterator ends there, and goes on behind it if it is asked to.
                let mut from = view.range(seq..);
                assert!(from.next().unwrap().is_err() && from.next().is_none());
                assert!(from.next_back().is_none());
                damaged += 1;
            }
        }
    }
    for (key, value) in &model.state {
        match view.state(key) {
            Ok(found) => assert!(found.unwrap().value() == value, "{name} {key}"),
            Err(error) => {
                is_damage(&error, dir);
                assert_eq!(error.agent(), Some(name));
                damaged += 1;
            }
        }
    }
    damaged
}

/// What salvage and repair give: right as far as it goes, and what lacks is reported.
fn read_rest(store: &Store, world: &World, whole: bool) -> usize {
    let mut lost = 0;
    for (name, model) in world {
        let view = store.agent(name).unwrap().view().unwrap();
        for (wanted, seq) in model.entries.iter().zip(model.floor..) {
            match view.get(seq) {
                Ok(Some(entry)) => {
                    if wanted.is_some() || whole {
                        let payload = wanted.as_deref().unwrap_or_default();
                        assert!(entry.payload() == payload, "{name} {seq}");
                    }
                }
                Ok(None) => lost += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Damaged);
                    assert_eq!((error.agent(), error.seq()), (Some(&name[..]), Some(seq)));
                    lost += 1;
                }
            }
        }
        let items = view.iter().count() as u64;
        assert_eq!(items, view.next_seq() - view.floor(), "an iterator goes on");
        for (key, value) in &model.state {
            lost +=
                usize::from(!view.state(key).is_ok_and(|v| v.is_some_and(|v| v.value() == value)));
        }
    }
    lost
}

fn refuses_writes(store: &Store) {
    let agent = store.agent("t0/a0").unwrap();
    let refused = [
        agent.append(NewEntry::user("x")).unwrap_err(),
        agent.forget().unwrap_err(),
        agent.redact(1).unwrap_err(),
        store.forget_prefix("t0/").unwrap_err(),
        store.batch().set(&agent, "k", "v").submit().wait().unwrap_err(),
    ];
    assert!(refused.iter().all(|error| error.kind() == ErrorKind::ReadOnly), "{refused:?}");
}

/// Salvage and repair of a store with harm done to it.
fn mend(sample: &Sample, path: &Path, what: &str) {
    let before: Vec<_> = segments(path).iter().map(|n| fs::read(path.join(n)).unwrap()).collect();
    let salvaged = options().salvage(true).open(path).unwrap();
    let reported = !salvaged.recovery_report().damage.is_empty();
    let lost = read_rest(&salvaged, &sample.world, !reported);
    // What was not proved durable is a torn tail to salvage as it is to an opening.
    let torn = salvaged.recovery_report().possibly_acknowledged;
    assert!(lost == 0 || torn || !salvaged.verify().unwrap().is_empty(), "{what}");
    refuses_writes(&salvaged);
    salvaged.close().unwrap();
    let to = path.with_file_name("mended");
    let report = options().repair(path, &to).unwrap();
    let after: Vec<_> = segments(path).iter().map(|n| fs::read(path.join(n)).unwrap()).collect();
    assert!(before == after, "{what}: nothing is changed");
    let mended = options().open(&to).unwrap();
    assert_eq!(mended.verify().unwrap(), [], "{what}");
    let lost = read_rest_of(&mended, sample, report.damage.is_empty() && report.bytes_cut == 0);
    assert!(lost == 0 || !report.damage.is_empty() || report.bytes_cut > 0, "{what}: {lost}");
    let agent = mended.agent("t0/a0").unwrap();
    let next = agent.view().unwrap().next_seq();
    assert_eq!(agent.append(NewEntry::user("on")).unwrap(), next, "{what}: it goes on");
    mended.close().unwrap();
    assert_eq!(options().open(&to).unwrap().verify().unwrap(), []);
}

/// A mended store is strict again: entries are read one by one.
fn read_rest_of(store: &Store, sample: &Sample, whole: bool) -> usize {
    let mut lost = 0;
    if whole {
        assert_eq!(read(store), sample.world);
    }
    for (name, model) in &sample.world {
        let view = store.agent(name).unwrap().view().unwrap();
        for (wanted, seq) in model.entries.iter().zip(model.floor..) {
            match (view.get(seq), wanted) {
                (Ok(Some(entry)), Some(payload)) => assert!(entry.payload() == payload, "{name}"),
                (Ok(Some(_)), None) => {}
                (Ok(None), _) => lost += 1,
                (Err(error), _) => {
                    assert_eq!(error.kind(), ErrorKind::Damaged);
                    lost += 1;
                }
            }
        }
    }
    lost
}

#[test]
fn a_flipped_bit_in_any_structure_after_a_clean_close_is_seen() {
    let sample = Sample::new(true);
    for (i, (file, at, what)) in sample.places.iter().enumerate() {
        let (_dir, path) = sample.copy();
        flip(&path.join(file), *at, (i % 8) as u8);
        let what = format!("{what} at {at} of {file}");
        let seen = match options().open(&path) {
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::StaleManifest),
                    "{what}: {error}"
                );
                true
            }
            Ok(store) => {
                let damaged = read_damaged(&store, &path, &sample.world);
                let verified = store.verify().unwrap();
                assert!(damaged == 0 || !verified.is_empty(), "{what}: {damaged}");
                store.close().unwrap();
                !verified.is_empty()
            }
        };
        assert_eq!(seen, sample.is_covered(file, *at), "{what}");
        if i % 7 == 0 {
            let (_dir, path) = sample.copy();
            flip(&path.join(file), *at, (i % 8) as u8);
            mend(&sample, &path, &what);
        }
    }
}

#[test]
fn a_flipped_bit_after_a_crash_is_seen_or_a_torn_tail_that_is_reported() {
    let sample = Sample::new(false);
    for (i, (file, at, what)) in sample.places.iter().enumerate() {
        let (_dir, path) = sample.copy();
        flip(&path.join(file), *at, (i % 8) as u8);
        let what = format!("{what} at {at} of {file}");
        match options().open(&path) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}"),
            Ok(store) => {
                let report = store.recovery_report();
                if report.bytes_cut > 0 {
                    assert!(report.possibly_acknowledged, "{what}");
                    assert!(file == sample.covered.keys().next_back().unwrap(), "{what}");
                } else {
                    let damaged = read_damaged(&store, &path, &sample.world);
                    let verified = store.verify().unwrap();
                    assert!(damaged == 0 || !verified.is_empty(), "{what}: {damaged}");
                    assert!(!verified.is_empty() || !sample.is_covered(file, *at), "{what}");
                }
            }
        }
        if i % 11 == 0 {
            let (_dir, path) = sample.copy();
            flip(&path.join(file), *at, (i % 8) as u8);
            mend(&sample, &path, &what);
        }
    }
}

#[test]
fn a_flipped_bit_in_the_manifest_is_seen_and_repair_gives_everything() {
    for clean in [true, false] {
        let sample = Sample::new(clean);
        let len = fs::metadata(sample.path.join("MANIFEST")).unwrap().len();
        for at in 0..len {
            let (_dir, path) = sample.copy();
            flip(&path.join("MANIFEST"), at, (at % 8) as u8);
            let error = options().open(&path).unwrap_err();
            if !(8..12).contains(&at) {
                is_damage(&error, &path);
            } else {
                assert_eq!(error.kind(), ErrorKind::Version);
            }
            if at % 40 == 0 || at == 9 {
                let to = path.with_file_name("mended");
                let report = options().repair(&path, &to).unwrap();
                assert!(!report.damage.is_empty(), "it says that the manifest is lost");
                let mended = options().open(&to).unwrap();
                assert_eq!(read(&mended), sample.world, "byte {at}");
            }
        }
    }
}

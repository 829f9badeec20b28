//! Damage to stores with runs: manifests lost, leftovers of compactions beside what they became,
//! runs that were never finished, flipped bits. What is right stays, and the dead stay dead.
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
    CompactOutcome, Damage, Durability, Error, ErrorKind, Kind, Maintenance, NewEntry, Options,
    Retention, Store,
};
use tempfile::TempDir;

fn options() -> Options {
    Options::new()
        .durability(Durability::Write)
        .maintenance(Maintenance::Manual)
        .segment_bytes(256 << 10)
}

/// What an agent has: floor, next seq, payloads of the entries (`None`: redacted), state with
/// revisions.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    floor: u64,
    next: u64,
    entries: Vec<Option<Vec<u8>>>,
    state: BTreeMap<String, (u64, Vec<u8>)>,
}

type World = BTreeMap<String, Model>;

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
            state: state
                .map(|s| (s.key().to_owned(), (s.revision().0, s.value().to_vec())))
                .collect(),
        };
        world.insert(view.agent().name().to_owned(), model);
    }
    let back: Vec<_> = store.agents("").rev().map(|a| a.unwrap().name().to_owned()).collect();
    assert!(back.iter().rev().eq(world.keys()), "both ways: {back:?}");
    world
}

fn same(found: &World, wanted: &World, what: &str) {
    assert!(found.keys().eq(wanted.keys()), "{what}: {:?}, not {:?}", found.keys(), wanted.keys());
    for (name, model) in wanted {
        let found = &found[name];
        assert_eq!((found.floor, found.next), (model.floor, model.next), "{what}: {name}");
        assert!(found.entries == model.entries, "{what}: the entries of {name}");
        assert!(found.state == model.state, "{what}: the state of {name}");
    }
}

/// Rounds in which every agent of `agents` gets an entry and a value.
fn fill(store: &Store, agents: std::ops::Range<u64>, rounds: u64) {
    for _ in 0..rounds {
        for a in agents.clone() {
            let agent = store.agent(&format!("t{}/a{a:02}", a % 3)).unwrap();
            let seq = agent.view().unwrap().next_seq();
            let mut payload = format!("{} {seq} ", agent.name()).into_bytes();
            payload.resize(900 + (a * 97 % 700) as usize, b'a' + seq as u8 % 26);
            let mut batch = store.batch();
            batch.append(&agent, NewEntry::new(Kind::USER, &payload).meta("meta"));
            batch.set(&agent, &format!("k{}", seq % 3), &payload[..20]);
            batch.commit().unwrap();
        }
    }
}

fn compact(store: &Store) {
    while store.compact().unwrap() == CompactOutcome::More {}
}

/// Things die in every way there is.
fn kill(store: &Store, round: u64) {
    for a in [2, 7, 8] {
        let a = a + round * 9;
        store.agent(&format!("t{}/a{a:02}", a % 3)).unwrap().forget().unwrap();
    }
    // And one of them lives again.
    fill(store, 7 + round * 9..8 + round * 9, 2);
    let agent = store.agent("t1/a01").unwrap();
    let next = agent.view().unwrap().next_seq();
    agent.redact(next - 2).unwrap();
    store.batch().unset(&agent, "k1").commit().unwrap();
    store.agent("t0/a00").unwrap().truncate_before(5 + round * 5).unwrap();
    store.forget_prefix("gone/").unwrap();
}

/// A store with runs, log segments and an active one, and what became of it.
struct Sample {
    _dir: TempDir,
    store: Store,
    path: PathBuf,
    /// The files before the last compaction.
    before: BTreeMap<String, Vec<u8>>,
    world: World,
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| !["LOCK", "RESERVE", "RESERVE.open"].contains(&name.as_str()));
    names.map(|name| (name.clone(), fs::read(dir.join(&name)).unwrap())).collect()
}

fn put(files: &BTreeMap<String, Vec<u8>>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mem");
    fs::create_dir(&path).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(path.join(name), bytes).unwrap());
    (dir, path)
}

fn is_run(name: &str) -> bool {
    name.ends_with(".run")
}

impl Sample {
    /// Compacted twice, with something dying before, between and behind.
    fn new() -> Sample {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mem");
        let store = options().open(&path).unwrap();
        store.agent("p/kept").unwrap().set_retention(Some(Retention::new().max_bytes(99))).unwrap();
        for i in 0..20 {
            store.agent(&format!("gone/{i}")).unwrap().append(NewEntry::user("gone")).unwrap();
        }
        fill(&store, 0..30, 16);
        kill(&store, 0);
        compact(&store);
        assert!(files(&path).keys().any(|name| is_run(name)));
        store.agent("gone/late").unwrap().append(NewEntry::user("gone")).unwrap();
        fill(&store, 0..40, 8);
        kill(&store, 1);
        fill(&store, 0..40, 8);
        kill(&store, 2);
        store.sync().unwrap();
        let mut sample =
            Sample { before: files(&path), _dir: dir, store, path, world: World::new() };
        sample.world = read(&sample.store);
        compact(&sample.store);
        same(&read(&sample.store), &sample.world, "compacted");
        sample
    }

    /// What is there now; without the manifest.
    fn bare(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = files(&self.path);
        files.remove("MANIFEST");
        files
    }

    /// Segments that the last compaction replaced.
    fn gone(&self) -> Vec<(String, Vec<u8>)> {
        let now = files(&self.path);
        let gone = self.before.iter().filter(|(name, _)| !now.contains_key(*name));
        gone.map(|(name, bytes)| (name.clone(), bytes.clone())).collect()
    }
}

/// Salvages and repairs `files`, which is to give `world`.
fn mended(files: &BTreeMap<String, Vec<u8>>, world: &World, what: &str) -> Vec<Damage> {
    let (_dir, path) = put(files);
    let salvaged = options().salvage(true).open(&path).unwrap();
    same(&read(&salvaged), world, &format!("{what}, salvaged"));
    drop(salvaged);
    let to = path.with_file_name("mended");
    let report = options().repair(&path, &to).unwrap();
    let mended = options().open(&to).unwrap();
    same(&read(&mended), world, &format!("{what}, mended"));
    assert_eq!(mended.verify().unwrap(), [], "{what}");
    for (name, bytes) in files {
        assert!(fs::read(path.join(name)).unwrap() == *bytes, "{what}: nothing is changed");
    }
    // It goes on.
    fill(&mended, 0..40, 6);
    compact(&mended);
    assert_eq!(mended.verify().unwrap(), [], "{what}");
    report.damage
}

#[test]
fn a_lost_manifest_of_a_store_with_runs_is_refused_and_repair_gives_everything() {
    for more in [0, 1, 9] {
        let mut sample = Sample::new();
        fill(&sample.store, 0..20, more);
        sample.world = read(&sample.store);
        if more != 1 {
            sample.store.close().unwrap();
        }
        let (_dir, path) = put(&sample.bare());
        let error = options().open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        assert_eq!(error.damage().unwrap().file, path.join("MANIFEST"));
        assert!(error.to_string().contains("repair"), "{error}");
        assert!(fs::read_dir(&path).unwrap().count() >= sample.bare().len(), "nothing is removed");
        mended(&sample.bare(), &sample.world, &format!("{more} rounds more"));
        // One that cannot be read is as good as none.
        let mut files = files(&sample.path);
        files.get_mut("MANIFEST").unwrap()[30] ^= 1;
        mended(&files, &sample.world, "a flipped bit in the manifest");
    }
}

#[test]
fn what_a_compaction_replaced_revives_nothing_when_it_is_still_there() {
    let sample = Sample::new();
    let gone = sample.gone();
    assert!(gone.iter().any(|(name, _)| is_run(name)), "runs are compacted again");
    assert!(gone.iter().filter(|(name, _)| !is_run(name)).count() >= 3);
    let mut all = sample.bare();
    all.extend(gone.iter().cloned());
    mended(&all, &sample.world, "all of it");
    for (name, bytes) in &gone {
        let mut files = sample.bare();
        files.insert(name.clone(), bytes.clone());
        mended(&files, &sample.world, name);
    }
}

#[test]
fn runs_that_a_manifest_does_not_list_mean_nothing() {
    let sample = Sample::new();
    sample.store.close().unwrap();
    let mut files = files(&sample.path);
    files.extend(sample.gone().into_iter().filter(|(name, _)| is_run(name)));
    assert_eq!(mended(&files, &sample.world, "beside a manifest"), []);
    let (_dir, path) = put(&files);
    let store = options().open(&path).unwrap();
    same(&read(&store), &sample.world, "opened");
    assert!(sample.gone().iter().all(|(name, _)| !path.join(name).exists()), "orphans go");
}

/// The runs of a compaction that did not come to replacing the manifest.
fn unfinished(sample: &Sample) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    let mut all = sample.before.clone();
    let made: Vec<_> = files(&sample.path)
        .into_iter()
        .filter(|(name, _)| is_run(name) && !sample.before.contains_key(name))
        .collect();
    assert!(!made.is_empty());
    let names = made.iter().map(|(name, _)| name.clone()).collect();
    all.extend(made);
    (all, names)
}

#[test]
fn runs_that_were_not_finished_change_nothing() {
    let sample = Sample::new();
    let (mut files, made) = unfinished(&sample);
    mended(&files, &sample.world, "with a manifest");
    let (_dir, path) = put(&files);
    // One whose id the manifest is beyond.
    fs::write(path.join("0000000000000001.run"), &files[&made[0]]).unwrap();
    let store = options().open(&path).unwrap();
    same(&read(&store), &sample.world, "opened");
    made.iter().for_each(|name| assert!(!path.join(name).exists(), "{name} is an orphan"));
    assert!(!path.join("0000000000000001.run").exists());
    drop(store);

    files.remove("MANIFEST");
    mended(&files, &sample.world, "whole, without a manifest");
    for name in &made {
        let whole = files[name].clone();
        let data = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for end in [data - 200, data / 2, 300_000, 4096, 128] {
            let file = files.get_mut(name).unwrap();
            file.copy_from_slice(&whole);
            file[end.min(data)..].fill(0);
            let what = format!("{name} up to {end}");
            let found = mended(&files, &sample.world, &what);
            let mut of_run = found.iter().filter(|damage| damage.file.ends_with(name));
            let said = of_run.all(|damage| damage.reason.contains("not finished"));
            assert!(said && found.len() <= 2, "{what}: {found:?}");
        }
        files.insert(name.clone(), whole);
    }
}

#[test]
fn an_older_manifest_put_back_removes_no_run_that_it_does_not_know() {
    let mut sample = Sample::new();
    for round in 0..2 {
        let mut now = files(&sample.path);
        now.insert("MANIFEST".into(), sample.before["MANIFEST"].clone());
        let mut with_gone = now.clone();
        with_gone.extend(sample.gone());
        // Before the segment that tells that the manifest is old.
        let run = now.iter().find(|(name, _)| is_run(name)).unwrap().1.clone();
        with_gone.insert("0000000000000001.run".into(), run);
        let mut no_logs = now.clone();
        no_logs.retain(|name, _| !name.ends_with(".log") || sample.before.contains_key(name));
        for files in [&now, &with_gone, &no_logs] {
            let (_dir, path) = put(files);
            let error = options().open(&path).unwrap_err();
            let kinds = [ErrorKind::Damaged, ErrorKind::StaleManifest];
            assert!(kinds.contains(&error.kind()), "{error}");
            files.keys().for_each(|name| assert!(path.join(name).exists(), "{name}: {error}"));
        }
        mended(&now, &sample.world, &format!("an older manifest, {round}"));
        // Newer segments than the runs.
        fill(&sample.store, 0..40, 9);
        sample.world = read(&sample.store);
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Places to flip in a run, and what lies there.
fn places(bytes: &[u8]) -> Vec<(u64, &'static str)> {
    let trailer = bytes.len() - 320;
    let section = |at: usize| u64_at(bytes, trailer + at);
    let end = section(56);
    let mut places = Vec::new();
    let mut add = |at: u64, what| places.push((at, what));
    [1, 13, 33, 41, 49, 65, 127].iter().for_each(|at| add(*at, "header"));
    [0, 4, 9, 17, 25, 33, 41, 45, 49, 53, 57, 65].iter().for_each(|at| add(128 + at, "frame"));
    (1..24).for_each(|i| add(128 + (end - 129) * i / 24 + i % 8, "record"));
    add(end - 1, "record");
    for (at, what) in [(104, "directory"), (128, "filter"), (136, "block")] {
        [0, 3, 9, 40].iter().for_each(|i| add(section(at) + i, what));
    }
    [0, 5, 9, 14, 20].iter().for_each(|i| add(section(152) + i, "prefixes"));
    (0..320).step_by(37).for_each(|i| add(trailer as u64 + i, "trailer"));
    places
}

/// An error of damage names the file, and of a run no lsn.
fn is_damage(error: &Error, file: &Path) {
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    let damage = error.damage().unwrap();
    assert_eq!((&*damage.file, damage.lsn), (file, None), "{error}");
}

/// Every read is right or `Damaged`, for a reason that names file and agent; gives whom it hit.
fn read_damaged(store: &Store, file: &Path, world: &World) -> BTreeSet<String> {
    let mut hit = BTreeSet::new();
    let mut met = |error: Error, name: &str, seq: Option<u64>| {
        is_damage(&error, file);
        assert_eq!((error.agent(), error.seq()), (Some(name), seq), "{error}");
        assert!(error.damage().unwrap().agents.contains(&name.to_owned()), "{error}");
        hit.insert(name.to_owned());
    };
    for (name, model) in world {
        let view = match store.agent(name).unwrap().view() {
            Ok(view) => view,
            Err(error) => {
                met(error, name, None);
                continue;
            }
        };
        assert_eq!((view.floor(), view.next_seq()), (model.floor, model.next), "{name}");
        for (wanted, seq) in model.entries.iter().zip(model.floor..) {
            match view.get(seq) {
                Ok(entry) => {
                    let entry = entry.unwrap();
                    assert_eq!(entry.is_redacted(), wanted.is_none(), "{name} {seq}");
                    assert!(entry.payload() == wanted.as_deref().unwrap_or_default());
                }
                Err(error) => met(error, name, Some(seq)),
            }
        }
        for (key, (_, value)) in &model.state {
            match view.state(key) {
                Ok(found) => assert!(found.unwrap().value() == value, "{name} {key}"),
                Err(error) => met(error, name, None),
            }
        }
    }
    hit
}

/// What salvage or repair left is right; gives how many entries and values are lost, and of whom.
fn read_rest(store: &Store, world: &World, what: &str) -> (u64, BTreeSet<String>) {
    let (mut lost, mut hit) = (0, BTreeSet::new());
    let names: Vec<_> = store.agents("").map(|a| a.unwrap().name().to_owned()).collect();
    names.iter().for_each(|name| assert!(world.contains_key(name), "{what}: {name} is dead"));
    for (name, model) in world {
        let view = store.agent(name).unwrap().view().unwrap();
        let mut lacks = 0;
        for (wanted, seq) in model.entries.iter().zip(model.floor..) {
            match view.get(seq) {
                Ok(Some(entry)) => {
                    let payload = wanted.as_deref().unwrap_or_default();
                    assert!(entry.payload() == payload, "{what}: {name} {seq}");
                }
                Ok(None) => lacks += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Damaged);
                    lacks += 1;
                }
            }
        }
        for (key, value) in &model.state {
            match view.state(key) {
                Ok(Some(found)) => assert!(found.value() == &value.1, "{what}: {name} {key}"),
                _ => lacks += 1,
            }
        }
        if lacks > 0 {
            lost += lacks;
            hit.insert(name.clone());
        }
    }
    (lost, hit)
}

#[test]
fn a_flipped_bit_anywhere_in_a_run_is_seen_and_the_rest_is_read() {
    let sample = Sample::new();
    sample.store.close().unwrap();
    let files = files(&sample.path);
    let mut tried = 0;
    for (name, bytes) in files.iter().filter(|(name, _)| is_run(name)).take(3) {
        for (i, (at, what)) in places(bytes).into_iter().enumerate() {
            let what = format!("{what} at {at} of {name}");
            let (_dir, path) = put(&files);
            let (file, mut bytes) = (path.join(name), bytes.clone());
            bytes[at as usize] ^= 1 << (i % 8);
            fs::write(&file, &bytes).unwrap();
            match options().open(&path) {
                Err(error) => is_damage(&error, &file),
                Ok(store) => {
                    let hit = read_damaged(&store, &file, &sample.world);
                    let verified = store.verify().unwrap();
                    assert!(!verified.is_empty(), "{what}: {hit:?}");
                    assert!(verified.iter().all(|d| d.file == file && d.lsn.is_none()), "{what}");
                    store.close().unwrap();
                }
            }
            fs::write(&file, &bytes).unwrap();
            let salvaged = options().salvage(true).open(&path).unwrap();
            let (lost, hit) = read_rest(&salvaged, &sample.world, &what);
            // One record is hit, or none at all: everything else is there.
            assert!(lost <= 1 && hit.len() <= 1, "{what}: {lost} of {hit:?}");
            drop(salvaged);
            if i % 3 == 0 {
                let to = path.with_file_name("mended");
                let report = options().repair(&path, &to).unwrap();
                let mended = options().open(&to).unwrap();
                let (lost, hit) = read_rest(&mended, &sample.world, &what);
                assert!(lost <= 1, "{what}: {lost} of {hit:?}");
                let told = |name: &String| report.damage.iter().any(|d| d.agents.contains(name));
                assert!(hit.iter().all(told), "{what}: {report:?}");
                assert!(!report.damage.is_empty(), "{what}");
                let of_run = |d: &Damage| d.file == file && d.lsn.is_none();
                assert!(report.damage.iter().all(of_run), "{what}: {report:?}");
                assert_eq!(mended.verify().unwrap(), [], "{what}");
            }
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
}

#[test]
fn runs_without_their_footers_are_read_by_their_frames() {
    let sample = Sample::new();
    for manifest in [true, false] {
        for all in [false, true] {
            let mut files = files(&sample.path);
            if !manifest {
                files.remove("MANIFEST");
            }
            for (name, bytes) in files.iter_mut().filter(|(name, _)| is_run(name)) {
                let trailer = bytes.len() - 320;
                let end = u64_at(bytes, trailer + 56) as usize;
                // The trailer alone, or the footer with it.
                let from = if all { end } else { trailer };
                bytes[from..].fill(0xA5);
                assert!(bytes.len() > end, "{name}");
            }
            mended(&files, &sample.world, &format!("{manifest} {all}"));
        }
    }
}

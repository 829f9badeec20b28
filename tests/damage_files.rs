//! Files cut, grown, missing, swapped; manifests lost and older ones put back; torn tails; and what
//! salvage and repair make of it all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memlog::{
    Agent, Durability, ErrorKind, Maintenance, NewEntry, Options, RecoveryReport, RepairReport,
    Retention, Store, View,
};
use tempfile::TempDir;

const SIZE: usize = 3000;

fn options() -> Options {
    Options::new()
        .durability(Durability::Write)
        .maintenance(Maintenance::Manual)
        .segment_bytes(256 << 10)
}

fn text(name: &str, seq: u64) -> String {
    format!("{name} {seq} {}", "x".repeat(SIZE))
}

fn append(agent: &Agent, n: u64) {
    for _ in 0..n {
        let seq = agent.view().unwrap().next_seq();
        assert_eq!(agent.append(NewEntry::user(&text(agent.name(), seq))).unwrap(), seq);
    }
}

/// A store of three agents in some sealed segments and an active one.
struct World {
    _dir: TempDir,
    path: PathBuf,
    store: Store,
}

const AGENTS: [&str; 3] = ["t/a", "t/b", "u"];

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mem");
        let store = options().open(&path).unwrap();
        let world = World { _dir: dir, path, store };
        while world.store.stats().segments < 3 {
            world.more(5);
        }
        world.more(5);
        world
    }

    fn more(&self, n: u64) {
        AGENTS.iter().for_each(|name| append(&self.store.agent(name).unwrap(), n));
    }

    /// What a killed process leaves, in a new place.
    fn killed(&self) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mem");
        fs::create_dir(&path).unwrap();
        for entry in fs::read_dir(&self.path).unwrap() {
            let name = entry.unwrap().file_name();
            if name != "LOCK" {
                fs::copy(self.path.join(&name), path.join(&name)).unwrap();
            }
        }
        (dir, path)
    }

    fn next(&self) -> u64 {
        self.store.agent("u").unwrap().view().unwrap().next_seq()
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut logs: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
    logs.sort();
    logs
}

/// Every entry is right or `Damaged`; gives how many are damaged.
fn check(view: &View) -> u64 {
    let mut damaged = 0;
    for seq in view.floor()..view.next_seq() {
        match view.get(seq) {
            Ok(entry) => {
                let entry = entry.unwrap();
                let text = text(view.agent().name(), seq);
                assert!(entry.is_redacted() || entry.text().unwrap() == text);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged);
                assert_eq!(error.seq(), Some(seq));
                damaged += 1;
            }
        }
    }
    damaged
}

fn refused(path: &Path, file: &Path) {
    let error = options().open(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert_eq!(error.damage().unwrap().file, file, "{error}");
}

/// Salvages and repairs; gives the repaired store.
fn mend(path: &Path) -> (Store, RepairReport) {
    let salvaged = options().salvage(true).open(path).unwrap();
    for agent in salvaged.agents("") {
        let view = agent.unwrap().view().unwrap();
        check(&view);
        assert_eq!(view.iter().count() as u64, view.next_seq() - view.floor());
    }
    let to = path.with_file_name("mended");
    let report = options().repair(path, &to).unwrap();
    let mended = options().open(&to).unwrap();
    assert_eq!(mended.verify().unwrap(), []);
    for agent in mended.agents("") {
        check(&agent.unwrap().view().unwrap());
    }
    (mended, report)
}

#[test]
fn a_segment_cut_grown_missing_or_swapped_is_refused_and_the_rest_is_mended() {
    for clean in [true, false] {
        let (w, other) = (World::new(), World::new());
        let next = w.next();
        if clean {
            w.store.close().unwrap();
            other.store.close().unwrap();
        }
        let foreign = segments(&other.path);
        let count = segments(&w.path).len();
        for (i, harm) in [0, 1, count - 1].into_iter().flat_map(|i| (0..6).map(move |h| (i, h))) {
            let (_dir, path) = w.killed();
            let victim = segments(&path)[i].clone();
            let bytes = fs::read(&victim).unwrap();
            match harm {
                0 => fs::write(&victim, &bytes[..bytes.len() - 4096]).unwrap(),
                1 => fs::write(&victim, &bytes[..bytes.len() / 2]).unwrap(),
                2 => fs::write(&victim, "").unwrap(),
                3 => fs::write(&victim, [&bytes[..], &[0; 4096]].concat()).unwrap(),
                4 => fs::remove_file(&victim).unwrap(),
                _ => drop(fs::copy(&foreign[i], &victim).unwrap()),
            }
            refused(&path, &victim);
            let (mended, report) = mend(&path);
            assert!(report.damage.iter().any(|d| d.file == victim), "{harm}: {report:?}");
            let kept = mended.agents("").count();
            assert!(kept == 3 || (i == 0 && count == 1), "{clean} {i} {harm}: {kept} {report:?}");
            if i + 1 < count {
                // Later segments tell of the seqs: what is lost answers, and keeps its place.
                let view = mended.agent("u").unwrap().view().unwrap();
                assert_eq!((view.floor(), view.next_seq()), (1, next), "{clean} {i} {harm}");
                let lost = check(&view);
                assert!(
                    lost < next / 2 && (lost > 0 || harm == 0 || harm == 3),
                    "{clean} {i} {harm}: {lost}"
                );
            }
        }
    }
}

#[test]
fn a_lost_manifest_is_refused_and_repair_gives_everything() {
    for clean in [true, false] {
        let w = World::new();
        w.store.agent("u").unwrap().redact(3).unwrap();
        w.store.agent("t/a").unwrap().truncate_before(4).unwrap();
        w.store.agent("dead").unwrap().append(NewEntry::user("x")).unwrap();
        w.store.agent("p/dead").unwrap().append(NewEntry::user("x")).unwrap();
        w.store.forget_prefix("p/").unwrap();
        w.store.agent("dead").unwrap().forget().unwrap();
        w.more(60);
        let next = w.next();
        if clean {
            w.store.close().unwrap();
        }
        let (_dir, path) = w.killed();
        fs::remove_file(path.join("MANIFEST")).unwrap();
        refused(&path, &path.join("MANIFEST"));
        for options in [options().create(false), options()] {
            assert_eq!(options.open(&path).unwrap_err().kind(), ErrorKind::Damaged);
        }
        let (mended, report) = mend(&path);
        assert_eq!(report.damage.len(), 1, "{report:?}");
        let names: Vec<_> = mended.agents("").map(|a| a.unwrap().name().to_owned()).collect();
        assert_eq!(names, AGENTS, "the dead stay dead");
        for name in AGENTS {
            let view = mended.agent(name).unwrap().view().unwrap();
            assert_eq!((view.next_seq(), check(&view)), (next, 0));
            assert_eq!(view.floor(), if name == "t/a" { 4 } else { 1 });
        }
        assert!(mended.agent("u").unwrap().view().unwrap().get(3).unwrap().unwrap().is_redacted());
        append(&mended.agent("u").unwrap(), 3);
    }
}

#[test]
fn an_older_manifest_put_back_is_stale_or_loses_nothing() {
    let w = World::new();
    let mut manifests = vec![fs::read(w.path.join("MANIFEST")).unwrap()];
    w.store.close().unwrap();
    manifests.push(fs::read(w.path.join("MANIFEST")).unwrap());
    let mut stale = 0;
    for round in 0..6 {
        let store = options().open(&w.path).unwrap();
        let w = World { _dir: tempfile::tempdir().unwrap(), path: w.path.clone(), store };
        manifests.push(fs::read(w.path.join("MANIFEST")).unwrap());
        w.more(if round % 2 == 0 { 3 } else { 40 });
        let next = w.next();
        let clean = round % 3 != 0;
        if clean {
            w.store.close().unwrap();
        } else {
            w.store.sync().unwrap();
        }
        for (age, manifest) in manifests.iter().rev().enumerate() {
            let (_dir, path) = w.killed();
            fs::write(path.join("MANIFEST"), manifest).unwrap();
            match options().open(&path) {
                Err(error) => {
                    let kind = error.kind();
                    let said = matches!(kind, ErrorKind::StaleManifest | ErrorKind::Damaged);
                    assert!(said, "{round} {age}: {error}");
                    stale += usize::from(kind == ErrorKind::StaleManifest);
                    let (mended, report) = mend(&path);
                    let view = mended.agent("u").unwrap().view().unwrap();
                    let all = view.next_seq() == next && check(&view) == 0;
                    assert!(all || !report.damage.is_empty(), "{round} {age}: {report:?}");
                }
                Ok(store) => {
                    let view = store.agent("u").unwrap().view().unwrap();
                    assert_eq!((view.next_seq(), check(&view)), (next, 0), "{round} {age}");
                }
            }
        }
        w.store.close().unwrap();
        manifests.push(fs::read(w.path.join("MANIFEST")).unwrap());
    }
    assert!(stale > 10, "{stale}");
}

#[test]
fn an_older_manifest_before_a_hole_wider_than_the_search_loses_nothing_durable() {
    const SEARCHED: usize = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mem");
    let options = || options().segment_bytes(5 << 19);
    let open = |path: &Path| {
        let store = options().open(path).unwrap();
        World { _dir: tempfile::tempdir().unwrap(), path: path.to_owned(), store }
    };
    let w = open(&path);
    // Segments grow: until there is one with enough behind what it holds.
    let last = |path: &Path| segments(path).pop().unwrap();
    let room = |w: &World| fs::metadata(last(&path)).unwrap().len() - w.store.stats().active_bytes;
    // A longer rest of it would be given back by the close.
    while !(3 << 19..2 << 20).contains(&room(&w)) {
        w.more(20);
        assert!(w.store.stats().segments < 30);
    }
    let (next, end) = (w.next(), w.store.stats().active_bytes as usize);
    w.store.close().unwrap();
    let manifest = fs::read(path.join("MANIFEST")).unwrap();

    // What follows is written and never flushed; the power fails, and only the end of it lasts.
    let w = open(&path);
    w.more(200);
    let (_dir, killed) = w.killed();
    let active = last(&killed);
    let mut bytes = fs::read(&active).unwrap();
    let hole = end..end + SEARCHED + 4096;
    assert!((w.store.stats().active_bytes as usize) > hole.end + SIZE);
    bytes[hole].fill(0);
    fs::write(&active, &bytes).unwrap();
    fs::write(killed.join("MANIFEST"), &manifest).unwrap();

    let w = open(&killed);
    let view = w.store.agent("u").unwrap().view().unwrap();
    assert_eq!((view.next_seq(), check(&view)), (next, 0));
    w.more(1);
    w.store.sync().unwrap();
    let (_dir, path) = w.killed();
    let w = open(&path);
    let view = w.store.agent("u").unwrap().view().unwrap();
    assert_eq!((view.next_seq(), check(&view)), (next + 1, 0));
}

#[test]
fn a_torn_tail_is_cut_and_reported_by_opening_salvage_and_repair() {
    let w = World::new();
    let next = w.next();
    for cut in [16usize, 100, 1000, 2999] {
        let (_dir, path) = w.killed();
        let last = segments(&path).pop().unwrap();
        let mut bytes = fs::read(&last).unwrap();
        let end = w.store.stats().active_bytes as usize;
        bytes[end - cut..end].fill(0);
        fs::write(&last, &bytes).unwrap();
        let (mended, report) = mend(&path);
        let check_store = |store: &Store, what: &str| {
            let view = store.agent("u").unwrap().view().unwrap();
            assert_eq!((view.next_seq(), check(&view)), (next - 1, 0), "{what}");
        };
        let check_report = |report: &RecoveryReport, store: &Store, what: &str| {
            assert!(report.bytes_cut > 0 && report.possibly_acknowledged, "{what} {report:?}");
            assert!(report.damage.is_empty(), "{what} {report:?}");
            check_store(store, what);
        };
        assert!(report.bytes_cut > 0 && report.possibly_acknowledged, "repair {report:?}");
        assert!(report.damage.is_empty() && report.is_lossless(), "repair {report:?}");
        check_store(&mended, "repair");
        let salvaged = options().salvage(true).open(&path).unwrap();
        check_report(salvaged.recovery_report(), &salvaged, "salvage");
        let opened = options().open(&path).unwrap();
        check_report(opened.recovery_report(), &opened, "open");
        append(&opened.agent("u").unwrap(), 3);
        assert_eq!(opened.verify().unwrap(), []);
    }
}

/// With a spare behind it the torn segment is not the last file of the store.
#[test]
fn a_torn_tail_before_a_spare_is_a_torn_tail_too() {
    let w = World::new();
    w.store.close().unwrap();
    let busy = options().maintenance(Maintenance::Background).durability(Durability::Buffer);
    let busy = busy.flush_interval(Duration::from_secs(9)).sync_interval(Duration::from_secs(9));
    let store = busy.open(&w.path).unwrap();
    let started = Instant::now();
    let agent = store.agent("u").unwrap();
    while store.stats().unsealed_segments < 2 && started.elapsed() < Duration::from_secs(10) {
        append(&agent, 1);
        std::thread::sleep(Duration::from_millis(5));
    }
    let next = agent.append(NewEntry::user(&text("u", w_next(&agent)))).unwrap();
    let end = store.stats().active_bytes as usize;
    assert_eq!(agent.view().unwrap().next_seq(), next + 1, "a view writes what it shows");
    let (_dir, path) = w.killed();
    let logs = segments(&path);
    let active = logs.iter().rev().find(|log| {
        let bytes = fs::read(log).unwrap();
        bytes.len() > end
            && bytes[end - 100..end].iter().any(|byte| *byte != 0)
            && bytes[bytes.len() - 320..][..8] != *b"memlogFT"
    });
    let active = active.unwrap();
    assert!(active != logs.last().unwrap(), "there is a spare");
    let mut bytes = fs::read(active).unwrap();
    bytes[end - 100..end].fill(0);
    fs::write(active, &bytes).unwrap();
    let (mended, report) = mend(&path);
    assert!(report.damage.is_empty() && report.bytes_cut > 0, "{report:?}");
    assert_eq!(mended.agent("u").unwrap().view().unwrap().next_seq(), next);
    let opened = options().open(&path).unwrap();
    assert!(opened.recovery_report().possibly_acknowledged);
    assert_eq!(opened.agent("u").unwrap().view().unwrap().next_seq(), next);
}

fn w_next(agent: &Agent) -> u64 {
    agent.view().unwrap().next_seq()
}

#[test]
fn repair_keeps_every_whole_record_and_lost_seqs_keep_their_place() {
    let w = World::new();
    let (a, b) = (w.store.agent("pair/a").unwrap(), w.store.agent("pair/b").unwrap());
    let mut at = Vec::new();
    for i in 0..6u64 {
        let mut batch = w.store.batch();
        let (one, two) = (text("pair/a", i + 1), text("pair/b", i + 1));
        batch.append(&a, NewEntry::user(&one)).append(&b, NewEntry::user(&two));
        batch.set(&a, &format!("k{i}"), "v").set(&b, &format!("k{i}"), "v");
        let before = w.store.stats().active_bytes;
        batch.commit().unwrap();
        at.push((before, w.store.stats().active_bytes));
    }
    b.set_retention(Some(Retention::new().max_entries(100))).unwrap();
    w.store.close().unwrap();
    let active = segments(&w.path).pop().unwrap();
    // The record of the second agent in the third batch: it is lost, and nothing else of the batch.
    let (from, to) = at[2];
    assert!(from < to);
    let bytes = fs::read(&active).unwrap();
    let frame = &bytes[from as usize..to as usize];
    let place = frame.windows(9).position(|w| w == b"pair/b 3 ").unwrap() as u64;
    let mut bytes = bytes.clone();
    bytes[(from + place) as usize + 50] ^= 4;
    fs::write(&active, &bytes).unwrap();
    let error = options().open(&w.path).unwrap_err();
    let damage = error.damage().unwrap();
    assert_eq!((error.kind(), error.agent()), (ErrorKind::Damaged, Some("pair/a")), "{error}");
    assert_eq!((&damage.file, damage.offset), (&active, from));
    let to = w.path.with_file_name("repaired");
    let report = options().repair(&w.path, &to).unwrap();
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert_eq!(report.damage[0].agents, ["pair/b"]);
    assert_eq!(report.lost, [("pair/b".to_owned(), 3..=3)]);
    assert_eq!((report.lost_entries, report.lost_values, report.any_agent), (1, 0, false));
    assert!(report.erasures.is_empty() && report.unknown.is_empty());
    let mended = options().open(&to).unwrap();
    for (name, lost) in [("pair/a", 0), ("pair/b", 1)] {
        let view = mended.agent(name).unwrap().view().unwrap();
        assert_eq!((view.next_seq(), check(&view)), (7, lost));
        assert_eq!(view.get(3).is_err(), lost == 1);
        let keys: Vec<_> = view.states("").map(|s| s.unwrap().key().to_owned()).collect();
        assert_eq!(keys, ["k0", "k1", "k2", "k3", "k4", "k5"]);
    }
    let agent = mended.agent("pair/b").unwrap();
    append(&agent, 200);
    assert_eq!(agent.view().unwrap().floor(), 107, "the policy was kept");
    assert_eq!(mended.verify().unwrap(), []);
}

/// A policy by bytes must look at entries, and some of them may be damaged.
#[test]
fn salvage_and_repair_of_an_agent_with_a_policy_by_bytes() {
    let w = World::new();
    let agent = w.store.agent("policy").unwrap();
    for _ in 0..3 {
        append(&agent, 4);
        w.more(40);
    }
    agent.set_retention(Some(Retention::new().max_bytes(SIZE as u64 * 11 / 2))).unwrap();
    let floor = agent.view().unwrap().floor();
    assert_eq!(floor, 8);
    w.store.close().unwrap();
    let needle = format!("policy {floor} xxx");
    for log in segments(&w.path) {
        let mut bytes = fs::read(&log).unwrap();
        let found = bytes.windows(needle.len()).position(|w| w == needle.as_bytes());
        if let Some(at) = found {
            bytes[at + 30] ^= 1;
            fs::write(&log, bytes).unwrap();
        }
    }
    let (mended, report) = mend(&w.path);
    assert!(!report.damage.is_empty());
    let view = mended.agent("policy").unwrap().view();
    assert!(view.is_ok_and(|view| view.next_seq() == 13 && check(&view) == 1));
}

/// Verification looks at everything there is, spares and the manifest included.
#[test]
fn verify_sees_a_flipped_bit_in_the_manifest_and_in_a_spare() {
    for which in ["MANIFEST", "spare"] {
        let w = World::new();
        w.store.close().unwrap();
        let store = options().maintenance(Maintenance::Background).open(&w.path).unwrap();
        let (started, agent) = (Instant::now(), store.agent("u").unwrap());
        while store.stats().unsealed_segments < 2 && started.elapsed() < Duration::from_secs(10) {
            append(&agent, 1);
            std::thread::sleep(Duration::from_millis(5));
        }
        let file = match which {
            "MANIFEST" => w.path.join(which),
            _ => segments(&w.path).pop().unwrap(),
        };
        let mut bytes = fs::read(&file).unwrap();
        bytes[60] ^= 1;
        use std::os::unix::fs::FileExt;
        let open = fs::OpenOptions::new().write(true).open(&file).unwrap();
        open.write_all_at(&bytes[60..61], 60).unwrap();
        let damage = store.verify().unwrap();
        assert_eq!(damage.len(), 1, "{which}: {damage:?}");
        assert_eq!(damage[0].file, file);
    }
}

#[test]
fn a_value_that_is_damaged_says_so_and_ends_the_listing() {
    let w = World::new();
    let agent = w.store.agent("s").unwrap();
    for key in ["a", "b", "c"] {
        w.store.batch().set(&agent, key, &format!("value of {key}")).commit().unwrap();
    }
    w.more(60);
    w.store.close().unwrap();
    for log in segments(&w.path) {
        let mut bytes = fs::read(&log).unwrap();
        if let Some(at) = bytes.windows(10).position(|w| w == b"value of b") {
            bytes[at] ^= 1;
            fs::write(&log, bytes).unwrap();
        }
    }
    let store = options().open(&w.path).unwrap();
    let view = store.agent("s").unwrap().view().unwrap();
    assert_eq!(&view.state("a").unwrap().unwrap().value()[..], b"value of a");
    let error = view.state("b").unwrap_err();
    assert_eq!((error.kind(), error.agent()), (ErrorKind::Damaged, Some("s")));
    let mut states = view.states("");
    assert!(states.next().unwrap().is_ok());
    assert!(states.next().unwrap().is_err());
    assert!(states.next().is_none() && states.next_back().is_none(), "fused after an error");
}

//! `Options::read_only`: what an opening for writing would show, without a change to any file, on
//! whatever a crash left, and beside a writer.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use memlog::sim::SimDisk;
use memlog::{Durability, ErrorKind, Maintenance, NewEntry, Options, Retention, Store};

const DIR: &str = "/mem";

fn writing() -> Options {
    Options::new().maintenance(Maintenance::Manual).segment_bytes(256 << 10)
}

fn reading() -> Options {
    Options::new().read_only(true)
}

/// Everything that can be seen of a store.
fn seen(store: &Store) -> memlog::Result<Vec<String>> {
    let mut lines = Vec::new();
    for agent in store.agents("") {
        let agent = agent?;
        let view = agent.view()?;
        lines.push(format!("{} {}..{}", agent.name(), view.floor(), view.next_seq()));
        for entry in &view {
            let entry = entry?;
            let (payload, meta) = (entry.payload(), entry.meta());
            lines.push(format!("{} {} {payload:?} {meta:?}", entry.seq(), entry.is_redacted()));
        }
        for state in view.states("") {
            let state = state?;
            lines.push(format!("{} {:?} {}", state.key(), state.value(), state.revision()));
        }
        assert_eq!(view.get(view.next_seq())?.map(|e| e.seq()), None);
    }
    Ok(lines)
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// One random change.
fn step(store: &Store, random: &mut Random) -> memlog::Result<()> {
    let agent = store.agent(&format!("{}/{}", random.below(2), random.below(4)))?;
    let view = agent.view()?;
    let (floor, next) = (view.floor(), view.next_seq());
    drop(view);
    let mut batch = store.batch();
    batch.durability(
        [Durability::Buffer, Durability::Write, Durability::Sync][random.below(3) as usize],
    );
    match random.below(24) {
        0 => drop(batch.forget(&agent)),
        1 => drop(store.forget_prefix("1/")?),
        2 => drop(batch.truncate_before(&agent, floor + random.below(next - floor + 1))),
        3 if next > 1 => drop(batch.redact(&agent, 1 + random.below(next - 1))),
        4 => {
            agent.set_retention((random.below(2) == 0).then(|| Retention::new().max_entries(5)))?
        }
        5 | 6 => drop(batch.set(
            &agent,
            &format!("k{}", random.below(3)),
            &vec![1; random.below(9) as usize],
        )),
        7 => drop(batch.unset(&agent, "k1")),
        8 => drop(store.compact()?),
        _ => {
            for _ in 0..=random.below(3) {
                let payload = vec![random.below(256) as u8; random.below(30_000) as usize];
                batch.append(&agent, NewEntry::new(memlog::Kind::USER, &payload).meta("m"));
            }
        }
    }
    batch.commit().map(drop)
}

fn files(disk: &SimDisk) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    disk.files().into_iter().map(|path| (path.clone(), disk.read_file(&path))).collect()
}

/// A reading shows what an opening that writes shows, and changes nothing.
#[track_caller]
fn same(disk: &SimDisk, context: &str) {
    let before = files(disk);
    let read = reading().open_on(disk, DIR);
    let shown = read.as_ref().map(|store| seen(store).unwrap()).map_err(|e| e.kind());
    if let Ok(store) = &read {
        assert_eq!(store.verify().unwrap(), [], "{context}");
        store.close().unwrap();
    }
    drop(read);
    assert!(files(disk) == before, "{context}: a file has changed");
    let opened = writing().create(false).open_on(&disk.fork(), DIR);
    let truth = opened.map(|store| seen(&store).unwrap()).map_err(|e| e.kind());
    assert!(shown == truth, "{context}: {shown:?}\n{truth:?}");
}

#[test]
fn whatever_a_crash_left_is_read_as_an_opening_recovers_it() {
    let mut images = 0;
    for seed in 0..24_u64 {
        let disk = SimDisk::new(seed);
        let mut random = Random(seed);
        let store = writing().open_on(&disk, DIR).unwrap();
        for _ in 0..10 + random.below(60) {
            step(&store, &mut random).unwrap();
            if random.below(6) == 0 {
                same(&disk.fork(), &format!("seed {seed}, beside the writer"));
                same(&disk.fork_without_power(seed), &format!("seed {seed}, without power"));
                images += 2;
            }
        }
        if random.below(2) == 0 {
            store.close().unwrap();
            same(&disk.fork(), &format!("seed {seed}, closed"));
            continue;
        }
        // Anywhere within a change, a seal or a close.
        disk.crash_at(disk.calls() + random.below(200));
        for _ in 0..60 {
            if step(&store, &mut random).is_err() {
                break;
            }
        }
        let _ = store.close();
        same(&disk.fork_without_power(seed), &format!("seed {seed}, crashed"));
        images += 1;
        // And within the recovery.
        let left = disk.fork_without_power(seed + 1);
        left.crash_at(left.calls() + random.below(30));
        drop(writing().open_on(&left, DIR));
        same(&left.fork_without_power(seed), &format!("seed {seed}, crashed in a recovery"));
        images += 1;
    }
    assert!(images > 80, "{images} images");
}

#[test]
fn an_empty_store_is_whole_and_what_is_none_is_refused() {
    let disk = SimDisk::new(1);
    writing().open_on(&disk, DIR).unwrap().close().unwrap();
    let store = reading().open_on(&disk, DIR).unwrap();
    assert_eq!((store.agents("").count(), store.stats().unsealed_segments >= 1), (0, true));
    assert_eq!(store.verify().unwrap(), []);
    let kind = |disk: &SimDisk| reading().open_on(disk, DIR).unwrap_err().kind();
    let nothing = SimDisk::new(2);
    assert_eq!(kind(&nothing), ErrorKind::NotAStore);
    assert!(nothing.files().is_empty());
    assert!(disk.remove_file(format!("{DIR}/MANIFEST")));
    assert_eq!(kind(&disk), ErrorKind::NotAStore);
}

#[test]
fn every_change_is_refused() {
    let disk = SimDisk::new(3);
    let store = writing().open_on(&disk, DIR).unwrap();
    store.agent("a").unwrap().append(NewEntry::user("x")).unwrap();
    store.close().unwrap();
    let before = files(&disk);
    let store = reading().open_on(&disk, DIR).unwrap();
    let agent = store.agent("a").unwrap();
    let refused = [
        agent.append(NewEntry::user("y")).map(drop),
        agent.truncate_before(1),
        agent.redact(1),
        agent.forget(),
        agent.set_retention(None),
        store.forget_prefix("a/").map(drop),
        store.batch().set(&agent, "k", "v").commit().map(drop),
        store.batch().append(&agent, NewEntry::user("y")).submit().wait().map(drop),
        store.compact().map(drop),
        store.purge().map(drop),
        store.backup("/copy").map(drop),
    ];
    for outcome in refused {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
    assert_eq!(seen(&store).unwrap().len(), 2);
    store.close().unwrap();
    assert!(files(&disk) == before);
}

#[test]
fn damage_is_an_error_and_an_old_manifest_too() {
    let disk = SimDisk::new(4);
    let store = writing().open_on(&disk, DIR).unwrap();
    let agent = store.agent("a").unwrap();
    for n in 0..40 {
        agent.append(NewEntry::new(memlog::Kind::USER, &vec![n; 20_000])).unwrap();
    }
    let old = disk.read_file(format!("{DIR}/MANIFEST")).unwrap();
    let segments: Vec<PathBuf> = disk
        .files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e != "open"))
        .collect();
    for path in &segments {
        let damaged = disk.fork();
        // In the first frame: that of a segment with frames is durable.
        damaged.flip_bit(path, 300, 3);
        let read = reading().open_on(&damaged, DIR).and_then(|store| {
            seen(&store)?;
            store.verify()
        });
        let blank = disk.read_file(path).unwrap()[128..].iter().all(|byte| *byte == 0);
        match read {
            Ok(found) => assert!(blank || !found.is_empty(), "{}", path.display()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged),
        }
        let missing = disk.fork();
        assert!(missing.remove_file(path));
        assert!(reading().open_on(&missing, DIR).is_err(), "{}", path.display());
    }
    for n in 0..60 {
        agent.append(NewEntry::new(memlog::Kind::USER, &vec![n; 20_000])).unwrap();
    }
    store.close().unwrap();
    disk.write_file(format!("{DIR}/MANIFEST"), &old);
    let error = reading().open_on(&disk, DIR).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::StaleManifest | ErrorKind::Damaged), "{error}");
}

#[test]
fn figures_are_those_of_the_writer() {
    let disk = SimDisk::new(5);
    let store = writing().open_on(&disk, DIR).unwrap();
    let agent = store.agent("a").unwrap();
    for n in 0..40 {
        agent.append(NewEntry::new(memlog::Kind::USER, &vec![n; 20_000])).unwrap();
    }
    store.sync().unwrap();
    let (read, written) = (reading().open_on(&disk, DIR).unwrap(), store.stats());
    let stats = read.stats();
    assert_eq!(stats.segments, written.segments);
    assert_eq!(stats.unsealed_segments, written.unsealed_segments);
    assert_eq!(stats.disk_bytes, written.disk_bytes);
    assert_eq!(stats.next_lsn, written.next_lsn);
    assert_eq!(stats.sealed_entries, written.sealed_entries);
    assert_eq!(read.incarnation(), store.incarnation());
    assert!(read.health().last_error.is_none());
}

fn stamps(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let stamp = |path: PathBuf| {
        let changed = path.metadata().unwrap().modified().unwrap();
        let bytes = std::fs::read(&path).unwrap_or_default();
        (path, (changed, bytes))
    };
    let items = std::fs::read_dir(dir).unwrap().map(|item| item.unwrap().path());
    items.chain([dir.to_owned()]).map(stamp).collect()
}

#[test]
fn a_store_at_rest_and_a_backup_stay_byte_for_byte_and_to_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("mem"), dir.path().join("copy"));
    let store = Store::open(&path).unwrap();
    for n in 0..100 {
        store.agent(&format!("a/{}", n % 3)).unwrap().append(NewEntry::user("hello")).unwrap();
    }
    store.backup(&copy).unwrap();
    let truth = seen(&store).unwrap();
    store.close().unwrap();
    drop(store);
    for path in [&path, &copy] {
        let before = stamps(path);
        for _ in 0..2 {
            let store = reading().open(path).unwrap();
            assert_eq!(seen(&store).unwrap(), truth);
            assert_eq!(store.verify().unwrap(), []);
        }
        assert!(stamps(path) == before, "{}", path.display());
    }
}

#[test]
fn beside_a_busy_writer_nothing_is_damage_and_nothing_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mem");
    let options = Options::new().segment_bytes(256 << 10).dead_share(10);
    let store = options.open(&path).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                let agent = store.agent(&format!("w/{thread}")).unwrap();
                let busy = store.agent("all").unwrap();
                let payload = vec![b'x'; 4_000];
                for n in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut batch = store.batch();
                    let durability = [Durability::Sync, Durability::Write, Durability::Buffer];
                    batch.durability(durability[thread]);
                    batch.append(&agent, NewEntry::new(memlog::Kind::USER, &payload));
                    batch.append(&busy, NewEntry::user("y"));
                    batch.set(&agent, "n", &n.to_string());
                    batch.commit().unwrap();
                    if n % 64 == 63 {
                        let next = agent.view().unwrap().next_seq();
                        agent.truncate_before(next.saturating_sub(40)).unwrap();
                    }
                    if n % 500 == 499 && thread == 0 {
                        store.compact().unwrap();
                    }
                }
            });
        }
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (mut last, started, mut looks) = ([0; 3], std::time::Instant::now(), 0);
            while started.elapsed() < Duration::from_secs(6) {
                let reader = reading().open(&path).unwrap();
                for (thread, last) in last.iter_mut().enumerate() {
                    let view = reader.agent(&format!("w/{thread}")).unwrap().view().unwrap();
                    let entries =
                        view.iter().filter(|entry| entry.as_ref().unwrap().seq() > 0).count()
                            as u64;
                    assert_eq!(entries, view.next_seq() - view.floor());
                    assert!(view.next_seq() >= *last, "{} after {last}", view.next_seq());
                    *last = view.next_seq();
                    // Entry and value of a batch are seen together.
                    let n = view.state("n").unwrap();
                    let n: u64 = n.map_or(0, |n| {
                        std::str::from_utf8(n.value()).unwrap().parse::<u64>().unwrap() + 1
                    });
                    assert_eq!(n + 1, view.next_seq());
                }
                looks += 1;
            }
            looks
        }));
        stop.store(true, Ordering::Relaxed);
        let looks: u32 = looked.unwrap();
        assert!(looks > 20, "{looks} looks");
        println!("{looks} looks beside the writer");
    });
    store.close().unwrap();
}

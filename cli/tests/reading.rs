//! Commands that only read change nothing: of a store at rest, of a backup, of one that was killed,
//! and beside a writer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(dead_code, missing_docs, unreachable_pub)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use support::Place;

const READING: &[&[&str]] = &[
    &["show", "a"],
    &["show", "a", "--latest", "1", "--json"],
    &["agents", "--long"],
    &["export"],
    &["state", "get", "a", "k"],
    &["state", "list", "a"],
    &["stats"],
    &["usage"],
    &["usage", "a", "--json"],
    &["retention", "show", "a"],
    &["verify"],
];

/// Names, bytes and times of all files, and of the directory.
fn stamps(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, u32, Vec<u8>)> {
    let items = std::fs::read_dir(dir).unwrap().map(|item| item.unwrap().path());
    let stamp = |path: PathBuf| {
        let meta = path.metadata().unwrap();
        let bytes = std::fs::read(&path).unwrap_or_default();
        (path, (meta.modified().unwrap(), meta.permissions().mode(), bytes))
    };
    items.chain([dir.to_owned()]).map(stamp).collect()
}

fn filled() -> Place {
    let place = Place::new();
    place.import(&"{\"agent\":\"a\",\"role\":\"user\",\"content\":\"x\"}\n".repeat(300));
    place.ok(&["state", "set", "a", "k", "v"]);
    place
}

#[track_caller]
fn reads_without_a_change(place: &Place, store: &Path) {
    let before = stamps(store);
    for args in READING {
        let ran = place.run_on(store, args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        assert!(stamps(store) == before, "{args:?} changed something");
    }
}

#[test]
fn a_store_at_rest_a_backup_and_a_killed_one_stay_as_they_are() {
    let place = filled();
    reads_without_a_change(&place, &place.store());
    let backup = place.path("backup");
    place.ok(&["backup", backup.to_str().unwrap()]);
    reads_without_a_change(&place, &backup);
    // As a process leaves it that is killed.
    let (killed, held) = (place.path("killed"), memlog::Store::open(place.store()).unwrap());
    held.agent("a").unwrap().append(memlog::NewEntry::user("the last")).unwrap();
    std::fs::create_dir(&killed).unwrap();
    for item in std::fs::read_dir(place.store()).unwrap() {
        let path = item.unwrap().path();
        std::fs::copy(&path, killed.join(path.file_name().unwrap())).unwrap();
    }
    reads_without_a_change(&place, &killed);
    assert!(place.run_on(&killed, &["show", "a"]).out.ends_with("the last\n"));
    held.close().unwrap();
}

#[test]
fn a_directory_that_cannot_be_written_is_read() {
    let place = filled();
    let store = place.store();
    let set = |dir: u32, file: u32| {
        let mode = std::fs::Permissions::from_mode;
        for item in std::fs::read_dir(&store).unwrap() {
            std::fs::set_permissions(item.unwrap().path(), mode(file)).unwrap();
        }
        std::fs::set_permissions(&store, mode(dir)).unwrap();
    };
    // No lock file is made, and none is needed.
    std::fs::remove_file(store.join("LOCK")).unwrap();
    set(0o555, 0o444);
    reads_without_a_change(&place, &store);
    set(0o755, 0o644);
}

#[test]
fn beside_a_writer_all_of_them_work() {
    let place = Place::new();
    let store = memlog::Store::open(place.store()).unwrap();
    let agent = store.agent("a").unwrap();
    store.batch().set(&agent, "k", "v").commit().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                agent.append(memlog::NewEntry::user(&"y".repeat(500))).unwrap();
            }
        });
        let outcome = std::panic::catch_unwind(|| {
            let (begun, mut last) = (Instant::now(), 0);
            while begun.elapsed() < Duration::from_secs(2) {
                for args in READING {
                    let ran = place.run(args);
                    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
                }
                let row = place.ok(&["agents", "--long", "--json"]);
                let row: serde_json::Value = serde_json::from_str(&row).unwrap();
                assert!(row["next"].as_u64().unwrap() >= last);
                last = row["next"].as_u64().unwrap();
            }
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome.unwrap();
    });
    store.close().unwrap();
}

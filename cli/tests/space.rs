//! Compacting, purging, backing up and restoring.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(dead_code, missing_docs, unreachable_pub)]

mod support;

use std::path::Path;

use support::{Place, Ran};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(answer: &str) -> serde_json::Value {
    serde_json::from_str(answer).unwrap()
}

/// Lines of three agents by turns, each with a word that names it.
fn lines(rounds: usize) -> String {
    let line = |n: usize| {
        let (agent, filler) = (["a/one", "b/two", "secret"][n % 3], "x".repeat(n * 7 % 400));
        let content = format!("MARKER-{agent}-{n:05} {filler}");
        format!(
            "{{\"agent\":\"{agent}\",\"role\":\"user\",\"ts\":{n},\"content\":\"{content}\"}}\n"
        )
    };
    (0..rounds * 3).map(line).collect()
}

fn filled() -> Place {
    let place = Place::new();
    place.import(&lines(300));
    place.ok(&["state", "set", "b/two", "goal", "find order 11"]);
    place
}

/// How many files of a directory hold the bytes.
fn holders(dir: &Path, needle: &str) -> usize {
    let holds = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    };
    std::fs::read_dir(dir).unwrap().filter(|item| holds(&item.as_ref().unwrap().path())).count()
}

fn names(dir: &Path) -> Vec<String> {
    let items = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A backup of a filled store, made beside it, and what the store exports.
fn backed_up() -> (Place, std::path::PathBuf, String) {
    let place = filled();
    let backup = place.path("backup");
    let exported = place.ok(&["export"]);
    place.ok(&["backup", text(&backup)]);
    (place, backup, exported)
}

fn restore(place: &Place, from: &Path, to: &Path) -> Ran {
    place.run_on(&place.path("unused"), &["restore", text(from), text(to)])
}

#[test]
fn compacting_an_empty_store_does_nothing() {
    let place = Place::new();
    assert_eq!(place.run(&["compact"]).code, 6);
    assert!(!place.store().exists());
    memlog::Store::open(place.store()).unwrap().close().unwrap();
    let told = place.ok(&["compact"]);
    assert!(told.starts_with("nothing is worth compacting: "), "{told}");
    let row = json(&place.ok(&["compact", "--json"]));
    assert_eq!(row["outcome"], "done");
    assert_eq!((row["dead_bytes"].as_u64(), row["need_bytes"].as_u64()), (Some(0), None));
    let purged = json(&place.ok(&["purge", "--json"]));
    assert_eq!((purged["complete"].as_bool(), purged["agents"][0].as_str()), (Some(true), None));
    assert!(place.ok(&["verify"]).starts_with("no damage"));
}

#[test]
fn compacting_gives_back_the_room_of_the_dead_and_keeps_the_rest() {
    let place = Place::new();
    let filler = "y".repeat(60_000);
    let line = |n: usize| {
        let agent = if n.is_multiple_of(10) { "kept" } else { "gone" };
        format!(
            "{{\"agent\":\"{agent}\",\"role\":\"user\",\"ts\":{n},\"content\":\"{n}{filler}\"}}\n"
        )
    };
    place.import(&(0..200).map(line).collect::<String>());
    let kept = place.ok(&["export", "kept"]);
    place.ok(&["forget", "gone"]);
    let row = json(&place.ok(&["compact", "--json"]));
    assert_eq!((row["outcome"].as_str(), row["dead_bytes"].as_u64()), (Some("done"), Some(0)));
    let bytes = |which: &str| row[which].as_u64().unwrap();
    assert!(bytes("disk_bytes_before") > bytes("disk_bytes_after") + (8 << 20), "{row}");
    assert!(bytes("compaction_bytes") > 1 << 20, "{row}");
    assert_eq!(place.ok(&["export"]), kept);
    let stats = json(&place.ok(&["stats", "--json"]));
    assert!(stats["live_bytes"].as_u64().unwrap() > 20 * 60_000, "{stats}");
    assert_eq!(stats["dead_bytes"].as_u64(), Some(0));
    assert!(stats["pinned_bytes"].is_u64() && stats["compaction_bytes"].is_u64(), "{stats}");
    assert!(place.ok(&["stats"]).contains(" live, 0 B dead"));
    assert!(place.ok(&["verify"]).starts_with("no damage"));
}

#[test]
fn purging_removes_a_marker_from_the_raw_files() {
    let place = filled();
    place.ok(&["forget", "secret"]);
    assert!(holders(&place.store(), "MARKER-secret") > 0, "forgetting alone erases nothing");
    let told = place.ok(&["purge"]);
    assert!(told.starts_with("erased what was dead of 1 agent: "), "{told}");
    assert!(told.contains("\n  secret\n") && told.contains("written anew"), "{told}");
    assert!(told.ends_with("value of it is in any file of this store any more\n"), "{told}");
    assert_eq!(holders(&place.store(), "MARKER-secret"), 0);
    assert!(holders(&place.store(), "MARKER-a/one") > 0);
    assert_eq!(place.ok(&["agents"]), "a/one\nb/two\n");
    assert_eq!(place.ok(&["state", "get", "b/two", "goal"]), "find order 11");
    assert!(place.ok(&["verify"]).starts_with("no damage"));
    assert_eq!(place.ok(&["purge"]), "nothing dead is in any file of the store\n");
    assert_eq!(place.run(&["--salvage", "purge"]).code, 2);
}

#[test]
fn purging_names_the_files_that_a_backup_still_holds() {
    let (place, backup, _) = backed_up();
    place.ok(&["forget", "secret"]);
    let row = json(&place.ok(&["purge", "--json"]));
    assert_eq!(row["agents"], serde_json::json!(["secret"]));
    assert_eq!(row["complete"].as_bool(), Some(false), "{row}");
    let pinned = row["pinned"].as_array().unwrap();
    assert!(!pinned.is_empty() && !row["rewritten"].as_array().unwrap().is_empty(), "{row}");
    assert_eq!(holders(&place.store(), "MARKER-secret"), 0);
    assert!(holders(&backup, "MARKER-secret") > 0);
    // In words, with what to do.
    let again = place.path("again");
    place.ok(&["backup", text(&again)]);
    place.ok(&["forget", "a/one"]);
    let told = place.ok(&["purge"]);
    assert!(told.contains("still held") && told.contains("remove that backup"), "{told}");
    assert!(!told.contains("any file of this store"), "{told}");
}

#[test]
fn a_backup_is_restored_with_everything() {
    let (place, backup, exported) = backed_up();
    assert!(exported.lines().count() == 900);
    assert!(names(&backup).contains(&"MANIFEST".to_owned()));
    let again = place.run(&["backup", text(&backup)]);
    assert_eq!(again.code, 2, "a backup needs a new directory: {}", again.err);
    // Neither the store nor the backup is needed afterwards, nor changed by restoring.
    std::fs::remove_dir_all(place.store()).unwrap();
    let (before, restored) = (names(&backup), place.path("restored"));
    let ran = restore(&place, &backup, &restored);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("restored ") && ran.out.contains("\nno damage: "), "{}", ran.out);
    assert_eq!(names(&backup), before);
    assert_eq!(names(place.store().parent().unwrap()), ["backup", "restored"]);
    std::fs::remove_dir_all(&backup).unwrap();
    assert_eq!(place.run_on(&restored, &["export"]).out, exported);
    assert_eq!(place.run_on(&restored, &["state", "get", "b/two", "goal"]).out, "find order 11");
    assert_eq!(place.run_on(&restored, &["append", "a/one", "goes on"]).out, "301\n");
}

#[test]
fn a_backup_tells_its_lsn_and_a_restore_what_it_copied() {
    let place = filled();
    let (backup, restored) = (place.path("backup"), place.path("restored"));
    let made = json(&place.ok(&["backup", text(&backup), "--json"]));
    assert!(made["lsn"].as_u64().unwrap() > 0 && made["backup"] == text(&backup), "{made}");
    std::fs::create_dir(&restored).unwrap();
    let row = json(&place.ok(&["restore", text(&backup), text(&restored), "--json"]));
    assert_eq!(row["damage"], serde_json::json!([]));
    assert!(row["files"].as_u64().unwrap() >= 3 && row["bytes"].as_u64().unwrap() > 100_000);
    assert!(row["next_lsn"].as_u64() >= made["lsn"].as_u64(), "{row} {made}");
}

#[test]
fn what_a_killed_restore_left_is_removed_by_the_next_one() {
    let (place, backup, exported) = backed_up();
    let (restored, beside) = (place.path("restored"), place.store().parent().unwrap().to_owned());
    let mut left = 0;
    for n in 0..60_u64 {
        let mut child = place
            .command(&place.path("unused"))
            .args(["restore", text(&backup), text(&restored)])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(n * 400));
        child.kill().unwrap();
        child.wait().unwrap();
        let hidden = |name: &String| name.starts_with(".memlog-restore-restored-");
        let hidden = names(&beside).into_iter().filter(hidden).count();
        assert!(hidden <= 1, "each removes what the one before it left");
        left += hidden;
        let _ = std::fs::remove_dir_all(&restored);
    }
    assert!(left > 0, "no kill came in the middle of a copy");
    assert_eq!(restore(&place, &backup, &restored).code, 0);
    assert_eq!(names(&beside), ["backup", "restored", "store"]);
    assert_eq!(place.run_on(&restored, &["export"]).out, exported);
}

#[test]
fn what_a_killed_backup_left_is_removed_by_the_next_one() {
    let place = filled();
    let (backup, exported) = (place.path("backup"), place.ok(&["export"]));
    // As a backup leaves it that is killed before its manifest.
    std::fs::create_dir(&backup).unwrap();
    for name in ["BACKUP.tmp", "0000000000000001.log", "MANIFEST.tmp"] {
        std::fs::write(backup.join(name), "half").unwrap();
    }
    place.ok(&["backup", text(&backup)]);
    assert_eq!(place.run_on(&backup, &["export"]).out, exported);
    assert!(!names(&backup).contains(&"BACKUP.tmp".to_owned()));
    // Without the mark it may be a store that lost its manifest.
    let lost = place.path("lost");
    std::fs::create_dir(&lost).unwrap();
    std::fs::write(lost.join("0000000000000001.log"), "half").unwrap();
    assert_eq!(place.run(&["backup", text(&lost)]).code, 2);
    assert_eq!(names(&lost), ["0000000000000001.log"]);
}

#[test]
fn a_store_that_is_closed_can_be_restored_and_one_in_use_cannot() {
    let place = filled();
    let (exported, restored) = (place.ok(&["export"]), place.path("restored"));
    let held = memlog::Store::open(place.store()).unwrap();
    let (copy, ran) = (place.path("copy"), restore(&place, &place.store(), &restored));
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(!restored.exists());
    assert_eq!(place.run(&["backup", text(&copy)]).code, 5);
    assert!(!copy.exists());
    held.close().unwrap();
    drop(held);
    assert_eq!(restore(&place, &place.store(), &restored).code, 0);
    assert_eq!(place.run_on(&restored, &["export"]).out, exported);
}

#[test]
fn nothing_is_restored_into_what_is_not_empty() {
    let (place, backup, exported) = backed_up();
    let target = place.path("target");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("thesis.txt"), "text").unwrap();
    for target in [&target, &place.store(), &target.join("thesis.txt")] {
        let ran = restore(&place, &backup, target);
        assert_eq!(ran.code, 2, "{}: {}", target.display(), ran.err);
    }
    assert_eq!(names(&target), ["thesis.txt"]);
    assert_eq!(place.ok(&["export"]), exported);
    assert_eq!(names(place.store().parent().unwrap()), ["backup", "store", "target"]);
}

#[test]
fn what_is_no_store_is_not_restored() {
    let place = Place::new();
    let (foreign, restored) = (place.path("foreign"), place.path("restored"));
    assert_eq!(restore(&place, &foreign, &restored).code, 6);
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("0000000000000001.log"), "a log of something else").unwrap();
    for manifest in [None, Some(""), Some("Manifest-Version: 1.0\n")] {
        if let Some(text) = manifest {
            std::fs::write(foreign.join("MANIFEST"), text).unwrap();
        }
        let ran = restore(&place, &foreign, &restored);
        assert_eq!(ran.code, 6, "{manifest:?}: {}", ran.err);
        assert!(ran.err.contains("is no backup"), "{}", ran.err);
    }
    assert_eq!(names(foreign.parent().unwrap()), ["foreign"]);
}

#[test]
fn damage_in_a_backup_is_told_when_it_is_restored() {
    let (place, backup, _) = backed_up();
    let restored = place.path("restored");
    // A copy of the segment that is changed: the store has a link to the same file.
    let holds = |path: &Path| std::fs::read(path).unwrap().windows(8).any(|w| w == b"a/one-00");
    let mut paths = std::fs::read_dir(&backup).unwrap().map(|item| item.unwrap().path());
    let path = paths.find(|path| holds(path)).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(8).position(|w| w == b"a/one-00").unwrap();
    bytes[at] ^= 0x40;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let ran = restore(&place, &backup, &restored);
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("offset") && ran.err.contains("1 place damaged"), "{}", ran.err);
    assert!(ran.out.contains(text(&restored)), "{}", ran.out);
    assert!(place.ok(&["verify"]).starts_with("no damage"));
}

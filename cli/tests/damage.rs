//! Damaged stores: exit code 3, the damage named, and repair into a new store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(dead_code, missing_docs, unreachable_pub)]

mod support;

use std::path::{Path, PathBuf};

use support::Place;

/// Finds the file of the store and the offset that hold these bytes.
fn find(dir: &Path, needle: &[u8]) -> (PathBuf, usize) {
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            return (path, at);
        }
    }
    panic!("the bytes are in no file of the store");
}

/// A store of many batches over two agents, with one byte of an early payload changed.
fn damaged() -> (Place, PathBuf) {
    let place = Place::new();
    let lines: String = (0..200)
        .map(|n| {
            let agent = if n % 2 == 0 { "even" } else { "odd" };
            let content = format!("payload number {n:04} is here");
            format!(
                "{{\"agent\":\"{agent}\",\"role\":\"user\",\"ts\":{n},\"content\":\"{content}\"}}\n"
            )
        })
        .collect();
    let file = place.file("in.jsonl", lines);
    place.ok(&["import", file.to_str().unwrap(), "--batch", "4"]);
    let (path, at) = find(&place.store(), b"payload number 0021 is here");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at + 16] ^= 0x40;
    std::fs::write(&path, bytes).unwrap();
    (place, path)
}

#[test]
fn verify_names_the_damage_and_exits_with_3() {
    let (place, path) = damaged();
    let ran = place.run(&["verify"]);
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(ran.out.contains(name) && ran.out.contains("offset"), "{}", ran.out);
    assert!(!ran.out.contains("payload number") && !ran.err.contains("payload number"));

    let ran = place.run(&["verify", "--json"]);
    assert_eq!(ran.code, 3);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let first = &report["damage"][0];
    assert!(first["file"].as_str().unwrap().ends_with(name));
    assert!(first["offset"].is_u64() && first["agents"].is_array());
    assert!(!first["reason"].as_str().unwrap().is_empty());
}

#[test]
fn reading_what_is_damaged_exits_with_3() {
    let (place, _) = damaged();
    let ran = place.run(&["show", "odd"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("memlog repair") || ran.err.contains("damaged"), "{}", ran.err);
    assert_eq!(place.run(&["export"]).code, 3);
}

#[test]
fn repair_copies_what_is_whole_and_its_holes_can_be_accepted() {
    let (place, _) = damaged();
    let (from, to) = (place.store(), place.path("repaired"));
    let ran = place.run(&["repair", from.to_str().unwrap(), to.to_str().unwrap(), "--json"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert!(!report["damage"].as_array().unwrap().is_empty(), "{}", ran.out);
    assert_eq!((&report["lossless"], &report["entries"]), (&false.into(), &199.into()));
    let lost = serde_json::json!([{ "agent": "odd", "first": 11, "last": 11 }]);
    assert_eq!((&report["lost"], &report["lost_entries"]), (&lost, &1.into()));
    let agents = place.run_on(&to, &["agents"]);
    assert_eq!((agents.code, agents.out.as_str()), (0, "even\nodd\n"));
    let odd = place.run_on(&to, &["export", "odd"]);
    assert_eq!(odd.code, 3, "{}", odd.err);
    assert!(odd.out.contains("payload number 0019") && odd.out.contains("payload number 0023"));
    assert!(!odd.out.contains("payload number 0021"));
    // The damaged store was only read.
    assert_eq!(place.run(&["verify"]).code, 3);
    let missing = place.path("missing");
    let ran = place.run(&["repair", missing.to_str().unwrap(), to.to_str().unwrap()]);
    assert_eq!(ran.code, 6, "{}", ran.err);

    // The repaired store says of itself that it has holes.
    let ran = place.run_on(&to, &["verify"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.out.contains("no damage") && ran.out.contains("1 lost entry"), "{}", ran.out);
    assert!(ran.err.contains("accept-holes"), "{}", ran.err);
    let again = place.path("again");
    let ran = place.run(&["repair", to.to_str().unwrap(), again.to_str().unwrap()]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.out.contains("odd: seq 11") && ran.out.contains("199 entries"), "{}", ran.out);
    // Until they are accepted.
    let ran = place.run_on(&to, &["accept-holes", "even"]);
    assert!(ran.code == 0 && ran.out.contains("0 entries"), "{} {}", ran.out, ran.err);
    let ran = place.run_on(&to, &["accept-holes", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (ran.code, &answer["accepted"], &answer["left"]["entries"]),
        (0, &1.into(), &0.into())
    );
    for command in ["verify", "export"] {
        let ran = place.run_on(&to, &[command]);
        assert_eq!(ran.code, 0, "{command}: {}", ran.err);
    }
    let last = place.path("last");
    let ran = place.run(&["repair", to.to_str().unwrap(), last.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("200 entries") && ran.out.contains("nothing was damaged"));
}

#[test]
fn repair_of_a_whole_store_and_of_an_empty_one_exits_with_0() {
    let place = Place::new();
    place.ok(&["append", "a", "hello"]);
    for n in 0..2 {
        let (from, to) = (place.store(), place.path(&format!("repaired {n}")));
        let ran = place.run(&["repair", from.to_str().unwrap(), to.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.out.contains("nothing was damaged"), "{}", ran.out);
        assert_eq!(place.run_on(&to, &["verify"]).code, 0);
        place.ok(&["forget", "a"]);
    }
}

/// A repair that is killed leaves nothing that passes for whole, and the next one cleans up.
#[test]
fn a_killed_repair_leaves_nothing_that_passes_for_whole() {
    let place = Place::new();
    let lines: String = (0..30_000)
        .map(|n| {
            let content = format!("entry {n} {}", "x".repeat(400));
            format!(
                "{{\"agent\":\"a{}\",\"role\":\"user\",\"ts\":{n},\"content\":\"{content}\"}}\n",
                n % 50
            )
        })
        .collect();
    let file = place.file("in.jsonl", lines);
    place.ok(&["import", file.to_str().unwrap()]);
    let whole = place.ok(&["export"]);
    let (from, to) = (place.store(), place.path("mended"));
    let args = ["repair", from.to_str().unwrap(), to.to_str().unwrap()];
    let started = std::time::Instant::now();
    let ran = place.run(&args);
    let takes = started.elapsed();
    assert_eq!(ran.code, 0, "{}", ran.err);
    let (mut killed, kills) = (0, 24);
    for kill in 0..kills {
        let _ = std::fs::remove_dir_all(&to);
        let mut child = place
            .command(&from)
            .args(args)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(takes * kill / (kills - 2));
        child.kill().unwrap();
        child.wait().unwrap();
        if to.exists() {
            assert_eq!(place.run_on(&to, &["export"]).out, whole, "kill {kill}");
        } else {
            killed += 1;
        }
    }
    assert!(killed > 0, "{killed} of {kills}");
    let _ = std::fs::remove_dir_all(&to);
    assert_eq!(place.run(&args).code, 0);
    assert_eq!(place.run_on(&to, &["export"]).out, whole);
    let names = std::fs::read_dir(to.parent().unwrap()).unwrap();
    let names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
}

/// A file that may not be read is no damage.
#[test]
fn rights_are_no_damage() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    place.ok(&["append", "a", "hello"]);
    let log = std::fs::read_dir(place.store()).unwrap().map(|e| e.unwrap().path());
    let log = log.filter(|path| path.extension().is_some_and(|e| e == "log")).min().unwrap();
    std::fs::set_permissions(&log, std::fs::Permissions::from_mode(0o000)).unwrap();
    let root = std::fs::metadata(&log).unwrap().uid() == 0;
    // The command is where another user may run it, and so are both directories.
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(place.path(""), open.clone()).unwrap();
    std::fs::set_permissions(place.store(), open.clone()).unwrap();
    let binary = place.path("memlog");
    std::fs::copy(env!("CARGO_BIN_EXE_memlog"), &binary).unwrap();
    std::fs::set_permissions(&binary, open).unwrap();
    let to = place.path("mended");
    for args in [
        vec!["repair".as_ref(), place.store().as_os_str(), to.as_os_str()],
        vec![
            "--salvage".as_ref(),
            "--store".as_ref(),
            place.store().as_os_str(),
            "export".as_ref(),
        ],
    ] {
        let mut command = std::process::Command::new(&binary);
        command.args(args).stdin(std::process::Stdio::null());
        if root {
            // Nothing is forbidden to root.
            command.uid(65_534).gid(65_534);
        }
        let ran = command.output().unwrap();
        let err = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(9), "{err}");
        let file = place.store().display().to_string();
        assert!(err.contains("user whom") && err.contains(&file), "{err}");
        assert!(!to.exists(), "{err}");
    }
}

/// With --salvage nothing that is lost passes for whole, also where no timeline has a hole.
#[test]
fn a_salvaging_export_exits_with_3_where_something_is_lost() {
    let place = Place::new();
    place.ok(&["append", "a", "the first"]);
    place.ok(&["append", "a", "the second"]);
    assert_eq!(place.run(&["--salvage", "export"]).code, 0);
    // The header of the last frame: what it held is in no timeline.
    let (path, at) = find(&place.store(), b"the second");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at - 140..at - 60].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let ran = place.run(&["--salvage", "export"]);
    assert!(ran.out.contains("the first") && !ran.out.contains("the second"), "{}", ran.out);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("something may be missing"), "{}", ran.err);
}

//! Exit codes, failures as JSON, and standard streams that are closed, full or cut.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(dead_code, missing_docs, unreachable_pub)]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use support::{Place, Ran};

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A pipe that nothing reads.
fn cut() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// Runs with `--json`, and gives the failure once it says what the exit code does.
#[track_caller]
fn failure(ran: &Ran, code: i32, kind: &str) -> serde_json::Value {
    assert_eq!(ran.code, code, "{}{}", ran.out, ran.err);
    let said = json(&ran.err);
    assert_eq!((said["level"].as_str(), said["kind"].as_str()), (Some("error"), Some(kind)));
    assert_eq!(said["exit_code"].as_i64(), Some(i64::from(code)), "{said}");
    assert!(!said["message"].as_str().unwrap().is_empty());
    said
}

fn filled() -> Place {
    let place = Place::new();
    place.ok(&["append", "a", "hello there"]);
    place
}

#[test]
fn a_closed_or_full_stderr_changes_no_exit_code() {
    let place = filled();
    let lines = "{\"agent\":\"b\",\"role\":\"user\",\"content\":\"x\"}\nnot json\n";
    let file = place.file("in.jsonl", lines);
    let file = file.to_str().unwrap();
    let target = place.path("target");
    for (args, code) in [
        (&["show", "absent"][..], 7),
        (&["nonsense"], 2),
        (&["--json", "nonsense"], 2),
        (&["import", "--again", file], 2),
        (&["import", "--skip-malformed", "--again", file], 0),
        (&["import", "/nonexistent"], 9),
        (&["append", "a", "x", "--expect-next", "77"], 4),
        (&["restore", target.to_str().unwrap(), "x"], 6),
        (&["verify"], 0),
    ] {
        for stderr in [full, cut] {
            let mut command = place.command(&place.store());
            command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr());
            assert_eq!(command.status().unwrap().code(), Some(code), "{args:?}");
        }
    }
    for stderr in [full(), cut()] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_memlog"));
        command.args(["demo", "--keep", "--seconds", "0.2", "--dir"]).arg(place.path(""));
        command.env_remove("MEMLOG_STORE").stdin(Stdio::null()).stdout(Stdio::null());
        assert_eq!(command.stderr(stderr).status().unwrap().code(), Some(0));
    }
}

#[test]
fn a_full_stdout_is_a_failure_and_one_that_nothing_reads_is_none() {
    let place = filled();
    place.ok(&["state", "set", "a", "k", "v"]);
    for args in [
        &["export"][..],
        &["show", "a"],
        &["show", "a", "--json"],
        &["agents"],
        &["state", "get", "a", "k"],
        &["state", "list", "a"],
        &["stats"],
        &["stats", "--json"],
        &["verify"],
        &["append", "a", "again"],
        &["--help"],
        &["--version"],
        &["help", "import"],
    ] {
        for (stdout, code) in [(full(), 8), (cut(), 0)] {
            let mut command = place.command(&place.store());
            command.args(args).stdin(Stdio::null()).stdout(stdout);
            let output = command.output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
            assert_eq!(said.contains("cannot write the output"), code == 8, "{args:?}: {said}");
        }
    }
    // What could not be told was done all the same.
    assert_eq!(place.ok(&["append", "a", "x"]), "4\n");
}

#[test]
fn a_reader_may_take_one_line_and_go() {
    let place = Place::new();
    let lines: String = (0..5_000)
        .map(|n| format!("{{\"agent\":\"m\",\"role\":\"user\",\"content\":\"{n:0100}\"}}\n"))
        .collect();
    place.import(&lines);
    for args in [&["export"][..], &["show", "m"], &["show", "m", "--json"]] {
        let mut command = place.command(&place.store());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        out.read_line(&mut first).unwrap();
        drop(out);
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
        assert!(!first.is_empty() && said.is_empty(), "{said}");
    }
}

#[test]
fn every_failure_is_an_object_with_its_exit_code() {
    let place = filled();
    let said = failure(&place.run(&["--json", "append", "", "x"]), 2, "usage");
    assert!(said.get("file").is_none());
    failure(&place.run(&["--json", "nonsense"]), 2, "usage");
    let said = failure(&place.run(&["show", "b", "--json"]), 7, "absent");
    assert_eq!(said["agent"], "b");
    let said = failure(&place.run(&["state", "get", "a", "k", "--json"]), 7, "absent");
    assert!(said["hint"].as_str().unwrap().contains("state list"));
    let said =
        failure(&place.run(&["--json", "append", "a", "x", "--expect-next", "9"]), 4, "conflict");
    assert_eq!(said["agent"], "a");
    let said = failure(&place.run(&["import", "/nonexistent", "--json"]), 9, "io");
    assert_eq!(said["file"], "/nonexistent");
    let missing = place.path("missing");
    let said = failure(&place.run_on(&missing, &["agents", "--json"]), 6, "not_a_store");
    assert_eq!(said["file"], missing.to_str().unwrap());
    let held = memlog::Store::open(place.store()).unwrap();
    failure(&place.run(&["--json", "append", "a", "x"]), 5, "in_use");
    held.close().unwrap();
}

#[test]
fn damage_names_its_file_and_offset_and_another_version_is_told_apart() {
    let place = filled();
    let manifest = place.store().join("MANIFEST");
    let sound = std::fs::read(&manifest).unwrap();
    let mut damaged = sound.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    std::fs::write(&manifest, &damaged).unwrap();
    for args in [&["show", "a", "--json"][..], &["--json", "append", "a", "x"]] {
        let said = failure(&place.run(args), 3, "damage");
        assert_eq!(said["file"], manifest.to_str().unwrap());
        assert!(said["offset"].is_u64(), "{said}");
    }
    let mut other = sound.clone();
    other[8] = 77;
    std::fs::write(&manifest, &other).unwrap();
    for args in [&["show", "a", "--json"][..], &["--json", "append", "a", "x"]] {
        failure(&place.run(args), 10, "version");
    }
    std::fs::write(&manifest, &sound).unwrap();
    assert_eq!(place.ok(&["append", "a", "x"]), "2\n");
}

#[test]
fn a_write_that_fails_leaves_the_change_in_doubt() {
    let place = Place::new();
    let line =
        format!("{{\"agent\":\"m\",\"role\":\"user\",\"content\":\"{}\"}}\n", "x".repeat(1000));
    place.import(&line.repeat(300));
    // No file may be written beyond 32 KiB: the manifest still can be, the log cannot.
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_memlog"), "--store"])
        .arg(place.store())
        .args(["--json", "append", "m", "more"])
        .output()
        .unwrap();
    let said = json(std::str::from_utf8(&output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(11), "{said}");
    assert_eq!(said["kind"], "in_doubt");
    assert_eq!(place.ok(&["show", "m", "--json"]).lines().count(), 300);
}

#[test]
fn the_document_has_the_codes_of_the_help() {
    let document = include_str!("../../docs/cli.md");
    let help = filled().ok(&["--help"]);
    let codes = help.split_once("Exit codes:").unwrap().1;
    let rows: Vec<(u8, &str)> = document
        .lines()
        .filter_map(|line| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let code = cells.next()?.parse().ok()?;
            Some((code, cells.next()?.trim_matches('`')))
        })
        .collect();
    let numbers: Vec<u8> = rows.iter().map(|(code, _)| *code).collect();
    assert_eq!(numbers, (0..=11).collect::<Vec<_>>());
    for (code, kind) in rows {
        let words = kind.replace('_', " ");
        let line = codes.lines().find(|line| line.starts_with(&format!("  {code} "))).unwrap();
        assert!(line.contains(&words), "{line}: {words}");
    }
}

#[test]
fn files_of_a_store_are_their_owners() {
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let of_all = |dir: &std::path::Path, file: u32, directory: u32| {
        assert_eq!(mode(dir), directory);
        for item in std::fs::read_dir(dir).unwrap() {
            let path = item.unwrap().path();
            assert_eq!(mode(&path), file, "{}", path.display());
        }
    };
    let place = filled();
    of_all(&place.store(), 0o600, 0o700);
    let (backup, restored) = (place.path("backup"), place.path("restored"));
    place.ok(&["backup", backup.to_str().unwrap()]);
    of_all(&backup, 0o600, 0o700);
    place.ok(&["restore", backup.to_str().unwrap(), restored.to_str().unwrap()]);
    of_all(&restored, 0o600, 0o700);
    let (repaired, shared) = (place.path("repaired"), place.path("shared"));
    place.ok(&["repair", backup.to_str().unwrap(), repaired.to_str().unwrap()]);
    of_all(&repaired, 0o600, 0o700);
    assert_eq!(place.run_on(&shared, &["--mode", "640", "append", "a", "x"]).code, 0);
    of_all(&shared, 0o640, 0o750);
    let again = place.path("again");
    let args = ["--mode", "640", "restore", backup.to_str().unwrap(), again.to_str().unwrap()];
    place.ok(&args);
    of_all(&again, 0o640, 0o750);
    for wrong in ["777", "400", "60", "x"] {
        assert_eq!(place.run(&["--mode", wrong, "append", "a", "x"]).code, 2, "{wrong}");
    }
}

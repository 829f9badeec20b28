//! The other commands and their exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(dead_code, missing_docs, unreachable_pub)]

mod support;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use support::Place;

#[test]
fn append_prints_the_seq_and_show_prints_the_entry() {
    let place = Place::new();
    assert_eq!(place.ok(&["append", "a/b", "hello"]), "1\n");
    let meta = ["append", "a/b", "--role", "tool", "--joined", "--weight", "7", "--meta"];
    let answer = place.ok(&[&meta[..], &["{\"tool\": \"x\"}", "{}", "--json"]].concat());
    assert!(answer.starts_with("{\"seq\":2,"), "{answer}");
    assert_eq!(place.run_with(&["append", "a/b"], b"from\nstdin\x1b[2J\n").out, "3\n");
    assert_eq!(place.run_with(&["append", "a/b"], b"\xff\x00").out, "4\n");
    let shown = place.ok(&["show", "a/b"]);
    assert!(shown.contains("  tool  weight 7  joined\n        meta {\"tool\":\"x\"}\n"), "{shown}");
    assert!(shown.contains("        from\n        stdin\\u{1b}[2J\n"), "{shown}");
    assert!(shown.contains("(binary, 2 bytes: ff 00)"), "{shown}");
    assert!(!shown.contains('\u{1b}'));
    assert_eq!(place.ok(&["show", "a/b", "--latest", "1", "--json"]).lines().count(), 1);
    let range = place.ok(&["show", "a/b", "--range", "2..=3", "--json"]);
    assert_eq!(range.lines().count(), 2);
    assert!(range.starts_with("{\"agent\":\"a/b\",\"seq\":2,"), "{range}");
    assert_eq!(place.ok(&["show", "a/b", "--range", "9.."]), "");
}

#[test]
fn agents_lists_by_prefix() {
    let place = Place::new();
    for name in ["b/2", "a/1", "b/1"] {
        place.ok(&["append", name, "x"]);
    }
    place.ok(&["state", "set", "c", "k", "v"]);
    assert_eq!(place.ok(&["agents"]), "a/1\nb/1\nb/2\nc\n");
    assert_eq!(place.ok(&["agents", "b/"]), "b/1\nb/2\n");
    assert_eq!(place.ok(&["agents", "b/2", "--long"]), "b/2  floor 1, next 2, 1 entry\n");
    let json = place.ok(&["agents", "c", "--long", "--json"]);
    assert_eq!(json, "{\"agent\":\"c\",\"floor\":1,\"next\":1,\"entries\":0}\n");
}

#[test]
fn state_is_set_read_listed_and_removed() {
    let place = Place::new();
    let set = place.ok(&["state", "set", "a", "goal", "refund", "--expect-revision", "absent"]);
    let revision = set.trim();
    assert!(revision.parse::<u64>().unwrap() > 0);
    assert_eq!(place.ok(&["state", "get", "a", "goal"]), "refund");
    let json = place.ok(&["state", "get", "a", "goal", "--json"]);
    let row = format!("{{\"key\":\"goal\",\"revision\":{revision},\"value\":\"refund\"}}\n");
    assert_eq!(json, row);
    let again = ["state", "set", "a", "goal", "other", "--expect-revision"];
    let stale = place.run(&[&again[..], &["absent"]].concat());
    assert_eq!(stale.code, 4, "{}", stale.err);
    assert!(!stale.err.contains("other"), "{}", stale.err);
    assert_eq!(place.run(&[&again[..], &[revision]].concat()).code, 0);
    assert_eq!(place.run(&[&again[..], &[revision]].concat()).code, 4);
    place.run_with(&["state", "set", "a", "raw"], b"\xff");
    let list = place.ok(&["state", "list", "a"]);
    assert!(list.starts_with("goal  @") && list.contains("\nraw  @"), "{list}");
    assert_eq!(place.ok(&["state", "list", "a", "g"]).lines().count(), 1);
    assert_eq!(place.ok(&["state", "unset", "a", "goal"]), "");
    let absent = place.run(&["state", "get", "a", "goal"]);
    assert_eq!((absent.code, absent.out.as_str()), (7, ""));
}

#[test]
fn forget_one_and_forget_many() {
    let place = Place::new();
    for name in ["a/1", "a/2", "b"] {
        place.ok(&["append", name, "x"]);
    }
    assert_eq!(place.ok(&["forget", "b"]), "forgot b: 1 entry and its state are unreadable now\n");
    assert_eq!(place.ok(&["forget", "b"]), "b: there was no such agent\n");
    assert_eq!(place.run(&["show", "b"]).code, 7);
    assert_eq!(place.ok(&["append", "b", "a new life"]), "1\n");
    assert_eq!(place.run(&["forget", "--prefix", "a"]).code, 2);
    assert_eq!(place.run(&["forget"]).code, 2);
    assert_eq!(place.run(&["forget", "a/1", "--prefix", "a/"]).code, 2);
    let told = place.ok(&["forget", "--prefix", "a/"]);
    assert_eq!(told, "forgot a/: 2 agents are unreadable now\n");
    assert_eq!(place.ok(&["agents"]), "b\n");
}

#[test]
fn truncate_raises_the_floor() {
    let place = Place::new();
    for text in ["1", "2", "3", "4", "5"] {
        place.ok(&["append", "a", text]);
    }
    let told = place.ok(&["truncate", "a", "--before", "3"]);
    assert_eq!(told, "a: 2 entries are unreadable now, 3 entries left, from seq 3\n");
    let json = place.ok(&["truncate", "a", "--keep", "2", "--json"]);
    assert_eq!(json, "{\"agent\":\"a\",\"floor\":4,\"next\":6,\"entries\":2,\"removed\":1}\n");
    // Lower, or as it is: nothing changes.
    for args in [&["--before", "1"][..], &["--keep", "9"], &["--before", "4"]] {
        let told = place.ok(&[&["truncate", "a"], args].concat());
        assert_eq!(told, "a: 0 entries are unreadable now, 2 entries left, from seq 4\n");
    }
    assert_eq!(place.run(&["truncate", "a", "--before", "7"]).code, 2);
    assert_eq!(place.run(&["truncate", "a", "--before", "0"]).code, 2);
    assert_eq!(place.run(&["truncate", "a"]).code, 2);
    assert_eq!(place.run(&["truncate", "b", "--keep", "1"]).code, 7);
    let told = place.ok(&["truncate", "a", "--keep", "0", "--json"]);
    assert!(told.contains("\"entries\":0"), "{told}");
    assert_eq!(place.ok(&["show", "a"]), "", "empty, and still there");
    assert_eq!(place.ok(&["append", "a", "6"]), "6\n");
}

#[test]
fn redact_takes_out_what_is_in_entries() {
    let place = Place::new();
    for text in ["one", "SECRET", "SECRET", "four"] {
        place.ok(&["append", "a", text, "--meta", "{\"x\":\"SECRET\"}"]);
    }
    let told = place.ok(&["redact", "a", "2", "3", "--json"]);
    assert_eq!(told, "{\"agent\":\"a\",\"seqs\":[2,3]}\n");
    let shown = place.ok(&["show", "a"]);
    assert_eq!((shown.matches("(redacted)").count(), shown.matches("SECRET").count()), (2, 2));
    // All or nothing.
    assert_eq!(place.run(&["redact", "a", "1", "5"]).code, 2);
    assert_eq!(place.ok(&["show", "a"]), shown);
    assert_eq!(place.run(&["redact", "b", "1"]).code, 7);
    assert_eq!(place.run(&["redact", "a"]).code, 2);
    let told = place.ok(&["redact", "a", "1"]);
    assert_eq!(told, "a: payload and meta of 1 entry are unreadable now\n");
}

#[test]
fn retention_is_shown_set_and_cleared() {
    let place = Place::new();
    for text in ["1", "2", "3"] {
        place.ok(&["append", "a", text]);
    }
    assert_eq!(
        place.ok(&["retention", "show", "a"]),
        "a: no policy of its own: the store's holds\n"
    );
    let args = ["retention", "set", "a", "--max-entries", "2", "--max-age", "7d", "--json"];
    let json = "{\"agent\":\"a\",\"own\":true,\"max_entries\":2,\"max_bytes\":null,\"max_age_ms\":604800000}\n";
    assert_eq!(place.ok(&args), json);
    assert_eq!(place.ok(&["retention", "show", "a", "--json"]), json);
    assert_eq!(place.ok(&["agents", "a", "--long"]), "a  floor 2, next 4, 2 entries\n");
    let told = place.ok(&["retention", "set", "a", "--max-bytes", "1"]);
    assert_eq!(told, "a: keeps at most 1 byte\n");
    place.ok(&["retention", "clear", "a"]);
    let json = place.ok(&["retention", "show", "a", "--json"]);
    assert!(json.starts_with("{\"agent\":\"a\",\"own\":false,"), "{json}");
    assert_eq!(
        place.ok(&["agents", "a", "--long"]),
        "a  floor 3, next 4, 1 entry\n",
        "nothing is back"
    );
    assert_eq!(place.run(&["retention", "show", "b"]).code, 7);
    assert_eq!(place.run(&["retention", "clear", "b"]).code, 7);
    assert_eq!(place.run(&["retention", "set", "a"]).code, 2);
    assert_eq!(place.run(&["retention", "set", "a", "--max-age", "7"]).code, 2);
    place.ok(&["retention", "set", "new", "--max-entries", "1"]);
    assert_eq!(place.ok(&["agents"]), "a\nnew\n");
}

#[test]
fn usage_counts_what_is_stored() {
    let place = Place::new();
    for agent in ["a/1", "a/2", "b"] {
        place.ok(&["append", agent, "12345"]);
        place.ok(&["append", agent, "123"]);
    }
    place.ok(&["truncate", "a/2", "--before", "2"]);
    assert_eq!(place.ok(&["usage", "b"]), "b  2 entries, 8 B live, 0 B dead\n");
    let json = place.ok(&["usage", "a/2", "--json"]);
    assert_eq!(json, "{\"agent\":\"a/2\",\"entries\":1,\"live_bytes\":3,\"dead_bytes\":5}\n");
    let all = place.ok(&["usage", "--prefix", "a/"]);
    assert!(all.ends_with("2 agents: 3 entries, 11 B live, 5 B dead\n"), "{all}");
    assert_eq!(place.ok(&["usage", "--json"]).lines().count(), 3);
    assert_eq!(place.run(&["usage", "c"]).code, 7);
}

#[test]
fn stats_and_verify_of_a_sound_store() {
    let place = Place::new();
    place.ok(&["append", "a", "x"]);
    assert!(place.ok(&["stats"]).contains("segments"));
    let stats: serde_json::Value = serde_json::from_str(&place.ok(&["stats", "--json"])).unwrap();
    assert!(stats["unsealed_segments"].as_u64().unwrap() >= 1, "the active one is there");
    assert!(place.ok(&["verify"]).starts_with("no damage"));
    assert_eq!(
        place.ok(&["verify", "--json"]),
        "{\"damage\":[],\"lost_entries\":0,\"lost_values\":0}\n"
    );
}

#[test]
fn usage_is_2() {
    let place = Place::new();
    place.ok(&["append", "a", "x"]);
    let long = "n".repeat(513);
    for args in [
        &["nonsense"][..],
        &[],
        &["append", "", "x"],
        &["append", &long, "x"],
        &["append", "a", "x", "--meta", "[1]"],
        &["append", "a", "x", "--meta", "{\"content\":1}"],
        &["show", "a", "--range", "5"],
        &["show", "a", "--range", "0..5"],
        &["state", "set", "a", &"k".repeat(1025), "v"],
        &["--salvage", "append", "a", "x"],
        &["demo", "--threads", "0"],
    ] {
        let ran = place.run(args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
    }
    assert_eq!(place.ok(&["agents", "--long"]), "a  floor 1, next 2, 1 entry\n");
}

#[test]
fn names_that_are_not_utf_8_are_2() {
    let place = Place::new();
    place.ok(&["append", "a", "x"]);
    let (bad, a) = (OsStr::from_bytes(b"caf\xe9"), OsStr::new("a"));
    let word = OsStr::new;
    for args in [
        &[word("append"), bad, word("x")][..],
        &[word("append"), a, bad],
        &[word("show"), bad],
        &[word("agents"), bad],
        &[word("export"), bad],
        &[word("forget"), bad],
        &[word("forget"), word("--prefix"), bad],
        &[word("state"), word("get"), bad, word("k")],
        &[word("state"), word("set"), a, bad, word("v")],
        &[word("state"), word("list"), a, bad],
    ] {
        let ran = place.run_os(args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
        assert!(ran.err.contains("not UTF-8"), "{}", ran.err);
    }
    assert_eq!(place.ok(&["agents", "--long"]), "a  floor 1, next 2, 1 entry\n");
}

#[test]
fn a_conflict_is_4_and_changes_nothing() {
    let place = Place::new();
    assert_eq!(place.ok(&["append", "a", "x", "--expect-next", "1"]), "1\n");
    let ran = place.run(&["append", "a", "SECRET", "--expect-next", "1"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(!ran.err.contains("SECRET"));
    assert_eq!(place.ok(&["append", "a", "y", "--expect-next", "2"]), "2\n");
}

#[test]
fn a_store_in_use_is_5_and_can_be_read_beside() {
    let place = Place::new();
    place.ok(&["append", "a", "x"]);
    let held = memlog::Store::open(place.store()).unwrap();
    for args in
        [&["append", "a", "y"][..], &["forget", "a"], &["purge"], &["state", "unset", "a", "k"]]
    {
        let ran = place.run(args);
        assert_eq!(ran.code, 5, "{args:?}: {}", ran.err);
        assert!(ran.err.contains("works beside it"), "{}", ran.err);
    }
    for args in [&["show", "a"][..], &["verify"], &["export"], &["agents"], &["stats"]] {
        let ran = place.run(args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    }
    assert!(place.ok(&["--salvage", "show", "a"]).contains("        x\n"));
    held.close().unwrap();
    drop(held);
    place.ok(&["append", "a", "y"]);
}

#[test]
fn not_a_store_is_6() {
    let place = Place::new();
    for args in
        [&["show", "a"][..], &["agents"], &["export"], &["stats"], &["verify"], &["forget", "a"]]
    {
        let ran = place.run(args);
        assert_eq!(ran.code, 6, "{args:?}: {}", ran.err);
        assert!(ran.err.contains("--store"), "{}", ran.err);
        assert!(!place.store().exists(), "{args:?}");
    }
    let foreign = place.path("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "text").unwrap();
    for args in [&["show", "a"][..], &["append", "a", "x"], &["verify"]] {
        assert_eq!(place.run_on(&foreign, args).code, 6, "{args:?}");
    }
    assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);
}

#[test]
fn the_store_can_be_named_by_the_environment() {
    let place = Place::new();
    place.ok(&["append", "a", "x"]);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_memlog"))
        .env("MEMLOG_STORE", place.store())
        .arg("agents")
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"a\n");
}

#[test]
fn follow_prints_what_another_process_appends() {
    let place = Place::new();
    place.ok(&["append", "a", "first"]);
    place.ok(&["append", "a", "second"]);
    let mut child = place
        .command(&place.store())
        .args(["show", "a", "--follow", "--latest", "1", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || {
        let row: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        (row["seq"].as_u64().unwrap(), row["content"].as_str().unwrap().to_owned())
    };
    assert_eq!(next(), (2, "second".to_owned()));
    assert_eq!(place.ok(&["append", "a", "third"]), "3\n");
    assert_eq!(next(), (3, "third".to_owned()));
    place.ok(&["forget", "a"]);
    place.ok(&["append", "a", "a new life"]);
    assert_eq!(next(), (1, "a new life".to_owned()));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn help_documents_the_exit_codes() {
    let place = Place::new();
    let help = place.ok(&["--help"]);
    for code in ["0  done", "3  damage", "4  conflict", "5  in use", "6  not a store"] {
        assert!(help.contains(code), "{help}");
    }
}

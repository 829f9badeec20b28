//! `memlog demo`: write, kill, reopen, check.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(dead_code, missing_docs, unreachable_pub)]

mod support;

use support::Place;

#[test]
fn the_demo_succeeds_and_leaves_nothing_behind() {
    let place = Place::new();
    let dir = place.path("demos");
    std::fs::create_dir(&dir).unwrap();
    let dir_name = dir.to_str().unwrap();
    let text = place.without_store(&["demo", "--seconds", "0.6", "--dir", dir_name]);
    assert!(text.contains("nothing acknowledged was lost"), "{text}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);

    let args = ["--json", "demo", "--seconds", "0.6", "--threads", "3", "--agents", "7", "--dir"];
    let json = place.without_store(&[&args[..], &[dir_name]].concat());
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let acknowledged = report["acknowledged_entries"].as_u64().unwrap();
    assert!(acknowledged > 0);
    assert!(report["checked"]["entries"].as_u64().unwrap() >= acknowledged);
    assert!(report["disk_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn the_demo_takes_conversations_and_keeps_its_store() {
    let place = Place::new();
    let lines: String = (0..40)
        .map(|n| {
            let role = ["user", "tool_call", "tool", "tool", "developer"][n % 5];
            let agent = n % 3;
            format!(
                "{{\"agent\":\"run-1/c{agent}\",\"role\":\"{role}\",\"content\":\"{n}\",\"n\":{n}}}\n"
            )
        })
        .collect();
    let file = place.file("in.jsonl", lines);
    let dir = place.path("demos");
    std::fs::create_dir(&dir).unwrap();
    place.without_store(&[
        "demo",
        "--keep",
        "--seconds",
        "0.5",
        "--input",
        file.to_str().unwrap(),
        "--dir",
        dir.to_str().unwrap(),
    ]);
    let kept = std::fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path().join("store");
    let agents = place.run_on(&kept, &["agents", "run-1/run-1/"]);
    assert_eq!((agents.code, agents.out.lines().count()), (0, 3), "{}", agents.err);
}

#[test]
fn the_demo_makes_the_store_that_is_named() {
    let place = Place::new();
    let store = place.path("mine");
    let ran = place.run_on(&store, &["demo", "--seconds", "0.3"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("the store is kept at"), "{}", ran.err);
    assert!(place.run_on(&store, &["agents"]).out.lines().count() > 1);
    // It is not empty now.
    let ran = place.run_on(&store, &["demo", "--seconds", "0.3"]);
    assert!(ran.code == 2 && ran.err.contains("is not empty"), "{}", ran.err);
    let dir = place.path("dir");
    let ran = place.run_on(&place.path("other"), &["demo", "--dir", dir.to_str().unwrap()]);
    assert_eq!(ran.code, 2, "{}", ran.err);
}

#[test]
fn the_demo_refuses_malformed_input() {
    let place = Place::new();
    let file = place.file("in.jsonl", "{\"agent\":\"a\"}\n");
    let ran = place.run_without_store(&["demo", "--input", file.to_str().unwrap()]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("in.jsonl:1:1: the field role is missing"), "{}", ran.err);
    assert_eq!(place.run_without_store(&["demo", "--input", "/nonexistent"]).code, 9);
}

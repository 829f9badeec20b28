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
fn repair_copies_what_is_whole() {
    let (place, _) = damaged();
    let (from, to) = (place.store(), place.path("repaired"));
    let ran = place.run(&["repair", from.to_str().unwrap(), to.to_str().unwrap(), "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert!(!report["damage"].as_array().unwrap().is_empty(), "{}", ran.out);
    let agents = place.run_on(&to, &["agents"]);
    assert_eq!((agents.code, agents.out.as_str()), (0, "even\nodd\n"));
    let even = place.run_on(&to, &["export", "even"]);
    assert!(even.out.contains("payload number 0000") && even.out.contains("payload number 0198"));
    assert!(!even.out.contains("payload number 0021"));
    // The damaged store was only read.
    assert_eq!(place.run(&["verify"]).code, 3);
    let missing = place.path("missing");
    let ran = place.run(&["repair", missing.to_str().unwrap(), to.to_str().unwrap()]);
    assert_eq!(ran.code, 6, "{}", ran.err);
}

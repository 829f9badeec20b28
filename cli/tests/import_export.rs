//! Import and export: what goes in comes out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(dead_code, missing_docs, unreachable_pub)]

mod support;

use support::Place;

/// Exported lines of these are the same, byte for byte, after the times are given.
const LINES: &str = r#"{"agent":"a/1","role":"system","ts":1715785200000,"content":"be kind"}
{"agent":"a/1","role":"user","ts":1715785200001,"content":"grüße 🦀 \"quoted\" \\ \n\t\u0000\u001b[2J"}
{"agent":"a/1","role":"tool_call","ts":1715785200002,"content":"{}","tool":"get_order","args":{"order": 11, "deep": [1.0, 1e400, -0]},"weight":212}
{"agent":"a/1","role":"tool","ts":1715785200003,"content":"","ms":112,"joined":true}
{"agent":"a/1","role":"observation","ts":0,"content":"clock at zero"}
{"agent":"a/1","role":"summary","ts":1715785200005,"content":"all of it","covers":[1,4]}
{"agent":"a/2","role":"developer","ts":1715785200006,"content":"an unknown role"}
{"agent":"a/2","role":"developer","ts":1715785200007,"content":"with meta","z":1,"a":2,"seq":7,"redacted":true}
{"agent":"a/2","role":"kind:300","ts":1715785200008,"content":"a kind of one's own"}
{"agent":"a/2","role":"kind:2","ts":1715785200009,"content":"not the spelling of user"}
{"agent":"a/2","role":"tool_result","ts":1715785200010,"content":"another word for tool"}
{"agent":"a/2","role":"user","ts":1715785200011,"content_base64":"/wD+"}
{"agent":"a/2","role":"user","ts":1715785200012,"content":"spaced","memlog.meta":"{\"a\": 1}"}
{"agent":"a/2","role":"user","ts":1715785200013,"content":"bytes","memlog.meta_base64":"/w=="}
{"agent":"a/3","role":"user","ts":1715785200014,"content":"one"}
{"agent":"a/3","seq":2,"role":"assistant","ts":1715785200015,"redacted":true,"weight":5}
{"agent":"a/3","role":"user","ts":1715785200016,"content":"three"}
"#;

#[test]
fn a_round_trip_gives_the_same_bytes() {
    let place = Place::new();
    place.import(LINES);
    let exported = place.ok(&["export"]);
    let differing: Vec<_> = exported.lines().zip(LINES.lines()).filter(|(a, b)| a != b).collect();
    // Only what redaction may take away with the content (the weight) can differ.
    assert!(
        differing
            .iter()
            .all(|(a, _)| a.contains("\"redacted\":true,") || a.ends_with("\"redacted\":true}")),
        "{differing:#?}"
    );
    assert_eq!(exported.lines().count(), LINES.lines().count());

    let file = place.path("out.jsonl");
    place.ok(&["export", "--output", file.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), exported);
    let second = place.path("second");
    assert_eq!(place.run_on(&second, &["import", file.to_str().unwrap()]).code, 0);
    assert_eq!(place.run_on(&second, &["export"]).out, exported);
}

#[test]
fn redacted_lines_keep_their_place() {
    let place = Place::new();
    place.import(LINES);
    let shown = place.ok(&["show", "a/3", "--json"]);
    let rows: Vec<serde_json::Value> =
        shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = rows
        .iter()
        .map(|r| (r["seq"].as_u64().unwrap(), r["redacted"].as_bool().unwrap()))
        .collect();
    assert_eq!(seen, [(1, false), (2, true), (3, false)]);
    assert_eq!(rows[2]["content"], "three");
    assert!(rows[1].get("content").is_none());
    assert!(place.ok(&["show", "a/3"]).contains("(redacted)"));
}

#[test]
fn a_time_of_null_is_the_time_of_the_import() {
    let place = Place::new();
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::try_from(since.as_millis()).unwrap()
    };
    let before = now();
    place.import(
        "{\"agent\":\"a\",\"role\":\"user\",\"ts\":null,\"content\":\"x\"}\n\n \r\n\
         {\"agent\":\"a\",\"role\":\"user\",\"content\":\"y\"}",
    );
    for line in place.ok(&["export"]).lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let ts = value["ts"].as_u64().unwrap();
        assert!((before..=now()).contains(&ts), "{ts}");
    }
}

#[test]
fn a_malformed_line_ends_the_import_and_keeps_what_was_before() {
    let place = Place::new();
    let good =
        |n: u32| format!("{{\"agent\":\"a\",\"role\":\"user\",\"ts\":{n},\"content\":\"c{n}\"}}\n");
    let text =
        good(1) + &good(2) + "{\"agent\":\"a\",\"role\":\"user\",\"content\":17}\n" + &good(4);
    let file = place.file("in.jsonl", &text);
    let file = file.to_str().unwrap();
    let ran = place.run(&["import", file]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("in.jsonl:3:38: content is not a string"), "{}", ran.err);
    assert!(ran.err.contains("the 2 entries before it are imported and kept"), "{}", ran.err);
    assert_eq!(place.ok(&["export"]).lines().count(), 2);

    let other = place.path("other");
    let ran = place.run_on(&other, &["--json", "import", "--skip-malformed", file]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("in.jsonl:3:38: skipped"), "{}", ran.err);
    let totals: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&totals["entries"], &totals["skipped"]), (&3.into(), &1.into()));
    assert_eq!(totals["agents"], 1);
}

#[test]
fn every_kind_of_malformed_line_is_refused_without_repeating_it() {
    let long = "n".repeat(513);
    let lines = [
        "not json SECRET".to_owned(),
        "[\"SECRET\"]".to_owned(),
        "{\"agent\":\"a\",\"role\":\"user\",\"content\":\"SECRET\"".to_owned(),
        "{\"role\":\"user\",\"content\":\"SECRET\"}".to_owned(),
        "{\"agent\":\"a\",\"content\":\"SECRET\"}".to_owned(),
        "{\"agent\":\"\",\"role\":\"user\",\"content\":\"SECRET\"}".to_owned(),
        format!("{{\"agent\":\"{long}\",\"role\":\"user\",\"content\":\"SECRET\"}}"),
        "{\"agent\":\"a\",\"role\":\"user\",\"ts\":-1,\"content\":\"SECRET\"}".to_owned(),
        "{\"agent\":\"a\",\"role\":\"user\",\"ts\":1e9,\"content\":\"SECRET\"}".to_owned(),
        "{\"agent\":\"a\",\"role\":\"user\",\"ts\":\"soon\",\"content\":\"SECRET\"}".to_owned(),
        "{\"agent\":\"a\",\"role\":\"user\",\"ts\":true,\"content\":\"SECRET\"}".to_owned(),
        "{\"agent\":\"a\",\"role\":\"user\",\"weight\":4294967296,\"content\":\"SECRET\"}"
            .to_owned(),
        format!(
            "{{\"agent\":\"a\",\"role\":\"user\",\"content\":\"SECRET\",\"big\":\"{}\"}}",
            "m".repeat(65_536)
        ),
    ];
    for line in lines {
        let place = Place::new();
        let ran = place.run_with(&["import", "-"], line.as_bytes());
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains("(standard input):1:"), "{}", ran.err);
        assert!(!ran.err.contains("SECRET"), "{}", ran.err);
    }
    let place = Place::new();
    let ran = place.run_with(&["import", "-"], b"{\"agent\":\"\xff\"}");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("not UTF-8 from byte 11"), "{}", ran.err);
}

#[test]
fn batches_durabilities_and_several_files() {
    for durability in ["sync", "write", "buffer"] {
        let place = Place::new();
        let line = |n: u32| {
            let ts = 1_715_785_200_000 + u64::from(n);
            format!("{{\"agent\":\"a\",\"role\":\"user\",\"ts\":{ts},\"content\":\"{n}\"}}\n")
        };
        let first: String = (0..70).map(line).collect();
        let second: String = (70..100).map(line).collect();
        let (a, b) = (place.file("a.jsonl", first), place.file("b.jsonl", second));
        place.ok(&[
            "import",
            a.to_str().unwrap(),
            b.to_str().unwrap(),
            "--batch",
            "7",
            "--durability",
            durability,
        ]);
        let exported = place.ok(&["export"]);
        assert_eq!(exported.lines().count(), 100);
        assert!(exported.lines().nth(99).unwrap().contains("\"ts\":1715785200099"));
    }
}

#[test]
fn a_missing_file_creates_no_store() {
    let place = Place::new();
    let ran = place.run(&["import", "/nonexistent/x.jsonl"]);
    assert_eq!(ran.code, 9);
    assert!(!place.store().exists());
}

#[test]
fn export_takes_a_prefix_and_a_pipe_may_close() {
    let place = Place::new();
    place.import(LINES);
    assert!(place.ok(&["export", "a/3"]).lines().all(|line| line.contains("\"agent\":\"a/3\"")));
    let many: String = (0..3_000)
        .map(|n| format!("{{\"agent\":\"m\",\"role\":\"user\",\"content\":\"{n:0100}\"}}\n"))
        .collect();
    place.import(&many);
    let mut child = place
        .command(&place.store())
        .arg("export")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

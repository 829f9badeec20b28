//! An import that was killed goes on, and nothing is imported twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(dead_code, missing_docs, unreachable_pub)]

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use support::Place;

fn line(n: usize) -> String {
    let (agent, ts) = (n % 7, 1_715_785_200_000_usize + n);
    match n % 5 {
        3 => format!(
            "{{\"agent\":\"a/{agent}\",\"role\":\"assistant\",\"ts\":{ts},\"content\":null,\
             \"tool_calls\":[{{\"id\":\"c{n}\"}}]}}\n"
        ),
        // Of the same agent as the call before it.
        4 => format!(
            "{{\"agent\":\"a/{}\",\"role\":\"tool\",\"ts\":{ts},\"content\":\"r{n}\",\
             \"tool_call_id\":\"c{}\"}}\n",
            (n - 1) % 7,
            n - 1
        ),
        2 if n % 20 == 2 => {
            let seq = n;
            format!(
                "{{\"agent\":\"a/{agent}\",\"seq\":{seq},\"role\":\"user\",\"ts\":{ts},\
                 \"redacted\":true}}\n"
            )
        }
        1 if n % 15 == 1 => {
            let messages: Vec<String> = (0..9)
                .map(|m| format!("{{\"role\":\"user\",\"content\":\"{n}.{m}\",\"ts\":{ts}}}"))
                .collect();
            format!(
                "{{\"agent\":\"t/{n}\",\"model\":\"m\",\"messages\":[{}]}}\n",
                messages.join(",")
            )
        }
        _ => format!(
            "{{\"agent\":\"a/{agent}\",\"role\":\"user\",\"ts\":{ts},\"content\":\"entry {n}\"}}\n"
        ),
    }
}

fn lines(range: std::ops::Range<usize>) -> String {
    range.map(line).collect()
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What an import of the file that nothing interrupts exports.
fn whole(place: &Place, file: &Path) -> String {
    let store = place.path("whole");
    let _ = std::fs::remove_dir_all(&store);
    let ran = place.run_on(&store, &["import", name(file)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    // Seqs of redacted entries are those of the store.
    place.run_on(&store, &["export"]).out
}

#[test]
fn an_import_that_is_killed_again_and_again_goes_on_without_a_doubled_or_missing_message() {
    let kills: u32 = std::env::var("MEMLOG_KILLS").map_or(30, |kills| kills.parse().unwrap());
    let place = Place::new();
    let file = place.file("in.jsonl", lines(0..usize::try_from(kills).unwrap() * 120));
    let expected = whole(&place, &file);
    let (mut killed, mut finished) = (0, false);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    while !finished {
        let durability = ["sync", "write", "buffer"][(random % 3) as usize];
        let mut child = place
            .command(&place.store())
            .args(["import", "--resume", name(&file), "--batch", "4", "--durability", durability])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Some of them before anything is written.
        let pause = Duration::from_micros((random >> 33) % 40_000);
        if killed < kills {
            std::thread::sleep(pause);
            child.kill().unwrap();
            killed += 1;
        }
        finished = child.wait().unwrap().success();
    }
    println!("{killed} kills");
    let exported = place.ok(&["export"]);
    assert_eq!(exported.lines().count(), expected.lines().count());
    assert!(exported == expected, "the same lines, in the same order");
    assert!(place.ok(&["verify"]).starts_with("no damage"));
    assert_eq!(place.run(&["import", name(&file)]).code, 4);
}

#[test]
fn a_source_is_not_imported_twice_unless_asked_for() {
    let place = Place::new();
    let file = place.file("in.jsonl", lines(0..40));
    place.ok(&["import", name(&file)]);
    let once = place.ok(&["export"]);
    let ran = place.run(&["import", name(&file)]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("was imported before") && ran.err.contains("--again"), "{}", ran.err);
    let resumed = place.ok(&["import", "--resume", name(&file)]);
    assert!(resumed.starts_with("imported 0 entries"), "{resumed}");
    // Under another name it is the same.
    let renamed = place.path("renamed.jsonl");
    std::fs::rename(&file, &renamed).unwrap();
    assert_eq!(place.run(&["import", name(&renamed)]).code, 4);
    assert_eq!(place.ok(&["export"]), once);
    let ran = place.run_on(&place.path("twice"), &["import", name(&renamed), name(&renamed)]);
    assert_eq!(ran.code, 4, "twice in one command: {}", ran.err);
    place.ok(&["import", "--again", name(&renamed)]);
    assert_eq!(place.ok(&["export"]).lines().count(), 2 * once.lines().count());
    assert_eq!(place.run(&["import", name(&renamed)]).code, 4);
    // For another agent, or in another store, it is another import.
    let plain = place.file("plain.jsonl", "{\"role\":\"user\",\"content\":\"x\"}\n");
    place.ok(&["import", "--agent", "one", name(&plain)]);
    place.ok(&["import", "--agent", "two", name(&plain)]);
    assert_eq!(place.run(&["import", "--agent", "two", name(&plain)]).code, 4);
    let agents = place.ok(&["agents"]);
    assert!(
        agents.contains("\none\n") && agents.contains("\ntwo\n") && !agents.contains(".memlog"),
        "{agents}"
    );
    assert!(!place.ok(&["export"]).contains(".memlog"));
    assert_eq!(place.ok(&["agents", ".memlog/"]), ".memlog/import\n");
    place.ok(&["forget", ".memlog/import"]);
    place.ok(&["import", "--agent", "two", name(&plain)]);
}

#[test]
fn a_source_that_grew_is_gone_on_with() {
    let place = Place::new();
    let all = lines(0..60);
    let at = all.match_indices('\n').nth(30).unwrap().0;
    // The end of the last line is still to come.
    let file = place.file("log.jsonl", &all[..at]);
    place.ok(&["import", "--resume", name(&file)]);
    std::fs::write(&file, &all).unwrap();
    let ran = place.run(&["import", name(&file)]);
    assert!(ran.code == 4 && ran.err.contains("has grown"), "{}", ran.err);
    let told = place.ok(&["import", "--resume", name(&file)]);
    assert!(told.contains("that were imported before"), "{told}");
    assert_eq!(place.ok(&["export"]), whole(&place, &file));
    // In the middle of a line the import stops, and goes on once the line is whole.
    let more = lines(60..64);
    std::fs::write(&file, format!("{all}{}", &more[..more.len() - 9])).unwrap();
    let ran = place.run(&["import", "--resume", name(&file)]);
    assert!(
        ran.code == 2 && ran.err.contains("the object does not end on its line"),
        "{}",
        ran.err
    );
    std::fs::write(&file, format!("{all}{more}")).unwrap();
    place.ok(&["import", "--resume", name(&file)]);
    assert_eq!(place.ok(&["export"]), whole(&place, &file));
}

#[test]
fn another_file_under_the_same_name_is_another_source() {
    let place = Place::new();
    let file = place.file("log.jsonl", lines(0..20));
    place.ok(&["import", name(&file)]);
    // Rotated: the name begins anew.
    std::fs::write(&file, lines(100..110)).unwrap();
    let ran = place.run(&["import", "--resume", name(&file)]);
    assert!(ran.code == 4 && ran.err.contains("is not what was imported"), "{}", ran.err);
    let ran = place.run(&["--json", "import", name(&file)]);
    assert!(ran.code == 0 && ran.err.contains("\"kind\":\"changed\""), "{}", ran.err);
    // Files with the same first line are told apart by what follows.
    let (a, b) = (lines(200..210), lines(200..201) + &lines(300..305));
    let (a, b) = (place.file("a.jsonl", a), place.file("b.jsonl", b));
    place.ok(&["import", name(&a)]);
    place.ok(&["import", name(&b)]);
    assert_eq!(place.run(&["import", name(&a)]).code, 4);
    assert_eq!(place.run(&["import", name(&b)]).code, 4);
}

#[test]
fn standard_input_is_not_remembered() {
    let place = Place::new();
    place.import(&lines(0..5));
    place.import(&lines(0..5));
    assert_eq!(place.ok(&["export"]).lines().count(), 2 * (5 + 8));
    let ran = place.run_with(&["import", "--resume", "-"], lines(0..5).as_bytes());
    assert!(ran.code == 2 && ran.err.contains("cannot be read again"), "{}", ran.err);
}

#[test]
fn a_transcript_that_was_cut_in_the_middle_goes_on_there() {
    let place = Place::new();
    let messages: Vec<String> =
        (0..500).map(|m| format!("{{\"role\":\"user\",\"content\":\"{m}\"}}")).collect();
    let text = format!("{{\"agent\":\"t\",\"messages\":[{}]}}\n", messages.join(","));
    let file = place.file("t.jsonl", text);
    let mut seen = 0;
    for pause in (0..400).map(|n| Duration::from_micros(n * 200)) {
        let mut child = place
            .command(&place.store())
            .args(["import", "--resume", name(&file), "--batch", "3", "--durability", "write"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(pause);
        child.kill().unwrap();
        child.wait().unwrap();
        if place.store().join("MANIFEST").exists() {
            let ran = place.run(&["agents", "t", "--long", "--json"]);
            assert_eq!(ran.code, 0, "{}", ran.err);
            let row: serde_json::Value = serde_json::from_str(&ran.out).unwrap_or_default();
            let entries = row["entries"].as_u64().unwrap_or_default();
            assert!(entries >= seen && (entries.is_multiple_of(3) || entries == 500), "{entries}");
            seen = entries;
        }
        if seen > 100 {
            break;
        }
    }
    place.ok(&["import", "--resume", name(&file)]);
    let shown = place.ok(&["show", "t", "--json"]);
    let contents: Vec<serde_json::Value> = shown
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["content"].clone())
        .collect();
    let expected: Vec<String> = (0..500).map(|m: u32| m.to_string()).collect();
    assert_eq!(contents, expected);
}

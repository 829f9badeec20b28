//! Messages of OpenAI and Anthropic, transcripts, times, and the format that docs/jsonl.md has.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(dead_code, missing_docs, unreachable_pub)]

mod support;

use serde_json::{Value, json};
use support::Place;

const OPENAI: &str = r#"{"role":"developer","content":"be brief"}
{"role":"user","content":[{"type":"text","text":"What is in it?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]}
{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"look","arguments":"{\"at\": 1}"}},{"id":"call_2","type":"function","function":{"name":"ask","arguments":"{}"}}],"refusal":null,"annotations":[]}
{"role":"tool","tool_call_id":"call_1","content":"a cat"}
{"role":"tool","tool_call_id":"call_2","content":[{"type":"text","text":"yes"}]}
{"role":"assistant","content":"A cat.","refusal":null}
{"role":"assistant","refusal":"I cannot say that."}
{"role":"user","name":"ann","content":""}
"#;

const ANTHROPIC: &str = r#"{"role":"user","content":"What is the weather?"}
{"role":"assistant","content":[{"type":"thinking","thinking":"I ask.","signature":"s1g"},{"type":"text","text":"I look."},{"type":"tool_use","id":"toolu_1","name":"weather","input":{"city": "Bern", "deep": [1.0]}}]}
{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":[{"type":"text","text":"sunny"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA=="}}]}]}
{"role":"assistant","content":[{"type":"text","text":"Sunny."}]}
{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","is_error":true}]}
"#;

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What came out without what import added, to compare with what went in.
fn stripped(line: &Value) -> Value {
    let mut object = line.as_object().unwrap().clone();
    for name in ["agent", "ts", "joined"] {
        object.remove(name);
    }
    Value::Object(object)
}

fn import(place: &Place, args: &[&str], text: impl AsRef<[u8]>) {
    let ran = place.run_with(&[&["import", "-"], args].concat(), text.as_ref());
    assert_eq!(ran.code, 0, "{}", ran.err);
}

/// What was imported comes out as it was, and importing that gives the same store.
#[track_caller]
fn round_trip(text: &str) -> (Place, Vec<Value>) {
    let place = Place::new();
    import(&place, &["--agent", "a"], text);
    let exported = place.ok(&["export"]);
    let came: Vec<Value> = rows(&exported).iter().map(stripped).collect();
    assert_eq!(came, rows(text));
    let again = place.path("again");
    let file = place.file("out.jsonl", &exported);
    assert_eq!(place.run_on(&again, &["import", file.to_str().unwrap()]).code, 0);
    assert_eq!(place.run_on(&again, &["export"]).out, exported);
    let shown = place.ok(&["show", "a", "--json"]);
    assert_eq!(place.run_on(&again, &["show", "a", "--json"]).out, shown);
    (place, rows(&shown))
}

#[test]
fn openai_messages_come_back_as_they_were() {
    let (_, shown) = round_trip(OPENAI);
    let kinds: Vec<u64> = shown.iter().map(|row| row["kind"].as_u64().unwrap()).collect();
    assert_eq!(kinds, [1, 2, 4, 5, 5, 3, 3, 2]);
    let roles: Vec<&str> = shown.iter().map(|row| row["role"].as_str().unwrap()).collect();
    assert_eq!(roles[..4], ["developer", "user", "assistant", "tool"]);
    assert_eq!(shown[2]["meta"]["memlog.calls"], json!(["call_1", "call_2"]));
    assert_eq!(shown[3]["meta"]["memlog.answers"], json!(["call_1"]));
    assert_eq!(shown[3]["content"], "a cat");
}

#[test]
fn anthropic_messages_come_back_as_they_were() {
    let (_, shown) = round_trip(ANTHROPIC);
    let kinds: Vec<u64> = shown.iter().map(|row| row["kind"].as_u64().unwrap()).collect();
    assert_eq!(kinds, [2, 4, 5, 3, 5]);
    assert_eq!(shown[1]["meta"]["memlog.calls"], json!(["toolu_1"]));
    assert_eq!(shown[2]["meta"]["memlog.answers"], json!(["toolu_1"]));
}

#[test]
fn a_result_is_joined_to_the_call_that_it_follows() {
    let joined = |shown: &[Value]| -> Vec<bool> {
        shown.iter().map(|row| row["joined"].as_bool().unwrap()).collect()
    };
    let (place, shown) = round_trip(OPENAI);
    assert_eq!(joined(&shown), [false, false, false, true, true, false, false, false]);
    // The last one has its call further up.
    let (_, shown) = round_trip(ANTHROPIC);
    assert_eq!(joined(&shown), [false, false, true, false, false]);
    // The call is in the store already.
    import(&place, &["--agent", "a"], OPENAI.lines().nth(2).unwrap());
    import(&place, &["--agent", "a"], OPENAI.lines().nth(3).unwrap());
    import(&place, &["--agent", "a"], OPENAI.lines().nth(4).unwrap());
    import(&place, &["--agent", "a"], OPENAI.lines().nth(4).unwrap().replace("call_2", "other"));
    let shown = rows(&place.ok(&["show", "a", "--json", "--latest", "4"]));
    assert_eq!(joined(&shown), [false, true, true, false]);
    // The line says so itself.
    let said = r#"{"role":"tool","tool_call_id":"none","content":"x","joined":true}"#;
    import(&place, &["--agent", "a"], said);
    let said = OPENAI.lines().nth(2).unwrap();
    import(&place, &["--agent", "a"], said);
    let said = r#"{"role":"tool","tool_call_id":"call_1","content":"x","joined":false}"#;
    import(&place, &["--agent", "a"], said);
    let shown = rows(&place.ok(&["show", "a", "--json", "--latest", "3"]));
    assert_eq!(joined(&shown), [true, false, false]);
}

#[test]
fn transcripts_are_one_agent_each() {
    let place = Place::new();
    let messages: Vec<String> = OPENAI.lines().map(str::to_owned).collect();
    let line = |agent: &str, rest: &str| {
        format!("{{{agent}\"messages\":[{}]{rest}}}\n", messages.join(","))
    };
    let text = line("", ",\"tools\":[{\"type\":\"function\"}]") + &line("\"agent\":\"named\",", "");
    let file = place.file("runs.jsonl", text);
    place.ok(&["import", file.to_str().unwrap(), "--agent", "{file}/{line}"]);
    assert_eq!(place.ok(&["agents"]), "named\nruns/1\n");
    let (one, named) = (place.ok(&["export", "runs/1"]), place.ok(&["export", "named"]));
    let all = |text: &str| -> Vec<Value> { rows(text).iter().map(stripped).collect() };
    assert_eq!(all(&named), rows(OPENAI));
    assert_eq!(rows(&one)[0]["memlog.transcript"], json!({"tools":[{"type":"function"}]}));
    let again = place.path("again");
    let file = place.file("out.jsonl", &one);
    assert_eq!(place.run_on(&again, &["import", file.to_str().unwrap()]).code, 0);
    assert_eq!(place.run_on(&again, &["export"]).out, one);
}

#[test]
fn times_are_told_apart_by_their_magnitude_and_none_becomes_1970() {
    let place = Place::new();
    let times = [
        ("1715785200", 0),
        ("1715785200.25", 250),
        ("1715785200250", 250),
        ("1715785200250000", 250),
        ("\"2024-05-15T15:00:00Z\"", 0),
        ("\"2024-05-15T17:00:00.250+02:00\"", 250),
        ("\"2024-05-15 15:00:00\"", 0),
    ];
    let line = |(ts, _): &(&str, u64)| {
        format!("{{\"agent\":\"a\",\"role\":\"user\",\"ts\":{ts},\"content\":\"x\"}}\n")
    };
    place.import(&times.iter().map(line).collect::<String>());
    for (row, (ts, millis)) in rows(&place.ok(&["export"])).iter().zip(times) {
        assert_eq!(row["ts"], 1_715_785_200_000_u64 + millis, "{ts}");
    }
    // What would be taken for another unit is exported so that it is not.
    let odd = "{\"agent\":\"b\",\"role\":\"user\",\"ts\":\"99ms\",\"content\":\"x\"}\n";
    place.import(odd);
    assert_eq!(place.ok(&["export", "b"]), odd);
}

#[test]
fn a_byte_order_mark_and_carriage_returns_are_no_part_of_a_line() {
    let place = Place::new();
    let text = "\u{feff}{\"agent\":\"a\",\"role\":\"user\",\"content\":\"x\"}\r\n\r\n\
                {\"agent\":\"a\",\"role\":\"user\",\"content\":\"y\\r\"}\r\n";
    import(&place, &[], text);
    let shown = rows(&place.ok(&["show", "a", "--json"]));
    assert_eq!((&shown[0]["content"], &shown[1]["content"]), (&json!("x"), &json!("y\r")));
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let ran = place.run_with(&["import", "-"], &wide);
    assert!(ran.code == 2 && ran.err.contains("UTF-16"), "{}", ran.err);
}

#[test]
fn a_refusal_names_line_column_field_and_what_mends_it() {
    let place = Place::new();
    let good = "{\"agent\":\"a\",\"role\":\"user\",\"content\":\"x\"}\n";
    let bad = r#"{"agent":"a","role":"user","content":"x","ts":"yesterday"}"#;
    let file = place.file("my file.jsonl", format!("{good}{bad}\n{good}"));
    let ran = place.run(&["import", file.to_str().unwrap()]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("my file.jsonl:2:47: ts is no time"), "{}", ran.err);
    assert!(ran.err.contains("write the time as 2024-05-15T15:00:00Z"), "{}", ran.err);
    let (store, name) = (place.store(), file.to_str().unwrap());
    let go_on = format!("memlog --store {} import --resume '{name}'", store.display());
    assert!(ran.err.contains(&go_on), "{}", ran.err);
    let ran = place.run_on(&place.path("other"), &["--json", "import", name]);
    let said: Value = serde_json::from_str(ran.err.trim()).unwrap();
    assert_eq!(
        (&said["line"], &said["column"], &said["field"]),
        (&json!(2), &json!(47), &json!("ts"))
    );
    assert_eq!(said["file"], name);
    // What the hint says works: the line is mended, and nothing is there twice.
    std::fs::write(&file, format!("{good}{good}{good}")).unwrap();
    place.ok(&["import", "--resume", name]);
    assert_eq!(place.ok(&["export"]).lines().count(), 3);
    for (line, mend) in [
        ("[{\"role\":\"user\"}]", "jq -c '.[]'"),
        ("{\"agent\":\"a\",", "jq -c ."),
        ("{\"role\":\"user\",\"content\":\"x\"}", "--agent"),
    ] {
        let ran = place.run_with(&["import", "-"], line.as_bytes());
        assert!(ran.code == 2 && ran.err.contains(mend), "{line}: {}", ran.err);
    }
}

/// The examples of docs/jsonl.md, each with what is said of it.
#[test]
fn the_document_is_true() {
    let document = include_str!("../../docs/jsonl.md");
    let mut examples = 0;
    let mut blocks = document.split("```");
    while let (Some(_), Some(block)) = (blocks.next(), blocks.next()) {
        let Some((label, lines)) = block.split_once('\n') else { continue };
        let place = Place::new();
        match label.trim() {
            // What export writes is what was imported.
            "jsonl" => {
                place.import(lines);
                let exported = place.ok(&["export"]);
                let sorted = |text: &str| {
                    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                    lines.sort();
                    lines
                };
                assert_eq!(sorted(&exported), sorted(lines));
            }
            // Taken, and exported in another spelling.
            "jsonl import" => import(&place, &["--agent", "a"], lines),
            "jsonl refused" => {
                for line in lines.lines() {
                    let ran = place.run_with(&["import", "-"], line.as_bytes());
                    assert_eq!(ran.code, 2, "{line}");
                }
            }
            // Two lines: what is imported, and the meta that it gets.
            "jsonl meta" => {
                let lines: Vec<&str> = lines.lines().collect();
                import(&place, &["--agent", "a"], lines[0]);
                let shown = rows(&place.ok(&["show", "a", "--json"]));
                let meta: Value = serde_json::from_str(lines[1]).unwrap();
                assert_eq!(shown[0]["meta"], meta, "{}", lines[0]);
            }
            _ => continue,
        }
        examples += 1;
    }
    assert!(examples >= 12, "{examples} examples");
}

/// Conversations of real agents, where they are at hand.
#[test]
fn real_conversations_come_back() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let Ok(text) = std::fs::read_to_string(root.join("tau_airline.jsonl")) else {
        println!("skipped: there is no ../shared/data/tau_airline.jsonl beside the repository");
        return;
    };
    let place = Place::new();
    place.import(&text);
    let came = rows(&place.ok(&["export"]));
    let contents = |rows: &[Value]| -> Vec<Value> {
        let mut all: Vec<_> =
            rows.iter().map(|row| json!([row["agent"], row["role"], row["content"]])).collect();
        all.sort_by_key(|row| row[0].as_str().map(str::to_owned));
        all
    };
    assert_eq!(contents(&came), contents(&rows(&text)));
}

//! Lines that are read, and lines that are not.

use super::*;

fn parse(line: &str) -> Result<Message, Refusal> {
    Message::parse(line.as_bytes())
}

fn meta(line: &str) -> String {
    String::from_utf8(parse(line).unwrap().meta).unwrap()
}

#[test]
fn further_fields_are_kept_in_order_as_they_were_written() {
    let line = r#"{"z":1.0,"agent":"a","a":{"x": [1e400]},"role":"user","content":"c"}"#;
    assert_eq!(meta(line), r#"{"z":1.0,"a":{"x": [1e400]}}"#);
    assert_eq!(told(meta(line).as_bytes()).unwrap().fields.len(), 2);
}

#[test]
fn reasons_do_not_repeat_the_line_and_name_the_place() {
    let lines = [
        (r#""SECRET""#, 1),
        (r#"{"agent":"a","role":"user","content":"SECRET""#, 45),
        (r#"{"agent":"a","role":"user","content":["SECRET"]}"#, 39),
        (r#"{"agent":"a","role":"user","content":{"x":"SECRET"}}"#, 38),
        (r#"{"agent":"a","role":"user","content":"c","ts":"SECRET"}"#, 47),
        (r#"{"agent":"a","role":"user","content_base64":"SECRET!"}"#, 45),
        (r#"{"agent":"a","role":"user","content":"c","weight":"SECRET"}"#, 51),
        (r#"{"agent":"a","role":"user","content":"c","joined":"SECRET"}"#, 51),
        (r#"{"agent":"a","role":"user","content":"c","x":1,"x":"SECRET"}"#, 52),
        (r#"{"agent":"a","role":"user","content":"\ud800 SECRET"}"#, 38),
        (r#"{"agent":"a","role":"user","content":[{"type":"tool_use","id":7,"x":"SECRET"}]}"#, 63),
        (r#"{"agent":"a","role":"tool","content":"SECRET","tool_call_id":{}}"#, 62),
        (r#"{"agent":"a","role":"assistant","content":null,"tool_calls":"SECRET"}"#, 61),
    ];
    for (line, column) in lines {
        let refusal = parse(line).unwrap_err();
        assert!(!format!("{refusal:?}").contains("SECRET"), "{refusal:?}");
        assert_eq!(refusal.column, column, "{line}: {refusal:?}");
        assert!(!refusal.mend.is_empty());
    }
    let refusal = parse(r#"{"agent":"a","role":"user","content":"c","ts":-1}"#).unwrap_err();
    assert_eq!(refusal.field.as_deref(), Some("ts"));
}

#[test]
fn meta_that_import_would_not_write_is_not_taken_for_fields() {
    for meta in [
        "[1]",
        "text",
        "{\"a\":[1,\n2]}",
        r#"{"content":1}"#,
        r#"{"a":1,"a":2}"#,
        r#"{"memlog.content":"poem"}"#,
        r#"{"memlog.other":1}"#,
    ] {
        assert!(told(meta.as_bytes()).is_none(), "{meta}");
    }
}

#[test]
fn reserved_fields_and_a_second_content_are_refused() {
    for line in [
        r#"{"agent":"a","role":"user","content":"c","memlog.role":"x"}"#,
        r#"{"agent":"a","role":"user","content":"c","memlog.meta":"x","y":1}"#,
        r#"{"agent":"a","role":"user","content":"c","memlog.answers":["x"]}"#,
        r#"{"agent":"a","role":"user","content":"c","content_base64":"YQ=="}"#,
        r#"{"agent":"a","role":"user","redacted":false}"#,
        r#"{"agent":"","role":"user","content":"c"}"#,
        r#"{"agent":".memlog/import","role":"user","content":"c"}"#,
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    let text = r#"{"agent":"a","role":"user","content":"c","memlog.meta":"{ }"}"#;
    assert_eq!(parse(text).unwrap().meta, b"{ }");
}

#[test]
fn openai_calls_and_results_have_their_ids_in_the_meta() {
    let call = r#"{"agent":"a","role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"c2","type":"function"}],"refusal":null}"#;
    let message = parse(call).unwrap();
    assert_eq!(message.kind, Kind::TOOL_CALL);
    assert_eq!(
        meta(call),
        r#"{"memlog.role":"assistant","memlog.content":"message","memlog.calls":["c1","c2"]}"#
    );
    let payload = String::from_utf8(message.payload).unwrap();
    assert!(payload.starts_with(r#"{"content":null,"tool_calls":[{"id":"c1","#), "{payload}");
    assert!(payload.ends_with(r#""refusal":null}"#), "{payload}");
    let result = r#"{"agent":"a","role":"tool","tool_call_id":"c1","content":"42"}"#;
    assert_eq!(meta(result), r#"{"memlog.answers":["c1"],"tool_call_id":"c1"}"#);
    let message = parse(result).unwrap();
    assert_eq!((message.kind, message.payload), (Kind::TOOL_RESULT, b"42".to_vec()));
    // What exports of clients have for nothing is nothing.
    let plain = r#"{"agent":"a","role":"assistant","content":"hi","tool_calls":null,"audio":null}"#;
    assert_eq!(parse(plain).unwrap().kind, Kind::ASSISTANT);
    let developer = r#"{"agent":"a","role":"developer","content":"be kind"}"#;
    assert_eq!(parse(developer).unwrap().kind, Kind::SYSTEM);
}

#[test]
fn large_arguments_of_a_call_are_payload() {
    let arguments = "x".repeat(1 << 20);
    let line = format!(
        r#"{{"agent":"a","role":"assistant","tool_calls":[{{"id":"c","arguments":"{arguments}"}}]}}"#
    );
    let message = parse(&line).unwrap();
    assert!(message.payload.len() > 1 << 20 && message.meta.len() < 200);
}

#[test]
fn anthropic_blocks_are_kept_as_they_are_written() {
    let call = r#"{"agent":"a","role":"assistant","content":[{"type":"thinking","thinking":"…","signature":"s"},{"type":"text","text":"I look"}, {"type":"tool_use","id":"t1","name":"f","input":{}}]}"#;
    let message = parse(call).unwrap();
    assert_eq!(message.kind, Kind::TOOL_CALL);
    assert!(message.payload.starts_with(b"[{\"type\":\"thinking\""));
    assert_eq!(
        meta(call),
        r#"{"memlog.role":"assistant","memlog.content":"json","memlog.calls":["t1"]}"#
    );
    let result = r#"{"agent":"a","role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":"42"}]}"#;
    assert_eq!(parse(result).unwrap().kind, Kind::TOOL_RESULT);
    let image = r#"{"agent":"a","role":"user","content":[{"type":"image","source":{"type":"base64","data":"AA=="}}]}"#;
    assert_eq!(parse(image).unwrap().kind, Kind::USER);
}

/// Lines to begin with, and pieces to put into them.
const SEEDS: [&str; 7] = [
    r#"{"agent":"a","role":"user","ts":1715785200000,"content":"x","weight":3,"joined":true,"z":[1.0,{"y": null}]}"#,
    r#"{"agent":"a","role":"assistant","content":null,"tool_calls":[{"id":"c1","function":{"name":"f","arguments":"{}"}}],"refusal":null}"#,
    r#"{"agent":"a","role":"tool","tool_call_id":"c1","content":[{"type":"text","text":"yes"}],"ts":"2024-05-15T15:00:00Z"}"#,
    r#"{"agent":"a","role":"assistant","content":[{"type":"tool_use","id":"t1","input":{}}],"ts":1715785200.5}"#,
    r#"{"agent":"a","role":"user","content":[{"type":"tool_result","tool_use_id":"t1"}],"memlog.transcript":{"m":1}}"#,
    r#"{"agent":"a","role":"developer","content_base64":"/wD+","memlog.meta_base64":"/w=="}"#,
    r#"{"agent":"a","role":"kind:300","refusal":"no","function_call":{"name":"f"},"audio":{}}"#,
];
const PIECES: [&str; 24] = [
    "null",
    "[]",
    "{}",
    "\"",
    ",",
    ":",
    "1e400",
    "\\ud83d\\ude00",
    "\\n",
    "7",
    "true",
    "\"role\":\"tool\",",
    "\"content\":\"c\",",
    "\"content\":[],",
    "\"tool_calls\":[],",
    "\"tool_call_id\":\"c1\",",
    "\"memlog.meta\":\"x\"",
    "\"memlog.role\":\"user\",",
    "\"memlog.content\":\"json\",",
    "\"ts\":99,",
    "\"redacted\":true,",
    "\"joined\":false,",
    "\"weight\":4294967295,",
    "{\"type\":\"tool_use\",\"id\":\"q\"},",
];

#[test]
fn mutated_lines_that_are_taken_come_back_as_they_were() {
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let dir = tempfile::tempdir().unwrap();
    let options = memlog::Options::new().durability(memlog::Durability::Buffer);
    let store = options.open(dir.path().join("mem")).unwrap();
    let agent = store.agent("a").unwrap();
    let mut taken = Vec::new();
    for _ in 0..60_000 {
        let mut line = SEEDS[random(SEEDS.len())].as_bytes().to_vec();
        for _ in 0..=random(3) {
            let (at, len) = (random(line.len()), random(9));
            let piece = PIECES[random(PIECES.len())].as_bytes();
            let end = if random(2) == 0 { at } else { (at + len).min(line.len()) };
            line.splice(at..end, piece.iter().copied());
        }
        let Ok(message) = Message::parse(&line) else { continue };
        if !message.redacted {
            agent.append(message.entry()).unwrap();
            taken.push(message);
        }
    }
    assert!(taken.len() > 1_000, "{} lines taken", taken.len());
    let view = agent.view().unwrap();
    for (entry, message) in view.iter().zip(&taken) {
        let (entry, mut line) = (entry.unwrap(), Vec::new());
        write(&mut line, "a", &entry);
        let text = String::from_utf8_lossy(&line);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "{text}");
        let back = Message::parse(&line).unwrap_or_else(|refusal| panic!("{refusal:?}: {text}"));
        assert_eq!((back.kind, &back.payload), (message.kind, &message.payload), "{text}");
        assert_eq!((&back.meta, back.weight), (&message.meta, message.weight), "{text}");
        assert_eq!(
            (back.calls.len(), back.answers.len()),
            (message.calls.len(), message.answers.len())
        );
        assert_eq!(back.at, Some(entry.at()), "{text}");
    }
}

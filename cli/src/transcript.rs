//! What a line holds: one message, or a whole transcript with a list of them.

use std::path::Path;

use serde_json::value::RawValue;

use crate::line::{Around, Field, Message, join, object, text_of, time};
use crate::refusal::{Refusal, Spot};

/// Fields of a transcript that are no further ones.
const OWN: [&str; 4] = ["agent", "messages", "system", "ts"];

const MEND: &str = "messages is a list of objects with role and content, as OpenAI and Anthropic \
                    have them";

/// Reads a line. `agent` is the agent of messages that name none.
pub(crate) fn read(line: &[u8], agent: Option<&str>) -> Result<Vec<Message>, Refusal> {
    let text = text_of(line)?;
    let (spot, fields) = (Spot::whole(text), object(text)?);
    let find = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw);
    match find("messages") {
        Some(messages) if find("role").is_none() && find("content").is_none() => {
            transcript(&spot, messages, &fields, agent)
        }
        _ => {
            let around = Around { agent, ..Around::default() };
            Message::read(&spot, text, &fields, &around).map(|message| vec![message])
        }
    }
}

/// Reads a transcript. What it says beside its messages is kept with the first of them.
fn transcript(
    spot: &Spot<'_>,
    messages: &RawValue,
    fields: &[Field<'_>],
    agent: Option<&str>,
) -> Result<Vec<Message>, Refusal> {
    let find = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw);
    let wrong = |what: &str| spot.wrong("messages", messages, what, MEND);
    let listed: Vec<&RawValue> =
        serde_json::from_str(messages.get()).map_err(|_| wrong("is not a list"))?;
    let further: Vec<&Field<'_>> =
        fields.iter().filter(|(n, _)| !OWN.contains(&n.as_str())).collect();
    if let Some((_, raw)) = further.iter().find(|(name, _)| name.starts_with("memlog.")) {
        let what = "fields that begin with \"memlog.\" are reserved";
        return Err(
            Refusal::new(what, "give the field another name").column(spot.column(raw.get()))
        );
    }
    let told = String::from_utf8(join(None, &further)).unwrap_or_default();
    let named = match find("agent") {
        Some(raw) => Some(serde_json::from_str::<String>(raw.get()).map_err(|_| {
            spot.wrong("agent", raw, "is not a string", "agent is the name of the timeline")
        })?),
        None => None,
    };
    let mut around = Around {
        agent: named.as_deref().or(agent),
        at: find("ts").map_or(Ok(None), |raw| time(spot, raw))?,
        transcript: Some(told.as_str()).filter(|told| !told.is_empty()),
    };
    let mut read = Vec::new();
    if let Some(raw) = find("system").filter(|raw| raw.get() != "null") {
        read.push(instructions(spot, raw, &around)?);
        around.transcript = None;
    }
    for (at, raw) in listed.into_iter().enumerate() {
        let prefix = format!("messages[{at}].");
        let fields = object(raw.get()).map_err(|refusal| {
            let field = format!("messages[{at}]");
            Refusal { what: format!("{field} is {}", refusal.what), ..refusal }
                .column(spot.column(raw.get()))
                .field(field)
        })?;
        read.push(Message::read(&spot.within(&prefix), raw.get(), &fields, &around)?);
        around.transcript = None;
    }
    if read.is_empty() { Err(wrong("is empty")) } else { Ok(read) }
}

/// The message that Anthropic's `system` beside the messages stands for.
fn instructions(spot: &Spot<'_>, raw: &RawValue, around: &Around<'_>) -> Result<Message, Refusal> {
    let role = RawValue::from_string("\"system\"".to_owned())
        .map_err(|_| Refusal::new("system cannot be read", MEND))?;
    let fields = [("role".to_owned(), &*role), ("content".to_owned(), raw)];
    Message::read(&spot.within("system."), raw.get(), &fields, around)
}

/// The agent for lines that name none: `{line}` stands for the line's number, and `{file}` for the
/// name of the file, without directories and extension.
pub(crate) fn expand(pattern: &str, file: &Path, number: u64) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    pattern.replace("{line}", &number.to_string()).replace("{file}", &stem)
}

#[cfg(test)]
mod tests {
    use memlog::Kind;

    use super::*;

    #[test]
    fn a_transcript_is_its_messages_and_what_it_says_beside_them() {
        let line = r#"{"id":"x","messages":[{"role":"system","content":"s"},{"role":"user","content":null}],"tools":[{"type":"function"}]}"#;
        let read = read(line.as_bytes(), Some("a/7")).unwrap();
        assert_eq!(read.len(), 2);
        let meta = std::str::from_utf8(&read[0].meta).unwrap();
        assert_eq!(meta, r#"{"memlog.transcript":{"id":"x","tools":[{"type":"function"}]}}"#);
        assert!(read.iter().all(|message| message.agent == "a/7"));
        assert_eq!(read[1].meta, br#"{"memlog.content":"null"}"#);
    }

    #[test]
    fn anthropics_system_is_the_first_message() {
        let line = r#"{"agent":"a","ts":1715785200,"system":[{"type":"text","text":"be kind"}],"messages":[{"role":"user","content":"hi"}],"max_tokens":5}"#;
        let read = read(line.as_bytes(), None).unwrap();
        assert_eq!((read.len(), read[0].kind, read[1].kind), (2, Kind::SYSTEM, Kind::USER));
        assert_eq!(read[0].payload, br#"[{"type":"text","text":"be kind"}]"#);
        assert!(std::str::from_utf8(&read[0].meta).unwrap().contains("max_tokens"));
        assert!(read[1].meta.is_empty() && read[0].at.is_some() && read[0].at == read[1].at);
    }

    #[test]
    fn refusals_name_the_message() {
        for (line, field, column) in [
            (
                r#"{"agent":"a","messages":[{"role":"user","content":7}]}"#,
                "messages[0].content",
                51,
            ),
            (r#"{"agent":"a","messages":[{"role":"user","content":"x"},7]}"#, "messages[1]", 56),
            (r#"{"agent":"a","messages":[{"content":"x"}]}"#, "messages[0].role", 26),
            (r#"{"messages":[{"role":"user","content":"x"}]}"#, "messages[0].agent", 14),
            (r#"{"agent":"a","messages":[]}"#, "messages", 25),
            (r#"{"agent":"a","messages":{}}"#, "messages", 25),
        ] {
            let refusal = read(line.as_bytes(), None).unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some(field), "{refusal:?}");
            assert_eq!(refusal.column, column, "{line}: {refusal:?}");
        }
    }

    #[test]
    fn patterns_name_agents() {
        assert_eq!(expand("c/{file}/{line}", Path::new("/x/run-1.jsonl"), 7), "c/run-1/7");
        assert_eq!(expand("plain", Path::new("-"), 1), "plain");
    }
}

//! One line of JSONL and one entry of a timeline, one for the other.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memlog::{Entry, Kind, NewEntry};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::output::{base64, from_base64, millis};
use crate::role;

/// The limits of the engine, checked line by line so that the report can name the line.
const MAX_PAYLOAD: usize = 32 << 20;
const MAX_META: usize = 64 << 10;

/// Fields of a line that are not meta.
const OWN: [&str; 7] = ["agent", "role", "ts", "content", "content_base64", "weight", "joined"];
/// Fields that begin so belong to memlog.
const RESERVED: &str = "memlog.";
const META_TEXT: &str = "memlog.meta";
const META_BASE64: &str = "memlog.meta_base64";

/// A message read from a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) agent: String,
    pub(crate) kind: Kind,
    pub(crate) at: Option<SystemTime>,
    pub(crate) payload: Vec<u8>,
    pub(crate) meta: Vec<u8>,
    pub(crate) weight: u32,
    pub(crate) joined: bool,
    pub(crate) redacted: bool,
}

impl Message {
    pub(crate) fn entry(&self) -> NewEntry<'_> {
        let mut entry = NewEntry::new(self.kind, &self.payload).weight(self.weight);
        if !self.meta.is_empty() {
            entry = entry.meta(&self.meta);
        }
        if self.joined {
            entry = entry.joined();
        }
        match self.at {
            Some(at) => entry.at(at),
            None => entry,
        }
    }

    /// Reads a line. The reason given for a malformed one never repeats what the line says.
    pub(crate) fn parse(line: &[u8]) -> Result<Message, String> {
        let text = std::str::from_utf8(line)
            .map_err(|error| format!("not UTF-8 from byte {} on", error.valid_up_to() + 1))?;
        let fields = object(text)?;
        let find = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw);
        let agent = string("agent", find("agent").ok_or("the field agent is missing")?)?;
        if agent.is_empty() {
            return Err("agent is empty".to_owned());
        }
        let role = string("role", find("role").ok_or("the field role is missing")?)?;
        if role.is_empty() {
            return Err("role is empty".to_owned());
        }
        let (kind, keep_role) = role::to_kind(&role);
        let (payload, redacted) = content(find("content"), find("content_base64"), || {
            find("redacted").is_some_and(|raw| raw.get() == "true")
        })?;
        let kept = keep_role.then_some(role.as_str());
        let meta = if redacted { join(kept, &[]) } else { meta_of_line(kept, &fields)? };
        if meta.len() > MAX_META {
            return Err(format!("the further fields take {} bytes, 65536 at most", meta.len()));
        }
        Ok(Message {
            agent,
            kind,
            at: find("ts").map_or(Ok(None), time)?,
            payload,
            meta,
            weight: find("weight").map_or(Ok(0), weight)?,
            joined: find("joined").map_or(Ok(false), flag)?,
            redacted,
        })
    }
}

/// A field's name and its value as it was written.
pub(crate) type Field<'a> = (String, &'a RawValue);

struct Fields<'a>(Vec<Field<'a>>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<'de>, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The fields of a JSON object in their order.
pub(crate) fn object(text: &str) -> Result<Vec<Field<'_>>, String> {
    let Fields(fields) = serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            "not a JSON object".to_owned()
        } else {
            format!("not valid JSON at column {}", error.column())
        }
    })?;
    let mut seen = HashSet::new();
    if fields.iter().all(|(name, _)| seen.insert(name.as_str())) {
        Ok(fields)
    } else {
        Err("a field occurs twice".to_owned())
    }
}

fn string(name: &str, raw: &RawValue) -> Result<String, String> {
    serde_json::from_str(raw.get()).map_err(|_| format!("{name} is not a string"))
}

fn time(raw: &RawValue) -> Result<Option<SystemTime>, String> {
    const WHAT: &str = "ts is neither null nor a whole number of milliseconds since 1970";
    let millis: Option<u64> = serde_json::from_str(raw.get()).map_err(|_| WHAT)?;
    millis
        .map(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)).ok_or_else(|| WHAT.to_owned()))
        .transpose()
}

fn weight(raw: &RawValue) -> Result<u32, String> {
    serde_json::from_str(raw.get())
        .map_err(|_| format!("weight is not a whole number from 0 to {}", u32::MAX))
}

fn flag(raw: &RawValue) -> Result<bool, String> {
    serde_json::from_str(raw.get()).map_err(|_| "joined is neither true nor false".to_owned())
}

fn content(
    text: Option<&RawValue>,
    encoded: Option<&RawValue>,
    redacted: impl Fn() -> bool,
) -> Result<(Vec<u8>, bool), String> {
    let payload = match (text, encoded) {
        (Some(_), Some(_)) => return Err("both content and content_base64 are given".to_owned()),
        (Some(raw), None) => string("content", raw)?.into_bytes(),
        (None, Some(raw)) => from_base64(&string("content_base64", raw)?)
            .ok_or_else(|| "content_base64 is not base64".to_owned())?,
        (None, None) if redacted() => return Ok((Vec::new(), true)),
        (None, None) => return Err("the field content is missing".to_owned()),
    };
    if payload.len() > MAX_PAYLOAD {
        return Err(format!("content takes {} bytes, {MAX_PAYLOAD} at most", payload.len()));
    }
    Ok((payload, false))
}

/// The meta for the further fields of a line.
fn meta_of_line(role: Option<&str>, fields: &[Field<'_>]) -> Result<Vec<u8>, String> {
    let further: Vec<&Field<'_>> =
        fields.iter().filter(|(name, _)| !OWN.contains(&name.as_str())).collect();
    if let [(name, raw)] = further.as_slice()
        && role.is_none()
    {
        if name == META_TEXT {
            return string(META_TEXT, raw).map(String::into_bytes);
        }
        if name == META_BASE64 {
            return from_base64(&string(META_BASE64, raw)?)
                .ok_or_else(|| format!("{META_BASE64} is not base64"));
        }
    }
    if further.iter().any(|(name, _)| name.starts_with(RESERVED)) {
        return Err(format!("fields that begin with \"{RESERVED}\" are reserved"));
    }
    Ok(join(role, &further))
}

/// The meta for fields given apart from a line.
pub(crate) fn meta(role: Option<&str>, fields: &[Field<'_>]) -> Result<Vec<u8>, String> {
    if let Some((name, _)) = fields.iter().find(|(name, _)| is_own(name)) {
        return Err(format!("the field {name:?} has a meaning of its own"));
    }
    let meta = join(role, &fields.iter().collect::<Vec<_>>());
    if meta.len() > MAX_META {
        return Err(format!("the meta takes {} bytes, {MAX_META} at most", meta.len()));
    }
    Ok(meta)
}

fn is_own(name: &str) -> bool {
    OWN.contains(&name) || name.starts_with(RESERVED)
}

/// A compact JSON object; nothing at all for no fields.
fn join(role: Option<&str>, fields: &[&Field<'_>]) -> Vec<u8> {
    if role.is_none() && fields.is_empty() {
        return Vec::new();
    }
    let mut out = Vec::new();
    if let Some(role) = role {
        member(&mut out, role::META_KEY, &quoted(role));
    }
    for (name, raw) in fields {
        member(&mut out, name, raw.get());
    }
    out.push(b'}');
    out
}

/// A string as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Adds a member to an object that is being written, or opens it.
fn member(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(if out.is_empty() { b'{' } else { b',' });
    out.extend_from_slice(quoted(name).as_bytes());
    out.push(b':');
    out.extend_from_slice(value.as_bytes());
}

/// Meta as fields of a line: the role kept in it and the others.
pub(crate) struct Flat<'a> {
    pub(crate) role: Option<String>,
    pub(crate) fields: Vec<Field<'a>>,
}

/// The meta's fields, if importing them would give the same meta, byte for byte.
pub(crate) fn flat(kind: Kind, meta: &[u8]) -> Option<Flat<'_>> {
    if meta.is_empty() {
        return Some(Flat { role: None, fields: Vec::new() });
    }
    let text = std::str::from_utf8(meta).ok().filter(|text| !text.contains(['\n', '\r']))?;
    let mut fields = object(text).ok()?;
    let role = match fields.first() {
        Some((name, raw)) if name == role::META_KEY => Some(string(name, raw).ok()?),
        _ => None,
    };
    if let Some(role) = &role {
        if role.is_empty() || role::to_kind(role) != (kind, true) {
            return None;
        }
        fields.remove(0);
    }
    let same = !fields.iter().any(|(name, _)| is_own(name))
        && join(role.as_deref(), &fields.iter().collect::<Vec<_>>()) == meta;
    same.then_some(Flat { role, fields })
}

/// The role of an entry as it was imported.
pub(crate) fn role_of(entry: &Entry<'_>) -> String {
    flat(entry.kind(), entry.meta())
        .and_then(|flat| flat.role)
        .unwrap_or_else(|| role::of_kind(entry.kind()).into_owned())
}

/// Writes an entry as a line that [`Message::parse`] reads.
pub(crate) fn write(out: &mut Vec<u8>, agent: &str, entry: &Entry<'_>) {
    let mut line = Vec::with_capacity(entry.payload().len() + entry.meta().len() + 96);
    let ts = millis(entry.at()).to_string();
    member(&mut line, "agent", &quoted(agent));
    if entry.is_redacted() {
        member(&mut line, "seq", &entry.seq().to_string());
        member(&mut line, "role", &quoted(&role_of(entry)));
        member(&mut line, "ts", &ts);
        member(&mut line, "redacted", "true");
    } else {
        let flat = flat(entry.kind(), entry.meta());
        let role = flat.as_ref().and_then(|flat| flat.role.as_deref());
        member(&mut line, "role", &quoted(role.unwrap_or(&role::of_kind(entry.kind()))));
        member(&mut line, "ts", &ts);
        match entry.text() {
            Ok(text) => member(&mut line, "content", &quoted(text)),
            Err(_) => member(&mut line, "content_base64", &quoted(&base64(entry.payload()))),
        }
        match (flat, std::str::from_utf8(entry.meta())) {
            (Some(flat), _) => {
                flat.fields.iter().for_each(|(name, raw)| member(&mut line, name, raw.get()));
            }
            (None, Ok(text)) => member(&mut line, META_TEXT, &quoted(text)),
            (None, Err(_)) => member(&mut line, META_BASE64, &quoted(&base64(entry.meta()))),
        }
    }
    if entry.weight() > 0 {
        member(&mut line, "weight", &entry.weight().to_string());
    }
    if entry.is_joined() {
        member(&mut line, "joined", "true");
    }
    line.extend_from_slice(b"}\n");
    out.append(&mut line);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Message, String> {
        Message::parse(line.as_bytes())
    }

    #[test]
    fn further_fields_are_kept_in_order_as_they_were_written() {
        let message =
            parse(r#"{"z":1.0,"agent":"a","a":{"x": [1e400]},"role":"user","content":"c"}"#)
                .unwrap();
        assert_eq!(message.meta, br#"{"z":1.0,"a":{"x": [1e400]}}"#);
        let flat = flat(message.kind, &message.meta).unwrap();
        assert_eq!(flat.fields.len(), 2);
    }

    #[test]
    fn reasons_do_not_repeat_the_line() {
        let lines = [
            r#""SECRET""#,
            r#"{"agent":"a","role":"user","content":"SECRET""#,
            r#"{"agent":"a","role":"user","content":["SECRET"]}"#,
            r#"{"agent":"a","role":"user","content":"c","ts":"SECRET"}"#,
            r#"{"agent":"a","role":"user","content_base64":"SECRET!"}"#,
            r#"{"agent":"a","role":"user","content":"c","weight":"SECRET"}"#,
            r#"{"agent":"a","role":"user","content":"c","joined":"SECRET"}"#,
            r#"{"agent":"a","role":"user","content":"c","x":1,"x":"SECRET"}"#,
            r#"{"agent":"a","role":"user","content":"\ud800 SECRET"}"#,
        ];
        for line in lines {
            let reason = parse(line).unwrap_err();
            assert!(!reason.contains("SECRET"), "{reason}");
        }
    }

    #[test]
    fn meta_that_import_would_not_write_is_not_flat() {
        for meta in [
            r#"{"a": 1}"#,
            "{}",
            "[1]",
            "text",
            "{\"a\":[1,\n2]}",
            r#"{"content":1}"#,
            r#"{"memlog.role":"user"}"#,
            r#"{"a":1,"a":2}"#,
        ] {
            assert!(flat(Kind::USER, meta.as_bytes()).is_none(), "{meta}");
        }
    }

    #[test]
    fn reserved_fields_and_a_second_content_are_refused() {
        for line in [
            r#"{"agent":"a","role":"user","content":"c","memlog.role":"x"}"#,
            r#"{"agent":"a","role":"user","content":"c","memlog.meta":"x","y":1}"#,
            r#"{"agent":"a","role":"user","content":"c","content_base64":"YQ=="}"#,
            r#"{"agent":"a","role":"user","redacted":false}"#,
            r#"{"agent":"","role":"user","content":"c"}"#,
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        let text = r#"{"agent":"a","role":"user","content":"c","memlog.meta":"{ }"}"#;
        assert_eq!(parse(text).unwrap().meta, b"{ }");
    }
}

//! One line of JSONL and the entries of a timeline, one for the other.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memlog::{Entry, Kind, NewEntry};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::output::{base64, from_base64, millis};
use crate::refusal::{Refusal, Spot};
use crate::role;
use crate::shape::{self, Content, Form};
use crate::when;

/// The largest meta of an entry, in bytes: the engine's limit, so that a refusal can name the line.
const MAX_META: usize = 64 << 10;

/// Fields of a line that are not meta.
const OWN: [&str; 7] = ["agent", "role", "ts", "content", "content_base64", "weight", "joined"];
/// Fields that begin so belong to memlog.
const RESERVED: &str = "memlog.";
const META_TEXT: &str = "memlog.meta";
const META_BASE64: &str = "memlog.meta_base64";
/// How the payload stands for the content.
const META_FORM: &str = "memlog.content";
/// The ids of the tool calls that an entry makes, and of those that it answers.
const META_CALLS: &str = "memlog.calls";
const META_ANSWERS: &str = "memlog.answers";
/// What a transcript says beside its messages, at its first one.
const META_TRANSCRIPT: &str = "memlog.transcript";

/// Names that begin so are those of agents that the command keeps for itself.
pub(crate) const RESERVED_AGENTS: &str = ".memlog/";

const LINE_MEND: &str = "write one JSON object a line, with agent, role and content";
const META_MEND: &str = "large data belongs into content: the further fields of a line become the \
                         entry's meta";

/// A message read from a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) agent: String,
    pub(crate) kind: Kind,
    pub(crate) at: Option<SystemTime>,
    pub(crate) payload: Vec<u8>,
    pub(crate) meta: Vec<u8>,
    pub(crate) weight: u32,
    /// `None`: the line does not say.
    pub(crate) joined: Option<bool>,
    pub(crate) redacted: bool,
    /// Ids of the tool calls that it makes, and of those that it answers.
    pub(crate) calls: Vec<String>,
    pub(crate) answers: Vec<String>,
}

/// What a message takes from around it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Around<'a> {
    /// The agent, where the message names none.
    pub(crate) agent: Option<&'a str>,
    /// The time, where the message has none.
    pub(crate) at: Option<SystemTime>,
    /// What its transcript says beside its messages, as JSON.
    pub(crate) transcript: Option<&'a str>,
}

impl Message {
    pub(crate) fn entry(&self) -> NewEntry<'_> {
        let mut entry = NewEntry::new(self.kind, &self.payload).weight(self.weight);
        if !self.meta.is_empty() {
            entry = entry.meta(&self.meta);
        }
        if self.joined == Some(true) {
            entry = entry.joined();
        }
        match self.at {
            Some(at) => entry.at(at),
            None => entry,
        }
    }

    /// Reads a line with one message that names its agent.
    pub(crate) fn parse(line: &[u8]) -> Result<Message, Refusal> {
        let text = text_of(line)?;
        Message::read(&Spot::whole(text), text, &object(text)?, &Around::default())
    }

    /// Reads the message in an object of a line.
    pub(crate) fn read(
        spot: &Spot<'_>,
        object: &str,
        fields: &[Field<'_>],
        around: &Around<'_>,
    ) -> Result<Message, Refusal> {
        let find = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw);
        let agent = agent(spot, object, find("agent"), around.agent)?;
        let role = match find("role") {
            Some(raw) => string(spot, "role", raw)?,
            None => {
                let mend = "role is system, user, assistant, tool, or any other word";
                return Err(spot.missing("role", object, mend));
            }
        };
        if role.is_empty() {
            return Err(Refusal::new("role is empty", LINE_MEND).field(spot.name("role")));
        }
        let content = shape::content(spot, object, fields)?;
        let (kind, keep_role) = role::of_message(&role, &content);
        let kept = keep_role.then_some(role.as_str());
        let meta = if content.redacted {
            join(kept, &[])
        } else {
            meta_of_line(spot, kept, &content, fields, around.transcript)?
        };
        if meta.len() > MAX_META {
            let what = format!("the further fields take {} bytes, {MAX_META} at most", meta.len());
            return Err(Refusal::new(what, META_MEND).column(spot.column(object)));
        }
        let Content { payload, redacted, calls, answers, .. } = content;
        Ok(Message {
            agent,
            kind,
            at: find("ts").map_or(Ok(None), |raw| time(spot, raw))?.or(around.at),
            payload,
            meta,
            weight: find("weight").map_or(Ok(0), |raw| weight(spot, raw))?,
            joined: find("joined").map(|raw| flag(spot, raw)).transpose()?,
            redacted,
            calls,
            answers,
        })
    }
}

/// The text of a line.
pub(crate) fn text_of(line: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(line).map_err(|error| {
        let at = error.valid_up_to() + 1;
        let mend = if line.starts_with(&[0xff, 0xfe]) || line.starts_with(&[0xfe, 0xff]) {
            "the file is UTF-16: convert it, for example with iconv -f UTF-16 -t UTF-8"
        } else {
            "JSONL is UTF-8: convert the file, or put bytes that are no text into content_base64"
        };
        Refusal::new(format!("not UTF-8 from byte {at} on"), mend).column(at)
    })
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
pub(crate) fn object(text: &str) -> Result<Vec<Field<'_>>, Refusal> {
    let Fields(fields) = serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            let mend = if text.trim_start().starts_with('[') {
                "a list is split into lines by: jq -c '.[]' FILE"
            } else {
                LINE_MEND
            };
            return Refusal::new("not a JSON object", mend);
        }
        let mend = if error.is_eof() {
            "the object does not end on its line: bring each onto one line, by: jq -c . FILE"
        } else {
            LINE_MEND
        };
        let column = error.column();
        Refusal::new(format!("not valid JSON at column {column}"), mend).column(column)
    })?;
    let mut seen = HashSet::new();
    match fields.iter().find(|(name, _)| !seen.insert(name.as_str())) {
        None => Ok(fields),
        Some((_, again)) => Err(Refusal::new("a field occurs twice", "leave one of them out")
            .column(Spot::whole(text).column(again.get()))),
    }
}

fn agent(
    spot: &Spot<'_>,
    object: &str,
    raw: Option<&RawValue>,
    around: Option<&str>,
) -> Result<String, Refusal> {
    let mend = "agent is the name of the timeline, 1 to 512 bytes; --agent names it for lines \
                without one";
    let name = match (raw, around) {
        (Some(raw), _) => string(spot, "agent", raw)?,
        (None, Some(name)) => name.to_owned(),
        (None, None) => return Err(spot.missing("agent", object, mend)),
    };
    let refused = |what: &str| {
        let field = spot.name("agent");
        let column = raw.map_or(1, |raw| spot.column(raw.get()));
        Err(Refusal::new(format!("{field} {what}"), mend).column(column).field(field))
    };
    match name.len() {
        0 => refused("is empty"),
        1..=512 if name.starts_with(RESERVED_AGENTS) => {
            refused("begins with .memlog/, which the command keeps for itself")
        }
        1..=512 => Ok(name),
        _ => refused("is not a name of 1 to 512 bytes"),
    }
}

fn string(spot: &Spot<'_>, name: &str, raw: &RawValue) -> Result<String, Refusal> {
    serde_json::from_str(raw.get())
        .map_err(|_| spot.wrong(name, raw, "is not a string", format!("{name} is a text")))
}

/// A time: `None` for null.
pub(crate) fn time(spot: &Spot<'_>, raw: &RawValue) -> Result<Option<SystemTime>, Refusal> {
    let text = raw.get();
    let millis = match text.as_bytes().first() {
        Some(b'n') => return Ok(None),
        Some(b'"') => {
            let text: Option<String> = serde_json::from_str(text).ok();
            text.and_then(|text| when::of_text(&text))
        }
        _ => when::of_number(text),
    };
    let at = millis.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
    let wrong = || spot.wrong("ts", raw, "is no time from 1970 on", when::MEND);
    at.map(Some).ok_or_else(wrong)
}

fn weight(spot: &Spot<'_>, raw: &RawValue) -> Result<u32, Refusal> {
    let what = format!("is not a whole number from 0 to {}", u32::MAX);
    serde_json::from_str(raw.get())
        .map_err(|_| spot.wrong("weight", raw, &what, "weight counts, for example tokens"))
}

fn flag(spot: &Spot<'_>, raw: &RawValue) -> Result<bool, Refusal> {
    let what = "is neither true nor false";
    serde_json::from_str(raw.get()).map_err(|_| {
        spot.wrong("joined", raw, what, "joined: true belongs with the entry before it")
    })
}

/// The meta for the further fields of a line, and for what its content is.
fn meta_of_line(
    spot: &Spot<'_>,
    role: Option<&str>,
    content: &Content,
    fields: &[Field<'_>],
    transcript: Option<&str>,
) -> Result<Vec<u8>, Refusal> {
    let further: Vec<&Field<'_>> =
        fields.iter().filter(|(name, _)| !OWN.contains(&name.as_str())).collect();
    if let [(name, raw)] = further.as_slice()
        && role.is_none()
        && content.form == Form::Text
    {
        if name == META_TEXT {
            return string(spot, META_TEXT, raw).map(String::into_bytes);
        }
        if name == META_BASE64 {
            let bytes = from_base64(&string(spot, META_BASE64, raw)?);
            return bytes.ok_or_else(|| {
                spot.wrong(META_BASE64, raw, "is not base64", "leave it as export wrote it")
            });
        }
    }
    let is_kept = |name: &str| name.starts_with(RESERVED) && name != META_TRANSCRIPT;
    if let Some((_, raw)) = further.iter().find(|(name, _)| is_kept(name)) {
        let what = format!("fields that begin with \"{RESERVED}\" are reserved");
        return Err(
            Refusal::new(what, "give the field another name").column(spot.column(raw.get()))
        );
    }
    let told = further.iter().find(|(name, _)| name == META_TRANSCRIPT);
    let mut out = Meta::default();
    out.text(role::META_KEY, role);
    out.text(META_FORM, content.form.word());
    out.ids(META_CALLS, &content.calls);
    out.ids(META_ANSWERS, &content.answers);
    if let Some(raw) = told.map(|(_, raw)| raw.get()).or(transcript) {
        member(&mut out.0, META_TRANSCRIPT, raw);
    }
    if content.form != Form::Message {
        for (name, raw) in further.iter().filter(|(name, _)| name != META_TRANSCRIPT) {
            member(&mut out.0, name, raw.get());
        }
    }
    Ok(out.end())
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

/// Whether a field of a line has a meaning of its own.
pub(crate) fn is_own(name: &str) -> bool {
    OWN.contains(&name) || name.starts_with(RESERVED)
}

/// A compact JSON object that is being written; nothing at all for no members.
#[derive(Default)]
struct Meta(Vec<u8>);

impl Meta {
    fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            member(&mut self.0, name, &quoted(value));
        }
    }

    fn ids(&mut self, name: &str, ids: &[String]) {
        if !ids.is_empty() {
            member(&mut self.0, name, &serde_json::Value::from(ids).to_string());
        }
    }

    fn end(mut self) -> Vec<u8> {
        if !self.0.is_empty() {
            self.0.push(b'}');
        }
        self.0
    }
}

/// The role, if it is to be kept, and fields, as they become meta.
pub(crate) fn join(role: Option<&str>, fields: &[&Field<'_>]) -> Vec<u8> {
    let mut out = Meta::default();
    out.text(role::META_KEY, role);
    for (name, raw) in fields {
        member(&mut out.0, name, raw.get());
    }
    out.end()
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

/// What the meta of an entry says as import writes it.
struct Told<'a> {
    role: Option<String>,
    form: Form,
    answers: bool,
    fields: Vec<Field<'a>>,
}

/// Reads meta as import writes it; `None` for any other.
fn told(meta: &[u8]) -> Option<Told<'_>> {
    let mut told = Told { role: None, form: Form::Text, answers: false, fields: Vec::new() };
    if meta.is_empty() {
        return Some(told);
    }
    let text = std::str::from_utf8(meta).ok().filter(|text| !text.contains(['\n', '\r']))?;
    for (name, raw) in object(text).ok()? {
        let word = || serde_json::from_str::<String>(raw.get()).ok();
        match name.as_str() {
            role::META_KEY => told.role = Some(word()?),
            META_FORM => told.form = Form::of_word(&word()?)?,
            META_CALLS => {}
            META_ANSWERS => told.answers = true,
            META_TRANSCRIPT => told.fields.push((name, raw)),
            own if is_own(own) => return None,
            _ => told.fields.push((name, raw)),
        }
    }
    Some(told)
}

/// The role of an entry as it was imported.
pub(crate) fn role_of(entry: &Entry<'_>) -> String {
    told(entry.meta())
        .and_then(|told| told.role)
        .unwrap_or_else(|| role::of_kind(entry.kind()).into_owned())
}

/// The ids of the tool calls that an entry makes, as its meta has them.
pub(crate) fn calls_of(entry: &Entry<'_>) -> Vec<String> {
    let text = std::str::from_utf8(entry.meta()).unwrap_or_default();
    let fields = object(text).unwrap_or_default();
    let calls = fields.iter().find(|(name, _)| name == META_CALLS);
    calls.and_then(|(_, raw)| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

/// Writes an entry as a line that [`Message::parse`] reads as the same.
pub(crate) fn write(out: &mut Vec<u8>, agent: &str, entry: &Entry<'_>) {
    let mut line = match as_imported(agent, entry) {
        Some(line) if entry.meta().is_empty() || reads_back(&line, entry) => line,
        _ => verbatim(agent, entry),
    };
    out.append(&mut line);
}

/// Whether a line gives the same entry again.
fn reads_back(line: &[u8], entry: &Entry<'_>) -> bool {
    Message::parse(line).is_ok_and(|message| {
        message.kind == entry.kind()
            && message.payload == entry.payload()
            && message.meta == entry.meta()
            && message.weight == entry.weight()
            && message.at.is_some_and(|at| at == entry.at())
    })
}

/// The line that import made the entry of, as far as its meta tells; and that of any entry without
/// meta.
fn as_imported(agent: &str, entry: &Entry<'_>) -> Option<Vec<u8>> {
    let mut line = Vec::with_capacity(entry.payload().len() + entry.meta().len() + 96);
    let ts = when::write(millis(entry.at()));
    member(&mut line, "agent", &quoted(agent));
    if entry.is_redacted() {
        member(&mut line, "seq", &entry.seq().to_string());
        member(&mut line, "role", &quoted(&role::of_kind(entry.kind())));
        member(&mut line, "ts", &ts);
        member(&mut line, "redacted", "true");
        return Some(ended(line, entry, false));
    }
    let told = told(entry.meta())?;
    let role = told.role.as_deref();
    member(&mut line, "role", &quoted(role.unwrap_or(&role::of_kind(entry.kind()))));
    member(&mut line, "ts", &ts);
    match told.form {
        Form::Text => content(&mut line, entry),
        Form::Null => member(&mut line, "content", "null"),
        Form::Absent => {}
        Form::Json => member(&mut line, "content", raw_payload(entry)?),
        Form::Message => {
            for (name, raw) in object(raw_payload(entry)?).ok()? {
                member(&mut line, &name, raw.get());
            }
        }
    }
    told.fields.iter().for_each(|(name, raw)| member(&mut line, name, raw.get()));
    Some(ended(line, entry, told.answers))
}

/// A line with the meta as one field.
fn verbatim(agent: &str, entry: &Entry<'_>) -> Vec<u8> {
    let mut line = Vec::with_capacity(entry.payload().len() + entry.meta().len() + 96);
    member(&mut line, "agent", &quoted(agent));
    member(&mut line, "role", &quoted(&role::of_kind(entry.kind())));
    member(&mut line, "ts", &when::write(millis(entry.at())));
    content(&mut line, entry);
    match std::str::from_utf8(entry.meta()) {
        Ok(text) => member(&mut line, META_TEXT, &quoted(text)),
        Err(_) => member(&mut line, META_BASE64, &quoted(&base64(entry.meta()))),
    }
    ended(line, entry, false)
}

/// The payload as text or as bytes.
fn content(line: &mut Vec<u8>, entry: &Entry<'_>) {
    match entry.text() {
        Ok(text) => member(line, "content", &quoted(text)),
        Err(_) => member(line, "content_base64", &quoted(&base64(entry.payload()))),
    }
}

/// The payload as JSON on one line.
fn raw_payload<'a>(entry: &Entry<'a>) -> Option<&'a str> {
    let text = std::str::from_utf8(entry.payload()).ok()?;
    (!text.contains(['\n', '\r'])).then_some(text)
}

fn ended(mut line: Vec<u8>, entry: &Entry<'_>, answers: bool) -> Vec<u8> {
    if entry.weight() > 0 {
        member(&mut line, "weight", &entry.weight().to_string());
    }
    if entry.is_joined() {
        member(&mut line, "joined", "true");
    } else if answers {
        // Left out, import would look for the call before it.
        member(&mut line, "joined", "false");
    }
    line.extend_from_slice(b"}\n");
    line
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;

//! What a message says: text, a list of parts, or tool calls; and the ids that link calls and
//! results.

use serde_json::value::RawValue;

use crate::line::{Field, object};
use crate::output::from_base64;
use crate::refusal::{Refusal, Spot};

/// The largest payload of an entry, in bytes: the engine's limit, so that a refusal can name the line.
const MAX_PAYLOAD: usize = 32 << 20;
/// Fields that carry what a message says beside its content, or in its place.
const SPEAKING: [&str; 4] = ["tool_calls", "function_call", "refusal", "audio"];

const CONTENT_MEND: &str = "content is a text, null, or a list of parts, each an object with a type, as OpenAI and \
     Anthropic have them; bytes that are no text go into content_base64";

/// How the payload stands for what a line says; `memlog.content` in the meta, unless it is text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The payload is the content, as text or bytes.
    Text,
    /// The payload is the JSON of the content, a list of parts.
    Json,
    /// The content is null, and the payload empty.
    Null,
    /// There is no content, and the payload is empty.
    Absent,
    /// The payload is a JSON object with the content and the further fields of the message, which
    /// calls tools.
    Message,
}

impl Form {
    /// The word in the meta.
    pub(crate) fn word(self) -> Option<&'static str> {
        match self {
            Form::Text => None,
            Form::Json => Some("json"),
            Form::Null => Some("null"),
            Form::Absent => Some("absent"),
            Form::Message => Some("message"),
        }
    }

    pub(crate) fn of_word(word: &str) -> Option<Form> {
        [Form::Json, Form::Null, Form::Absent, Form::Message]
            .into_iter()
            .find(|form| form.word() == Some(word))
    }
}

/// The content of a message.
pub(crate) struct Content {
    pub(crate) form: Form,
    pub(crate) payload: Vec<u8>,
    pub(crate) redacted: bool,
    /// Ids of the tool calls that it makes, and of those that it answers.
    pub(crate) calls: Vec<String>,
    pub(crate) answers: Vec<String>,
}

/// Reads the content of a message.
pub(crate) fn content(
    spot: &Spot<'_>,
    text: &str,
    fields: &[Field<'_>],
) -> Result<Content, Refusal> {
    let find = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw);
    let speaks = |name: &&str| find(name).is_some_and(|raw| !matches!(raw.get(), "null" | "[]"));
    let mut found = Content {
        form: Form::Text,
        payload: Vec::new(),
        redacted: false,
        calls: Vec::new(),
        answers: Vec::new(),
    };
    match (find("content"), find("content_base64")) {
        (Some(raw), Some(_)) => {
            return Err(spot.wrong(
                "content",
                raw,
                "and content_base64 are both given",
                "leave one of them out",
            ));
        }
        (Some(raw), None) => found.take(spot, raw)?,
        (None, Some(raw)) => {
            let bytes = serde_json::from_str(raw.get()).ok().and_then(|t: String| from_base64(&t));
            found.payload = bytes.ok_or_else(|| {
                let mend = "encode the bytes as RFC 4648 has it: + and /, padded with =";
                spot.wrong("content_base64", raw, "is not base64", mend)
            })?;
        }
        (None, None) if find("redacted").is_some_and(|raw| raw.get() == "true") => {
            found.redacted = true;
        }
        (None, None) if SPEAKING.iter().any(speaks) => found.form = Form::Absent,
        (None, None) => return Err(spot.missing("content", text, CONTENT_MEND)),
    }
    if let Some(raw) = find("tool_calls").filter(|raw| raw.get() != "null") {
        found.tool_calls(spot, raw)?;
    }
    if let Some(raw) = find("tool_call_id").filter(|raw| raw.get() != "null") {
        found.answers.push(id(spot, "tool_call_id", raw)?);
    }
    if ["tool_calls", "function_call"].iter().any(speaks) {
        found.whole(fields);
    }
    if found.payload.len() > MAX_PAYLOAD {
        let what = format!("takes {} bytes, {MAX_PAYLOAD} at most", found.payload.len());
        let raw = find("content").or(find("content_base64")).or(find("tool_calls"));
        let mend = "split the message, or keep large data outside and name it";
        return Err(raw.map_or_else(
            || Refusal::new(format!("the message {what}"), mend),
            |raw| spot.wrong("content", raw, &what, mend),
        ));
    }
    Ok(found)
}

impl Content {
    /// Whether it calls tools.
    pub(crate) fn is_call(&self) -> bool {
        self.form == Form::Message || !self.calls.is_empty()
    }

    fn take(&mut self, spot: &Spot<'_>, raw: &RawValue) -> Result<(), Refusal> {
        match raw.get().as_bytes().first() {
            Some(b'"') => {
                let text: String = serde_json::from_str(raw.get()).map_err(|_| {
                    let mend = "write the text as UTF-8, or as whole surrogate pairs";
                    spot.wrong("content", raw, "has an escape that is no character", mend)
                })?;
                self.payload = text.into_bytes();
                Ok(())
            }
            Some(b'n') => {
                self.form = Form::Null;
                Ok(())
            }
            Some(b'[') => {
                self.form = Form::Json;
                self.payload = raw.get().as_bytes().to_vec();
                self.parts(spot, raw)
            }
            _ => {
                let what = "is not a string, null or a list of parts";
                Err(spot.wrong("content", raw, what, CONTENT_MEND))
            }
        }
    }

    /// Looks through a list of parts for what they call and answer.
    fn parts(&mut self, spot: &Spot<'_>, raw: &RawValue) -> Result<(), Refusal> {
        let parts: Vec<&RawValue> = serde_json::from_str(raw.get())
            .map_err(|_| spot.wrong("content", raw, "is not a list of parts", CONTENT_MEND))?;
        for (at, part) in parts.into_iter().enumerate() {
            let name = format!("content[{at}]");
            let what = "is not an object with a type";
            let fields =
                object(part.get()).map_err(|_| spot.wrong(&name, part, what, CONTENT_MEND))?;
            let find = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, r)| *r);
            let kind: String = find("type")
                .and_then(|raw| serde_json::from_str(raw.get()).ok())
                .ok_or_else(|| spot.wrong(&name, part, what, CONTENT_MEND))?;
            if let Some(raw) = find("id").filter(|_| kind.ends_with("tool_use")) {
                self.calls.push(id(spot, &format!("{name}.id"), raw)?);
            }
            if let Some(raw) = find("tool_use_id") {
                self.answers.push(id(spot, &format!("{name}.tool_use_id"), raw)?);
            }
        }
        Ok(())
    }

    fn tool_calls(&mut self, spot: &Spot<'_>, raw: &RawValue) -> Result<(), Refusal> {
        let mend = "tool_calls is a list of objects, each with an id, as OpenAI has them";
        let calls: Vec<&RawValue> = serde_json::from_str(raw.get())
            .map_err(|_| spot.wrong("tool_calls", raw, "is not a list", mend))?;
        for (at, call) in calls.into_iter().enumerate() {
            let name = format!("tool_calls[{at}]");
            let fields = object(call.get())
                .map_err(|_| spot.wrong(&name, call, "is not an object", mend))?;
            if let Some((_, raw)) =
                fields.iter().find(|(key, raw)| key == "id" && raw.get() != "null")
            {
                self.calls.push(id(spot, &format!("{name}.id"), raw)?);
            }
        }
        Ok(())
    }

    /// Makes the payload of all that the message says.
    fn whole(&mut self, fields: &[Field<'_>]) {
        let said =
            fields.iter().filter(|(name, _)| name == "content" || !crate::line::is_own(name));
        self.payload = crate::line::join(None, &said.collect::<Vec<_>>());
        self.form = Form::Message;
    }
}

fn id(spot: &Spot<'_>, name: &str, raw: &RawValue) -> Result<String, Refusal> {
    serde_json::from_str(raw.get())
        .map_err(|_| spot.wrong(name, raw, "is not a string", "an id of a tool call is a text"))
}

//! Roles in JSONL and kinds in the store, one for the other.

use std::borrow::Cow;

use memlog::Kind;

use crate::shape::Content;

/// The field of the meta that keeps a role which is no kind's name.
pub(crate) const META_KEY: &str = "memlog.role";

/// The kind of entries whose role is kept in their meta.
const BY_META: Kind = Kind::new(u16::MAX);

const NAMES: [(&str, Kind); 7] = [
    ("system", Kind::SYSTEM),
    ("user", Kind::USER),
    ("assistant", Kind::ASSISTANT),
    ("tool_call", Kind::TOOL_CALL),
    ("tool", Kind::TOOL_RESULT),
    ("observation", Kind::OBSERVATION),
    ("summary", Kind::SUMMARY),
];

/// The kind for a role, and whether the role itself has to be kept in the meta.
pub(crate) fn to_kind(role: &str) -> (Kind, bool) {
    if let Some((_, kind)) = NAMES.iter().find(|(name, _)| *name == role) {
        return (*kind, false);
    }
    match role {
        "tool_result" | "function" => return (Kind::TOOL_RESULT, true),
        "developer" => return (Kind::SYSTEM, true),
        _ => {}
    }
    let number = role.strip_prefix("kind:").and_then(|n| n.parse().ok()).map(Kind::new);
    match number {
        // Only the spelling that export would give, so that every role comes back as it was.
        Some(kind) if of_kind(kind) == role => (kind, false),
        _ => (BY_META, true),
    }
}

/// The kind for a message: one that calls tools is a call, and one that answers calls a result, under
/// either role.
pub(crate) fn of_message(role: &str, content: &Content) -> (Kind, bool) {
    match to_kind(role) {
        (Kind::ASSISTANT, _) if content.is_call() => (Kind::TOOL_CALL, true),
        (Kind::USER, _) if !content.answers.is_empty() => (Kind::TOOL_RESULT, true),
        other => other,
    }
}

/// The role that stands for a kind.
pub(crate) fn of_kind(kind: Kind) -> Cow<'static, str> {
    match NAMES.iter().find(|(_, named)| *named == kind) {
        Some((name, _)) => Cow::Borrowed(name),
        None => Cow::Owned(format!("kind:{}", kind.get())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_come_back() {
        for role in ["system", "user", "assistant", "tool_call", "tool", "kind:256", "kind:9"] {
            let (kind, kept) = to_kind(role);
            assert!(!kept, "{role}");
            assert_eq!(of_kind(kind), role);
        }
        for role in [
            "tool_result",
            "function",
            "developer",
            "kind:2",
            "kind:0300",
            "kind:70000",
            "kind:",
            "",
        ] {
            assert!(to_kind(role).1, "{role}");
        }
    }
}

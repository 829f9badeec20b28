//! A record: one change in a batch. Each has its own check, so that reading one entry does not
//! verify a whole batch.
//!
//! The writer computes the plain CRC while it encodes; the mask that binds the record to its place
//! is added when the place is known ([`bind`]).

use super::check::{crc, mask};
use super::codec::{Cursor, pad, put_at, u32_at, u64_at};
use super::{Fault, align, len32};
use crate::types::{Kind, Retention};

/// Bytes that every record begins with.
pub(crate) const PREFIX_LEN: usize = 16;
/// Bytes before the meta of an append without an expiry.
pub(crate) const APPEND_LEN: usize = 32;

/// Flags of an append.
pub(crate) const JOINED: u8 = 1;
/// The payload and meta were taken out.
pub(crate) const REDACTED: u8 = 2;
/// The entry's bytes were lost; it only keeps its seq.
pub(crate) const LOST: u8 = 4;
const EXPIRES: u8 = 8;
const APPEND_FLAGS: u8 = JOINED | REDACTED | LOST | EXPIRES;
const CLEARED: u8 = 1;

const UNKNOWN_FLAGS: Fault = Fault("a record has flags that its segment's features do not name");

const NO_AGENT: u32 = u32::MAX;

const APPEND: u8 = 1;
const SET: u8 = 2;
const UNSET: u8 = 3;
const TRUNCATE: u8 = 4;
const REDACT: u8 = 5;
const FORGET: u8 = 6;
const POLICY: u8 = 7;
const FORGET_PREFIX: u8 = 8;
const KEPT_SET: u8 = 9;
const KEPT_PREFIX: u8 = 10;

/// An entry's fields as they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Append<'a> {
    pub(crate) at: u64,
    pub(crate) kind: Kind,
    pub(crate) weight: u32,
    pub(crate) flags: u8,
    pub(crate) expires: Option<u64>,
    pub(crate) meta: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    Append(Append<'a>),
    Set {
        key: &'a str,
        value: &'a [u8],
    },
    Unset {
        key: &'a str,
    },
    Truncate {
        seq: u64,
    },
    Redact {
        seq: u64,
    },
    Forget,
    Policy(Option<Retention>),
    ForgetPrefix {
        prefix: &'a str,
    },
    /// A set that was moved to a run: its revision is not the lsn of its frame. Only runs are
    /// written with it.
    Kept {
        key: &'a str,
        revision: u64,
        value: &'a [u8],
    },
    /// A forgotten prefix that was moved to a run, with the lsn of its forgetting. Only runs are
    /// written with it.
    KeptPrefix {
        lsn: u64,
        prefix: &'a str,
    },
}

/// A decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// Index into the frame's table of agents.
    pub(crate) agent: u32,
    pub(crate) change: Change<'a>,
}

/// Appends a record to `out`, with its plain check, and gives that check back.
pub(crate) fn encode(out: &mut Vec<u8>, agent: u32, change: &Change<'_>) -> u32 {
    let start = out.len();
    encode_plain(out, agent, change);
    pad(out);
    let plain = out.get(start + 4..).map_or(0, crc);
    let checked = put_at(out, start, &plain.to_le_bytes());
    debug_assert!(checked && start.is_multiple_of(super::ALIGN));
    plain
}

/// All but the check and the padding.
fn encode_plain(out: &mut Vec<u8>, agent: u32, change: &Change<'_>) {
    let (tag, flags) = match change {
        Change::Append(append) => return encode_append(out, agent, append),
        Change::Set { .. } => (SET, 0),
        Change::Unset { .. } => (UNSET, 0),
        Change::Truncate { .. } => (TRUNCATE, 0),
        Change::Redact { .. } => (REDACT, 0),
        Change::Forget => (FORGET, 0),
        Change::Policy(p) => (POLICY, if p.is_none() { CLEARED } else { 0 }),
        Change::ForgetPrefix { .. } => (FORGET_PREFIX, 0),
        Change::Kept { .. } => (KEPT_SET, 0),
        Change::KeptPrefix { .. } => (KEPT_PREFIX, 0),
    };
    let agent = if matches!(tag, FORGET_PREFIX | KEPT_PREFIX) { NO_AGENT } else { agent };
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[tag, flags, 0, 0]);
    out.extend_from_slice(&agent.to_le_bytes());
    encode_body(out, change);
    let len = len32(out.len() - start);
    let placed = put_at(out, start + 4, &len.to_le_bytes());
    debug_assert!(placed);
}

/// What is written most: all that comes before the meta in one piece.
fn encode_append(out: &mut Vec<u8>, agent: u32, append: &Append<'_>) {
    let expires = append.expires.map(u64::to_le_bytes);
    let expires = expires.as_ref().map_or(&[][..], |bytes| bytes);
    let len = APPEND_LEN + expires.len() + append.meta.len() + append.payload.len();
    let flags = append.flags | if expires.is_empty() { 0 } else { EXPIRES };
    let mut head = [0; APPEND_LEN];
    let placed = put_at(&mut head, 4, &len32(len).to_le_bytes())
        && put_at(&mut head, 8, &[APPEND, flags])
        && put_at(&mut head, 10, &append.kind.get().to_le_bytes())
        && put_at(&mut head, 12, &agent.to_le_bytes())
        && put_at(&mut head, 16, &append.at.to_le_bytes())
        && put_at(&mut head, 24, &append.weight.to_le_bytes())
        && put_at(&mut head, 28, &len32(append.meta.len()).to_le_bytes());
    debug_assert!(placed);
    out.extend_from_slice(&head);
    out.extend_from_slice(expires);
    out.extend_from_slice(append.meta);
    out.extend_from_slice(append.payload);
}

fn encode_body(out: &mut Vec<u8>, change: &Change<'_>) {
    match change {
        Change::Append(_) | Change::Forget | Change::Policy(None) => {}
        Change::Set { key, value } => {
            out.extend_from_slice(&len32(key.len()).to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(value);
        }
        Change::Unset { key } => out.extend_from_slice(key.as_bytes()),
        Change::Truncate { seq } | Change::Redact { seq } => {
            out.extend_from_slice(&seq.to_le_bytes());
        }
        Change::Policy(Some(policy)) => {
            for limit in [policy.max_entries, policy.max_bytes, policy.max_age] {
                out.extend_from_slice(&limit.unwrap_or(u64::MAX).to_le_bytes());
            }
        }
        Change::ForgetPrefix { prefix } => out.extend_from_slice(prefix.as_bytes()),
        Change::Kept { key, revision, value } => {
            out.extend_from_slice(&revision.to_le_bytes());
            out.extend_from_slice(&len32(key.len()).to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(value);
        }
        Change::KeptPrefix { lsn, prefix } => {
            out.extend_from_slice(&lsn.to_le_bytes());
            out.extend_from_slice(prefix.as_bytes());
        }
    }
}

/// Binds the records of `body`, whose first byte will lie at `offset` of the segment with `salt`,
/// to their place, or takes the binding off again (the operation is its own inverse).
pub(crate) fn bind(body: &mut [u8], salt: u64, offset: u64) -> Result<(), Fault> {
    let mut at = 0;
    while at < body.len() {
        let check = u32_at(body, at).ok_or(Fault("a record is cut short"))?;
        let len = padded_len(body, at)?;
        let place = offset.saturating_add(at as u64);
        if !put_at(body, at, &(check ^ mask(salt, place)).to_le_bytes()) {
            return Err(Fault("a record is cut short"));
        }
        at += len;
    }
    Ok(())
}

/// The length of the record at `at` with its padding, if all of it lies in `bytes`.
pub(crate) fn padded_len(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    let rest = bytes.get(at..).ok_or(Fault("a record is cut short"))?;
    let padded = stated_len(rest)?;
    if padded > rest.len() {
        return Err(Fault("a record's length is wrong"));
    }
    Ok(padded)
}

/// The length, with padding, that the first 8 bytes of a record state.
#[inline]
pub(crate) fn stated_len(prefix: &[u8]) -> Result<usize, Fault> {
    let len = u32_at(prefix, 4).ok_or(Fault("a record is cut short"))?;
    let len = usize::try_from(len).map_err(|_| Fault("a record's length is wrong"))?;
    if len < PREFIX_LEN {
        return Err(Fault("a record's length is wrong"));
    }
    Ok(align(len))
}

/// The plain check of the record that fills `bytes`, if its bound check fits its bytes and place.
pub(crate) fn verify(bytes: &[u8], salt: u64, offset: u64) -> Result<u32, Fault> {
    let check = u32_at(bytes, 0).ok_or(Fault("a record is cut short"))?;
    let plain = bytes.get(4..).map(crc).ok_or(Fault("a record is cut short"))?;
    if check ^ mask(salt, offset) != plain {
        return Err(Fault("a record's checksum is wrong"));
    }
    Ok(plain)
}

/// Decodes the record that fills `bytes` (with its padding). Its check is not looked at.
pub(crate) fn decode(bytes: &[u8]) -> Result<Record<'_>, Fault> {
    let mut cursor = Cursor::new(bytes);
    let _check = cursor.u32()?;
    let len = cursor.length()?;
    let mut cursor = Cursor::new(bytes.get(8..len).ok_or(Fault("a record's length is wrong"))?);
    let (tag, flags, kind) = (cursor.u8()?, cursor.u8()?, Kind::new(cursor.u16()?));
    let agent = cursor.u32()?;
    let known = match tag {
        APPEND => APPEND_FLAGS,
        POLICY => CLEARED,
        _ => 0,
    };
    if flags & !known != 0 {
        return Err(UNKNOWN_FLAGS);
    }
    let change = match tag {
        APPEND => Change::Append(decode_append(&mut cursor, flags, kind)?),
        SET => {
            let (key, value) = decode_set(&mut cursor)?;
            Change::Set { key, value }
        }
        UNSET => Change::Unset { key: text(cursor.rest())? },
        TRUNCATE => Change::Truncate { seq: cursor.u64()? },
        REDACT => Change::Redact { seq: cursor.u64()? },
        FORGET => Change::Forget,
        POLICY if flags & CLEARED != 0 => Change::Policy(None),
        POLICY => {
            let mut limit = || cursor.u64().map(|n| (n != u64::MAX).then_some(n));
            Change::Policy(Some(Retention {
                max_entries: limit()?,
                max_bytes: limit()?,
                max_age: limit()?,
            }))
        }
        FORGET_PREFIX => Change::ForgetPrefix { prefix: text(cursor.rest())? },
        KEPT_SET => {
            let revision = cursor.number()?;
            let (key, value) = decode_set(&mut cursor)?;
            Change::Kept { key, revision, value }
        }
        KEPT_PREFIX => {
            let lsn = cursor.number()?;
            Change::KeptPrefix { lsn, prefix: text(cursor.rest())? }
        }
        _ => return Err(Fault("a record is of an unknown type")),
    };
    Ok(Record { agent, change })
}

/// What a record is for, as far as its first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Append,
    /// It sets or unsets a key.
    State,
    /// It takes something away: entries, a life, all lives under a prefix.
    Erasure,
    Policy,
}

/// What the record is for that begins with `bytes`, and its agent's index, below `agents`. `None`: no
/// record of such a frame begins so.
pub(crate) fn sort_of(bytes: &[u8], agents: u32) -> Option<(Sort, u32)> {
    let [_, _, _, _, _, _, _, _, tag, flags, k0, k1, a0, a1, a2, a3, ..] = *bytes else {
        return None;
    };
    let (kind, agent) = (u16::from_le_bytes([k0, k1]), u32::from_le_bytes([a0, a1, a2, a3]));
    let (sort, known) = match tag {
        APPEND => (Sort::Append, APPEND_FLAGS),
        SET | UNSET | KEPT_SET => (Sort::State, 0),
        TRUNCATE | REDACT | FORGET | FORGET_PREFIX | KEPT_PREFIX => (Sort::Erasure, 0),
        POLICY => (Sort::Policy, CLEARED),
        _ => return None,
    };
    let of_no_agent = matches!(tag, FORGET_PREFIX | KEPT_PREFIX);
    let placed = if of_no_agent { agent == NO_AGENT } else { agent < agents };
    let sound = flags & !known == 0 && (kind == 0 || tag == APPEND);
    (placed && sound).then_some((sort, agent))
}

/// Decodes the append that fills `bytes` (with its padding). Its check is not looked at. `None`: it is
/// another record.
///
/// As [`decode`], but for what is read most: one look at each length, and all else at a fixed place.
#[inline]
pub(crate) fn decode_entry(bytes: &[u8]) -> Result<Option<Append<'_>>, Fault> {
    const WRONG: Fault = Fault("a record's length is wrong");
    let Some(head) = bytes.first_chunk::<APPEND_LEN>() else { return Ok(None) };
    let [_, _, _, _, l0, l1, l2, l3, tag, flags, k0, k1, ..] = *head;
    if tag != APPEND {
        return Ok(None);
    }
    if flags & !APPEND_FLAGS != 0 {
        return Err(UNKNOWN_FLAGS);
    }
    let [.., w0, w1, w2, w3, m0, m1, m2, m3] = *head;
    let length = |bytes| usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| WRONG);
    let (len, meta_len) = (length([l0, l1, l2, l3])?, length([m0, m1, m2, m3])?);
    let rest = bytes.get(APPEND_LEN..len).ok_or(WRONG)?;
    let (expires, rest) = match rest.split_first_chunk() {
        _ if flags & EXPIRES == 0 => (None, rest),
        Some((expires, rest)) => (Some(u64::from_le_bytes(*expires)), rest),
        None => return Err(WRONG),
    };
    let (meta, payload) = rest.split_at_checked(meta_len).ok_or(WRONG)?;
    Ok(Some(Append {
        at: u64_at(head, PREFIX_LEN).unwrap_or(0),
        kind: Kind::new(u16::from_le_bytes([k0, k1])),
        weight: u32::from_le_bytes([w0, w1, w2, w3]),
        flags: flags & !EXPIRES,
        expires,
        meta,
        payload,
    }))
}

/// The entry whose record begins at `at`, and the length of the record with its padding. `None`: there
/// is none.
#[inline]
pub(crate) fn entry_at(body: &[u8], at: usize) -> Option<(usize, Append<'_>)> {
    let rest = body.get(at..)?;
    let len = stated_len(rest).ok()?;
    Some((len, decode_entry(rest.get(..len)?).ok()??))
}

fn decode_append<'a>(cursor: &mut Cursor<'a>, flags: u8, kind: Kind) -> Result<Append<'a>, Fault> {
    let (at, weight) = (cursor.u64()?, cursor.u32()?);
    let meta_len = cursor.length()?;
    let expires = if flags & EXPIRES != 0 { Some(cursor.u64()?) } else { None };
    let meta = cursor.bytes(meta_len)?;
    let flags = flags & !EXPIRES;
    Ok(Append { at, kind, weight, flags, expires, meta, payload: cursor.rest() })
}

/// Key and value of a set.
fn decode_set<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a str, &'a [u8]), Fault> {
    let key_len = cursor.length()?;
    let _zero = cursor.u32()?;
    Ok((text(cursor.bytes(key_len)?)?, cursor.rest()))
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault("a name or key is not UTF-8"))
}

/// Where the payload of an append begins, counted from the record.
pub(crate) fn payload_at(append: &Append<'_>) -> u64 {
    let expires = if append.expires.is_some() { 8 } else { 0 };
    APPEND_LEN as u64 + expires + append.meta.len() as u64
}

/// Where the value of a set begins, counted from the record; of a `kept` one, it has a revision.
pub(crate) fn value_at(key: &str, kept: bool) -> u64 {
    let revision = if kept { 8 } else { 0 };
    PREFIX_LEN as u64 + revision + 8 + key.len() as u64
}

/// The length of a set's record, with padding.
pub(crate) fn set_len(key: &str, value: &[u8], kept: bool) -> u32 {
    let end = value_at(key, kept).saturating_add(value.len() as u64);
    len32(usize::try_from(end).map_or(usize::MAX, align))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::LIMIT;

    /// Whatever is wrong with it, a record is an entry to both ways of decoding or to neither.
    #[test]
    fn an_entry_is_decoded_as_any_record_is() {
        let append = Append {
            at: 7,
            kind: Kind::USER,
            weight: 9,
            flags: JOINED,
            expires: Some(11),
            meta: b"meta",
            payload: b"the payload",
        };
        let (mut body, mut entries) = (Vec::new(), 0);
        for change in [
            Change::Append(append),
            Change::Append(Append { expires: None, meta: b"", ..append }),
            Change::Append(Append { payload: b"", expires: None, ..append }),
            Change::Set { key: "a key that is long enough", value: b"a value" },
            Change::Truncate { seq: 5 },
        ] {
            body.clear();
            encode(&mut body, 1, &change);
            for cut in 0..=body.len() {
                for at in 0..=cut {
                    for byte in [0, 1, 40, 255] {
                        let mut bytes = body.get(..cut).unwrap().to_vec();
                        if let Some(b) = bytes.get_mut(at) {
                            *b = byte;
                        }
                        let plain = match decode(&bytes) {
                            Ok(Record { change: Change::Append(append), .. }) => Some(append),
                            _ => None,
                        };
                        let entry = decode_entry(&bytes).ok().flatten();
                        assert_eq!(entry, plain);
                        entries += usize::from(entry.is_some());
                    }
                }
            }
        }
        assert!(entries > 100, "{entries}");
    }

    #[test]
    fn records_read_back_bound_to_their_place() {
        let policy = Retention::new().max_entries(5);
        let append = Append {
            at: 5,
            kind: Kind::USER,
            weight: 9,
            flags: JOINED,
            expires: Some(77),
            meta: b"m",
            payload: b"hello",
        };
        let changes = [
            Change::Append(append),
            Change::Append(Append { expires: None, payload: b"", meta: b"", ..append }),
            Change::Set { key: "k", value: b"v" },
            Change::Unset { key: "k" },
            Change::Truncate { seq: 8 },
            Change::Redact { seq: 9 },
            Change::Forget,
            Change::Policy(Some(policy)),
            Change::Policy(None),
            Change::Kept { key: "k", revision: 1 << 40, value: b"v" },
            Change::Kept { key: "", revision: 0, value: b"" },
        ];
        let mut body = Vec::new();
        for change in &changes {
            encode(&mut body, 3, change);
        }
        bind(&mut body, 11, 4096).unwrap();
        let mut at = 0;
        for change in &changes {
            let len = padded_len(&body, at).unwrap();
            let bytes = &body[at..at + len];
            assert!(verify(bytes, 11, 4096 + at as u64).is_ok());
            assert!(verify(bytes, 11, 8192 + at as u64).is_err(), "bound to its place");
            assert_eq!(decode(bytes).unwrap(), Record { agent: 3, change: *change });
            at += len;
        }
        assert_eq!(at, body.len());
    }

    #[test]
    fn records_of_no_agent_say_so() {
        for change in [
            Change::ForgetPrefix { prefix: "acme/" },
            Change::KeptPrefix { lsn: 1 << 40, prefix: "acme/" },
            Change::KeptPrefix { lsn: 0, prefix: "" },
        ] {
            let mut bytes = Vec::new();
            encode(&mut bytes, 3, &change);
            assert_eq!(decode(&bytes), Ok(Record { agent: NO_AGENT, change }));
        }
    }

    #[test]
    fn lsns_beyond_all_are_refused() {
        for number in [LIMIT, LIMIT + 1] {
            for change in [
                Change::Kept { key: "k", revision: number, value: b"v" },
                Change::KeptPrefix { lsn: number, prefix: "acme/" },
            ] {
                let mut bytes = Vec::new();
                encode(&mut bytes, 3, &change);
                assert_eq!(decode(&bytes).is_ok(), number == LIMIT, "{change:?}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_seen() {
        for change in [
            Change::Set { key: "key", value: b"value" },
            Change::Kept { key: "key", revision: 7 << 33, value: b"value" },
            Change::KeptPrefix { lsn: 7 << 33, prefix: "acme/old/" },
        ] {
            let mut bytes = Vec::new();
            encode(&mut bytes, 3, &change);
            bind(&mut bytes, 11, 4096).unwrap();
            verify(&bytes, 11, 4096).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(verify(&bad, 11, 4096).is_err(), "bit {bit} of {change:?}");
            }
        }
    }

    /// Without their checks: what the lengths lead to must be within the record.
    #[test]
    fn hostile_lengths_in_kept_records_are_refused() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 0, &Change::Kept { key: "key", revision: 5, value: b"value" });
        let key_len_at = PREFIX_LEN + 8;
        for key_len in [0, 3, 8, 9, u32::MAX] {
            let mut bad = bytes.clone();
            assert!(put_at(&mut bad, key_len_at, &key_len.to_le_bytes()));
            assert_eq!(decode(&bad).is_ok(), key_len <= 8, "{key_len}");
        }
        for len in [0, 15, 16, 24, 31, 32, 35, 40, 41, u32::MAX] {
            let mut bad = bytes.clone();
            assert!(put_at(&mut bad, 4, &len.to_le_bytes()));
            assert_eq!(decode(&bad).is_ok(), (35..=40).contains(&len), "{len}");
        }
        let mut bytes = Vec::new();
        encode(&mut bytes, 0, &Change::KeptPrefix { lsn: 5, prefix: "acme/old/" });
        for len in [0, 15, 16, 23, 24, 33, 40, 41, u32::MAX] {
            let mut bad = bytes.clone();
            assert!(put_at(&mut bad, 4, &len.to_le_bytes()));
            assert_eq!(decode(&bad).is_ok(), (24..=40).contains(&len), "{len}");
        }
        *bytes.last_mut().unwrap() = 0;
        bytes[PREFIX_LEN + 8] = 0xFF;
        assert!(decode(&bytes).is_err(), "not UTF-8");
    }

    #[test]
    fn the_length_of_a_set_is_known_before_it_is_encoded() {
        for (key, value) in [("", &b""[..]), ("k", b"v"), ("key", b"a longer value"), ("é", b"")] {
            for kept in [false, true] {
                let change = match kept {
                    true => Change::Kept { key, revision: 1, value },
                    false => Change::Set { key, value },
                };
                let mut bytes = Vec::new();
                encode(&mut bytes, 0, &change);
                assert_eq!(set_len(key, value, kept) as usize, bytes.len());
                let at = usize::try_from(value_at(key, kept)).unwrap();
                assert_eq!(bytes[at..at + value.len()], *value);
            }
        }
    }
}

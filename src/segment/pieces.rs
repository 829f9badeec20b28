//! The records of a frame that is not whole. Each record has a check of its own, so that those around
//! the damage can be read, and most of those that are hit still say what they were.

use std::borrow::Cow;

use crate::format::ALIGN;
use crate::format::check::{crc, crc_before, mask};
use crate::format::codec::u32_at;
use crate::format::frame::FrameHeader;
use crate::format::record::{self, Change, PREFIX_LEN, Sort};
use crate::segment::scan::Placed;

/// Bytes at the beginning of a change of state that are searched: they hold most keys.
const NAMED: usize = 160;

/// A stretch of the body of a frame that is not whole.
pub(crate) enum Piece<'a> {
    /// A whole record.
    Whole(Placed<'a>),
    /// Exactly one record that is not whole.
    Lost(Lost<'a>),
    /// Any number of records of which none is whole, at this offset of the file.
    Hole(usize),
}

/// A record that is not whole, and what it says of itself.
pub(crate) struct Lost<'a> {
    /// Offset in the file.
    pub(crate) offset: usize,
    /// Its length, with padding.
    pub(crate) len: usize,
    /// What it was for, and the index of its agent. `None`: that is damaged too.
    pub(crate) was: Option<(Sort, u32)>,
    /// The key that it changed, or the prefix that it forgot.
    pub(crate) text: Option<Cow<'a, str>>,
}

/// Where a body lies.
#[derive(Clone, Copy)]
pub(crate) struct Body<'a> {
    /// All of it, or what the file has.
    pub(crate) bytes: &'a [u8],
    /// Offset in the file.
    pub(crate) offset: usize,
    pub(crate) salt: u64,
}

/// Takes the body of a frame apart whose header is intact. What the first bytes of a damaged record
/// were is searched for in as many records as there are `tries`; the others are taken at their word.
pub(crate) fn pieces<'a>(header: &FrameHeader, body: Body<'a>, tries: &mut u32) -> Vec<Piece<'a>> {
    match by_lengths(header, body.bytes) {
        Some(records) => {
            let piece = |(at, len)| body.piece(header, at, len, tries);
            records.into_iter().map(piece).collect()
        }
        None => hunted(header, body, tries),
    }
}

/// Where the records lie by the lengths that they state, if those make a whole body.
fn by_lengths(header: &FrameHeader, bytes: &[u8]) -> Option<Vec<(usize, usize)>> {
    if bytes.len() != header.body_len {
        return None;
    }
    let (mut at, mut records) = (0, Vec::new());
    while at < bytes.len() {
        let len = record::padded_len(bytes, at).ok()?;
        records.push((at, len));
        at += len;
    }
    (u32::try_from(records.len()) == Ok(header.records)).then_some(records)
}

/// Looks for the whole records of a body in which a length is wrong.
fn hunted<'a>(header: &FrameHeader, body: Body<'a>, tries: &mut u32) -> Vec<Piece<'a>> {
    // A forger could have every place claim the rest of the body.
    let mut budget = body.bytes.len().saturating_mul(4).saturating_add(1 << 20);
    let (mut at, mut gap, mut found) = (0, None, Vec::new());
    while at < body.bytes.len() {
        let len = record::padded_len(body.bytes, at).ok().filter(|len| *len <= budget);
        let rest = body.bytes.get(at..).unwrap_or_default();
        let len = len.filter(|_| record::sort_of(rest, header.agents).is_some());
        budget = budget.saturating_sub(len.unwrap_or(0));
        match len.filter(|len| body.is_whole(at, *len)) {
            Some(len) => {
                found.extend(gap.take().map(|from| (from, at - from, false)));
                found.push((at, len, true));
                at += len;
            }
            None => {
                gap.get_or_insert(at);
                at += ALIGN;
            }
        }
    }
    found.extend(gap.map(|from| (from, body.bytes.len().saturating_sub(from), false)));
    let records = usize::try_from(header.records).unwrap_or(usize::MAX);
    // As many gaps as there are records missing: each of them is one record.
    let exact = body.bytes.len() == header.body_len && found.len() == records;
    let piece = |(at, len, whole): (usize, usize, bool)| {
        if whole || exact {
            body.piece(header, at, len, tries)
        } else {
            Piece::Hole(body.offset + at)
        }
    };
    let ends_whole = found.last().is_none_or(|(.., whole)| *whole);
    let cut = body.bytes.len() < header.body_len && ends_whole;
    let end = cut.then_some(Piece::Hole(body.offset + body.bytes.len()));
    found.into_iter().map(piece).chain(end).collect()
}

impl<'a> Body<'a> {
    fn is_whole(&self, at: usize, len: usize) -> bool {
        let bytes = self.bytes.get(at..at.saturating_add(len)).unwrap_or_default();
        let place = self.offset.saturating_add(at) as u64;
        record::verify(bytes, self.salt, place).is_ok() && record::decode(bytes).is_ok()
    }

    /// The record of this length, whole or not.
    fn piece(&self, header: &FrameHeader, at: usize, len: usize, tries: &mut u32) -> Piece<'a> {
        let bytes = self.bytes.get(at..at.saturating_add(len)).unwrap_or_default();
        let offset = self.offset.saturating_add(at);
        if self.is_whole(at, len)
            && let Ok(record) = record::decode(bytes)
        {
            return Piece::Whole(Placed { offset, record });
        }
        let plain = u32_at(bytes, 0).unwrap_or(0) ^ mask(self.salt, offset as u64);
        let mended = tries.checked_sub(1).and_then(|left| {
            *tries = left;
            mended(bytes, plain, header.agents)
        });
        let (was, text) = match &mended {
            Some(mended) => {
                let text = text_of(mended).map(|text| Cow::Owned(text.to_owned()));
                (record::sort_of(mended, header.agents), text)
            }
            None => {
                let was = record::sort_of(bytes, header.agents);
                (was, text_of(bytes).filter(|_| was.is_some()).map(Cow::Borrowed))
            }
        };
        Piece::Lost(Lost { offset, len, was, text })
    }
}

/// The key that a record changes, or the prefix that it forgets.
fn text_of(bytes: &[u8]) -> Option<&str> {
    match record::decode(bytes).ok()?.change {
        Change::Set { key, .. } | Change::Kept { key, .. } | Change::Unset { key } => Some(key),
        Change::ForgetPrefix { prefix } | Change::KeptPrefix { prefix, .. } => Some(prefix),
        _ => None,
    }
}

/// A record as it was, if the damage is one byte among its first: then there is one value of it with
/// which the record has the checksum that it states. Of a change of state the key is among them.
fn mended(bytes: &[u8], plain: u32, agents: u32) -> Option<Vec<u8>> {
    let of_state = matches!(record::sort_of(bytes, agents), None | Some((Sort::State, _)));
    let searched = if of_state { NAMED } else { PREFIX_LEN };
    let (first, rest) = bytes.split_at(searched.min(bytes.len()));
    let of_rest = crc(rest);
    for place in 4..first.len() {
        let mut changed = first.to_vec();
        for difference in 1..=u8::MAX {
            if let (Some(byte), Some(was)) = (changed.get_mut(place), first.get(place)) {
                *byte = was ^ difference;
            }
            let covered = changed.get(4..).unwrap_or_default();
            if crc_before(covered, of_rest, rest.len()) == plain {
                changed.extend_from_slice(rest);
                return Some(changed);
            }
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::format::Era;
    use crate::format::record::{Append, encode};
    use crate::types::Kind;

    const AT: usize = 4096;
    const SALT: u64 = 77;

    fn sample() -> (FrameHeader, Vec<u8>, Vec<(usize, usize)>) {
        let payload = [9; 90];
        let append = Append {
            at: 7,
            kind: Kind::USER,
            weight: 1,
            flags: 0,
            expires: None,
            meta: b"m",
            payload: &payload,
        };
        let changes = [
            (0, Change::Append(append)),
            (1, Change::Append(append)),
            (1, Change::Set { key: "goal", value: b"refund" }),
            (0, Change::Forget),
            (0, Change::Append(append)),
        ];
        let (mut body, mut places) = (Vec::new(), Vec::new());
        for (agent, change) in &changes {
            let at = body.len();
            encode(&mut body, *agent, change);
            places.push((at, body.len()));
        }
        record::bind(&mut body, SALT, AT as u64).unwrap();
        let header = FrameHeader {
            lsn: 1,
            durable: 0,
            time: 0,
            header_len: 72,
            body_len: body.len(),
            digest: 0,
            records: 5,
            agents: 2,
            link: None,
            durability: 0,
            era: Era { incarnation: 1, history: 1 },
            unknown: false,
        };
        (header, body, places)
    }

    /// Whatever single bit is flipped: one record is lost, the others are whole, and what the lost
    /// one was for is known.
    #[test]
    fn a_flipped_bit_loses_the_record_that_it_hits_and_says_what_it_was() {
        let (header, body, places) = sample();
        let sorts = [Sort::Append, Sort::Append, Sort::State, Sort::Erasure, Sort::Append];
        for bit in 0..body.len() * 8 {
            let mut bad = body.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let hit = places.iter().position(|(_, end)| bit / 8 < *end).unwrap();
            let body = Body { bytes: &bad, offset: AT, salt: SALT };
            let found = pieces(&header, body, &mut 9);
            assert_eq!(found.len(), 5, "bit {bit}");
            for (number, piece) in found.iter().enumerate() {
                match piece {
                    Piece::Whole(placed) => {
                        assert!(number != hit, "bit {bit}");
                        assert_eq!(placed.offset, AT + places[number].0);
                    }
                    Piece::Lost(lost) => {
                        assert_eq!((number, lost.offset), (hit, AT + places[hit].0), "bit {bit}");
                        let agent = [0, 1, 1, 0, 0][hit];
                        assert_eq!(lost.was, Some((sorts[hit], agent)), "bit {bit}");
                        let key = (hit == 2).then_some("goal");
                        assert_eq!(lost.text.as_deref(), key, "bit {bit}");
                    }
                    Piece::Hole(_) => panic!("bit {bit}"),
                }
            }
        }
    }

    #[test]
    fn what_is_wiped_out_is_a_hole_and_the_rest_is_read() {
        let (header, body, places) = sample();
        let mut bad = body.clone();
        bad[places[1].0..places[2].1 - 4].fill(0);
        let found = pieces(&header, Body { bytes: &bad, offset: AT, salt: SALT }, &mut 9);
        let told: Vec<bool> = found.iter().map(|p| matches!(p, Piece::Whole(_))).collect();
        assert_eq!(told, [true, false, true, true]);
        assert!(matches!(found[1], Piece::Hole(at) if at == AT + places[1].0));
        let short = Body { bytes: &body[..places[2].1], offset: AT, salt: SALT };
        let found = pieces(&header, short, &mut 9);
        assert!(matches!(found[3], Piece::Hole(_)) && found.len() == 4);
        assert_eq!(pieces(&header, Body { bytes: &[], offset: AT, salt: SALT }, &mut 9).len(), 1);
    }
}

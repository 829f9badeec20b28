//! A frame: a batch on disk. The header names its agents and has a check of its own, so that a bad
//! length cannot mislead whoever scans, and a lost body still says whom it hit.

use super::check::{crc, mask};
use super::codec::pad;
use super::codec::{Cursor, put_at, u64_at};
use super::footer::MAX_NAME;
use super::head::Head;
use super::record;
use super::{ALIGN, Era, Fault, align, len32};

/// Bytes of a frame header before the agents.
pub(crate) const FRAME_LEN: usize = 72;
/// Bytes of a link: what the first frame of a segment says of the segment before it.
pub(crate) const LINK_LEN: usize = 16;
/// Bytes of an agent in a frame header before its name.
pub(crate) const AGENT_LEN: usize = 32;
/// The most that a whole frame may take: the encoded batch and its header.
pub(crate) const MAX_FRAME: usize = 64 << 20;

const LINKED: u32 = 1;
/// The durability that a batch waits for.
const DURABILITY: u32 = 0b110;

/// What a frame header says, without its agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) lsn: u64,
    /// Everything below this lsn was known to be on stable storage when the frame was written.
    pub(crate) durable: u64,
    /// The engine's now, in ms, when the batch was ordered.
    pub(crate) time: u64,
    pub(crate) header_len: usize,
    pub(crate) body_len: usize,
    pub(crate) digest: u32,
    pub(crate) records: u32,
    pub(crate) agents: u32,
    pub(crate) link: Option<Link>,
    /// What a batch waits for, by its number.
    pub(crate) durability: u8,
    /// When it was ordered.
    pub(crate) era: Era,
    /// The header is intact and says what this crate does not understand: it was written, and is no
    /// torn tail.
    pub(crate) unknown: bool,
}

impl FrameHeader {
    /// Bytes of the whole frame.
    pub(crate) fn len(&self) -> usize {
        self.header_len.saturating_add(self.body_len)
    }
}

/// The segment before, and where its frames end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) id: u64,
    /// The lsn at which the frames of that segment end.
    pub(crate) end: u64,
}

/// An agent as a frame header tells of it: as it was before the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameAgent<'a> {
    pub(crate) name: &'a str,
    pub(crate) head: Head,
}

/// A frame header in the making. The agents' heads and the position are filled in when the batch is
/// ordered, the rest when it is written.
#[derive(Debug, Default)]
pub(crate) struct HeaderBuilder {
    bytes: Vec<u8>,
    agents: u32,
}

impl HeaderBuilder {
    /// Starts a header in `bytes`, whose capacity is used again.
    pub(crate) fn start(mut bytes: Vec<u8>, link: Option<Link>) -> Self {
        bytes.clear();
        bytes.resize(FRAME_LEN, 0);
        if let Some(link) = link {
            bytes.extend_from_slice(&link.id.to_le_bytes());
            bytes.extend_from_slice(&link.end.to_le_bytes());
            let placed = put_at(&mut bytes, 56, &LINKED.to_le_bytes());
            debug_assert!(placed);
        }
        HeaderBuilder { bytes, agents: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds an agent; its head lies at the offset that is given back.
    pub(crate) fn add_agent(&mut self, name: &str) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 26]);
        self.bytes.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(name.as_bytes());
        pad(&mut self.bytes);
        self.agents += 1;
        at
    }

    /// Fills in the head of the agent added at `at`.
    pub(crate) fn set_head(&mut self, at: usize, head: &Head) {
        let placed = put_at(&mut self.bytes, at, &head.life.to_le_bytes())
            && put_at(&mut self.bytes, at + 8, &head.next.to_le_bytes())
            && put_at(&mut self.bytes, at + 16, &head.floor.to_le_bytes())
            && put_at(&mut self.bytes, at + 24, &head.flags.to_le_bytes());
        debug_assert!(placed);
    }

    /// Says what durability the batch waits for, by its number: 0 to 2.
    pub(crate) fn set_durability(&mut self, durability: u8) {
        let flags = self.bytes.get(56).copied().unwrap_or_default();
        debug_assert!(durability <= 2, "there are three durabilities");
        let placed = put_at(&mut self.bytes, 56, &[flags & 1 | durability << 1]);
        debug_assert!(placed);
    }

    /// The buffer, to be used again.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    /// The header's bytes, complete but for what [`seal`] fills in.
    pub(crate) fn complete(&mut self, body_len: usize, digest: u32, records: u32) -> &[u8] {
        let len = len32(self.bytes.len());
        let placed = put_at(&mut self.bytes, 4, &len.to_le_bytes())
            && put_at(&mut self.bytes, 40, &len32(body_len).to_le_bytes())
            && put_at(&mut self.bytes, 44, &digest.to_le_bytes())
            && put_at(&mut self.bytes, 48, &records.to_le_bytes())
            && put_at(&mut self.bytes, 52, &self.agents.to_le_bytes());
        debug_assert!(placed);
        &self.bytes
    }

    /// Like [`complete`](Self::complete), for one that is not used again.
    pub(crate) fn finish(mut self, body_len: usize, digest: u32, records: u32) -> Vec<u8> {
        self.complete(body_len, digest, records);
        self.bytes
    }
}

/// Where a frame will lie and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) salt: u64,
    /// Offset in the segment file.
    pub(crate) offset: u64,
    pub(crate) lsn: u64,
    pub(crate) durable: u64,
    pub(crate) time: u64,
    pub(crate) era: Era,
}

/// Completes a frame: binds header and body to their place.
pub(crate) fn seal(header: &mut [u8], body: &mut [u8], place: &Place) -> Result<(), Fault> {
    let body_offset = place.offset.saturating_add(header.len() as u64);
    record::bind(body, place.salt, body_offset)?;
    let placed = put_at(header, 8, &place.salt.to_le_bytes())
        && put_at(header, 16, &place.lsn.to_le_bytes())
        && put_at(header, 24, &place.durable.to_le_bytes())
        && put_at(header, 32, &place.time.to_le_bytes())
        && put_at(header, 60, &place.era.incarnation.to_le_bytes())
        && put_at(header, 64, &place.era.history.to_le_bytes());
    let covered = header.get(4..).ok_or(Fault("a frame header is cut short"))?;
    let check = crc(covered) ^ mask(place.salt, place.offset);
    if placed && put_at(header, 0, &check.to_le_bytes()) {
        Ok(())
    } else {
        Err(Fault("a frame header is cut short"))
    }
}

/// True if a frame header of the segment could begin here; cheap, for scanning.
pub(crate) fn might_begin(bytes: &[u8], salt: u64, lsn: u64) -> bool {
    u64_at(bytes, 8) == Some(salt) && u64_at(bytes, 16) == Some(lsn)
}

/// Reads and verifies the frame header at the start of `bytes`, which lies at `offset` of the
/// segment with `salt` and `base`.
pub(crate) fn decode_header(
    bytes: &[u8],
    salt: u64,
    base: u64,
    offset: u64,
) -> Result<FrameHeader, Fault> {
    let lsn = base.checked_add(offset).ok_or(Fault("an lsn overflows"))?;
    if !might_begin(bytes, salt, lsn) {
        return Err(Fault("no frame begins here"));
    }
    let mut cursor = Cursor::new(bytes);
    let check = cursor.u32()?;
    let header_len = cursor.length()?;
    if !(FRAME_LEN..=MAX_FRAME).contains(&header_len) || !header_len.is_multiple_of(ALIGN) {
        return Err(Fault("a frame header's length is wrong"));
    }
    let covered = bytes.get(4..header_len).ok_or(Fault("a frame header is cut short"))?;
    if crc(covered) ^ mask(salt, offset) != check {
        return Err(Fault("a frame header's checksum is wrong"));
    }
    let (_salt, lsn) = (cursor.u64()?, cursor.u64()?);
    let (durable, time) = (cursor.u64()?, cursor.u64()?);
    let (body_len, digest) = (cursor.length()?, cursor.u32()?);
    let (records, agents) = (cursor.u32()?, cursor.u32()?);
    let flags = cursor.u32()?;
    let era = Era { incarnation: cursor.u32()?, history: cursor.u64()? };
    let (durability, known) = match (flags & DURABILITY) >> 1 {
        0 => (0, true),
        1 => (1, true),
        2 => (2, true),
        _ => (0, false),
    };
    let unknown = !known || flags & !(LINKED | DURABILITY) != 0 || era.history == 0;
    let link = if flags & LINKED != 0 && !unknown {
        Some(Link { id: cursor.number()?, end: cursor.number()? })
    } else {
        None
    };
    if body_len > MAX_FRAME || !body_len.is_multiple_of(ALIGN) {
        return Err(Fault("a frame body's length is wrong"));
    }
    Ok(FrameHeader {
        lsn,
        durable,
        time,
        header_len,
        body_len,
        digest,
        records,
        agents,
        link,
        durability,
        era,
        unknown,
    })
}

/// An intact header says what is not understood.
const UNKNOWN: Fault = Fault("a frame says what this memlog does not understand");

/// The agents of a frame, in the order of their indices.
pub(crate) fn agents<'a>(
    frame: &FrameHeader,
    bytes: &'a [u8],
) -> Result<Vec<FrameAgent<'a>>, Fault> {
    if frame.unknown {
        return Err(UNKNOWN);
    }
    let start = FRAME_LEN + if frame.link.is_some() { LINK_LEN } else { 0 };
    let table = bytes.get(start..frame.header_len).ok_or(Fault("a frame header is cut short"))?;
    let mut cursor = Cursor::new(table);
    let mut out = Vec::with_capacity(table.len() / AGENT_LEN);
    for _ in 0..frame.agents {
        let head = Head {
            life: cursor.u64()?,
            next: cursor.u64()?,
            floor: cursor.u64()?,
            flags: cursor.u16()?,
        };
        let name_len = usize::from(cursor.u16()?);
        let _zero = cursor.u32()?;
        if name_len == 0 || name_len > MAX_NAME {
            return Err(Fault("a name in a frame is empty or too long"));
        }
        let name = cursor.bytes(name_len)?;
        cursor.bytes(align(name_len) - name_len)?;
        let name = std::str::from_utf8(name).map_err(|_| Fault("a name is not UTF-8"))?;
        head.check()?;
        out.push(FrameAgent { name, head });
    }
    if !cursor.rest().is_empty() {
        return Err(Fault("a frame header's table is too long"));
    }
    Ok(out)
}

/// Folds a record's plain check into the digest of a body.
pub(crate) fn fold(digest: u32, plain: u32) -> u32 {
    let both = u64::from(plain) << 32 | u64::from(digest);
    crc(&both.to_le_bytes())
}

/// Verifies a frame's body: every record, and that they are all of this frame.
/// `body_offset` is where the body lies in the segment.
pub(crate) fn verify_body(
    frame: &FrameHeader,
    body: &[u8],
    salt: u64,
    body_offset: u64,
) -> Result<(), Fault> {
    if body.len() != frame.body_len {
        return Err(Fault("a frame is cut short"));
    }
    let (mut at, mut records, mut digest) = (0, 0u32, 0);
    while at < body.len() {
        let len = record::padded_len(body, at)?;
        let bytes = body.get(at..at + len).ok_or(Fault("a record is cut short"))?;
        let plain = record::verify(bytes, salt, body_offset.saturating_add(at as u64))?;
        digest = fold(digest, plain);
        records = records.saturating_add(1);
        at += len;
    }
    if digest != frame.digest || records != frame.records {
        return Err(Fault("a frame's records are not its own"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::{Change, encode};

    fn sample() -> (Vec<u8>, Vec<u8>) {
        let mut builder = HeaderBuilder::start(Vec::new(), Some(Link { id: 4, end: 900 }));
        let at = builder.add_agent("acme/one");
        builder.set_head(at, &Head { life: 9, next: 12, floor: 3, flags: 1 });
        let mut body = Vec::new();
        let plain = encode(&mut body, 0, &Change::Redact { seq: 4 });
        builder.set_durability(2);
        let mut header = builder.finish(body.len(), fold(0, plain), 1);
        let era = Era { incarnation: 4, history: 1 << 50 };
        let place = Place { salt: 5, offset: 128, lsn: 1128, durable: 1000, time: 77, era };
        seal(&mut header, &mut body, &place).unwrap();
        (header, body)
    }

    #[test]
    fn a_frame_reads_back_and_every_flipped_bit_is_seen() {
        let (header, body) = sample();
        let bytes: Vec<u8> = [header.clone(), body].concat();
        let ok = |bytes: &[u8]| -> Result<(), Fault> {
            let frame = decode_header(bytes, 5, 1000, 128)?;
            agents(&frame, bytes)?;
            verify_body(&frame, &bytes[frame.header_len..], 5, 128 + frame.header_len as u64)
        };
        ok(&bytes).unwrap();
        let frame = decode_header(&bytes, 5, 1000, 128).unwrap();
        assert_eq!(frame.link, Some(Link { id: 4, end: 900 }));
        assert_eq!((frame.durable, frame.time, frame.len()), (1000, 77, bytes.len()));
        let era = Era { incarnation: 4, history: 1 << 50 };
        assert_eq!((frame.durability, frame.era), (2, era));
        assert_eq!(agents(&frame, &bytes).unwrap()[0].name, "acme/one");
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ok(&bad).is_err(), "bit {bit}");
        }
        assert!(decode_header(&bytes, 5, 996, 132).is_err(), "bound to its place");
    }

    #[test]
    fn records_that_are_whole_and_of_another_frame_are_refused() {
        let (header, body) = sample();
        let bytes = [header.clone(), body].concat();
        let frame = decode_header(&bytes, 5, 1000, 128).unwrap();
        let at = 128 + header.len() as u64;
        let of = |seqs: &[u64]| {
            let mut body = Vec::new();
            for seq in seqs {
                encode(&mut body, 0, &Change::Redact { seq: *seq });
            }
            record::bind(&mut body, 5, at).unwrap();
            let frame = FrameHeader { body_len: body.len(), ..frame };
            verify_body(&frame, &body, 5, at)
        };
        assert_eq!(of(&[4]), Ok(()));
        assert!(of(&[5]).is_err(), "another record");
        assert!(of(&[4, 4]).is_err(), "one record too many");
        assert!(of(&[]).is_err(), "none");
    }
}

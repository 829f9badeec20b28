//! The first 128 bytes of a segment file: what it is, and what binds everything in it together.

use super::check::{crc, mask};
use super::codec::{Cursor, put_at};
use super::{Era, Fault, LIMIT, VERSION, features};

/// Length of the header; the first frame follows at once.
pub(crate) const HEADER_LEN: usize = 128;

const MAGIC: &[u8; 8] = b"memlogSG";

/// How the data of a segment lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Frames in the order of their arrival.
    Log,
    /// Records clustered by agent.
    Run,
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) store: u128,
    pub(crate) id: u64,
    pub(crate) salt: u64,
    /// What is added to an offset in the file to get the lsn.
    pub(crate) base: u64,
    /// Length of the file, from its creation to its end.
    pub(crate) capacity: u64,
    pub(crate) layout: Layout,
    /// When it was made.
    pub(crate) era: Era,
    /// Features that a reader may ignore.
    pub(crate) compatible: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.store.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.capacity.to_le_bytes());
        let layout: u32 = match self.layout {
            Layout::Log => 1,
            Layout::Run => 2,
        };
        out.extend_from_slice(&layout.to_le_bytes());
        out.extend_from_slice(&self.era.incarnation.to_le_bytes());
        out.extend_from_slice(&self.era.history.to_le_bytes());
        out.extend_from_slice(&self.compatible.to_le_bytes());
        let mut bytes = [0; HEADER_LEN];
        let fits = put_at(&mut bytes, 0, &out);
        let check = crc(&bytes) ^ mask(self.salt, 0);
        let placed = put_at(&mut bytes, 12, &check.to_le_bytes());
        debug_assert!(fits && placed);
        bytes
    }

    /// Reads a header. A wrong version is told apart from damage.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let bytes = bytes
            .first_chunk::<HEADER_LEN>()
            .ok_or(HeaderFault::Damaged(Fault("the segment header is cut short")))?;
        let mut cursor = Cursor::new(bytes);
        if cursor.bytes(8)? != MAGIC {
            return Err(HeaderFault::Damaged(Fault("this is not a segment's header")));
        }
        let version = cursor.u32()?;
        let check = cursor.u32()?;
        let (low, high) = (cursor.u64()?, cursor.u64()?);
        let header = Header {
            store: u128::from(high) << 64 | u128::from(low),
            id: cursor.u64()?,
            salt: cursor.u64()?,
            base: cursor.u64()?,
            capacity: cursor.u64()?,
            layout: match cursor.u32()? {
                2 => Layout::Run,
                _ => Layout::Log,
            },
            era: Era { incarnation: cursor.u32()?, history: cursor.u64()? },
            compatible: cursor.u64()?,
        };
        let lacking = features::lacking(cursor.u64()?);
        let mut blank = *bytes;
        let placed = put_at(&mut blank, 12, &[0; 4]);
        debug_assert!(placed);
        if crc(&blank) ^ mask(header.salt, 0) != check {
            return Err(HeaderFault::Damaged(Fault("the segment header's checksum is wrong")));
        }
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        if lacking != 0 {
            return Err(HeaderFault::Features(lacking));
        }
        if header.era.history == 0 {
            return Err(HeaderFault::Damaged(Fault("the segment header names no history")));
        }
        if header.id > LIMIT || header.base.saturating_add(header.capacity) > LIMIT {
            return Err(HeaderFault::Damaged(Fault("the segment lies beyond all lsns")));
        }
        // An intact header of this version re-encodes to itself; anything else was never written.
        // What a feature that may be ignored put there is no concern of a reader.
        if header.compatible == 0 && header.encode() != *bytes {
            return Err(HeaderFault::Damaged(Fault("the segment header has unknown fields")));
        }
        Ok(header)
    }
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Damaged(Fault),
    Version(u32),
    /// It needs these features, which this crate does not read.
    Features(u64),
}

impl From<Fault> for HeaderFault {
    fn from(fault: Fault) -> Self {
        HeaderFault::Damaged(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_seen() {
        let header = Header {
            store: 7 << 80,
            id: 3,
            salt: 99,
            base: 1 << 40,
            capacity: 1 << 20,
            layout: Layout::Log,
            era: Era { incarnation: 6, history: 7 },
            compatible: 0,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
        let last = Header { base: LIMIT - header.capacity, id: LIMIT, ..header };
        assert_eq!(Header::decode(&last.encode()), Ok(last));
        for beyond in [Header { base: last.base + 1, ..last }, Header { id: LIMIT + 1, ..last }] {
            assert!(Header::decode(&beyond.encode()).is_err(), "{beyond:?}");
        }
    }
}

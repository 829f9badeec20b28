//! What a writing process tells outside of itself, as records of one size on a pipe.

use std::io::Read;

use memlog::Durability;

pub const LEN: usize = 32;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The store is open.
    Opened,
    /// A step of a lane reached its durability.
    Reached,
    /// A backup, whose number is the step, holds all up to the lsn.
    BackedUp,
    /// So many bytes were compacted so far, which is in place of the lsn.
    Compacted,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub what: What,
    pub lane: u64,
    pub step: u64,
    pub durability: Durability,
    pub lsn: u64,
    /// How much the medium had logged by then.
    pub stamp: u64,
    /// When it was told, by the monotonic clock.
    pub at: u64,
}

impl Ack {
    pub fn of(what: What, step: u64, lsn: u64) -> Ack {
        Ack { what, lane: 0, step, durability: Durability::Sync, lsn, stamp: 0, at: 0 }
    }

    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[0] = match self.what {
            What::Opened => 1,
            What::Reached => 2,
            What::BackedUp => 3,
            What::Compacted => 4,
        };
        out[1] = self.lane as u8;
        out[2] = match self.durability {
            Durability::Buffer => 0,
            Durability::Write => 1,
            _ => 2,
        };
        out[4..8].copy_from_slice(&(self.step as u32).to_le_bytes());
        out[8..16].copy_from_slice(&self.lsn.to_le_bytes());
        out[16..24].copy_from_slice(&self.stamp.to_le_bytes());
        out[24..32].copy_from_slice(&self.at.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; LEN]) -> Option<Ack> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let durabilities = [Durability::Buffer, Durability::Write, Durability::Sync];
        Some(Ack {
            what: match bytes[0] {
                1 => What::Opened,
                2 => What::Reached,
                3 => What::BackedUp,
                4 => What::Compacted,
                _ => return None,
            },
            lane: bytes[1].into(),
            durability: *durabilities.get(usize::from(bytes[2]))?,
            step: u32::from_le_bytes(bytes[4..8].try_into().unwrap()).into(),
            lsn: number(8),
            stamp: number(16),
            at: number(24),
        })
    }
}

/// Reads records until the other side is gone; a record cut short was not told.
pub fn read_all(mut pipe: impl Read, mut each: impl FnMut(Ack)) {
    let mut record = [0; LEN];
    while pipe.read_exact(&mut record).is_ok() {
        match Ack::decode(&record) {
            Some(ack) => each(ack),
            None => panic!("the writer told nonsense: {record:?}"),
        }
    }
}

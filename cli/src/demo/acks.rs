//! Acknowledgements on their way from the writer to the demo: 16 bytes each.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One acknowledged batch. Written at once, and so short that a pipe takes it whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) agent: u32,
    /// The seq of the batch's last entry, and how many entries it holds.
    pub(crate) seq: u32,
    pub(crate) entries: u16,
    /// How long the append took, in ns (up to 78 hours).
    pub(crate) nanos: u64,
}

pub(crate) const SIZE: usize = 16;

impl Ack {
    pub(crate) fn encode(self) -> [u8; SIZE] {
        let (a, s, e) =
            (self.agent.to_le_bytes(), self.seq.to_le_bytes(), self.entries.to_le_bytes());
        let n = self.nanos.min((1 << 48) - 1).to_le_bytes();
        let [n0, n1, n2, n3, n4, n5, ..] = n;
        let ([a0, a1, a2, a3], [s0, s1, s2, s3], [e0, e1]) = (a, s, e);
        [a0, a1, a2, a3, s0, s1, s2, s3, e0, e1, n0, n1, n2, n3, n4, n5]
    }

    fn decode(bytes: [u8; SIZE]) -> Ack {
        let [a0, a1, a2, a3, s0, s1, s2, s3, e0, e1, n0, n1, n2, n3, n4, n5] = bytes;
        Ack {
            agent: u32::from_le_bytes([a0, a1, a2, a3]),
            seq: u32::from_le_bytes([s0, s1, s2, s3]),
            entries: u16::from_le_bytes([e0, e1]),
            nanos: u64::from_le_bytes([n0, n1, n2, n3, n4, n5, 0, 0]),
        }
    }
}

/// How far the writer is, while it runs.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) entries: AtomicU64,
}

/// Everything that was acknowledged.
#[derive(Default)]
pub(crate) struct Acks {
    /// The highest acknowledged seq of each agent.
    pub(crate) last: HashMap<u32, u32>,
    pub(crate) entries: u64,
    /// One for each batch.
    pub(crate) latencies: Vec<Duration>,
}

/// Reads until the writer is gone and the pipe is empty.
pub(crate) fn read(mut pipe: impl Read, progress: &Progress) -> io::Result<Acks> {
    let mut acks = Acks::default();
    let mut buffer = vec![0; 64 << 10];
    let mut held = 0;
    while let Some(room) = buffer.get_mut(held..) {
        let read = match pipe.read(room) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        held += read;
        let (whole, rest) = buffer.get(..held).unwrap_or_default().as_chunks::<SIZE>();
        for chunk in whole {
            let ack = Ack::decode(*chunk);
            let last = acks.last.entry(ack.agent).or_default();
            *last = ack.seq.max(*last);
            acks.entries += u64::from(ack.entries);
            acks.latencies.push(Duration::from_nanos(ack.nanos));
        }
        let rest = rest.len();
        buffer.copy_within(held - rest..held, 0);
        held = rest;
        progress.entries.store(acks.entries, Ordering::Relaxed);
    }
    Ok(acks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_come_back() {
        let acks = [
            Ack { agent: 7, seq: 3, entries: 2, nanos: 123_456_789 },
            Ack { agent: u32::MAX, seq: u32::MAX, entries: u16::MAX, nanos: (1 << 48) - 1 },
        ];
        let bytes: Vec<u8> = acks.iter().flat_map(|ack| ack.encode()).collect();
        let (whole, []) = bytes.as_chunks::<SIZE>() else { panic!("torn") };
        let back: Vec<Ack> = whole.iter().map(|chunk| Ack::decode(*chunk)).collect();
        assert_eq!(back, acks);
        // A reader that hands out 5 bytes at a time.
        let progress = Progress::default();
        let slow = bytes.chunks(5).fold(Box::new(io::empty()) as Box<dyn Read>, |before, part| {
            Box::new(before.chain(part))
        });
        let read = read(slow, &progress).unwrap();
        assert_eq!(read.last.get(&7), Some(&3));
        assert_eq!((read.latencies.len(), read.entries), (2, 65_537));
    }
}

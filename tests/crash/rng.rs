//! The dice of the crash tests: SplitMix64.

#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// Dice of their own for a part of a case.
    pub fn of(parts: &[u64]) -> Rng {
        let mut rng = Rng(0x6d65_6d6c_6f67);
        for part in parts {
            rng.0 ^= *part;
            rng.0 = rng.next();
        }
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// What is before the number in bytes that follow from it, and how often.
pub const MARK: u64 = u64::from_le_bytes(*b"\xee<mark>\xef");
pub const MARK_EACH: usize = 64;

/// Bytes that follow from a number, so that a payload need not be remembered. Any hundred of them
/// tell the number.
pub fn bytes(id: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(id);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        if out.len() % MARK_EACH == 0 {
            out.extend_from_slice(&MARK.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out.extend_from_slice(&rng.next().to_le_bytes());
    }
    out.truncate(len);
    out
}

//! Numbers and bytes that a seed gives again.

/// SplitMix64.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    /// A stream of its own for each list of numbers.
    pub fn of(parts: &[u64]) -> Rng {
        let mut rng = Rng(0x6d65_6d6c_6f67);
        for part in parts {
            rng.0 = rng.next() ^ part.wrapping_mul(0xff51_afd7_ed55_8ccd);
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

    /// Below `bound`, or 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// Bytes that tell what they are: their number first, then what it alone gives.
pub fn fill(id: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 8);
    out.extend_from_slice(&id.to_le_bytes());
    let mut rng = Rng(id);
    while out.len() < len {
        out.extend_from_slice(&rng.next().to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Whether bytes are what their own number gives.
pub fn is_filled(bytes: &[u8]) -> bool {
    let Some((id, _)) = bytes.split_first_chunk() else { return true };
    fill(u64::from_le_bytes(*id), bytes.len()) == bytes
}

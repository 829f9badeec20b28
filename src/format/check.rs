//! Checksums: CRC-32 (IEEE), bound to the place where the bytes lie.
//!
//! A stored check is `crc32(bytes) ^ mask(salt, position)`. Bytes that are intact but lie in the
//! wrong place (a misdirected write, a segment of another store, a recycled block) therefore fail,
//! although the checksum of the bytes could be computed before their place was known.

use std::sync::LazyLock;

use crc32fast::Hasher;

/// What a checksum begins with. To find out what the processor can do takes longer than the
/// checksum of a small record.
static BEGUN: LazyLock<Hasher> = LazyLock::new(Hasher::new);

/// CRC-32 (IEEE 802.3) of `bytes`.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    let mut hasher = BEGUN.clone();
    hasher.update(bytes);
    hasher.finalize()
}

/// CRC-32 of two byte strings, one after the other.
pub(crate) fn crc_of_two(first: &[u8], second: &[u8]) -> u32 {
    let mut hasher = BEGUN.clone();
    hasher.update(first);
    hasher.update(second);
    hasher.finalize()
}

/// CRC-32 of bytes that are followed by `rest` more with this checksum of their own.
pub(crate) fn crc_before(first: &[u8], crc_of_rest: u32, rest: usize) -> u32 {
    let mut hasher = BEGUN.clone();
    hasher.update(first);
    hasher.combine(&Hasher::new_with_initial_len(crc_of_rest, rest as u64));
    hasher.finalize()
}

/// What binds a check to a segment (by its salt) and a position in it (bytes from its start).
///
/// The finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014), folded to 32 bits.
pub(crate) const fn mask(salt: u64, position: u64) -> u32 {
    let mut x = salt ^ position.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    #[expect(clippy::cast_possible_truncation, reason = "folding 64 bits to 32 is the point")]
    let folded = (x ^ (x >> 32)) as u32;
    folded
}

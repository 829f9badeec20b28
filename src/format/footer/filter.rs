//! The filter: which names a segment certainly does not hold.
//!
//! A split-block Bloom filter as in Apache Parquet and Impala: a name sets one bit in each of the
//! eight words of one block of 32 bytes, so that a look-up reads one line of the cache. With 16
//! bits a name about one absent name in a thousand passes.

use super::super::PAGE;
use super::super::codec::u32_at;

const WORD: usize = 4;
const BLOCK: usize = 8 * WORD;
const HEADER: usize = 32;
const BLOCKS: usize = (PAGE - HEADER) / BLOCK;
/// At 16 bits each.
const NAMES: usize = BLOCKS * BLOCK / 2;

/// The published constants: odd multipliers, one a word.
const SALT: [u32; 8] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// The pages that this many names take.
pub(super) const fn pages(names: u64) -> u64 {
    let pages = names.div_ceil(NAMES as u64);
    if pages == 0 { 1 } else { pages }
}

/// Where the bits of a name are.
pub(super) struct Place {
    pub(super) page: u64,
    block: u64,
    hash: u64,
}

/// The place of a name by its hash, in a filter of that many pages.
pub(super) fn place(hash: u64, pages: u32) -> Place {
    // Below 2^32 * 2^39: it saturates only for more pages than a file can have.
    let blocks = u64::from(pages).saturating_mul(BLOCKS as u64);
    let block = (hash >> 32).saturating_mul(blocks) >> 32;
    Place { page: block / BLOCKS as u64, block: block % BLOCKS as u64, hash }
}

impl Place {
    /// The block, by its offset in the page.
    fn start(&self) -> usize {
        HEADER + BLOCK * usize::try_from(self.block).unwrap_or(BLOCKS)
    }

    fn bits(&self) -> impl Iterator<Item = u32> {
        #[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
        let low = self.hash as u32;
        SALT.into_iter().map(move |salt| 1 << (low.wrapping_mul(salt) >> 27))
    }

    /// Sets the bits in their page.
    pub(super) fn insert(&self, page: &mut [u8]) {
        let start = self.start();
        let Some(block) = page.get_mut(start..start + BLOCK) else { return };
        for (word, bit) in block.chunks_exact_mut(WORD).zip(self.bits()) {
            for (byte, more) in word.iter_mut().zip(bit.to_le_bytes()) {
                *byte |= more;
            }
        }
    }

    /// Whether all the bits are set in their page.
    pub(super) fn is_in(&self, page: &[u8]) -> bool {
        let start = self.start();
        let Some(block) = page.get(start..start + BLOCK) else { return true };
        let mut words = block.chunks_exact(WORD).zip(self.bits());
        words.all(|(word, bit)| u32_at(word, 0).is_some_and(|word| word & bit != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(i: u64) -> u64 {
        let x = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    #[test]
    fn no_name_is_denied_and_few_strangers_pass() {
        let names = 3 * NAMES as u64;
        let count = u32::try_from(pages(names)).unwrap();
        assert_eq!((count, pages(names + 1), pages(0)), (3, 4, 1));
        let mut filter = vec![0; 3 * PAGE];
        let page_of = |place: &Place| usize::try_from(place.page).unwrap() * PAGE;
        for i in 0..names {
            let place = place(hash(i), count);
            let page = page_of(&place);
            place.insert(&mut filter[page..page + PAGE]);
        }
        let contains = |i| {
            let place = place(hash(i), count);
            place.is_in(&filter[page_of(&place)..][..PAGE])
        };
        assert!((0..names).all(contains));
        let passed = (names..names + 100_000).filter(|&i| contains(i)).count();
        assert!(passed < 200, "{passed} of 100,000 absent names passed");
    }
}

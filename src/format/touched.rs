//! Which pieces of immutable bytes have had their check verified since they were opened.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of a chunk: 4096 granules in 512 bytes, made when the first of them is touched.
const WORDS: usize = 64;
const WORD_BITS: usize = 64;

type Chunk = [AtomicU64; WORDS];

/// A bitmap of the granules of a byte string, one bit each.
///
/// A structure stands for itself by the granule that it *starts* in, so no two structures may
/// start in the same one: the granule is at most the smallest distance between two starts.
///
/// The bits publish nothing but themselves: the bytes that they speak of never change, and two
/// threads that both verify do the same work twice. Hence relaxed atomics.
pub(crate) struct Touched {
    chunks: Box<[OnceLock<Box<Chunk>>]>,
    shift: u32,
    always: bool,
}

impl Touched {
    /// Nothing of `len` bytes has been touched. `granule` is a power of two (another number is
    /// rounded down to one).
    pub(crate) fn new(len: usize, granule: usize) -> Self {
        let shift = granule.max(1).ilog2();
        let chunks = (len >> shift).div_ceil(WORDS * WORD_BITS).max(1);
        Touched { chunks: (0..chunks).map(|_| OnceLock::new()).collect(), shift, always: false }
    }

    /// With `true`, forgets every touch: each read verifies.
    #[must_use]
    pub(crate) fn always(mut self, always: bool) -> Self {
        self.always = always;
        self
    }

    /// Whether what starts at byte `at` has been verified before.
    pub(crate) fn test(&self, at: usize) -> bool {
        let (chunk, word, bit) = self.place(at);
        let found = self.chunks.get(chunk).and_then(OnceLock::get).and_then(|c| c.get(word));
        found.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Notes that what starts at byte `at` has been verified. Beyond the end it does nothing.
    pub(crate) fn set(&self, at: usize) {
        if self.always {
            return;
        }
        let (chunk, word, bit) = self.place(at);
        let Some(chunk) = self.chunks.get(chunk) else { return };
        let chunk = chunk.get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS]));
        if let Some(word) = chunk.get(word) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Runs `verify` unless it has succeeded for what starts at byte `at` before.
    pub(crate) fn first<E>(
        &self,
        at: usize,
        verify: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.test(at) {
            verify()?;
            self.set(at);
        }
        Ok(())
    }

    /// How many pieces have been verified.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u32 {
        let words = self.chunks.iter().filter_map(OnceLock::get).flat_map(|chunk| chunk.iter());
        words.map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }

    fn place(&self, at: usize) -> (usize, usize, u64) {
        let granule = at >> self.shift;
        let word = granule / WORD_BITS;
        (word / WORDS, word % WORDS, 1 << (granule % WORD_BITS))
    }
}

impl fmt::Debug for Touched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunks = self.chunks.iter().filter(|chunk| chunk.get().is_some()).count();
        f.debug_struct("Touched").field("chunks", &chunks).field("always", &self.always).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_granule_has_a_bit_of_its_own() {
        let touched = Touched::new(1 << 20, 64);
        let starts = [0, 64, 4096, 262_080, 262_144, (1 << 20) - 64];
        for (done, &start) in starts.iter().enumerate() {
            for (i, &other) in starts.iter().enumerate() {
                assert_eq!(touched.test(other), i < done);
            }
            touched.set(start);
        }
        assert!(!touched.test(128));
        assert!(touched.test(63), "the same granule");
    }

    #[test]
    fn beyond_the_end_nothing_is_ever_verified() {
        let touched = Touched::new(0, 32);
        touched.set(usize::MAX);
        assert!(!touched.test(usize::MAX));
    }

    #[test]
    fn verification_runs_until_it_succeeds_once_or_always() {
        for (always, runs_wanted) in [(false, 2), (true, 4)] {
            let touched = Touched::new(100, 32).always(always);
            let mut runs = 0;
            for result in [Err("damaged"), Ok(()), Ok(()), Ok(())] {
                let verify = || {
                    runs += 1;
                    result
                };
                assert_eq!(touched.first(64, verify).is_err(), result.is_err());
            }
            assert_eq!(runs, runs_wanted);
        }
    }
}

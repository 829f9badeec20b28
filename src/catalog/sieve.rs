//! Which of up to 64 log segments may hold a name, told by one look-up in memory.
//!
//! A sieve is a bit-sliced Bloom filter: filters of one size, stored by the position of a bit instead
//! of by segment. A row holds one bit of the filter of each segment. A look-up combines eight rows, and
//! each bit that is left stands for a segment that may hold the name. As in the filter of a footer,
//! all bits of a name lie in one block, so that the rows of a look-up lie within 2 KiB.
//!
//! The filters of segments with about as many agents have the same size, which is their *class*: a
//! power of two, with 12.8 to 25.6 bits an agent. A sieve has room for 8, 16, 32 or 64 segments, and
//! one with room for more than 8 holds more than half as many. So sieves take about 2.3 bytes, and at
//! most 6.4, for each agent of each log segment, and for each class up to 16 segments' filters more.

/// Names that share a block, at most: one absent name in 250 then passes a full filter, and one in
/// 700 on average.
const NAMES: u64 = 20;
/// The words of a block, each with one bit of a name, and the bits of a word.
const WORDS: usize = 8;
const WORD_BITS: usize = 32;
const ROWS: usize = WORDS * WORD_BITS;
/// Blocks that are allocated together: at most 32 KiB, which an allocator takes back without tidying
/// up.
const PIECE: usize = 16;
/// Segments in a sieve, at least as far as memory goes, and at most.
const LEAST: u32 = 8;
const MOST: u32 = 64;

/// Filters of the names of several segments.
pub(crate) struct Sieve {
    /// The ids of the segments, one a column.
    columns: Vec<u64>,
    /// A filter has 2 to the power of this many blocks.
    class: u32,
    /// Bytes of a row: 1, 2, 4 or 8.
    width: usize,
    pieces: Vec<Box<[u8]>>,
}

/// Columns of a sieve, one a bit.
pub(crate) type Columns = u64;

impl Sieve {
    /// An empty sieve for one segment with this many agents.
    pub(crate) fn new(segment: u64, agents: u64) -> Self {
        let class = agents.div_ceil(NAMES).max(1).next_power_of_two().ilog2();
        Self::empty(vec![segment], class)
    }

    fn empty(columns: Vec<u64>, class: u32) -> Self {
        let width = width_for(columns.len());
        let blocks = 1_usize << class.min(usize::BITS - 2);
        let piece = blocks.min(PIECE);
        let pieces = (0..blocks / piece).map(|_| vec![0; piece * ROWS * width].into_boxed_slice());
        Sieve { columns, class, width, pieces: pieces.collect() }
    }

    /// The ids of the segments, in the order of the columns.
    pub(crate) fn columns(&self) -> &[u64] {
        &self.columns
    }

    /// Adds a name, by its hash, to the only column.
    pub(crate) fn insert(&mut self, hash: u64) {
        debug_assert_eq!(self.columns.len(), 1, "a sieve of several segments takes no names");
        let width = self.width;
        let (piece, rows) = self.place(hash);
        let Some(piece) = self.pieces.get_mut(piece) else { return };
        for row in rows {
            if let Some(byte) = piece.get_mut(row * width) {
                *byte |= 1;
            }
        }
    }

    /// The columns of the segments that may hold the name with this hash.
    pub(crate) fn columns_of(&self, hash: u64) -> Columns {
        let (piece, rows) = self.place(hash);
        // A piece that is not there would hide segments: then all of them may hold the name.
        let Some(piece) = self.pieces.get(piece) else { return Columns::MAX };
        rows.into_iter().fold(Columns::MAX, |all, row| all & read(piece, row, self.width))
    }

    /// The piece with a name's block, and the rows of its bits in that piece.
    fn place(&self, hash: u64) -> (usize, [usize; WORDS]) {
        // The hash is even: its high bits choose the block, five of its low bits each a row.
        let block = usize::try_from((hash >> 32) << self.class >> 32).unwrap_or(0);
        let first = (block % PIECE) * ROWS;
        let mut word = 0;
        let rows = [(); WORDS].map(|()| {
            let bit = usize::try_from(hash >> (5 * word) & 31).unwrap_or(0);
            let row = first + word * WORD_BITS + bit;
            word += 1;
            row
        });
        (block / PIECE, rows)
    }

    /// The columns given of sieves of one class, in one sieve.
    pub(crate) fn join(parts: &[(&Sieve, Columns)]) -> Self {
        let ids = parts.iter().flat_map(|(sieve, live)| {
            let columns = sieve.columns.iter().enumerate();
            columns.filter(move |(at, _)| live >> at & 1 == 1).map(|(_, id)| *id)
        });
        let class = parts.first().map_or(0, |(sieve, _)| sieve.class);
        debug_assert!(parts.iter().all(|(sieve, _)| sieve.class == class), "filters of two sizes");
        let mut joined = Self::empty(ids.collect(), class);
        debug_assert!(joined.columns.len() <= MOST as usize, "more segments than a row has bits");
        let width = joined.width;
        for (number, piece) in joined.pieces.iter_mut().enumerate() {
            let mut shift = 0;
            for (sieve, live) in parts {
                let Some(from) = sieve.pieces.get(number) else { continue };
                for (row, to) in piece.chunks_exact_mut(width).enumerate() {
                    let bits = compress(read(from, row, sieve.width), *live) << shift;
                    if bits != 0 {
                        let bytes = bits.to_le_bytes();
                        to.iter_mut().zip(bytes).for_each(|(byte, more)| *byte |= more);
                    }
                }
                shift += live.count_ones();
            }
        }
        joined
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum::<usize>() + self.columns.len() * 8
    }

    /// Which of these sieves, with the columns that are still of use, are to be joined next; `None`:
    /// none are. A sieve that is left alone would take too much memory.
    ///
    /// Of each class there are then at most two sieves of each width below 64, and of two of 64
    /// columns at most one half of either is free: with *n* segments of a class at most *n* / 32 + 7.
    pub(crate) fn to_join(sieves: &[(&Sieve, Columns)]) -> Option<Vec<usize>> {
        for (index, (sieve, live)) in sieves.iter().enumerate() {
            let wide = rank(live.count_ones());
            if width_for(sieve.columns.len()) * 8 > wide as usize {
                return Some(vec![index]);
            }
            let alike = |(_, (other, columns)): &(usize, &(&Sieve, Columns))| {
                other.class == sieve.class && rank(columns.count_ones()) == wide
            };
            let mut alike: Vec<usize> =
                sieves.iter().enumerate().filter(alike).map(|(at, _)| at).collect();
            alike.sort_by_key(|at| count(sieves, *at));
            let (Some(&first), Some(&second)) = (alike.first(), alike.get(1)) else { continue };
            let both = count(sieves, first) + count(sieves, second);
            if both <= wide || wide < MOST && (alike.len() > 2 || both > wide + wide / 4 * 3) {
                return Some(vec![first, second]);
            }
        }
        None
    }
}

fn count(sieves: &[(&Sieve, Columns)], at: usize) -> u32 {
    sieves.get(at).map_or(0, |(_, columns)| columns.count_ones())
}

/// The columns that a sieve of this many segments has room for.
fn rank(segments: u32) -> u32 {
    segments.next_power_of_two().clamp(LEAST, MOST)
}

/// Bytes of a row for this many segments.
fn width_for(segments: usize) -> usize {
    let segments = u32::try_from(segments).unwrap_or(MOST);
    (rank(segments) / 8) as usize
}

fn read(piece: &[u8], row: usize, width: usize) -> Columns {
    let bytes = piece.get(row * width..).unwrap_or_default();
    let read = match width {
        1 => bytes.first().map(|byte| Columns::from(*byte)),
        2 => bytes.first_chunk().map(|bytes| Columns::from(u16::from_le_bytes(*bytes))),
        4 => bytes.first_chunk().map(|bytes| Columns::from(u32::from_le_bytes(*bytes))),
        _ => bytes.first_chunk().map(|bytes| Columns::from_le_bytes(*bytes)),
    };
    // What is not there must not hide a segment.
    read.unwrap_or(Columns::MAX)
}

/// The bits of `row` that `mask` has, side by side.
fn compress(row: Columns, mask: Columns) -> Columns {
    if mask & mask.wrapping_add(1) == 0 {
        return row & mask;
    }
    let (mut out, mut left) = (0, mask);
    for at in 0..mask.count_ones() {
        out |= (row >> left.trailing_zeros() & 1) << at;
        left &= left.wrapping_sub(1);
    }
    out
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn hash(i: u64) -> u64 {
        let x = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// Names of segment `id`: a thousand that only it has.
    fn names(id: u64) -> impl Iterator<Item = u64> {
        (0..1000).map(move |i| hash(id * 1000 + i))
    }

    fn column(id: u64) -> Sieve {
        let mut sieve = Sieve::new(id, 1000);
        names(id).for_each(|hash| sieve.insert(hash));
        sieve
    }

    fn all(sieve: &Sieve) -> Columns {
        Columns::MAX >> (64 - sieve.columns.len())
    }

    /// The sieves after one segment more, as a set keeps them.
    fn settle(sieves: &mut Vec<(Sieve, Columns)>) {
        let refs = |sieves: &[(Sieve, Columns)]| {
            let refs: Vec<_> = sieves.iter().map(|(sieve, live)| (sieve, *live)).collect();
            Sieve::to_join(&refs)
        };
        while let Some(mut which) = refs(sieves) {
            let parts: Vec<_> = which.iter().map(|at| (&sieves[*at].0, sieves[*at].1)).collect();
            let joined = Sieve::join(&parts);
            which.sort_unstable();
            which.iter().rev().for_each(|at| drop(sieves.remove(*at)));
            let live = all(&joined);
            sieves.push((joined, live));
        }
    }

    fn holders(sieves: &[(Sieve, Columns)], hash: u64) -> Vec<u64> {
        let of = |(sieve, live): &(Sieve, Columns)| {
            let found = sieve.columns_of(hash) & live;
            let ids = sieve.columns.iter().enumerate();
            ids.filter(|(at, _)| found >> at & 1 == 1).map(|(_, id)| *id).collect::<Vec<_>>()
        };
        sieves.iter().flat_map(of).collect()
    }

    #[test]
    fn each_segment_is_found_by_its_names_and_few_others_are() {
        let mut sieves = Vec::new();
        let segments = if cfg!(miri) { 10 } else { 200 };
        for id in 0..segments {
            sieves.push((column(id), 1));
            settle(&mut sieves);
            let bytes: usize = sieves.iter().map(|(sieve, _)| sieve.bytes()).sum();
            // 2 KiB a segment, and two sieves for eight that may be nearly empty.
            assert!(bytes as u64 <= 2400 * (id + 16), "{bytes} bytes of {} segments", id + 1);
        }
        assert!(sieves.len() as u64 <= segments / 32 + 7, "{} sieves", sieves.len());
        let mut passed = 0;
        for id in 0..segments {
            for hash in names(id).step_by(50) {
                let found = holders(&sieves, hash);
                assert!(found.contains(&id), "segment {id} is lost");
                passed += found.len() - 1;
            }
        }
        // Twenty names of each segment, looked for in all the others.
        let probes = 20 * segments * (segments - 1);
        assert!((passed as u64) < probes / 250 + 10, "{passed} of {probes} pass");
    }

    #[test]
    fn columns_that_are_not_needed_any_more_make_room() {
        let mut sieves = Vec::new();
        let segments = if cfg!(miri) { 12 } else { 150 };
        for id in 0..segments {
            sieves.push((column(id), 1));
            settle(&mut sieves);
        }
        // The old ones go, in pieces, and others here and there.
        let stays = |id: u64| id >= segments * 2 / 3 && !id.is_multiple_of(7);
        for (sieve, live) in &mut sieves {
            for (at, id) in sieve.columns.iter().enumerate() {
                *live &= !(u64::from(!stays(*id)) << at);
            }
        }
        sieves.retain(|(_, live)| *live != 0);
        settle(&mut sieves);
        for (sieve, live) in &sieves {
            let held = live.count_ones();
            assert!(sieve.width <= 1 || held > u32::try_from(sieve.width).unwrap_or(0) * 4);
        }
        for id in (0..segments).filter(|id| stays(*id)) {
            assert!(names(id).step_by(9).all(|hash| holders(&sieves, hash).contains(&id)), "{id}");
        }
    }

    #[test]
    fn sieves_of_other_sizes_are_kept_apart() {
        let (small, large) = (Sieve::new(1, 3), Sieve::new(2, 100_000));
        assert_eq!((small.class, large.class), (0, 13));
        assert!(large.bytes() < 3 << 20, "{}", large.bytes());
        assert_eq!(Sieve::to_join(&[(&small, 1), (&large, 1)]), None);
        assert_eq!(Sieve::to_join(&[(&small, 1), (&large, 1), (&small, 1)]), Some(vec![0, 2]));
    }
}

//! The forgotten prefixes in memory.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use smallvec::SmallVec;

use crate::catalog::{Passed, hash_name};
use crate::format::manifest::Forgotten;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Forgotten prefixes, found by their hashes: what is forgotten over a name is found by one probe for
/// each `/` in it, however many prefixes there are.
pub(crate) struct Prefixes {
    /// Seeds the hash of names.
    seed: u64,
    lines: RwLock<HashMap<u64, Lines, BuildHasherDefault<Passed>>>,
    /// Counts the forgettings; 0 if there never was one.
    count: AtomicU64,
}

/// Prefixes with the same hash: nearly always one.
type Lines = SmallVec<[Line; 1]>;

struct Line {
    prefix: Box<str>,
    /// The lsns of its forgettings, ascending: the last one that is durable, and all later ones. Earlier
    /// ones add nothing to the last durable one.
    lsns: SmallVec<[u64; 2]>,
}

/// A forgotten prefix over a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    /// Its length in bytes.
    pub(crate) len: usize,
    /// The lsn of its last forgetting that is durable.
    pub(crate) lsn: u64,
}

impl Prefixes {
    pub(crate) fn new(seed: u64, forgotten: Vec<Forgotten>) -> Self {
        let prefixes =
            Prefixes { seed, lines: RwLock::new(HashMap::default()), count: AtomicU64::new(0) };
        forgotten.iter().for_each(|line| prefixes.add(&line.prefix, line.lsn, u64::MAX));
        prefixes
    }

    /// How many forgettings there were.
    #[inline]
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// How many prefixes there are.
    pub(crate) fn len(&self) -> usize {
        self.lines.read().len()
    }

    /// Adds a forgetting. Those of one prefix come in the order of their lsns; what lies below
    /// `durable` is on stable storage.
    pub(crate) fn add(&self, prefix: &str, lsn: u64, durable: u64) {
        let mut all = self.lines.write();
        let lines = all.entry(hash_name(self.seed, prefix)).or_default();
        let found = lines.iter_mut().position(|line| *line.prefix == *prefix);
        let line = match found.and_then(|at| lines.get_mut(at)) {
            Some(line) => line,
            None => {
                lines.push(Line { prefix: prefix.into(), lsns: SmallVec::new() });
                let Some(line) = lines.last_mut() else { return };
                line
            }
        };
        if line.lsns.last().is_some_and(|last| *last >= lsn) {
            // The manifest listed it already.
            return;
        }
        let said = line.lsns.iter().filter(|lsn| **lsn < durable).count().saturating_sub(1);
        line.lsns.drain(..said);
        line.lsns.push(lsn);
        drop(all);
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Drops the forgettings of a prefix up to one.
    pub(crate) fn drop_up_to(&self, over: &[Forgotten]) {
        let mut all = self.lines.write();
        for gone in over {
            let hash = hash_name(self.seed, &gone.prefix);
            let Some(lines) = all.get_mut(&hash) else { continue };
            for line in lines.iter_mut().filter(|line| *line.prefix == *gone.prefix) {
                line.lsns.retain(|lsn| *lsn > gone.lsn);
            }
            lines.retain(|line| !line.lsns.is_empty());
            if lines.is_empty() {
                all.remove(&hash);
            }
        }
    }

    /// The prefixes whose forgetting lies below `durable`, with its lsn, in the order of the lsns.
    pub(crate) fn below(&self, durable: u64) -> Vec<Forgotten> {
        let all = self.lines.read();
        let lines = all.values().flatten().filter_map(|line| {
            let lsn = *line.lsns.iter().rev().find(|lsn| **lsn < durable)?;
            Some(Forgotten { prefix: line.prefix.to_string(), lsn })
        });
        let mut lines: Vec<_> = lines.collect();
        lines.sort_unstable_by(|a, b| (a.lsn, &a.prefix).cmp(&(b.lsn, &b.prefix)));
        lines
    }

    /// The lsn of the first kept forgetting of a prefix over the name that is later than `life`.
    pub(crate) fn first_since(&self, name: &str, life: u64) -> Option<u64> {
        let mut first: Option<u64> = None;
        self.each_over(name, |_, lsns| {
            let since = lsns.iter().find(|lsn| **lsn > life).copied();
            first = first.into_iter().chain(since).min();
        });
        first
    }

    /// The lsn of the last forgetting of a prefix over the name.
    pub(crate) fn last(&self, name: &str) -> Option<u64> {
        let mut last = None;
        self.each_over(name, |_, lsns| last = last.max(lsns.last().copied()));
        last
    }

    /// The prefixes over the name whose forgetting is durable, the shortest first.
    pub(crate) fn over(&self, name: &str, durable: u64) -> SmallVec<[Over; 2]> {
        let mut over = SmallVec::new();
        self.each_over(name, |len, lsns| {
            let last = lsns.iter().rev().find(|lsn| **lsn < durable);
            over.extend(last.map(|lsn| Over { len, lsn: *lsn }));
        });
        over
    }

    /// Calls `each` with the length and the lsns of every forgotten prefix of the name.
    fn each_over(&self, name: &str, mut each: impl FnMut(usize, &[u64])) {
        if self.count() == 0 {
            return;
        }
        let all = self.lines.read();
        for (at, _) in name.match_indices('/') {
            let Some(prefix) = name.get(..=at) else { continue };
            let lines = all.get(&hash_name(self.seed, prefix)).into_iter().flatten();
            lines
                .filter(|line| *line.prefix == *prefix)
                .for_each(|line| each(prefix.len(), &line.lsns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forgotten(prefix: &str, lsn: u64) -> Forgotten {
        Forgotten { prefix: prefix.to_owned(), lsn }
    }

    #[test]
    fn of_a_prefix_the_last_durable_forgetting_and_those_behind_it_are_kept() {
        let prefixes = Prefixes::new(7, vec![forgotten("a/", 5)]);
        // What waits to be durable does not hide the one before it, however many wait.
        (10..200).for_each(|lsn| prefixes.add("a/", lsn, 8));
        assert_eq!(prefixes.below(8), [forgotten("a/", 5)]);
        assert_eq!(
            (prefixes.first_since("a/x", 4), prefixes.first_since("a/x", 5)),
            (Some(5), Some(10))
        );
        assert_eq!(prefixes.below(100), [forgotten("a/", 99)]);
        // Once they are durable, only the last of them is needed.
        prefixes.add("a/", 300, 250);
        assert_eq!(
            prefixes.lines.read().values().flatten().map(|l| l.lsns.len()).sum::<usize>(),
            2
        );
        assert_eq!(prefixes.first_since("a/x", 4), Some(199));
        assert_eq!(
            (prefixes.last("a/x"), prefixes.below(300)),
            (Some(300), vec![forgotten("a/", 199)])
        );
    }

    #[test]
    fn only_whole_prefixes_count_and_all_of_them() {
        let prefixes = Prefixes::new(7, Vec::new());
        assert_eq!(prefixes.last("a/b/c"), None);
        for (prefix, lsn) in [("a/", 10), ("a/b/", 20), ("b/", 30), ("a/bc/", 40)] {
            prefixes.add(prefix, lsn, 0);
        }
        assert_eq!(
            (prefixes.last("a/b/c"), prefixes.last("a/bc"), prefixes.last("a")),
            (Some(20), Some(10), None)
        );
        assert_eq!(prefixes.first_since("a/b/c", 10), Some(20));
        let over: Vec<Over> = prefixes.over("a/b/c", 15).to_vec();
        assert_eq!(over, [Over { len: 2, lsn: 10 }]);
        assert_eq!(prefixes.over("a/b/c", 21).len(), 2);
        prefixes.drop_up_to(&[forgotten("a/", 10), forgotten("b/", 29)]);
        assert_eq!((prefixes.last("a/x"), prefixes.last("b/x")), (None, Some(30)));
        assert_eq!(prefixes.below(u64::MAX).len(), 3);
    }
}

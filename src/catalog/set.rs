//! The sealed segments at one moment, and which of them may hold a name.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::catalog::runs::Runs;
use crate::catalog::sieve::{Columns, Sieve};
use crate::segment::Segment;

/// The sealed segments at one moment.
pub(crate) struct SegmentSet {
    /// Counts the sets.
    pub(crate) generation: u64,
    /// In the order of their lowest lsns. Segments that hold the same name do not overlap; runs of
    /// other names may begin before one that ends earlier.
    pub(crate) sealed: Vec<Arc<Segment>>,
    /// The log segments that no sieve knows: a look-up reads the filter of each.
    unsifted: Vec<Arc<Segment>>,
    sifted: Vec<Sifted>,
    runs: Arc<Runs>,
}

/// A sieve, and the segments of the set that it knows.
struct Sifted {
    sieve: Arc<Sieve>,
    /// By column; `None`: the set has the segment no more.
    segments: Vec<Option<Arc<Segment>>>,
    live: Columns,
}

/// A segment that may hold a name.
pub(crate) struct Candidate<'a> {
    pub(crate) segment: &'a Arc<Segment>,
    /// Its own filter is read before its directory.
    pub(crate) ask: bool,
}

impl Candidate<'_> {
    /// Whether its filter is read before anything else of it.
    pub(crate) fn asks_filter(&self) -> bool {
        self.ask && !self.segment.run
    }
}

/// Most names are in one log segment and a run of each age.
pub(crate) type Candidates<'a> = SmallVec<[Candidate<'a>; 4]>;

impl SegmentSet {
    /// A set whose log segments no sieve knows.
    pub(crate) fn new(generation: u64, sealed: Vec<Arc<Segment>>) -> Self {
        Self::with(generation, sealed, Vec::new(), None)
    }

    /// This set with other segments. Sieves and the index of runs are kept where they still hold.
    pub(crate) fn succeeded_by(&self, generation: u64, sealed: Vec<Arc<Segment>>) -> Self {
        let sieves = self.sifted.iter().map(|sifted| Arc::clone(&sifted.sieve)).collect();
        Self::with(generation, sealed, sieves, Some(&self.runs))
    }

    /// This set with other sieves.
    pub(crate) fn sifted_by(&self, sieves: Vec<Arc<Sieve>>) -> Self {
        Self::with(self.generation, self.sealed.clone(), sieves, Some(&self.runs))
    }

    fn with(
        generation: u64,
        sealed: Vec<Arc<Segment>>,
        sieves: Vec<Arc<Sieve>>,
        runs: Option<&Arc<Runs>>,
    ) -> Self {
        let logs = sealed.iter().filter(|segment| !segment.run);
        let mut logs: BTreeMap<u64, &Arc<Segment>> = logs.map(|log| (log.id, log)).collect();
        let mut sifted = Vec::new();
        for sieve in sieves {
            // One that a sieve before this one knows already is none of its segments.
            let segments = sieve.columns().iter().map(|id| logs.remove(id).cloned());
            let segments: Vec<_> = segments.collect();
            let bits = segments.iter().enumerate().filter(|(_, segment)| segment.is_some());
            let live = bits.fold(0, |live, (column, _)| live | 1 << column);
            if live != 0 {
                sifted.push(Sifted { sieve, segments, live });
            }
        }
        let unsifted = sealed.iter().filter(|segment| logs.contains_key(&segment.id)).cloned();
        let is_run = |segment: &&Arc<Segment>| segment.run;
        let runs = match runs {
            Some(runs) if runs.are(sealed.iter().filter(is_run)) => Arc::clone(runs),
            _ => Arc::new(Runs::new(sealed.iter().filter(is_run).cloned().collect())),
        };
        SegmentSet { generation, unsifted: unsifted.collect(), sealed, sifted, runs }
    }

    /// The log segments that no sieve knows, oldest first.
    pub(crate) fn unsifted(&self) -> &[Arc<Segment>] {
        &self.unsifted
    }

    /// The sieves, and which of their columns are segments of the set.
    pub(crate) fn sieves(&self) -> impl Iterator<Item = (&Arc<Sieve>, Columns)> {
        self.sifted.iter().map(|sifted| (&sifted.sieve, sifted.live))
    }

    /// The segments that may hold this name, newest first.
    ///
    /// Takes eight reads of memory for each sieve, of which there are at most *n* / 32 + 7 a class for *n*
    /// log segments; one binary search for each layer of runs; and one step for each log segment that
    /// no sieve knows yet.
    pub(crate) fn candidates(&self, name: &str, hash: u64) -> Candidates<'_> {
        let mut found: Candidates<'_> = self.logs_with(hash).collect();
        found.extend(self.runs.covering(name).map(|segment| Candidate { segment, ask: true }));
        found.sort_unstable_by_key(|one| std::cmp::Reverse(age(one.segment)));
        found
    }

    /// The log segments that may hold the name with this hash, in no order.
    pub(crate) fn logs_with(&self, hash: u64) -> impl Iterator<Item = Candidate<'_>> {
        let unknown = self.unsifted.iter().map(|segment| Candidate { segment, ask: true });
        let known = self.sifted.iter().flat_map(move |Sifted { sieve, segments, live }| {
            let mut columns = sieve.columns_of(hash) & live;
            std::iter::from_fn(move || {
                let column = (columns != 0).then(|| columns.trailing_zeros() as usize)?;
                columns &= columns - 1;
                Some(segments.get(column).and_then(Option::as_ref))
            })
        });
        unknown.chain(known.flatten().map(|segment| Candidate { segment, ask: false }))
    }

    /// How many layers of runs there are.
    #[cfg(test)]
    pub(crate) fn depth(&self) -> usize {
        self.runs.depth()
    }

    /// The segments that may hold names which begin with `prefix`, newest first: all log segments,
    /// and the runs that cover any such name.
    pub(crate) fn under(&self, prefix: &str) -> Vec<&Arc<Segment>> {
        let logs = self.sealed.iter().filter(|segment| !segment.run);
        let mut found: Vec<_> = logs.chain(self.runs.under(prefix)).collect();
        found.sort_unstable_by_key(|segment| std::cmp::Reverse(age(segment)));
        found
    }
}

/// What segments are ordered by: of those that hold the same name that is the order of their ages.
pub(crate) fn age(segment: &Segment) -> (u64, u64) {
    (segment.lowest_lsn(), segment.id)
}

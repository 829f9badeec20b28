//! Where the runs of a job may be cut, besides where they are full: at the bounds of runs that
//! theirs are to be merged with later. Tiers whose bounds coincide are merged a slice at a time;
//! where bounds cross, everything between them has to go into one job.

use std::collections::BTreeSet;
use std::ops::Bound;

/// A run that is no input: its generation and its names.
pub(crate) type Other = (u64, Box<str>, Option<Box<str>>);

/// The names at which a job may cut its runs.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    bounds: BTreeSet<Box<str>>,
}

impl Cuts {
    /// All bounds of other runs.
    pub(crate) fn all(others: &[Other]) -> Self {
        let from = others.iter().map(|(_, from, _)| from.clone());
        let to = others.iter().filter_map(|(_, _, to)| to.clone());
        Cuts { bounds: from.chain(to).collect() }
    }

    /// The bounds that no run of the nearest generation crosses: of the same one, since its tiers
    /// are merged next, for want of any of the next one above, and for want of those below.
    pub(crate) fn clean(others: &[Other], generation: u64) -> Self {
        let above = others.iter().map(|(of, ..)| *of).filter(|of| *of >= generation);
        let nearest = above.min().or_else(|| others.iter().map(|(of, ..)| *of).max());
        let mut same: Vec<(&str, Option<&str>)> = others
            .iter()
            .filter(|(of, ..)| Some(*of) == nearest)
            .map(|(_, from, to)| (&**from, to.as_deref()))
            .collect();
        same.sort_unstable();
        let bounds: BTreeSet<&str> =
            same.iter().flat_map(|(from, to)| [Some(*from), *to]).flatten().collect();
        // The furthest end of the runs that begin below the bound.
        let (mut runs, mut reach) = (same.iter().peekable(), Some(""));
        let is_clean = |bound: &&str| {
            while let Some((_, to)) = runs.next_if(|(from, _)| from < bound) {
                reach = reach.zip(*to).map(|(reach, to)| reach.max(to));
            }
            reach.is_some_and(|reach| reach <= *bound)
        };
        Cuts { bounds: bounds.into_iter().filter(is_clean).map(Box::from).collect() }
    }

    /// The bounds behind a name.
    pub(crate) fn above<'b>(&'b self, name: &str) -> impl Iterator<Item = &'b Box<str>> + use<'b> {
        self.bounds.range::<str, _>((Bound::Excluded(name), Bound::Unbounded))
    }

    /// The bounds behind a name, up to another and itself included.
    pub(crate) fn within<'b>(
        &'b self,
        name: &str,
        to: &str,
    ) -> impl DoubleEndedIterator<Item = &'b Box<str>> + use<'b> {
        let range = (Bound::Excluded(name), Bound::Included(to.max(name)));
        // A range that excludes where it ends is empty.
        let range = (name < to).then(|| self.bounds.range::<str, _>(range));
        range.into_iter().flatten()
    }
}

/// Whether a run is to end at a bound: once it is long enough, and in any case if it began between
/// two bounds, where the run before it was full, so that it crosses none.
pub(crate) fn ends_at_bound(bytes: u64, cut_from: u64, began_between: bool) -> bool {
    began_between || bytes >= cut_from
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(others: &[(u64, &str, &str)], generation: u64) -> Vec<String> {
        let some = |to: &str| (!to.is_empty()).then(|| to.into());
        let others: Vec<Other> =
            others.iter().map(|(of, from, to)| (*of, (*from).into(), some(to))).collect();
        let cuts = Cuts::clean(&others, generation);
        cuts.bounds.iter().map(|bound| bound.to_string()).collect()
    }

    #[test]
    fn runs_are_cut_where_their_own_generation_is_cut_and_crosses_nothing() {
        let tiers = [(1, "", "m"), (1, "m", ""), (2, "", "c"), (2, "c", "x"), (2, "x", "")];
        assert_eq!(clean(&tiers, 1), ["", "m"]);
        assert_eq!(clean(&tiers, 2), ["", "c", "x"]);
        // For want of a generation at or above: the nearest one below.
        assert_eq!(clean(&tiers, 3), ["", "c", "x"]);
        assert!(clean(&[], 1).is_empty());
        // The fourth crosses what the first two share.
        let crossed = [(1, "", "f"), (1, "f", "m"), (1, "m", ""), (1, "c", "g"), (3, "d", "e")];
        assert_eq!(clean(&crossed, 1), ["", "m"]);
        assert_eq!(clean(&crossed, 2), ["d", "e"]);
    }

    #[test]
    fn a_run_that_began_where_another_was_full_ends_at_the_next_bound() {
        assert!(!ends_at_bound(9, 10, false));
        assert!(ends_at_bound(10, 10, false));
        assert!(ends_at_bound(9, 10, true));
    }
}

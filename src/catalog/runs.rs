//! The runs of a set of segments by the names that they cover.

use std::sync::Arc;

use crate::segment::Segment;
use crate::sync::OnceLock;

/// The runs of a set.
pub(crate) struct Runs {
    /// In the order of the set.
    runs: Vec<Arc<Segment>>,
    /// Made once it is asked for: that takes one read for each run that was not asked before.
    layers: OnceLock<Layers>,
}

/// Runs in layers: those of one layer cover no name twice, and lie in the order of their names. There
/// are as many layers as there are runs that cover the same name, at most.
struct Layers {
    layers: Vec<Vec<Covering>>,
    /// Runs that cannot be asked what they cover: they may hold any name.
    unknown: Vec<Arc<Segment>>,
}

/// A run and the names that it covers.
struct Covering {
    from: Box<str>,
    /// The first name that it does not cover; `None`: it covers all from `from` on.
    to: Option<Box<str>>,
    run: Arc<Segment>,
}

impl Runs {
    pub(crate) fn new(runs: Vec<Arc<Segment>>) -> Self {
        Runs { runs, layers: OnceLock::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether these are the runs, in this order.
    pub(crate) fn are<'a>(&self, mut others: impl Iterator<Item = &'a Arc<Segment>>) -> bool {
        self.runs.iter().all(|run| others.next().is_some_and(|other| Arc::ptr_eq(run, other)))
            && others.next().is_none()
    }

    /// The runs that cover a name, in no order. One search by halving a layer.
    pub(crate) fn covering(&self, name: &str) -> impl Iterator<Item = &Arc<Segment>> {
        self.meeting(name, move |from| from <= name)
    }

    /// The runs that cover a name which begins with `prefix`, in no order.
    pub(crate) fn under(&self, prefix: &str) -> impl Iterator<Item = &Arc<Segment>> {
        self.meeting(prefix, move |from| from <= prefix || from.starts_with(prefix))
    }

    /// The runs that end after `low` and whose first name `reaches` accepts.
    fn meeting(
        &self,
        low: &str,
        reaches: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = &Arc<Segment>> {
        let layers = self.layers.get_or_init(|| Layers::of(&self.runs));
        let found = layers.layers.iter().flat_map(move |layer| {
            let ends = |run: &Covering| run.to.as_ref().is_some_and(|to| **to <= *low);
            let from = layer.partition_point(ends);
            let to = layer.partition_point(|run| reaches(&run.from));
            layer.get(from..to).unwrap_or_default().iter().map(|run| &run.run)
        });
        found.chain(&layers.unknown)
    }

    /// How many layers there are: searches that a look-up takes.
    #[cfg(test)]
    pub(crate) fn depth(&self) -> usize {
        self.layers.get_or_init(|| Layers::of(&self.runs)).layers.len()
    }
}

impl Layers {
    fn of(runs: &[Arc<Segment>]) -> Self {
        // Together: the first look-up after an opening does not wait for one after the other.
        runs.iter().for_each(|run| run.announce_run_index());
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for run in runs {
            match run.run_index() {
                Ok(Some(names)) => {
                    let (from, to) = (names.from.clone(), names.to.clone());
                    known.push(Covering { from, to, run: Arc::clone(run) });
                }
                Ok(None) | Err(_) => unknown.push(Arc::clone(run)),
            }
        }
        known.sort_by(|a, b| a.from.cmp(&b.from));
        let mut layers: Vec<Vec<Covering>> = Vec::new();
        for run in known {
            let is_free = |layer: &&mut Vec<Covering>| {
                layer.last().is_none_or(|last| last.to.as_ref().is_some_and(|to| *to <= run.from))
            };
            match layers.iter_mut().find(is_free) {
                Some(layer) => layer.push(run),
                None => layers.push(vec![run]),
            }
        }
        Layers { layers, unknown }
    }
}

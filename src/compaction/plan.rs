//! What a compaction is going to write: where its outputs are cut, and how long each gets at most.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::base::SegmentSet;
use crate::catalog::dead;
use crate::compaction::fate::{Knowledge, Living};
use crate::compaction::job::{Manners, Shape, names};
use crate::compaction::merge::{Merge, Told};
use crate::error::Result;
use crate::format::footer::{Bound, MAX_NAME};
use crate::format::frame::{AGENT_LEN, FRAME_LEN};
use crate::format::{PAGE, align};
use crate::segment::Segment;
use crate::segment::writer::FIRST_FRAME;

/// What a record can take beyond the bytes in it: prefix, fields, expiry, padding.
const RECORD_COST: u64 = 64;
/// Frames have at least this much in them, but for an agent's last.
const FRAME_EACH: u64 = 1 << 20;

/// A run that is going to be written.
pub(crate) struct Output {
    /// Names from here on,
    pub(crate) from: Box<str>,
    /// up to here, itself excluded; `None`: all behind it.
    pub(crate) to: Option<Box<str>>,
    /// The length of its file: the most that it can get.
    pub(crate) capacity: u64,
}

/// Sizes of an output in the planning.
struct Draft {
    from: Box<str>,
    /// The most that its data can get,
    data: u64,
    /// and what they are likely to.
    likely: u64,
    footer: Bound,
}

impl Draft {
    fn new(from: Box<str>) -> Self {
        Draft { from, data: FIRST_FRAME, likely: FIRST_FRAME, footer: Bound::new() }
    }

    fn close(&mut self, to: Option<Box<str>>, outputs: &mut Vec<Output>) {
        let next = Draft::new(to.clone().unwrap_or_default());
        let done = std::mem::replace(self, next);
        let page = PAGE as u64;
        let capacity = (done.data + done.footer.bytes()).next_multiple_of(page) + page;
        outputs.push(Output { from: done.from, to, capacity });
    }
}

/// Plans the outputs of a compaction of `inputs`, each as long as `shape` says at most, unless it
/// holds one agent only. `manners` is told now and then that it goes on.
pub(crate) fn outputs(
    knowledge: &Knowledge<'_>,
    set: &SegmentSet,
    inputs: &[Arc<Segment>],
    shape: &Shape,
    manners: Manners<'_>,
) -> Result<Vec<Output>> {
    let (from, to) = range(inputs)?;
    // Sizes are estimated from above: a little more is still what was meant, and no sliver is left.
    let most = shape.run_bytes.saturating_add(shape.run_bytes / 16);
    let bounds = bounds(set, inputs)?;
    let prefixes: Vec<usize> =
        knowledge.engine.catalog.forgotten(u64::MAX).iter().map(|line| line.prefix.len()).collect();
    let mut merge = Merge::new(inputs)?;
    let (mut outputs, mut places) = (Vec::new(), Vec::new());
    let mut draft = Draft::new(from);
    let open = |draft: &mut Draft| {
        for len in &prefixes {
            draft.data += RECORD_COST + 8 + align(*len) as u64;
            draft.footer.add_prefix(*len);
        }
        draft.footer.add_bounds(MAX_NAME, MAX_NAME);
        draft.data += FRAME_LEN as u64;
    };
    open(&mut draft);
    let mut last: Option<Box<str>> = None;
    while let Some(name) = merge.next(&mut places)? {
        manners(0)?;
        let told: Result<Vec<Option<Told<'_>>>> =
            places.iter().map(|place| merge.told(*place)).collect();
        let told: Vec<Told<'_>> = told?.into_iter().flatten().collect();
        let living = knowledge.living(&name, &told, manners)?;
        let (size, mut footer) = (size(&name, &living, &told), draft.footer);
        bound(&mut footer, &name, &living);
        let full = draft.likely + size.likely + footer.bytes() > most;
        let between = last.as_deref().and_then(|last| {
            // Nothing lives between the bounds: no run is to cover it, or it would cross them still.
            let mut between = within(&bounds, last, &name);
            let first = between.next().filter(|_| draft.likely >= shape.cut_from)?;
            Some((first.clone(), between.last().unwrap_or(first).clone()))
        });
        if last.is_none() && shape.cut_from == 0 {
            draft.from = within(&bounds, &draft.from, &name).last().unwrap_or(&draft.from).clone();
        }
        if last.is_some() && (full || between.is_some()) {
            let (to, from) = between.unwrap_or_else(|| (name.clone(), name.clone()));
            draft.close(Some(to), &mut outputs);
            draft.from = from;
            open(&mut draft);
            footer = draft.footer;
            bound(&mut footer, &name, &living);
        }
        draft.data += size.most;
        draft.likely += size.likely;
        draft.footer = footer;
        last = Some(name);
    }
    let behind = last.as_deref().filter(|_| shape.cut_from == 0).and_then(|last| {
        above(&bounds, last).next().filter(|bound| to.as_ref().is_none_or(|to| *bound < to))
    });
    draft.close(behind.cloned().or(to), &mut outputs);
    Ok(outputs)
}

/// The bounds behind a name.
fn above<'b>(
    bounds: &'b BTreeSet<Box<str>>,
    name: &str,
) -> impl Iterator<Item = &'b Box<str>> + use<'b> {
    bounds.range::<str, _>((std::ops::Bound::Excluded(name), std::ops::Bound::Unbounded))
}

/// The bounds behind a name, up to another and itself included.
fn within<'b>(
    bounds: &'b BTreeSet<Box<str>>,
    name: &str,
    to: &str,
) -> impl Iterator<Item = &'b Box<str>> + use<'b> {
    let range = (std::ops::Bound::Excluded(name), std::ops::Bound::Included(to.max(name)));
    // A range that excludes where it ends is empty.
    let range = (name < to).then(|| bounds.range::<str, _>(range));
    range.into_iter().flatten()
}

/// The names that these segments cover together.
fn range(inputs: &[Arc<Segment>]) -> Result<(Box<str>, Option<Box<str>>)> {
    let mut all: Option<(Box<str>, Option<Box<str>>)> = None;
    for input in inputs {
        let (from, to) = names(input)?;
        all = Some(match all {
            None => (from, to),
            Some((lowest, highest)) => {
                let to = highest.zip(to).map(|(a, b)| a.max(b));
                (lowest.min(from), to)
            }
        });
    }
    Ok(all.unwrap_or_default())
}

/// Where runs begin and end that are no inputs.
fn bounds(set: &SegmentSet, inputs: &[Arc<Segment>]) -> Result<BTreeSet<Box<str>>> {
    let is_input = |run: &Segment| inputs.iter().any(|input| input.id == run.id);
    let mut bounds = BTreeSet::new();
    for run in set.sealed.iter().filter(|segment| segment.run && !is_input(segment)) {
        let (from, to) = names(run)?;
        bounds.insert(from);
        bounds.extend(to);
    }
    Ok(bounds)
}

/// What an agent takes of a run's data.
#[derive(Default)]
struct Size {
    most: u64,
    likely: u64,
}

fn size(name: &str, living: &Living<'_>, told: &[Told<'_>]) -> Size {
    let Some(head) = living.head else { return Size::default() };
    let mut records = 4 + living.redacted.len() as u64 + living.state.records;
    let (mut bytes, mut left_out) = (0u64, 0u64);
    for (index, seqs) in &living.entries {
        let count = seqs.end.saturating_sub(seqs.start);
        records += count;
        let Some(told) = told.get(*index) else { continue };
        // Of an extent that goes in part it is not known how much.
        let (all, of) = (told.block.bytes(), u64::from(told.block.count()));
        bytes += all;
        left_out += dead::share(all, of.saturating_sub(count), of);
    }
    let last = living.entries.last().map_or(head.next, |(_, seqs)| seqs.end);
    let lost = head.next.saturating_sub(last);
    records += if lost <= 1 << 20 { lost } else { 0 };
    bytes += living.state.bytes + living.state.key_bytes;
    let data = bytes + records * RECORD_COST;
    let frames = 2 + data / FRAME_EACH;
    let most = data + frames * (FRAME_LEN + AGENT_LEN + align(name.len())) as u64;
    Size { most, likely: most.saturating_sub(left_out) }
}

/// Counts what an agent takes of a run's footer.
fn bound(footer: &mut Bound, name: &str, living: &Living<'_>) {
    let Some(head) = living.head else { return };
    footer.add_agent(name.len());
    let first = living.entries.first().map_or(head.next, |(_, seqs)| seqs.start);
    let entries = head.next.saturating_sub(first);
    footer.add_entries(usize::try_from(entries).unwrap_or(usize::MAX));
    living.redacted.iter().for_each(|_| footer.add_redaction());
    living.policy.iter().for_each(|_| footer.add_policy());
    footer.add_states(&living.state.keys);
}

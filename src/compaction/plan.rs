//! What a compaction is going to write: where its outputs are cut, and how long each gets at most.

use std::sync::Arc;

use crate::catalog::dead;
use crate::catalog::set::SegmentSet;
use crate::compaction::cuts::{Cuts, Other, ends_at_bound};
use crate::compaction::fate::{Knowledge, Living};
use crate::compaction::job::{Manners, Shape, hull, names};
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

/// The first bound above a name that is no longer than names are. `None`: no name is above it.
pub(crate) fn behind(name: &str) -> Option<Box<str>> {
    let mut bound = String::with_capacity(MAX_NAME);
    bound.push_str(name);
    if name.len() < MAX_NAME {
        bound.push('\0');
        return Some(bound.into());
    }
    // No name begins with one of full length: the next one has a higher character in its place.
    while let Some(last) = bound.pop() {
        let next =
            (last..=char::MAX).nth(1).filter(|next| bound.len() + next.len_utf8() <= MAX_NAME);
        if let Some(next) = next {
            bound.push(next);
            return Some(bound.into());
        }
    }
    None
}

/// Whether a bound is the first one above a name.
pub(crate) fn is_behind(bound: &str, name: &str) -> bool {
    match bound.strip_suffix('\0') {
        Some(start) if name.len() < MAX_NAME => start == name,
        _ => name.len() >= MAX_NAME && behind(name).as_deref() == Some(bound),
    }
}

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
    /// It begins where the one before it was full, rather than at a bound.
    began_between: bool,
    /// The most that its data can get,
    data: u64,
    /// and what they are likely to.
    likely: u64,
    footer: Bound,
}

impl Draft {
    fn new(from: Box<str>) -> Self {
        Draft {
            from,
            began_between: false,
            data: FIRST_FRAME,
            likely: FIRST_FRAME,
            footer: Bound::new(),
        }
    }

    /// Counts what each output has, whatever agents go to it.
    fn open(&mut self, prefixes: &[usize]) {
        for len in prefixes {
            self.data += RECORD_COST + 8 + align(*len) as u64;
            self.footer.add_prefix(*len);
        }
        self.footer.add_bounds(MAX_NAME, MAX_NAME);
        self.data += FRAME_LEN as u64;
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
    let others = others(set, inputs)?;
    let is_aligned = shape.cut_from == 0;
    let cuts = if is_aligned { Cuts::all(&others) } else { Cuts::clean(&others, shape.generation) };
    let prefixes = prefixes(knowledge, inputs);
    let mut merge = Merge::new(inputs)?;
    let (mut outputs, mut places) = (Vec::new(), Vec::new());
    let mut draft = Draft::new(from);
    draft.open(&prefixes);
    let (mut first, mut last): (Option<Box<str>>, Option<Box<str>>) = (None, None);
    while let Some(name) = merge.next(&mut places)? {
        manners(0)?;
        let told = merge.told_by(&places)?;
        let living = knowledge.living(&name, &told, manners)?;
        if living.head.is_none() {
            // Nothing is written of it: its name is no bound either.
            continue;
        }
        first.get_or_insert_with(|| name.clone());
        let (size, mut footer) = (size(&name, &living, &told), draft.footer);
        bound(&mut footer, &name, &living);
        // No run is to bear the name of an agent that does not live.
        let lives = living.head.is_some_and(|head| head.life != 0);
        let full = lives && draft.likely + size.likely + footer.bytes() > most;
        let between = last.as_deref().and_then(|last| {
            // Nothing lives between the bounds: no run is to cover it, or it would cross them still.
            let mut between = cuts.within(last, &name);
            let ends = ends_at_bound(draft.likely, shape.cut_from, draft.began_between);
            let bound = between.next().filter(|_| ends)?;
            Some((bound.clone(), between.last().unwrap_or(bound).clone()))
        });
        if last.is_none() && is_aligned {
            draft.from = cuts.within(&draft.from, &name).last().unwrap_or(&draft.from).clone();
        }
        if last.is_some() && (full || between.is_some()) {
            let began_between = between.is_none();
            let (to, from) = seam(between, last.as_deref(), &name, shape);
            draft.close(Some(to), &mut outputs);
            (draft.from, draft.began_between) = (from, began_between);
            draft.open(&prefixes);
            footer = draft.footer;
            bound(&mut footer, &name, &living);
        }
        draft.data += size.most;
        draft.likely += size.likely;
        draft.footer = footer;
        last = Some(name);
    }
    let behind = last.as_deref().filter(|_| is_aligned).and_then(|last| {
        cuts.above(last).next().filter(|bound| to.as_ref().is_none_or(|to| *bound < to))
    });
    draft.close(behind.cloned().or(to), &mut outputs);
    if shape.erases {
        trim(&mut outputs, first, last);
    }
    Ok(outputs)
}

/// Where a run ends behind `last` and the next one begins, whose first name is `name`: `between`, at
/// bounds of other runs, if there are any.
fn seam(
    between: Option<(Box<str>, Box<str>)>,
    last: Option<&str>,
    name: &str,
    shape: &Shape,
) -> (Box<str>, Box<str>) {
    let at_name = || (name.into(), name.into());
    match (between, last) {
        // A bound of another run may be the name of an agent that is gone.
        (Some(_), Some(last)) if shape.erases => {
            behind(last).map_or_else(at_name, |to| (to, name.into()))
        }
        (between, _) => between.unwrap_or_else(at_name),
    }
}

/// Has outputs end at names of agents that they hold, where they end at names at all.
fn trim(outputs: &mut [Output], first: Option<Box<str>>, last: Option<Box<str>>) {
    if let (Some(output), Some(first)) = (outputs.first_mut(), first)
        && !output.from.is_empty()
    {
        output.from = first;
    }
    if let (Some(Output { to: to @ Some(_), .. }), Some(last)) = (outputs.last_mut(), last) {
        *to = behind(&last);
    }
}

/// The lengths of the forgotten prefixes that each output may have to keep: those within the lsns of
/// the inputs, where something older may be held against them.
fn prefixes(knowledge: &Knowledge<'_>, inputs: &[Arc<Segment>]) -> Vec<usize> {
    if !knowledge.around.has_older() {
        return Vec::new();
    }
    let hull = hull(inputs);
    let lines = knowledge.engine.catalog.forgotten(u64::MAX);
    let kept = lines.iter().filter(|line| hull.contains(&line.lsn));
    kept.map(|line| line.prefix.len()).collect()
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

/// The runs that are no inputs.
fn others(set: &SegmentSet, inputs: &[Arc<Segment>]) -> Result<Vec<Other>> {
    let is_input = |run: &Segment| inputs.iter().any(|input| input.id == run.id);
    let runs = set.sealed.iter().filter(|segment| segment.run && !is_input(segment));
    let each = runs.map(|run| {
        let (from, to) = names(run)?;
        Ok((run.trailer().map_or(0, |trailer| trailer.facts.generation), from, to))
    });
    each.collect()
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_name_comes_the_next_one_that_is_no_longer_than_names_are() {
        let full = |end: &str| format!("{}{end}", "n".repeat(MAX_NAME - end.len()));
        let next = |end: &str| format!("{}{end}", "n".repeat(MAX_NAME - 1));
        assert_eq!(behind("a").as_deref(), Some("a\0"));
        assert_eq!(behind(&full("a")).unwrap(), full("b").into());
        // Of two bytes the next character would not fit: the one before it goes up.
        assert_eq!(
            behind(&full("a\u{7f}")).unwrap(),
            full("a\u{7f}").replace("a\u{7f}", "b").into()
        );
        assert_eq!(behind(&full("\u{d7ff}")).unwrap(), full("\u{e000}").into());
        assert_eq!(behind(&"\u{10ffff}".repeat(MAX_NAME / 4)), None);
        let names = [full("a"), full("\u{7f}"), full("\u{7ff}"), full("\u{10ffff}"), next("")];
        for name in names.iter().map(String::as_str).chain(["a", "a\0"]) {
            let bound = behind(name).unwrap();
            assert!(*bound > *name && bound.len() <= MAX_NAME, "{name:?}");
            assert!(is_behind(&bound, name) && !is_behind(name, name), "{name:?}");
            assert!(!is_behind(&format!("{name}\0x"), name));
        }
        assert!(!is_behind(&format!("{}\0", full("a")), &full("a")));
    }
}

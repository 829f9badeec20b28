//! What salvage makes of runs: which are whole, what those cover that are not, and which segments a
//! run stands for that are still there.

use std::sync::Arc;

use crate::commit::seal::Run;
use crate::error::Damage;
use crate::format::footer;
use crate::recovery::gather::Found;
use crate::recovery::replay::Replay;
use crate::segment::writer::FIRST_FRAME;
use crate::segment::{Names, Segment, names_within};

/// A run without a sound footer.
pub(super) struct BrokenRun {
    pub(super) segment: Arc<Segment>,
    pub(super) found: Found,
    /// What its trailer says, if at least that is sound.
    pub(super) known: Option<Run>,
    /// Where its data end, if that is known.
    pub(super) end: Option<u64>,
    /// What is wrong with its footer.
    pub(super) fault: Option<Damage>,
}

/// What the trailer of a run says that its frames do not.
pub(super) fn told(segment: &Segment) -> Option<Run> {
    let facts = segment.trailer().filter(|_| segment.run)?.facts;
    Some(Run {
        generation: facts.generation,
        lsns: facts.lowest_lsn..facts.highest_lsn,
        cleaned: facts.cleaned,
        names: names(segment),
    })
}

/// The names that a run covers, if its footer tells.
fn names(run: &Segment) -> Option<Names> {
    run.footer()?.ok()?.bounds().ok()?.map(names_within)
}

/// Whether a run that nothing lists was not finished: a segment older than it begins where it does,
/// and is no run of the same compaction.
pub(super) fn is_unfinished(run: &Segment, others: &[Arc<Segment>]) -> bool {
    let made = made_at(run);
    others.iter().any(|other| {
        other.id < run.id
            && other.lowest_lsn() == run.base
            && (!other.run || (made.is_some() && made_at(other) != made))
    })
}

/// The time of the compaction that made a run, as its first frame that is left tells.
fn made_at(run: &Segment) -> Option<u64> {
    let from = usize::try_from(FIRST_FRAME).unwrap_or(usize::MAX);
    run.frames().headers_behind(from).next().map(|(_, header)| header.time)
}

/// What a run covers whose trailer is lost. It begins at its base. It ends where the next segment
/// begins that may hold one of its agents, but behind every lsn that it tells of. Which names it
/// covers beyond those that it holds cannot be told.
pub(super) fn covered(
    replay: &Replay,
    run: &Segment,
    others: &[Arc<Segment>],
    logs: &[u64],
) -> Run {
    let agents = replay.at_end();
    let mut least = run.base.saturating_add(1);
    for agent in &agents {
        least = least.max(agent.head.life.saturating_add(1));
        if let Some(part) = &agent.part {
            part.states("", u64::MAX, |_, slot| {
                // What was unset is no value that would have kept its revision.
                if slot.spot.offset().is_some() {
                    least = least.max(slot.revision.saturating_add(1));
                }
            });
        }
    }
    for (lsn, _) in &replay.prefixes {
        least = least.max(lsn.saturating_add(1));
    }
    let holds = |other: &Segment| {
        let Some((from, to)) = names(other) else { return false };
        let within = |name: &str| footer::contain((&from, to.as_deref()), name);
        agents.iter().any(|agent| within(&agent.name))
    };
    let runs = others.iter().filter(|other| other.run && holds(other));
    let begins = runs.map(|other| other.lowest_lsn()).chain(logs.iter().copied());
    let end = begins.filter(|lsn| *lsn > run.base).min().unwrap_or(least);
    Run { generation: 1, lsns: run.base..end.max(least), cleaned: 0, names: None }
}

/// Lets the segments that a whole run was made from tell nothing of the names that it covers: what
/// it left out is dead. They lie there if a compaction was cut short before or behind its end.
pub(super) fn hide_leftovers(segments: &[Arc<Segment>]) {
    for segment in segments {
        let stands_for = |run: &&Arc<Segment>| {
            let within =
                run.lowest_lsn() <= segment.lowest_lsn() && segment.end_lsn() <= run.end_lsn();
            let newer = (generation(run), run.id) > (generation(segment), segment.id);
            run.run && run.id != segment.id && run.has_own_footer() && within && newer
        };
        let hidden: Vec<Names> =
            segments.iter().filter(stands_for).filter_map(|run| names(run)).collect();
        if !hidden.is_empty() {
            segment.hide_names(hidden);
        }
    }
}

fn generation(segment: &Segment) -> u64 {
    segment.trailer().map_or(0, |trailer| trailer.facts.generation)
}

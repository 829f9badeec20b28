//! The survey: what of each sealed segment is dead, found out from all footers at once, laid under
//! what is resident. Data are read only of what was redacted, where a policy by bytes or age asks
//! for them, and where entries expire.

use std::sync::Arc;

use crate::commit::Engine;
use crate::compaction::fate::{Knowledge, content};
use crate::compaction::merge::{Merge, Told};
use crate::error::{ErrorKind, Result};
use crate::segment::Segment;

/// What a survey found in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Bytes of dead content, roughly.
    pub(crate) dead: u64,
    /// Something in it is dead, however little, or tells of nothing that is left.
    pub(crate) dirty: bool,
}

/// Surveys the sealed segments; gives them with what was found. With `expired`, what has expired
/// counts as dead: footers do not tell, so the entries of agents that have any such are read.
/// `go_on` is asked now and then.
///
/// # Errors
/// What reading footers met, or what `go_on` answered.
pub(crate) fn survey(
    engine: &Arc<Engine>,
    expired: bool,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<(Arc<Segment>, Found)>> {
    const AGENTS_A_TURN: u64 = 32;
    let set = engine.catalog.segments();
    let (now, time) = (engine.now(), engine.confirmed_now());
    let knowledge = Knowledge { engine, newer: Vec::new(), older: Vec::new() };
    let mut found: Vec<Found> = set.sealed.iter().map(|segment| hidden(segment)).collect();
    let mut merge = Merge::new(&set.sealed)?;
    let (mut places, mut agents) = (Vec::new(), 0u64);
    while let Some(name) = merge.next(&mut places)? {
        let told: Result<Vec<Option<Told<'_>>>> =
            places.iter().map(|place| merge.told(*place)).collect();
        let told: Vec<Told<'_>> = told?.into_iter().flatten().collect();
        let living = knowledge.living(&name, &told)?;
        for (index, ((of, _), told)) in places.iter().zip(&told).enumerate() {
            let Some(found) = found.get_mut(*of) else { continue };
            let dead = content(&told.block).saturating_sub(living.content_of(index, &told.block));
            found.dead += dead;
            found.dirty |= living.leaves_out_of(index, told);
            match living.hollow_of(index, told, expired.then_some(time)) {
                Ok(hollow) => {
                    found.dead += hollow;
                    found.dirty |= hollow > 0;
                }
                // Whoever copies it will say so; others are not kept from their work.
                Err(error) if error.kind() == ErrorKind::Damaged => found.dirty = true,
                Err(error) => return Err(error),
            }
        }
        agents += 1;
        if agents.is_multiple_of(AGENTS_A_TURN) {
            go_on()?;
        }
    }
    for (segment, found) in set.sealed.iter().zip(&found) {
        segment.set_dead(found.dead, now);
    }
    Ok(set.sealed.iter().cloned().zip(found).collect())
}

/// What was dead when the segment was sealed, so that its footer does not tell of it.
fn hidden(segment: &Segment) -> Found {
    let Some(trailer) = segment.trailer() else { return Found::default() };
    let dead = trailer.facts.hidden;
    // What a forgotten prefix killed in its own segment may be hidden too, and the prefix is a name.
    let forgets = !segment.run
        && segment.footer().is_some_and(|footer| {
            footer
                .is_ok_and(|footer| footer.prefixes().is_ok_and(|mut lines| lines.next().is_some()))
        });
    Found { dead, dirty: dead > 0 || forgets || segment.has_remains() }
}

//! Verification: every byte that a checksum covers is read again, whatever was verified before, and
//! footers are held against the frames they stand for.

use std::sync::Arc;

use crate::catalog::name_seed;
use crate::catalog::part::{Part, Spot, StateSlot};
use crate::commit::Engine;
use crate::commit::seal::Contents;
use crate::error::{self, Damage, Error, ErrorKind};
use crate::format::Fault;
use crate::format::footer::{Block, StateChange};
use crate::manifest;
use crate::recovery::replay::Replay;
use crate::segment::Segment;
use crate::segment::writer::FIRST_FRAME;

/// Reads everything; gives the damage found.
///
/// # Errors
/// If the manifest cannot be read: that says nothing about what is in it.
pub(crate) fn verify(engine: &Engine) -> error::Result<Vec<Damage>> {
    let mut found = Found(Vec::new());
    let set = engine.catalog.segments();
    let (unsealed, spares): (Vec<_>, Vec<_>) = {
        let order = engine.order.lock();
        let sealing = order.sealing.iter().map(|job| Arc::clone(&job.file.segment));
        let files = sealing.chain([Arc::clone(&order.active.segment)]);
        let files = files.map(|segment| (Arc::clone(&segment), segment.published()));
        let spares = order.spares.iter().map(|file| Arc::clone(&file.segment));
        (files.collect(), spares.collect())
    };
    for segment in &set.sealed {
        check_sealed(engine, segment, &mut found);
    }
    if engine.writing.is_some() || engine.options.read_only {
        for (segment, end) in unsealed.iter().filter(|(s, _)| s.trailer().is_none()) {
            check_frames(engine, segment, *end, &mut found);
        }
        for spare in &spares {
            if let Err(error) = spare.header() {
                found.error(&error);
            }
        }
        check_manifest(engine, &mut found)?;
    }
    Ok(found.0)
}

fn check_manifest(engine: &Engine, found: &mut Found) -> error::Result<()> {
    let reason = match manifest::read(&engine.io, &engine.dir) {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => "the manifest is missing".to_owned(),
        Err(error) if error.damage().is_some() => {
            found.error(&error);
            return Ok(());
        }
        Err(error) if error.kind() == ErrorKind::Version => error.to_string(),
        Err(error) => return Err(error),
    };
    found.0.push(Damage::new(engine.dir.join(manifest::NAME), 0, reason));
    Ok(())
}

struct Found(Vec<Damage>);

impl Found {
    fn error(&mut self, error: &Error) {
        self.0.extend(error.damage().cloned());
    }

    fn fault(&mut self, segment: &Segment, offset: u64, Fault(reason): Fault) {
        self.error(&segment.damage(offset, reason));
    }
}

fn check_sealed(engine: &Engine, segment: &Arc<Segment>, found: &mut Found) {
    let Some(trailer) = segment.trailer() else { return };
    let replay = check_frames(engine, segment, trailer.facts.data_end, found);
    if segment.has_own_footer()
        && let Err(error) = segment.reread_footer()
    {
        found.error(&error);
        return;
    }
    if let Err(fault) = check_footer(segment, replay) {
        found.fault(segment, trailer.footer_at, fault);
    }
}

/// Verifies header and frames; gives what a footer is to say, if all of them are whole.
fn check_frames(
    engine: &Engine,
    segment: &Arc<Segment>,
    end: u64,
    found: &mut Found,
) -> Option<Replay> {
    if let Err(error) = segment.header() {
        found.error(&error);
    }
    let end = usize::try_from(end).unwrap_or(usize::MAX);
    let seed = name_seed(engine.store);
    let mut replay = if segment.is_rebuilt() {
        Replay::beside(Arc::clone(segment), seed)
    } else {
        Replay::new(Arc::clone(segment), seed)
    };
    let frames = segment.published_frames();
    let mut at = usize::try_from(FIRST_FRAME).unwrap_or(0);
    let mut whole = true;
    while at < end {
        let applied = frames.frame(at).and_then(|frame| {
            replay.apply(&frame)?;
            Ok(frame.header.len())
        });
        match applied {
            Ok(len) => at = at.saturating_add(len),
            Err(Fault(reason)) => {
                whole = false;
                let mut error = segment.damage(at as u64, reason);
                if let Ok((_, agents)) = frames.header(at) {
                    error = agents.iter().fold(error, |e, agent| e.touching(agent.name));
                }
                found.error(&error);
                let behind = frames.headers_behind(at.saturating_add(8)).next();
                at = behind.map_or(end, |(next, _)| next);
            }
        }
    }
    whole.then_some(replay)
}

/// Verifies every structure of a footer, and holds it against what the frames say.
fn check_footer(segment: &Segment, replay: Option<Replay>) -> Result<(), Fault> {
    segment.check_footer()?;
    let Some(Ok(footer)) = segment.footer() else {
        return Err(Fault("the footer cannot be read"));
    };
    let Some(replay) = replay else { return Ok(()) };
    let trailer = footer.trailer();
    let Contents { record_bytes, prefixes, .. } = replay.contents(trailer.facts.data_end);
    let agents = replay.at_end();
    if trailer.facts.record_bytes != record_bytes {
        return Err(Fault("the footer and the frames count different bytes of records"));
    }
    let mut expected = prefixes.iter().map(|(lsn, prefix)| (*lsn, &**prefix));
    for line in footer.prefixes()? {
        if expected.next() != Some(line?) {
            return Err(Fault("the footer and the frames tell of different prefixes"));
        }
    }
    if expected.next().is_some() {
        return Err(Fault("the footer lacks a prefix"));
    }
    if trailer.agents != agents.len() as u64 {
        return Err(Fault("the footer and the frames tell of different agents"));
    }
    for agent in agents {
        if !footer.may_contain(agent.hash)? {
            return Err(Fault("the filter lacks an agent"));
        }
        let Some((_, block)) = footer.find(&agent.name)? else {
            return Err(Fault("the directory lacks an agent"));
        };
        let spots = agent.part.as_ref().map(|part| part.spots()).unwrap_or_default();
        let listed = (0..block.count()).map(|i| block.offset(i).unwrap_or(0));
        if block.head() != agent.head || !listed.eq(spots) {
            return Err(Fault("a footer's block and the frames disagree"));
        }
        let groups = agent.part.as_ref().map(|part| part.groups()).unwrap_or_default();
        let told = (0..block.groups()).map_while(|group| block.group(group));
        if !told.eq(groups) {
            return Err(Fault("a footer's sums and the frames disagree"));
        }
        check_states(&block, agent.part.as_ref())?;
    }
    Ok(())
}

/// Holds the state changes of a block against what the frames say.
fn check_states(block: &Block<'_>, part: Option<&Part>) -> Result<(), Fault> {
    let mut expected: Vec<(Box<str>, StateSlot)> = Vec::new();
    if let Some(part) = part {
        part.states("", u64::MAX, |key, slot| expected.push((key.into(), slot)));
    }
    let mut expected = expected.iter();
    for found in block.states().all() {
        let StateChange { key, revision, offset, len, .. } = found?;
        let slot = StateSlot { revision, spot: Spot(offset), len };
        if expected.next().is_none_or(|(wanted, last)| **wanted != *key || *last != slot) {
            return Err(Fault("a footer's state changes and the frames disagree"));
        }
    }
    match expected.next() {
        None => Ok(()),
        Some(_) => Err(Fault("a footer's block lacks a state change")),
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests;

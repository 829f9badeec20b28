//! What a reopened store must show: all that was acknowledged, each lane up to one step and not
//! beyond, nothing that was gone before, and one order of all lanes.

use std::collections::{BTreeMap, BTreeSet};

use memlog::{Durability, Store, View};

use crate::linux::acks::{Ack, What};
use crate::linux::lane::{AGENTS, CLOCK, Lane, Life, Value};
use crate::linux::rng::fill;

/// No lane has more steps than this under way that it has not told of.
const AHEAD: u64 = 8;

/// What is known of the batches of a round.
#[derive(Clone, Debug)]
pub struct Told {
    /// The steps that each lane had done before.
    base: Vec<u64>,
    /// Of each lane: the last step that must be there, and the last that may.
    must: Vec<u64>,
    most: Vec<u64>,
    /// The lsn of each step that was told, by lane.
    lsns: Vec<BTreeMap<u64, u64>>,
}

impl Told {
    pub fn new(lanes: &[Lane]) -> Told {
        let base: Vec<u64> = lanes.iter().map(|lane| lane.done).collect();
        Told {
            must: base.clone(),
            most: base.iter().map(|done| done + AHEAD).collect(),
            lsns: vec![BTreeMap::new(); lanes.len()],
            base,
        }
    }

    /// An acknowledgement. What reached `level` has to be there.
    pub fn hear(&mut self, ack: &Ack, level: Durability, counts: bool) {
        if ack.what != What::Reached {
            return;
        }
        let lane = ack.lane as usize;
        self.lsns[lane].insert(ack.step, ack.lsn);
        self.most[lane] = self.most[lane].max(ack.step + AHEAD);
        if counts && ack.durability >= level {
            self.must[lane] = self.must[lane].max(ack.step);
        }
    }

    /// For a backup: what is below the lsn is in it.
    pub fn up_to(&self, lsn: u64) -> Told {
        let mut told = self.clone();
        for (must, (base, lsns)) in told.must.iter_mut().zip(self.base.iter().zip(&self.lsns)) {
            let below = lsns.iter().filter(|(_, at)| **at < lsn).map(|(step, _)| *step);
            *must = below.max().unwrap_or(*base);
        }
        told
    }
}

/// Checks a store against what was told; gives the lanes as the store has them, and whether what
/// the next step does alone was done too.
pub fn check(
    store: &Store,
    seed: u64,
    round: u64,
    before: &[Lane],
    told: &Told,
) -> Result<Vec<(Lane, bool)>, String> {
    let error = |error: memlog::Error| format!("{error} ({:?})", error.kind());
    let damage = store.verify().map_err(error)?;
    if !damage.is_empty() {
        return Err(format!("verify found {damage:?}"));
    }
    let mut names = BTreeSet::new();
    for agent in store.agents("") {
        names.insert(agent.map_err(error)?.name().to_owned());
    }
    let mut known = 0;
    let mut lanes = Vec::new();
    for (at, lane) in before.iter().enumerate() {
        let (lane, single) = check_lane(store, &names, (seed, round), lane, told, at)?;
        known += lane.agents.len() + usize::from(names.contains(&lane.clock()));
        lanes.push((lane, single));
    }
    if known != names.len() {
        return Err(format!("{} agents are listed, {known} exist: {names:?}", names.len()));
    }
    in_order(&lanes, told)?;
    Ok(lanes)
}

fn check_lane(
    store: &Store,
    names: &BTreeSet<String>,
    (seed, round): (u64, u64),
    before: &Lane,
    told: &Told,
    at: usize,
) -> Result<(Lane, bool), String> {
    let name = |error: memlog::Error| format!("{error} ({:?})", error.kind());
    let clock = store.agent(&before.clock()).and_then(|agent| agent.view()).map_err(name)?;
    let done = match clock.state(CLOCK).map_err(name)? {
        Some(value) => u64::from_le_bytes(value.value().as_ref().try_into().unwrap()),
        None => 0,
    };
    let (must, most) = (told.must[at], told.most[at]);
    if done < must || done > most || done < before.done {
        let from = before.done;
        let lane = before.number;
        return Err(format!("lane {lane} holds {done} steps of {must} to {most} (from {from} on)"));
    }
    let mut lane = before.clone();
    while lane.done < done {
        let step = lane.step(seed, round);
        lane.apply(&step, told.lsns[at].get(&step.number).copied());
    }
    let differences = compare(store, names, &lane)?;
    let Some(differences) = differences else { return Ok((lane, false)) };
    if let Some(single) = lane.step(seed, round).single {
        lane.apply_single(&single);
        if compare(store, names, &lane)?.is_none() {
            return Ok((lane, true));
        }
    }
    Err(format!("lane {} after {done} steps: {differences}", lane.number))
}

/// What differs between the store and the model, in words.
fn compare(store: &Store, names: &BTreeSet<String>, lane: &Lane) -> Result<Option<String>, String> {
    for agent in 0..AGENTS {
        let name = lane.name(agent);
        let view = store.agent(&name).and_then(|agent| agent.view());
        let view = view.map_err(|error| format!("{name}: {error}"))?;
        let differs = match lane.agents.get(&agent) {
            Some(life) => against(&view, life),
            None => nothing(&view),
        };
        if names.contains(&name) != lane.agents.contains_key(&agent) {
            let is = if names.contains(&name) { "is" } else { "is not" };
            return Ok(Some(format!("{name} {is} listed")));
        }
        if let Err(difference) = differs {
            return Ok(Some(format!("{name}: {difference}")));
        }
    }
    Ok(None)
}

fn nothing(view: &View) -> Result<(), String> {
    let bounds = (view.floor(), view.next_seq());
    if bounds != (1, 1) || view.states("").next().is_some() {
        return Err(format!("forgotten, and yet there: {bounds:?}"));
    }
    Ok(())
}

fn against(view: &View, life: &Life) -> Result<(), String> {
    let bounds = (view.floor(), view.next_seq());
    if bounds != (life.floor, life.next) {
        return Err(format!("{bounds:?} instead of {:?}", (life.floor, life.next)));
    }
    let mut items = life.items.iter();
    for entry in view.iter() {
        let entry = entry.map_err(|error| error.to_string())?;
        let (seq, item) = items.next().ok_or("more entries than there should be")?;
        let payload = if item.hidden { Vec::new() } else { fill(item.id, item.len) };
        let seen = (entry.seq(), entry.kind().get(), entry.weight(), entry.is_joined());
        let wanted = (*seq, item.kind, item.weight, item.joined);
        if seen != wanted || entry.is_redacted() != item.hidden {
            return Err(format!("entry {seen:?} instead of {wanted:?}"));
        }
        if entry.payload() != payload {
            return Err(format!("other bytes in entry {seq}"));
        }
    }
    if let Some((seq, _)) = items.next() {
        return Err(format!("entry {seq} and what follows are missing"));
    }
    states(view, &life.state)
}

fn states(view: &View, wanted: &BTreeMap<String, Value>) -> Result<(), String> {
    let mut values = wanted.iter();
    for value in view.states("") {
        let value = value.map_err(|error| error.to_string())?;
        let (key, known) = values.next().ok_or("more values than there should be")?;
        let right = value.key() == key && **value.value() == *fill(known.id, known.len);
        if !right || known.revision.is_some_and(|revision| value.revision().0 != revision) {
            return Err(format!("the value of {key} is another"));
        }
    }
    values.next().map_or(Ok(()), |(key, _)| Err(format!("the value of {key} is missing")))
}

/// The store holds a beginning of the order of all batches: what is there of one lane lies before
/// what is missing of any other.
fn in_order(lanes: &[(Lane, bool)], told: &Told) -> Result<(), String> {
    let (mut last_kept, mut first_lost) = (0, u64::MAX);
    for ((lane, _), lsns) in lanes.iter().zip(&told.lsns) {
        if let Some((_, lsn)) = lsns.range(..=lane.done).next_back() {
            last_kept = last_kept.max(*lsn);
        }
        if let Some((_, lsn)) = lsns.range(lane.done + 1..).next() {
            first_lost = first_lost.min(*lsn);
        }
    }
    if last_kept > first_lost {
        return Err(format!("lsn {last_kept} is there, and {first_lost} before it is not"));
    }
    Ok(())
}

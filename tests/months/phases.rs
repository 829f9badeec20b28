//! What a store lives through, one phase after the other.

use std::time::Duration;

use memlog::sim::SimFault;

use crate::flavor::{DAY, HOUR};
use crate::model::Policy;
use crate::skip::Check;
use crate::world::{Outcome, World};

const MINUTE: u64 = 60_000;
/// Beyond so much that lives, what is large goes first.
const MUCH: u64 = 14 << 20;

type Phase = fn(&mut World) -> Outcome;

/// The phases, and how often each comes.
const PHASES: &[(&str, u64, Phase)] = &[
    ("trickle", 12, trickle),
    ("burst", 10, burst),
    ("idle", 10, idle),
    ("long idle", 2, long_idle),
    ("churn", 8, churn),
    ("prefixes", 5, prefixes),
    ("many prefixes", 1, many_prefixes),
    ("policies", 6, policies),
    ("expiring", 5, expiring),
    ("big agent", 3, big_agent),
    ("tiny crowd", 4, tiny_crowd),
    ("state", 6, state),
    ("great state", 1, great_state),
    ("full disk", 3, full_disk),
    ("clock", 3, clock),
    ("crash", 8, crash),
    ("kill", 4, |world| world.kill()),
    ("fault", 4, fault),
    ("reopen", 6, |world| world.close_and_reopen()),
    ("held", 4, held),
    ("upkeep", 3, upkeep),
];

/// One phase, as the dice of the step have it.
pub fn phase(world: &mut World) -> Outcome {
    if world.live() > MUCH {
        shed(world)?;
    }
    let all = PHASES.iter().map(|(_, weight, _)| weight).sum();
    let mut dice = world.rng.below(all);
    for (name, weight, run) in PHASES {
        if dice < *weight {
            world.note(|| (*name).to_owned());
            return run(world);
        }
        dice -= weight;
    }
    Ok(())
}

/// A phase of work only, for those that something goes wrong in.
fn some_work(world: &mut World) -> Outcome {
    let run: &[Phase] = &[trickle_short, burst, churn, prefixes, policies, state, tiny_crowd, idle];
    let run = *world.rng.pick(run);
    run(world)
}

fn minutes(world: &mut World, from: u64, to: u64) -> Duration {
    Duration::from_millis(MINUTE * from + world.rng.below(MINUTE * (to - from)))
}

impl World {
    /// How long something gets.
    fn size(&mut self) -> usize {
        let most = match self.rng.below(20) {
            0..9 => 120,
            9..15 => 1500,
            15..19 => 8000,
            _ => 50_000,
        };
        self.rng.below(most) as usize
    }

    fn regular(&mut self) -> String {
        format!("w/{}", self.rng.below(12))
    }

    /// An agent that lives, by chance.
    fn any(&mut self) -> Option<String> {
        let agents = self.ledger.now().agents.len() as u64;
        let at = self.rng.below(agents) as usize;
        self.ledger.now().agents.keys().nth(at).cloned()
    }

    pub fn append_some(&mut self, most: u64) -> Outcome {
        let mut draft = self.draft();
        for _ in 0..=self.rng.below(most) {
            let (name, size) = (self.regular(), self.size());
            self.append(&mut draft, &name, size, None);
        }
        self.commit(draft)
    }

    pub fn forget_one(&mut self) -> Outcome {
        let Some(name) = self.any() else { return Ok(()) };
        let mut draft = self.draft();
        self.forget(&mut draft, &name);
        self.commit(draft)
    }

    /// Something is taken away from an agent that has entries.
    fn take_away(&mut self) -> Outcome {
        let Some(name) = self.any() else { return Ok(()) };
        let (floor, next, by_bytes) = {
            let model = self.ledger.now();
            let life = &model.agents[&name];
            (life.floor, life.next(), life.policy.unwrap_or(model.default).bytes.is_some())
        };
        if floor == next {
            return Ok(());
        }
        let seq = floor + self.rng.below(next - floor);
        let mut draft = self.draft();
        match self.rng.below(4) {
            // What a redaction makes of a policy by bytes depends on what compaction has done.
            0 if !by_bytes => self.redact(&mut draft, &name, seq),
            1 => self.truncate(&mut draft, &name, seq + 1),
            _ => self.truncate(&mut draft, &name, seq),
        }
        self.commit(draft)
    }
}

/// One small entry a minute to an hour.
fn trickle(world: &mut World) -> Outcome {
    let hours = 6 + world.rng.below(60);
    trickle_for(world, hours)
}

fn trickle_short(world: &mut World) -> Outcome {
    let hours = 1 + world.rng.below(6);
    trickle_for(world, hours)
}

fn trickle_for(world: &mut World, hours: u64) -> Outcome {
    let end = world.driver.now() + hours * HOUR;
    let each = *world.rng.pick(&[2, 10, 30, 60]);
    while world.driver.now() < end {
        match world.rng.below(12) {
            0 => world.take_away()?,
            1 => world.check_some()?,
            _ => world.append_some(2)?,
        }
        let pause = Duration::from_millis(1 + world.rng.below(2 * each * MINUTE));
        world.rest(pause)?;
    }
    Ok(())
}

/// Up to some MB within minutes.
fn burst(world: &mut World) -> Outcome {
    let batches = 20 + world.rng.below(400);
    for _ in 0..batches {
        world.append_some(6)?;
        if world.rng.one_in(20) {
            world.take_away()?;
        }
        if world.rng.one_in(30) {
            let pause = Duration::from_millis(world.rng.below(20_000));
            world.rest(pause)?;
        }
    }
    let pause = minutes(world, 1, 120);
    world.rest(pause)
}

fn idle(world: &mut World) -> Outcome {
    let pause = minutes(world, 30, 18 * 60);
    world.rest(pause)
}

fn long_idle(world: &mut World) -> Outcome {
    let days = 2 + world.rng.below(13);
    world.rest(Duration::from_millis(days * DAY))
}

/// Agents that come and go.
fn churn(world: &mut World) -> Outcome {
    let generation = world.step;
    let agents = 10 + world.rng.below(60);
    for i in 0..agents {
        let name = format!("c/{generation}/{i}");
        let mut draft = world.draft();
        for _ in 0..1 + world.rng.below(8) {
            let size = world.size();
            world.append(&mut draft, &name, size, None);
        }
        if world.rng.one_in(2) {
            let size = world.size();
            world.set(&mut draft, &name, "goal", size);
        }
        world.commit(draft)?;
        if world.rng.one_in(3) {
            let before = world.rng.below(agents);
            let name = format!("c/{generation}/{before}");
            let mut draft = world.draft();
            world.forget(&mut draft, &name);
            world.commit(draft)?;
        }
        if world.rng.one_in(4) {
            let pause = minutes(world, 0, 30);
            world.rest(pause)?;
        }
    }
    // An older generation goes.
    let old: Vec<String> = world.ledger.now().under("c/");
    if old.len() > 150 {
        let gone = old[world.rng.below(old.len() as u64) as usize].clone();
        let prefix = gone[..=gone.rfind('/').unwrap()].to_owned();
        world.forget_prefix(&prefix)?;
    }
    let pause = minutes(world, 0, 60);
    world.rest(pause)
}

/// Crowds under prefixes, which are forgotten as one.
fn prefixes(world: &mut World) -> Outcome {
    let step = world.step;
    for crowd in 0..1 + world.rng.below(6) {
        let prefix = format!("p/{step}-{crowd}/");
        let agents = 1 + world.rng.below(60);
        let mut draft = world.draft();
        for i in 0..agents {
            let size = world.rng.below(400) as usize;
            world.append(&mut draft, &format!("{prefix}{i}"), size, None);
        }
        world.commit(draft)?;
        let pause = minutes(world, 0, 90);
        world.rest(pause)?;
        if !world.rng.one_in(3) {
            world.forget_prefix(&prefix)?;
        }
    }
    let old: Vec<String> = world.ledger.now().under("p/");
    if old.len() > 200 {
        world.forget_prefix("p/")?;
    }
    Ok(())
}

/// Prefixes by the thousand, each with little under it, each forgotten by itself.
fn many_prefixes(world: &mut World) -> Outcome {
    let step = world.step;
    let prefixes = 200 + world.rng.below(2500);
    for i in 0..prefixes {
        if i % 3 == 0 {
            let mut draft = world.draft();
            world.append(&mut draft, &format!("q/{step}/{i}/a"), 40, None);
            world.commit(draft)?;
        }
        world.forget_prefix(&format!("q/{step}/{i}/"))?;
        if world.rng.one_in(300) {
            let pause = minutes(world, 0, 60);
            world.rest(pause)?;
        }
    }
    let pause = minutes(world, 60, 600);
    world.rest(pause)
}

/// Agents with policies of their own, which are written on and on.
fn policies(world: &mut World) -> Outcome {
    for _ in 0..1 + world.rng.below(3) {
        let policy = match world.rng.below(4) {
            0 => Policy { entries: Some(world.rng.below(60)), ..Policy::default() },
            1 => Policy { bytes: Some(world.rng.below(200 << 10)), ..Policy::default() },
            2 => Policy { age: Some((1 + world.rng.below(72)) * HOUR), ..Policy::default() },
            _ => Policy {
                entries: Some(5 + world.rng.below(200)),
                age: Some((1 + world.rng.below(20)) * DAY),
                ..Policy::default()
            },
        };
        let name = format!("own/{}", world.rng.below(8));
        world.set_policy(&name, Some(policy))?;
    }
    for _ in 0..world.rng.below(200) {
        let name = format!("own/{}", world.rng.below(8));
        let mut draft = world.draft();
        for _ in 0..1 + world.rng.below(6) {
            let size = world.size();
            world.append(&mut draft, &name, size, None);
        }
        world.commit(draft)?;
        if world.rng.one_in(12) {
            let pause = minutes(world, 0, 60);
            world.rest(pause)?;
        }
    }
    let pause = minutes(world, 0, 200);
    world.rest(pause)
}

/// Entries that expire within hours or days.
fn expiring(world: &mut World) -> Outcome {
    for _ in 0..10 + world.rng.below(80) {
        let name = format!("exp/{}", world.rng.below(6));
        if world.ledger.now().default.bytes.is_some() {
            break;
        }
        let mut draft = world.draft();
        for _ in 0..1 + world.rng.below(4) {
            let size = world.size();
            let after = *world.rng.pick(&[HOUR, 8 * HOUR, DAY, 5 * DAY]);
            let expires = world.driver.now() + 1 + world.rng.below(after);
            world.append(&mut draft, &name, size, Some(expires));
        }
        world.commit(draft)?;
        if world.rng.one_in(5) {
            let pause = minutes(world, 0, 60);
            world.rest(pause)?;
        }
    }
    let pause = minutes(world, 30, 500);
    world.rest(pause)
}

/// One agent grows to some MB; now and then an entry has some MB.
fn big_agent(world: &mut World) -> Outcome {
    let name = format!("big/{}", world.rng.below(3));
    let mut left = (1 << 20) + world.rng.below(6 << 20);
    while left > 0 {
        let size = if world.rng.one_in(25) {
            (1 << 20) + world.rng.below(2 << 20)
        } else {
            20_000 + world.rng.below(60_000)
        };
        let mut draft = world.draft();
        world.append(&mut draft, &name, size as usize, None);
        world.commit(draft)?;
        left = left.saturating_sub(size);
        if world.rng.one_in(10) {
            let pause = minutes(world, 0, 20);
            world.rest(pause)?;
        }
    }
    let pause = minutes(world, 1, 600);
    world.rest(pause)?;
    let mut draft = world.draft();
    let (floor, next) =
        world.ledger.now().agents.get(&name).map_or((1, 1), |l| (l.floor, l.next()));
    match world.rng.below(3) {
        0 => world.forget(&mut draft, &name),
        1 if next > floor => world.truncate(&mut draft, &name, next - (next - floor) / 3),
        _ => {}
    }
    if draft.ops.is_empty() { Ok(()) } else { world.commit(draft) }
}

/// A crowd of agents with an entry each.
fn tiny_crowd(world: &mut World) -> Outcome {
    let step = world.step;
    let agents = 100 + world.rng.below(1500);
    let mut i = 0;
    while i < agents {
        let mut draft = world.draft();
        for _ in 0..1 + world.rng.below(40) {
            let size = 16 + world.rng.below(40) as usize;
            world.append(&mut draft, &format!("tiny/{step}/{i}"), size, None);
            i += 1;
        }
        world.commit(draft)?;
    }
    let pause = minutes(world, 1, 300);
    world.rest(pause)?;
    if world.ledger.now().under("tiny/").len() > 4000 || world.rng.one_in(4) {
        world.forget_prefix("tiny/")?;
    }
    Ok(())
}

/// State: keys that are set again and again, and unset.
fn state(world: &mut World) -> Outcome {
    let name = format!("state/{}", world.rng.below(4));
    let keys = *world.rng.pick(&[5, 50, 500]);
    for _ in 0..10 + world.rng.below(100) {
        let mut draft = world.draft();
        for _ in 0..1 + world.rng.below(30) {
            let key = format!("k{}", world.rng.below(keys));
            if world.rng.one_in(6) {
                world.unset(&mut draft, &name, &key);
            } else {
                let size = world.rng.below(300) as usize;
                world.set(&mut draft, &name, &key, size);
            }
        }
        world.commit(draft)?;
        if world.rng.one_in(10) {
            let pause = minutes(world, 0, 30);
            world.rest(pause)?;
        }
    }
    Ok(())
}

/// A state of very many keys.
fn great_state(world: &mut World) -> Outcome {
    let most = if cfg!(debug_assertions) { 4000 } else { 100_000 };
    let keys = if world.rng.one_in(4) { most } else { most / 20 };
    let mut key = 0;
    while key < keys {
        let mut draft = world.draft();
        for _ in 0..500 {
            world.set(&mut draft, "great", &format!("key/{key}"), 16);
            key += 1;
        }
        world.commit(draft)?;
    }
    let pause = minutes(world, 10, 300);
    world.rest(pause)?;
    for _ in 0..20 {
        let mut draft = world.draft();
        for _ in 0..50 {
            let key = world.rng.below(keys);
            world.set(&mut draft, "great", &format!("key/{key}"), 20);
        }
        world.commit(draft)?;
        let pause = minutes(world, 0, 30);
        world.rest(pause)?;
    }
    world.check_agent("great")?;
    if world.rng.one_in(2) {
        let mut draft = world.draft();
        world.forget(&mut draft, "great");
        world.commit(draft)?;
    }
    Ok(())
}

/// There is almost no room for some hours, and then there is again.
fn full_disk(world: &mut World) -> Outcome {
    let room = world.rng.below(3 << 20);
    (world.full, world.was_full) = (true, true);
    world.driver.disk.set_capacity(world.driver.disk.used() + room);
    for _ in 0..20 + world.rng.below(150) {
        match world.rng.below(10) {
            0 => world.take_away()?,
            1 => world.forget_one()?,
            2 => world.check_some()?,
            _ => world.append_some(4)?,
        }
        if world.rng.one_in(10) {
            let pause = minutes(world, 0, 30);
            world.rest(pause)?;
        }
    }
    world.calm()?;
    let pause = minutes(world, 1, 120);
    world.rest(pause)?;
    // Writing goes on.
    world.append_some(1)
}

/// The wall clock is wrong for a while: ahead, for less time than it takes to be believed, or behind.
fn clock(world: &mut World) -> Outcome {
    let hours = *world.rng.pick(&[0, 2, 24, 24 * 30, 24 * 3650]);
    let ahead = world.rng.one_in(2);
    let offset = (hours * HOUR) as i64 + world.rng.below(HOUR) as i64;
    if !Check::Clock.is_on() {
        return Ok(());
    }
    // The store has seen the time as it is.
    world.append_some(1)?;
    world.span();
    world.driver.set_offset(if ahead { offset } else { -offset });
    world.note(|| format!("the clock is wrong by {offset} ms, ahead: {ahead}"));
    for _ in 0..5 {
        world.append_some(3)?;
        world.take_away()?;
        world.check_some()?;
        let pause = minutes(world, 1, 9);
        world.rest(pause)?;
    }
    world.calm()?;
    trickle_short(world)
}

/// The power fails, or the process dies, at a call by chance.
fn crash(world: &mut World) -> Outcome {
    let after = world.rng.below(400);
    world.arm(after, None);
    for _ in 0..4 {
        some_work(world)?;
    }
    Ok(())
}

/// A call fails by chance.
fn fault(world: &mut World) -> Outcome {
    let faults = [SimFault::Eio, SimFault::Eio, SimFault::NoSpace, SimFault::Writeback];
    let fault = *world.rng.pick(&faults);
    let after = world.rng.below(400);
    world.tally.faults += 1;
    world.arm(after, Some(fault));
    for _ in 0..4 {
        some_work(world)?;
        if world.trapped() {
            return Err(crate::world::Stop);
        }
    }
    Ok(())
}

/// Views that are held for hours.
fn held(world: &mut World) -> Outcome {
    for _ in 0..1 + world.rng.below(3) {
        if let Some(name) = world.any() {
            let time = minutes(world, 10, 2000);
            world.hold(&name, time)?;
        }
    }
    some_work(world)?;
    let pause = minutes(world, 1, 600);
    world.rest(pause)
}

/// What is asked for by hand.
fn upkeep(world: &mut World) -> Outcome {
    match world.rng.below(3) {
        0 => {
            let outcome = world.store().purge();
            if let Err(error) = outcome {
                return world.failed("purge", &error);
            }
            world.ledger.all_durable();
            world.scan();
        }
        1 => world.check_whole(),
        _ => {
            let outcome = world.store().compact();
            if let Err(error) = outcome {
                return world.failed("compact", &error);
            }
        }
    }
    Ok(())
}

/// Much lives: what is large goes.
fn shed(world: &mut World) -> Outcome {
    for prefix in ["big/", "tiny/", "c/", "p/"] {
        world.forget_prefix(prefix)?;
    }
    let mut draft = world.draft();
    world.forget(&mut draft, "great");
    world.commit(draft)?;
    for i in 0..12 {
        let name = format!("w/{i}");
        let ends = world.ledger.now().agents.get(&name).map(|l| (l.floor, l.next()));
        if let Some((floor, next)) = ends.filter(|(floor, next)| next - floor > 40) {
            let mut draft = world.draft();
            world.truncate(&mut draft, &name, next - (next - floor) / 4);
            world.commit(draft)?;
        }
    }
    Ok(())
}

//! What makes a case: a seed, how many months, which steps; and the search for the least of it that
//! still fails.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;
use std::time::{Duration, Instant};

use crate::driver::{self, EPOCH};
use crate::flavor::DAY;
use crate::ledger::End;
use crate::phases;
use crate::rng::Rng;
use crate::world::{Tally, World};

pub const MONTH: u64 = 30 * DAY;
/// How many seconds a failure is shrunk, if `MEMLOG_SHRINK` names no others.
const PATIENCE: u64 = 60;

thread_local! {
    /// Panics are part of a search, and say nothing.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// The step that is done.
    static STEP: Cell<u64> = const { Cell::new(0) };
    /// What the last panic said.
    static SAID: Cell<String> = const { Cell::new(String::new()) };
}

#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub months: u64,
    /// Which steps are done, each with dice of its own. `None`: all of that many months.
    pub steps: Option<Vec<u64>>,
}

impl Case {
    pub fn new(seed: u64, months: u64) -> Case {
        Case { seed, months, steps: None }
    }

    /// One line that runs it again.
    fn line(&self) -> String {
        let mut line = format!("MEMLOG_SEED={} MEMLOG_MONTHS={}", self.seed, self.months);
        if let Some(steps) = &self.steps {
            let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
            line += &format!(" MEMLOG_STEPS={}", steps.join(","));
        }
        let profile = if cfg!(debug_assertions) { "" } else { "--release " };
        format!(
            "{line} MEMLOG_TRAIL=1 cargo test {profile}--features sim --test months -- campaign \
             --nocapture"
        )
    }

    /// Runs it; if it fails, says how to run it again, and what is left of it when it is shrunk.
    pub fn run(&self) -> Tally {
        silence();
        catch_unwind(AssertUnwindSafe(|| self.go())).unwrap_or_else(|cause| {
            let (step, kind) = (STEP.get(), kind());
            eprintln!("\nstep {step}\nreproduce: {}\n", self.line());
            if self.steps.is_none() {
                let all = Case { steps: Some((0..=step).collect()), ..self.clone() };
                let least = all.shrink(&kind);
                let left = least.steps.as_ref().map_or(0, Vec::len);
                eprintln!("shrunk from {} steps to {left}: {}\n", step + 1, least.line());
            }
            resume_unwind(cause)
        })
    }

    fn go(&self) -> Tally {
        driver::begin_anew();
        let mut world = World::new(self.seed);
        world.note(|| format!("{:?}", world.flavor));
        world.open(End::PowerLost).expect("a new store opens");
        let end = EPOCH + self.months * MONTH;
        match &self.steps {
            Some(steps) => steps.iter().for_each(|step| self.step(&mut world, *step)),
            None => {
                let mut step = 0;
                while world.driver.now() < end {
                    self.step(&mut world, step);
                    step += 1;
                }
            }
        }
        self.finish(&mut world);
        world.tally
    }

    fn step(&self, world: &mut World, step: u64) {
        STEP.set(step);
        world.dice(self.seed, step);
        if phases::phase(world).and_then(|()| world.calm()).is_err() {
            world.recover();
        }
    }

    /// The end of a history: the store settles, is read whole, closed, opened and read again.
    fn finish(&self, world: &mut World) {
        world.rng = Rng::of(&[self.seed, 2]);
        world.rest(Duration::from_millis(2 * DAY)).expect("nothing goes wrong at the end");
        world.check_whole();
        world.scan();
        world.close().expect("it closes at the end");
        world.open(End::Clean).expect("it opens at the end");
        world.check_whole();
    }

    /// Whether it fails, and for the same reason.
    fn fails(&self, like: &str) -> bool {
        QUIET.set(true);
        SAID.take();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.go()));
        QUIET.set(false);
        outcome.is_err() && kind() == like
    }

    /// The fewest steps that were found to fail too.
    fn shrink(&self, like: &str) -> Case {
        let patience = crate::number("MEMLOG_SHRINK").unwrap_or(PATIENCE);
        let deadline = Instant::now() + Duration::from_secs(patience);
        let mut best = self.steps.clone().unwrap_or_default();
        let mut chunk = best.len().div_ceil(2);
        while chunk > 0 && Instant::now() < deadline {
            let mut at = 0;
            while at < best.len() && Instant::now() < deadline {
                let mut less = best.clone();
                less.drain(at..(at + chunk).min(best.len()));
                if (Case { steps: Some(less.clone()), ..self.clone() }).fails(like) {
                    best = less;
                } else {
                    at += chunk;
                }
            }
            chunk /= 2;
        }
        Case { steps: Some(best), ..self.clone() }
    }
}

/// What the last failure was about: the first word that it said.
fn kind() -> String {
    let said = SAID.take();
    said.split([':', ' ']).next().unwrap_or_default().to_owned()
}

/// Has the panics of searches say nothing.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let said = SAID.take();
            let first = said.is_empty();
            SAID.set(if first { info.payload_as_str().unwrap_or("-").to_owned() } else { said });
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
}

//! What makes a case: a history's steps and where it is to go wrong; and the search for the least
//! of it that still fails.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;
use std::time::{Duration, Instant};

use crate::campaign::{self, Sort};
use crate::rng::Rng;

/// A point from here on is a call that fails, and not one that the power fails at.
pub const FAULTS: u64 = 1 << 32;
/// From here on it is a call that only looks.
pub const LOOKS: u64 = 2 << 32;
/// How long a failure is shrunk, and how many crash points are tried for each smaller history.
const PATIENCE: Duration = Duration::from_secs(120);
const POINTS: usize = 40;

thread_local! {
    /// Panics are part of a search, and say nothing.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Where each step of a history begins: calls, and calls that only look.
pub type Starts = Vec<(u64, u64)>;

#[derive(Clone, Debug)]
pub struct Case {
    pub test: &'static str,
    pub sort: Sort,
    pub seed: u64,
    /// Which of the seed's steps are done; each has dice of its own.
    pub steps: Vec<u64>,
    /// How often the sizes of all that is put in are halved.
    pub halved: u32,
    /// Where it goes wrong, if it does.
    pub point: Option<u64>,
    /// What decides how.
    pub dice: u64,
}

impl Case {
    pub fn new(test: &'static str, sort: Sort, seed: u64) -> Case {
        // How many steps the history of a seed has.
        let more = if sort == Sort::Compacting { 40 } else { 0 };
        let steps = 8 + Rng::of(&[seed, 2]).below(40 + more);
        Case { test, sort, seed, steps: (0..steps).collect(), halved: 0, point: None, dice: 0 }
    }

    /// The case that the environment names, if it names one.
    pub fn named(test: &'static str, sort: Sort) -> Option<Case> {
        let number = |name: &str| -> Option<u64> {
            std::env::var(name).ok().map(|value| value.parse().expect("a number"))
        };
        let mut case = Case::new(test, sort, number("MEMLOG_SEED")?);
        if let Ok(steps) = std::env::var("MEMLOG_STEPS") {
            let steps = steps.split(',').filter(|step| !step.is_empty());
            case.steps = steps.map(|step| step.parse().expect("numbers")).collect();
        }
        case.halved = number("MEMLOG_HALVED").unwrap_or(0) as u32;
        case.point = number("MEMLOG_POINT");
        case.dice = number("MEMLOG_DICE").or(case.point).unwrap_or(0);
        Some(case)
    }

    pub fn at(&self, point: u64) -> Case {
        Case { point: Some(point), dice: point, ..self.clone() }
    }

    /// Dice of their own for a part of the case.
    pub fn rng(&self, part: u64) -> Rng {
        Rng::of(&[self.seed, self.dice, part])
    }

    /// One line that runs it again.
    pub fn line(&self) -> String {
        let mut line = format!("MEMLOG_SEED={}", self.seed);
        if let Some(point) = self.point {
            line += &format!(" MEMLOG_POINT={point}");
            if self.dice != point {
                line += &format!(" MEMLOG_DICE={}", self.dice);
            }
        }
        if self.steps != Case::new(self.test, self.sort, self.seed).steps {
            let steps: Vec<String> = self.steps.iter().map(u64::to_string).collect();
            line += &format!(" MEMLOG_STEPS={}", steps.join(","));
        }
        if self.halved > 0 {
            line += &format!(" MEMLOG_HALVED={}", self.halved);
        }
        format!(
            "{line} MEMLOG_TRAIL=1 cargo test --release --features sim --test crash -- {} --exact \
             --nocapture",
            self.test
        )
    }

    /// Runs it; if it fails, says how to run it again, and what is left of it when it is shrunk.
    pub fn run(&self) -> (u64, u64) {
        silence();
        catch_unwind(AssertUnwindSafe(|| campaign::run_case(self))).unwrap_or_else(|cause| {
            eprintln!("\nreproduce: {}\n", self.line());
            if std::env::var_os("MEMLOG_STEPS").is_none() {
                let least = self.shrink();
                let (from, to) = (self.steps.len(), least.steps.len());
                eprintln!("shrunk from {from} steps to {to}: {}\n", least.line());
                let _ = catch_unwind(AssertUnwindSafe(|| campaign::tell_case(&least)));
            }
            resume_unwind(cause)
        })
    }

    fn fails(&self) -> bool {
        quietly(|| campaign::run_case(self)).is_none()
    }

    /// The least that was found to fail too: with fewer steps, with smaller ones.
    fn shrink(&self) -> Case {
        let deadline = Instant::now() + PATIENCE;
        let mut best = self.clone();
        let mut chunk = best.steps.len().div_ceil(2);
        while chunk > 0 {
            let mut at = 0;
            while at < best.steps.len() && Instant::now() < deadline {
                let mut less = best.clone();
                less.steps.drain(at..(at + chunk).min(best.steps.len()));
                match less.failing_like(&best) {
                    Some(failing) => best = failing,
                    None => at += chunk,
                }
            }
            chunk /= 2;
        }
        while best.halved < 14 && Instant::now() < deadline {
            let less = Case { halved: best.halved + 1, ..best.clone() };
            let Some(failing) = less.failing_like(&best) else { break };
            best = failing;
        }
        best
    }

    /// This, with its trouble put where it fails, beginning with the place where `other` has it.
    fn failing_like(&self, other: &Case) -> Option<Case> {
        let Some(point) = other.point else { return self.fails().then(|| self.clone()) };
        let kind = point / FAULTS * FAULTS;
        let calls = |starts: Starts| -> Vec<u64> {
            starts.iter().map(|(call, look)| if kind == LOOKS { *look } else { *call }).collect()
        };
        let (theirs, mine) = (calls(other.starts()?), calls(self.starts()?));
        // Step 0 of the starts is the opening, the last one is the end.
        let step = theirs.iter().rposition(|start| *start <= point - kind)?;
        let mine_step = match step.checked_sub(1).and_then(|step| other.steps.get(step)) {
            Some(id) => 1 + self.steps.iter().position(|mine| mine == id)?,
            None => 0,
        };
        let from = *mine.get(mine_step)?;
        let to = mine.get(mine_step + 1).copied().unwrap_or(from + 1).max(from + 1);
        let wanted = from + (point - kind - theirs[step]);
        let mut calls: Vec<u64> = (from..to).collect();
        calls.sort_by_key(|call| call.abs_diff(wanted));
        let cases = calls.into_iter().take(POINTS).map(|call| Case {
            point: Some(kind + call),
            dice: other.dice,
            ..self.clone()
        });
        cases.into_iter().find(Case::fails)
    }

    fn starts(&self) -> Option<Starts> {
        quietly(|| campaign::starts(self))
    }
}

/// What comes of it, or `None` if it panics, of which nothing is said.
pub fn quietly<T>(run: impl FnOnce() -> T) -> Option<T> {
    silence();
    QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    outcome.ok()
}

/// Has the panics of searches say nothing.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
}

#[test]
fn a_failure_is_shrunk_to_the_steps_that_matter() {
    crate::campaign::fail_when(Some(3_000));
    let case = Case::new("-", Sort::Plain, 5);
    let starts = case.starts();
    assert!(starts.is_none(), "the history fails by itself");
    let least = case.shrink();
    crate::campaign::fail_when(None);
    assert!(least.steps.len() <= 2 && least.steps.len() < case.steps.len(), "{least:?}");
    assert!(!least.fails(), "it was the order to fail that made it fail");
}

//! Simulated months of a store: its background work on the clock and the disk of a simulation,
//! interleaved by seed with trickles, bursts, idle weeks, crashes, faults, full disks and clocks
//! that jump, against a model. Each simulated hour every bound that docs/operations.md states is
//! looked at.
//!
//! `MEMLOG_MONTHS=24 MEMLOG_SEEDS=100` makes a campaign of it. A failure prints the line that
//! repeats it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    unreachable_pub
)]

mod bounds;
mod checks;
mod driver;
mod ends;
mod flavor;
mod ledger;
mod marks;
mod model;
mod phases;
mod plan;
#[allow(dead_code)]
#[path = "../crash/rng.rs"]
mod rng;
mod skip;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use plan::Case;

/// Seeds that once found something, with their months and, if not all were needed, their steps, in
/// histories as they were thrown then: expired entries that a scan which did not look for such took
/// for living again, appends under a policy that woke nothing, an entry that died long before its
/// group did, a floor by bytes that nothing told of any more, and a floor by an age that was judged
/// without older segments, since the latest policy, which was not settled yet, had none; and a scan
/// that passed for a backlog.
const REGRESSIONS: &[(u64, u64, &[u64])] = &[
    (10, 1, &[]),
    (15, 1, &[]),
    (28, 1, &[]),
    (16, 1, &[]),
    (6, 24, &[791, 792, 793, 797, 799, 804, 805, 806, 807, 808]),
    (4, 24, &[791, 792, 793, 794, 795, 802, 803, 804, 805, 806, 807]),
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// So many months of so many seeds, or as many seeds as there is time for.
#[test]
fn campaign() {
    let (months, seeds) = if cfg!(debug_assertions) { (1, 1) } else { (1, 5) };
    let months = number("MEMLOG_MONTHS").unwrap_or(months);
    if let Some(seed) = number("MEMLOG_SEED") {
        let mut case = Case::new(seed, months);
        if let Ok(steps) = std::env::var("MEMLOG_STEPS") {
            let steps = steps.split(',').filter(|step| !step.is_empty());
            case.steps = Some(steps.map(|step| step.parse().expect("numbers")).collect());
        }
        println!("{:?}", case.run());
        return;
    }
    let minutes = number("MEMLOG_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
    let usual = if minutes.is_some() { u64::MAX / 2 } else { seeds };
    let seeds = number("MEMLOG_SEEDS").unwrap_or(usual);
    let first = number("MEMLOG_SEED_FROM").unwrap_or(0);
    let threads = number("MEMLOG_THREADS").unwrap_or(2);
    let (started, next) = (Instant::now(), AtomicU64::new(first));
    let done = AtomicU64::new(0);
    let over = || minutes.is_some_and(|minutes| started.elapsed() >= minutes);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        break;
                    }
                    let tally = Case::new(seed, months).run();
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    let rate = (done * months) as f64 / started.elapsed().as_secs_f64();
                    println!("seed {seed}: {rate:.2} months a second so far; {tally:?}");
                }
            });
        }
    });
    let (done, time) = (done.into_inner(), started.elapsed());
    println!(
        "campaign: {months} months of {done} seeds from {first} in {time:.1?}: {:.2} simulated \
         months a second",
        (done * months) as f64 / time.as_secs_f64()
    );
}

#[test]
fn seeds_that_once_found_something() {
    // What debug builds check besides takes its time.
    let all = if cfg!(debug_assertions) { 1 } else { REGRESSIONS.len() };
    for (seed, months, steps) in &REGRESSIONS[REGRESSIONS.len() - all..] {
        let steps = (!steps.is_empty()).then(|| steps.to_vec());
        Case { steps, ..Case::new(*seed, *months) }.run();
    }
}

//! The whole store on a simulated disk that loses power: random histories against a model, through
//! many crash points, with crashes inside of recoveries.
//!
//! `MEMLOG_CRASH_STATES=1000000` makes a campaign of it; a failure prints the command that repeats
//! it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    unreachable_pub
)]

mod campaign;
mod damage;
mod fixed;
mod flavor;
mod ledger;
mod model;
mod reads;
mod rng;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use campaign::{NESTED, STATES};

/// Seeds and points that once found something: agents() without what was buffered, a torn header of
/// a segment that nobody lists taken for data, files of dropped segments left behind.
const REGRESSIONS: &[(u64, u64)] =
    &[(1, 84), (9, 20), (10, 52), (12, 3), (121, 4_294_967_333), (184, 4_294_967_439)];
/// Crash points of one history.
const POINTS: u64 = 24;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn random_histories_survive_every_crash() {
    const TEST: &str = "random_histories_survive_every_crash";
    let started = Instant::now();
    if let Some(seed) = number("MEMLOG_SEED") {
        campaign::seed(TEST, seed, POINTS, number("MEMLOG_POINT"));
        return;
    }
    // What debug builds check besides takes its time.
    let usual = if cfg!(debug_assertions) { 10_500 } else { 30_000 };
    let wanted = number("MEMLOG_CRASH_STATES").unwrap_or(usual);
    let threads = number("MEMLOG_CRASH_THREADS").unwrap_or(2);
    let first = number("MEMLOG_CRASH_FROM").unwrap_or(0);
    let next = AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while STATES.load(Ordering::Relaxed) < wanted {
                    campaign::seed(TEST, next.fetch_add(1, Ordering::Relaxed), POINTS, None);
                }
            });
        }
    });
    println!(
        "{} crash states, {} of them inside of recoveries, of {} histories, in {:.1?}",
        STATES.load(Ordering::Relaxed),
        NESTED.load(Ordering::Relaxed),
        next.load(Ordering::Relaxed) - first,
        started.elapsed()
    );
}

#[test]
fn seeds_that_once_found_something() {
    for (seed, point) in REGRESSIONS {
        campaign::seed("random_histories_survive_every_crash", *seed, POINTS, Some(*point));
    }
}

#[test]
fn every_call_of_a_small_history() {
    let stride =
        number("MEMLOG_CRASH_STRIDE").unwrap_or(if cfg!(debug_assertions) { 11 } else { 3 });
    fixed::everywhere(3, stride);
}

#[test]
fn damage_is_never_silent() {
    const TEST: &str = "damage_is_never_silent";
    if let Some(seed) = number("MEMLOG_SEED") {
        damage::seed(TEST, seed, 40, number("MEMLOG_POINT"));
        return;
    }
    let first = number("MEMLOG_CRASH_FROM").unwrap_or(0);
    for seed in first
        ..first + number("MEMLOG_DAMAGED").unwrap_or(if cfg!(debug_assertions) { 10 } else { 40 })
    {
        damage::seed(TEST, seed, 40, None);
    }
}

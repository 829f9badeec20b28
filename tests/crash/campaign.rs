//! Histories from seeds, crashed at many calls, with crashes inside the recoveries.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::thread::LocalKey;

use memlog::sim::{SimDisk, SimFault};
use memlog::{Error, ErrorKind};

use crate::flavor::{Flavor, Trap};
use crate::ledger::{End, Ledger, look_at_all};
use crate::rng::Rng;
use crate::world::{DIR, World};

thread_local! {
    /// Crash states looked at, by this thread.
    pub static STATES: Cell<u64> = const { Cell::new(0) };
    /// Of these, crashes inside of a recovery.
    pub static NESTED: Cell<u64> = const { Cell::new(0) };
}

pub fn count(counter: &'static LocalKey<Cell<u64>>) {
    counter.set(counter.get() + 1);
}

/// Runs one case; if it fails, says how to run it again.
pub fn case<T>(test: &str, seed: u64, point: Option<u64>, run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|cause| {
        let point = point.map(|point| format!("MEMLOG_POINT={point} ")).unwrap_or_default();
        eprintln!(
            "\nreproduce: MEMLOG_SEED={seed} {point}MEMLOG_TRAIL=1 cargo test --release \
             --features sim --test crash -- {test} --exact --nocapture\n"
        );
        resume_unwind(cause)
    })
}

/// What histories of a test have in them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Batches alone.
    Plain,
    /// Compactions, purges and backups besides.
    Compacting,
}

/// A fresh world for a seed.
fn world(sort: Sort, seed: u64, trap: Trap) -> World {
    let mut rng = Rng::of(&[seed, 1]);
    let flavor = match sort {
        Sort::Plain => Flavor::of(&mut rng),
        Sort::Compacting => Flavor::compacting(&mut rng),
    };
    let disk = SimDisk::new(seed);
    let mut world = World::new(disk, Ledger::new(), flavor, rng);
    world.trap = trap;
    world.trouble = !matches!(trap, Trap::None);
    world.arm();
    world
}

/// Runs a history to its end, or to where its trap lets it get.
fn run(world: &mut World, steps: u64, end: End) -> Result<(), Error> {
    world.open(end)?;
    world.clear_doubts()?;
    let mut patience = 6;
    for _ in 0..steps {
        let outcome = world.step();
        if outcome.is_err() && matches!(world.trap, Trap::Crash { .. }) && world.trapped() {
            return outcome;
        }
        if world.store.is_none() {
            return outcome;
        }
        if world.trapped() {
            patience -= 1;
            if patience == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// How many steps the history of a seed has.
fn steps(sort: Sort, seed: u64) -> u64 {
    let more = if sort == Sort::Compacting { 40 } else { 0 };
    8 + Rng::of(&[seed, 2]).below(40 + more)
}

/// One seed: its history without trouble, then crashed, then with faults.
pub fn seed(test: &str, sort: Sort, seed: u64, points: u64, only: Option<u64>) {
    let calls = case(test, seed, None, || {
        let mut world = world(sort, seed, Trap::None);
        run(&mut world, steps(sort, seed), End::PowerLost).unwrap();
        world.check_held();
        world.disk.calls()
    });
    let mut rng = Rng::of(&[seed, 3]);
    let mut chosen: Vec<u64> = if calls <= points {
        (0..calls).collect()
    } else {
        (0..points).map(|i| calls * i / points + rng.below(calls / points)).collect()
    };
    // Beyond the calls there are the faults.
    let faults: Vec<u64> = (0..points / 3).map(|_| (1 << 32) + rng.below(calls)).collect();
    chosen.extend(faults);
    for point in chosen {
        if only.is_none_or(|only| only == point) {
            case(test, seed, Some(point), || {
                if point < 1 << 32 {
                    crash(sort, seed, point);
                } else {
                    fault(sort, seed, point - (1 << 32));
                }
            });
        }
    }
}

/// The history crashes at a call: each of several outcomes is recovered from.
fn crash(sort: Sort, seed: u64, call: u64) {
    let mut world = world(sort, seed, Trap::Crash { call });
    // A crash may also hit a call whose failure nobody need mention.
    let _ = run(&mut world, steps(sort, seed), End::PowerLost);
    let mut rng = Rng::of(&[seed, call, 4]);
    for outcome in 0..4u64 {
        let killed = rng.one_in(4);
        let disk = if killed {
            let disk = world.disk.fork();
            disk.restart();
            disk
        } else {
            world.disk.fork_without_power(rng.next())
        };
        let end = if killed { End::Killed } else { End::PowerLost };
        let rng = Rng::of(&[seed, call, outcome, 5]);
        recover(disk, world.ledger.clone(), world.flavor.clone(), end, rng, 0);
    }
    world.abandon();
}

/// The history meets a fault at a call, and its process goes on or ends.
fn fault(sort: Sort, seed: u64, call: u64) {
    let mut rng = Rng::of(&[seed, call, 6]);
    let fault = *rng.pick(&[SimFault::Eio, SimFault::Eio, SimFault::NoSpace, SimFault::ShortWrite]);
    let trap = Trap::Fault { call, fault, sticky: rng.one_in(3) };
    let mut world = world(sort, seed, trap);
    let _ = run(&mut world, steps(sort, seed), End::PowerLost);
    world.check_held();
    count(&STATES);
    let disk = world.disk.clone();
    let same_process = rng.one_in(3);
    if rng.one_in(2) {
        disk.evict();
    }
    if same_process {
        // What the store does at its end meets the fault too, or not.
        if rng.one_in(2) {
            disk.clear_faults();
        }
        world.abandon();
        disk.clear_faults();
    } else {
        let (seed, kill) = (rng.next(), rng.one_in(2));
        if kill {
            disk.restart();
        } else {
            disk.power_cycle(seed);
        }
        world.abandon();
    }
    // A failed sync loses what the process was told is written.
    recover(disk, world.ledger.clone(), world.flavor.clone(), End::PowerLost, rng, 0);
}

/// Opens after a crash, crashing again inside the recovery, up to three times; then goes on with
/// another life, which crashes too.
fn recover(disk: SimDisk, ledger: Ledger, flavor: Flavor, mut end: End, mut rng: Rng, life: u64) {
    count(&STATES);
    let mut world = World::new(disk, ledger, flavor, rng.clone());
    for _ in 0..rng.below(4) {
        world.trouble = true;
        let call = world.disk.calls() + rng.below(26);
        world.disk.crash_at(call);
        let opened = world.flavor.options.open_on(&world.disk, DIR);
        check_refusal(opened.as_ref().err());
        let there = world.disk.calls() > call;
        drop(opened);
        if there || rng.one_in(2) {
            count(&NESTED);
            count(&STATES);
        }
        if rng.one_in(4) {
            world.disk.restart();
        } else {
            world.disk.power_cycle(rng.next());
            end = End::PowerLost;
        }
    }
    world.trouble = false;
    if let Err(error) = world.open(end) {
        panic!("opening after a crash is refused: {error:?}");
    }
    settled(&world, &mut rng);
    if life >= 2 || !rng.one_in(3) {
        return;
    }
    another_life(world, rng, life);
}

/// A crash is never corruption.
fn check_refusal(error: Option<&Error>) {
    if let Some(error) = error {
        let fine = [ErrorKind::Io, ErrorKind::Indeterminate].contains(&error.kind());
        assert!(fine, "a recovery that was cut short says {error:?}");
    }
}

/// What was recovered once stays: after a crash right away, and after a clean close.
fn settled(world: &World, rng: &mut Rng) {
    check_files(world);
    if world.flavor.compacts && rng.one_in(4) {
        world.check_backup(rng.next());
    }
    let store = world.store.clone().unwrap();
    let seen = look_at_all(&store).unwrap();
    for _ in 0..=rng.below(2) {
        let disk = if rng.one_in(4) {
            world.disk.fork()
        } else {
            world.disk.fork_without_power(rng.next())
        };
        let again = world.flavor.options.open_on(&disk, DIR);
        let again = again.unwrap_or_else(|e| panic!("the second recovery is refused: {e:?}"));
        let now = look_at_all(&again).unwrap();
        assert!(now == seen, "the second recovery differs:\n{seen:?}\n{now:?}");
        world.ledger.bytes.check(&disk, DIR, "after the second recovery");
        assert!(again.incarnation() > store.incarnation(), "the incarnation is an old one");
        if rng.one_in(2) {
            again.close().unwrap();
            drop(again);
            let again = world.flavor.options.open_on(&disk, DIR).unwrap();
            assert!(look_at_all(&again).unwrap() == seen, "the store differs after a close");
            assert!(again.verify().unwrap().is_empty(), "verify after a close");
        }
    }
}

/// No file is left that nobody knows.
fn check_files(world: &World) {
    let stats = world.store.as_ref().unwrap().stats();
    let files = world.disk.files();
    let known = ["LOCK", "MANIFEST", "RESERVE"];
    let ours = files.iter().filter(|f| f.starts_with(DIR) && !known.iter().any(|k| f.ends_with(k)));
    let ours: Vec<_> = ours.collect();
    let segment = |f: &&&PathBuf| f.extension().is_some_and(|e| e == "log" || e == "run");
    assert!(ours.iter().all(|f| segment(&f)), "a leftover: {files:?}");
    let listed = stats.segments + stats.unsealed_segments;
    assert_eq!(ours.len() as u64, listed, "files: {files:?}, {stats:?}");
}

fn another_life(mut world: World, mut rng: Rng, life: u64) {
    world.clear_doubts().unwrap();
    world.trouble = true;
    world.trap = Trap::Crash { call: world.disk.calls() + rng.below(60) };
    world.arm();
    for _ in 0..25 {
        if world.step().is_err() && world.trapped() {
            break;
        }
    }
    let disk = if world.trapped() || rng.one_in(2) {
        world.disk.fork_without_power(rng.next())
    } else {
        world.disk.clear_faults();
        world.disk.fork()
    };
    let (ledger, flavor) = (world.ledger.clone(), world.flavor.clone());
    world.abandon();
    recover(disk, ledger, flavor, End::PowerLost, rng, life + 1);
}

/// A history run to its end without trouble and closed, with what it came to.
pub fn finished_history(seed: u64) -> (SimDisk, Ledger, Flavor) {
    let mut world = world(Sort::Plain, seed, Trap::None);
    world.ledger.ever = Some(std::collections::BTreeMap::new());
    run(&mut world, 10 + Rng::of(&[seed, 2]).below(60), End::PowerLost).unwrap();
    world.finish();
    (world.disk.clone(), world.ledger.clone(), world.flavor.clone())
}

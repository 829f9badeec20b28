//! Histories from seeds, crashed at many calls, with crashes inside the recoveries.

use std::cell::Cell;
use std::path::PathBuf;
use std::thread::LocalKey;

use memlog::sim::{SimDisk, SimFault};
use memlog::{Error, ErrorKind};

use crate::flavor::{Flavor, Trap};
use crate::ledger::{End, Ledger, look_at_all};
use crate::plan::{Case, FAULTS, LOOKS, Starts};
use crate::rng::Rng;
use crate::world::{DIR, World};

thread_local! {
    /// Crash states that a store was opened from, by this thread.
    pub static STATES: Cell<u64> = const { Cell::new(0) };
    /// Of these, crashes inside of a recovery, and inside of the recovery from such a crash.
    pub static NESTED: Cell<u64> = const { Cell::new(0) };
    pub static DEEP: Cell<u64> = const { Cell::new(0) };
    /// For the test of shrinking: a step that puts in so many bytes fails.
    static FAIL_WHEN: Cell<Option<u64>> = const { Cell::new(None) };
}

pub fn count(counter: &'static LocalKey<Cell<u64>>) {
    counter.set(counter.get() + 1);
}

/// Counts a state, by how many recoveries were cut short before it.
pub fn count_state(depth: u64) {
    count(&STATES);
    if depth > 0 {
        count(&NESTED);
    }
    if depth > 1 {
        count(&DEEP);
    }
}

pub fn fail_when(bytes: Option<u64>) {
    FAIL_WHEN.set(bytes);
}

/// Whether a step that puts in so many bytes is to fail.
pub fn is_to_fail(bytes: usize) -> bool {
    FAIL_WHEN.get().is_some_and(|least| bytes as u64 >= least)
}

/// What histories of a test have in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Batches alone.
    Plain,
    /// Compactions, purges and backups besides.
    Compacting,
}

/// A fresh world for a case.
fn world(case: &Case, trap: Trap) -> World {
    let mut rng = Rng::of(&[case.seed, 1]);
    let flavor = match case.sort {
        Sort::Plain => Flavor::of(&mut rng),
        Sort::Compacting => Flavor::compacting(&mut rng),
    };
    let disk = SimDisk::new(case.seed);
    disk.set_hard_links(flavor.links);
    let mut world = World::new(disk, Ledger::new(), flavor, rng);
    world.halved = case.halved;
    world.trap = trap;
    world.trouble = !matches!(trap, Trap::None);
    world.arm();
    world
}

/// Runs a history to its end, or to where its trap lets it get. Each step has dice of its own, so
/// that it stays what it is when others are left out.
fn run(world: &mut World, case: &Case, starts: &mut Starts) -> Result<(), Error> {
    starts.push((world.disk.calls(), world.disk.reads()));
    world.open(End::PowerLost)?;
    world.clear_doubts()?;
    let mut patience = 6;
    for step in &case.steps {
        starts.push((world.disk.calls(), world.disk.reads()));
        world.rng = Rng::of(&[case.seed, *step, 7]);
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
    starts.push((world.disk.calls(), world.disk.reads()));
    Ok(())
}

/// Where the steps of a case begin if nothing goes wrong.
pub fn starts(case: &Case) -> Starts {
    let mut world = world(case, Trap::None);
    let mut starts = Starts::new();
    run(&mut world, case, &mut starts).unwrap();
    starts
}

/// Runs a case; gives the calls that its history has, and those that only look.
pub fn run_case(case: &Case) -> (u64, u64) {
    match case.point {
        None => {
            let mut world = world(case, Trap::None);
            run(&mut world, case, &mut Starts::new()).unwrap();
            world.check_held();
            return (world.disk.calls(), world.disk.reads());
        }
        Some(point) if point < FAULTS => crash(case, point),
        Some(point) => fault(case, point),
    }
    (0, 0)
}

/// Runs a case as far as its trouble, telling each step.
pub fn tell_case(case: &Case) {
    eprintln!("its history:");
    let trap = match case.point {
        None => Trap::None,
        Some(point) if point < FAULTS => Trap::Crash { call: point },
        Some(point) => fault_trap(case, point).0,
    };
    let mut world = world(case, trap);
    world.verbose = true;
    let _ = run(&mut world, case, &mut Starts::new());
}

/// One seed: its history without trouble, then crashed, then with faults.
pub fn seed(test: &'static str, sort: Sort, seed: u64, points: u64) {
    let case = Case::new(test, sort, seed);
    let (calls, reads) = case.run();
    let mut rng = Rng::of(&[seed, 3]);
    let mut chosen: Vec<u64> = if calls <= points {
        (0..calls).collect()
    } else {
        (0..points).map(|i| calls * i / points + rng.below(calls / points)).collect()
    };
    chosen.extend((0..points / 3).map(|_| FAULTS + rng.below(calls)));
    chosen.extend((0..points / 8).map(|_| LOOKS + rng.below(reads)));
    for point in chosen {
        case.at(point).run();
    }
}

/// The history crashes at a call: each of several outcomes is recovered from.
fn crash(case: &Case, call: u64) {
    let mut world = world(case, Trap::Crash { call });
    // A crash may also hit a call whose failure nobody need mention.
    let _ = run(&mut world, case, &mut Starts::new());
    let mut rng = case.rng(4);
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
        let rng = Rng::of(&[case.seed, case.dice, outcome, 5]);
        recover(disk, world.ledger.clone(), world.flavor.clone(), end, rng, 0);
    }
    world.abandon();
}

/// The trap of a case with a fault, and the dice left.
fn fault_trap(case: &Case, point: u64) -> (Trap, Rng) {
    let mut rng = case.rng(6);
    let faults = [
        SimFault::Eio,
        SimFault::Eio,
        SimFault::NoSpace,
        SimFault::ShortWrite,
        SimFault::Writeback,
    ];
    let fault = *rng.pick(&faults);
    let sticky = rng.one_in(3);
    let trap = if point >= LOOKS {
        Trap::Look { read: point - LOOKS, sticky }
    } else {
        Trap::Fault { call: point - FAULTS, fault, sticky }
    };
    (trap, rng)
}

/// The history meets a fault at a call, and its process goes on or ends.
fn fault(case: &Case, point: u64) {
    let (trap, mut rng) = fault_trap(case, point);
    let mut world = world(case, trap);
    let _ = run(&mut world, case, &mut Starts::new());
    world.check_held();
    count_state(0);
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
    count_state(0);
    let mut world = World::new(disk, ledger, flavor, rng.clone());
    let mut depth = 0;
    for _ in 0..rng.below(4) {
        world.trouble = true;
        let call = world.disk.calls() + rng.below(26);
        if rng.one_in(8) {
            world.disk.fail_read_at(world.disk.reads() + rng.below(26), rng.one_in(2));
        } else {
            world.disk.crash_at(call);
        }
        let opened = world.flavor.options.open_on(&world.disk, DIR);
        check_refusal(opened.as_ref().err());
        depth += u64::from(world.disk.calls() > call);
        drop(opened);
        count_state(depth);
        if rng.one_in(4) {
            world.disk.restart();
        } else {
            world.disk.power_cycle(rng.next());
            end = End::PowerLost;
        }
    }
    world.trouble = false;
    // A write that was lost later, and of which nobody had heard, fails a sync of whoever opens the
    // file next: once, and with nothing but that.
    let mut owes_an_error = world.disk.owes_an_error();
    while let Err(error) = world.open(end) {
        let told = owes_an_error && error.kind() == ErrorKind::Io;
        assert!(told, "opening after a crash is refused: {error:?}");
        owes_an_error = world.disk.owes_an_error();
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
        count_state(1);
        let now = look_at_all(&again).unwrap();
        assert!(now == seen, "the second recovery differs:\n{seen:?}\n{now:?}");
        if rng.one_in(4) {
            world.ledger.bytes.check(&disk, DIR, "after the second recovery");
        }
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
    let known = ["LOCK", "MANIFEST", "RESERVE", "RESERVE.open"];
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
pub fn finished_history(sort: Sort, seed: u64) -> (SimDisk, Ledger, Flavor) {
    whole_history(sort, seed, |_| {})
}

/// The same on a disk that does something else with a write than it says. The history has no other
/// end of a process than a close: it goes on in memory as if nothing were wrong.
pub fn misled_history(
    sort: Sort,
    seed: u64,
    (call, fault): (u64, SimFault),
) -> (SimDisk, Ledger, Flavor) {
    whole_history(sort, seed, |world| {
        world.stays = true;
        world.disk.fail_at(call, fault, false);
    })
}

fn whole_history(
    sort: Sort,
    seed: u64,
    prepare: impl FnOnce(&mut World),
) -> (SimDisk, Ledger, Flavor) {
    let case = Case::new("-", sort, seed);
    let mut world = world(&case, Trap::None);
    world.ledger.ever = Some(std::collections::BTreeMap::new());
    prepare(&mut world);
    run(&mut world, &case, &mut Starts::new()).unwrap();
    world.finish();
    (world.disk.clone(), world.ledger.clone(), world.flavor.clone())
}

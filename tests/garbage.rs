//! What is dead is found and given back without any call, on a simulated clock.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memlog::sim::{SimDisk, SimTasks};
use memlog::{Durability, Kind, Maintenance, NewEntry, Options, Retention, Store};

const DIR: &str = "/mem";
const SECRET: &[u8] = b"SECRETSECRETSECRET";
const MINUTE: Duration = Duration::from_secs(60);
const WITHIN: Duration = Duration::from_secs(600);

struct World {
    disk: SimDisk,
    tasks: SimTasks,
    store: Store,
}

impl World {
    fn new(options: &Options) -> World {
        let disk = SimDisk::new(1);
        let tasks = SimTasks::new(&disk, 2);
        let store = options.open_stepped(&disk, &tasks, DIR).unwrap();
        World { disk, tasks, store }
    }

    /// Closes the store and opens it again: no agent is in use then.
    fn reopen(&mut self, options: &Options) {
        self.store.close().unwrap();
        self.store = options.open_stepped(&self.disk, &self.tasks, DIR).unwrap();
    }

    fn append(&self, name: &str, payload: &[u8]) {
        self.store.agent(name).unwrap().append(NewEntry::new(Kind::USER, payload)).unwrap();
    }

    /// The files that hold the secret.
    fn holders(&self) -> Vec<String> {
        let files = self.disk.files().into_iter().filter(|file| {
            let bytes = self.disk.read_file(file).unwrap_or_default();
            bytes.windows(SECRET.len()).any(|window| window == SECRET)
        });
        files.map(|file| file.display().to_string()).collect()
    }

    fn now(&self) -> SystemTime {
        // The simulated wall clock, as the store stamps it.
        self.append("clock", b"tick");
        let view = self.store.agent("clock").unwrap().view().unwrap();
        let at = view.latest(1).next().unwrap().unwrap().at();
        UNIX_EPOCH + at.duration_since(UNIX_EPOCH).unwrap()
    }
}

fn options() -> Options {
    Options::new().segment_bytes(256 << 10).durability(Durability::Sync)
}

/// How the secret dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Forget,
    ForgetPrefix,
    Truncate,
    Redact,
    Expire,
    Policy,
    Age,
    Overwrite,
}

const DEATHS: [Death; 8] = [
    Death::Forget,
    Death::ForgetPrefix,
    Death::Truncate,
    Death::Redact,
    Death::Expire,
    Death::Policy,
    Death::Age,
    Death::Overwrite,
];

/// A store with the secret in it, in the state asked for; then the secret dies.
fn kill(death: Death, cold: bool, options: &Options) -> World {
    let mut world = World::new(options);
    let victim = world.store.agent("t/victim").unwrap();
    let secret = NewEntry::new(Kind::USER, SECRET);
    let expires = world.now() + MINUTE * 5;
    match death {
        Death::Expire => drop(victim.append(secret.expires_at(expires)).unwrap()),
        Death::Overwrite => drop(world.store.batch().set(&victim, "key", SECRET).commit().unwrap()),
        _ => drop(victim.append(secret).unwrap()),
    }
    for number in 0..20 {
        victim.append(NewEntry::user(&format!("victim {number}"))).unwrap();
        world.append("other", b"lives on");
    }
    if cold {
        world.store.compact().unwrap();
        world.reopen(options);
        // The scan behind the opening is over: only the death itself can make another one due.
        world.tasks.run_for(MINUTE * 2);
    }
    let victim = world.store.agent("t/victim").unwrap();
    match death {
        Death::Forget => victim.forget().unwrap(),
        Death::ForgetPrefix => drop(world.store.forget_prefix("t/").unwrap()),
        Death::Truncate => victim.truncate_before(5).unwrap(),
        Death::Redact => victim.redact(1).unwrap(),
        Death::Policy => {
            victim.set_retention(Some(Retention::new().max_entries(3))).unwrap();
        }
        Death::Age => {
            victim.set_retention(Some(Retention::new().max_age(MINUTE * 3))).unwrap();
        }
        Death::Overwrite => drop(world.store.batch().set(&victim, "key", "new").commit().unwrap()),
        Death::Expire => {}
    }
    drop(victim);
    if matches!(death, Death::Expire | Death::Age) {
        world.tasks.run_for(MINUTE * 5);
    }
    world
}

#[test]
fn whatever_dies_in_whatever_way_is_erased_within_the_time() {
    for death in DEATHS {
        for cold in [false, true] {
            let world = kill(death, cold, &options().erase_within(WITHIN));
            world.tasks.run_for(WITHIN);
            let holders = world.holders();
            assert!(holders.is_empty(), "{death:?}, cold {cold}: {holders:?}");
            let others = world.store.agent("other").unwrap().view().unwrap().iter().count();
            assert_eq!(others, 20);
        }
    }
}

#[test]
fn a_death_before_a_crash_is_erased_within_the_time() {
    for death in DEATHS {
        let options = options().erase_within(WITHIN);
        let mut world = kill(death, true, &options);
        world.disk.power_cycle(7);
        world.tasks.kill();
        world.store = options.open_stepped(&world.disk, &world.tasks, DIR).unwrap();
        world.tasks.run_for(WITHIN);
        let holders = world.holders();
        assert!(holders.is_empty(), "{death:?}: {holders:?}");
    }
}

#[test]
fn a_store_at_rest_without_anything_dead_does_nothing() {
    let world = World::new(&options().erase_within(WITHIN));
    (0..200).for_each(|number| world.append(&format!("a/{number}"), &[7; 3000]));
    world.tasks.run_for(MINUTE * 60);
    let calls = world.disk.calls();
    world.tasks.run_for(MINUTE * 60 * 24 * 30);
    assert_eq!(world.disk.calls(), calls, "a month of rest");
}

#[test]
fn forgetting_gives_space_back_in_a_store_at_rest() {
    let mut world = World::new(&options());
    for number in 0..2000 {
        world.append(&format!("t/{}", number % 100), &[7; 4000]);
    }
    world.append("lives", b"on");
    for cold in [false, true] {
        if cold {
            (0..1000).for_each(|number| world.append(&format!("t/{}", number % 100), &[7; 4000]));
            world.reopen(&options());
            world.tasks.run_for(MINUTE * 2);
        }
        let before = world.store.stats();
        assert!(before.live_bytes > 3 << 20, "{before:?}");
        world.store.forget_prefix("t/").unwrap();
        world.tasks.run_for(MINUTE * 2);
        let after = world.store.stats();
        assert!(after.live_bytes + after.dead_bytes < 300 << 10, "cold {cold}: {after:?}");
    }
}

#[test]
fn expired_bytes_are_given_back_in_a_store_at_rest() {
    let world = World::new(&options());
    let soon = world.now() + MINUTE * 60;
    for number in 0..1000 {
        let agent = world.store.agent(&format!("t/{}", number % 100)).unwrap();
        agent.append(NewEntry::new(Kind::USER, &[7; 4000]).expires_at(soon)).unwrap();
    }
    world.tasks.run_for(MINUTE * 50);
    assert!(world.store.stats().live_bytes > 3 << 20);
    world.tasks.run_for(MINUTE * 15);
    let after = world.store.stats();
    assert!(after.live_bytes + after.dead_bytes < 700 << 10, "{after:?}");
}

#[test]
fn policies_of_agents_bound_the_disk_in_the_background() {
    let world = World::new(&options());
    for agent in 0..4 {
        let agent = world.store.agent(&format!("a/{agent}")).unwrap();
        agent.append(NewEntry::user("first")).unwrap();
        agent.set_retention(Some(Retention::new().max_entries(10))).unwrap();
    }
    let mut most = 0;
    for number in 0..4000 {
        world.append(&format!("a/{}", number % 4), &[7; 5000]);
        world.tasks.run_for(Duration::from_secs(1));
        most = most.max(world.store.stats().disk_bytes);
    }
    // 20 MB were appended, of which 0.2 MB live.
    assert!(most < 8 << 20, "{most} bytes at most");
    assert_eq!(world.store.agent("a/1").unwrap().view().unwrap().iter().count(), 10);
}

#[test]
fn a_damaged_footer_keeps_nothing_else_from_compaction_nor_from_erasure() {
    let mut world = World::new(&options());
    world.append("cold/one", b"in the first segment");
    world.append("t/victim", b"whatever");
    (0..100).for_each(|number| world.append(&format!("a/{}", number % 4), &[7; 5000]));
    world.store.close().unwrap();
    // A block of the first segment's footer: that of the cold agent.
    let file = format!("{DIR}/0000000000000001.log");
    let bytes = world.disk.read_file(&file).unwrap();
    let name = b"cold/one";
    let at = bytes.windows(name.len()).rposition(|window| window == name).unwrap();
    assert!(world.disk.flip_bit(&file, at as u64, 3));
    world.store = options().open_stepped(&world.disk, &world.tasks, DIR).unwrap();
    world.tasks.run_for(MINUTE * 2);

    let churn = |world: &World| {
        for number in 0..2000 {
            world.append(&format!("a/{}", number % 4), &[7; 5000]);
            if number % 100 == 99 {
                let agent = world.store.agent(&format!("a/{}", number / 100 % 4)).unwrap();
                let next = agent.view().unwrap().next_seq();
                agent.truncate_before(next - 5).unwrap();
            }
            world.tasks.run_for(Duration::from_secs(1));
        }
        world.tasks.run_for(MINUTE * 2);
    };
    churn(&world);
    let stats = world.store.stats();
    assert!(stats.compaction_bytes > 0, "{stats:?}");
    assert!(stats.quarantined_bytes > 0 && stats.quarantined_bytes < 1 << 20, "{stats:?}");
    assert!(stats.disk_bytes < 8 << 20, "{stats:?}");

    // What lies in other segments is erased; the report names the one that cannot be read.
    world.append("t/victim", SECRET);
    (0..100).for_each(|number| world.append(&format!("a/{}", number % 4), &[7; 5000]));
    world.store.agent("t/victim").unwrap().forget().unwrap();
    let report = world.store.purge().unwrap();
    assert_eq!(report.damaged, [std::path::PathBuf::from(&file)]);
    assert!(!report.is_complete());
    assert_eq!(world.holders(), Vec::<String>::new());
    assert_eq!(
        world.store.agent("cold/one").unwrap().view().unwrap_err().kind(),
        memlog::ErrorKind::Damaged
    );
}

#[test]
fn thousands_of_forgotten_prefixes_leave_the_manifest_by_themselves() {
    let world = World::new(&options());
    let manifest = || world.disk.read_file(format!("{DIR}/MANIFEST")).unwrap().len();
    // Nothing is held against these.
    for number in 0..3000 {
        world.store.forget_prefix(&format!("tenant-{number:08}/")).unwrap();
    }
    // A few bytes of garbage among much that lives: too little to reclaim.
    for number in 0..1500 {
        world.append(&format!("t-{number:08}/gone/a"), b"x");
        world.append(&format!("t-{number:08}/live"), &[7; 2000]);
    }
    // In runs nothing but erasure takes it away.
    world.store.compact().unwrap();
    for number in 0..1500 {
        world.store.forget_prefix(&format!("t-{number:08}/gone/")).unwrap();
    }
    // The forgettings are sealed, and their lines listed.
    (0..300).for_each(|_| world.append("t-00000000/live", &[7; 2000]));
    world.tasks.run_for(MINUTE * 5);
    assert!(manifest() < 20_000, "{} bytes of manifest", manifest());
    // No run makes room for prefixes that it will not have.
    let stats = world.store.stats();
    assert!(stats.footer_bytes < 600_000, "{stats:?}");
    assert_eq!(world.store.agents("").count(), 1500);
}

#[test]
fn a_call_of_compact_scans_once() {
    let world = World::new(&options().retention(Retention::new().max_entries(50)));
    for number in 0..20_000 {
        world.append(&format!("a/{}", number % 500), &[7; 300]);
    }
    world.tasks.run_for(MINUTE);
    let before = world.store.stats();
    world.store.compact().unwrap();
    let after = world.store.stats();
    let written = after.compaction_bytes - before.compaction_bytes;
    assert!(written >= after.live_bytes, "{before:?} {after:?}");
    assert!(after.garbage_scans - before.garbage_scans <= 1, "{before:?} {after:?}");
}

/// What a footer that cannot be read says of an agent is not known: its policy may be a looser one.
#[test]
fn no_policy_drops_anything_beside_a_footer_that_cannot_be_read() {
    let mut world = World::new(&options());
    world.store.close().unwrap();
    // Nothing is compacted before the damage.
    let manual = options().maintenance(Maintenance::Manual);
    world.store = manual.open_on(&world.disk, DIR).unwrap();
    let agent = || world.store.agent("t/agent").unwrap();
    let fill = |world: &World, rounds: u32| {
        (0..rounds).for_each(|number| world.append(&format!("a/{}", number % 4), &[7; 5000]));
    };
    agent().set_retention(Some(Retention::new().max_entries(100))).unwrap();
    (0..60).for_each(|number| world.append("t/agent", format!("first {number}").as_bytes()));
    fill(&world, 100);
    // The policy is loosened, far behind the entries, and many more follow.
    agent().set_retention(Some(Retention::new().max_entries(10_000))).unwrap();
    fill(&world, 100);
    (0..200).for_each(|number| world.append("t/agent", format!("then {number}").as_bytes()));
    fill(&world, 100);
    world.store.close().unwrap();
    let name = b"t/agent";
    let loosened = world.disk.files().into_iter().filter(|file| {
        let bytes = world.disk.read_file(file).unwrap();
        let footer = bytes.windows(name.len()).rposition(|window| window == name);
        let policy = 10_000_u64.to_le_bytes();
        let frames = bytes.windows(8).any(|window| window == policy);
        footer.is_some() && frames && file.extension().is_some_and(|kind| kind == "log")
    });
    let loosened: Vec<_> = loosened.collect();
    assert_eq!(loosened.len(), 1, "{loosened:?}");
    let bytes = world.disk.read_file(&loosened[0]).unwrap();
    let at = bytes.windows(name.len()).rposition(|window| window == name).unwrap();
    assert!(world.disk.flip_bit(&loosened[0], at as u64, 3));
    world.store = options().open_stepped(&world.disk, &world.tasks, DIR).unwrap();
    let _ = world.store.compact();
    world.tasks.run_for(MINUTE * 10);
    world.store.close().unwrap();
    let store = options().salvage(true).open_on(&world.disk, DIR).unwrap();
    let view = store.agent("t/agent").unwrap().view().unwrap();
    for seq in 1..=60 {
        assert!(view.get(seq).unwrap().is_some(), "seq {seq}");
    }
}

/// No death and no seal says that an append has pushed an entry out.
#[test]
fn what_an_append_pushes_out_of_a_store_at_rest_is_erased_within_the_time() {
    for by_default in [false, true] {
        let policy = Retention::new().max_entries(3);
        let mut options = options().erase_within(WITHIN);
        if by_default {
            options = options.retention(policy);
        }
        let world = World::new(&options);
        let agent = world.store.agent("t/victim").unwrap();
        agent.append(NewEntry::user("first")).unwrap();
        if !by_default {
            agent.set_retention(Some(policy)).unwrap();
        }
        agent.append(NewEntry::new(Kind::USER, SECRET)).unwrap();
        world.tasks.run_for(WITHIN * 6);
        assert!(!world.holders().is_empty());
        for number in 0..5 {
            agent.append(NewEntry::user(&format!("{number}"))).unwrap();
        }
        world.tasks.run_for(WITHIN);
        let holders = world.holders();
        assert!(holders.is_empty(), "by default {by_default}: {holders:?}");
    }
}

/// An entry dies of its own age, not with those that came behind it.
#[test]
fn the_oldest_of_many_entries_is_erased_within_the_time_of_its_own_death() {
    let age = MINUTE * 120;
    let world =
        World::new(&options().erase_within(WITHIN).retention(Retention::new().max_age(age)));
    world.append("t/victim", SECRET);
    for number in 0..40 {
        world.append("t/victim", format!("{number}").as_bytes());
        world.tasks.run_for(MINUTE);
    }
    world.tasks.run_for(age - MINUTE * 42);
    assert!(!world.holders().is_empty());
    world.tasks.run_for(MINUTE * 2 + WITHIN);
    assert!(world.holders().is_empty(), "{:?}", world.holders());
    assert!(world.store.agent("t/victim").unwrap().view().unwrap().iter().count() > 20);
}

/// A run that another one follows ends at the name that the other begins with.
#[test]
fn a_purge_leaves_no_forgotten_name_as_a_bound_of_a_run() {
    let world = World::new(&options());
    let name = |number: u64| format!("tenant/{number:06}/agent");
    (0..1500).for_each(|number| world.append(&name(number), &[7; 2000]));
    world.store.compact().unwrap();
    let runs = || {
        let files = world.disk.files().into_iter();
        let runs = files.filter(|file| file.extension().is_some_and(|x| x == "run"));
        runs.map(|run| world.disk.read_file(run).unwrap()).collect::<Vec<_>>()
    };
    // The names in each run.
    let names = |run: &Vec<u8>| -> BTreeSet<Vec<u8>> {
        let starts = (0..run.len()).filter(|at| run[*at..].starts_with(b"tenant/"));
        starts.map(|at| run[at..run.len().min(at + 19)].to_vec()).collect()
    };
    let mut bounds: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for names in runs().iter().map(names) {
        bounds.extend(names.intersection(&seen).cloned());
        seen.extend(names);
    }
    assert!(!bounds.is_empty());
    for name in &bounds {
        world.store.agent(std::str::from_utf8(name).unwrap()).unwrap().forget().unwrap();
    }
    world.store.purge().unwrap();
    for names in runs().iter().map(names) {
        assert!(names.is_disjoint(&bounds), "{bounds:?}");
    }
}

/// Log segments do not wait for more of them for ever.
#[test]
fn the_log_of_a_store_at_rest_is_clustered() {
    let world = World::new(&options());
    // Fewer segments than a job in a busy store takes.
    for number in 0..200 {
        world.append(&format!("a/{}", number % 100), &[7; 4000]);
    }
    let before = world.store.stats();
    assert!(before.segments >= 2, "{before:?}");
    assert_eq!(before.compaction_bytes, 0);
    world.tasks.run_for(MINUTE * 2);
    let after = world.store.stats();
    let logs = world.disk.files().into_iter().filter(|f| f.extension().is_some_and(|x| x == "log"));
    assert_eq!(logs.count() as u64, after.unsealed_segments, "{after:?}");
    let calls = world.disk.calls();
    world.tasks.run_for(MINUTE * 60 * 24);
    assert_eq!(world.disk.calls(), calls, "it has settled");
}

//! Random histories on a simulated disk, with compaction, reopenings and losses of power between
//! purges.

use std::time::{Duration, UNIX_EPOCH};

use memlog::sim::{SimDisk, SimTasks};
use memlog::{CompactOutcome, Durability, Kind, Maintenance, NewEntry, Options, Retention, Store};

use crate::{check_sim, mark};

const DIR: &str = "/mem";
/// A name, and so a prefix with its slash, has at most so many bytes.
const LONGEST: usize = 512;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

struct World {
    seed: u64,
    dice: Dice,
    disk: SimDisk,
    tasks: Option<SimTasks>,
    options: Options,
    store: Store,
    /// Entries expire. What expires by a time that no frame has is not destroyed at once.
    expires: bool,
    /// Marks given out.
    marks: u64,
    names: Vec<String>,
    prefixes: Vec<String>,
    trail: Vec<String>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(seed);
        let (manual, expires) = (dice.one_in(2), dice.one_in(2));
        let options = Options::new()
            .durability(if dice.one_in(2) { Durability::Write } else { Durability::Sync })
            .segment_bytes(if dice.one_in(5) { 2 << 20 } else { 256 << 10 })
            .resident_bytes(if dice.one_in(2) { 0 } else { 64 << 20 });
        let options = if manual { options.maintenance(Maintenance::Manual) } else { options };
        let disk = SimDisk::new(seed);
        let tasks = (!manual).then(|| SimTasks::new(&disk, seed));
        let store = open(&options, &disk, tasks.as_ref());
        let mut world = World {
            seed,
            dice,
            disk,
            tasks,
            options,
            store,
            expires,
            marks: 0,
            names: Vec::new(),
            prefixes: Vec::new(),
            trail: Vec::new(),
        };
        for _ in 0..1 + world.dice.below(4) {
            let prefix = format!("{}/", world.mark('p'));
            world.prefixes.push(prefix);
        }
        let agents = [4, 30, 300][world.dice.below(3) as usize];
        (0..agents).for_each(|_| world.new_name());
        world
    }

    fn mark(&mut self, sort: char) -> String {
        self.marks += 1;
        mark(sort, self.seed << 32 | self.marks)
    }

    /// In the order of names the marks lie at random.
    fn new_name(&mut self) {
        let at = self.dice.below(self.prefixes.len() as u64) as usize;
        let prefix = if self.dice.one_in(6) { String::new() } else { self.prefixes[at].clone() };
        let mut name = format!("{prefix}{:04x}{}", self.dice.below(1 << 16), self.mark('n'));
        if self.dice.one_in(12) {
            name.extend(std::iter::repeat_n('n', LONGEST - name.len()));
        }
        self.names.push(name);
    }

    fn name(&mut self) -> String {
        let at = self.dice.below(self.names.len() as u64) as usize;
        self.names[at].clone()
    }

    /// Text that begins with a mark.
    fn text(&mut self) -> String {
        let len = [0, 40, 700, 9000][self.dice.below(4) as usize];
        let mark = self.mark('e');
        let padding = self.dice.below(1 + len) as usize;
        format!("{mark}{}", "x".repeat(padding))
    }

    fn note(&mut self, what: String) {
        self.trail.push(what);
    }

    fn change(&mut self) {
        let name = self.name();
        let agent = self.store.agent(&name).unwrap();
        let mut batch = self.store.batch();
        let what = self.dice.below(100);
        let seqs = {
            let view = agent.view().unwrap();
            view.floor()..view.next_seq()
        };
        let some = seqs.start + self.dice.below(seqs.end - seqs.start + 1);
        let key = format!("k{}", self.dice.below(6));
        match what {
            0..60 => {
                for _ in 0..1 + self.dice.below(4) {
                    let (text, meta) = (self.text(), self.mark('e'));
                    let mut entry = NewEntry::new(Kind::USER, &text).meta(&meta);
                    if self.expires && self.dice.one_in(12) {
                        entry = entry.expires_at(self.soon());
                    }
                    batch.append(&agent, entry);
                }
            }
            60..72 => drop(batch.set(&agent, &key, &self.text())),
            72..78 => drop(batch.set(&agent, &self.mark('k'), &self.text())),
            78..81 => drop(batch.unset(&agent, &key)),
            81..83 => drop(batch.unset(&agent, &self.mark('k'))),
            83..86 => {
                let key = self.mark('k');
                batch.set(&agent, &key, &&self.text()).unset(&agent, &key);
            }
            86..89 => drop(batch.truncate_before(&agent, some)),
            89..92 if some < seqs.end => drop(batch.redact(&agent, some)),
            92..94 => drop(batch.forget(&agent)),
            94 => drop(batch.forget(&agent).set(&agent, &key, &self.text())),
            95 => {
                let most = 1 + self.dice.below(6);
                let policy = (!self.dice.one_in(3)).then(|| Retention::new().max_entries(most));
                batch.set_retention(&agent, policy);
            }
            // It is named in the frame, and nothing of it changes.
            96..98 => {
                let other = self.name();
                let other = self.store.agent(&other).unwrap();
                let text = self.text();
                let next = other.view().unwrap().next_seq();
                batch.expect_next(&other, next).append(&agent, NewEntry::user(&text));
            }
            98 => {
                // Born and forgotten in one batch.
                let text = self.text();
                batch.append(&agent, NewEntry::user(&text)).forget(&agent);
            }
            _ => return self.new_name(),
        }
        self.note(format!("{what} of {}", &name[..name.len().min(48)]));
        batch.commit().unwrap();
    }

    fn soon(&mut self) -> std::time::SystemTime {
        let clock = self.store.agent("clock").unwrap();
        clock.append(NewEntry::user("tick")).unwrap();
        let at = clock.view().unwrap().latest(1).next().unwrap().unwrap().at();
        let ahead = Duration::from_millis(self.dice.below(90_000));
        UNIX_EPOCH + at.duration_since(UNIX_EPOCH).unwrap() + ahead
    }

    fn forget_prefix(&mut self) {
        let at = self.dice.below(self.prefixes.len() as u64) as usize;
        let prefix = self.prefixes[at].clone();
        self.note(format!("forget prefix {prefix}"));
        self.store.forget_prefix(&prefix).unwrap();
    }

    /// Some steps of compaction, or time for the store's own.
    fn compact(&mut self) {
        let steps = if self.dice.one_in(3) { 10_000 } else { 1 + self.dice.below(12) };
        self.note(format!("compact {steps}"));
        match &self.tasks {
            Some(tasks) => tasks.run_for(Duration::from_secs(1 + steps % 90)),
            None => {
                (0..steps).any(|_| self.store.compact().unwrap() != CompactOutcome::More);
            }
        }
    }

    /// Opens the store anew: after a close, a killed process, or a loss of power.
    fn reopen(&mut self) {
        let how = self.dice.below(3);
        self.note(format!("reopen {how}"));
        let seed = self.dice.next();
        if self.expires {
            self.soon();
            self.store.sync().unwrap();
        }
        match how {
            0 => self.store.close().unwrap(),
            1 => self.disk = self.disk.fork(),
            _ => self.disk = self.disk.fork_without_power(seed),
        }
        self.tasks = self.tasks.take().map(|_| SimTasks::new(&self.disk, seed));
        self.store = open(&self.options, &self.disk, self.tasks.as_ref());
    }

    fn purge(&mut self) {
        self.note("purge".into());
        let report = self.store.purge().unwrap();
        assert!(report.is_complete(), "seed {}: {report:?}", self.seed);
        if let Err(found) = check_sim(&self.disk, DIR, &self.store) {
            let trail = self.trail.iter().rev().take(30).rev().cloned().collect::<Vec<_>>();
            panic!("seed {}: {found}\n{}", self.seed, trail.join("\n"));
        }
    }

    fn step(&mut self) {
        match self.dice.below(200) {
            0..186 => self.change(),
            186..188 => self.forget_prefix(),
            188..194 => self.compact(),
            194..196 => self.reopen(),
            196..198 => self.disk.advance(Duration::from_millis(self.dice.below(40_000))),
            _ => self.purge(),
        }
    }
}

fn open(options: &Options, disk: &SimDisk, tasks: Option<&SimTasks>) -> Store {
    match tasks {
        Some(tasks) => options.open_stepped(disk, tasks, DIR).unwrap(),
        None => options.open_on(disk, DIR).unwrap(),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn a_purge_leaves_no_mark_of_what_is_dead_whatever_came_before() {
    let (from, count) = (number("MEMLOG_SEED").unwrap_or(0), number("MEMLOG_HISTORIES"));
    let count = count.unwrap_or(if cfg!(debug_assertions) { 8 } else { 60 });
    for seed in from..from + count {
        let mut world = World::new(seed);
        let steps = 200 + world.dice.below(1500);
        (0..steps).for_each(|_| world.step());
        world.purge();
        world.reopen();
        world.purge();
        assert_eq!(world.store.verify().unwrap(), []);
    }
}

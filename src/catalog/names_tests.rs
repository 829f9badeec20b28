//! Listings, against what each name is by itself, and what they read.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Catalog;
use super::names::{Names, Way};
use super::resident::Progress;
use super::roll::Roll;
use super::version::Version;
use crate::format::footer::{Builder, Summary};
use crate::format::head::Head;
use crate::segment::Segment;
use crate::segment::testing::{read_of, sealed_as};
use crate::types::Verify;

const STEP: u64 = 1 << 20;
const PROGRESS: Progress = Progress { written: u64::MAX, durable: u64::MAX };

fn add(builder: &mut Builder, catalog: &Catalog, name: &str, life: u64) {
    let head = if life == 0 { Head::absent() } else { Head { life, next: 1, floor: 1, flags: 0 } };
    let summary = Summary {
        name,
        head,
        first_seq: head.next,
        offsets: &[],
        groups: &[],
        state: None,
        redacted: &[],
        policy: None,
    };
    builder.add(&summary, catalog.hash(name)).unwrap();
}

/// Numbers that only look random.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn name(rng: &mut Rng) -> String {
    let parts = ["a", "b", "b0", "c", "b\u{10ffff}"];
    let depth = 1 + rng.below(3);
    let parts: Vec<_> = (0..depth).map(|_| parts[usize::try_from(rng.below(5)).unwrap()]).collect();
    parts.join("/")
}

/// A catalog, and the lives that there are.
struct World {
    catalog: Catalog,
    /// The life of each name as of the end of the log; 0: absent.
    lives: BTreeMap<String, u64>,
    forgotten: Vec<(String, u64)>,
    roll: Roll,
}

impl World {
    fn new(rng: &mut Rng) -> World {
        let catalog = Catalog::new(3, 1 << 20, Vec::new());
        let (lives, forgotten) = (BTreeMap::new(), Vec::new());
        let mut world = World { catalog, lives, forgotten, roll: Roll::default() };
        let segments = 1 + rng.below(6);
        for i in 0..segments {
            let base = 4096 + i * STEP;
            let names = world.change(rng, base);
            // Now and then all of the log so far goes into two runs.
            let segment = world.segment(10 + i, false, base, None, &names);
            world.catalog.install(|sealed, _| sealed.push(segment));
            world.catalog.sift(1);
            if rng.below(4) == 0 {
                world.compact(100 + i * 2, base + STEP);
            }
        }
        let names = world.change(rng, 4096 + segments * STEP);
        for (name, life) in names {
            let name: Arc<str> = Arc::from(&*name);
            let resident = world.catalog.resident(&name, world.catalog.hash(&name), PROGRESS);
            let head = if life == 0 { Head::absent() } else { Head { life, ..Head::absent() } };
            resident.lock().adopt(Version::at_rest(head), 999);
            world.roll.push(resident);
        }
        world
    }

    /// What happens in one segment: lives begin and end, and prefixes are forgotten.
    fn change(&mut self, rng: &mut Rng, base: u64) -> BTreeMap<String, u64> {
        let mut touched = BTreeMap::new();
        let mut lsn = base + 4096;
        for _ in 0..rng.below(30) {
            lsn += 1000;
            let name = name(rng);
            if rng.below(9) == 0 {
                let prefix = format!("{name}/");
                self.catalog.forget_prefix(&prefix, lsn, lsn);
                self.forgotten.push((prefix, lsn));
                continue;
            }
            let life = self.life(&name);
            let life = match rng.below(4) {
                0 => 0,
                _ if life == 0 => lsn,
                _ => life,
            };
            self.lives.insert(name.clone(), life);
            touched.insert(name, life);
        }
        touched
    }

    /// The life of a name under what was forgotten.
    fn life(&self, name: &str) -> u64 {
        let life = self.lives.get(name).copied().unwrap_or(0);
        let dead = |(prefix, lsn): &(String, u64)| *lsn > life && name.starts_with(prefix.as_str());
        if self.forgotten.iter().any(dead) { 0 } else { life }
    }

    fn segment(
        &self,
        id: u64,
        run: bool,
        base: u64,
        bounds: Option<(&str, Option<&str>)>,
        names: &BTreeMap<String, u64>,
    ) -> Arc<Segment> {
        let lsns = if run { 4096..base } else { base..base + STEP };
        sealed_as(id, run, lsns, Verify::FirstTouch, |builder| {
            if let Some((from, to)) = bounds {
                builder.set_bounds(from, to).unwrap();
            }
            names.iter().for_each(|(name, life)| add(builder, &self.catalog, name, *life));
        })
    }

    fn compact(&self, id: u64, end: u64) {
        let gone = self.catalog.segments().sealed.clone();
        let alive = self.lives.keys().map(|name| (name.clone(), self.life(name)));
        let alive: BTreeMap<_, _> = alive.filter(|(_, life)| *life != 0).collect();
        let mut low = alive.clone();
        let high = low.split_off("b/b");
        let come = [
            self.segment(id, true, end, Some(("", Some("b/b"))), &low),
            self.segment(id + 1, true, end, Some(("b/b", None)), &high),
        ];
        self.catalog.exchange(&gone, &come);
    }

    fn names(&self, prefix: &str) -> Names {
        Names::new(&self.catalog.segments(), prefix, self.roll.sorted())
    }
}

#[test]
fn listings_give_every_agent_once_from_either_end() {
    let rounds = if cfg!(miri) { 3 } else { 120 };
    for seed in 0..rounds {
        let rng = &mut Rng(seed);
        let world = World::new(rng);
        for prefix in ["", "a", "b", "b/", "b/b", "b0/", "b\u{10ffff}", "c/a/", "none"] {
            let expected: BTreeSet<&String> = world.lives.keys().collect();
            let expected: Vec<&str> = expected
                .into_iter()
                .filter(|name| name.starts_with(prefix) && world.life(name) != 0)
                .map(|name| &**name)
                .collect();
            for way in 0..3 {
                let mut names = world.names(prefix);
                let (mut front, mut back) = (Vec::new(), Vec::new());
                loop {
                    let forward = way == 0 || way == 2 && rng.below(2) == 0;
                    let (way, into) = if forward {
                        (Way::Forward, &mut front)
                    } else {
                        (Way::Backward, &mut back)
                    };
                    match names.step(way, &world.catalog, PROGRESS).unwrap() {
                        Some(name) => into.push(name),
                        None => break,
                    }
                }
                front.extend(back.into_iter().rev());
                assert!(
                    front.iter().map(|n| &**n).eq(expected.iter().copied()),
                    "seed {seed}, {prefix:?}, way {way}: {front:?} of {expected:?}"
                );
            }
        }
    }
}

/// Structures of footers that were read, of all segments.
fn read(segments: &[Arc<Segment>]) -> u32 {
    segments.iter().map(|segment| read_of(segment)).sum()
}

#[test]
fn a_listing_reads_what_it_returns_and_seeks_past_what_was_forgotten() {
    // Twenty names between a hundred of one tenant and a hundred of another: six leaves.
    let tenant = |n| if n < 100 { 0 } else { 1 + u64::from(n >= 120) };
    let catalog = Catalog::new(3, 1 << 20, Vec::new());
    let segments = (0..4).map(|i| {
        let lsns = 4096 + i * STEP..4096 + (i + 1) * STEP;
        sealed_as(10 + i, false, lsns, Verify::FirstTouch, |builder| {
            for n in 0..220 {
                add(builder, &catalog, &format!("t{}/user-{n:080}", tenant(n)), 8192);
            }
        })
    });
    let segments: Vec<_> = segments.collect();
    catalog.install(|sealed, _| sealed.extend(segments.iter().cloned()));
    let list = |prefix: &str, way: Way, most: usize| {
        let mut names = Names::new(&catalog.segments(), prefix, Vec::new());
        let given = std::iter::from_fn(|| names.step(way, &catalog, PROGRESS).unwrap());
        given.take(most).count()
    };
    // One of many: a block, and on the way to it a root and a leaf of each segment.
    assert_eq!(list(&format!("t1/user-{:079}", 10), Way::Forward, 1), 1);
    let first = read(&segments);
    assert!(first <= 4 * 2 + 1, "{first} structures read for one name");
    for tenant in [0, 2] {
        catalog.forget_prefix(&format!("t{tenant}/"), 4096 + 5 * STEP, 0);
    }
    for way in [Way::Forward, Way::Backward] {
        assert_eq!(list("", way, 20), 20);
        assert_eq!(list("t2/", way, 9), 0);
    }
    // Of the living names a block each; of each segment a root and the leaves at either end and in the
    // middle, and no block and no other leaf of the forgotten ones.
    let all = read(&segments);
    assert!(all <= 20 + 4 * 4, "{all} structures read for twenty names");
    assert_eq!(list("", Way::Forward, 1000), 20);
    assert_eq!(read(&segments), all);
}

//! What a look-up asks of many segments, by count.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::ops::Range;
use std::sync::Arc;

use super::Catalog;
use super::lookup::Lookup;
use super::set::SegmentSet;
use crate::format::footer::{Builder, Group, Summary};
use crate::format::head::Head;
use crate::segment::Segment;
use crate::segment::testing::{read_of, sealed, sealed_as};
use crate::types::Verify;

const LOGS: u64 = 200;
const TIERS: u64 = 5;
/// Runs of a tier: each holds the names of one ten of a thousand.
const RUNS: u64 = 100;
/// Where the log segments begin, behind the runs.
const LOG_BASE: u64 = 1 << 30;
const STEP: u64 = 1 << 20;

fn name(i: u64) -> String {
    format!("n{i:06}")
}

fn add(builder: &mut Builder, catalog: &Catalog, name: &str, life: u64) {
    let head = Head { life, next: 5, floor: 1, flags: 0 };
    let summary = Summary {
        name,
        head,
        first_seq: 1,
        offsets: &[600, 608],
        groups: &[Group {
            max_at: 9,
            bytes: 1,
            weight: 0,
            unweighted: 2,
            joined: 0,
            soonest: u64::MAX,
        }],
        state: None,
        redacted: &[],
        policy: None,
    };
    builder.add(&summary, catalog.hash(name)).unwrap();
}

/// The names of log segment `i`: twenty of its own, and some of all.
fn names_of(i: u64) -> impl Iterator<Item = String> {
    let own = (0..20).map(move |k| name(1000 + i * 20 + k));
    (0..1000).filter(move |n| (n + i).is_multiple_of(100)).map(name).chain(own)
}

fn log(catalog: &Catalog, i: u64) -> Arc<Segment> {
    let base = LOG_BASE + i * STEP;
    sealed(1000 + i, false, base..base + STEP, |builder| {
        names_of(i).for_each(|name| add(builder, catalog, &name, 77));
    })
}

/// Run `i` of a tier: the names below `to` from ten times `i` on.
fn run(catalog: &Catalog, tier: u64, i: u64, to: u64) -> Arc<Segment> {
    let lsns = (tier + 1) * STEP..(tier + 2) * STEP;
    sealed(1 + tier * RUNS + i, true, lsns, |builder| {
        let from = if i == 0 { String::new() } else { name(i * 10) };
        let behind = (to < 1000).then(|| name(to));
        builder.set_bounds(&from, behind.as_deref()).unwrap();
        (i * 10..to).for_each(|i| add(builder, catalog, &name(i), 77));
    })
}

/// Adds a segment as a seal does.
fn seal(catalog: &Catalog, segment: &Arc<Segment>) {
    catalog.install(|sealed, generation| {
        segment.set_sealed_at(generation);
        sealed.push(Arc::clone(segment));
    });
    catalog.sift(2);
}

fn filled() -> Catalog {
    let catalog = Catalog::new(9, 1 << 20, Vec::new());
    for tier in 0..TIERS {
        let runs: Vec<_> = (0..RUNS).map(|i| run(&catalog, tier, i, (i + 1) * 10)).collect();
        catalog.exchange(&[], &runs);
    }
    (0..LOGS).for_each(|i| seal(&catalog, &log(&catalog, i)));
    catalog
}

/// Every segment that holds the name is asked, the newest first; gives how many are asked.
fn asked(catalog: &Catalog, set: &SegmentSet, name: &str) -> usize {
    let hash = catalog.hash(name);
    let candidates = set.candidates(name, hash);
    let holds = |segment: &Arc<Segment>| segment.look_up(name, hash).unwrap().is_some();
    let held = set.sealed.iter().rev().filter(|segment| holds(segment)).map(|s| s.id);
    let found = candidates.iter().filter(|one| holds(one.segment)).map(|one| one.segment.id);
    assert!(held.eq(found), "{name}");
    candidates.len()
}

// Miri would take minutes for 700 segments.
#[test]
#[cfg_attr(miri, ignore)]
fn a_look_up_asks_few_of_many_segments() {
    let catalog = filled();
    let set = catalog.segments();
    assert_eq!(set.sealed.len() as u64, LOGS + TIERS * RUNS);
    let (sieves, depth) = (set.sieves().count() as u64, set.depth() as u64);
    assert!(set.unsifted().is_empty());
    assert!(sieves <= LOGS / 32 + 7 && depth == TIERS, "{sieves} sieves, {depth} layers");
    // In two log segments of a hundred, in all tiers.
    let tiers = usize::try_from(TIERS).unwrap();
    let asked_of = |names: &mut dyn Iterator<Item = String>| -> (usize, usize) {
        names.map(|name| asked(&catalog, &set, &name)).fold((0, 0), |(sum, n), a| (sum + a, n + 1))
    };
    let (sum, n) = asked_of(&mut (0..1000).step_by(31).map(name));
    assert!(sum <= n * (2 + tiers) + n / 2, "{sum} segments asked for {n} names");
    // In one log segment; the last runs cover all names behind theirs.
    let (sum, n) = asked_of(&mut (1000..5000).step_by(71).map(name));
    assert!(sum <= n * (1 + tiers) + n / 2, "{sum} segments asked for {n} names");
    // In none.
    let (sum, n) = asked_of(&mut (0..100).map(|i| format!("absent-{i}")));
    assert!(sum <= n * tiers + n / 2, "{sum} segments asked for {n} absent names");
}

#[test]
#[cfg_attr(miri, ignore)]
fn what_replaces_segments_is_found_in_their_place() {
    let catalog = filled();
    let all = catalog.segments().sealed.clone();
    let gone: Vec<_> =
        all.iter().filter(|s| s.run && s.id > 3 * RUNS && s.id <= 3 * RUNS + 20).cloned().collect();
    assert_eq!(gone.len(), 20);
    // Twenty runs of a tier by one, and the oldest hundred log segments by one of their age.
    let come = run(&catalog, 3, 0, 200);
    catalog.exchange(&gone, &[come]);
    drop(gone);
    let gone: Vec<_> = all.iter().filter(|s| !s.run && s.id < 1100).cloned().collect();
    let mut names: Vec<String> = (0..100).flat_map(names_of).collect();
    names.sort_unstable();
    names.dedup();
    let pieces: Vec<_> = names.chunks(200).collect();
    let come = (0..).zip(&pieces).map(|(i, names)| {
        sealed(9000 + i, true, LOG_BASE..LOG_BASE + 100 * STEP, |builder| {
            let next = pieces.get(usize::try_from(i).unwrap() + 1).and_then(|names| names.first());
            let from = if i == 0 { "" } else { &*names[0] };
            builder.set_bounds(from, next.map(|name| &**name)).unwrap();
            names.iter().for_each(|name| add(builder, &catalog, name, 77));
        })
    });
    let come: Vec<_> = come.collect();
    catalog.exchange(&gone, &come);
    let set = catalog.segments();
    assert_eq!(set.sieves().map(|(_, live)| live.count_ones()).sum::<u32>(), 100);
    // What is left of them takes no more than its share.
    for (sieve, live) in set.sieves() {
        let columns = sieve.columns().len();
        assert!(columns <= 8 || live.count_ones() as usize * 2 >= columns, "{live:b}");
    }
    drop((all, gone));
    assert!(catalog.retired().is_empty(), "an index keeps segments that are gone");
    for i in (0..1000).step_by(7).chain((1000..5000).step_by(71)) {
        asked(&catalog, &set, &name(i));
    }
    assert_eq!(set.depth() as u64, TIERS + 1);
}

/// What is read of many segments is announced step by step, and not segment by segment.
#[test]
fn a_cold_look_up_waits_as_often_as_it_has_steps() {
    let catalog = Catalog::new(9, 1 << 20, Vec::new());
    let fill = |builder: &mut Builder, i: u64| {
        // Enough for a directory of two levels, but in the last one.
        let names = if i == 9 { 2 } else { 80 };
        (0..names).for_each(|n| add(builder, &catalog, &format!("a{n:060}"), 77));
    };
    let at = |i: u64, run| {
        let base = LOG_BASE + i * STEP;
        sealed_as(1 + i, run, base..base + STEP, Verify::FirstTouch, |builder| fill(builder, i))
    };
    catalog.exchange(&[], &[at(0, true), at(1, true)]);
    (2..9).for_each(|i| seal(&catalog, &at(i, false)));
    let last = at(9, false);
    catalog.install(|sealed, _| sealed.push(last));
    let set = catalog.segments();
    let name = format!("a{:060}", 1);
    let lookup = Lookup { set: &set, name: &name, hash: catalog.hash(&name) };
    let candidates = set.candidates(lookup.name, lookup.hash);
    assert_eq!(candidates.len(), 10);
    let mut told: Vec<(u64, Range<u64>)> = Vec::new();
    lookup.announce(&candidates, &mut |segment, range| told.push((segment.id, range)));
    // The filter of the only one that no sieve knows; the inner pages; the leaves, but for those that
    // were read to be sifted; the blocks.
    let ids: Vec<u64> = told.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids[..1], [10], "{told:?}");
    assert_eq!(ids[1..10], [9, 8, 7, 6, 5, 4, 3, 2, 1], "{told:?}");
    assert_eq!(ids[10..13], [10, 2, 1], "{told:?}");
    assert_eq!(ids[13..], [10, 9, 8, 7, 6, 5, 4, 3, 2, 1], "{told:?}");
    // What was announced is all that is read; read once, it is not announced again.
    let before: u32 = set.sealed.iter().map(|segment| read_of(segment)).sum();
    let (head, base) = lookup.head_and_base(|_| true).unwrap();
    assert_eq!((head.life, base.map(|base| base.extents.len())), (77, Some(1)));
    let read: u32 = set.sealed.iter().map(|segment| read_of(segment)).sum();
    assert!(read - before == 1, "{} structures were read unannounced", read - before);
    told.clear();
    lookup.announce(&candidates, &mut |segment, range| told.push((segment.id, range)));
    assert_eq!(told.len(), 9, "but for the blocks of older segments: {told:?}");
}

/// After an opening no sieve knows any segment: look-ups pay for that step by step.
#[test]
fn look_ups_after_an_opening_soon_ask_few_segments() {
    let catalog = Catalog::new(9, 1 << 20, Vec::new());
    let logs: Vec<_> = (0..50).map(|i| log(&catalog, i)).collect();
    catalog.install(|sealed, generation| {
        logs.iter().for_each(|log| log.set_sealed_at(generation));
        sealed.extend(logs.iter().cloned());
    });
    assert_eq!(catalog.segments().unsifted().len(), 50);
    assert_eq!(asked(&catalog, &catalog.segments(), &name(1000)), 50);
    for i in 0..100 {
        let name: Arc<str> = Arc::from(format!("absent-{i}"));
        let hash = catalog.hash(&name);
        let progress = super::resident::Progress { written: 0, durable: 0 };
        let resident = catalog.resident(&name, hash, progress);
        catalog.learn(&resident).unwrap();
        assert_eq!(resident.lock().latest().head.life, 0);
    }
    let set = catalog.segments();
    // A few are left to the next seal.
    assert!(set.unsifted().len() <= 8, "{} are asked by themselves", set.unsifted().len());
    for i in (1000..2000).step_by(13) {
        asked(&catalog, &set, &name(i));
    }
}

#[test]
fn a_life_is_found_in_the_newest_segment_that_tells_of_it() {
    let catalog = Catalog::new(9, 1 << 20, Vec::new());
    let at = |id, run, from, life| {
        sealed(id, run, from..from + STEP, |builder| add(builder, &catalog, "a", life))
    };
    let old = at(1, true, 4096, 10);
    catalog.exchange(&[], &[old]);
    for i in 0..20 {
        seal(&catalog, &at(2 + i, false, LOG_BASE + i * STEP, 20 + i));
        let set = catalog.segments();
        let lookup = Lookup { set: &set, name: "a", hash: catalog.hash("a") };
        assert_eq!(lookup.head().unwrap().life, 20 + i);
    }
}

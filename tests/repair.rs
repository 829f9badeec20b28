//! Repair: every whole record is kept, what is lost is told, and the outcome is there whole or not at
//! all, whatever fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memlog::sim::{SimDisk, SimFault};
use memlog::{
    CompactOutcome, Durability, ErrorKind, Maintenance, NewEntry, Options, RepairReport, Store,
};

const DIR: &str = "/data/mem";
const TO: &str = "/data/mended";
const LOCK: &str = ".mended.memlog-repair.lock";

fn options() -> Options {
    Options::new()
        .durability(Durability::Write)
        .maintenance(Maintenance::Manual)
        .segment_bytes(256 << 10)
}

/// Of each agent: next seq, the readable entries by seq, the values by key.
type World = BTreeMap<String, (u64, BTreeMap<u64, Vec<u8>>, BTreeMap<String, Vec<u8>>)>;

fn read(store: &Store) -> World {
    let mut world = World::new();
    for agent in store.agents("") {
        let agent = agent.unwrap();
        let view = agent.view().unwrap();
        let mut entries = BTreeMap::new();
        for seq in view.floor()..view.next_seq() {
            if let Ok(Some(entry)) = view.get(seq) {
                entries.insert(seq, entry.payload().to_vec());
            }
        }
        let values = view.states("").filter_map(Result::ok);
        let values = values.map(|v| (v.key().to_owned(), v.value().to_vec())).collect();
        world.insert(agent.name().to_owned(), (view.next_seq(), entries, values));
    }
    world
}

fn fill(store: &Store, rounds: std::ops::Range<u64>) {
    for round in rounds {
        let (a, b) = (store.agent("a").unwrap(), store.agent("b/long name").unwrap());
        let texts = [format!("first of {round}"), format!("second of {round}, {}", "x".repeat(99))];
        let mut batch = store.batch();
        batch.append(&a, NewEntry::user(&texts[0])).append(&b, NewEntry::user(&texts[1]));
        batch.append(&a, NewEntry::assistant(&texts[1]).meta("{}"));
        batch.set(&b, &format!("key {}", round % 3), &texts[0]);
        batch.commit().unwrap();
    }
}

fn repair(disk: &SimDisk) -> RepairReport {
    options().repair_on(disk, DIR, TO).unwrap()
}

fn files_under(disk: &SimDisk, dir: &str) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|path| path.starts_with(dir)).collect()
}

/// What a repair leaves beside its place.
fn leftovers(disk: &SimDisk) -> Vec<PathBuf> {
    let hidden = |path: &PathBuf| path.to_str().unwrap().contains("/.mended.memlog-repair");
    disk.files().into_iter().filter(hidden).collect()
}

#[test]
fn an_empty_store_is_no_damage() {
    for clean in [true, false] {
        let disk = SimDisk::new(1);
        let store = options().open_on(&disk, DIR).unwrap();
        if clean {
            store.close().unwrap();
        }
        disk.restart();
        let salvaged = options().salvage(true).open_on(&disk, DIR).unwrap();
        assert_eq!(salvaged.recovery_report().damage, []);
        assert_eq!((salvaged.agents("").count(), salvaged.verify().unwrap()), (0, vec![]));
        let report = repair(&disk);
        assert!(report.is_lossless() && report.damage.is_empty(), "{report:?}");
        let mended = options().open_on(&disk, TO).unwrap();
        fill(&mended, 0..2);
        assert_eq!((mended.holes(), mended.verify().unwrap()), (None, vec![]));
    }
}

/// Killed, or without power, at every call of sealing a segment: the log is whole, and the next
/// segment's link says so where a footer is there and not listed.
#[test]
fn a_footer_that_is_not_listed_is_no_damage() {
    let build = |crash: Option<u64>| {
        let disk = SimDisk::new(7);
        let store = options().open_on(&disk, DIR).unwrap();
        fill(&store, 0..3);
        store.sync().unwrap();
        let from = disk.calls();
        if let Some(crash) = crash {
            disk.crash_at(from + crash);
        }
        let mut round = 3;
        while store.stats().segments < 2 && disk.calls() < from + 400 {
            let agent = store.agent("a").unwrap();
            let text = format!("{round} {}", "y".repeat(9000));
            if agent.append(NewEntry::user(&text)).is_err() {
                break;
            }
            round += 1;
        }
        let calls = disk.calls() - from;
        std::mem::forget(store);
        (disk, calls)
    };
    let calls = build(None).1;
    assert!(calls > 20, "{calls}");
    for crash in 0..calls {
        let (disk, _) = build(Some(crash));
        let power = disk.fork_without_power(crash);
        disk.restart();
        for (disk, what) in [(disk, "killed"), (power, "without power")] {
            let salvaged = options().salvage(true).open_on(&disk, DIR).unwrap();
            let report = salvaged.recovery_report();
            assert_eq!(report.damage, [], "{what} at {crash}");
            let seen = read(&salvaged);
            drop(salvaged);
            let report = repair(&disk);
            assert!(
                report.is_lossless() && report.damage.is_empty(),
                "{what}, {crash}: {report:?}"
            );
            assert_eq!(read(&options().open_on(&disk, TO).unwrap()), seen, "{what} at {crash}");
            // And it is what an opening recovers.
            let opened = options().open_on(&disk, DIR).unwrap();
            assert_eq!(read(&opened), seen, "{what} at {crash}");
        }
    }
}

/// A segment was left and has its footer, the log went on, and the manifest that lists the footer did
/// not come to be: the link in the next segment says where the frames end.
#[test]
fn a_footer_behind_frames_that_a_link_ends_is_no_damage() {
    let disk = SimDisk::new(7);
    let store = options().open_on(&disk, DIR).unwrap();
    let manifest = Path::new(DIR).join("MANIFEST");
    let (mut manifests, mut round) = (Vec::new(), 0);
    let listed = |store: &Store| store.stats().segments;
    let mut append = |round: &mut u64| {
        let now = disk.read_file(&manifest).unwrap();
        if manifests.last() != Some(&now) {
            manifests.push(now);
        }
        let text = format!("{round} {}", "y".repeat(9000));
        store.agent("a").unwrap().append(NewEntry::user(&text)).unwrap();
        *round += 1;
    };
    while listed(&store) == 0 {
        append(&mut round);
    }
    (0..3).for_each(|_| append(&mut round));
    store.sync().unwrap();
    append(&mut round);
    store.sync().unwrap();
    let world = read(&store);
    std::mem::forget(store);
    disk.restart();
    assert!(manifests.len() >= 2, "{}", manifests.len());
    for (number, old) in manifests.iter().enumerate() {
        let disk = disk.fork();
        assert!(disk.write_file(&manifest, old));
        let salvaged = options().salvage(true).open_on(&disk, DIR).unwrap();
        assert_eq!(salvaged.recovery_report().damage, [], "manifest {number}");
        assert_eq!(salvaged.recovery_report().bytes_cut, 0, "manifest {number}");
        assert_eq!(read(&salvaged), world, "manifest {number}");
        drop(salvaged);
        let report = repair(&disk);
        assert!(report.is_lossless() && report.damage.is_empty(), "{number}: {report:?}");
        assert_eq!(read(&options().open_on(&disk, TO).unwrap()), world, "manifest {number}");
    }
}

/// A store with damage, a run, log segments and a tail.
fn damaged() -> (SimDisk, World) {
    let disk = SimDisk::new(3);
    let store = options().open_on(&disk, DIR).unwrap();
    fill(&store, 0..40);
    while store.compact().unwrap() == CompactOutcome::More {}
    fill(&store, 40..60);
    store.sync().unwrap();
    let world = read(&store);
    store.close().unwrap();
    disk.restart();
    for (needle, last) in [("first of 41", false), ("second of 7,", true)] {
        let hit = files_under(&disk, DIR).into_iter().find_map(|path| {
            let bytes = disk.read_file(&path).unwrap();
            let mut found = bytes.windows(needle.len());
            let is = |w: &[u8]| w == needle.as_bytes();
            let at = if last { found.rposition(is) } else { found.position(is) }?;
            Some((path, at as u64))
        });
        let (path, at) = hit.unwrap();
        assert!(disk.flip_bit(path, at, 3));
    }
    (disk, world)
}

/// A repaired store is what its report says.
fn check(disk: &SimDisk, world: &World, lost: &[(&str, u64)]) {
    let mended = options().open_on(disk, TO).unwrap();
    let found = read(&mended);
    for (name, (next, entries, values)) in world {
        let (found_next, found, found_values) = &found[name];
        assert_eq!((next, values), (found_next, found_values));
        for (seq, payload) in entries {
            let is_lost = lost.contains(&(&name[..], *seq));
            assert_eq!(found.get(seq), Some(payload).filter(|_| !is_lost), "{name} {seq}");
        }
    }
    assert_eq!(mended.verify().unwrap(), []);
    let holes = mended.holes().unwrap();
    assert_eq!((holes.entries, holes.values), (lost.len() as u64, 0));
}

#[test]
fn each_call_of_a_repair_fails_and_leaves_nothing_that_passes_for_whole() {
    let (disk, world) = damaged();
    let before: Vec<_> =
        files_under(&disk, DIR).iter().map(|path| disk.read_file(path).unwrap()).collect();
    let whole = disk.fork();
    let from = whole.calls();
    let report = repair(&whole);
    assert_eq!(report.lost_entries, 2, "{report:?}");
    let lost = lost_of(&report);
    check(&whole, &world, &borrowed(&lost));
    assert_eq!(leftovers(&whole), [] as [PathBuf; 0]);
    let calls = whole.calls() - from;
    for call in 0..calls {
        for (fault, sticky) in
            [(SimFault::Eio, false), (SimFault::NoSpace, true), (SimFault::ShortWrite, false)]
        {
            let disk = disk.fork();
            disk.fail_at(disk.calls() + call, fault, sticky);
            let repaired = options().repair_on(&disk, DIR, TO);
            disk.clear_faults();
            let what = format!("{fault:?} at {call}");
            match repaired {
                Ok(_) => check(&disk, &world, &borrowed(&lost)),
                // Only its name may not be durable, and it is whole.
                Err(_) if !files_under(&disk, TO).is_empty() => {
                    check(&disk, &world, &borrowed(&lost));
                }
                Err(error) => {
                    assert!(!matches!(error.kind(), ErrorKind::Damaged), "{what}: {error}");
                    assert_eq!(repair(&disk).lost_entries, 2, "{what}");
                    check(&disk, &world, &borrowed(&lost));
                }
            }
            disk.restart();
            // The lock may stay where it was its removal that failed.
            let left: Vec<_> =
                leftovers(&disk).into_iter().filter(|p| !p.ends_with(LOCK)).collect();
            assert_eq!(left, [] as [PathBuf; 0], "{what}");
        }
    }
    let after: Vec<_> =
        files_under(&disk, DIR).iter().map(|path| disk.read_file(path).unwrap()).collect();
    assert!(before == after, "the damaged store is only read");
}

fn lost_of(report: &RepairReport) -> Vec<(String, u64)> {
    let seqs = |(name, seqs): &(String, std::ops::RangeInclusive<u64>)| {
        seqs.clone().map(|seq| (name.clone(), seq)).collect::<Vec<_>>()
    };
    report.lost.iter().flat_map(seqs).collect()
}

fn borrowed(lost: &[(String, u64)]) -> Vec<(&str, u64)> {
    lost.iter().map(|(name, seq)| (&name[..], *seq)).collect()
}

#[test]
fn a_repair_that_is_cut_short_leaves_nothing_that_passes_for_whole() {
    let (disk, world) = damaged();
    let whole = disk.fork();
    let from = whole.calls();
    let lost = lost_of(&repair(&whole));
    let (calls, mut there) = (whole.calls() - from, 0);
    for call in 0..=calls {
        let disk = disk.fork();
        disk.crash_at(disk.calls() + call);
        let _ = options().repair_on(&disk, DIR, TO);
        let power = disk.fork_without_power(call);
        disk.restart();
        for disk in [disk, power] {
            if files_under(&disk, TO).is_empty() {
                // What is hidden is no store that has its name, and the next repair removes it.
                repair(&disk);
                disk.restart();
            } else {
                there += 1;
                assert_eq!(
                    options().repair_on(&disk, DIR, TO).unwrap_err().kind(),
                    ErrorKind::InvalidInput
                );
            }
            check(&disk, &world, &borrowed(&lost));
        }
    }
    assert!(there > 0 && there < calls, "{there} of {calls}");
}

/// A failing medium, met by any of its reads, is an error and no damage.
#[test]
fn a_medium_that_fails_is_no_damage() {
    let (disk, world) = damaged();
    let whole = disk.fork();
    let from = whole.reads();
    let lost = lost_of(&repair(&whole));
    let reads = whole.reads() - from;
    assert!(reads > 20, "{reads}");
    let (mut failed, mut passed) = (0, 0);
    for read in 0..reads {
        let disk = disk.fork();
        disk.fail_read_at(disk.reads() + read, false);
        let repaired = options().repair_on(&disk, DIR, TO);
        disk.clear_faults();
        match repaired {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Io, "read {read}: {error}");
                assert!(files_under(&disk, TO).is_empty(), "read {read}");
                failed += 1;
            }
            // The lock of the source is none that a repair needs.
            Ok(report) => {
                assert_eq!(report.lost_entries, 2, "read {read}: {report:?}");
                check(&disk, &world, &borrowed(&lost));
                passed += 1;
            }
        }
    }
    assert!(passed <= 3 && failed > 20, "{failed} failed, {passed} passed");
}

#[test]
fn two_repairs_to_one_place_do_not_mix() {
    let (disk, _) = damaged();
    let other = disk.fork();
    repair(&other);
    // The place of one that is under way is locked: as a store is by its own.
    let lock = Path::new("/data/.mended.memlog-repair.lock");
    assert!(disk.write_file(lock, b""));
    repair(&disk);
    assert_eq!(leftovers(&disk), [] as [PathBuf; 0]);
    let error = options().repair_on(&disk, DIR, TO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains(TO), "{error}");
}

#[test]
fn holes_are_told_until_they_are_accepted_and_stay_accepted() {
    let (disk, world) = damaged();
    let report = repair(&disk);
    let lost = lost_of(&report);
    assert!(!report.is_lossless());
    let mended = options().open_on(&disk, TO).unwrap();
    let from = mended.holes().unwrap().from;
    assert!(from != 0);
    for (name, seq) in &lost {
        let view = mended.agent(name).unwrap().view().unwrap();
        assert_eq!(view.get(*seq).unwrap_err().kind(), ErrorKind::Damaged);
    }
    while mended.compact().unwrap() == CompactOutcome::More {}
    mended.close().unwrap();
    drop(mended);
    let salvaged = options().salvage(true).open_on(&disk, TO).unwrap();
    assert_eq!(salvaged.holes().unwrap().entries, 2);
    assert_eq!(salvaged.accept_holes(None).unwrap_err().kind(), ErrorKind::ReadOnly);
    drop(salvaged);
    // A second repair says the same.
    let again = options().repair_on(&disk, TO, "/data/again").unwrap();
    assert_eq!(again.lost, report.lost);
    assert_eq!(options().open_on(&disk, "/data/again").unwrap().holes().unwrap().entries, 2);

    let mended = options().open_on(&disk, TO).unwrap();
    let (name, _) = &lost[0];
    let of_one = lost.iter().filter(|(other, _)| other == name).count() as u64;
    assert_eq!((lost.len(), of_one), (2, 1));
    assert_eq!(mended.accept_holes(Some(name)).unwrap(), of_one);
    assert_eq!(mended.holes().unwrap().entries, 2 - of_one);
    assert_eq!(mended.accept_holes(None).unwrap(), 2 - of_one);
    assert_eq!((mended.holes(), mended.accept_holes(None).unwrap()), (None, 0));
    let accepted = |store: &Store, when: &str| {
        for (name, seq) in &lost {
            let view = store.agent(name).unwrap().view().unwrap();
            let entry = view.get(*seq).unwrap().unwrap();
            assert!(entry.is_redacted() && entry.payload().is_empty(), "{when}: {name} {seq}");
            assert_eq!(view.iter().filter(Result::is_err).count(), 0, "{when}");
            assert_eq!(view.next_seq(), world[name].0, "{when}");
        }
        assert_eq!((store.verify().unwrap(), store.holes()), (vec![], None), "{when}");
    };
    accepted(&mended, "accepted");
    fill(&mended, 60..62);
    while mended.compact().unwrap() == CompactOutcome::More {}
    let world = read(&mended);
    for (name, seq) in &lost {
        assert!(world[name].1[seq].is_empty());
    }
    mended.purge().unwrap();
    mended.close().unwrap();
    drop(mended);
    let mended = options().open_on(&disk, TO).unwrap();
    assert_eq!(read(&mended), world);
    assert_eq!((mended.verify().unwrap(), mended.holes()), (vec![], None));
    let last = options().repair_on(&disk, TO, "/data/last").unwrap();
    assert!(last.is_lossless() && last.damage.is_empty(), "{last:?}");
    assert_eq!(read(&options().open_on(&disk, "/data/last").unwrap()), world);
}

/// Also where the index is made beside the file: it has places for what was accepted, and none for what
/// could not be read.
#[test]
fn an_accepted_loss_is_told_from_a_redacted_entry_that_is_lost() {
    let (disk, _) = damaged();
    let lost = lost_of(&repair(&disk));
    let mended = options().open_on(&disk, TO).unwrap();
    mended.accept_holes(None).unwrap();
    mended.agent("a").unwrap().append(NewEntry::user("to be redacted")).unwrap();
    let last = mended.agent("a").unwrap().view().unwrap().next_seq() - 1;
    mended.agent("a").unwrap().redact(last).unwrap();
    mended.sync().unwrap();
    let salvaging = || options().salvage(true);
    for reading in [salvaging(), options().read_only(true)] {
        let store = reading.open_on(&disk, TO).unwrap();
        for (name, seq) in lost.iter().map(|(name, seq)| (name.as_str(), *seq)).chain([("a", last)])
        {
            let view = store.agent(name).unwrap().view().unwrap();
            assert!(view.get(seq).unwrap().unwrap().is_redacted(), "{name} {seq}");
        }
        assert_eq!(store.verify().unwrap(), []);
    }
    // All of it is proved durable, and not torn.
    mended.close().unwrap();
    // The record of the redacted entry breaks: when it was and of what kind is data too.
    let found = disk.files().into_iter().filter(|path| path.starts_with(TO)).find_map(|path| {
        let bytes = disk.read_file(&path)?;
        let at = bytes.windows(14).position(|window| window == b"to be redacted")?;
        Some((path, at as u64))
    });
    let (path, at) = found.unwrap();
    assert!(disk.flip_bit(path, at, 0));
    let store = salvaging().open_on(&disk, TO).unwrap();
    let view = store.agent("a").unwrap().view().unwrap();
    assert_eq!(view.get(last).unwrap_err().kind(), ErrorKind::Damaged);
    for (name, seq) in &lost {
        let view = store.agent(name).unwrap().view().unwrap();
        assert!(view.get(*seq).unwrap().unwrap().is_redacted(), "{name} {seq}");
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Where the frames and records of an unsealed segment lie: begin and end, and the record's type.
fn places(bytes: &[u8]) -> Vec<(usize, usize, Option<u8>)> {
    let (salt, mut at, mut found) = (&bytes[40..48], 128, Vec::new());
    while &bytes[at + 8..at + 16] == salt {
        let (header, body) = (u32_at(bytes, at + 4), u32_at(bytes, at + 40));
        found.push((at, at + header, None));
        at += header;
        let end = at + body;
        while at < end {
            let len = u32_at(bytes, at + 4).next_multiple_of(8);
            found.push((at, at + len, Some(bytes[at + 8])));
            at += len;
        }
    }
    found
}

/// Whatever bit is flipped in a log without an index, exactly the record is lost that it hits; in a
/// frame's header none is.
#[test]
fn a_flipped_bit_loses_exactly_the_record_that_it_hits() {
    let disk = SimDisk::new(5);
    let store = options().open_on(&disk, DIR).unwrap();
    fill(&store, 0..2);
    let gone = store.agent("gone").unwrap();
    gone.append(NewEntry::user("gone")).unwrap();
    gone.forget().unwrap();
    fill(&store, 2..4);
    store.sync().unwrap();
    let world = read(&store);
    store.close().unwrap();
    disk.restart();
    let log =
        files_under(&disk, DIR).into_iter().find(|p| p.extension().is_some_and(|e| e == "log"));
    let log = log.unwrap();
    let places = places(&disk.read_file(&log).unwrap());
    let end = places.last().unwrap().1;
    assert!(places.len() > 20 && end < 4000, "{end}");
    for bit in (128 * 8..end * 8).step_by(13) {
        let disk = disk.fork();
        let (at, bits) = (bit as u64 / 8, [bit % 8, (bit / 8 + 3) % 8]);
        // One bit of the byte, or two.
        for bit in &bits[..1 + bit / 13 % 2] {
            assert!(disk.flip_bit(&log, at, *bit as u8));
        }
        if bit / 13 % 2 == 1 && bits[0] == bits[1] {
            continue;
        }
        let (_, _, hit) = places.iter().find(|(_, end, _)| bit / 8 < *end).unwrap();
        let report = repair(&disk);
        let what = format!("bit {bit} of {hit:?}: {report:?}");
        assert_eq!(report.damage.len(), 1, "{what}");
        let losses = (report.lost_entries, report.lost_values, report.erasures.len());
        let mended = options().open_on(&disk, TO).unwrap();
        let found = read(&mended);
        match hit {
            None => {
                assert!(report.is_lossless(), "{what}");
                assert_eq!(found, world, "{what}");
                continue;
            }
            // An entry that is dead anyway, or a set that a later one overwrote.
            Some(1 | 2) if report.is_lossless() => assert_eq!(found, world, "{what}"),
            Some(1) => assert_eq!(losses, (1, 0, 0), "{what}"),
            Some(2) => assert_eq!(losses, (0, 1, 0), "{what}"),
            Some(6) => assert_eq!((losses.2, &report.erasures[0][..]), (1, "gone"), "{what}"),
            Some(other) => panic!("a record of type {other}"),
        }
        for (name, (next, entries, values)) in &world {
            let (found_next, found, found_values) = &found[name];
            assert_eq!(next, found_next, "{what}");
            let lacks = entries.iter().filter(|(seq, payload)| found.get(seq) != Some(payload));
            let lost: Vec<u64> = lacks.map(|(seq, _)| *seq).collect();
            let told: Vec<u64> =
                lost_of(&report).into_iter().filter(|(n, _)| n == name).map(|(_, s)| s).collect();
            assert_eq!(lost, told, "{what}");
            assert!(found.iter().all(|(seq, payload)| entries.get(seq) == Some(payload)), "{what}");
            let right = |(key, value): (&String, &Vec<u8>)| values.get(key) == Some(value);
            assert!(found_values.iter().all(right), "{what}: {found_values:?}");
        }
    }
}

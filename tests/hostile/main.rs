//! Hostile directories: stores with a field that says something else, and checks that are right.
//! Each goes through all that the fuzz target `open_bytes` does with its inputs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    dead_code,
    missing_docs,
    unreachable_pub
)]

#[path = "../../fuzz/src/checks.rs"]
mod checks;
#[path = "../../fuzz/src/directory.rs"]
mod directory;
#[path = "../../fuzz/src/open.rs"]
mod open;
#[path = "../bits/store.rs"]
mod store;

use memlog::sim::SimDisk;
use memlog::{CompactOutcome, Damage, NewEntry, Retention};

use directory::{Directory, File};
use store::{DIR, End};

/// As in the fuzz targets: an input's checks are made right.
const CHECKED: u8 = 1;

/// One value in so many is tried, unless `MEMLOG_HOSTILE_STRIDE` says otherwise.
const STRIDE: usize = if cfg!(debug_assertions) { 97 } else { 7 };
/// What a field of 4 or 8 bytes is replaced by.
const VALUES: [u64; 6] = [0, 1, 7, 1 << 31, 1 << 40, u64::MAX];

/// Each field of each file is given hostile values, and all checks are made right behind it.
#[test]
fn hostile_fields_end_in_errors_and_soon() {
    let stride = std::env::var("MEMLOG_HOSTILE_STRIDE").ok().and_then(|n| n.parse().ok());
    let stride: usize = stride.unwrap_or(STRIDE);
    let (mut number, mut tried) = (0, 0);
    for end in [End::Closed, End::Killed, End::KilledEarly, End::KilledLate] {
        let disk = store::make(end, &mut |_| {}).unwrap();
        let whole = Directory::of(&disk, DIR);
        for (index, file) in whole.files.iter().enumerate() {
            let bytes = file.contents();
            for (at, value, len) in fields(&bytes) {
                number += 1;
                if number % stride != 0 {
                    continue;
                }
                let mut hostile = whole.clone();
                let mut bytes = bytes.clone();
                bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
                hostile.files[index] = File::new(file.sort, file.id, &bytes);
                let outcome = std::panic::catch_unwind(|| open::all(&hostile.write()));
                let name = file.name();
                assert!(outcome.is_ok(), "{end:?}: {value} in {len} bytes at {at} of {name}");
                tried += 1;
            }
        }
    }
    println!("{tried} of {number} hostile values");
    assert!(tried > 100, "{tried} of {number} values");
}

/// Where fields of a file may be, and what each is to become: only what is not blank is a field.
fn fields(bytes: &[u8]) -> impl Iterator<Item = (usize, u64, usize)> + '_ {
    let places = (0..bytes.len() / 8).map(|place| place * 8);
    let places = places.filter(|at| bytes[*at..at + 8].iter().any(|byte| *byte != 0));
    let places = places.flat_map(|at| [(at, 8), (at, 4), (at + 4, 4)]);
    places.flat_map(|(at, len)| VALUES.map(|value| (at, value, len)))
}

/// The trailer of a run says that it covers lsns of segments that are newer.
#[test]
fn segments_that_contradict_each_other_are_left_alone() {
    let disk = store::make(End::Closed, &mut |_| {}).unwrap();
    let mut hostile = Directory::of(&disk, DIR);
    let file = hostile.files.iter_mut().find(|file| file.name().ends_with(".run")).unwrap();
    let mut bytes = file.contents();
    let highest = bytes.len() - 320 + 80;
    bytes[highest..highest + 8].copy_from_slice(&(1_u64 << 31).to_le_bytes());
    *file = File::new(file.sort, file.id, &bytes);
    let disk = SimDisk::new(1);
    hostile.put(&disk, DIR);
    let store = store::options().open_on(&disk, DIR).unwrap();
    while store.compact().is_ok_and(|outcome| outcome == CompactOutcome::More) {}
    let run = bytes.len() as u64;
    assert!(store.stats().quarantined_bytes > run, "the run, and what it contradicts");
    assert!(!store.purge().unwrap().is_complete());
}

/// A frame says that the next seq of its agent is far beyond all that there is.
#[test]
fn a_repair_fills_no_hole_that_no_history_leaves() {
    let (disk, options) = (SimDisk::new(1), store::options().retention(Retention::new()));
    let store = options.open_on(&disk, DIR).unwrap();
    for text in ["one", "two", "three"] {
        store.agent("acme/t-1").unwrap().append(NewEntry::user(text)).unwrap();
    }
    disk.restart();
    let mut hostile = Directory::of(&disk, DIR);
    let file = hostile.files.iter_mut().find(|file| file.is_segment()).unwrap();
    let mut bytes = file.contents();
    let name = b"acme/t-1";
    let at = bytes.windows(name.len()).rposition(|found| found == name).unwrap();
    // The next seq is behind the life, and the name behind 32 bytes of its agent.
    bytes[at - 24..at - 16].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    *file = File::new(file.sort, file.id, &bytes);
    let disk = SimDisk::with_capacity(1, 24 << 20);
    hostile.put(&disk, DIR);
    let report = options.repair_on(&disk, DIR, "/mended").unwrap();
    let told = |damage: &Damage| damage.agents.iter().any(|agent| agent == "acme/t-1");
    assert!(report.damage.iter().any(told), "{report:?}");
    let mended = options.open_on(&disk, "/mended").unwrap();
    let view = mended.agent("acme/t-1").unwrap().view().unwrap();
    assert!(view.next_seq() > 1 << 40);
    assert_eq!(view.latest(1).next().unwrap().unwrap().text().unwrap(), "three");
}

//! Hostile directories that fuzzing once found something with. Each is an input of the fuzz target
//! `open_bytes`, and goes through all that the target does.
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

use std::path::Path;

use memlog::sim::SimDisk;
use memlog::{Damage, NewEntry, Retention};

use directory::{Directory, File};
use store::DIR;

/// As in the fuzz targets: an input's checks are made right.
const CHECKED: u8 = 1;

#[test]
fn hostile_directories_end_in_errors_and_soon() {
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/inputs");
    let mut files: Vec<_> = inputs.read_dir().unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        println!("{}", file.display());
        open::all(&std::fs::read(file).unwrap());
    }
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

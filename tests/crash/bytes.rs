//! Which bytes lie in the files of a store: what was purged must not, ever again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use memlog::sim::SimDisk;

use crate::model::{Model, hash};
use crate::rng::{MARK, MARK_EACH, Rng};

/// What is known of the bytes that were put in.
#[derive(Clone, Default)]
pub struct Bytes {
    /// The hash of all bytes that follow from a number.
    known: BTreeMap<u64, u64>,
    /// Numbers whose bytes were purged.
    purged: BTreeSet<u64>,
    pub backup: Option<Backup>,
}

/// The last backup, what it has, and when it was made.
#[derive(Clone)]
pub struct Backup {
    pub path: PathBuf,
    pub model: Model,
    pub periods: u64,
}

impl Bytes {
    /// A number that there was not yet: a life after a crash may throw the same dice again.
    pub fn fresh(&self, dice: u64) -> u64 {
        Rng::of(&[dice, self.known.len() as u64]).next()
    }

    /// These bytes follow from that number.
    pub fn know(&mut self, id: u64, bytes: &[u8]) {
        self.known.insert(id, hash(bytes));
    }

    /// All that the model does not show is purged.
    pub fn purge(&mut self, model: &Model) {
        let mut live = BTreeSet::new();
        for seen in model.values().map(crate::model::Life::seen) {
            live.extend(seen.items.values().flat_map(|item| [item.meta, item.payload]));
            live.extend(seen.state.values().map(|value| value.hash));
        }
        let dead = self.known.iter().filter(|(_, hash)| !live.contains(hash));
        self.purged = dead.map(|(id, _)| *id).collect();
    }

    /// Nothing that was purged is in any file of the directory.
    pub fn check(&self, disk: &SimDisk, dir: &str, when: &str) {
        if self.purged.is_empty() {
            return;
        }
        for file in disk.files().into_iter().filter(|file| file.starts_with(dir)) {
            let bytes = disk.read_file(&file).unwrap();
            self.check_file(&file, &bytes, when);
        }
    }

    fn check_file(&self, file: &Path, bytes: &[u8], when: &str) {
        let mark = MARK.to_le_bytes();
        let mut at = 0;
        while at + 16 <= bytes.len() {
            // The mark begins in none of the eight bytes from here on, mostly.
            let next = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let Some(step) = first_byte(next, mark[0]) else {
                at += 8;
                continue;
            };
            at += step;
            if at + 16 <= bytes.len() && bytes[at..at + 8] == mark {
                let id = u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap());
                let purged = self.purged.contains(&id);
                assert!(!purged, "{when}: purged bytes {id:x} in {file:?} at {at}");
                at += MARK_EACH - 16;
            } else {
                at += 1;
            }
        }
    }
}

/// Where a byte is first in a word, if it is.
fn first_byte(word: u64, byte: u8) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let other = word ^ (ONES * u64::from(byte));
    let found = other.wrapping_sub(ONES) & !other & (ONES << 7);
    (found != 0).then_some(found.trailing_zeros() as usize / 8)
}

#[test]
fn purged_bytes_are_found_wherever_they_lie() {
    let mut known = Bytes::default();
    known.know(7, b"dead");
    known.purge(&Model::new());
    for at in 0..40 {
        let mut file = vec![0xee; 200];
        file[at..at + 100].copy_from_slice(&crate::rng::bytes(7, 100));
        let told = || known.check_file(Path::new("f"), &file, "now");
        assert!(crate::plan::quietly(told).is_none(), "{at}");
    }
    known.check_file(Path::new("f"), &crate::rng::bytes(8, 1000), "now");
}

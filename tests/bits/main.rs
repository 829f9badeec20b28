//! Every single bit of small stores that have every kind of structure between them is flipped, one
//! at a time. Each time the store says so by an error that names the file, or by a report; or the
//! bit is one of a list of harmless ones. Never is there other data, and never less without a word.
//!
//! The usual run takes every bit but those of harmless places, of which it takes a share, and a debug
//! build a share of all; `MEMLOG_BITS=all` takes all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    unreachable_pub
)]

mod look;
mod map;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use memlog::ErrorKind;
use memlog::sim::SimDisk;
use parking_lot::Mutex;

use look::{All, Found};
use map::Layout;
use store::{DIR, End, Lines};

/// A store that was left in some way.
struct Case {
    disk: SimDisk,
    layout: Layout,
    /// What it showed behind each of the last batches; the last is the truth.
    history: Vec<All>,
}

impl Case {
    fn new(end: End) -> Case {
        let mut history = Vec::new();
        let disk = store::make(end, &mut |store| history.push(look::all(store))).unwrap();
        let layout = Layout::of(&disk);
        Case { disk, layout, history }
    }

    fn truth(&self) -> &All {
        self.history.last().unwrap()
    }

    /// Flips one bit, and says what came of it.
    fn flip(&self, file: &Path, at: u64, bit: u8) -> &'static str {
        let disk = self.disk.fork();
        assert!(disk.flip_bit(file, at, bit));
        let what = format!("bit {bit} of byte {at} of {}", file.display());
        let harmless = self.layout.harmless(file, at);
        let store = match store::options().open_on(&disk, DIR) {
            Ok(store) => store,
            Err(error) => {
                assert!(harmless.is_none(), "{what} is harmless, but: {error:?}");
                let damage = error.damage();
                match error.kind() {
                    ErrorKind::Damaged => {
                        let damage = damage.unwrap_or_else(|| panic!("{what}: {error:?}"));
                        assert_eq!(damage.file, file, "{what}: {error:?}");
                    }
                    ErrorKind::Version => {
                        assert!(error.to_string().contains(name(file)), "{what}: {error:?}")
                    }
                    _ => panic!("{what}: {error:?}"),
                }
                return "refused by the opening";
            }
        };
        let truth = self.truth();
        let found = Found::of(&store, &truth.keys().collect::<Vec<_>>());
        if found.damage.is_empty() && found.all != *truth {
            let report = store.recovery_report();
            assert!(report.possibly_acknowledged, "{what}: not told: {report:?}\n{:?}", found.all);
            assert!(self.layout.is_last(file, at), "{what}: more than the last group is gone");
            let before = &self.history[self.history.len() - 2];
            assert!(found.all == *before, "{what}: other data: {:?}", found.all);
            return "the last group before the crash was cut, and reported";
        }
        found.check(truth, file, &what);
        let rows = store.verify().unwrap();
        assert!(rows.iter().all(|damage| damage.file == file), "{what}: {rows:?}");
        if let Some(why) = harmless {
            assert!(
                rows.is_empty() && found.damage.is_empty(),
                "{what} is harmless, but: {rows:?}"
            );
            return why;
        }
        assert!(!rows.is_empty(), "{what}: silent");
        if found.damage.is_empty() { "found by `verify`" } else { "refused by a read" }
    }
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

/// One in how many bits is flipped: of bytes that say something, of zeros, of harmless bytes.
struct Strides(usize, usize, usize);

fn strides() -> Strides {
    match std::env::var("MEMLOG_BITS").as_deref() {
        Ok("all") => Strides(1, 1, 1),
        _ if cfg!(debug_assertions) => Strides(61, 1511, 40_009),
        _ => Strides(1, 1, 4003),
    }
}

/// The bits to flip: file, byte, bit. What is sealed is the same in all stores, but for copies.
fn bits(end: End, layout: &Layout) -> Vec<(PathBuf, u64, u8)> {
    let strides = strides();
    let mut counts = [0usize; 3];
    let mut out = Vec::new();
    let seen = |path: &Path| {
        end != End::Closed && ["2.log", "3.run"].iter().any(|last| name(path).ends_with(last))
    };
    for (path, bytes) in layout.files.iter().filter(|(path, _)| !seen(path)) {
        for (at, byte) in bytes.iter().enumerate() {
            let (sort, stride) = match layout.harmless(path, at as u64) {
                Some(_) => (2, strides.2),
                None if *byte == 0 => (1, strides.1),
                None => (0, strides.0),
            };
            for bit in 0..8 {
                counts[sort] += 1;
                if counts[sort].is_multiple_of(stride) {
                    out.push((path.clone(), at as u64, bit));
                }
            }
        }
    }
    out
}

/// Flips them all, and prints what came of it.
fn campaign(end: End) {
    let started = Instant::now();
    let case = Case::new(end);
    let bits = bits(end, &case.layout);
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<BTreeMap<&str, u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut mine: BTreeMap<&str, u64> = BTreeMap::new();
                while let Some((file, at, bit)) = bits.get(next.fetch_add(1, Ordering::Relaxed)) {
                    *mine.entry(case.flip(file, *at, *bit)).or_default() += 1;
                }
                for (outcome, count) in mine {
                    *outcomes.lock().entry(outcome).or_default() += count;
                }
            });
        }
    });
    println!("{end:?}: {} bits in {:.1?}", bits.len(), started.elapsed());
    for (outcome, count) in outcomes.into_inner() {
        println!("{count:>10} {outcome}");
    }
}

#[test]
fn every_bit_of_a_closed_store() {
    campaign(End::Closed);
}

#[test]
fn every_bit_of_a_store_whose_process_died() {
    campaign(End::Killed);
}

#[test]
fn every_bit_of_a_store_whose_recovery_died() {
    campaign(End::KilledEarly);
    campaign(End::KilledLate);
}

#[test]
fn the_stores_have_every_kind_of_structure() {
    let lines = |end| Lines::of(&store::make(end, &mut |_| {}).unwrap());
    let closed = lines(End::Closed);
    assert_eq!((closed.unsealed, closed.sealed, closed.runs), (1, 3, 1));
    assert_eq!((closed.forgotten, closed.defaults), (1, 2));
    assert_eq!(lines(End::Killed).unsealed, 2);
    assert_eq!(lines(End::KilledEarly).drafts, 3);
    assert_eq!(lines(End::KilledLate).obsolete, 2);
}

//! Damage below what was durable: refused or reported, never wrong data; salvage and repair give
//! everything else.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memlog::sim::{SimDisk, SimFault};
use memlog::{Damage, ErrorKind, Options, Store};

use crate::campaign::{Sort, finished_history, misled_history};
use crate::flavor::Flavor;
use crate::ledger::{Ledger, item};
use crate::model::{self, Item, Seen, hash};
use crate::once::case;
use crate::rng::Rng;
use crate::world::DIR;

const MENDED: &str = "/data/mended";

/// One history, closed, and damaged in so many ways, one at a time.
pub fn seed(test: &str, sort: Sort, seed: u64, ways: u64, only: Option<u64>) {
    let (disk, ledger, flavor) = case(test, seed, None, || finished_history(sort, seed));
    for way in 0..ways {
        if only.is_none_or(|only| only == way) {
            case(test, seed, Some(way), || {
                let mut rng = Rng::of(&[seed, way, 8]);
                one(&disk.fork(), &ledger, &flavor, &mut rng);
            });
        }
    }
}

fn one(disk: &SimDisk, ledger: &Ledger, flavor: &Flavor, rng: &mut Rng) {
    let Some((file, harmed)) = harm(disk, rng) else { return };
    let before: Vec<_> = disk.files().iter().map(|f| disk.read_file(f)).collect();
    let something = salvage(disk, ledger, flavor, &file);
    let after: Vec<_> = disk.files().iter().map(|f| disk.read_file(f)).collect();
    assert!(before == after, "salvage changed a file");
    if something {
        repair(&disk.fork(), ledger, flavor);
    }
    match flavor.options.open_on(disk, DIR) {
        Err(error) => {
            let kinds = [ErrorKind::Damaged, ErrorKind::Version, ErrorKind::StaleManifest];
            assert!(kinds.contains(&error.kind()), "damage in {file:?}: {error:?}");
            if let Some(damage) = error.damage() {
                let named = damage.file == file || damage.file.ends_with("MANIFEST");
                assert!(named, "damage in {file:?} is said to be in {damage:?}");
            }
        }
        Ok(store) => {
            let differ = compare(&store, ledger);
            assert!(differ.wrong.is_empty(), "damage in {file:?}: wrong data: {:?}", differ.wrong);
            let damage = store.verify().unwrap();
            let told = !damage.is_empty();
            assert!(told || is_gap(disk, &file, &harmed), "damage in {file:?} is silent");
            assert!(damage.iter().all(|d| d.file == file), "damage in {file:?}: {damage:?}");
        }
    }
}

/// A history whose disk loses a write, or puts it elsewhere, and says nothing; then the power fails,
/// or the memory is read anew. Nothing that is read is wrong, and what is missing is told.
pub fn astray(test: &str, sort: Sort, seed: u64, ways: u64, only: Option<u64>) -> u64 {
    let mut told = 0;
    let calls = case(test, seed, None, || finished_history(sort, seed).0.calls());
    for way in 0..ways {
        if only.is_none_or(|only| only == way) {
            told += u64::from(case(test, seed, Some(way), || {
                let mut rng = Rng::of(&[seed, way, 9]);
                let fault = *rng.pick(&[SimFault::LostWrite, SimFault::Misdirected]);
                let trouble = (rng.below(calls), fault);
                let (disk, ledger, flavor) = misled_history(sort, seed, trouble);
                let disk = match rng.below(3) {
                    0 => {
                        disk.evict();
                        disk.fork()
                    }
                    1 => disk.fork_synced(),
                    _ => disk.fork_without_power(rng.next()),
                };
                is_told(&disk, &ledger, &flavor)
            }));
        }
    }
    told
}

/// Opens a store of which a write went astray; true if something is missing, and it says so.
fn is_told(disk: &SimDisk, ledger: &Ledger, flavor: &Flavor) -> bool {
    let store = match flavor.options.open_on(disk, DIR) {
        Ok(store) => store,
        Err(error) => {
            let kinds = [
                ErrorKind::Damaged,
                ErrorKind::Version,
                ErrorKind::StaleManifest,
                ErrorKind::NotAStore,
            ];
            assert!(kinds.contains(&error.kind()), "{error:?}");
            return true;
        }
    };
    let differ = compare(&store, ledger);
    assert!(differ.wrong.is_empty(), "wrong data: {:?}", differ.wrong);
    let report = store.recovery_report().clone();
    let told = report.possibly_acknowledged || !store.verify().unwrap().is_empty();
    let lacks = !differ.other.is_empty() || !differ.damaged.is_empty();
    assert!(told || !lacks, "it says nothing: {differ:?}, {report:?}");
    told
}

/// Whether a range lies between the data and the footer of a sealed segment: nothing is there but
/// what a recovery has cut, or copied elsewhere.
fn is_gap(disk: &SimDisk, file: &Path, range: &Range<u64>) -> bool {
    let bytes = disk.read_file(file).unwrap();
    let Some(trailer) = bytes.last_chunk::<320>().filter(|t| t.starts_with(b"memlogFT")) else {
        return false;
    };
    let number = |at: usize| u64::from_le_bytes(trailer[at..at + 8].try_into().unwrap());
    let (data_end, footer_at) = (number(56), number(104));
    range.start >= data_end && range.end <= footer_at
}

/// Damages one file; gives it, and the range.
fn harm(disk: &SimDisk, rng: &mut Rng) -> Option<(PathBuf, Range<u64>)> {
    let idle = ["LOCK", "RESERVE", "RESERVE.open"];
    let ours = |f: &PathBuf| f.starts_with(DIR) && !idle.iter().any(|name| f.ends_with(name));
    let files: Vec<PathBuf> = disk.files().into_iter().filter(ours).collect();
    let file = rng.pick(&files).clone();
    let bytes = disk.read_file(&file)?;
    let len = bytes.len() as u64;
    let mut harmed = 0..len;
    match rng.below(10) {
        0 => {
            disk.remove_file(&file);
        }
        1 => {
            let len = rng.below(len);
            if std::env::var_os("MEMLOG_TRAIL").is_some() {
                eprintln!("{file:?} cut to {len}");
            }
            disk.truncate_file(&file, len);
        }
        way => {
            // Where something was written, that is, as far as can be told from outside.
            let written: Vec<u64> =
                (0..len / 8).filter(|at| bytes[*at as usize * 8..][..8] != [0; 8]).collect();
            let offset = rng.pick(&written) * 8 + rng.below(8);
            disk.flip_bit(&file, offset, rng.below(8) as u8);
            harmed = offset..offset + 1;
            if std::env::var_os("MEMLOG_TRAIL").is_some() {
                eprintln!("way {way}: {file:?} at {offset} of {len}");
            }
            if way == 9 {
                let end = (offset + rng.below(5000)).min(len);
                harmed.end = end.max(harmed.end);
                for at in offset + 1..end {
                    disk.flip_bit(&file, at, rng.below(8) as u8);
                }
            }
        }
    }
    Some((file, harmed))
}

/// How a store differs from what the ledger says.
#[derive(Default, Debug)]
struct Differ {
    /// Agents of which something cannot be read.
    damaged: Vec<String>,
    /// Agents that are other than they should be, and nothing says so.
    other: Vec<String>,
    /// What never was.
    wrong: Vec<String>,
}

fn compare(store: &Store, ledger: &Ledger) -> Differ {
    let mut differ = Differ::default();
    let mut names: Vec<String> = ledger.now().keys().cloned().collect();
    match store.agents("").map(|a| a.map(|a| a.name().to_owned())).collect::<Result<Vec<_>, _>>() {
        Ok(found) => names.extend(found),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "agents: {error:?}"),
    }
    names.sort();
    names.dedup();
    for name in names {
        agent(store, ledger, &name, &mut differ);
    }
    differ
}

fn agent(store: &Store, ledger: &Ledger, name: &str, differ: &mut Differ) {
    let ever = ledger.ever.as_ref().unwrap();
    let expected = model::seen(ledger.now(), name);
    let view = match store.agent(name).unwrap().view() {
        Ok(view) => view,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Damaged, "view: {error:?}");
            differ.damaged.push(name.into());
            return;
        }
    };
    let mut damaged = false;
    let mut found = Seen { items: BTreeMap::new(), ..expected.clone() };
    (found.floor, found.next) = (view.floor(), view.next_seq());
    for seq in view.floor()..view.next_seq() {
        match view.get(seq) {
            Ok(Some(entry)) => {
                let item = item(&entry);
                let known = ever.get(&(name.to_owned(), seq));
                if !known.is_some_and(|all| all.iter().any(|one| was(one, &item))) {
                    differ.wrong.push(format!("{name} seq {seq}: {item:?}"));
                }
                found.items.insert(seq, item);
            }
            Ok(None) => differ.wrong.push(format!("{name} seq {seq}: not there")),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "get: {error:?}");
                damaged = true;
                let known = expected.items.get(&seq);
                let told = known.map(|item| Item { expires: None, ..item.clone() });
                found.items.extend(told.map(|item| (seq, item)));
            }
        }
    }
    for (key, value) in &expected.state {
        match view.state(key) {
            Ok(Some(told)) if hash(told.value()) == value.hash => {}
            Ok(told) => {
                found.state.remove(key);
                drop(told);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "state: {error:?}");
                damaged = true;
            }
        }
    }
    if !expected.matches(&found) {
        if std::env::var_os("MEMLOG_TRAIL").is_some() {
            eprintln!("{name}: expected {expected:?}\n    found {found:?}");
        }
        differ.other.push(name.into());
    }
    if damaged {
        differ.damaged.push(name.into());
    }
}

/// Whether an entry that once was looks like this.
fn was(one: &Item, seen: &Item) -> bool {
    let mut told = Item { at: one.at.or(seen.at), expires: None, ..one.clone() };
    if seen.redacted {
        told = Item { redacted: true, meta: hash(&[]), payload: hash(&[]), ..told };
    }
    told == *seen
}

/// False if there is nothing left to be read.
fn salvage(disk: &SimDisk, ledger: &Ledger, flavor: &Flavor, file: &Path) -> bool {
    let opened = flavor.options.clone().salvage(true).open_on(disk, DIR);
    let store = match opened {
        Ok(store) => store,
        Err(error) => {
            // Without a segment that holds anything there is nothing to be had.
            let is_log =
                |f: &PathBuf| f.starts_with(DIR) && f.extension().is_some_and(|e| e == "log");
            let mut others = disk.files().into_iter().filter(|f| is_log(f) && f != file);
            let holds = |f: PathBuf| disk.read_file(f).unwrap().iter().skip(512).any(|b| *b != 0);
            assert!(!others.any(holds), "salvage, {file:?}: {error:?}");
            assert_eq!(error.kind(), ErrorKind::Damaged, "salvage with damage in {file:?}");
            return false;
        }
    };
    let damage = store.recovery_report().damage.clone();
    let differ = compare(&store, ledger);
    check(&differ, &damage, ledger, &format!("salvage with damage in {file:?}"));
    true
}

fn check(differ: &Differ, damage: &[Damage], ledger: &Ledger, when: &str) {
    assert!(differ.wrong.is_empty(), "{when}: wrong data: {:?}", differ.wrong);
    let untold = damage.iter().any(|damage| damage.agents.is_empty());
    for name in &differ.other {
        let named = damage.iter().any(|damage| damage.agents.contains(name));
        let last = ledger.now().get(name).map(model::Life::seen);
        assert!(
            named || untold,
            "{when}: {name} is other than {last:?}, and no damage names it: {damage:?}"
        );
    }
}

fn repair(disk: &SimDisk, ledger: &Ledger, flavor: &Flavor) {
    let options: Options = flavor.options.clone();
    let report = match options.repair_on(disk, DIR, MENDED) {
        Ok(report) => report,
        Err(error) => panic!("repair: {error:?}"),
    };
    let store = options.open_on(disk, MENDED).unwrap_or_else(|e| panic!("the repaired: {e:?}"));
    let differ = compare(&store, ledger);
    check(&differ, &report.damage, ledger, "repair");
}

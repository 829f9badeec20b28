//! Bad input: each kind gets its typed error and changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use memlog::{
    Agent, Batch, Durability, Error, ErrorKind, Kind, Lsn, Maintenance, NewEntry, Options, Store,
};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

fn options() -> Options {
    Options::new().durability(Durability::Write).maintenance(Maintenance::Manual)
}

/// A store with an agent of three entries and a state, and nothing that may change.
struct World {
    _dir: TempDir,
    path: PathBuf,
    store: Store,
    agent: Agent,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mem");
        let store = options().open(&path).unwrap();
        let agent = store.agent("a").unwrap();
        (0..3).for_each(|_| assert!(agent.append(NewEntry::user("x")).is_ok()));
        store.batch().set(&agent, "k", "v").commit().unwrap();
        World { _dir: dir, path, store, agent }
    }

    /// What may not change: memory may be spent on whom the attempt named.
    fn stats(&self) -> memlog::Stats {
        let mut stats = self.store.stats();
        stats.resident_bytes = 0;
        stats
    }

    /// The attempt fails as it should, and all is as it was.
    fn refuses(&self, kind: ErrorKind, attempt: impl FnOnce(&World) -> Error) -> Error {
        let before = (self.stats(), entries(&self.path));
        let error = attempt(self);
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!((self.stats(), entries(&self.path)), before, "{error}");
        let view = self.agent.view().unwrap();
        assert_eq!((view.floor(), view.next_seq(), view.iter().count()), (1, 4, 3));
        assert!(view.iter().all(|e| e.unwrap().payload() == b"x"));
        assert_eq!(&view.state("k").unwrap().unwrap().value()[..], b"v");
        assert_eq!(view.states("").count(), 1);
        assert_eq!(self.store.agents("").count(), 1);
        assert_eq!(self.store.verify().unwrap(), []);
        error
    }

    /// A batch with something good before and after what is bad, committed and submitted.
    fn batch_refuses(&self, kind: ErrorKind, bad: impl Fn(&mut Batch, &Agent)) {
        let other = self.store.agent("other").unwrap();
        let fill = |batch: &mut Batch| {
            batch.append(&self.agent, NewEntry::user("good")).set(&other, "k", "good");
            bad(batch, &self.agent);
            batch.append(&other, NewEntry::user("good"));
        };
        let mut batch = self.store.batch();
        fill(&mut batch);
        self.refuses(kind, |_| batch.commit().unwrap_err());
        fill(&mut batch);
        self.refuses(kind, |_| batch.submit().wait().unwrap_err());
        // Nothing of it is left in the batch.
        let receipt = batch.commit().unwrap();
        assert_eq!(receipt.lsn(), self.store.stats().next_lsn);
    }
}

/// The names in a directory.
fn entries(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn names_empty_and_overlong() {
    let w = World::new();
    for name in ["", &"n".repeat(513), &"\u{e9}".repeat(257)] {
        w.refuses(ErrorKind::InvalidInput, |w| w.store.agent(name).unwrap_err());
    }
    w.store.agent(&"\u{e9}".repeat(256)).unwrap();
}

#[test]
fn prefixes_to_forget_end_in_a_slash() {
    let w = World::new();
    for prefix in ["", "a", "a/b", "/a", &format!("{}/", "p".repeat(512))] {
        w.refuses(ErrorKind::InvalidInput, |w| w.store.forget_prefix(prefix).unwrap_err());
    }
}

#[test]
fn payload_meta_key_and_value_above_their_limits() {
    let w = World::new();
    let large = vec![0; 32 * MIB + 1];
    let (meta, key) = (vec![0; (64 << 10) + 1], "k".repeat(1025));
    w.refuses(ErrorKind::TooLarge, |w| {
        w.agent.append(NewEntry::new(Kind::USER, &large)).unwrap_err()
    });
    w.refuses(ErrorKind::TooLarge, |w| {
        w.agent.append(NewEntry::user("x").meta(&meta)).unwrap_err()
    });
    w.batch_refuses(ErrorKind::TooLarge, |b, a| {
        b.append(a, NewEntry::new(Kind::USER, &large));
    });
    w.batch_refuses(ErrorKind::TooLarge, |b, a| {
        b.set(a, "k", &large);
    });
    w.batch_refuses(ErrorKind::TooLarge, |b, a| {
        b.set(a, &key, "v");
    });
    w.batch_refuses(ErrorKind::TooLarge, |b, a| {
        b.unset(a, &key);
    });
    w.batch_refuses(ErrorKind::TooLarge, |b, a| {
        b.expect_revision(a, &key, None);
    });
    w.batch_refuses(ErrorKind::InvalidInput, |b, a| {
        b.set(a, "", "v");
    });
    w.batch_refuses(ErrorKind::InvalidInput, |b, a| {
        b.unset(a, "");
    });
    w.batch_refuses(ErrorKind::InvalidInput, |b, a| {
        b.expect_revision(a, "", None);
    });
}

#[test]
fn a_lower_limit_of_the_options_holds() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().max_payload(10).open(dir.path().join("mem")).unwrap();
    let agent = store.agent("a").unwrap();
    agent.append(NewEntry::user("0123456789")).unwrap();
    let error = agent.append(NewEntry::user("0123456789x")).unwrap_err();
    assert_eq!((error.kind(), error.agent()), (ErrorKind::TooLarge, Some("a")));
    assert_eq!(agent.view().unwrap().next_seq(), 2);
}

#[test]
fn an_encoded_batch_above_64_mib() {
    let w = World::new();
    let half = vec![1; 32 * MIB];
    w.batch_refuses(ErrorKind::TooLarge, |b, a| {
        b.append(a, NewEntry::new(Kind::USER, &half)).append(a, NewEntry::new(Kind::USER, &half));
    });
    // Names count too.
    w.batch_refuses(ErrorKind::TooLarge, |b, a| {
        b.append(a, NewEntry::new(Kind::USER, &half));
        b.append(a, NewEntry::new(Kind::USER, &half[..32 * MIB - 20_000]));
        for i in 0..50 {
            let other = w.store.agent(&format!("{i:0>500}")).unwrap();
            b.set(&other, "k", "v");
        }
    });
    // Just below it goes.
    let mut batch = w.store.batch();
    batch.append(&w.agent, NewEntry::new(Kind::USER, &half));
    batch.append(&w.agent, NewEntry::new(Kind::USER, &half[..32 * MIB - 1024]));
    assert_eq!(batch.commit().unwrap().seqs(&w.agent), 4..6);
    let view = w.agent.view().unwrap();
    assert!(view.get(4).unwrap().unwrap().payload() == half);
    assert_eq!(w.store.verify().unwrap(), []);
}

#[test]
fn seqs_0_and_beyond_the_end() {
    let w = World::new();
    for seq in [0, 5, u64::MAX] {
        let error = w.refuses(ErrorKind::OutOfRange, |w| w.agent.truncate_before(seq).unwrap_err());
        assert_eq!((error.agent(), error.seq()), (Some("a"), Some(seq)));
        w.refuses(ErrorKind::OutOfRange, |w| w.agent.redact(seq).unwrap_err());
    }
    w.refuses(ErrorKind::OutOfRange, |w| w.agent.redact(4).unwrap_err());
    // In a batch what stands before it counts.
    w.batch_refuses(ErrorKind::OutOfRange, |b, a| {
        b.truncate_before(a, 6);
    });
    w.batch_refuses(ErrorKind::OutOfRange, |b, a| {
        b.redact(a, 5);
    });
    w.batch_refuses(ErrorKind::OutOfRange, |b, a| {
        b.forget(a).redact(a, 1);
    });
    w.refuses(ErrorKind::OutOfRange, |w| {
        w.store.agent("absent").unwrap().truncate_before(2).unwrap_err()
    });
    w.refuses(ErrorKind::OutOfRange, |w| w.store.agent("absent").unwrap().redact(1).unwrap_err());
}

#[test]
fn times_before_1970_and_beyond_counting() {
    let w = World::new();
    let early = UNIX_EPOCH - Duration::from_millis(1);
    let late = UNIX_EPOCH + Duration::from_secs(1 << 60);
    for time in [early, late] {
        for entry in [NewEntry::user("x").at(time), NewEntry::user("x").expires_at(time)] {
            w.refuses(ErrorKind::InvalidInput, |w| w.agent.append(entry).unwrap_err());
        }
    }
}

#[test]
fn expectations_that_do_not_hold_or_contradict_each_other() {
    let w = World::new();
    for next in [0, 3, 5, u64::MAX] {
        w.batch_refuses(ErrorKind::Conflict, |b, a| {
            b.expect_next(a, next);
        });
    }
    let at = w.agent.view().unwrap().state("k").unwrap().unwrap().revision();
    for wrong in [None, Some(Lsn(0)), Some(Lsn(at.0 - 1)), Some(Lsn(u64::MAX))] {
        w.batch_refuses(ErrorKind::Conflict, |b, a| {
            b.expect_revision(a, "k", wrong);
        });
    }
    w.batch_refuses(ErrorKind::Conflict, |b, a| {
        b.expect_revision(a, "absent", Some(at));
    });
    w.batch_refuses(ErrorKind::InvalidInput, |b, a| {
        b.expect_next(a, 4).expect_next(a, 5);
    });
    w.batch_refuses(ErrorKind::Conflict, |b, a| {
        b.expect_revision(a, "k", Some(at)).expect_revision(a, "k", None);
    });
    // An expectation alone is checked too.
    w.refuses(ErrorKind::Conflict, |w| {
        w.store.batch().expect_next(&w.agent, 1).commit().unwrap_err()
    });
    w.store.batch().expect_next(&w.agent, 4).expect_next(&w.agent, 4).commit().unwrap();
}

#[test]
fn an_agent_of_another_store() {
    let (w, foreign) = (World::new(), World::new());
    let theirs = foreign.store.agent("a").unwrap();
    w.batch_refuses(ErrorKind::InvalidInput, |b, _| {
        b.append(&theirs, NewEntry::user("x"));
    });
    w.batch_refuses(ErrorKind::InvalidInput, |b, _| {
        b.forget(&theirs).truncate_before(&theirs, 1).redact(&theirs, 1).unset(&theirs, "k");
    });
    w.batch_refuses(ErrorKind::InvalidInput, |b, _| {
        b.expect_next(&theirs, 4);
    });
    w.batch_refuses(ErrorKind::InvalidInput, |b, _| {
        b.expect_revision(&theirs, "k", None);
    });
    assert_eq!(theirs.view().unwrap().next_seq(), 4);
}

#[test]
fn a_directory_that_is_not_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = dir.path().join("nothing");
    let refused = |options: Options, path: &Path| {
        let error = options.open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAStore, "{error}");
    };
    refused(options().create(false), &nothing);
    refused(options().salvage(true), &nothing);
    assert!(!nothing.exists(), "nothing is created");
    let others = dir.path().join("others");
    fs::create_dir(&others).unwrap();
    refused(options().create(false), &others);
    assert!(entries(&others).is_empty());
    fs::write(others.join("letter.txt"), "dear").unwrap();
    for options in [options(), options().create(false), options().salvage(true)] {
        refused(options, &others);
    }
    assert_eq!(entries(&others), ["letter.txt"]);
    let file = dir.path().join("file");
    fs::write(&file, "plain").unwrap();
    for options in [options(), options().create(false), options().salvage(true)] {
        refused(options, &file);
    }
    assert_eq!(fs::read(&file).unwrap(), b"plain");
    let error = options().repair(&others, dir.path().join("to")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAStore);
    assert!(!dir.path().join("to").exists());
    let w = World::new();
    let error = options().repair(&w.path, &others).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "only into nothing");
    let error = options().repair(&w.path, &w.path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "not into itself");
    assert_eq!(entries(&others), ["letter.txt"]);
}

/// The finaliser of SplitMix64, folded: what binds a check to its place.
fn mask(salt: u64, position: u64) -> u32 {
    let mut x = salt ^ position.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    (x ^ (x >> 32)) as u32
}

#[test]
fn a_store_of_another_format_version() {
    for step in [-1i32, 1, 77, i32::MAX] {
        let w = World::new();
        w.store.close().unwrap();
        let manifest = w.path.join("MANIFEST");
        let whole = fs::read(&manifest).unwrap();
        let version = u32::from_le_bytes(whole[8..12].try_into().unwrap());
        let version = version.wrapping_add_signed(step);
        let mut other = whole.clone();
        other[8..12].copy_from_slice(&version.to_le_bytes());
        fs::write(&manifest, &other).unwrap();
        for options in [options(), options().create(false)] {
            let error = options.open(&w.path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Version, "{error}");
            assert!(error.to_string().contains(&version.to_string()), "{error}");
        }
        assert_eq!(fs::read(&manifest).unwrap(), other);
        fs::write(&manifest, &whole).unwrap();
        // A segment of another version, whole by its own checksum.
        let path = w.path.join("0000000000000001.log");
        let mut segment = fs::read(&path).unwrap();
        segment[8..12].copy_from_slice(&version.to_le_bytes());
        let salt = u64::from_le_bytes(segment[40..48].try_into().unwrap());
        segment[12..16].fill(0);
        let check = crc32fast::hash(&segment[..128]) ^ mask(salt, 0);
        segment[12..16].copy_from_slice(&check.to_le_bytes());
        fs::write(&path, &segment).unwrap();
        let error = options().open(&w.path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Version, "{error}");
        // Both: nothing of it can be read, and nobody takes it for damage.
        fs::write(&manifest, &other).unwrap();
        let to = w.path.join("../to");
        let salvaged = options().salvage(true).open(&w.path).unwrap_err();
        assert_eq!(salvaged.kind(), ErrorKind::Version, "{salvaged}");
        assert_eq!(options().repair(&w.path, to).unwrap_err().kind(), ErrorKind::Version);
    }
}

#[test]
fn a_second_opening_in_the_same_process() {
    let w = World::new();
    w.refuses(ErrorKind::InUse, |w| options().open(&w.path).unwrap_err());
    w.refuses(ErrorKind::InUse, |w| Store::open(&w.path).unwrap_err());
    let salvaged = options().salvage(true).open(&w.path).unwrap();
    assert_eq!(salvaged.agent("a").unwrap().view().unwrap().next_seq(), 4, "it takes no lock");
    drop(salvaged);
    w.store.close().unwrap();
    let again = options().open(&w.path).unwrap();
    assert_eq!(again.agent("a").unwrap().view().unwrap().next_seq(), 4);
}

const CHILD: &str = "MEMLOG_TEST_SECOND_PROCESS";

#[test]
fn a_second_process() {
    if let Some(path) = std::env::var_os(CHILD) {
        // This is the second process.
        let error = options().open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
        return;
    }
    let w = World::new();
    let second = || {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["a_second_process", "--exact"]).env(CHILD, &w.path);
        command.output().unwrap().status
    };
    assert!(second().success(), "it was refused");
    w.agent.append(NewEntry::user("goes on")).unwrap();
    w.store.close().unwrap();
    assert!(!second().success(), "and is not when the store was closed");
}

#[test]
fn a_read_only_directory() {
    use std::os::unix::fs::PermissionsExt;
    let w = World::new();
    w.store.close().unwrap();
    let set = |mode| fs::set_permissions(&w.path, fs::Permissions::from_mode(mode)).unwrap();
    set(0o555);
    let probe = w.path.join("probe");
    if fs::write(&probe, "").is_ok() {
        fs::remove_file(probe).unwrap();
        eprintln!("skipped: this user may write everywhere");
        return;
    }
    let before = entries(&w.path);
    let error = options().open(&w.path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert_eq!(entries(&w.path), before);
    let salvaged = options().salvage(true).open(&w.path).unwrap();
    assert_eq!(salvaged.agent("a").unwrap().view().unwrap().next_seq(), 4);
    set(0o755);
    assert_eq!(options().open(&w.path).unwrap().agents("").count(), 1);
}

use std::io::{ErrorKind, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::io::{File, Fs};

const LEN: u64 = 8192;

fn p(path: &str) -> &Path {
    Path::new(path)
}

/// A file of zeros, durable with its name.
fn durable_file(fs: &dyn Fs, path: &str) -> Arc<dyn File> {
    let file = fs.create(p(path), LEN).unwrap();
    file.sync().unwrap();
    fs.sync_dir(p("/")).unwrap();
    file
}

fn write(file: &dyn File, bytes: &[u8], offset: u64) {
    file.write_at(&[IoSlice::new(bytes)], offset).unwrap();
}

/// Over many power failures: is what was found at `path` ever and always so?
fn seen(disk: &SimDisk, path: &str, is_so: impl Fn(Option<&[u8]>) -> bool) -> (bool, bool) {
    let (mut ever, mut always) = (false, true);
    for seed in 0..200 {
        let hit = is_so(disk.fork_without_power(seed).read_file(path).as_deref());
        ever |= hit;
        always &= hit;
    }
    (ever, always)
}

const SOMETIMES: (bool, bool) = (true, false);
const ALWAYS: (bool, bool) = (true, true);
const NEVER: (bool, bool) = (false, false);

#[test]
fn an_unsynced_write_may_be_lost_kept_or_torn() {
    let disk = SimDisk::new(1);
    let file = durable_file(&*disk.io().fs, "/f");
    write(&*file, &[1; 600], 0);
    write(&*file, &[2; 600], 0);
    let at = |i: usize, byte: u8| move |b: Option<&[u8]>| b.unwrap()[i] == byte;
    for byte in 0..=2 {
        assert_eq!(seen(&disk, "/f", at(0, byte)), SOMETIMES);
    }
    let torn = |b: Option<&[u8]>| b.unwrap()[0] == 2 && b.unwrap()[511] == 0;
    assert_eq!(seen(&disk, "/f", torn), SOMETIMES);
    let reordered = |b: Option<&[u8]>| b.unwrap()[0] == 0 && b.unwrap()[512] == 2;
    assert_eq!(seen(&disk, "/f", reordered), SOMETIMES);
    assert_eq!(seen(&disk, "/f", at(600, 0)), ALWAYS);
    assert_eq!(seen(&disk, "/f", |b| b.unwrap().len() as u64 == LEN), ALWAYS);
}

#[test]
fn a_synced_write_survives_and_so_does_its_sector() {
    let disk = SimDisk::new(1);
    let file = durable_file(&*disk.io().fs, "/f");
    write(&*file, &[7; 100], 1000);
    file.sync().unwrap();
    write(&*file, &[8; 100], 1100);
    let kept = |b: Option<&[u8]>| b.unwrap()[1000..1100] == [7; 100];
    assert_eq!(seen(&disk, "/f", kept), ALWAYS);
    let next = |b: Option<&[u8]>| b.unwrap()[1100..1200] == [8; 100];
    assert_eq!(seen(&disk, "/f", next), SOMETIMES);
}

#[test]
fn the_least_that_is_left_is_what_was_synced() {
    let disk = SimDisk::new(1);
    let fs = disk.io().fs;
    let file = durable_file(&*fs, "/f");
    write(&*file, b"kept", 0);
    file.sync().unwrap();
    write(&*file, b"lost", 4);
    fs.rename(p("/f"), p("/g")).unwrap();
    fs.create(p("/h"), LEN).unwrap();
    let left = disk.fork_synced();
    assert_eq!(left.files(), [p("/f")]);
    assert_eq!(left.read_file("/f").unwrap()[..8], *b"kept\0\0\0\0");
    assert_eq!(disk.files(), [p("/g"), p("/h")]);
}

#[test]
fn a_length_needs_a_sync() {
    let disk = SimDisk::new(1);
    let fs = disk.io().fs;
    let file = fs.create(p("/f"), LEN).unwrap();
    fs.sync_dir(p("/")).unwrap();
    let len = |len: u64| move |b: Option<&[u8]>| b.unwrap().len() as u64 == len;
    assert_eq!(seen(&disk, "/f", len(0)), SOMETIMES);
    assert_eq!(seen(&disk, "/f", len(LEN)), SOMETIMES);
    file.sync().unwrap();
    assert_eq!(seen(&disk, "/f", len(LEN)), ALWAYS);
}

#[test]
fn a_name_needs_a_sync_of_its_directory() {
    let disk = SimDisk::new(1);
    let fs = disk.io().fs;
    fs.create_dir(p("/a/b")).unwrap();
    let file = fs.create(p("/a/b/f"), LEN).unwrap();
    file.sync().unwrap();
    assert_eq!(seen(&disk, "/a/b/f", |b| b.is_none()), SOMETIMES);
    fs.sync_dir(p("/a/b")).unwrap();
    assert_eq!(seen(&disk, "/a/b/f", |b| b.is_some()), ALWAYS);
    fs.remove(p("/a/b/f")).unwrap();
    assert_eq!(disk.read_file("/a/b/f"), None);
    assert_eq!(seen(&disk, "/a/b/f", |b| b.is_some()), SOMETIMES);
    fs.sync_dir(p("/a/b")).unwrap();
    assert_eq!(seen(&disk, "/a/b/f", |b| b.is_some()), NEVER);
}

#[test]
fn a_rename_is_atomic() {
    let disk = SimDisk::new(1);
    assert!(disk.write_file("/m", b"old") && disk.write_file("/t", b"new"));
    let fs = disk.io().fs;
    fs.rename(p("/t"), p("/m")).unwrap();
    fs.create(p("/later"), 0).unwrap();
    assert_eq!(disk.files(), [p("/later"), p("/m")]);
    let mut found = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let after = disk.fork_without_power(seed);
        let (m, t) = (after.read_file("/m").unwrap(), after.read_file("/t"));
        assert!(m == b"old" && t.as_deref() == Some(b"new") || m == b"new");
        found.insert((m == b"new", t.is_some(), after.read_file("/later").is_some()));
    }
    assert_eq!(found.len(), 6, "in any order, and the old name stays or goes: {found:?}");
    assert_eq!(seen(&disk, "/m", |b| b == Some(b"old")), SOMETIMES);
    fs.sync_dir(p("/")).unwrap();
    assert_eq!(seen(&disk, "/m", |b| b == Some(b"new")), ALWAYS);
}

#[test]
fn a_failed_sync_gives_its_pages_up() {
    let disk = SimDisk::new(1);
    let fs = disk.io().fs;
    let file = durable_file(&*fs, "/f");
    let other = fs.open(p("/f"), false).unwrap();
    write(&*file, b"gone", 0);
    disk.fail_at(disk.calls(), SimFault::Eio, false);
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
    file.sync().unwrap();
    assert!(other.sync().is_err(), "each open file hears of it");
    other.sync().unwrap();
    assert_eq!(disk.read_file("/f").unwrap()[..4], *b"gone");
    assert_eq!(seen(&disk, "/f", |b| b.unwrap()[..4] == [0; 4]), ALWAYS, "by the seed of the disk");
    let fork = disk.fork();
    assert_eq!(fork.read_file("/f").unwrap()[..4], *b"gone");
    fork.evict();
    assert_eq!(fork.read_file("/f").unwrap()[..4], [0; 4]);
    write(&*file, b"back", 100);
    file.sync().unwrap();
    assert_eq!(seen(&disk, "/f", |b| b.unwrap()[..4] == *b"gone"), ALWAYS);
}

#[test]
fn a_failed_sync_may_have_written_some_of_its_pages() {
    let mut found = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let file = durable_file(&*disk.io().fs, "/f");
        write(&*file, &[7; 1024], 0);
        disk.fail_at(disk.calls(), SimFault::Eio, false);
        assert!(file.sync().is_err() && file.sync().is_ok());
        let left = disk.fork_without_power(0).read_file("/f").unwrap();
        found.insert((left[0], left[512]));
        assert!(left.iter().all(|byte| [0, 7].contains(byte)));
    }
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn a_write_that_fails_later_is_heard_of_once_by_each() {
    let disk = SimDisk::new(1);
    let fs = disk.io().fs;
    let file = durable_file(&*fs, "/f");
    let other = fs.open(p("/f"), true).unwrap();
    disk.fail_at(disk.calls(), SimFault::Writeback, false);
    write(&*file, b"gone", 0);
    write(&*file, b"kept", 1000);
    assert_eq!(disk.read_file("/f").unwrap()[..4], *b"gone");
    assert!(file.sync().is_err() && file.sync().is_ok());
    assert!(other.sync().is_err() && other.sync().is_ok());
    assert!(fs.open(p("/f"), true).unwrap().sync().is_ok(), "it is known already");
    assert_eq!(seen(&disk, "/f", |b| b.unwrap()[..4] == [0; 4]), ALWAYS);
    assert_eq!(seen(&disk, "/f", |b| b.unwrap()[1000..1004] == *b"kept"), ALWAYS);
    for evicted in [false, true] {
        disk.fail_at(disk.calls(), SimFault::Writeback, false);
        write(&*disk.io().fs.open(p("/f"), true).unwrap(), b"gone", 0);
        disk.restart();
        if evicted {
            disk.evict();
        }
        let fs = disk.io().fs;
        assert_eq!(disk.owes_an_error(), !evicted);
        let told = fs.open(p("/f"), true).unwrap().sync().is_err();
        assert!(!disk.owes_an_error());
        assert_eq!(told, !evicted, "whoever opens it next hears of it, if memory lasted");
        assert!(fs.open(p("/f"), true).unwrap().sync().is_ok());
    }
}

/// Nobody says anything, and the medium differs from what was synced.
#[test]
fn a_lost_and_a_misdirected_write_are_silent() {
    for (fault, elsewhere) in [(SimFault::LostWrite, false), (SimFault::Misdirected, true)] {
        let disk = SimDisk::new(3);
        let fs = disk.io().fs;
        let (file, _) = (durable_file(&*fs, "/f"), durable_file(&*fs, "/g"));
        disk.fail_at(disk.calls(), fault, false);
        disk.fail_at(disk.calls() + 1, fault, false);
        write(&*file, &[9; 512], 512);
        file.sync().unwrap();
        assert_eq!(disk.read_file("/f").unwrap()[512..1024], [9; 512]);
        let after = disk.fork_without_power(0);
        let (f, g) = (after.read_file("/f").unwrap(), after.read_file("/g").unwrap());
        assert_eq!(f[512..1024], [0; 512]);
        let moved = f.iter().chain(&g).filter(|byte| **byte == 9).count();
        assert_eq!(moved, if elsewhere { 512 } else { 0 });
        disk.evict();
        assert_eq!((disk.read_file("/f").unwrap(), disk.read_file("/g").unwrap()), (f, g));
    }
}

#[test]
fn a_file_lives_by_any_of_its_names() {
    let disk = SimDisk::with_capacity(1, 4 * LEN);
    let fs = disk.io().fs;
    fs.create_dir(p("/b")).unwrap();
    let file = durable_file(&*fs, "/f");
    write(&*file, b"same", 0);
    file.sync().unwrap();
    fs.link(p("/f"), p("/b/f")).unwrap();
    assert_eq!(fs.link(p("/f"), p("/b/f")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!((fs.links(p("/f")).unwrap(), disk.links("/b/f"), disk.used()), (2, 2, LEN));
    assert_eq!(seen(&disk, "/b/f", |b| b.is_some()), SOMETIMES);
    fs.sync_dir(p("/b")).unwrap();
    write(&*file, b"both", 4);
    let after = disk.fork_without_power(1);
    assert_eq!(after.read_file("/f"), after.read_file("/b/f"), "one file");
    assert_eq!((after.links("/f"), disk.fork().links("/f")), (2, 2));
    fs.remove(p("/f")).unwrap();
    fs.sync_dir(p("/")).unwrap();
    assert_eq!((disk.links("/f"), disk.links("/b/f")), (0, 1));
    assert_eq!(seen(&disk, "/b/f", |b| b.unwrap()[..4] == *b"same"), ALWAYS);
    fs.remove(p("/b/f")).unwrap();
    drop(file);
    assert_eq!(disk.used(), 0);
    disk.set_hard_links(false);
    durable_file(&*fs, "/g");
    assert_eq!(fs.link(p("/g"), p("/h")).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_look_can_fail() {
    let disk = SimDisk::new(1);
    let fs = disk.io().fs;
    let file = durable_file(&*fs, "/f");
    let looks: [&dyn Fn() -> std::io::Result<()>; 7] = [
        &|| fs.open(p("/f"), false).map(drop),
        &|| fs.list(p("/")).map(drop),
        &|| fs.links(p("/f")).map(drop),
        &|| fs.free_space(p("/")).map(drop),
        &|| file.len().map(drop),
        &|| file.read_at(&mut [0], 0),
        &|| file.map(1).map(drop),
    ];
    for look in looks {
        disk.fail_read_at(disk.reads(), false);
        assert_eq!(look().unwrap_err().raw_os_error(), Some(5));
        look().unwrap();
    }
    disk.fail_read_at(disk.reads() + 1, true);
    assert!(file.len().is_ok() && file.len().is_err() && fs.lock(p("/l")).is_err());
    file.sync().unwrap();
    disk.clear_faults();
    fs.lock(p("/l")).unwrap();
}

#[test]
fn no_space_leaves_nothing() {
    let disk = SimDisk::with_capacity(1, 3 * 4096);
    let fs = disk.io().fs;
    let file = fs.create(p("/a"), 8192).unwrap();
    let error = fs.create(p("/b"), 4097).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!((disk.files().len(), fs.free_space(p("/")).unwrap()), (1, 4096));
    fs.create(p("/b"), 4096).unwrap();
    fs.remove(p("/a")).unwrap();
    assert_eq!(disk.used(), 3 * 4096, "open");
    let map = file.map(8192).unwrap();
    drop(file);
    assert_eq!(disk.used(), 3 * 4096, "mapped");
    drop(map);
    assert_eq!(disk.used(), 4096);
    disk.fail_at(disk.calls(), SimFault::NoSpace, false);
    assert!(fs.create(p("/c"), 1).is_err() && disk.read_file("/c").is_none());
    fs.create(p("/c"), 1).unwrap();
}

#[test]
fn a_sparse_file_takes_room_as_it_is_written() {
    let disk = SimDisk::with_capacity(1, 2 * 4096);
    let fs = disk.io().fs;
    let file = fs.create_sparse(p("/a"), 100 * 4096).unwrap();
    assert_eq!((file.len().unwrap(), disk.used()), (100 * 4096, 0));
    file.write_at(&[IoSlice::new(b"x")], 50 * 4096 - 1).unwrap();
    file.sync().unwrap();
    assert_eq!(disk.used(), 4096);
    file.write_at(&[IoSlice::new(b"xy")], 50 * 4096 - 1).unwrap();
    assert_eq!(disk.used(), 2 * 4096);
    let error = file.write_at(&[IoSlice::new(b"x")], 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    file.write_at(&[IoSlice::new(b"z")], 50 * 4096).unwrap();
}

#[test]
fn a_punched_range_is_free_and_zero() {
    let disk = SimDisk::with_capacity(1, LEN);
    let fs = disk.io().fs;
    let file = durable_file(&*fs, "/f");
    write(&*file, &[1; 8192], 0);
    file.sync().unwrap();
    file.punch(4096, 4096).unwrap();
    assert_eq!(disk.used(), 4096);
    assert_eq!(seen(&disk, "/f", |b| b.unwrap()[4096] == 1), SOMETIMES);
    file.sync().unwrap();
    assert_eq!(seen(&disk, "/f", |b| b.unwrap()[4096..] == [0; 4096]), ALWAYS);
    assert_eq!(disk.fork_without_power(1).used(), 4096);
    disk.set_capacity(4096);
    let full = file.write_at(&[IoSlice::new(b"x")], 5000).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    disk.set_capacity(8192);
    write(&*file, b"x", 5000);
    assert_eq!(disk.used(), 8192);
}

#[test]
fn a_crash_ends_everything_until_power_is_back() {
    let disk = SimDisk::new(1);
    disk.set_trace(true);
    let io = disk.io();
    let file = durable_file(&*io.fs, "/f");
    write(&*file, b"safe", 0);
    file.sync().unwrap();
    let map = file.map(LEN).unwrap();
    let lock = io.fs.lock(p("/lock")).unwrap();
    disk.crash_at(disk.calls() + 1);
    write(&*file, b"more", 4);
    assert_eq!(file.sync().unwrap_err().to_string(), "power lost");
    assert!(file.len().is_err() && io.fs.open(p("/f"), false).is_err());
    let calls = disk.calls();
    assert!(io.fs.remove(p("/f")).is_err() && disk.calls() == calls);
    let trace = disk.take_trace();
    assert_eq!(trace[trace.len() - 2..], ["5: /f write 4+4", "6: /f sync: power lost"]);

    disk.power_cycle(9);
    let again = disk.io();
    assert!(file.sync().is_err() && io.fs.list(p("/")).is_err(), "the old run is dead");
    let new_lock = again.fs.lock(p("/lock")).unwrap();
    drop(lock);
    assert_eq!(again.fs.lock(p("/lock")).err().unwrap().kind(), ErrorKind::WouldBlock);
    drop(new_lock);
    again.fs.lock(p("/lock")).unwrap();
    assert_eq!(map.get(0, 8).unwrap(), b"safemore");
    assert_eq!(disk.read_file("/f").unwrap()[..4], *b"safe");
}

#[test]
fn a_restart_keeps_what_was_written() {
    let disk = SimDisk::new(1);
    let fs = disk.io().fs;
    let file = fs.create(p("/f"), LEN).unwrap();
    write(&*file, b"here", 0);
    disk.restart();
    assert!(file.sync().is_err());
    let file = disk.io().fs.open(p("/f"), false).unwrap();
    let mut bytes = [0; 4];
    file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, *b"here");
    assert_eq!(file.read_at(&mut bytes, LEN - 3).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    let denied = file.write_at(&[IoSlice::new(b"x")], 0).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    assert_eq!(seen(&disk, "/f", |b| b.is_none()), SOMETIMES);
}

#[test]
fn faults_are_where_they_were_put() {
    let disk = SimDisk::new(1);
    let fs = disk.io().fs;
    let file = durable_file(&*fs, "/f");
    disk.fail_at(disk.calls() + 1, SimFault::ShortWrite, true);
    write(&*file, b"fine", 0);
    let short = file.write_at(&[IoSlice::new(&[9; 1000])], 1024).unwrap_err();
    assert_eq!(short.kind(), ErrorKind::WriteZero);
    let bytes = disk.read_file("/f").unwrap();
    let written = bytes.iter().filter(|byte| **byte == 9).count();
    assert!(written < 1000 && bytes[1024..1024 + written].iter().all(|byte| *byte == 9));
    assert!(fs.rename(p("/f"), p("/g")).is_err() && fs.sync_dir(p("/")).is_err());
    disk.clear_faults();
    fs.rename(p("/f"), p("/g")).unwrap();
}

#[test]
fn slices_are_written_in_order_and_beyond_the_end() {
    let disk = SimDisk::new(1);
    let file = disk.io().fs.create(p("f"), 4).unwrap();
    file.write_at(&[IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cdef")], 2).unwrap();
    assert_eq!(disk.read_file("/f").unwrap(), b"\0\0abcdef");
    assert_eq!(file.len().unwrap(), 8);
    file.sync().unwrap();
    assert_eq!(disk.device_bytes_written(), 512);
}

#[test]
fn tests_can_change_files() {
    let disk = SimDisk::new(1);
    assert!(disk.write_file("/d/e/f", b"abc") && disk.flip_bit("/d/e/f", 1, 0));
    assert!(!disk.flip_bit("/d/e/f", 3, 0) && !disk.write_file("/d/e", b""));
    assert_eq!(seen(&disk, "/d/e/f", |b| b == Some(b"acc")), ALWAYS);
    assert!(disk.truncate_file("/d/e/f", 2) && disk.truncate_file("/d/e/f", 4));
    assert_eq!(seen(&disk, "/d/e/f", |b| b == Some(b"ac\0\0")), ALWAYS);
    assert_eq!(disk.io().fs.list(p("/d")).unwrap(), ["e"]);
    assert!(disk.remove_file("/d/e/f") && !disk.remove_file("/d/e/f"));
    assert_eq!(seen(&disk, "/d/e/f", |b| b.is_some()), NEVER);
}

#[test]
fn time_passes_when_told_to() {
    let disk = SimDisk::new(1);
    let clock = disk.io().clock;
    assert_eq!(clock.monotonic(), Duration::from_micros(1));
    disk.advance(Duration::from_millis(2));
    clock.sleep(Duration::from_millis(3));
    assert_eq!(clock.now(), 1_700_000_000_005);
    disk.set_wall_offset(-1_000);
    assert_eq!(clock.now(), 1_699_999_999_005);
    assert!(clock.monotonic() > Duration::from_millis(5));
}

#[test]
fn a_seed_decides_everything() {
    let run = || {
        let disk = SimDisk::new(5);
        let io = disk.io();
        let file = durable_file(&*io.fs, "/f");
        for i in 0..20_u64 {
            write(&*file, &io.random.next().to_le_bytes(), i * 300);
        }
        disk.power_cycle(6);
        disk.read_file("/f")
    };
    assert_eq!(run(), run());
}

/// Random calls against a plain model: per byte, what the cache shows and what a power failure may
/// leave (anything that was there since the last sync, or noise where that changed).
#[test]
fn every_byte_is_one_that_it_may_be() {
    const SIZE: usize = 3000;
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let mut chance = chance::Chance::new(seed);
        let mut file = disk.io().fs.create(p("/f"), SIZE as u64).unwrap();
        file.sync().unwrap();
        disk.io().fs.sync_dir(p("/")).unwrap();
        let (mut cached, mut changed) = (vec![0; SIZE], vec![false; SIZE]);
        for _ in 0..40 {
            match chance.below(8) {
                0 => {
                    file.sync().unwrap();
                    changed.fill(false);
                }
                1 => {
                    let left = disk.fork_without_power(chance.next()).read_file("/f").unwrap();
                    let same = |i: usize| changed[i] || left[i] == cached[i];
                    assert!(left.len() == SIZE && (0..SIZE).all(same), "seed {seed}");
                }
                2 => {
                    disk.power_cycle(chance.next());
                    file = disk.io().fs.open(p("/f"), true).unwrap();
                    cached = disk.read_file("/f").unwrap();
                    changed.fill(false);
                }
                3 => assert_eq!(disk.fork().read_file("/f").unwrap(), cached),
                4 => disk.evict(),
                _ => {
                    let start = chance.index(SIZE);
                    let len = chance.index(SIZE - start).min(700);
                    let byte = chance.byte();
                    write(&*file, &vec![byte; len], start as u64);
                    cached[start..start + len].fill(byte);
                    changed[start..start + len].fill(true);
                }
            }
            assert_eq!(disk.read_file("/f").unwrap(), cached, "seed {seed}");
        }
    }
}

/// The smallest log there is, crashed at each of its calls: what it synced is there.
#[test]
fn a_small_log_survives_a_crash_at_every_call() {
    /// Counts what it may acknowledge, until the first error.
    fn run(disk: &SimDisk, acknowledged: &mut u64) -> std::io::Result<()> {
        let fs = disk.io().fs;
        fs.create_dir(p("/db"))?;
        let log = fs.create(p("/db/log"), 4096)?;
        log.sync()?;
        fs.sync_dir(p("/db"))?;
        for i in 0..10_u8 {
            log.write_at(&[IoSlice::new(&[i + 1; 100])], u64::from(i) * 100)?;
            log.sync()?;
            *acknowledged += 1;
        }
        Ok(())
    }
    let whole = SimDisk::new(0);
    run(&whole, &mut 0).unwrap();
    for call in 0..whole.calls() {
        for seed in 0..20 {
            let disk = SimDisk::new(seed);
            disk.crash_at(call);
            let mut acknowledged = 0;
            assert!(run(&disk, &mut acknowledged).is_err());
            disk.power_cycle(seed);
            let log = disk.read_file("/db/log").unwrap_or_default();
            for i in 0..usize::try_from(acknowledged).unwrap() {
                let record = log.get(i * 100..(i + 1) * 100).unwrap();
                assert!(record.iter().all(|byte| usize::from(*byte) == i + 1));
            }
        }
    }
}

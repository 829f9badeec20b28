//! A store of small segments is made on a simulated disk, the input damages its files, and then it
//! is opened, read whole, verified, salvaged and repaired: an error or the truth each time, never a
//! panic, never wrong data.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use memlog::sim::SimDisk;
use memlog::{Durability, Kind, Maintenance, NewEntry, Options, Store};

/// What a run of the input does to one file.
struct Damage<'a> {
    file: usize,
    offset: u32,
    bytes: &'a [u8],
}

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual).segment_bytes(256 << 10)
}

fn payload(agent: u64, seq: u64) -> Vec<u8> {
    let len = (agent * 7 + seq * 13) % 900;
    (0..len).map(|i| (agent.wrapping_mul(31) ^ seq.wrapping_mul(17) ^ i) as u8).collect()
}

/// A copy of the store, which is made once.
fn copy() -> SimDisk {
    static DISK: OnceLock<SimDisk> = OnceLock::new();
    let made = DISK.get_or_init(|| {
        let disk = SimDisk::new(1);
        make(&disk);
        disk
    });
    made.fork()
}

fn make(disk: &SimDisk) {
    let Ok(store) = options().durability(Durability::Buffer).open_on(disk, "/mem") else { return };
    for seq in 1..=40 {
        if seq == 20 {
            let _ = store.agent("gone/a").and_then(|agent| agent.append(NewEntry::user("x")));
            let _ = store.forget_prefix("gone/");
            // What lives becomes a run.
            let _ = store.purge();
        }
        for number in 0..4 {
            let Ok(agent) = store.agent(&format!("t/{number}")) else { return };
            let mut batch = store.batch();
            let bytes = payload(number, seq);
            batch.append(&agent, NewEntry::new(Kind::USER, &bytes)).set(
                &agent,
                "seq",
                &seq.to_le_bytes(),
            );
            if batch.commit().is_err() {
                return;
            }
        }
    }
    let big = vec![7; 300 << 10];
    if let Ok(agent) = store.agent("big") {
        let _ = agent.append(NewEntry::new(Kind::USER, &big));
    }
    let _ = store.forget_prefix("gone/");
    let _ = store.close();
}

/// Every entry that reads must be the one that was written.
fn read(store: &Store) {
    for agent in store.agents("") {
        let Ok(agent) = agent else { break };
        let Ok(view) = agent.view() else { continue };
        let number = agent.name().strip_prefix("t/").and_then(|n| n.parse::<u64>().ok());
        for entry in view.iter().flatten() {
            if let Some(number) = number {
                assert_eq!(entry.payload(), payload(number, entry.seq()), "wrong data");
            }
        }
        for value in view.states("").flatten() {
            assert_eq!(value.key(), "seq");
        }
    }
    let _ = store.verify();
}

fuzz_target!(|input: (bool, Vec<(u8, u32, Vec<u8>)>)| {
    let (power, input) = input;
    let disk = copy();
    let files = disk.files();
    let damages = input.iter().map(|(file, offset, bytes)| Damage {
        file: usize::from(*file),
        offset: *offset,
        bytes,
    });
    for damage in damages {
        let path = &files[damage.file % files.len()];
        let Some(mut bytes) = disk.read_file(path) else { continue };
        let offset = damage.offset as usize % (bytes.len() + 1);
        for (to, from) in bytes[offset..].iter_mut().zip(damage.bytes) {
            *to ^= from;
        }
        disk.write_file(path, &bytes);
    }
    if power {
        disk.power_cycle(3);
    }
    if let Ok(store) = options().salvage(true).open_on(&disk, "/mem") {
        read(&store);
    }
    if options().repair_on(&disk, "/mem", "/mended").is_ok()
        && let Ok(store) = options().open_on(&disk, "/mended")
    {
        read(&store);
    }
    if let Ok(store) = options().open_on(&disk, "/mem") {
        read(&store);
    }
});

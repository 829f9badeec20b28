//! JSONL as `memlog import` takes it: what it takes is exported, imported again, and is the same.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use memlog::Store;
use memlog::sim::SimDisk;
use memlog_cli::internals::{export, import};
use memlog_fuzz::memory::bounded;
use memlog_fuzz::store::{DIR, options};

fn empty() -> Store {
    static DISK: OnceLock<SimDisk> = OnceLock::new();
    let disk = DISK.get_or_init(|| {
        let disk = SimDisk::new(1);
        options().open_on(&disk, DIR).expect("a store is made").close().expect("it closes");
        disk
    });
    options().retention(Default::default()).open_on(&disk.fork(), DIR).expect("it opens")
}

fuzz_target!(|input: &[u8]| {
    bounded(64 * input.len() + (32 << 20), || {
        let store = empty();
        if import(&store, input.to_vec()).is_err() {
            // Line by line all is taken that is not malformed.
            for line in input.split_inclusive(|byte| *byte == b'\n') {
                let _ = import(&store, line.to_vec());
            }
        }
        let lines = export(&store).expect("what was imported can be exported");
        let again = empty();
        let taken = import(&again, lines.clone()).expect("what was exported can be imported");
        let count = lines.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(taken, count as u64, "an entry a line");
        assert!(export(&again).expect("it can be exported") == lines, "it is another store");
    });
});

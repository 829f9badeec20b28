//! Hostile manifests.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use memlog::internals;
use memlog_fuzz::memory::bounded;
use memlog_fuzz::{CHECKED, checks};

fuzz_target!(|input: &[u8]| {
    let Some((flags, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & CHECKED != 0 {
        checks::manifest(&mut bytes, &BTreeMap::new());
    }
    bounded(64 * bytes.len() + (64 << 10), || internals::manifest(&bytes));
});

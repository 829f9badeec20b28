//! A whole directory of hostile files, their checks right or not: salvage, repair, and opening for
//! writing, and everything that can be asked of what opens.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use memlog_fuzz::memory::bounded;
use memlog_fuzz::{mutate, open};

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::directory(data, size, max_size, seed)
});

fuzz_target!(|input: &[u8]| bounded(128 << 20, || open::all(input)));

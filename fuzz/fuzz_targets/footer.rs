//! Footers that end hostile segment files.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use memlog::internals;
use memlog_fuzz::directory::Directory;
use memlog_fuzz::memory::bounded;
use memlog_fuzz::mutate;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::directory(data, size, max_size, seed)
});

fuzz_target!(|input: &[u8]| {
    for (_, bytes) in Directory::read(input).contents().iter().take(2) {
        bounded(64 * bytes.len() + (64 << 10), || internals::footer(bytes, bytes.len() as u64));
    }
});

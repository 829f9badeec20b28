//! Changes a hostile directory as one: fields of its structures get values that mean something, and
//! files come, go and are mixed up. Checks are made right when the directory is read.

use libfuzzer_sys::fuzzer_mutate;

use crate::directory::{Chunk, Directory};

/// A generator that is good enough to choose by.
struct Choice(u64);

impl Choice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n.max(1) as u64) as usize
    }
}

/// The custom mutator of targets that read a [`Directory`].
pub fn directory(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut choice = Choice(u64::from(seed));
    if choice.below(10) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut directory = Directory::read(&data[..size]);
    for _ in 0..=choice.below(4) {
        change(&mut directory, &mut choice);
    }
    let bytes = directory.write();
    if bytes.len() > max_size.min(data.len()) {
        return fuzzer_mutate(data, size, max_size);
    }
    data[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}

fn change(directory: &mut Directory, choice: &mut Choice) {
    let count = directory.files.len();
    if count == 0 {
        return;
    }
    let (one, other) = (choice.below(count), choice.below(count));
    match choice.below(24) {
        0 => directory.flags ^= 1 << choice.below(8),
        1 if count > 1 => drop(directory.files.remove(one)),
        2 if count < 12 => {
            let mut copy = directory.files[one].clone();
            copy.id = choice.below(10) as u8;
            directory.files.push(copy);
        }
        3 => {
            let sort = directory.files[other].sort;
            directory.files[one].sort = sort;
        }
        4 => directory.files[one].len = directory.files[other].len,
        5 => directory.files[one].len ^= 1 << choice.below(20),
        6 => {
            let chunks = directory.files[other].chunks.clone();
            let from = choice.below(chunks.len());
            if let Some(chunk) = chunks.get(from) {
                let mut chunk = chunk.clone();
                if choice.below(2) == 0 {
                    chunk.offset = (choice.below(1 << 16) * 8) as u32;
                }
                directory.files[one].chunks.push(chunk);
            }
        }
        7 => {
            let chunks = &mut directory.files[one].chunks;
            let at = choice.below(chunks.len());
            if at < chunks.len() {
                chunks.remove(at);
            }
        }
        _ => {
            let chunks = &mut directory.files[one].chunks;
            let at = choice.below(chunks.len());
            if let Some(chunk) = chunks.get_mut(at) {
                field(chunk, choice);
            }
        }
    }
}

/// Changes some bytes of a chunk, mostly one field at a multiple of its size in the file.
fn field(chunk: &mut Chunk, choice: &mut Choice) {
    let len = chunk.bytes.len();
    if len == 0 {
        return;
    }
    if choice.below(5) == 0 {
        fuzzer_mutate(&mut chunk.bytes, len, len);
        return;
    }
    let size = [1, 2, 4, 8][choice.below(4)];
    let start = chunk.offset as usize;
    let at = ((start + choice.below(len)) / size * size).saturating_sub(start);
    let other = choice.below(len) / 8 * 8;
    let mut value = [0; 8];
    let taken = chunk.bytes.get(other..).unwrap_or_default();
    value.iter_mut().zip(taken).for_each(|(to, from)| *to = *from);
    let mut old = [0; 8];
    let there = chunk.bytes.get(at..).unwrap_or_default();
    old.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
    let old = u64::from_le_bytes(old);
    let value = match choice.below(9) {
        0 => 0,
        1 => u64::MAX,
        2 => old.wrapping_add(1),
        3 => old.wrapping_sub(1),
        4 => old ^ (1 << choice.below(size * 8)),
        5 => old.wrapping_add(8),
        6 => choice.below(1 << 20) as u64,
        7 => 1 << choice.below(64),
        _ => u64::from_le_bytes(value),
    };
    let place = chunk.bytes.get_mut(at..).unwrap_or_default();
    place.iter_mut().zip(&value.to_le_bytes()[..size]).for_each(|(to, from)| *to = *from);
}

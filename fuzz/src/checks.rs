//! Makes the checks of hostile files right, so that what lies behind them is reached. Written after
//! `docs/format.md` and not after the engine: that both agree is tested by every seed.

use std::collections::BTreeMap;

const HEADER: usize = 128;
const PAGE: usize = 4096;
const TRAILER: usize = 256;

fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

fn mask(salt: u64, position: u64) -> u32 {
    let mut x = salt ^ position.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    (x ^ (x >> 32)) as u32
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|n| u32::from_le_bytes(*n))
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|n| u64::from_le_bytes(*n))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len())) {
        place.copy_from_slice(value);
    }
}

fn align(n: usize) -> usize {
    n.saturating_add(7) & !7
}

/// All checks of a segment file; gives the check of its footer's trailer, if it has one.
pub fn segment(bytes: &mut [u8]) -> Option<u32> {
    let (salt, base) = (u64_at(bytes, 40)?, u64_at(bytes, 48)?);
    header(bytes, salt);
    frames(bytes, salt, base);
    footer(bytes, bytes.len() as u64)
}

fn header(bytes: &mut [u8], salt: u64) {
    put(bytes, 12, &[0; 4]);
    if let Some(covered) = bytes.get(..HEADER) {
        let check = crc(covered) ^ mask(salt, 0);
        put(bytes, 12, &check.to_le_bytes());
    }
}

/// The frames one behind the other, from the first on; salt and lsn are made right too.
fn frames(bytes: &mut [u8], salt: u64, base: u64) {
    let mut at = HEADER;
    while let (Some(header_len), Some(body_len)) = (u32_at(bytes, at + 4), u32_at(bytes, at + 40)) {
        let (header_len, body_len) = (header_len as usize, body_len as usize);
        let end = at.saturating_add(header_len).saturating_add(body_len);
        let lengths =
            header_len >= 64 && header_len.is_multiple_of(8) && body_len.is_multiple_of(8);
        if !lengths || end > bytes.len() {
            return;
        }
        let (digest, _) = body(&mut bytes[at + header_len..end], salt, (at + header_len) as u64);
        put(bytes, at + 8, &salt.to_le_bytes());
        put(bytes, at + 16, &base.wrapping_add(at as u64).to_le_bytes());
        put(bytes, at + 44, &digest.to_le_bytes());
        let check = crc(&bytes[at + 4..at + header_len]) ^ mask(salt, at as u64);
        put(bytes, at, &check.to_le_bytes());
        at = end;
    }
}

/// The records of a body at that offset of the file; gives digest and count.
fn body(bytes: &mut [u8], salt: u64, offset: u64) -> (u32, u32) {
    let (mut at, mut digest, mut count) = (0, 0u32, 0);
    while let Some(len) = u32_at(bytes, at + 4) {
        let end = at.saturating_add(align(len as usize));
        if len < 16 || end > bytes.len() {
            break;
        }
        let plain = crc(&bytes[at + 4..end]);
        let check = plain ^ mask(salt, offset + at as u64);
        put(bytes, at, &check.to_le_bytes());
        digest = crc(&[digest.to_le_bytes(), plain.to_le_bytes()].concat());
        (at, count) = (end, count + 1);
    }
    (digest, count)
}

/// The checks of the footer that ends a file of that length; `bytes` are its end, or all of it.
pub fn footer(bytes: &mut [u8], file_len: u64) -> Option<u32> {
    let first = file_len.checked_sub(bytes.len() as u64)?;
    let trailer = bytes.len().checked_sub(TRAILER)?;
    if bytes.get(trailer..trailer + 8) != Some(b"memlogFT") {
        return None;
    }
    let salt = u64_at(bytes, trailer + 40)?;
    let place = |field: usize| {
        let at = u64_at(bytes, trailer + field)?.checked_sub(first)?;
        usize::try_from(at).ok().filter(|at| *at <= trailer)
    };
    let (directory, blocks, prefixes) = (place(104), place(136), place(152));
    let mut seal = |at: usize, len: usize| {
        let Some(end) = at.checked_add(len).filter(|end| len >= 4 && *end <= trailer) else {
            return false;
        };
        let check = crc(&bytes[at + 4..end]) ^ mask(salt, first + at as u64);
        put(bytes, at, &check.to_le_bytes());
        true
    };
    if let (Some(directory), Some(blocks)) = (directory, blocks) {
        (directory..blocks).step_by(PAGE).all(|page| seal(page, PAGE));
    }
    if let Some(at) = prefixes {
        seal(at, trailer - at);
    }
    if let (Some(mut at), Some(end)) = (blocks, prefixes) {
        while let Some(len) = u32_at(bytes, at + 4).map(|len| len as usize) {
            if at >= end || len < 8 || at.saturating_add(len) > end {
                break;
            }
            let check = crc(&bytes[at + 4..at + len]) ^ mask(salt, first + at as u64);
            put(bytes, at, &check.to_le_bytes());
            at += len;
        }
    }
    let covered = [&bytes[trailer..trailer + 12], &bytes[trailer + 16..]].concat();
    let check = crc(&covered) ^ mask(salt, first + trailer as u64);
    put(bytes, trailer + 12, &check.to_le_bytes());
    Some(check)
}

/// The manifest's check, and those of the trailers in the lines of sealed segments, by their ids.
pub fn manifest(bytes: &mut [u8], trailers: &BTreeMap<u64, u32>) {
    let lines = u32_at(bytes, 80).unwrap_or(0) as usize;
    let whole = bytes.len().saturating_sub(104) / 64;
    for line in (0..lines.min(whole)).map(|line| 104 + line * 64) {
        let trailer = u64_at(bytes, line).and_then(|id| trailers.get(&id));
        if let (Some(check), Some(3)) = (trailer, bytes.get(line + 44)) {
            put(bytes, line + 40, &check.to_le_bytes());
        }
    }
    if let Some(check) = bytes.get(16..).map(crc) {
        put(bytes, 12, &check.to_le_bytes());
    }
}

//! What a process called of the system, and when: records in a file, which another process reads
//! after this one has ended in whatever way.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::linux::trap::CALLS;

pub const LEN: usize = 136;
/// Bytes of a path's end that a record holds.
pub const PATH: usize = 40;

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Nanoseconds of the monotonic clock, before and after.
    pub from: u64,
    pub to: u64,
    pub thread: i64,
    pub number: i64,
    pub arguments: [i64; 6],
    pub result: i64,
    /// The end of the path that it names, padded with zeros.
    pub path: [u8; PATH],
}

impl Call {
    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let numbers = [self.from as i64, self.to as i64, self.thread, self.number, self.result];
        for (at, number) in numbers.into_iter().chain(self.arguments).enumerate() {
            out[at * 8..at * 8 + 8].copy_from_slice(&number.to_le_bytes());
        }
        out[LEN - PATH - 8..LEN - 8].copy_from_slice(&self.path);
        out
    }

    fn decode(bytes: &[u8; LEN]) -> Call {
        let number = |at: usize| i64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap());
        Call {
            from: number(0) as u64,
            to: number(1) as u64,
            thread: number(2),
            number: number(3),
            result: number(4),
            arguments: [5, 6, 7, 8, 9, 10].map(number),
            path: bytes[LEN - PATH - 8..LEN - 8].try_into().unwrap(),
        }
    }

    fn name(&self) -> &'static str {
        CALLS.iter().find(|(number, _)| *number == self.number).map_or("?", |(_, name)| name)
    }

    fn path(&self) -> String {
        String::from_utf8_lossy(&self.path).trim_matches('\0').to_owned()
    }

    /// In words; `files` are the names of what is open.
    fn told(&self, files: &mut HashMap<i64, String>) -> String {
        let [first, second, third, fourth, ..] = self.arguments;
        let file = |number: i64| files.get(&number).map_or("?", String::as_str);
        let what = match self.number {
            libc::SYS_pwritev => format!("{} at {fourth}", file(first)),
            libc::SYS_pwrite64 | libc::SYS_pread64 => {
                format!("{} at {fourth}, {third} bytes", file(first))
            }
            libc::SYS_fallocate => format!("{} mode {second} at {third}, {fourth}", file(first)),
            libc::SYS_mmap => file(self.arguments[4]).to_owned(),
            libc::SYS_fdatasync | libc::SYS_fsync | libc::SYS_getdents64 | libc::SYS_flock => {
                file(first).to_owned()
            }
            _ => self.path(),
        };
        if self.number == libc::SYS_openat && self.result >= 0 {
            files.insert(self.result, self.path());
        }
        let result = if self.number == libc::SYS_mmap { 0.min(self.result) } else { self.result };
        let micros = (self.to - self.from) / 1000;
        format!("thread {}: {} {what} = {result} ({micros} us)", self.thread, self.name())
    }
}

/// All calls that the file tells of, each with the time of its end, in that order.
pub fn read(path: &Path) -> Vec<(u64, String)> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let mut calls = Vec::new();
    let mut record = [0; LEN];
    while file.read_exact_at(&mut record, (calls.len() * LEN) as u64).is_ok() {
        calls.push(Call::decode(&record));
    }
    // A record that was begun and not written: the process ended there.
    calls.retain(|call| call.to != 0);
    calls.sort_by_key(|call| call.to);
    let mut files = HashMap::new();
    calls.into_iter().map(|call| (call.to, call.told(&mut files))).collect()
}

/// Nanoseconds of the clock that all processes share.
pub fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

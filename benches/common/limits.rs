//! The machine's own limits: the same bytes with nothing but the system's calls.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::{Run, crew};

/// A file whose blocks are written already, so that a write into it changes no metadata.
pub(crate) struct ZeroFile {
    pub(crate) file: File,
    path: PathBuf,
    len: u64,
    at: AtomicU64,
}

impl ZeroFile {
    pub(crate) fn new(dir: &Path, name: &str, len: u64) -> Self {
        let path = dir.join(name);
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let zeros = vec![0; 1 << 20];
        let mut at = 0;
        while at < len {
            file.write_all_at(&zeros, at).unwrap();
            at += zeros.len() as u64;
        }
        file.sync_all().unwrap();
        ZeroFile { file, path, len: at, at: AtomicU64::new(0) }
    }

    /// A file of which nothing is written: its blocks are allocated where the system can.
    pub(crate) fn unwritten(path: PathBuf, len: u64) -> Self {
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len);
        file.set_len(len).unwrap();
        file.sync_all().unwrap();
        ZeroFile { file, path, len, at: AtomicU64::new(0) }
    }

    /// Whether another `len` bytes fit in before it begins again.
    pub(crate) fn has_room(&self, len: u64) -> bool {
        self.at.load(Ordering::Relaxed) + len <= self.len
    }

    /// The next place for that many bytes; from the beginning again when the end is reached.
    pub(crate) fn place(&self, len: usize) -> u64 {
        let len = len as u64;
        loop {
            let at = self.at.fetch_add(len, Ordering::Relaxed);
            if at + len <= self.len {
                return at;
            }
            let _ = self.at.compare_exchange(at + len, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        self.file.write_all_at(bytes, self.place(bytes.len())).unwrap();
    }

    pub(crate) fn flush(&self) {
        self.file.sync_data().unwrap();
    }

    /// A write and a flush an operation: what one durable append cannot undercut.
    pub(crate) fn flushes(&self, bytes: &[u8], ops: u64) -> Run {
        crew(1, ops, |_, _| {
            self.write(bytes);
            self.flush();
        })
    }

    /// A write an operation.
    pub(crate) fn writes(&self, bytes: &[u8], threads: usize, ops: u64) -> Run {
        crew(threads, ops, |_, _| self.write(bytes))
    }

    /// Does something with a file as long that nothing was written to, as a segment is that was not
    /// filled ahead: blocks and memory for them are to be found.
    pub(crate) fn anew(&self, work: impl FnOnce(&ZeroFile) -> Run) -> Run {
        let new = ZeroFile::unwritten(self.path.with_extension("new"), self.len);
        let run = work(&new);
        std::fs::remove_file(&new.path).unwrap();
        run
    }

    /// A copy an operation, and a write each 64 KiB.
    pub(crate) fn chunks(&self, bytes: &[u8], threads: usize, ops: u64) -> Run {
        const CHUNK: usize = 64 << 10;
        let buffers: Vec<_> =
            (0..threads).map(|_| Mutex::new(Vec::with_capacity(CHUNK + bytes.len()))).collect();
        crew(threads, ops, |thread, _| {
            let mut buffer = buffers[thread].lock().unwrap();
            buffer.extend_from_slice(bytes);
            if buffer.len() >= CHUNK {
                self.write(&buffer[..CHUNK]);
                buffer.drain(..CHUNK);
            }
        })
    }
}

/// A copy and a checksum an operation: what encoding cannot undercut.
pub(crate) fn encode(bytes: &[u8], ops: u64) -> Run {
    let buffer = Mutex::new(Vec::with_capacity(64 << 10));
    crew(1, ops, |_, _| {
        let mut buffer = buffer.lock().unwrap();
        if buffer.len() + bytes.len() > 64 << 10 {
            buffer.clear();
        }
        buffer.extend_from_slice(black_box(bytes));
        black_box(crc32fast::hash(bytes));
    })
}

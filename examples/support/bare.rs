//! What a churn asks of the machine, done without a store: the same bytes at the same rate from as
//! many threads, copied, summed and written to plain files; flushed by one thread, made by another,
//! and copied and unlinked by a third. Whatever stalls here stalls without any lock, index or format.

use std::collections::VecDeque;
use std::fs::{File, remove_file};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::disk::{SAMPLE, allocated, unlinked_and_mapped};
use super::watch::{Notices, Probe, Watch};
use crate::common::Dice;

/// Bytes of a file.
const FILE: u64 = 64 << 20;
/// Bytes of a write, and of one by the thread that copies.
const WRITE: usize = 64 << 10;
const COPY: usize = 128 << 10;
/// Bytes between two flushes, and between two of the thread that copies.
const FLUSH: u64 = 32 << 20;
const COPY_FLUSH: u64 = 8 << 20;
/// A writer that is ahead by less does not sleep, and never longer than this at a time.
const SLACK: Duration = Duration::from_micros(200);
const LONGEST_SLEEP: Duration = Duration::from_millis(2);
/// A pause of those that have nothing to do.
const PAUSE: Duration = Duration::from_millis(1);

/// What is to be done.
pub(crate) struct Work {
    pub(crate) threads: u64,
    /// Entries a second of each thread.
    pub(crate) rate: f64,
    pub(crate) time: Duration,
    /// Bytes copied for each byte appended.
    pub(crate) copied: f64,
    /// With more bytes in files than this the oldest are unlinked.
    pub(crate) most: u64,
}

/// A file of the log, or a copy.
struct Part {
    file: File,
    path: PathBuf,
}

/// What the threads share.
struct Shared<'w> {
    work: &'w Work,
    dir: &'w Path,
    appended: AtomicU64,
    names: AtomicU64,
    done: AtomicBool,
    /// Those that are full, oldest first.
    full: Mutex<VecDeque<Arc<Part>>>,
    /// Those that are written to.
    open: Mutex<Vec<Arc<Part>>>,
}

/// Does it in `dir`. `payload` gives what an entry holds.
pub(crate) fn churn<'t>(
    work: &Work,
    dir: &Path,
    payload: impl Fn(&mut Dice) -> &'t [u8] + Sync,
) -> (Watch, Notices) {
    let shared = Shared {
        work,
        dir,
        appended: AtomicU64::new(0),
        names: AtomicU64::new(0),
        done: AtomicBool::new(false),
        full: Mutex::default(),
        open: Mutex::default(),
    };
    let origin = Instant::now();
    let probe = Probe::start(&dir.join("probe"), origin);
    let (made, files) = mpsc::sync_channel(1);
    let files = Mutex::new(files);
    let all = std::thread::scope(|scope| {
        let (shared, files, payload) = (&shared, &files, &payload);
        scope.spawn(move || {
            let mut next = shared.make();
            while !shared.done.load(Ordering::Relaxed) {
                match made.try_send(next) {
                    Ok(()) => next = shared.make(),
                    Err(
                        mpsc::TrySendError::Full(kept) | mpsc::TrySendError::Disconnected(kept),
                    ) => {
                        next = kept;
                        std::thread::sleep(PAUSE);
                    }
                }
            }
        });
        scope.spawn(|| shared.flush());
        scope.spawn(|| shared.copy());
        scope.spawn(|| shared.sample());
        let write =
            |thread| scope.spawn(move || shared.write(files, 200 + thread, origin, payload));
        let writers: Vec<_> = (0..work.threads).map(write).collect();
        let mut all = Watch::new(origin);
        writers.into_iter().for_each(|writer| all.add(&writer.join().unwrap()));
        shared.done.store(true, Ordering::Relaxed);
        all
    });
    (all, probe.stop())
}

impl Shared<'_> {
    fn make(&self) -> Arc<Part> {
        let path = self.dir.join(self.names.fetch_add(1, Ordering::Relaxed).to_string());
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, FILE);
        file.set_len(FILE).unwrap();
        Arc::new(Part { file, path })
    }

    fn write<'t>(
        &self,
        files: &Mutex<mpsc::Receiver<Arc<Part>>>,
        seed: u64,
        origin: Instant,
        payload: &(impl Fn(&mut Dice) -> &'t [u8] + Sync),
    ) -> Watch {
        let next = || {
            let part = files.lock().unwrap().recv().unwrap();
            self.open.lock().unwrap().push(Arc::clone(&part));
            part
        };
        let (mut watch, mut dice) = (Watch::new(origin), Dice::new(seed));
        let (mut part, mut at, mut buffer) = (next(), 0, Vec::with_capacity(2 * WRITE));
        while origin.elapsed() < self.work.time {
            let bytes = payload(&mut dice);
            let entries = watch.run.ops as f64;
            watch.time(|| {
                buffer.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
                buffer.extend_from_slice(bytes);
                if buffer.len() >= WRITE {
                    part.file.write_all_at(&buffer[..WRITE], at).unwrap();
                    at += WRITE as u64;
                    buffer.drain(..WRITE);
                }
                let due = origin + Duration::from_secs_f64(entries / self.work.rate);
                let early = due.saturating_duration_since(Instant::now());
                if early > SLACK {
                    std::thread::sleep(early.min(LONGEST_SLEEP));
                }
            });
            self.appended.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if at == FILE {
                self.open.lock().unwrap().retain(|open| !Arc::ptr_eq(open, &part));
                let full = std::mem::replace(&mut part, next());
                self.full.lock().unwrap().push_back(full);
                at = 0;
            }
        }
        watch
    }

    /// Flushes what is written to, each time so much was appended.
    fn flush(&self) {
        let mut flushed = 0;
        while !self.done.load(Ordering::Relaxed) {
            let appended = self.appended.load(Ordering::Relaxed);
            if appended - flushed < FLUSH {
                std::thread::sleep(PAUSE);
                continue;
            }
            let open = self.open.lock().unwrap().clone();
            open.iter().for_each(|part| part.file.sync_data().unwrap());
            flushed = appended;
        }
    }

    /// Looks at the disk as often as it is done with a store.
    fn sample(&self) {
        while !self.done.load(Ordering::Relaxed) {
            std::hint::black_box((allocated(self.dir), unlinked_and_mapped(self.dir)));
            std::thread::sleep(SAMPLE);
        }
    }

    /// Copies the oldest files to new ones, and unlinks the oldest of all.
    fn copy(&self) {
        let (mut copied, mut unsynced, mut at) = (0, 0, 0);
        let (mut from, mut to): (Option<Arc<Part>>, _) = (None, self.make());
        let mut piece = vec![0; COPY];
        while !self.done.load(Ordering::Relaxed) {
            let due = self.appended.load(Ordering::Relaxed) as f64 * self.work.copied;
            if from.is_none() && copied as f64 <= due {
                from = self.full.lock().unwrap().pop_front();
            }
            let Some(part) = from.as_ref().filter(|_| copied as f64 <= due) else {
                std::thread::sleep(PAUSE);
                continue;
            };
            part.file.read_exact_at(&mut piece, at).unwrap();
            std::hint::black_box(crc32fast::hash(&piece));
            to.file.write_all_at(&piece, at).unwrap();
            (at, copied, unsynced) =
                (at + COPY as u64, copied + COPY as u64, unsynced + COPY as u64);
            if unsynced >= COPY_FLUSH {
                to.file.sync_data().unwrap();
                unsynced = 0;
            }
            if at == FILE {
                at = 0;
                remove_file(&part.path).unwrap();
                from = None;
                let mut full = self.full.lock().unwrap();
                full.push_back(std::mem::replace(&mut to, self.make()));
                let mut gone = vec![];
                while full.len() as u64 * FILE > self.work.most {
                    gone.extend(full.pop_front());
                }
                drop(full);
                gone.iter().for_each(|part| remove_file(&part.path).unwrap());
            }
        }
    }
}

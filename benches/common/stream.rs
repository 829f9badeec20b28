//! What a disk takes for as long as one likes, with nothing but the system's calls; and how long a
//! thread is kept from running that does nothing at all.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::common::Run;
use crate::common::limits::ZeroFile;

const FILE: u64 = 64 << 20;
const CHUNK: usize = 64 << 10;
/// How long the threads beside the writer sleep at a time.
const NAP: Duration = Duration::from_micros(300);

/// Copies turns and writes them 64 KiB at a time into one new file after the other, while a thread
/// makes the next file and another flushes. At most `most` bytes wait for their flush. The files stay
/// until the end, as those of a store do: where memory that nobody had before is slow to come by, both
/// pay for it.
pub(crate) fn stream(dir: &Path, turn: &[u8], seconds: f64, most: u64) -> Run {
    let dir = tempfile::tempdir_in(dir).unwrap();
    let dir = dir.path();
    let (written, flushed) = (AtomicU64::new(0), AtomicU64::new(0));
    let (made, files) = mpsc::sync_channel::<Arc<ZeroFile>>(1);
    let (begin, begun) = mpsc::channel::<Arc<ZeroFile>>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let make = |i: u32| Arc::new(ZeroFile::unwritten(dir.join(i.to_string()), FILE));
            let _nobody = (0..).try_for_each(|i| made.send(make(i)));
        });
        let (ends, flushes) = (&written, &flushed);
        let flusher = scope.spawn(move || flush(&begun, ends, flushes));
        let next = || {
            let file = files.recv().unwrap();
            begin.send(Arc::clone(&file)).unwrap();
            file
        };
        let mut file = next();
        let mut buffer = Vec::with_capacity(CHUNK + turn.len());
        let mut run = Run::new();
        let started = Instant::now();
        let mut before = started;
        while run.took.as_secs_f64() < seconds {
            buffer.extend_from_slice(turn);
            if buffer.len() >= CHUNK {
                if !file.has_room(CHUNK as u64) {
                    file = next();
                }
                file.write(&buffer[..CHUNK]);
                buffer.drain(..CHUNK);
                let end = written.fetch_add(CHUNK as u64, Ordering::AcqRel);
                while end - flushed.load(Ordering::Acquire).min(end) > most {
                    std::thread::sleep(NAP);
                }
            }
            let now = Instant::now();
            run.latency.record((now - before).as_nanos() as u64).unwrap();
            run.ops += 1;
            run.took = now - started;
            before = now;
        }
        // Both threads end once they have nobody to hear from.
        drop((files, begin));
        flusher.join().unwrap();
        run
    })
}

/// Flushes what was written.
fn flush(begun: &mpsc::Receiver<Arc<ZeroFile>>, written: &AtomicU64, flushed: &AtomicU64) {
    let (mut files, mut full): (Vec<Arc<ZeroFile>>, _) = (vec![], 0);
    loop {
        let end = written.load(Ordering::Acquire);
        let last = loop {
            match begun.try_recv() {
                Ok(file) => files.push(file),
                Err(e) => break e == mpsc::TryRecvError::Disconnected,
            }
        };
        if end > flushed.load(Ordering::Relaxed) {
            files[full..].iter().for_each(|file| file.flush());
            flushed.store(end, Ordering::Release);
        }
        if last {
            return;
        }
        full = files.len().saturating_sub(1);
        std::thread::sleep(NAP);
    }
}

/// Runs `work` beside a thread that only sleeps, and gives by how much its naps were too long: what
/// the machine keeps anybody waiting, whoever's work it is.
pub(crate) fn beside_a_sleeper<T>(work: impl FnOnce() -> T) -> (T, Run) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let mut run = Run::new();
            let started = Instant::now();
            while !over.load(Ordering::Relaxed) {
                let before = Instant::now();
                std::thread::sleep(NAP);
                let late = before.elapsed().saturating_sub(NAP);
                run.latency.record(late.as_nanos() as u64).unwrap();
                run.ops += 1;
            }
            run.took = started.elapsed();
            run
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        (done, sleeper.join().unwrap())
    })
}

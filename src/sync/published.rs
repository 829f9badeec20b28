//! The barrier between who writes and who reads: a position up to which everything was written.

#[cfg(all(test, memlog_loom))]
use loom::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(all(test, memlog_loom)))]
use super::atomic::{AtomicU64, Ordering};

/// A position that only grows. Whoever reads it also sees what was done below it before it was
/// raised: bytes that were written, and positions that were raised.
pub(crate) struct Published(AtomicU64);

impl Published {
    /// Everything below `position` is there already.
    pub(crate) fn new(position: u64) -> Self {
        Published(AtomicU64::new(position))
    }

    /// The position: everything below it is there.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Publishes everything below `position`, unless more is published already.
    pub(crate) fn raise(&self, position: u64) {
        self.0.fetch_max(position, Ordering::Release);
    }
}

#[cfg(all(test, memlog_loom))]
mod tests {
    use std::sync::Arc;

    use loom::cell::UnsafeCell;
    use loom::thread;

    use super::Published;

    /// Bytes as of a file: Loom fails if one is read while it is written, or before.
    struct Bytes([UnsafeCell<u8>; 3]);

    impl Bytes {
        fn new() -> Self {
            Bytes([UnsafeCell::new(0), UnsafeCell::new(0), UnsafeCell::new(0)])
        }

        fn write(&self, at: u64) {
            let at = usize::try_from(at).unwrap();
            self.0[at].with_mut(|_| ());
        }

        fn read(&self, below: u64) {
            self.0[..usize::try_from(below).unwrap()].iter().for_each(|byte| byte.with(|_| ()));
        }
    }

    #[test]
    fn what_is_below_the_published_end_was_written_before() {
        loom::model(|| {
            let shared = Arc::new((Bytes::new(), Published::new(0)));
            let writing = Arc::clone(&shared);
            let writer = thread::spawn(move || {
                let (bytes, end) = &*writing;
                for at in 0..3 {
                    bytes.write(at);
                    end.raise(at + 1);
                }
            });
            let (bytes, end) = &*shared;
            let mut before = 0;
            for _ in 0..2 {
                let now = end.get();
                assert!(now >= before);
                bytes.read(now);
                before = now;
            }
            writer.join().unwrap();
        });
    }

    #[test]
    fn durable_read_first_is_never_ahead_of_written() {
        loom::model(|| {
            // As the log has them: raised by a writer and by the leader of a flush behind it.
            let log = Arc::new((Bytes::new(), Published::new(0), Published::new(0)));
            let threads = [0, 1].map(|thread| {
                let log = Arc::clone(&log);
                thread::spawn(move || {
                    let (bytes, written, durable) = &*log;
                    if thread == 0 {
                        for at in 0..2 {
                            bytes.write(at);
                            written.raise(at + 1);
                        }
                    } else {
                        durable.raise(written.get());
                    }
                })
            });
            let (bytes, written, durable) = &*log;
            let durable = durable.get();
            bytes.read(durable);
            let written = written.get();
            assert!(durable <= written, "{durable} durable of {written} written");
            bytes.read(written);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
}

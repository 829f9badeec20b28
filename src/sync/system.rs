//! What the system and `parking_lot` have.

pub(crate) use std::sync::OnceLock;

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

/// As in the standard library.
pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
}

/// As in the standard library; to sleep is a matter of the clock.
pub(crate) mod thread {
    pub(crate) use std::thread::{Builder, ThreadId, current, yield_now};
}

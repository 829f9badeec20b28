//! The same on Shuttle: each operation is a point at which another thread may go on.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use atomic::{AtomicBool, AtomicU64, Ordering};
use shuttle::rand::Rng;

/// A timed wait that nobody ends gives the others so many turns at most, and then is over.
const PATIENCE: u32 = 6;

/// As in the standard library.
pub(crate) mod atomic {
    pub(crate) use shuttle::sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering,
    };
}

/// As in the standard library; to sleep is a matter of the clock.
pub(crate) mod thread {
    pub(crate) use shuttle::thread::{Builder, ThreadId, current, yield_now};
}

/// A lock without poisoning.
#[derive(Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

/// Whoever holds it has the lock. Empty only within a wait.
pub(crate) struct MutexGuard<'a, T>(&'a Mutex<T>, Option<shuttle::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self, Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(MutexGuard(self, Some(guard))),
            Err(TryLockError::Poisoned(e)) => Some(MutexGuard(self, Some(e.into_inner()))),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.1.as_ref().unwrap()
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.1.as_mut().unwrap()
    }
}

/// A lock for many readers, without poisoning.
pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        RwLock(shuttle::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> impl Deref<Target = T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> impl DerefMut<Target = T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition variable.
#[derive(Default)]
pub(crate) struct Condvar {
    inner: shuttle::sync::Condvar,
    /// How often somebody was told: timed waits look at it.
    told: AtomicU64,
}

impl Condvar {
    pub(crate) fn notify_one(&self) {
        self.told.fetch_add(1, Ordering::SeqCst);
        self.inner.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.told.fetch_add(1, Ordering::SeqCst);
        self.inner.notify_all();
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.1.take().unwrap();
        guard.1 = Some(self.inner.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    /// Shuttle knows no time: the wait is over when it was told, or after a few turns of others.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _time: Duration) {
        let told = self.told.load(Ordering::SeqCst);
        let patience = shuttle::rand::thread_rng().gen_range(0..=PATIENCE);
        drop(guard.1.take());
        for _ in 0..patience {
            shuttle::thread::yield_now();
            if self.told.load(Ordering::SeqCst) != told {
                break;
            }
        }
        guard.1 = guard.0.lock().1;
    }
}

/// A cell that is written once.
pub(crate) struct OnceLock<T> {
    inner: std::sync::OnceLock<T>,
    is_set: AtomicBool,
    setting: Mutex<()>,
    set: Condvar,
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone> Clone for OnceLock<T> {
    fn clone(&self) -> Self {
        self.get().map_or_else(Self::new, |value| Self::from(value.clone()))
    }
}

impl<T> From<T> for OnceLock<T> {
    fn from(value: T) -> Self {
        let cell = OnceLock { is_set: AtomicBool::new(true), ..OnceLock::new() };
        let _ = cell.inner.set(value);
        cell
    }
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        OnceLock {
            inner: std::sync::OnceLock::new(),
            is_set: AtomicBool::new(false),
            setting: Mutex::new(()),
            set: Condvar::default(),
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.is_set.load(Ordering::Acquire) { self.inner.get() } else { None }
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        let guard = self.setting.lock();
        let outcome = self.inner.set(value);
        self.is_set.store(true, Ordering::Release);
        drop(guard);
        self.set.notify_all();
        outcome
    }

    pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        let guard = self.setting.lock();
        if self.inner.get().is_none() {
            let _ = self.inner.set(init());
            self.is_set.store(true, Ordering::Release);
        }
        drop(guard);
        self.set.notify_all();
        self.inner.get().unwrap()
    }

    pub(crate) fn wait(&self) -> &T {
        let mut guard = self.setting.lock();
        while self.inner.get().is_none() {
            self.set.wait(&mut guard);
        }
        self.inner.get().unwrap()
    }
}

impl<T> fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnceLock")
    }
}

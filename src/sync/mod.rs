//! Locks, atomics and threads: the system's, or those of a model checker that decides which thread
//! goes on at each of their operations.
//!
//! With `--cfg memlog_shuttle` the crate's tests are built on [Shuttle], which runs a whole store
//! under many schedules, one thread at a time; with `--cfg memlog_loom` only [`Published`] is, on
//! [Loom], which also knows of the orders in which other processors may see what was written. The
//! code that uses them is the same. `CONTRIBUTING.md` has the commands.
//!
//! [Shuttle]: https://docs.rs/shuttle
//! [Loom]: https://docs.rs/loom

#[cfg(all(test, memlog_shuttle))]
mod checked;
mod notify;
mod published;
#[cfg(not(all(test, memlog_shuttle)))]
mod system;

#[cfg(all(test, memlog_shuttle))]
pub(crate) use checked::{Condvar, Mutex, MutexGuard, OnceLock, RwLock, atomic, thread};
pub(crate) use notify::Notify;
pub(crate) use published::Published;
#[cfg(not(all(test, memlog_shuttle)))]
pub(crate) use system::{Condvar, Mutex, MutexGuard, OnceLock, RwLock, atomic, thread};

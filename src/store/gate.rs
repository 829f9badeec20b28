//! A simulated disk with a hook before what changes files or lists them: a test stops a thread
//! there, or fails it.

#![allow(clippy::unwrap_used)]

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;

use crate::Store;
use crate::io::sim::SimDisk;
use crate::io::{File, Fs, Io, Lock, Map};

/// What is about to be done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Write(u64),
    Sync,
    Confirm,
    Punch,
    List,
    Remove,
    /// A search for what was written.
    Search,
    Open,
}

/// Stops a thread where it passes, once it is armed.
pub(super) struct Stop {
    armed: AtomicBool,
    reached: mpsc::Sender<()>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Stop {
    /// With what tells that a thread was stopped, and what lets go of it.
    pub(super) fn new() -> (Arc<Stop>, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (reached, is_reached) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        let stop = Stop { armed: AtomicBool::new(false), reached, go: Mutex::new(gate) };
        (Arc::new(stop), is_reached, go)
    }

    pub(super) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::SeqCst)
    }

    /// True if the caller was stopped.
    pub(super) fn pass(&self) -> bool {
        let stopped = self.armed.swap(false, Ordering::SeqCst);
        if stopped {
            let _ = self.reached.send(());
            let _ = self.go.lock().recv();
        }
        stopped
    }
}

type Hook = Arc<dyn Fn(Op, &Path) -> io::Result<()> + Send + Sync>;

/// The handles of `disk`, with `hook` before each of these operations.
pub(super) fn gated(
    disk: &SimDisk,
    hook: impl Fn(Op, &Path) -> io::Result<()> + Send + Sync + 'static,
) -> Io {
    let io = disk.io();
    Io { fs: Arc::new(Gate { inner: Arc::clone(&io.fs), hook: Arc::new(hook) }), ..io }
}

/// Whether a file holds log frames.
pub(super) fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

struct Gate {
    inner: Arc<dyn Fs>,
    hook: Hook,
}

struct GateFile {
    inner: Arc<dyn File>,
    path: PathBuf,
    hook: Hook,
}

impl Gate {
    fn wrap(&self, inner: Arc<dyn File>, path: &Path) -> Arc<dyn File> {
        Arc::new(GateFile { inner, path: path.to_owned(), hook: Arc::clone(&self.hook) })
    }
}

impl Fs for Gate {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        (self.hook)(Op::List, dir)?;
        self.inner.list(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.inner.lock(path)
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(self.inner.create(path, len)?, path))
    }

    fn create_sparse(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(self.inner.create_sparse(path, len)?, path))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        (self.hook)(Op::Open, path)?;
        Ok(self.wrap(self.inner.open(path, write)?, path))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir(dir)
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.inner.lock_existing(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        (self.hook)(Op::Remove, path)?;
        self.inner.remove(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(from, to)
    }

    fn links(&self, path: &Path) -> io::Result<u64> {
        self.inner.links(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.inner.free_space(dir)
    }
}

impl File for GateFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        (self.hook)(Op::Write(offset), &self.path)?;
        self.inner.write_at(bufs, offset)
    }

    fn sync(&self) -> io::Result<()> {
        (self.hook)(Op::Sync, &self.path)?;
        self.inner.sync()
    }

    fn confirm(&self) -> io::Result<()> {
        (self.hook)(Op::Confirm, &self.path)?;
        self.inner.confirm()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        (self.hook)(Op::Punch, &self.path)?;
        self.inner.punch(offset, len)
    }

    fn data_from(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        (self.hook)(Op::Search, &self.path)?;
        self.inner.data_from(offset)
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        self.inner.map(len)
    }
}

/// Has the log go on in a segment of 1 MiB: the one that a store begins with is short.
pub(super) fn skip_first_segment(store: &Store) {
    let active = store.engine().order.lock().active.segment.id;
    store.engine().make_room(active, 1 << 20, false).unwrap();
}

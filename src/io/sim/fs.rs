//! The handles of a simulated disk.

use std::io::{self, ErrorKind, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::node::Handle;
use super::state::State;
use crate::io::tasks::Threads;
use crate::io::{Clock, File, Fs, Io, Lock, Map, Random};
use crate::sync::{Mutex, MutexGuard};

type Shared = Arc<Mutex<State>>;

pub(super) fn handles(state: &Shared) -> Io {
    let run = state.lock().run;
    Io {
        fs: Arc::new(SimFs { state: state.clone(), run }),
        clock: Arc::new(SimClock(state.clone())),
        random: Arc::new(SimRandom(state.clone())),
        tasks: Arc::new(Threads::default()),
    }
}

/// The disk, as one run of a process sees it.
struct SimFs {
    state: Shared,
    run: u64,
}

impl SimFs {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        state.alive(self.run)?;
        Ok(state)
    }

    /// For a call that only looks.
    fn look(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state()?;
        state.look()?;
        Ok(state)
    }

    fn file(&self, handle: Handle) -> Arc<dyn File> {
        Arc::new(SimFile { state: self.state.clone(), handle })
    }
}

impl Fs for SimFs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.state()?.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.look()?.list(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = self.look()?.lock(path)?;
        Ok(Box::new(SimLock { state: self.state.clone(), run: self.run, file }))
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>> {
        let handle = self.state()?.create(path, len, true)?;
        Ok(self.file(handle))
    }

    fn create_sparse(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>> {
        let handle = self.state()?.create(path, len, false)?;
        Ok(self.file(handle))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        let handle = self.look()?.open(path, write)?;
        Ok(self.file(handle))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.state()?.remove_dir(dir)
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = self.look()?.lock_existing(path)?;
        Ok(Box::new(SimLock { state: self.state.clone(), run: self.run, file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state()?.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.state()?.remove(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state()?.link(from, to)
    }

    fn links(&self, path: &Path) -> io::Result<u64> {
        self.look()?.links(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.state()?.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.look()?.free_space(dir)
    }
}

struct SimLock {
    state: Shared,
    run: u64,
    file: u64,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.run == self.run {
            state.locks.remove(&self.file);
        }
    }
}

struct SimFile {
    state: Shared,
    handle: Handle,
}

impl SimFile {
    /// For a call that only looks.
    fn look(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        state.alive(self.handle.run)?;
        state.look()?;
        Ok(state)
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.look()?.content(&self.handle)?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.look()?;
        let content = state.content(&self.handle)?;
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > content.len()) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        content.region().read(offset, buf);
        Ok(())
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.state.lock().write(&self.handle, bufs, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.state.lock().sync(&self.handle)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.state.lock().punch(&self.handle, offset, len)
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        let state = self.look()?;
        let content = state.content(&self.handle)?;
        if len > content.len() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(Map::from_region(content.region().clone(), len))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.state.lock().close(&self.handle);
    }
}

struct SimClock(Shared);

impl Clock for SimClock {
    fn now(&self) -> u64 {
        self.0.lock().time.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().time.monotonic()
    }

    fn sleep(&self, time: Duration) {
        self.0.lock().time.advance(time);
    }
}

struct SimRandom(Shared);

impl Random for SimRandom {
    fn next(&self) -> u64 {
        self.0.lock().random.next()
    }
}

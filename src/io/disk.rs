//! The real file system, clock and randomness.

use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::io::retry_on_intr;

use super::blocks::{allocate, data_from, punch};
use super::map::Birthmark;
use super::tasks::Threads;
use super::{Clock, File, Fs, Io, Lock, Map, Random, journal};

/// What the system takes in one call (IOV_MAX), on every unix of today.
const MAX_SLICES: usize = 1024;

/// The handles of a store on the real system, whose files are created with the bits of `mode`.
pub(crate) fn system(mode: u32) -> Io {
    Io {
        fs: Arc::new(Disk::new(mode)),
        clock: Arc::new(SystemClock { start: Instant::now() }),
        random: Arc::new(SystemRandom),
        tasks: Arc::new(Threads::default()),
    }
}

/// The process that opened a store. A fork of it has the same files open, and memory of its own: it
/// would write in places that its parent takes too.
#[derive(Clone)]
struct Owner {
    id: u32,
    mark: Option<Arc<Birthmark>>,
}

impl Owner {
    fn here() -> Self {
        Owner { id: std::process::id(), mark: Birthmark::new().map(Arc::new) }
    }

    fn is_here(&self) -> bool {
        match &self.mark {
            Some(mark) => mark.is_there(),
            None => std::process::id() == self.id,
        }
    }

    /// Nothing that a file or its sync changes is for a fork. (A sync would also take away the
    /// error that the parent has to hear of.)
    fn check(&self) -> io::Result<()> {
        if self.is_here() {
            return Ok(());
        }
        Err(io::Error::other("this process is a fork of the one that opened the store"))
    }
}

/// The file systems of this machine.
pub(crate) struct Disk {
    owner: Owner,
    /// The permission bits of files that are created.
    mode: u32,
}

impl Disk {
    pub(crate) fn new(mode: u32) -> Self {
        Disk { owner: Owner::here(), mode }
    }

    fn file(&self, file: fs::File) -> Arc<dyn File> {
        let asks = journal::is_asked(&file);
        Arc::new(DiskFile { file, owner: self.owner.clone(), asks })
    }

    fn create_by(
        &self,
        path: &Path,
        size: impl FnOnce(&fs::File) -> io::Result<()>,
    ) -> io::Result<Arc<dyn File>> {
        self.owner.check()?;
        let mut new = OpenOptions::new();
        let file = new.read(true).write(true).create_new(true).mode(self.mode).open(path)?;
        if let Err(e) = size(&file) {
            // The first error says why; a file that cannot be removed either is an orphan, which
            // opening clears away.
            let _ = fs::remove_file(path);
            return Err(e);
        }
        Ok(self.file(file))
    }

    /// Takes the lock of an open file.
    fn held(&self, file: fs::File) -> io::Result<Box<dyn Lock>> {
        match file.try_lock() {
            Ok(()) => Ok(Box::new(DiskLock { file, owner: self.owner.clone() })),
            Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}

impl Fs for Disk {
    fn is_own(&self) -> bool {
        self.owner.is_here()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.owner.check()?;
        match DirBuilder::new().mode(searchable(self.mode)).create(dir) {
            Ok(()) => self.sync_dir(parent(dir)),
            Err(e) if e.kind() == ErrorKind::NotFound && parent(dir) != dir => {
                self.create_dir(parent(dir))?;
                self.create_dir(dir)
            }
            // A process killed between making it and syncing it would have left its name not
            // durable: sync it again. Somebody else's parent may not be ours to open.
            Err(_) if dir.is_dir() => match self.sync_dir(parent(dir)) {
                Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
                synced => synced,
            },
            Err(e) => Err(e),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut new = OpenOptions::new();
        self.held(new.write(true).create(true).truncate(false).mode(self.mode).open(path)?)
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>> {
        self.create_by(path, |file| allocate(file, len))
    }

    fn create_sparse(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>> {
        self.create_by(path, |file| file.set_len(len))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(write).open(path)?;
        Ok(self.file(file))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.owner.check()?;
        fs::remove_dir(dir)
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.held(fs::File::open(path)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.owner.check()?;
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.owner.check()?;
        fs::remove_file(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.owner.check()?;
        fs::hard_link(from, to)
    }

    fn links(&self, path: &Path) -> io::Result<u64> {
        Ok(std::os::unix::fs::MetadataExt::nlink(&fs::metadata(path)?))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.owner.check()?;
        let dir = fs::File::open(dir)?;
        dir.sync_all()?;
        if journal::is_asked(&dir) { journal::ask(&dir) } else { Ok(()) }
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let stat = retry_on_intr(|| rustix::fs::statvfs(dir))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// An open lock file: the lock goes with its descriptor.
struct DiskLock {
    file: fs::File,
    owner: Owner,
}

impl Lock for DiskLock {}

impl Drop for DiskLock {
    fn drop(&mut self) {
        // By name, and not only by closing the file: a child that is just being made, by whoever
        // starts a process, has the descriptor too until it runs its program. A fork that lets go
        // of it does not unlock what its parent holds.
        if self.owner.is_here() {
            let _ = self.file.unlock();
        }
    }
}

struct DiskFile {
    file: fs::File,
    owner: Owner,
    /// Whether the journal is asked behind a sync.
    asks: bool,
}

impl File for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        self.owner.check()?;
        for bufs in bufs.chunks(MAX_SLICES) {
            offset = write_all(bufs, offset, |bufs, at| write_some(&self.file, bufs, at))?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.owner.check()?;
        self.file.sync_data()
    }

    fn confirm(&self) -> io::Result<()> {
        if self.asks { journal::ask(&self.file) } else { Ok(()) }
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.owner.check()?;
        punch(&self.file, offset, len)
    }

    fn data_from(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        data_from(&self.file, offset)
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        Map::of_file(&self.file, len)
    }
}

/// The system's clocks.
pub(crate) struct SystemClock {
    start: Instant,
}

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        // A clock set to before 1970 reads as 1970.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }
}

/// The system's randomness.
pub(crate) struct SystemRandom;

impl Random for SystemRandom {
    fn next(&self) -> u64 {
        // Salts and ids need to differ, not to be secret: where the system has no source (a
        // sandbox without the call and without /dev/urandom), what std seeds its maps with will do.
        getrandom::u64().unwrap_or_else(|_| RandomState::new().hash_one(Instant::now()))
    }
}

/// The bits of a directory: all who may read it may search it.
fn searchable(mode: u32) -> u32 {
    mode | (mode & 0o444) >> 2
}

/// The directory that holds the name of `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// Writes slices whole, by a call that may write less than it was given; answers where they end.
/// Allocates nothing unless that happens.
fn write_all(
    bufs: &[IoSlice<'_>],
    mut offset: u64,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> io::Result<usize>,
) -> io::Result<u64> {
    let len: usize = bufs.iter().map(|buf| buf.len()).sum();
    let end = offset.checked_add(len as u64).ok_or(ErrorKind::InvalidInput)?;
    if len == 0 {
        return Ok(end);
    }
    let mut written = write(bufs, offset)?;
    if written == len {
        return Ok(end);
    }
    let mut rest = bufs.to_vec();
    let mut rest = rest.as_mut_slice();
    while written > 0 {
        IoSlice::advance_slices(&mut rest, written);
        offset += written as u64;
        if offset == end {
            return Ok(end);
        }
        written = write(rest, offset)?;
    }
    Err(ErrorKind::WriteZero.into())
}

#[cfg(not(any(
    target_os = "haiku",
    target_os = "nto",
    target_os = "redox",
    target_os = "solaris",
    target_os = "vita"
)))]
fn write_some(file: &fs::File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    Ok(match bufs {
        // The system takes one slice in less time than a list of one.
        [only] => retry_on_intr(|| rustix::io::pwrite(file, only, offset))?,
        bufs => retry_on_intr(|| rustix::io::pwritev(file, bufs, offset))?,
    })
}

/// Systems without pwritev: slice by slice.
#[cfg(any(
    target_os = "haiku",
    target_os = "nto",
    target_os = "redox",
    target_os = "solaris",
    target_os = "vita"
))]
fn write_some(file: &fs::File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    let buf = bufs.iter().find(|buf| !buf.is_empty());
    Ok(retry_on_intr(|| rustix::io::pwrite(file, buf.map_or(&[][..], |buf| buf), offset))?)
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::super::blocks::fill;
    use super::*;

    fn read(file: &dyn File, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        file.read_at(&mut bytes, offset).unwrap();
        bytes
    }

    #[test]
    fn a_file_from_creation_to_removal() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("f"), dir.path().join("g"));
        let file = Disk::new(0o600).create(&path, 300_000).unwrap();
        assert_eq!(file.len().unwrap(), 300_000);
        assert!(read(&*file, 0, 300_000).iter().all(|byte| *byte == 0));
        assert_eq!(
            Disk::new(0o600).create(&path, 1).err().unwrap().kind(),
            ErrorKind::AlreadyExists
        );

        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(5000).collect();
        let slices: Vec<_> =
            bytes.iter().map(|byte| IoSlice::new(std::slice::from_ref(byte))).collect();
        file.write_at(&slices, 290_000).unwrap();
        file.write_at(&[], 0).unwrap();
        file.sync().unwrap();
        assert_eq!(read(&*file, 290_000, 5000), bytes);
        let beyond = file.read_at(&mut [0; 2], 299_999).unwrap_err();
        assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);

        let map = file.map(300_000).unwrap();
        assert_eq!(map.get(290_001, 2), Some(&[1, 2][..]));
        file.punch(286_720, 4096).unwrap();
        assert_eq!(read(&*file, 290_900, 1).len(), 1);

        Disk::new(0o600).rename(&path, &other).unwrap();
        Disk::new(0o600).sync_dir(dir.path()).unwrap();
        assert_eq!(Disk::new(0o600).list(dir.path()).unwrap(), ["g"]);
        let reader = Disk::new(0o600).open(&other, false).unwrap();
        assert!(reader.write_at(&[IoSlice::new(b"x")], 0).is_err());
        Disk::new(0o600).remove(&other).unwrap();
        assert_eq!(Disk::new(0o600).open(&other, false).err().unwrap().kind(), ErrorKind::NotFound);
        assert!(Disk::new(0o600).free_space(dir.path()).unwrap() > 0);
    }

    #[test]
    fn short_writes_are_gone_on_with() {
        let bufs = [&b"ab"[..], b"", b"cdefg", b"h"].map(IoSlice::new);
        for step in 1..=8 {
            let mut medium = Vec::new();
            let end = write_all(&bufs, 100, |bufs, at| {
                assert_eq!(at, 100 + medium.len() as u64);
                let before = medium.len();
                medium.extend(bufs.iter().flat_map(|buf| buf.iter()).take(step));
                Ok(medium.len() - before)
            });
            assert_eq!((end.unwrap(), medium), (108, b"abcdefgh".to_vec()));
        }
        let mut answers = [3, 0].into_iter();
        let full = write_all(&bufs, 0, |_, _| Ok(answers.next().unwrap())).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::WriteZero);
        assert!(write_all(&bufs, u64::MAX, |_, _| Ok(8)).is_err());
    }

    #[test]
    fn a_file_without_room_is_not_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(Disk::new(0o600).create(&path, 1 << 62).is_err());
        assert!(!path.exists());
        assert!(Disk::new(0o600).create_sparse(&path, u64::MAX).is_err());
        assert!(!path.exists());
        Disk::new(0o600).create(&path, 0).unwrap();
    }

    #[test]
    fn a_sparse_file_takes_room_as_it_is_written() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = Disk::new(0o600).create_sparse(&path, 64 << 20).unwrap();
        assert!(Disk::new(0o600).create_sparse(&path, 1).is_err());
        file.write_at(&[IoSlice::new(&[1; 4096])], 8 << 20).unwrap();
        file.sync().unwrap();
        let taken = fs::metadata(&path).unwrap();
        assert_eq!(taken.len(), 64 << 20);
        assert!(taken.blocks() * 512 < 1 << 20, "{} blocks", taken.blocks());
        assert_eq!(read(&*file, (8 << 20) - 1, 2), [0, 1]);
    }

    #[test]
    fn zeros_are_written_where_blocks_cannot_be_allocated() {
        let file = tempfile::tempfile().unwrap();
        fill(&file, (256 << 10) + 1).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (256 << 10) + 1);
    }

    #[test]
    fn directories_are_made_with_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b/c");
        Disk::new(0o600).create_dir(&inner).unwrap();
        Disk::new(0o600).create_dir(&inner).unwrap();
        Disk::new(0o600).create_dir(Path::new(".")).unwrap();
        Disk::new(0o600).create_dir(Path::new("/")).unwrap();
        assert!(inner.is_dir());
        fs::write(inner.join("file"), "").unwrap();
        assert!(Disk::new(0o600).create_dir(&inner.join("file")).is_err());
        assert!(Disk::new(0o600).create_dir(&inner.join("file/d")).is_err());
        assert!(Disk::new(0o600).create_dir(Path::new("")).is_err());
    }

    #[test]
    fn what_is_created_has_the_mode_and_what_exists_keeps_its_own() {
        use std::os::unix::fs::PermissionsExt;
        let base = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for (bits, searchable) in [(0o600, 0o700), (0o640, 0o750), (0o604, 0o705)] {
            let (dir, disk) = (base.path().join(format!("{bits:o}/inner")), Disk::new(bits));
            disk.create_dir(&dir).unwrap();
            let (file, sparse, lock) = (dir.join("f"), dir.join("s"), dir.join("l"));
            disk.create(&file, 10).unwrap();
            disk.create_sparse(&sparse, 10).unwrap();
            drop(disk.lock(&lock).unwrap());
            assert_eq!((mode(&dir), mode(dir.parent().unwrap())), (searchable, searchable));
            assert_eq!([file, sparse, lock.clone()].map(|path| mode(&path)), [bits; 3]);
            fs::set_permissions(&lock, fs::Permissions::from_mode(0o666)).unwrap();
            drop(disk.lock(&lock).unwrap());
            assert_eq!(mode(&lock), 0o666);
        }
    }

    #[test]
    fn a_lock_is_held_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Disk::new(0o600).lock(&path).unwrap();
        assert_eq!(Disk::new(0o600).lock(&path).err().unwrap().kind(), ErrorKind::WouldBlock);
        drop(held);
        Disk::new(0o600).lock(&path).unwrap();
    }

    #[test]
    fn a_lock_is_gone_with_its_holder_though_a_child_has_the_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
        file.try_lock().unwrap();
        let inherited = file.try_clone().unwrap();
        drop(DiskLock { file, owner: Owner::here() });
        Disk::new(0o600).lock(&path).unwrap();
        drop(inherited);
    }

    #[test]
    fn the_system_has_time_and_randomness() {
        let io = system(0o600);
        let before = io.clock.monotonic();
        io.clock.sleep(Duration::from_millis(1));
        assert!(io.clock.monotonic() >= before + Duration::from_millis(1));
        assert!(io.clock.now() > 1_700_000_000_000);
        assert_ne!(io.random.next(), io.random.next());
    }
}

//! A block device of our own: a file in a FUSE file system in memory, a loop device over it. It
//! logs writes and flushes, and fails them on demand.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use super::image::{Event, Image};
use crate::linux::trail;

const FILE: INodeNo = INodeNo(2);
const NAME: &str = "medium";
const TTL: Duration = Duration::from_secs(3600);

/// Which requests fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Failing {
    Writes,
    Flushes,
    Reads,
}

/// The medium's own side of it.
pub struct Medium {
    pub image: Image,
    /// What was taken since the last `restart`.
    pub events: Vec<Event>,
    /// When each of them came, by the monotonic clock.
    pub times: Vec<u64>,
    /// From so many events on, these fail; for good, or so many of them.
    pub failing: Option<(Failing, usize, u64)>,
    pub failed: u64,
    /// After so many events the first request failed.
    pub failed_at: usize,
    /// Where the number of events is told.
    stamps: File,
}

impl Medium {
    /// Another content, and nothing logged.
    pub fn restart(&mut self, image: Image) {
        self.image = image;
        self.events.clear();
        self.times.clear();
        (self.failing, self.failed) = (None, 0);
        self.tell();
    }

    fn log(&mut self, event: Event) {
        self.events.push(event);
        self.times.push(trail::now());
        self.tell();
    }

    fn tell(&self) {
        self.stamps.write_all_at(&(self.events.len() as u64).to_le_bytes(), 0).unwrap();
    }

    fn fails(&mut self, what: Failing, offset: u64, len: u64) -> bool {
        let Some((failing, from, count)) = self.failing else { return false };
        let hit = failing == what && self.events.len() >= from && self.failed < count;
        if hit && self.failed == 0 {
            self.failed_at = self.events.len();
        }
        if hit {
            self.failed += 1;
            self.log(Event::Refused(format!("{what:?} at {offset}, {len} bytes")));
        }
        hit
    }
}

/// The FUSE file system with that one file.
struct Server {
    medium: Arc<Mutex<Medium>>,
    len: u64,
}

impl Server {
    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap()
    }

    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let is_file = ino == FILE;
        FileAttr {
            ino,
            size: if is_file { self.len } else { 0 },
            blocks: if is_file { self.len / 512 } else { 0 },
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: if is_file { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // The largest that the kernel gives is as good as any.
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&TTL, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut medium = self.medium();
        if medium.fails(Failing::Reads, offset, size.into()) {
            return reply.error(Errno::EIO);
        }
        let len = u64::from(size).min(self.len.saturating_sub(offset));
        let mut bytes = vec![0; len as usize];
        medium.image.read(offset, &mut bytes);
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut medium = self.medium();
        if medium.fails(Failing::Writes, offset, data.len() as u64) {
            return reply.error(Errno::EIO);
        }
        medium.image.write(offset, data);
        medium.log(Event::Write(offset, data.to_vec()));
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut medium = self.medium();
        if medium.fails(Failing::Flushes, 0, 0) {
            return reply.error(Errno::EIO);
        }
        medium.log(Event::Flush);
        reply.ok();
    }
}

/// The device, until it is dropped.
pub struct Device {
    pub medium: Arc<Mutex<Medium>>,
    pub path: PathBuf,
    session: Option<BackgroundSession>,
}

impl Device {
    pub fn new(place: &Path, bytes: u64) -> Result<Device, String> {
        let stamps = File::create(place.join("stamps")).unwrap();
        let image = Image::new(bytes);
        let len = image.len();
        let medium = Medium {
            image,
            events: Vec::new(),
            times: Vec::new(),
            failing: None,
            failed: 0,
            failed_at: 0,
            stamps,
        };
        medium.tell();
        let medium = Arc::new(Mutex::new(medium));
        let dir = place.join("fuse");
        std::fs::create_dir(&dir).unwrap();
        let mut config = Config::default();
        config.mount_options.push(MountOption::FSName("memlog-torture".into()));
        let server = Server { medium: Arc::clone(&medium), len };
        let session = fuser::spawn_mount(server, &dir, &config)
            .map_err(|e| format!("no FUSE here (it needs root and /dev/fuse): {e}"))?;
        let mut device = Device { medium, path: PathBuf::new(), session: Some(session) };
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--direct-io=on"]).arg(dir.join(NAME));
        device.path = super::said(&mut losetup)?.trim().into();
        // A request that is cut in two on the way here, and fails in its second half, would be taken
        // for done by the loop device.
        if let Some(name) = device.path.file_name() {
            let limit = Path::new("/sys/block").join(name).join("queue/max_sectors_kb");
            std::fs::write(limit, "512").map_err(|e| format!("no limit of requests: {e}"))?;
        }
        Ok(device)
    }

    pub fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = super::said(Command::new("losetup").arg("--detach").arg(&self.path));
        }
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}

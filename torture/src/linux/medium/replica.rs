//! Where what a power failure left is mounted and recovered, when nobody has to log what that does
//! to the medium: a file in memory and a loop device over it, with nothing of ours in between.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

use super::image::Image;
use super::{Kind, Mounted, said};

pub struct Replica {
    kind: Kind,
    file: File,
    len: u64,
    device: PathBuf,
    place: tempfile::TempDir,
}

impl Replica {
    pub fn new(kind: Kind) -> Result<Replica, String> {
        let place = crate::linux::place(None);
        fs::create_dir(place.path().join("mnt")).unwrap();
        let file =
            memfd_create("memlog-torture", MemfdFlags::CLOEXEC).map_err(|e| e.to_string())?;
        let (file, len) = (File::from(file), kind.bytes());
        file.set_len(len).unwrap();
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]);
        losetup.arg(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        let device = said(&mut losetup)?.trim().into();
        Ok(Replica { kind, file, len, device, place })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Makes this what the device holds. Nothing may be mounted.
    pub fn put(&self, image: &Image) {
        let all = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, all, 0, self.len).unwrap();
        for (at, bytes) in image.written() {
            self.file.write_all_at(bytes, at).unwrap();
        }
    }

    pub fn mount(&self) -> Result<Mounted, String> {
        Mounted::new(self.kind, &self.device, self.path("mnt"))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = said(Command::new("losetup").arg("--detach").arg(&self.device));
    }
}

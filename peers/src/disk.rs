//! What the system knows of disk and process: bytes written, blocks in use, a page cache that can
//! be emptied, memory; and how long a bare flush takes.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::Res;
use crate::measure::Latencies;

/// Bytes that the device under a directory has written since the machine was started, whoever
/// caused it. None where the system does not tell.
pub fn device_written(dir: &Path) -> Option<u64> {
    let device = std::fs::metadata(dir).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let sectors: u64 = text.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * 512)
}

/// Bytes that this process has caused to be written, less those of files that were gone before.
pub fn process_written() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    let field = |name: &str| -> Option<u64> {
        io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    Some(field("write_bytes:")?.saturating_sub(field("cancelled_write_bytes:")?))
}

/// Everything that anybody has written goes to the devices.
pub fn flush_all() {
    rustix::fs::sync();
}

/// Bytes of disk that the files below a directory take.
pub fn allocated(dir: &Path) -> u64 {
    files(dir).iter().filter_map(|path| Some(path.metadata().ok()?.blocks() * 512)).sum()
}

/// All files below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut dirs, mut files) = (vec![dir.to_owned()], vec![]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}

/// Copies a directory; afterwards the copy is on the disk and in the page cache.
pub fn copy(from: &Path, to: &Path) -> Res<()> {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from)?);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::copy(&file, &target)?;
    }
    flush_all();
    Ok(())
}

/// Takes the files of a directory, which nobody has open, out of the page cache; and, with the
/// right to do so, everything else, names and inodes too.
pub fn make_cold(dir: &Path) -> Res<()> {
    flush_all();
    for path in files(dir) {
        let file = File::open(path)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
    Ok(())
}

/// Reads all files, so that they are in the page cache.
pub fn make_hot(dir: &Path) -> Res<()> {
    for path in files(dir) {
        std::io::copy(&mut File::open(path)?, &mut std::io::sink())?;
    }
    Ok(())
}

/// Memory of this process that is no file's, in bytes.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("RssAnon:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kib.unwrap_or(0) << 10
}

/// As many open files as the system lets this process have.
pub fn raise_limit_of_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A file whose blocks are written already: the bare flush that no durable append can undercut.
pub struct Probe {
    file: File,
    len: u64,
}

impl Probe {
    pub fn new(dir: &Path) -> Res<Probe> {
        let len = 16 << 20;
        let path = dir.join("probe");
        let file = File::options().write(true).create(true).truncate(true).open(path)?;
        file.write_all_at(&vec![0; len as usize], 0)?;
        file.sync_all()?;
        Ok(Probe { file, len })
    }

    /// The median of some writes of 1 KiB, each with its flush, in microseconds.
    pub fn flush(&self) -> Res<f64> {
        let (mut all, block) = (Latencies::new(), [7; 1024]);
        for turn in 0..100u64 {
            let start = Instant::now();
            self.file.write_all_at(&block, turn * 1024 % self.len)?;
            self.file.sync_data()?;
            all.add(start.elapsed());
        }
        Ok(all.us(0.5))
    }
}

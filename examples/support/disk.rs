//! What the system knows of a disk: blocks in use, bytes written and read, and a page cache that
//! can be emptied.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks at what a store takes of the disk.
pub(crate) const SAMPLE: Duration = Duration::from_millis(100);

/// Bytes of disk that the files of a directory take; holes take none.
pub(crate) fn allocated(dir: &Path) -> u64 {
    let Ok(files) = std::fs::read_dir(dir) else { return 0 };
    files.filter_map(|file| Some(file.ok()?.metadata().ok()?.blocks() * 512)).sum()
}

/// Length of the files of a directory that are unlinked and that this process still maps, as the
/// system tells it. At least what they take of the disk.
pub(crate) fn unlinked_and_mapped(dir: &Path) -> u64 {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return 0 };
    let dir = dir.canonicalize().unwrap_or_default();
    let ours = maps.lines().filter(|line| line.ends_with(" (deleted)"));
    let ours = ours.filter(|line| line.contains(&*dir.to_string_lossy()));
    let len = |line: &str| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        Some(u64::from_str_radix(to, 16).ok()? - u64::from_str_radix(from, 16).ok()?)
    };
    ours.filter_map(len).sum()
}

/// Counters of a device since the machine was started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Reads that have completed, each as it went to the device.
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) in_flight: u64,
}

/// The device under a directory, as Linux knows it.
///
/// It counts what everybody does with the device: nothing else may use it meanwhile.
pub(crate) struct Device {
    stat: PathBuf,
}

impl Device {
    pub(crate) fn under(dir: &Path) -> Option<Device> {
        let device = std::fs::metadata(dir).ok()?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        stat.exists().then_some(Device { stat })
    }

    pub(crate) fn counters(&self) -> Counters {
        let text = std::fs::read_to_string(&self.stat).unwrap();
        let field: Vec<u64> = text.split_whitespace().map_while(|n| n.parse().ok()).collect();
        Counters {
            reads: field[0],
            read_bytes: field[2] * 512,
            written_bytes: field[6] * 512,
            in_flight: field[8],
        }
    }

    /// The counters once nothing is under way any more, so that a read that nobody waited for
    /// counts for whoever asked for it.
    pub(crate) fn settled(&self) -> Counters {
        let start = Instant::now();
        loop {
            let counters = self.counters();
            if counters.in_flight == 0 || start.elapsed() > Duration::from_millis(50) {
                return counters;
            }
        }
    }
}

/// Bytes that this process has caused to be read from disks so far; only Linux tells.
pub(crate) fn bytes_read() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("read_bytes: ")?.parse().ok())
}

/// Takes the files of a directory out of the page cache. None may be mapped or open for writing.
pub(crate) fn evict(dir: &Path) -> io::Result<()> {
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        if file.metadata()?.is_file() {
            let file = File::open(file.path())?;
            file.sync_all()?;
            forget(&file)?;
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn forget(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

#[cfg(not(target_os = "linux"))]
fn forget(_file: &File) -> io::Result<()> {
    Err(io::Error::other("only Linux takes files out of the page cache"))
}

/// Tells the system that reads will be here and there, so that it reads nothing beyond them.
#[cfg(target_os = "linux")]
pub(crate) fn read_at_random(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random)?)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn read_at_random(_file: &File) -> io::Result<()> {
    Ok(())
}

/// Has everything that is written go to the device, whoever wrote it.
pub(crate) fn flush_all() {
    rustix::fs::sync();
}

/// How often bytes occur in the files of a directory: those that have them, and the bytes searched.
pub(crate) fn search(dir: &Path, what: &[u8]) -> io::Result<(u64, Vec<PathBuf>, u64)> {
    let (mut hits, mut holders, mut searched) = (0, vec![], 0);
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        if !path.is_file() {
            continue;
        }
        // A file that is unlinked meanwhile has nothing any more.
        let Ok(mut file) = File::open(&path) else { continue };
        let (found, len) = search_file(&mut file, what)?;
        if found > 0 {
            holders.push(path);
        }
        hits += found;
        searched += len;
    }
    Ok((hits, holders, searched))
}

fn search_file(file: &mut impl io::Read, what: &[u8]) -> io::Result<(u64, u64)> {
    let mut buffer = vec![0; 4 << 20];
    let (mut kept, mut hits, mut searched) = (0, 0, 0);
    loop {
        let read = file.read(&mut buffer[kept..])?;
        if read == 0 {
            return Ok((hits, searched));
        }
        searched += read as u64;
        let end = kept + read;
        hits += occurrences(&buffer[..end], what);
        // What may be the beginning of a hit goes before what is read next.
        kept = end.min(what.len() - 1);
        buffer.copy_within(end - kept..end, 0);
    }
}

/// Horspool's search.
fn occurrences(text: &[u8], what: &[u8]) -> u64 {
    let last = what.len() - 1;
    let mut skip = [what.len(); 256];
    for (at, byte) in what[..last].iter().enumerate() {
        skip[usize::from(*byte)] = last - at;
    }
    let (mut at, mut hits) = (0, 0);
    while at + what.len() <= text.len() {
        hits += u64::from(&text[at..at + what.len()] == what);
        at += skip[usize::from(text[at + last])];
    }
    hits
}

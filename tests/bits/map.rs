//! Which bytes of a store may change without harm, and why: nothing reads them, or nothing they
//! could say counts. `docs/format.md` has the same list.

use std::ops::Range;
use std::path::{Path, PathBuf};

use memlog::sim::SimDisk;

use crate::store::DIR;

/// Bytes of a file in which a flipped bit does no harm.
#[derive(Clone, Debug)]
pub struct Harmless {
    pub file: PathBuf,
    pub range: Range<u64>,
    pub why: &'static str,
}

/// The files of a store, what is harmless in them, and where its last frame is.
pub struct Layout {
    pub files: Vec<(PathBuf, Vec<u8>)>,
    pub harmless: Vec<Harmless>,
    /// The last group of frames before a crash: nothing behind it proves that it was durable.
    pub last: Option<(PathBuf, Range<u64>)>,
}

const RESERVE: &str = "the reserve is never read";
const ROOM: &str = "between data and footer nothing is read";
const BEHIND: &str = "behind the frames only an intact frame header would count";
const SPARE: &str = "an empty spare has no frames, and only an intact frame header would count";
const DRAFT: &str = "a draft is dropped unread";
const OBSOLETE: &str = "an obsolete file is removed unread";

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
}

impl Layout {
    pub fn of(disk: &SimDisk) -> Layout {
        let paths = disk.files().into_iter().filter(|file| file.starts_with(DIR));
        let files: Vec<(PathBuf, Vec<u8>)> =
            paths.map(|path| (path.clone(), disk.read_file(path).unwrap())).collect();
        let manifest = &files.iter().find(|(path, _)| path.ends_with("MANIFEST")).unwrap().1;
        let clean_end = number(manifest, 72);
        let (mut harmless, mut frames) = (Vec::new(), Vec::new());
        let lines: Vec<&[u8]> = manifest[224..].chunks(64).take(manifest[80].into()).collect();
        for (path, bytes) in &files {
            let len = bytes.len() as u64;
            let mut add = |range: Range<u64>, why| {
                harmless.push(Harmless { file: path.clone(), range, why });
            };
            let line = lines.iter().find(|line| id(path) == Some(number(line, 0)));
            match line.map(|line| line[44]) {
                None if ["RESERVE", "RESERVE.open"].iter().any(|name| path.ends_with(name)) => {
                    add(0..len, RESERVE);
                }
                None if id(path).is_some() => add(0..len, OBSOLETE),
                None => {}
                Some(3) => {
                    let trailer = &bytes[bytes.len() - 320..];
                    add(number(trailer, 56)..number(trailer, 104), ROOM);
                }
                Some(4) => add(0..len, DRAFT),
                Some(_) => {
                    let found = walk(bytes);
                    let end = found.last().map_or(128, |frame| frame.end);
                    add(end..len, if end == 128 { SPARE } else { BEHIND });
                    frames.extend(found.last().map(|last| (path.clone(), last.clone())));
                }
            }
        }
        // Of the frames of a clean store the manifest says where they end.
        let last = frames.pop().filter(|_| clean_end == 0);
        Layout { harmless, last, files }
    }

    /// Why a flipped bit does no harm there, if it does none.
    pub fn harmless(&self, file: &Path, at: u64) -> Option<&'static str> {
        let covers = |part: &&Harmless| part.file == file && part.range.contains(&at);
        self.harmless.iter().find(covers).map(|part| part.why)
    }

    pub fn is_last(&self, file: &Path, at: u64) -> bool {
        self.last.as_ref().is_some_and(|(last, range)| last == file && range.contains(&at))
    }
}

fn id(path: &Path) -> Option<u64> {
    u64::from_str_radix(path.file_stem()?.to_str()?, 16).ok()
}

/// The frames of a segment that is not damaged.
fn walk(bytes: &[u8]) -> Vec<Range<u64>> {
    let (salt, base) = (number(bytes, 40), number(bytes, 48));
    let (mut found, mut at) = (Vec::new(), 128);
    while at + 72 <= bytes.len()
        && (number(bytes, at + 8), number(bytes, at + 16)) == (salt, base + at as u64)
    {
        let end = at as u64 + half(bytes, at + 4) + half(bytes, at + 40);
        found.push(at as u64..end);
        at = end as usize;
    }
    found
}

//! A directory of hostile files as the bytes of an input, and back. Zeros are left out, so that a
//! store whose files are mostly blank is an input of some kilobytes.
//!
//! An input is a byte of flags, and then files: sort, id, length (4), number of chunks (2), and each
//! chunk: offset (4), length (2), bytes. Whatever the bytes are, they are some directory.

use std::collections::BTreeMap;

use memlog::sim::SimDisk;

use crate::{CHECKED, checks};

/// The longest file, and all files together.
const MAX_FILE: usize = 512 << 10;
const MAX_ALL: usize = 2 << 20;
/// A run of zeros as long as that is left out.
const BLANK: usize = 16;

const NAMES: [&str; 7] =
    ["MANIFEST", "MANIFEST.tmp", "LOCK", "RESERVE", "somebody.else", "RESERVE.open", "BACKUP.tmp"];

/// Bytes somewhere in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub offset: u32,
    pub bytes: Vec<u8>,
}

/// A file: which of the names it has, or that of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub sort: u8,
    pub id: u8,
    pub len: u32,
    pub chunks: Vec<Chunk>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    pub flags: u8,
    pub files: Vec<File>,
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }
}

impl File {
    /// A file with these contents.
    pub fn new(sort: u8, id: u8, bytes: &[u8]) -> File {
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut end = 0;
        for (at, byte) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            match chunks.last_mut() {
                Some(last)
                    if at < end + BLANK && last.bytes.len() < usize::from(u16::MAX) - BLANK =>
                {
                    last.bytes.extend_from_slice(&bytes[end..at]);
                    last.bytes.push(*byte);
                }
                _ => chunks.push(Chunk { offset: at as u32, bytes: vec![*byte] }),
            }
            end = at + 1;
        }
        File { sort, id, len: bytes.len() as u32, chunks }
    }

    pub fn name(&self) -> String {
        match NAMES.get(usize::from(self.sort)) {
            Some(name) => (*name).to_owned(),
            None if self.sort.is_multiple_of(2) => format!("{:016x}.run", self.id),
            None => format!("{:016x}.log", self.id),
        }
    }

    pub fn is_segment(&self) -> bool {
        usize::from(self.sort) >= NAMES.len()
    }

    pub fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; (self.len as usize).min(MAX_FILE)];
        for chunk in &self.chunks {
            let place = bytes.get_mut(chunk.offset as usize..).unwrap_or_default();
            place.iter_mut().zip(&chunk.bytes).for_each(|(to, from)| *to = *from);
        }
        bytes
    }
}

impl Directory {
    /// Reads an input; what does not fit is left out.
    pub fn read(input: &[u8]) -> Directory {
        let mut input = Input(input);
        let flags = input.take::<1>().map_or(0, |[flags]| flags);
        let mut files: Vec<File> = Vec::new();
        while let Some(file) = file(&mut input) {
            files.push(file);
        }
        Directory { flags, files }
    }

    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![self.flags];
        for file in &self.files {
            out.extend_from_slice(&[file.sort, file.id]);
            out.extend_from_slice(&file.len.to_le_bytes());
            out.extend_from_slice(&(file.chunks.len() as u16).to_le_bytes());
            for chunk in &file.chunks {
                out.extend_from_slice(&chunk.offset.to_le_bytes());
                out.extend_from_slice(&(chunk.bytes.len() as u16).to_le_bytes());
                out.extend_from_slice(&chunk.bytes);
            }
        }
        out
    }

    /// All files of a directory on a disk.
    pub fn of(disk: &SimDisk, dir: &str) -> Directory {
        let mut files = Vec::new();
        for path in disk.files().iter().filter(|path| path.starts_with(dir)) {
            let bytes = disk.read_file(path).unwrap_or_default();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let sort = NAMES.iter().position(|known| *known == name);
            let run = u8::from(name.ends_with("run"));
            let sort = sort.map_or(NAMES.len() as u8 + run, |sort| sort as u8);
            let id = name.get(..16).and_then(|id| u8::from_str_radix(id, 16).ok()).unwrap_or(0);
            files.push(File::new(sort, id, &bytes));
        }
        Directory { flags: CHECKED, files }
    }

    /// The contents of its files, with their checks made right if the flags say so.
    pub fn contents(&self) -> Vec<(&File, Vec<u8>)> {
        let mut all = 0;
        let mut contents: Vec<_> = self
            .files
            .iter()
            .map(|file| (file, file.contents()))
            .take_while(|(_, bytes)| {
                all += bytes.len();
                all <= MAX_ALL
            })
            .collect();
        if self.flags & CHECKED != 0 {
            let mut trailers = BTreeMap::new();
            for (file, bytes) in contents.iter_mut().filter(|(file, _)| file.is_segment()) {
                if let Some(check) = checks::segment(bytes) {
                    trailers.insert(u64::from(file.id), check);
                }
            }
            for (_, bytes) in contents.iter_mut().filter(|(file, _)| file.sort <= 1) {
                checks::manifest(bytes, &trailers);
            }
        }
        contents
    }

    /// Puts the files onto a disk; gives how many bytes they have.
    pub fn put(&self, disk: &SimDisk, dir: &str) -> usize {
        let contents = self.contents();
        for (file, bytes) in &contents {
            disk.write_file(format!("{dir}/{}", file.name()), bytes);
        }
        contents.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

fn file(input: &mut Input<'_>) -> Option<File> {
    let [sort, id] = input.take()?;
    let sort = sort % (NAMES.len() as u8 + 2);
    let len = u32::from_le_bytes(input.take()?) % (MAX_FILE as u32 + 1);
    let count = u16::from_le_bytes(input.take()?);
    let mut chunks = Vec::new();
    for _ in 0..count {
        let Some(offset) = input.take().map(u32::from_le_bytes) else { break };
        let Some(len) = input.take().map(u16::from_le_bytes) else { break };
        let (bytes, rest) = input.0.split_at(usize::from(len).min(input.0.len()));
        input.0 = rest;
        chunks.push(Chunk { offset: offset % (MAX_FILE as u32), bytes: bytes.to_vec() });
    }
    Some(File { sort, id, len, chunks })
}

//! Reads a file line by line. A line has a bounded length, and the bytes read so far have a hash.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::failure::Failure;
use crate::refusal::Refusal;

/// Room for the largest payload with every byte escaped, and for the largest meta.
const MAX_LINE: u64 = 256 << 20;
/// What some editors begin UTF-8 with.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A place between two lines: everything before it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// From the beginning of the file.
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    /// Of these bytes.
    pub(crate) hash: u128,
}

/// A file that is being read, or standard input.
pub(crate) struct Lines {
    name: PathBuf,
    input: BufReader<Box<dyn Read>>,
    number: u64,
    bytes: u64,
    line: Vec<u8>,
    /// Of everything before `line`.
    hasher: Box<Xxh3>,
}

impl Lines {
    /// Opens a file; `-` is standard input.
    pub(crate) fn open(path: &Path) -> Result<Lines, Failure> {
        let (name, input): (_, Box<dyn Read>) = if path.as_os_str() == "-" {
            (PathBuf::from("(standard input)"), Box::new(std::io::stdin()))
        } else {
            let file = std::fs::File::open(path)
                .map_err(|error| Failure::io("open", path, &error).hint("name a JSONL file"))?;
            (path.to_owned(), Box::new(file))
        };
        Ok(Lines::new(name, input))
    }

    pub(crate) fn new(name: PathBuf, input: Box<dyn Read>) -> Lines {
        let input = BufReader::with_capacity(256 << 10, input);
        let hasher = Box::new(Xxh3::new());
        Lines { name, input, number: 0, bytes: 0, line: Vec::new(), hasher }
    }

    /// Where the last line came from, for messages.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.name.display(), self.number)
    }

    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// How much has been read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The place after the last line.
    pub(crate) fn mark(&mut self) -> Mark {
        self.settle();
        Mark { bytes: self.bytes, lines: self.number, hash: self.hasher.digest128() }
    }

    /// Reads up to `mark`, which an earlier reading gave. False if the file has other bytes there,
    /// or ends before.
    pub(crate) fn pass(&mut self, mark: &Mark) -> Result<bool, Failure> {
        let mut left = mark.bytes.saturating_sub(self.bytes);
        while left > 0 {
            self.settle();
            let read = self.read_part(left.min(1 << 20))?;
            if read == 0 {
                return Ok(false);
            }
            left = left.saturating_sub(read);
        }
        self.number = mark.lines;
        Ok(self.mark() == *mark)
    }

    /// The next line that is not empty; `Err` in it for one that is too long.
    pub(crate) fn next(&mut self) -> Result<Option<Result<&[u8], Refusal>>, Failure> {
        loop {
            self.settle();
            let first = self.bytes == 0;
            let read = self.read_part(MAX_LINE)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read == MAX_LINE && !self.line.ends_with(b"\n") {
                self.skip_rest()?;
                let what = format!("the line is longer than {MAX_LINE} bytes");
                return Ok(Some(Err(Refusal::new(what, "split the message"))));
            }
            let skipped = if first && self.line.starts_with(BOM) { BOM.len() } else { 0 };
            if !self.line.get(skipped..).unwrap_or_default().trim_ascii().is_empty() {
                return Ok(Some(Ok(self.line.get(skipped..).unwrap_or_default())));
            }
        }
    }

    fn skip_rest(&mut self) -> Result<(), Failure> {
        loop {
            self.settle();
            if self.read_part(1 << 20)? == 0 || self.line.ends_with(b"\n") {
                return Ok(());
            }
        }
    }

    /// Counts what was read last into the hash.
    fn settle(&mut self) {
        self.hasher.update(&self.line);
        self.line.clear();
    }

    fn read_part(&mut self, limit: u64) -> Result<u64, Failure> {
        let read = (&mut self.input)
            .take(limit)
            .read_until(b'\n', &mut self.line)
            .map_err(|error| Failure::io("read", &self.name, &error))?;
        let read = u64::try_from(read).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn lines(text: &'static [u8]) -> Lines {
        Lines::new(PathBuf::from("x"), Box::new(Cursor::new(text)))
    }

    #[test]
    fn a_byte_order_mark_and_empty_lines_are_passed_over() {
        let mut read = lines(b"\xef\xbb\xbf{1}\r\n\n \n{2}");
        assert_eq!(read.next().unwrap().unwrap().unwrap(), b"{1}\r\n");
        assert_eq!(read.next().unwrap().unwrap().unwrap(), b"{2}");
        assert_eq!(read.number(), 4);
        assert!(read.next().unwrap().is_none());
        let mut read = lines(b"\xef\xbb\xbf\n\xef\xbb\xbf{1}");
        assert!(read.next().unwrap().unwrap().unwrap().starts_with(BOM), "of the file only");
    }

    #[test]
    fn a_mark_is_passed_where_the_bytes_are_the_same() {
        let mut read = lines(b"one\ntwo\nthree\n");
        let _ = read.next().unwrap();
        let _ = read.next().unwrap();
        let mark = read.mark();
        assert_eq!((mark.bytes, mark.lines), (8, 2));
        let mut again = lines(b"one\ntwo\nand more\n");
        assert!(again.pass(&mark).unwrap());
        assert_eq!(again.next().unwrap().unwrap().unwrap(), b"and more\n");
        assert_eq!(again.number(), 3);
        for other in [&b"one\ntwO\nthree\n"[..], b"one\n", b""] {
            assert!(!lines(other).pass(&mark).unwrap(), "{other:?}");
        }
    }
}

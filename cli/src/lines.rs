//! Reading a file line by line, with a bound on the length of a line.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Room for the largest payload with every byte escaped, and for the largest meta.
const MAX_LINE: u64 = 256 << 20;

/// A file that is being read, or standard input.
pub(crate) struct Lines {
    name: PathBuf,
    input: BufReader<Box<dyn Read>>,
    number: u64,
    bytes: u64,
    line: Vec<u8>,
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
        Lines { name, input, number: 0, bytes: 0, line: Vec::new() }
    }

    /// Where the last line came from, for messages.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.name.display(), self.number)
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// How much has been read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next line that is not empty; `Err` in it for one that is too long.
    pub(crate) fn next(&mut self) -> Result<Option<Result<&[u8], String>>, Failure> {
        loop {
            self.line.clear();
            let read = self.read_part(MAX_LINE)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read == MAX_LINE && !self.line.ends_with(b"\n") {
                self.skip_rest()?;
                return Ok(Some(Err(format!("the line is longer than {MAX_LINE} bytes"))));
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(Some(Ok(&self.line)));
            }
        }
    }

    fn skip_rest(&mut self) -> Result<(), Failure> {
        loop {
            self.line.clear();
            if self.read_part(1 << 20)? == 0 || self.line.ends_with(b"\n") {
                return Ok(());
            }
        }
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

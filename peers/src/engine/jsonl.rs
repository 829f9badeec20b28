//! One JSONL file for each agent, as many agents' frameworks keep them: a line for each turn.
//!
//! Files stay open while there are not too many. The latest lines are found from the file's end; a
//! turn by its seq, and truncation, need the whole file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use super::{Engine, OpenSpec, Visit, sync_dir};
use crate::Res;

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    seq: u64,
    #[serde(borrow)]
    content: Cow<'a, str>,
}

/// Files held open, in each shard.
const OPEN: usize = 64;
const SHARDS: u32 = 64;
/// Buffered lines are written once an agent has so many bytes of them.
const BUFFER: usize = 8 << 10;
/// Read from the end at a time.
const STEP: u64 = 64 << 10;

struct Jsonl {
    dir: PathBuf,
    shards: Vec<Mutex<Shard>>,
}

/// The agents of one directory.
#[derive(Default)]
struct Shard {
    files: HashMap<u32, Arc<File>>,
    /// Lines that are not written yet.
    buffers: HashMap<u32, Vec<u8>>,
    /// Whose files were written since the last sync.
    unsynced: std::collections::HashSet<u32>,
}

pub(super) fn open(spec: &OpenSpec) -> Res<Box<dyn Engine>> {
    let mut made = false;
    for shard in 0..SHARDS {
        let dir = spec.dir.join(format!("{shard:02}"));
        if !dir.exists() {
            std::fs::create_dir(dir)?;
            made = true;
        }
    }
    if made {
        sync_dir(&spec.dir)?;
    }
    let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
    Ok(Box::new(Jsonl { dir: spec.dir.clone(), shards }))
}

impl Jsonl {
    fn shard(&self, agent: u32) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[(agent % SHARDS) as usize];
        shard.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn dir(&self, agent: u32) -> PathBuf {
        self.dir.join(format!("{:02}", agent % SHARDS))
    }

    fn path(&self, agent: u32) -> PathBuf {
        self.dir(agent).join(format!("{agent:08}.jsonl"))
    }

    /// The agent's file, opened or made. A made one is in its directory for good.
    fn file(&self, shard: &mut Shard, agent: u32) -> Res<Arc<File>> {
        if let Some(file) = shard.files.get(&agent) {
            return Ok(Arc::clone(file));
        }
        let path = self.path(agent);
        let made = !path.exists();
        let file = Arc::new(OpenOptions::new().read(true).append(true).create(true).open(path)?);
        if made {
            sync_dir(&self.dir(agent))?;
        }
        if shard.files.len() >= OPEN
            && let Some(other) = shard.files.keys().next().copied()
        {
            shard.files.remove(&other);
        }
        shard.files.insert(agent, Arc::clone(&file));
        Ok(file)
    }

    /// Writes what is buffered of an agent.
    fn write_out(&self, shard: &mut Shard, agent: u32) -> Res<()> {
        if let Some(buffer) = shard.buffers.remove(&agent)
            && !buffer.is_empty()
        {
            (&*self.file(shard, agent)?).write_all(&buffer)?;
            shard.unsynced.insert(agent);
        }
        Ok(())
    }

    /// The agent's file for a reader, with everything in it; none if there is none.
    fn reader(&self, agent: u32) -> Res<Option<Arc<File>>> {
        let mut shard = self.shard(agent);
        self.write_out(&mut shard, agent)?;
        if !shard.files.contains_key(&agent) && !self.path(agent).exists() {
            return Ok(None);
        }
        Ok(Some(self.file(&mut shard, agent)?))
    }
}

/// The end of the file from the line on that has so many lines behind it, itself among them.
fn tail(file: &File, lines: u64) -> Res<Vec<u8>> {
    let (mut end, mut found, mut bytes) = (file.metadata()?.len(), 0, vec![]);
    let mut skip = true;
    while end > 0 {
        let step = STEP.min(end);
        let mut piece = vec![0; step as usize];
        file.read_exact_at(&mut piece, end - step)?;
        for at in memchr::memrchr_iter(b'\n', &piece) {
            // The file's last newline ends a line and begins none.
            found += u64::from(!std::mem::take(&mut skip));
            if found == lines {
                piece.drain(..=at);
                piece.append(&mut bytes);
                return Ok(piece);
            }
        }
        piece.append(&mut bytes);
        bytes = piece;
        end -= step;
    }
    Ok(bytes)
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    memchr::memchr_iter(b'\n', bytes).map(move |at| {
        let line = &bytes[from..=at];
        from = at + 1;
        line
    })
}

impl Engine for Jsonl {
    fn append(&self, agent: u32, seq: u64, turn: &[u8], durable: bool) -> Res<()> {
        let mut line = Vec::with_capacity(turn.len() + 64);
        let content = Cow::Borrowed(std::str::from_utf8(turn)?);
        serde_json::to_writer(&mut line, &Line { seq, content })?;
        line.push(b'\n');
        let mut shard = self.shard(agent);
        if durable {
            self.write_out(&mut shard, agent)?;
            let file = self.file(&mut shard, agent)?;
            drop(shard);
            (&*file).write_all(&line)?;
            return Ok(file.sync_data()?);
        }
        let buffer = shard.buffers.entry(agent).or_default();
        buffer.append(&mut line);
        if buffer.len() >= BUFFER {
            self.write_out(&mut shard, agent)?;
        }
        Ok(())
    }

    fn load_last(&self, agent: u32, n: u64, visit: Visit<'_>) -> Res<()> {
        let Some(file) = self.reader(agent)? else { return Ok(()) };
        let bytes = tail(&file, n)?;
        for line in lines(&bytes) {
            let line: Line<'_> = serde_json::from_slice(line)?;
            visit(line.seq, line.content.as_bytes());
        }
        Ok(())
    }

    fn get(&self, agent: u32, seq: u64, visit: Visit<'_>) -> Res<bool> {
        let Some(file) = self.reader(agent)? else { return Ok(false) };
        let bytes = tail(&file, u64::MAX)?;
        // The first line tells which one it is: seqs are dense.
        let Some(first) = lines(&bytes).next() else { return Ok(false) };
        let first: Line<'_> = serde_json::from_slice(first)?;
        let Some(skip) = seq.checked_sub(first.seq) else { return Ok(false) };
        let Some(line) = lines(&bytes).nth(skip as usize) else { return Ok(false) };
        let line: Line<'_> = serde_json::from_slice(line)?;
        visit(line.seq, line.content.as_bytes());
        Ok(line.seq == seq)
    }

    fn truncate(&self, agent: u32, from: u64, before: u64) -> Res<()> {
        let Some(file) = self.reader(agent)? else { return Ok(()) };
        let mut shard = self.shard(agent);
        let bytes = tail(&file, u64::MAX)?;
        let cut = lines(&bytes).take((before - from) as usize).map(<[u8]>::len).sum::<usize>();
        let new = self.path(agent).with_extension("new");
        std::fs::write(&new, &bytes[cut..])?;
        // Unsynced contents may be under the name after a crash of the system, or the old ones.
        std::fs::rename(new, self.path(agent))?;
        shard.files.remove(&agent);
        shard.unsynced.insert(agent);
        Ok(())
    }

    fn sync(&self) -> Res<()> {
        for number in 0..SHARDS {
            let mut shard = self.shard(number);
            let buffered: Vec<u32> = shard.buffers.keys().copied().collect();
            for agent in buffered {
                self.write_out(&mut shard, agent)?;
            }
            for agent in std::mem::take(&mut shard.unsynced) {
                self.file(&mut shard, agent)?.sync_all()?;
            }
            sync_dir(&self.dir(number))?;
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Res<()> {
        self.sync()
    }
}

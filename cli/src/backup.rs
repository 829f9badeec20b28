//! `memlog backup` and `restore`.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use memlog::ErrorKind;
use serde::Serialize;

use crate::args::{BackupArgs, Globals, RestoreArgs};
use crate::beside::{Beside, parent};
use crate::failure::{Failure, code};
use crate::manage::{DamageRow, check, damage_found, extent, list_damage};
use crate::open::{Access, open};
use crate::output::{self, escape_line, plural};

/// Bytes copied at a time.
const PIECE: usize = 1 << 20;
/// How a manifest begins.
const MAGIC: &[u8; 8] = b"memlogMF";

pub(crate) fn backup(globals: &Globals, args: &BackupArgs) -> Result<(), Failure> {
    let store = open(globals, Access::Change)?;
    let bar = output::spinner("backing up");
    let made = store.backup(&args.dir);
    bar.finish_and_clear();
    let lsn = made
        .map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => Failure::from(error),
            _ => Failure::from(error).hint(format!(
                "what is in {} now is no backup: the next backup into it removes it",
                args.dir.display()
            )),
        })?
        .0;
    store.close()?;
    let dir = args.dir.display().to_string();
    if globals.json {
        return output::json_answer(&serde_json::json!({ "backup": dir, "lsn": lsn }));
    }
    output::text_answer(&format!(
        "backed up into {}: everything before lsn {lsn}\n",
        escape_line(&dir)
    ))
}

#[derive(Serialize)]
struct RestoreRow {
    restored: String,
    files: u64,
    bytes: u64,
    next_lsn: u64,
    damage: Vec<DamageRow>,
}

pub(crate) fn restore(globals: &Globals, args: &RestoreArgs) -> Result<(), Failure> {
    let source = Source::open(&args.from)?;
    check_target(&args.to)?;
    let bar = output::bytes_bar(Some(source.bytes), "restoring");
    let copied = source.copy_to(&args.to, globals.mode, &bar);
    bar.finish_and_clear();
    copied?;
    let found = check(&args.to, false).map_err(|failure| {
        failure.within(&format!("restored into {}, but it does not open", args.to.display()))
    })?;
    let row = RestoreRow {
        restored: args.to.display().to_string(),
        files: output::len(&source.files),
        bytes: source.bytes,
        next_lsn: found.stats.next_lsn.0,
        damage: DamageRow::all(&found.damage),
    };
    if globals.json {
        output::json_answer(&row)?;
    } else {
        let mut text = format!(
            "restored {} of {} into {}\n",
            output::bytes(row.bytes),
            plural(row.files, "file", "files"),
            escape_line(&row.restored),
        );
        if found.damage.is_empty() {
            text.push_str(&format!("no damage: {}\n", extent(&found.stats)));
        } else {
            text.push_str(&list_damage(&found.damage));
        }
        output::text_answer(&text)?;
    }
    damage_found(&found.damage)
}

/// A backup that is being read.
struct Source {
    files: Vec<PathBuf>,
    bytes: u64,
    /// Held until the copy is made, if there is one.
    _lock: Option<File>,
}

impl Source {
    fn open(dir: &Path) -> Result<Source, Failure> {
        if !dir.exists() {
            return Err(no_backup(dir, "there is no such directory"));
        }
        if !has_manifest(dir)? {
            return Err(no_backup(dir, "it has no manifest of memlog"));
        }
        let lock = lock(dir)?;
        let (mut files, mut bytes) = (Vec::new(), 0);
        let listed = fs::read_dir(dir).map_err(|error| Failure::io("list", dir, &error))?;
        for item in listed {
            let item = item.map_err(|error| Failure::io("list", dir, &error))?;
            let path = item.path();
            if !item.file_name().to_str().is_some_and(is_of_a_store) {
                continue;
            }
            let meta = fs::metadata(&path).map_err(|error| Failure::io("read", &path, &error))?;
            if meta.is_file() {
                bytes += meta.len();
                files.push(path);
            }
        }
        files.sort();
        Ok(Source { files, bytes, _lock: lock })
    }

    /// Copies beside `to` first, so that it is there whole or not at all.
    fn copy_to(&self, to: &Path, mode: u32, bar: &ProgressBar) -> Result<(), Failure> {
        let beside = Beside::new(to, mode)?;
        for file in &self.files {
            let Some(name) = file.file_name() else { continue };
            let copy = beside.path().join(name);
            copy_file(file, &copy, mode, bar).map_err(|error| match error {
                Copying::Read(error) => Failure::io("read", file, &error),
                Copying::Write(error) => Failure::io("write", &copy, &error),
            })?;
        }
        sync_dir(beside.path())?;
        beside.become_target(to)?;
        sync_dir(parent(to))
    }
}

fn no_backup(dir: &Path, why: &str) -> Failure {
    Failure::new(code::NOT_A_STORE, format!("{} is no backup: {why}", dir.display()))
        .hint("name a directory that `memlog backup` has made")
}

/// Whether there is a manifest that begins as ours do.
fn has_manifest(dir: &Path) -> Result<bool, Failure> {
    let path = dir.join("MANIFEST");
    let mut begins = [0; MAGIC.len()];
    match File::open(&path).and_then(|mut file| file.read_exact(&mut begins)) {
        Ok(()) => Ok(begins == *MAGIC),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::UnexpectedEof => Ok(false),
            _ => Err(Failure::io("read", &path, &error)),
        },
    }
}

/// The manifest, and segments: sixteen digits of base 16, and `log` or `run`.
pub(crate) fn is_of_a_store(name: &str) -> bool {
    if name == "MANIFEST" {
        return true;
    }
    let Some((id, "log" | "run")) = name.split_once('.') else { return false };
    id.len() == 16 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Keeps writers out while the source is read. One that was never opened has nothing to lock, and a
/// file system without locks cannot tell.
fn lock(dir: &Path) -> Result<Option<File>, Failure> {
    let Ok(file) = File::open(dir.join("LOCK")) else { return Ok(None) };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::new(code::IN_USE, format!("another process has {} open", dir.display()))
                .hint("stop that process, or make a backup of the store and restore that"))
        }
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

pub(crate) fn check_target(dir: &Path) -> Result<(), Failure> {
    let message = match fs::read_dir(dir).map(|mut names| names.next().is_none()) {
        Ok(true) => return Ok(()),
        Ok(false) => format!("{} is not empty", dir.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            format!("{} is no directory", dir.display())
        }
        Err(error) => return Err(Failure::io("list", dir, &error)),
    };
    Err(Failure::usage(message).hint("name a directory that does not exist yet"))
}

/// Which side of a copy failed.
enum Copying {
    Read(io::Error),
    Write(io::Error),
}

fn copy_file(from: &Path, to: &Path, mode: u32, bar: &ProgressBar) -> Result<(), Copying> {
    let mut source = File::open(from).map_err(Copying::Read)?;
    let meta = source.metadata().map_err(Copying::Read)?;
    // Room that the store has given back stays given back; room that it has reserved stays so.
    let sparse = meta.blocks().saturating_mul(512) < meta.len();
    let mut new = File::options();
    let mut copy = new.write(true).create_new(true).mode(mode).open(to).map_err(Copying::Write)?;
    let mut piece = vec![0; PIECE];
    let mut copied = 0;
    loop {
        let read = match source.read(&mut piece) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Copying::Read(error)),
        };
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        put(&mut copy, bytes, sparse).map_err(Copying::Write)?;
        copied += output::len(bytes);
        bar.inc(output::len(bytes));
    }
    copy.set_len(copied).map_err(Copying::Write)?;
    copy.sync_all().map_err(Copying::Write)
}

/// Writes bytes, or leaves a hole where a block is all zeros.
fn put(copy: &mut File, bytes: &[u8], sparse: bool) -> io::Result<()> {
    const BLOCK: usize = 4096;
    if !sparse {
        return copy.write_all(bytes);
    }
    for run in bytes.chunks(BLOCK) {
        if run.iter().all(|byte| *byte == 0) {
            let len = i64::try_from(run.len()).unwrap_or(0);
            copy.seek(SeekFrom::Current(len))?;
        } else {
            copy.write_all(run)?;
        }
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> Result<(), Failure> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Failure::io("take to stable storage", dir, &error))
}

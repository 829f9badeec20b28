//! Running the command in tests.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory of its own with a store that is not there yet.
pub struct Place {
    dir: tempfile::TempDir,
}

/// What a run of the command gave.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Place {
    pub fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn command(&self, store: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_memlog"));
        command.env_remove("MEMLOG_STORE").arg("--store").arg(store);
        command
    }

    /// Runs the command on the store of this place.
    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_os(&args.iter().map(OsStr::new).collect::<Vec<_>>())
    }

    pub fn run_os(&self, args: &[&OsStr]) -> Ran {
        ran(self.command(&self.store()).args(args).stdin(Stdio::null()).output().unwrap())
    }

    pub fn run_on(&self, store: &Path, args: &[&str]) -> Ran {
        ran(self.command(store).args(args).stdin(Stdio::null()).output().unwrap())
    }

    /// Runs the command without naming a store.
    pub fn run_without_store(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_memlog"));
        command.env_remove("MEMLOG_STORE").current_dir(self.dir.path());
        ran(command.args(args).stdin(Stdio::null()).output().unwrap())
    }

    /// The same, which must succeed.
    #[track_caller]
    pub fn without_store(&self, args: &[&str]) -> String {
        let ran = self.run_without_store(args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran.out
    }

    pub fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self
            .command(&self.store())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        ran(child.wait_with_output().unwrap())
    }

    /// Runs the command, which must succeed, and gives what it printed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran.out
    }

    /// Imports lines, which must succeed.
    #[track_caller]
    pub fn import(&self, lines: &str) {
        let ran = self.run_with(&["import", "-"], lines.as_bytes());
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().expect("not killed"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

//! What other processes may do to a store that one has open: open it too, be forks of the one that
//! writes, cut its files or remove them. Each outcome is the documented one.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memlog::{CompactOutcome, Durability, ErrorKind, NewEntry, Options, Store};

use crate::linux::fork::fork;
use crate::linux::writer::options;

#[derive(clap::Args, Clone, Debug)]
pub struct ProcessArgs {
    /// Where the stores are made. Default: the directory for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// A process with the store open that does what it is told, line by line.
#[derive(clap::Args, Clone, Debug)]
pub struct HolderArgs {
    #[arg(long)]
    dir: PathBuf,
    /// No file is merged with others.
    #[arg(long)]
    manual: bool,
}

type Check = fn(&Path);

const CHECKS: &[(&str, Check)] = &[
    ("a second process is told that the store is in use", second_process),
    ("another handle in the same process is told so too", second_handle),
    ("a killed holder leaves no lock behind", killed_holder),
    ("a fork changes nothing of the store", forks_that_write),
    ("a fork that closes the store, or just ends, changes nothing of it", forks_that_close),
    ("a fork does not wait for what its parent maintains", forks_in_maintenance),
    ("a fork that lives on keeps the lock of a holder that was killed", fork_outlives),
    ("a file that was cut under its map ends the process; the store says so then", cut_file),
    ("a file that was removed is read on, and missed at the next opening", removed_file),
    ("a directory that was removed is written on, for nobody", removed_directory),
];

pub fn run(args: &ProcessArgs) -> bool {
    let place = crate::linux::place(args.dir.as_deref());
    for (at, (name, check)) in CHECKS.iter().enumerate() {
        let dir = place.path().join(at.to_string());
        fs::create_dir(&dir).unwrap();
        print!("{name} ... ");
        std::io::stdout().flush().unwrap();
        check(&dir.join("store"));
        println!("ok");
    }
    true
}

/// Agents, entries of each, and the bytes of one.
const AGENTS: u64 = 40;
const ENTRIES: u64 = 25;
const BYTES: usize = 4000;

fn payload(agent: u64, seq: u64) -> Vec<u8> {
    crate::linux::rng::fill(agent * 1000 + seq, BYTES)
}

/// A store with several sealed segments, each entry acknowledged at `Sync`.
fn make(dir: &Path) {
    let store = options(false).open(dir).unwrap();
    for seq in 1..=ENTRIES {
        let mut batch = store.batch();
        for agent in 0..AGENTS {
            let handle = store.agent(&agent.to_string()).unwrap();
            batch.append(&handle, NewEntry::new(memlog::Kind::USER, &payload(agent, seq)));
        }
        batch.commit().unwrap();
    }
    store.close().unwrap();
}

/// All entries that `make` appended are there, and after them as many more.
fn assert_whole(store: &Store, more: u64) {
    assert_eq!(store.verify().unwrap(), []);
    for agent in 0..AGENTS {
        let view = store.agent(&agent.to_string()).unwrap().view().unwrap();
        assert_eq!(view.next_seq(), ENTRIES + 1 + more);
        for entry in view.range(..=ENTRIES) {
            let entry = entry.unwrap();
            assert_eq!(entry.payload(), payload(agent, entry.seq()));
        }
    }
}

fn append_to_all(store: &Store) -> memlog::Result<()> {
    (0..AGENTS).try_for_each(|agent| {
        store.agent(&agent.to_string())?.append(NewEntry::user("more")).map(drop)
    })
}

fn in_use(dir: &Path) {
    let error = options(false).open(dir).expect_err("opened twice");
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    assert!(error.to_string().contains(&*dir.to_string_lossy()), "{error}");
}

fn second_process(dir: &Path) {
    make(dir);
    let mut holder = Holder::start(dir);
    in_use(dir);
    assert!(Options::new().salvage(true).open(dir).is_ok(), "salvage takes no lock");
    assert_eq!(holder.ask("append"), "ok");
    in_use(dir);
    assert_eq!(holder.ask("close"), "ok");
    assert_whole(&options(false).open(dir).unwrap(), 1);
    holder.end();
}

fn second_handle(dir: &Path) {
    make(dir);
    let store = options(false).open(dir).unwrap();
    in_use(dir);
    append_to_all(&store).unwrap();
    store.close().unwrap();
    assert_whole(&options(false).open(dir).unwrap(), 1);
}

fn killed_holder(dir: &Path) {
    make(dir);
    let mut holder = Holder::start(dir);
    assert_eq!(holder.ask("append"), "ok");
    holder.kill();
    assert_whole(&options(false).open(dir).unwrap(), 1);
}

/// What the fork does with a store that its parent has open. The parent goes on all the same.
fn forked(dir: &Path, what: impl Fn(Store)) {
    make(dir);
    // The parent merges no files meanwhile.
    let store = options(true).open(dir).unwrap();
    append_to_all(&store).unwrap();
    let before = contents(dir);
    let copy = store.clone();
    let child = fork(|| what(copy));
    let status = child.wait(Duration::from_secs(60));
    assert_eq!(status, Some(0), "the fork ended with that code, or not at all");
    let after = contents(dir);
    let changed = before.iter().filter(|file| !after.contains(file));
    let changed: Vec<&String> = changed.map(|(name, _)| name).collect();
    assert!(changed.is_empty(), "the fork changed {changed:?}");
    in_use(dir);
    append_to_all(&store).unwrap();
    while store.compact().unwrap() == CompactOutcome::More {}
    assert_whole(&store, 2);
    store.close().unwrap();
    assert_whole(&options(false).open(dir).unwrap(), 2);
}

/// The files that the parent does not change while it writes nothing: all but spares that its
/// upkeep may still fill, which are not listed as anything more than names.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    // The store's own threads have nothing left to do after this.
    std::thread::sleep(Duration::from_millis(300));
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap());
    files.map(|f| (f.file_name().into_string().unwrap(), fs::read(f.path()).unwrap())).collect()
}

fn forks_that_write(dir: &Path) {
    forked(dir, |store| {
        let agent = store.agent("0").unwrap();
        let error = agent.append(NewEntry::user("from a fork")).unwrap_err();
        assert!(crate::linux::writer::is_fitting(&error), "{error}");
        assert!(error.to_string().contains("fork"), "{error}");
        assert!(agent.forget().is_err());
        assert!(store.sync().is_err());
        assert!(store.purge().is_err());
        let elsewhere = std::env::temp_dir().join("memlog-torture-backup-of-a-fork");
        assert!(store.backup(elsewhere).is_err());
        std::mem::forget(store);
    });
}

fn forks_that_close(dir: &Path) {
    let mut at = 0;
    let mut next = || {
        at += 1;
        dir.with_extension(at.to_string())
    };
    forked(&next(), |store| drop(store.close()));
    forked(&next(), drop);
    forked(&next(), |store| {
        let mut batch = store.batch();
        batch.append(&store.agent("0").unwrap(), NewEntry::user("in memory"));
        let _ = batch.durability(Durability::Buffer).commit();
        drop(batch);
        drop(store);
    });
}

/// Calls that wait until nothing else is compacted or erased: in a fork that would be for ever.
fn forks_in_maintenance(dir: &Path) {
    make(dir);
    let store = options(false).open(dir).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                store.purge().unwrap();
            }
        });
        let outcomes: Vec<Option<i32>> = (0..20)
            .map(|_| {
                let child = fork(|| {
                    assert!(store.purge().is_err());
                    assert!(store.compact().is_err());
                    assert!(store.backup(dir.with_extension("backup")).is_err());
                });
                child.wait(Duration::from_secs(10))
            })
            .collect();
        ended.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(|outcome| *outcome == Some(0)), "{outcomes:?}");
    });
    assert_whole(&store, 0);
}

fn fork_outlives(dir: &Path) {
    make(dir);
    let mut holder = Holder::start(dir);
    let fork: i32 = holder.ask("fork").parse().unwrap();
    holder.kill();
    in_use(dir);
    let fork = rustix::process::Pid::from_raw(fork).unwrap();
    rustix::process::kill_process(fork, rustix::process::Signal::KILL).unwrap();
    let most = Instant::now() + Duration::from_secs(60);
    while options(false).open(dir).is_err() {
        assert!(Instant::now() < most, "the lock stays");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_whole(&options(false).open(dir).unwrap(), 0);
}

/// The largest segment file, which is sealed.
fn sealed(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let segments = files.filter(|path| path.extension().is_some_and(|e| e == "log" || e == "run"));
    segments.min().expect("no segment file")
}

fn cut_file(dir: &Path) {
    make(dir);
    let path = sealed(dir);
    let mut holder = Holder::start_manual(dir);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let status = holder.ends_at("read");
    assert_eq!(status.signal(), Some(7), "SIGBUS, and not {status}");
    damaged(dir, &path);
}

fn removed_file(dir: &Path) {
    make(dir);
    let path = sealed(dir);
    let mut holder = Holder::start_manual(dir);
    fs::remove_file(&path).unwrap();
    assert_eq!(holder.ask("read"), "ok");
    assert_eq!(holder.ask("append"), "ok");
    assert_eq!(holder.ask("read"), "ok");
    holder.kill();
    damaged(dir, &path);
}

/// Opening names the file, and changes nothing; salvage shows the rest.
fn damaged(dir: &Path, path: &Path) {
    let error = options(false).open(dir).expect_err("opened without a file");
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert_eq!(error.damage().unwrap().file, path);
    let store = Options::new().salvage(true).open(dir).unwrap();
    assert!(!store.verify().unwrap().is_empty() || !store.recovery_report().damage.is_empty());
}

fn removed_directory(dir: &Path) {
    make(dir);
    let mut holder = Holder::start(dir);
    fs::remove_dir_all(dir).unwrap();
    assert_eq!(holder.ask("read"), "ok");
    // Files that are open are written on; what needs a new file fails. Either is no panic.
    let _ = holder.ask("append");
    let _ = holder.ask("close");
    holder.end();
    assert!(options(false).create(false).open(dir).is_err());
}

struct Holder {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Holder {
    fn start(dir: &Path) -> Holder {
        Self::start_with(dir, false)
    }

    /// One whose store merges no files.
    fn start_manual(dir: &Path) -> Holder {
        Self::start_with(dir, true)
    }

    fn start_with(dir: &Path, manual: bool) -> Holder {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("holder").arg("--dir").arg(dir);
        if manual {
            command.arg("--manual");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut holder = Holder { child, lines };
        assert_eq!(holder.line(), "open");
        holder
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, what: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{what}").unwrap();
        self.line()
    }

    /// Asks for what ends it.
    fn ends_at(&mut self, what: &str) -> ExitStatus {
        assert_eq!(self.ask(what), "", "it answered");
        self.child.wait().unwrap()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

/// The other side of that.
pub fn hold(args: &HolderArgs) -> bool {
    let store = options(args.manual).open(&args.dir).unwrap();
    println!("open");
    for line in std::io::stdin().lines() {
        let outcome = match line.unwrap().as_str() {
            "append" => append_to_all(&store),
            "read" => read_all(&store),
            "close" => store.close(),
            "fork" => {
                println!("{}", fork(|| std::thread::sleep(Duration::from_secs(60))).id());
                continue;
            }
            other => panic!("{other}?"),
        };
        println!(
            "{}",
            outcome.map_or_else(|error| format!("{:?}", error.kind()), |()| "ok".into())
        );
    }
    true
}

fn read_all(store: &Store) -> memlog::Result<()> {
    for agent in 0..AGENTS {
        let view = store.agent(&agent.to_string())?.view()?;
        for entry in view.range(..=ENTRIES) {
            let entry = entry?;
            assert_eq!(entry.payload(), payload(agent, entry.seq()));
        }
    }
    Ok(())
}

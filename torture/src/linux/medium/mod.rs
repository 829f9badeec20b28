//! Real file systems on a medium that loses power, fails, or is full: the crate as it is, on ext4,
//! XFS and btrfs, with the kernel's own replay of their journals.

mod checker;
mod device;
mod errors;
mod image;
mod points;
mod replica;

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::linux::acks::{Ack, read_all};
use crate::linux::history::History;
use device::{Device, Failing};
use image::Image;

pub use checker::{CheckerArgs, run_checker};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// The power fails at random points, and while that is recovered from
    Power,
    /// Writes, flushes and reads of the medium fail
    Errors,
    /// The file system is full
    Full,
}

#[derive(clap::Args, Clone, Debug)]
pub struct MediumArgs {
    #[arg(long)]
    fs: Kind,
    #[arg(long, default_value = "power")]
    mode: Mode,
    /// Points, or failures, to try.
    #[arg(long, default_value_t = 500)]
    points: u64,
    /// What batches and losses follow from. Default: the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// No workload and no point is begun after so many seconds.
    #[arg(long, default_value_t = 86_400)]
    seconds: u64,
    /// Points tried of each workload.
    #[arg(long, default_value_t = 100)]
    each: u64,
    /// Recoveries at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// How long a workload writes, in milliseconds.
    #[arg(long, default_value_t = 700)]
    millis: u64,
    /// Takes this share, in percent, of the flushes out of the log: the tool has to fail then.
    #[arg(long, default_value_t = 0)]
    lie: u64,
    /// Only these requests fail. Default: by turns.
    #[arg(long)]
    what: Option<Failing>,
    /// Goes on after a failure, and counts them.
    #[arg(long)]
    go_on: bool,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Kind::Ext4 => 96 << 20,
            Kind::Xfs => 320 << 20,
            Kind::Btrfs => 256 << 20,
        }
    }

    fn make(self, device: &Path) -> Result<(), String> {
        let options: &[&str] = match self {
            Kind::Ext4 => &["-q", "-F", "-J", "size=4", "-E", "nodiscard,lazy_itable_init=0"],
            Kind::Xfs => &["-q", "-f", "-K"],
            Kind::Btrfs => &["-q", "-f", "-K"],
        };
        let mut command = Command::new(format!("mkfs.{}", self.name()));
        said(command.args(options).arg(device)).map(drop)
    }

    /// Not more than the default, but what a second image of one file system needs.
    fn options(self) -> &'static str {
        match self {
            Kind::Ext4 => "nodiscard",
            Kind::Xfs => "nouuid,nodiscard",
            Kind::Btrfs => "nodiscard",
        }
    }
}

/// A medium with a file system, the place where it is mounted, and what it was when it was new.
struct Bench {
    kind: Kind,
    device: Device,
    place: tempfile::TempDir,
    new: Image,
}

impl Bench {
    fn new(kind: Kind) -> Result<Bench, String> {
        let place = crate::linux::place(None);
        let device = Device::new(place.path(), kind.bytes())?;
        fs::create_dir(place.path().join("mnt")).unwrap();
        kind.make(&device.path)?;
        let new = device.medium().image.clone();
        Ok(Bench { kind, device, place, new })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("mnt/store")
    }

    fn mount(&self) -> Result<Mounted, String> {
        Mounted::new(self.kind, &self.device.path, self.path("mnt"))
    }

    /// A workload on what is mounted; gives how the writer ended, what it told, what it said.
    fn write(&self, seed: u64, millis: u64, trail: bool) -> (ExitStatus, Vec<Ack>, String) {
        let history = History::new(seed, 3);
        history.write(&self.path("history"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("writer").arg("--dir").arg(self.store());
        command.arg("--history").arg(self.path("history")).args(["--round", "1"]);
        command.arg("--stamps").arg(self.path("stamps"));
        command.arg("--millis").arg(millis.to_string());
        if trail {
            command.arg("--trail").arg(self.path("trail"));
        }
        let errors = File::create(self.path("errors")).unwrap();
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let mut acks = Vec::new();
        read_all(child.stdout.take().unwrap(), |ack| acks.push(ack));
        let status = child.wait().unwrap();
        (status, acks, fs::read_to_string(self.path("errors")).unwrap())
    }

    /// Has another process open the store and check it.
    fn check(&self, acks: &Path, upto: u64) -> Result<(), String> {
        checker::check(&self.store(), &self.path("history"), acks, upto)
    }
}

/// Unmounts at its end, with patience.
struct Mounted(PathBuf);

impl Mounted {
    fn new(kind: Kind, device: &Path, at: PathBuf) -> Result<Mounted, String> {
        if kind == Kind::Btrfs {
            // It keeps in mind what it saw of that name last, also on another device.
            let _ = said(Command::new("btrfs").args(["device", "scan", "--forget"]));
        }
        let options = CString::new(kind.options()).unwrap();
        mount(device, &at, kind.name(), MountFlags::NOATIME, options.as_c_str())
            .map_err(|e| format!("the file system cannot be mounted: {e}"))?;
        Ok(Mounted(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let most = Instant::now() + Duration::from_secs(20);
        while let Err(error) = unmount(&self.0, UnmountFlags::empty()) {
            if Instant::now() > most {
                let _ = unmount(&self.0, UnmountFlags::DETACH);
                println!("unmounted late: {error}");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The last that the kernel has said, for who wonders why something cannot be mounted.
fn kernel_said() -> String {
    let all = said(&mut Command::new("dmesg")).unwrap_or_default();
    let lines: Vec<&str> = all.lines().collect();
    lines[lines.len().saturating_sub(6)..].join("\n")
}

/// Runs a command; gives what it said, or that it failed.
fn said(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.stdin(Stdio::null()).output().map_err(|e| format!("{program}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if out.status.success() {
        return Ok(text(&out.stdout));
    }
    Err(format!("{}: {}{}", out.status, text(&out.stdout), text(&out.stderr)))
}

pub fn run(args: &MediumArgs) -> bool {
    let seed = args.seed.unwrap_or_else(crate::linux::seed_of_the_clock);
    let outcome = Bench::new(args.fs).and_then(|bench| match args.mode {
        Mode::Power => points::run(&bench, args, seed),
        Mode::Errors => errors::run(&bench, args, seed),
        Mode::Full => errors::run_full(&bench, args, seed),
    });
    match outcome {
        Ok(()) => true,
        Err(reason) => {
            println!("FAILED on {}, seed {seed}: {reason}", args.fs.name());
            false
        }
    }
}

//! Building the copy, and running its tests with a fault switched on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Result;
use crate::fault::Fault;
use crate::layers::{LAYERS, Layer};

/// What the layers made of a fault.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Survived,
    /// By these, the first of them first.
    Seen(Vec<Seen>),
}

/// What saw a fault.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) layer: &'static str,
    pub(crate) test: String,
    pub(crate) seconds: f64,
}

/// Which layers are run against a fault.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Breadth {
    /// Those that are expected to see it, to the first that does.
    Expected,
    /// The others too, to the first that does.
    First,
    All,
}

/// How a run of a layer ended.
enum End {
    Passed,
    Failed(String),
    /// It was neither done in time nor had it failed.
    Hung,
    /// The process ended before its tests did.
    Died(String),
}

pub(crate) struct Runner {
    work: PathBuf,
    tree: PathBuf,
    binaries: BTreeMap<&'static str, PathBuf>,
    /// Layers that pass without a fault.
    sound: BTreeSet<&'static str>,
}

impl Runner {
    pub(crate) fn new(work: &Path) -> Self {
        Runner {
            work: work.to_owned(),
            tree: work.join("tree"),
            binaries: BTreeMap::new(),
            sound: BTreeSet::new(),
        }
    }

    /// Builds the tests of a layer, without what takes long and gains little; once.
    fn binary(&mut self, layer: &'static Layer) -> Result<PathBuf> {
        if let Some(path) = self.binaries.get(layer.build()) {
            return Ok(path.clone());
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.tree).args(["test", "--no-run", "--message-format=json"]);
        command.args(["--profile", "planted", "-p", layer.package]);
        for line in ["inherits=\"release\"", "opt-level=2", "debug=0", "incremental=true"] {
            command.args(["--config", &format!("profile.planted.{line}")]);
        }
        if layer.package == "memlog" {
            command.args(["--features", "sim"]);
        }
        match layer.target {
            "lib" => command.arg("--lib"),
            name => command.args(["--test", name]),
        };
        let command = command.env(
            "CARGO_TARGET_DIR",
            self.work.join(if layer.cfg.is_empty() { "built" } else { layer.name }),
        );
        let command =
            command.env("RUSTFLAGS", format!("-Awarnings {}", layer.cfg)).stderr(Stdio::inherit());
        let out = command.output().map_err(|e| format!("cargo: {e}"))?;
        let mut found = None;
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let text = |at: &str| value.pointer(at).and_then(|found| found.as_str());
            if let Some(rendered) = text("/message/rendered") {
                eprint!("{rendered}");
            }
            let is_test = text("/target/name") == Some(layer.target)
                || (layer.target == "lib" && text("/target/kind/0") == Some("lib"));
            if let Some(path) = text("/executable").filter(|_| is_test) {
                found = Some(PathBuf::from(path));
            }
        }
        let wrong = "the tests do not build: a fault that does not compile is none";
        let path = found.filter(|_| out.status.success()).ok_or(wrong)?;
        self.binaries.insert(layer.build(), path.clone());
        Ok(path)
    }

    /// Runs the layers against a fault: those that are expected to see it, then the others, to the
    /// first that does, or through all of them.
    pub(crate) fn fault(&mut self, fault: &Fault, breadth: Breadth) -> Result<Outcome> {
        let expected = fault.expected.iter().map(|e| (e.layer, e.filter.as_str()));
        let others = LAYERS.iter().filter(|_| breadth != Breadth::Expected);
        let mut seen = Vec::new();
        let mut done = BTreeSet::new();
        for (layer, filter) in expected.chain(others.map(|layer| (layer, ""))) {
            if done.contains(layer.name) {
                continue;
            }
            self.binary(layer)?;
            let started = Instant::now();
            let test = match self.run(layer, filter, Some(&fault.id))? {
                End::Passed => continue,
                End::Failed(test) => test,
                End::Hung => "(it hangs)".to_owned(),
                End::Died(how) => format!("({how})"),
            };
            let seconds = started.elapsed().as_secs_f64();
            self.check(layer)?;
            done.insert(layer.name);
            seen.push(Seen { layer: layer.name, test, seconds });
            if breadth != Breadth::All {
                break;
            }
        }
        Ok(if seen.is_empty() { Outcome::Survived } else { Outcome::Seen(seen) })
    }

    /// A layer that fails anyway sees nothing.
    fn check(&mut self, layer: &'static Layer) -> Result<()> {
        if self.sound.contains(layer.name) {
            return Ok(());
        }
        match self.run(layer, "", None)? {
            End::Passed => {
                self.sound.insert(layer.name);
                Ok(())
            }
            End::Failed(test) => Err(format!("{}: {test} fails without a fault", layer.name)),
            End::Hung | End::Died(_) => Err(format!("{} fails without a fault", layer.name)),
        }
    }

    /// Runs a layer up to its first failure.
    fn run(&mut self, layer: &'static Layer, filter: &str, fault: Option<&str>) -> Result<End> {
        let name = format!("{}-{}.txt", fault.unwrap_or("none"), layer.name);
        let (told, scratch) = (
            self.work.join("told").join(name),
            self.work.join(format!("scratch-{}", std::process::id())),
        );
        let binary = self.binary(layer)?;
        let filter = if filter.is_empty() { layer.filter } else { filter };
        let _ = fs::remove_dir_all(&scratch);
        let made = [&scratch, &self.work.join("told")].map(fs::create_dir_all);
        made.into_iter().collect::<std::io::Result<()>>().map_err(|e| e.to_string())?;
        let file = File::create(&told).map_err(|e| format!("{}: {e}", told.display()))?;
        let stderr = file.try_clone().map_err(|e| e.to_string())?;
        let folder = match layer.package {
            "memlog-torture" => self.tree.join("torture"),
            _ => self.tree.clone(),
        };
        let mut command = Command::new(&binary);
        command.args(["--nocapture", filter].iter().filter(|arg| !arg.is_empty()));
        command.current_dir(folder).env("TMPDIR", &scratch);
        command.envs(layer.env.iter().copied());
        if let Some(id) = fault {
            command.env("MEMLOG_PLANTED", id);
        }
        command.stdin(Stdio::null()).stdout(file).stderr(stderr).process_group(0);
        let child = command.spawn().map_err(|e| format!("{}: {e}", binary.display()))?;
        let end = watch(child, &told, Duration::from_secs(layer.patience));
        let _ = fs::remove_dir_all(&scratch);
        end
    }
}

/// Waits until the tests are over, or one of them has failed, or patience is at its end. Time in
/// which this process was stopped itself is not counted.
fn watch(mut child: Child, told: &Path, patience: Duration) -> Result<End> {
    const LOOK: Duration = Duration::from_millis(50);
    let mut waited = Duration::ZERO;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let end = loop {
        let looked = Instant::now();
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            break match failed(told) {
                Some(test) => End::Failed(test),
                None if status.success() => End::Passed,
                None => End::Died(format!("it ends with {status}")),
            };
        }
        if let Some(test) = failed(told) {
            break End::Failed(test);
        }
        if waited > patience {
            break End::Hung;
        }
        thread::sleep(LOOK);
        waited += looked.elapsed().min(LOOK * 2);
    };
    if let Some(group) = group {
        // Whatever it has started goes with it.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
    Ok(end)
}

/// The first test that has failed so far.
fn failed(told: &Path) -> Option<String> {
    let lines = BufReader::new(File::open(told).ok()?).lines().map_while(std::io::Result::ok);
    let mut name = None;
    for line in lines {
        if let Some((_, rest)) = line.split_once("test ")
            && let Some((test, _)) = rest.split_once(" ... ")
        {
            name = Some(test.trim_end_matches(" - should panic").to_owned());
        }
        // What tests say themselves may stand between a name and its outcome.
        if line.trim_end() == "FAILED" || line.trim_end().ends_with(" ... FAILED") {
            return name;
        }
    }
    None
}

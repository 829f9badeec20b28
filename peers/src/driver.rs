//! Has each measurement done by a process of its own, interleaved, with the disk's own flush
//! measured before and after.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::disk::{self, Probe};
use crate::engine::{Name, OpenSpec};
use crate::load::LoadSpec;
use crate::results::{self, Line, Measured, Run};
use crate::workload::{Figures, Job, Kind, Work};
use crate::{Res, RunArgs};

pub fn run(args: &RunArgs) -> Res<()> {
    std::fs::create_dir_all(&args.dir)?;
    let driver = Driver { args, dir: args.dir.canonicalize()? };
    driver.prepare_all()?;
    if args.prepare {
        return Ok(());
    }
    let run = Run { machine: machine(&driver.dir), sizes: driver.sizes() };
    results::add(&args.results, &Line::Run(run))?;
    let probe = Probe::new(&driver.dir)?;
    for repetition in 0..args.repetitions {
        for (name, kind, work) in driver.works() {
            for engine in &args.engines {
                driver.measure(&probe, *engine, kind, &name, &work, repetition)?;
            }
        }
    }
    Ok(())
}

struct Driver<'a> {
    args: &'a RunArgs,
    dir: PathBuf,
}

impl Driver<'_> {
    /// Each workload in each of its variants, with the name that it has in tables.
    fn works(&self) -> Vec<(String, Kind, Work)> {
        let args = self.args;
        let seconds = args.seconds;
        let mut works = vec![];
        for kind in &args.workloads {
            let mut add = |name: String, work| works.push((name, *kind, work));
            match kind {
                Kind::AppendBuffer => [1, 4].into_iter().for_each(|threads| {
                    let work = Work::AppendBuffer { threads, turns: args.appends };
                    add(format!("append-buffer/{threads}"), work);
                }),
                Kind::AppendSync => args.threads.iter().for_each(|threads| {
                    let work = Work::AppendSync { threads: *threads, seconds };
                    add(format!("append-sync/{threads}"), work);
                }),
                Kind::LoadHot => add("load-hot".into(), Work::LoadHot { loads: args.reads }),
                Kind::LoadCold => {
                    add("load-cold".into(), Work::LoadCold { loads: args.cold_reads });
                }
                Kind::Get => add("get".into(), Work::Get { gets: args.reads }),
                Kind::Open => {
                    add("open-hot".into(), Work::Open { cold: false });
                    add("open-cold".into(), Work::Open { cold: true });
                    add("open-killed".into(), Work::Kill { turns: args.tail });
                }
                Kind::Churn => {
                    add("churn".into(), Work::Churn { keep: args.keep, turns: args.churn });
                }
                Kind::Mixed => [1, 16].into_iter().for_each(|threads| {
                    add(format!("mixed/{threads}"), Work::Mixed { threads, seconds });
                }),
            }
        }
        works
    }

    fn job(&self, engine: Name, dir: &Path, durable: bool, work: Work, salt: u64) -> Job {
        let args = self.args;
        let load = LoadSpec {
            agents: args.agents,
            sizes: args.sizes,
            zipf: args.zipf,
            replay: args.replay.clone(),
            seed: 1,
        };
        let open =
            OpenSpec { dir: dir.to_owned(), agents: args.agents, cache: args.cache << 20, durable };
        Job { engine, load, open, model: dir.with_extension("model"), work, salt }
    }

    /// Fills the stores that are read, those that are not there yet.
    fn prepare_all(&self) -> Res<()> {
        if !self.args.workloads.iter().any(|kind| kind.needs_store()) {
            return Ok(());
        }
        for engine in &self.args.engines {
            if let Err(error) = self.prepare(*engine) {
                eprintln!("{}: cannot be filled: {error}", engine.text());
            }
        }
        Ok(())
    }

    fn prepare(&self, engine: Name) -> Res<()> {
        let dir = self.base(engine);
        let job = self.job(engine, &dir, false, Work::Fill { each: self.args.turns }, 0);
        let stamp = dir.with_extension("stamp");
        let wanted = serde_json::to_string(&job)?;
        if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(());
        }
        let _ = std::fs::remove_dir_all(&dir);
        let start = Instant::now();
        let figures = self.child(&job)?;
        let figure = |name: &str| figures.get(name).copied().unwrap_or(f64::NAN);
        self.child(&Job { work: Work::Verify, ..job })?;
        eprintln!(
            "{}: {} turns, {:.0} MB, filled and verified in {:.1} s, {:.2} bytes of disk for each",
            engine.text(),
            figure("turns"),
            figure("bytes") / 1e6,
            start.elapsed().as_secs_f64(),
            figure("disk_per_byte"),
        );
        Ok(std::fs::write(stamp, wanted)?)
    }

    fn base(&self, engine: Name) -> PathBuf {
        self.dir.join(format!("base-{engine:?}").to_lowercase())
    }

    fn measure(
        &self,
        probe: &Probe,
        engine: Name,
        kind: Kind,
        name: &str,
        work: &Work,
        repetition: u32,
    ) -> Res<()> {
        disk::flush_all();
        let before = probe.flush()?;
        let outcome = self.outcome(engine, kind, work, u64::from(repetition) + 1);
        disk::flush_all();
        let after = probe.flush()?;
        let outcome = outcome.map_err(|error| error.to_string());
        let text = match &outcome {
            Ok(figures) => {
                let text = figures.iter().map(|(name, value)| format!(" {name} {value:.1}"));
                text.collect::<String>()
            }
            Err(error) => format!(" failed: {error}"),
        };
        eprintln!("{name}, {}: flush {before:.0}/{after:.0},{text}", engine.text());
        let measured =
            Measured { engine, work: name.to_owned(), flush_us: [before, after], outcome };
        results::add(&self.args.results, &Line::Measured(measured))
    }

    fn outcome(&self, engine: Name, kind: Kind, work: &Work, salt: u64) -> Res<Figures> {
        let base = self.base(engine);
        if kind.needs_store() && !base.with_extension("stamp").exists() {
            return Err("there is no filled store".into());
        }
        let durable = matches!(kind, Kind::AppendSync | Kind::Mixed);
        let own = self.dir.join(format!("work-{engine:?}").to_lowercase());
        let killed = matches!(work, Work::Kill { .. });
        let in_base = kind.needs_store() && kind != Kind::Mixed && !killed;
        let dir = if in_base { &base } else { &own };
        let job = self.job(engine, dir, durable, work.clone(), salt);
        if in_base {
            return self.child(&job);
        }
        let _ = std::fs::remove_dir_all(&own);
        if kind.needs_store() {
            disk::copy(&base, &own)?;
            std::fs::copy(base.with_extension("model"), own.with_extension("model"))?;
        }
        let figures = if killed {
            self.killed(&job)
                .and_then(|()| self.child(&Job { work: Work::Open { cold: false }, ..job.clone() }))
        } else {
            self.child(&job)
        };
        let figures = figures.and_then(|mut figures| {
            let verified = self.child(&Job { work: Work::Verify, ..job });
            figures.extend(verified.map_err(|error| format!("contents: {error}"))?);
            Ok(figures)
        });
        let _ = std::fs::remove_dir_all(&own);
        figures
    }

    /// A child that is to kill itself.
    fn killed(&self, job: &Job) -> Res<()> {
        let (status, _, error) = self.spawn(job)?;
        match status.signal() {
            Some(9) => Ok(()),
            _ => Err(format!("{status}: {error}").into()),
        }
    }

    /// A child's figures.
    fn child(&self, job: &Job) -> Res<Figures> {
        let (status, output, error) = self.spawn(job)?;
        if !status.success() {
            return Err(format!("{status}: {}", error.trim()).into());
        }
        let last = output.lines().last().unwrap_or_default();
        Ok(serde_json::from_str(last)?)
    }

    fn spawn(&self, job: &Job) -> Res<(std::process::ExitStatus, String, String)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["child", &serde_json::to_string(job)?])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let deadline = Instant::now() + Duration::from_secs(self.args.limit);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                return Err(format!("not done after {} s", self.args.limit).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let (mut output, mut error) = (String::new(), String::new());
        if let Some(mut pipe) = child.stdout.take() {
            pipe.read_to_string(&mut output)?;
        }
        if let Some(mut pipe) = child.stderr.take() {
            pipe.read_to_string(&mut error)?;
        }
        Ok((status, output, error))
    }

    fn sizes(&self) -> String {
        let args = self.args;
        let what = match &args.replay {
            Some(_) => "turns replayed from a file".to_owned(),
            None => format!("{} agents, Zipf {}, sizes {:?}", args.agents, args.zipf, args.sizes),
        };
        format!(
            "{what}; stores of {} turns an agent; {} buffered appends; durable and mixed {} s; {} hot \
             and {} cold reads; {} turns before the kill; churn of {} turns keeping {}; caches of {} MiB",
            args.turns,
            args.appends,
            args.seconds,
            args.reads,
            args.cold_reads,
            args.tail,
            args.churn,
            args.keep,
            args.cache,
        )
    }
}

/// Processor, memory, kernel and file system, as far as the system tells.
fn machine(dir: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let model = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "?".into());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kib = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let gib = kib.trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / f64::from(1 << 20);
    let kernel = read("/proc/sys/kernel/osrelease");
    let mounts = read("/proc/mounts");
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (at, kind) = (words.next()?, words.next()?);
            dir.starts_with(at).then_some((at.len(), kind))
        })
        .max();
    let fs = mount.map_or("?", |mount| mount.1);
    format!("{model}, {cores} cores, {gib:.0} GiB, Linux {}, {fs}", kernel.trim())
}

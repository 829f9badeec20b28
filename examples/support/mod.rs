//! What the programs that measure compaction share: flags, a table of figures with their bounds,
//! and below it the disk, the writers that are watched, and stores that are filled.
#![allow(dead_code)]

pub(crate) mod bare;
pub(crate) mod disk;
pub(crate) mod fill;
pub(crate) mod watch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use memlog::{CompactOutcome, Store};
use tempfile::TempDir;

use crate::common::{parse_size, workdir};

/// The flags of a program: `--name value`, or `--name` alone for a switch.
pub(crate) struct Args(HashMap<String, String>);

impl Args {
    /// Reads the command line; ends the program if it is wrong.
    pub(crate) fn read(values: &[&str], switches: &[&str]) -> Args {
        let mut given = HashMap::new();
        let mut args = std::env::args().skip(1);
        while let Some(flag) = args.next() {
            let value = if switches.contains(&flag.as_str()) {
                Some(String::new())
            } else if values.contains(&flag.as_str()) {
                args.next()
            } else {
                refuse(&format!("{flag}: no such flag; see the head of the source"))
            };
            match value {
                Some(value) => drop(given.insert(flag, value)),
                None => refuse(&format!("{flag} needs a value")),
            }
        }
        Args(given)
    }

    /// A number or size, such as `512M`.
    pub(crate) fn size(&self, flag: &str, default: u64) -> u64 {
        self.0.get(flag).map_or(default, |text| {
            parse_size(text).unwrap_or_else(|| refuse(&format!("{flag} {text}: not a number")))
        })
    }

    pub(crate) fn number(&self, flag: &str, default: f64) -> f64 {
        self.0.get(flag).map_or(default, |text| {
            text.parse().unwrap_or_else(|_| refuse(&format!("{flag} {text}: not a number")))
        })
    }

    pub(crate) fn on(&self, switch: &str) -> bool {
        self.0.contains_key(switch)
    }
}

fn refuse(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(2);
}

/// A place for a store on a real disk, which is gone at the end.
pub(crate) struct Place {
    temp: TempDir,
}

impl Place {
    /// In `--dir DIR`, or else where the benchmarks go.
    pub(crate) fn new(args: &Args) -> Place {
        let temp = match args.0.get("--dir") {
            None => workdir(),
            Some(dir) => {
                std::fs::create_dir_all(dir).unwrap();
                tempfile::Builder::new().prefix("memlog-").tempdir_in(dir).unwrap()
            }
        };
        Place { temp }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }
}

/// Figures, and whether each is within its bound.
#[derive(Default)]
pub(crate) struct Table {
    missed: usize,
}

impl Table {
    pub(crate) fn title(&mut self, text: &str) {
        println!("{text}");
    }

    pub(crate) fn row(&mut self, what: &str, value: f64, unit: &str) {
        self.line(what, value, unit, "");
    }

    pub(crate) fn at_most(&mut self, what: &str, value: f64, unit: &str, bound: f64) {
        self.judge(what, value, unit, value <= bound, &format!("at most {bound}"));
    }

    pub(crate) fn below(&mut self, what: &str, value: f64, unit: &str, bound: f64) {
        self.judge(what, value, unit, value < bound, &format!("below {bound}"));
    }

    pub(crate) fn at_least(&mut self, what: &str, value: f64, unit: &str, bound: f64) {
        self.judge(what, value, unit, value >= bound, &format!("at least {bound}"));
    }

    /// Something that is so, or is not.
    pub(crate) fn is_so(&mut self, what: &str, value: f64, unit: &str, so: bool) {
        self.judge(what, value, unit, so, "");
    }

    fn judge(&mut self, what: &str, value: f64, unit: &str, holds: bool, bound: &str) {
        self.missed += usize::from(!holds);
        let unit_of_bound = if bound.is_empty() { "" } else { unit };
        let verdict = if holds { "holds" } else { "misses" };
        let gap = if bound.is_empty() { "" } else { ": " };
        let gap_of_unit = if unit_of_bound.is_empty() { "" } else { " " };
        let text = format!("{bound}{gap_of_unit}{unit_of_bound}{gap}{verdict}");
        self.line(what, value, unit, &text);
    }

    fn line(&mut self, what: &str, value: f64, unit: &str, verdict: &str) {
        let decimals = match value.abs() {
            v if v >= 1000.0 || v == v.trunc() => 0,
            v if v >= 100.0 => 1,
            _ => 2,
        };
        let text = format!("  {what:<52} {value:>12.decimals$} {unit:<9} {verdict}");
        println!("{}", text.trim_end());
    }

    /// The end of the program: 1 if a bound was missed and that was to be checked.
    pub(crate) fn end(&self, args: &Args) -> ExitCode {
        match self.missed {
            0 => println!("all bounds hold"),
            1 => println!("1 bound missed"),
            missed => println!("{missed} bounds missed"),
        }
        if self.missed > 0 && args.on("--check") { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Compacts until nothing is left to compact; gives the time that it took and the calls.
pub(crate) fn compact_all(store: &Store) -> (Duration, u64) {
    let start = Instant::now();
    for calls in 1.. {
        let outcome = store.compact().unwrap();
        if matches!(outcome, CompactOutcome::Done) {
            return (start.elapsed(), calls);
        }
        assert!(matches!(outcome, CompactOutcome::More), "it compacts no further: {outcome:?}");
    }
    unreachable!("the loop has no other end");
}

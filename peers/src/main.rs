//! The same agents' workload on memlog and on its peers, side by side.
//!
//! `run` measures and adds to a file of results; `report` makes tables and plots of it; `all` does
//! both. Each measurement is a process of its own, so that a kill, a cold cache and memory in use
//! are what they seem.

mod child;
mod disk;
mod driver;
mod engine;
mod load;
mod measure;
mod report;
mod results;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::engine::Name;
use crate::load::Sizes;
use crate::workload::Kind;

/// What went wrong, in words.
type Res<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Compares memlog with its peers on the workload of agents.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and add the figures to the file of results
    Run(RunArgs),
    /// Print the tables, and write the plots
    Report(ReportArgs),
    /// Measure everything, print the tables and write the plots
    All {
        #[command(flatten)]
        run: RunArgs,
        #[command(flatten)]
        report: PlotArgs,
    },
    /// One measurement; for this program's own use
    #[command(hide = true)]
    Child { job: String },
}

/// What is measured, and how large.
#[derive(Args)]
pub struct RunArgs {
    /// Engines, separated by commas
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Name::ALL)]
    engines: Vec<Name>,
    /// Workloads, separated by commas
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Kind::ALL)]
    workloads: Vec<Kind>,
    /// How often each is measured, interleaved
    #[arg(long, default_value_t = 3)]
    repetitions: u32,
    /// Directory for stores, on the disk to be measured
    #[arg(long, default_value = "target/stores")]
    dir: PathBuf,
    /// File that the figures are added to
    #[arg(long, default_value = "target/results.jsonl")]
    results: PathBuf,
    /// A tenth of everything, once: some minutes
    #[arg(long)]
    quick: bool,
    /// Only make the stores that loads, gets, openings and the mixed workload need
    #[arg(long)]
    prepare: bool,
    /// Agents
    #[arg(long, default_value_t = 2000)]
    agents: u32,
    /// Turns of each agent in the stores that are read
    #[arg(long, default_value_t = 100)]
    turns: u64,
    /// Turns that are appended without durability
    #[arg(long, default_value_t = 200_000)]
    appends: usize,
    /// Seconds of durable appends, and of the mixed workload
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Loads of the latest 50, and random gets, hot
    #[arg(long, default_value_t = 20_000)]
    reads: usize,
    /// Loads of the latest 50, cold, each of another agent
    #[arg(long, default_value_t = 200)]
    cold_reads: usize,
    /// Turns that are appended before a kill
    #[arg(long, default_value_t = 40_000)]
    tail: usize,
    /// Turns of the churn
    #[arg(long, default_value_t = 400_000)]
    churn: usize,
    /// Turns that the churn keeps of each agent
    #[arg(long, default_value_t = 50)]
    keep: u64,
    /// Threads of durable appends
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 64])]
    threads: Vec<u32>,
    /// Length of turns: `conversation`, or a number of bytes
    #[arg(long, default_value = "conversation")]
    sizes: Sizes,
    /// Exponent of Zipf's law by which agents are busy; 0 is all alike
    #[arg(long, default_value_t = 1.0)]
    zipf: f64,
    /// Take agents and turns from this JSONL file, from its beginning again at its end
    #[arg(long)]
    replay: Option<PathBuf>,
    /// MiB for each engine's own cache, where it has one
    #[arg(long, default_value_t = 256)]
    cache: usize,
    /// Seconds after which a measurement is given up
    #[arg(long, default_value_t = 120)]
    limit: u64,
}

#[derive(Args)]
struct ReportArgs {
    /// File that the figures are taken from
    #[arg(long, default_value = "target/results.jsonl")]
    results: PathBuf,
    #[command(flatten)]
    plots: PlotArgs,
}

#[derive(Args)]
struct PlotArgs {
    /// Directory for the plots
    #[arg(long, default_value = "target/plots")]
    plots: PathBuf,
    /// A Markdown file whose part between the two markers becomes the tables
    #[arg(long)]
    docs: Option<PathBuf>,
}

impl RunArgs {
    /// A tenth of everything, if that was asked for.
    fn shrunk(mut self) -> Self {
        if self.quick {
            self.repetitions = 1;
            self.turns = self.turns.min(60);
            self.agents = (self.agents / 4).max(1);
            self.appends /= 10;
            self.seconds = self.seconds.min(0.5);
            self.reads /= 10;
            self.cold_reads /= 4;
            self.tail /= 10;
            self.churn /= 10;
        }
        self
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => driver::run(&args.shrunk()),
        Command::Report(args) => {
            report::report(&args.results, &args.plots.plots, args.plots.docs.as_deref())
        }
        Command::All { run, report } => {
            let run = run.shrunk();
            driver::run(&run)
                .and_then(|()| report::report(&run.results, &report.plots, report.docs.as_deref()))
        }
        Command::Child { job } => child::main(&job),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

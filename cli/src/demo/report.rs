//! What the demo saw, in figures.

use std::path::Path;
use std::time::Duration;

use memlog::RecoveryReport;
use serde::Serialize;

use super::check::Checked;
use super::source::Source;
use super::{DemoArgs, Written};
use crate::failure::Failure;
use crate::manage::RecoveryRow;
use crate::output::{bytes, count, duration, len, plural};

/// The figures of one run.
#[derive(Serialize)]
pub(crate) struct Report {
    input: String,
    conversations: u64,
    messages: u64,
    threads: u32,
    agents_at_once: u32,
    killed_after_seconds: f64,
    acknowledged_entries: u64,
    acknowledged_batches: u64,
    acknowledged_agents: u64,
    entries_per_second: f64,
    append: Percentiles,
    open_seconds: f64,
    recovery: RecoveryRow,
    checked: Checked,
    load_first: Percentiles,
    load_again: Percentiles,
    disk_bytes: u64,
}

/// Two percentiles in microseconds.
#[derive(Serialize)]
struct Percentiles {
    p50_us: f64,
    p99_us: f64,
}

impl Percentiles {
    fn of(times: &[Duration]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let rank = sorted.len().saturating_sub(1) * percent / 100;
            sorted.get(rank).copied().unwrap_or_default().as_secs_f64() * 1e6
        };
        Percentiles { p50_us: at(50), p99_us: at(99) }
    }

    fn text(&self) -> String {
        let show = |us: f64| duration(Duration::from_secs_f64(us / 1e6));
        format!("p50 {}, p99 {}", show(self.p50_us), show(self.p99_us))
    }
}

impl Report {
    #[expect(clippy::too_many_arguments, reason = "it gathers what every step of the demo saw")]
    pub(super) fn new(
        source: &Source,
        args: &DemoArgs,
        written: &Written,
        opened: Duration,
        recovery: &RecoveryReport,
        checked: Checked,
        first: &[Duration],
        again: &[Duration],
        dir: &Path,
    ) -> Result<Report, Failure> {
        let seconds = written.ran.as_secs_f64();
        Ok(Report {
            input: source.name.clone(),
            conversations: len(&source.conversations),
            messages: source.messages(),
            threads: args.threads.min(args.agents),
            agents_at_once: args.agents,
            killed_after_seconds: seconds,
            acknowledged_entries: written.acks.entries,
            acknowledged_batches: len(&written.acks.latencies),
            acknowledged_agents: u64::try_from(written.acks.last.len()).unwrap_or(u64::MAX),
            entries_per_second: written.acks.entries as f64 / seconds,
            append: Percentiles::of(&written.acks.latencies),
            open_seconds: opened.as_secs_f64(),
            recovery: RecoveryRow::of(recovery),
            checked,
            load_first: Percentiles::of(first),
            load_again: Percentiles::of(again),
            disk_bytes: disk_bytes(dir)
                .map_err(|error| Failure::io("list the files of", dir, &error))?,
        })
    }

    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let seen = &self.checked;
        let lines = [
            format!(
                "wrote      {} from {}",
                plural(self.messages, "message", "messages"),
                crate::output::escape_line(&self.input)
            ) + &format!(
                " ({}), over and over,",
                plural(self.conversations, "conversation", "conversations")
            ),
            format!(
                "           {} and {} at a time, durability sync",
                plural(u64::from(self.threads), "thread", "threads"),
                plural(u64::from(self.agents_at_once), "agent", "agents"),
            ),
            format!(
                "           {} of {} acknowledged, {:.0} entries/s; append {}",
                plural(self.acknowledged_entries, "entry", "entries"),
                plural(self.acknowledged_agents, "agent", "agents"),
                self.entries_per_second,
                self.append.text(),
            ),
            format!("killed     {:.2} s after the first of them", self.killed_after_seconds),
            format!(
                "reopened   in {}: {}",
                duration(Duration::from_secs_f64(self.open_seconds)),
                self.recovery.sentence(),
            ),
            format!(
                "checked    {} acknowledged entries, all there, byte for byte; {} more were there",
                count(self.acknowledged_entries),
                count(seen.entries.saturating_sub(self.acknowledged_entries)),
            ),
            format!(
                "           {} are exact beginnings of their conversations",
                plural(seen.agents, "timeline", "timelines"),
            ),
            format!(
                "           {} of tool calls with results and state, all whole",
                plural(seen.batches, "batch", "batches"),
            ),
            "           verify found no damage, and writing goes on".to_owned(),
            format!(
                "loaded     the latest 50 entries of each agent: {} at first touch",
                self.load_first.text(),
            ),
            format!("           and {} again", self.load_again.text()),
            format!("disk       {}", bytes(self.disk_bytes)),
            "ok         nothing acknowledged was lost, nothing is half there".to_owned(),
        ];
        lines.join("\n") + "\n"
    }
}

/// What the files in a directory take on the disk.
fn disk_bytes(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for item in std::fs::read_dir(dir)? {
        let meta = item?.metadata()?;
        if meta.is_file() {
            sum += meta.blocks() * 512;
        }
    }
    Ok(sum)
}

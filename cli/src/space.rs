//! `memlog stats`, `compact` and `purge`: what the store takes of the disk, and giving it back.

use std::fmt::Write as _;
use std::path::PathBuf;

use indicatif::ProgressBar;
use memlog::{CompactOutcome, ErasureReport, ErrorKind, Stats, Store};
use serde::Serialize;

use crate::args::Globals;
use crate::failure::{Failure, code};
use crate::manage::RecoveryRow;
use crate::open::{Access, open, open_alone};
use crate::output::{self, count, escape_line, plural};

/// So many agents are named one by one; the others are only counted.
const NAMED: usize = 20;

#[derive(Serialize)]
struct StatsRow {
    segments: u64,
    unsealed_segments: u64,
    disk_bytes: u64,
    data_bytes: u64,
    footer_bytes: u64,
    active_bytes: u64,
    sealed_entries: u64,
    live_bytes: u64,
    dead_bytes: u64,
    pinned_bytes: u64,
    compaction_bytes: u64,
    resident_bytes: u64,
    next_lsn: u64,
    incarnation: u64,
    recovery: RecoveryRow,
}

pub(crate) fn stats(globals: &Globals) -> Result<(), Failure> {
    let store = open(globals, Access::Read)?;
    let stats = store.stats();
    let row = StatsRow {
        segments: stats.segments,
        unsealed_segments: stats.unsealed_segments,
        disk_bytes: stats.disk_bytes,
        data_bytes: stats.data_bytes,
        footer_bytes: stats.footer_bytes,
        active_bytes: stats.active_bytes,
        sealed_entries: stats.sealed_entries,
        live_bytes: stats.live_bytes,
        dead_bytes: stats.dead_bytes,
        pinned_bytes: stats.pinned_bytes,
        compaction_bytes: stats.compaction_bytes,
        next_lsn: stats.next_lsn.0,
        resident_bytes: stats.resident_bytes,
        incarnation: store.incarnation(),
        recovery: RecoveryRow::of(store.recovery_report()),
    };
    if globals.json {
        return output::json_answer(&row);
    }
    output::text_answer(&format!(
        "segments     {} sealed, {} not\nfiles        {}\nframes       {} sealed, {} active\n\
         footers      {}\nentries      {} in sealed segments\n\
         content      {} live, {} dead, in sealed segments\n\
         pinned       {} of files that are gone and still held\n\
         compaction   {} written since opening\nin memory    {} (agents in use)\n\
         next lsn     {}\nincarnation  {}\nopening      {}\n",
        count(row.segments),
        count(row.unsealed_segments),
        output::bytes(row.disk_bytes),
        output::bytes(row.data_bytes),
        output::bytes(row.active_bytes),
        output::bytes(row.footer_bytes),
        count(row.sealed_entries),
        output::bytes(row.live_bytes),
        output::bytes(row.dead_bytes),
        output::bytes(row.pinned_bytes),
        output::bytes(row.compaction_bytes),
        output::bytes(row.resident_bytes),
        row.next_lsn,
        row.incarnation,
        row.recovery.sentence(),
    ))
}

#[derive(Serialize)]
struct CompactRow {
    outcome: &'static str,
    need_bytes: Option<u64>,
    free_bytes: Option<u64>,
    disk_bytes_before: u64,
    disk_bytes_after: u64,
    segments_before: u64,
    segments_after: u64,
    compaction_bytes: u64,
    dead_bytes: u64,
}

impl CompactRow {
    fn of(outcome: CompactOutcome, before: &Stats, after: &Stats) -> Self {
        let (outcome, need_bytes, free_bytes) = match outcome {
            CompactOutcome::Done => ("done", None, None),
            CompactOutcome::More => ("more", None, None),
            CompactOutcome::DiskFull { need, free } => ("disk_full", Some(need), Some(free)),
        };
        CompactRow {
            outcome,
            need_bytes,
            free_bytes,
            disk_bytes_before: before.disk_bytes,
            disk_bytes_after: after.disk_bytes,
            segments_before: before.segments,
            segments_after: after.segments,
            compaction_bytes: after.compaction_bytes,
            dead_bytes: after.dead_bytes,
        }
    }

    fn sentence(&self) -> String {
        let verdict = match self.outcome {
            "done" if self.compaction_bytes == 0 && self.segments_before == self.segments_after => {
                "nothing is worth compacting"
            }
            "done" => "compacted",
            _ => "compacted in part",
        };
        format!(
            "{verdict}: {} before, {} after\nsegments     {} before, {} after\n\
             written      {}\ndead         {} left\n",
            output::bytes(self.disk_bytes_before),
            output::bytes(self.disk_bytes_after),
            count(self.segments_before),
            count(self.segments_after),
            output::bytes(self.compaction_bytes),
            output::bytes(self.dead_bytes),
        )
    }
}

pub(crate) fn compact(globals: &Globals) -> Result<(), Failure> {
    // Without threads each call is one step, and there is something to tell between two of them.
    let store = open_alone(globals, Access::Change)?;
    let before = store.stats();
    let bar = output::spinner("compacting");
    let outcome = steps(&store, &bar);
    bar.finish_and_clear();
    let outcome = outcome?;
    store.close()?;
    let row = CompactRow::of(outcome, &before, &store.stats());
    if globals.json {
        output::json_answer(&row)?;
    } else {
        output::text_answer(&row.sentence())?;
    }
    ended(outcome)
}

fn steps(store: &Store, bar: &ProgressBar) -> Result<CompactOutcome, Failure> {
    loop {
        let outcome = store.compact()?;
        if outcome != CompactOutcome::More {
            return Ok(outcome);
        }
        let stats = store.stats();
        bar.set_message(format!(
            "compacting: {} written, {}, {} dead left",
            output::bytes(stats.compaction_bytes),
            plural(stats.segments, "segment", "segments"),
            output::bytes(stats.dead_bytes),
        ));
    }
}

/// The failure that an outcome is.
fn ended(outcome: CompactOutcome) -> Result<(), Failure> {
    match outcome {
        CompactOutcome::Done | CompactOutcome::More => Ok(()),
        CompactOutcome::DiskFull { need, free } => Err(Failure::new(
            code::DISK_FULL,
            format!(
                "the disk is too full to compact: the next step needs {} ({need} bytes), and {} \
                 ({free} bytes) are free",
                output::bytes(need),
                output::bytes(free),
            ),
        )
        .hint("free some space and compact again; what was compacted before stays so")),
    }
}

const STAYS_ERASED: &str = "free some space and purge again; what was erased until now stays erased, and nothing else is lost";

/// Of names it is not said: one may mark where the names in a file end.
const ERASED: &str = "no payload, meta, key or value of it is in any file of this store any more\n";

#[derive(Serialize)]
struct PurgeRow<'a> {
    complete: bool,
    agents: &'a [String],
    rewritten: Vec<String>,
    unlinked: Vec<String>,
    pinned: Vec<String>,
    disk_bytes_before: u64,
    disk_bytes_after: u64,
}

pub(crate) fn purge(globals: &Globals) -> Result<(), Failure> {
    let store = open_alone(globals, Access::Change)?;
    let before = store.stats();
    let bar = output::spinner("purging");
    let purged = store.purge();
    bar.finish_and_clear();
    let report = purged.map_err(|error| {
        let full = error.kind() == ErrorKind::DiskFull;
        let failure = Failure::from(error);
        if full { failure.hint(STAYS_ERASED) } else { failure }
    })?;
    store.close()?;
    let after = store.stats();
    if globals.json {
        return output::json_answer(&PurgeRow {
            complete: report.is_complete(),
            agents: &report.agents,
            rewritten: names(&report.rewritten),
            unlinked: names(&report.unlinked),
            pinned: names(&report.pinned),
            disk_bytes_before: before.disk_bytes,
            disk_bytes_after: after.disk_bytes,
        });
    }
    output::text_answer(&tell(&report, &before, &after))
}

fn names(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.display().to_string()).collect()
}

fn tell(report: &ErasureReport, before: &Stats, after: &Stats) -> String {
    let gone = output::len(&report.rewritten) + output::len(&report.unlinked);
    if gone == 0 && report.agents.is_empty() && report.is_complete() {
        return "nothing dead is in any file of the store\n".to_owned();
    }
    let mut text = format!(
        "erased what was dead of {}: {} before, {} after\n",
        plural(output::len(&report.agents), "agent", "agents"),
        output::bytes(before.disk_bytes),
        output::bytes(after.disk_bytes),
    );
    for agent in report.agents.iter().take(NAMED) {
        let _ = writeln!(text, "  {}", escape_line(agent));
    }
    if let Some(more) = report.agents.len().checked_sub(NAMED).filter(|more| *more > 0) {
        let _ = writeln!(text, "  and {more} more; --json names all of them");
    }
    list_files(&mut text, "written anew without it", &report.rewritten);
    list_files(&mut text, "removed, as nothing in them lived", &report.unlinked);
    if report.is_complete() {
        text.push_str(ERASED);
        return text;
    }
    list_files(&mut text, "gone here, but still held by something else", &report.pinned);
    text.push_str(
        "their bytes stay on the disk under other names (hard links), as a backup on the same file \
         system has them: remove that backup, or erase in it (`memlog --store BACKUP forget …` and \
         `purge`)\n",
    );
    text
}

fn list_files(text: &mut String, what: &str, files: &[PathBuf]) {
    if files.is_empty() {
        return;
    }
    let _ = writeln!(text, "{} {what}:", plural(output::len(files), "file", "files"));
    for file in files {
        let _ = writeln!(text, "  {}", escape_line(&file.display().to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_a_failure_that_says_how_much_is_missing() {
        assert!(ended(CompactOutcome::Done).is_ok());
        let full = CompactOutcome::DiskFull { need: 3 << 20, free: 4096 };
        let failure = format!("{:?}", ended(full).err());
        for word in ["code: 8", "3.00 MiB (3145728 bytes)", "4.00 KiB (4096 bytes)"] {
            assert!(failure.contains(word), "{word}: {failure}");
        }
        let row = CompactRow::of(full, &Stats::default(), &Stats::default());
        assert_eq!(
            (row.outcome, row.need_bytes, row.free_bytes),
            ("disk_full", Some(3 << 20), Some(4096))
        );
        assert!(row.sentence().starts_with("compacted in part: "));
    }

    #[test]
    fn what_is_still_held_is_named_with_what_to_do() {
        let mut report = ErasureReport::default();
        report.agents = (0..22).map(|n| format!("t/{n:02}")).collect();
        report.rewritten = vec!["s/1.log".into()];
        report.pinned = vec!["s/1.log".into()];
        let text = tell(&report, &Stats::default(), &Stats::default());
        assert!(text.contains("\n  t/19\n  and 2 more; ") && !text.contains("t/20"), "{text}");
        assert!(text.contains("1 file gone here, but still held") && text.contains("remove that"));
        assert!(!text.contains(ERASED));
        report.pinned.clear();
        assert!(tell(&report, &Stats::default(), &Stats::default()).ends_with(ERASED));
    }
}

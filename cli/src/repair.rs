//! `memlog repair` and `accept-holes`.

use std::fmt::Write as _;
use std::path::Path;

use memlog::{Options, RepairReport};
use serde::Serialize;

use crate::args::{AcceptHolesArgs, Globals, RepairArgs};
use crate::failure::{Failure, code};
use crate::manage::{DamageRow, lacks, list_damage};
use crate::open::{Access, open, utf8};
use crate::output::{self, escape_line, plural};

/// What a repair kept and lost, for scripts.
#[derive(Serialize)]
struct RepairRow {
    repaired: String,
    lossless: bool,
    agents: u64,
    entries: u64,
    values: u64,
    lost_entries: u64,
    lost: Vec<LostRow>,
    lost_values: u64,
    lost_keys: Vec<KeyRow>,
    unknown: Vec<LsnsRow>,
    erasures: Vec<String>,
    any_agent: bool,
    bytes_cut: u64,
    damage: Vec<DamageRow>,
    omitted: u64,
}

#[derive(Serialize)]
struct LostRow {
    agent: String,
    first: u64,
    last: u64,
}

#[derive(Serialize)]
struct KeyRow {
    agent: String,
    key: String,
}

#[derive(Serialize)]
struct LsnsRow {
    first: u64,
    last: u64,
}

impl RepairRow {
    fn of(to: &Path, report: &RepairReport) -> Self {
        let lost = report.lost.iter().map(|(agent, seqs)| LostRow {
            agent: agent.clone(),
            first: *seqs.start(),
            last: *seqs.end(),
        });
        let keys = report
            .lost_keys
            .iter()
            .map(|(agent, key)| KeyRow { agent: agent.clone(), key: key.clone() });
        let lsns = |lsns: &std::ops::RangeInclusive<memlog::Lsn>| LsnsRow {
            first: lsns.start().0,
            last: lsns.end().0,
        };
        RepairRow {
            repaired: to.display().to_string(),
            lossless: report.is_lossless(),
            agents: report.agents,
            entries: report.entries,
            values: report.values,
            lost_entries: report.lost_entries,
            lost: lost.collect(),
            lost_values: report.lost_values,
            lost_keys: keys.collect(),
            unknown: report.unknown.iter().map(lsns).collect(),
            erasures: report.erasures.clone(),
            any_agent: report.any_agent,
            bytes_cut: report.bytes_cut,
            damage: DamageRow::all(&report.damage),
            omitted: report.omitted,
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "repaired into {}: {}, {} and {} of {} kept\n",
            escape_line(&self.repaired),
            plural(self.entries, "entry", "entries"),
            plural(self.values, "value", "values"),
            "state",
            plural(self.agents, "agent", "agents"),
        );
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        if self.bytes_cut > 0 {
            line(format!("{} of a torn end of the log left out", output::bytes(self.bytes_cut)));
        }
        if self.lost_entries > 0 {
            line(format!("lost: {}", plural(self.lost_entries, "entry", "entries")));
        }
        for LostRow { agent, first, last } in &self.lost {
            let seqs = if first == last { first.to_string() } else { format!("{first} to {last}") };
            line(format!("  {}: seq {seqs}", escape_line(agent)));
        }
        if self.lost_values > 0 {
            line(format!("lost: {} of state", plural(self.lost_values, "value", "values")));
        }
        for KeyRow { agent, key } in &self.lost_keys {
            line(format!("  {}: key {}", escape_line(agent), escape_line(key)));
        }
        for agent in &self.erasures {
            line(format!("something erased may be back: {}", escape_line(agent)));
        }
        for LsnsRow { first, last } in &self.unknown {
            line(format!("lost, of agents that are not known: lsns {first} to {last}"));
        }
        if self.any_agent {
            line("any agent may lack something, and anything erased may be back".to_owned());
        }
        if self.omitted > 0 {
            line(format!("{} left out of these lists", plural(self.omitted, "row", "rows")));
        }
        if self.damage.is_empty() {
            line("nothing was damaged".to_owned());
        } else {
            line(format!("damaged, in {}:", plural(output::len(&self.damage), "place", "places")));
        }
        text
    }
}

pub(crate) fn repair(globals: &Globals, args: &RepairArgs) -> Result<(), Failure> {
    if !args.from.exists() {
        return Err(Failure::no_store(&args.from));
    }
    let bar = output::spinner("repairing");
    let repaired = Options::new().repair(&args.from, &args.to);
    bar.finish_and_clear();
    let report = repaired?;
    let row = RepairRow::of(&args.to, &report);
    if globals.json {
        output::json_answer(&row)?;
    } else {
        output::text_answer(&format!("{}{}", row.text(), list_damage(&report.damage)))?;
    }
    if !report.is_lossless() {
        return Err(Failure::new(code::DAMAGE, "not everything could be kept")
            .hint("`memlog accept-holes` accepts what is lost, once it is known what that means"));
    }
    if report.damage.is_empty() {
        return Ok(());
    }
    Err(Failure::new(code::DAMAGE, "the store was damaged; everything in it was kept"))
}

/// `memlog accept-holes`
pub(crate) fn accept_holes(globals: &Globals, args: &AcceptHolesArgs) -> Result<(), Failure> {
    let agent = args.agent.as_deref().map(|name| utf8("the agent's name", name)).transpose()?;
    let store = open(globals, Access::Change)?;
    let accepted = store.accept_holes(agent)?;
    let left = store.holes();
    store.close()?;
    let (entries, values) = left.map_or((0, 0), |holes| (holes.entries, holes.values));
    if globals.json {
        let answer = serde_json::json!({
            "accepted": accepted, "left": { "entries": entries, "values": values },
        });
        return output::json_answer(&answer);
    }
    let mut text = format!("accepted the loss of {}\n", plural(accepted, "entry", "entries"));
    if left.is_some() {
        let _ = writeln!(text, "left: {}", lacks(entries, values));
    }
    output::text_answer(&text)
}

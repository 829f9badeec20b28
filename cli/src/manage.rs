//! `memlog forget` and `verify`, and what damage looks like.

use std::fmt::Write as _;
use std::path::Path;

use memlog::{Damage, ErrorKind, Holes, Options, RecoveryReport, Stats};
use serde::Serialize;

use crate::args::{ForgetArgs, Globals};
use crate::failure::{Failure, code};
use crate::open::{Access, open_alone, utf8};
use crate::output::{self, count, escape_line, plural};
use crate::say;

pub(crate) fn forget(globals: &Globals, args: &ForgetArgs) -> Result<(), Failure> {
    match (&args.name, &args.prefix) {
        (Some(name), _) => {
            let name = utf8("the agent's name", name)?;
            let store = open_alone(globals, Access::Change)?;
            let agent = store.agent(name)?;
            let view = agent.view()?;
            let entries = view.next_seq().saturating_sub(view.floor());
            let was_there = view.next_seq() > 1 || view.states("").next().is_some();
            agent.forget()?;
            drop(view);
            told(globals, name, u64::from(was_there), Some(entries))
        }
        (None, Some(prefix)) => {
            let prefix = utf8("the prefix", prefix)?;
            if !prefix.ends_with('/') {
                return Err(Failure::usage(format!("the prefix {prefix:?} does not end in '/'"))
                    .hint("a prefix names everything under a part of the hierarchy: acme/"));
            }
            let store = open_alone(globals, Access::Change)?;
            let mut agents = 0;
            for agent in store.agents(prefix) {
                agent?;
                agents += 1;
            }
            store.forget_prefix(prefix)?;
            told(globals, prefix, agents, None)
        }
        (None, None) => Err(Failure::usage("name an agent, or a prefix with --prefix")),
    }
}

fn told(globals: &Globals, what: &str, agents: u64, entries: Option<u64>) -> Result<(), Failure> {
    if globals.json {
        let answer = serde_json::json!({ "forgot": what, "agents": agents, "entries": entries });
        return output::json_answer(&answer);
    }
    let what = escape_line(what);
    let text = match (agents, entries) {
        (0, Some(_)) => format!("{what}: there was no such agent\n"),
        (0, None) => format!("{what}: there was no agent under this prefix\n"),
        (_, Some(n)) => {
            format!("forgot {what}: {} and its state are unreadable now\n", {
                plural(n, "entry", "entries")
            })
        }
        (n, None) => {
            format!("forgot {what}: {} unreadable now\n", {
                if n == 1 { "1 agent is".to_owned() } else { format!("{} agents are", count(n)) }
            })
        }
    };
    output::text_answer(&text)
}

/// One place of damage for scripts.
#[derive(Serialize)]
pub(crate) struct DamageRow {
    file: String,
    offset: u64,
    lsn: Option<u64>,
    agents: Vec<String>,
    reason: String,
}

impl DamageRow {
    pub(crate) fn all(damage: &[Damage]) -> Vec<Self> {
        damage.iter().map(DamageRow::of).collect()
    }

    fn of(damage: &Damage) -> Self {
        DamageRow {
            file: damage.file.display().to_string(),
            offset: damage.offset,
            lsn: damage.lsn.map(|lsn| lsn.0),
            agents: damage.agents.clone(),
            reason: damage.reason.clone(),
        }
    }
}

/// What recovery or repair did, for scripts.
#[derive(Serialize)]
pub(crate) struct RecoveryRow {
    frames_kept: u64,
    bytes_kept: u64,
    bytes_cut: u64,
    possibly_acknowledged: bool,
    damage: Vec<DamageRow>,
}

impl RecoveryRow {
    pub(crate) fn of(report: &RecoveryReport) -> Self {
        RecoveryRow {
            frames_kept: report.frames_kept,
            bytes_kept: report.bytes_kept,
            bytes_cut: report.bytes_cut,
            possibly_acknowledged: report.possibly_acknowledged,
            damage: DamageRow::all(&report.damage),
        }
    }

    pub(crate) fn sentence(&self) -> String {
        format!(
            "{} kept ({}), {} cut",
            plural(self.frames_kept, "frame", "frames"),
            output::bytes(self.bytes_kept),
            plural(self.bytes_cut, "byte", "bytes"),
        )
    }
}

pub(crate) fn list_damage(damage: &[Damage]) -> String {
    let mut text = String::new();
    for place in damage {
        let _ = writeln!(text, "{}, offset {}", place.file.display(), place.offset);
        let _ = writeln!(text, "  {}", escape_line(&place.reason));
        let agents: Vec<String> = place.agents.iter().map(|name| escape_line(name)).collect();
        if agents.is_empty() {
            let _ = writeln!(text, "  agents: not known");
        } else {
            let _ = writeln!(text, "  agents: {}", agents.join(", "));
        }
    }
    text
}

#[derive(Serialize)]
struct VerifyRow {
    damage: Vec<DamageRow>,
    /// What a repair could not keep, and nothing has accepted.
    lost_entries: u64,
    lost_values: u64,
}

pub(crate) fn verify(globals: &Globals) -> Result<(), Failure> {
    if !globals.store.exists() {
        return Err(Failure::no_store(&globals.store));
    }
    let Verified { damage, stats, holes } = check(&globals.store, globals.salvage)?;
    let (entries, values) = holes.map_or((0, 0), |holes| (holes.entries, holes.values));
    if globals.json {
        let damage = DamageRow::all(&damage);
        let row = VerifyRow { damage, lost_entries: entries, lost_values: values };
        output::json_answer(&row)?;
    } else {
        let mut text = list_damage(&damage);
        if damage.is_empty() {
            let _ = writeln!(text, "no damage: {}", extent(&stats));
        }
        if holes.is_some() {
            let _ = writeln!(text, "the store lacks {}", lacks(entries, values));
        }
        output::text_answer(&text)?;
    }
    damage_found(&damage)?;
    match holes {
        None => Ok(()),
        Some(_) => Err(Failure::new(code::DAMAGE, "the store lacks what a repair could not keep")
            .hint("`memlog accept-holes` accepts that")),
    }
}

/// What verifying a store gave.
pub(crate) struct Verified {
    pub(crate) damage: Vec<Damage>,
    pub(crate) stats: Stats,
    pub(crate) holes: Option<Holes>,
}

/// Opens the store in `dir`, as far as that can be done, and checks every byte of it.
pub(crate) fn check(dir: &Path, salvage: bool) -> Result<Verified, Failure> {
    let options = Options::new().create(false).read_only(true).salvage(salvage);
    let mut refused = None;
    let store = match options.open(dir) {
        Ok(store) => store,
        // Too damaged for a strict opening: read it all the same, for the whole list.
        Err(error) if error.kind() == ErrorKind::Damaged => {
            say::went_on(&error);
            refused = error.damage().cloned();
            options.salvage(true).open(dir)?
        }
        Err(error) => return Err(error.into()),
    };
    let bar = output::spinner("verifying");
    let verified = store.verify();
    bar.finish_and_clear();
    let mut damage = verified?;
    for found in store.recovery_report().damage.iter().chain(&refused) {
        if !damage.contains(found) {
            damage.push(found.clone());
        }
    }
    Ok(Verified { damage, stats: store.stats(), holes: store.holes() })
}

/// How much a store has, in words.
pub(crate) fn extent(stats: &Stats) -> String {
    format!(
        "{} in {}",
        output::bytes(stats.data_bytes + stats.active_bytes),
        plural(stats.segments + 1, "segment", "segments")
    )
}

/// The failure that damage is, once it has been listed.
pub(crate) fn damage_found(damage: &[Damage]) -> Result<(), Failure> {
    if damage.is_empty() {
        return Ok(());
    }
    let places = plural(output::len(damage), "place", "places");
    Err(Failure::new(code::DAMAGE, format!("{places} damaged"))
        .hint("`memlog repair FROM TO` copies what is whole into a new store"))
}

/// What a repaired store lacks, in words.
pub(crate) fn lacks(entries: u64, values: u64) -> String {
    let (entries, values) = (
        plural(entries, "lost entry", "lost entries"),
        plural(values, "lost value", "lost values"),
    );
    format!("{entries} and {values} of state that a repair could not keep")
}

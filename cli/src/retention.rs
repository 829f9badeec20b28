//! `memlog retention` and `usage`: how much of a timeline is kept, and how much there is.

use std::io::Write;
use std::time::Duration;

use memlog::{Retention, Usage};
use serde::Serialize;

use crate::args::{Globals, RetentionCommand, UsageArgs};
use crate::change::there;
use crate::failure::Failure;
use crate::open::{Access, hides, open, open_alone, utf8};
use crate::output::{self, count, escape_line, plural};

/// A policy for scripts.
#[derive(Serialize)]
struct Row<'a> {
    agent: &'a str,
    own: bool,
    max_entries: Option<u64>,
    max_bytes: Option<u64>,
    max_age_ms: Option<u64>,
}

impl<'a> Row<'a> {
    fn of(agent: &'a str, policy: Option<Retention>) -> Self {
        let own = policy.unwrap_or_default();
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Row {
            agent,
            own: policy.is_some(),
            max_entries: own.entries(),
            max_bytes: own.bytes(),
            max_age_ms: own.age().map(millis),
        }
    }

    fn sentence(&self) -> String {
        let name = escape_line(self.agent);
        if !self.own {
            return format!("{name}: no policy of its own: the store's holds\n");
        }
        let limits = [
            self.max_entries.map(|n| plural(n, "entry", "entries")),
            self.max_bytes.map(|n| plural(n, "byte", "bytes")),
            self.max_age_ms.map(|ms| output::duration(Duration::from_millis(ms))),
        ];
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        match limits.as_slice() {
            [] => format!("{name}: keeps everything\n"),
            limits => format!("{name}: keeps at most {}\n", limits.join(", ")),
        }
    }
}

pub(crate) fn run(globals: &Globals, command: &RetentionCommand) -> Result<(), Failure> {
    let (name, policy) = match command {
        RetentionCommand::Show { agent } => {
            let name = utf8("the agent's name", agent)?;
            let policy = there(&open(globals, Access::Read)?, name)?.retention()?;
            return answer(globals, name, policy);
        }
        RetentionCommand::Set { agent, max_entries, max_bytes, max_age } => {
            let limits = [
                max_entries.map(|n| Retention::new().max_entries(n)),
                max_bytes.map(|n| Retention::new().max_bytes(n)),
                max_age.map(|age| Retention::new().max_age(age)),
            ];
            if limits.iter().all(Option::is_none) {
                return Err(Failure::usage("name a limit: the policy would keep everything").hint(
                    "--max-entries, --max-bytes, --max-age; `retention clear` takes it away",
                ));
            }
            let mut policy = Retention::new();
            policy = max_entries.map_or(policy, |n| policy.max_entries(n));
            policy = max_bytes.map_or(policy, |n| policy.max_bytes(n));
            policy = max_age.map_or(policy, |age| policy.max_age(age));
            (utf8("the agent's name", agent)?, Some(policy))
        }
        RetentionCommand::Clear { agent } => (utf8("the agent's name", agent)?, None),
    };
    let access = if policy.is_some() { Access::Create } else { Access::Change };
    let store = open_alone(globals, access)?;
    let agent = if policy.is_some() { store.agent(name)? } else { there(&store, name)? };
    agent.set_retention(policy)?;
    store.close()?;
    answer(globals, name, policy)
}

fn answer(globals: &Globals, name: &str, policy: Option<Retention>) -> Result<(), Failure> {
    let row = Row::of(name, policy);
    if globals.json { output::json_answer(&row) } else { output::text_answer(&row.sentence()) }
}

/// A duration from the command line: a number with its unit.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let wrong = || "a whole number with a unit: 500ms, 90s, 30m, 12h, 7d, 2w".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at_checked(at).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

/// What an agent has stored, for scripts.
#[derive(Serialize)]
struct Stored<'a> {
    agent: &'a str,
    entries: u64,
    live_bytes: u64,
    dead_bytes: u64,
}

pub(crate) fn usage(globals: &Globals, args: &UsageArgs) -> Result<(), Failure> {
    let mut out = output::stdout();
    let mut print = |name: &str, usage: &Usage| -> Result<(), Failure> {
        let Usage { entries, live_bytes, dead_bytes, .. } = *usage;
        if globals.json {
            let row = Stored { agent: name, entries, live_bytes, dead_bytes };
            return output::json_line(&mut out, &row);
        }
        let (live, dead) = (output::bytes(live_bytes), output::bytes(dead_bytes));
        let entries = plural(entries, "entry", "entries");
        Ok(writeln!(out, "{}  {entries}, {live} live, {dead} dead", escape_line(name))?)
    };
    let (mut agents, mut total) = (0_u64, Usage::default());
    match (&args.agent, &args.prefix) {
        (Some(name), _) => {
            let name = utf8("the agent's name", name)?;
            let store = open(globals, Access::Read)?;
            print(name, &there(&store, name)?.usage()?)?;
        }
        (None, prefix) => {
            let prefix = prefix.as_deref().map_or(Ok(""), |prefix| utf8("the prefix", prefix))?;
            for agent in open(globals, Access::Read)?.agents(prefix) {
                let agent = agent?;
                if hides(prefix, agent.name()) {
                    continue;
                }
                let usage = agent.usage()?;
                print(agent.name(), &usage)?;
                agents += 1;
                total.entries = total.entries.saturating_add(usage.entries);
                total.live_bytes = total.live_bytes.saturating_add(usage.live_bytes);
                total.dead_bytes = total.dead_bytes.saturating_add(usage.dead_bytes);
            }
            if !globals.json {
                writeln!(
                    out,
                    "{}: {} entries, {} live, {} dead",
                    plural(agents, "agent", "agents"),
                    count(total.entries),
                    output::bytes(total.live_bytes),
                    output::bytes(total.dead_bytes),
                )?;
            }
        }
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_a_unit() {
        let second = Duration::from_secs(1);
        for (text, age_of) in [("1000ms", second), ("90s", 90 * second), ("7d", 604_800 * second)] {
            assert_eq!(age(text), Ok(age_of), "{text}");
        }
        for wrong in ["", "7", "d", "-1d", "1.5h", "1 d", "7days", "18446744073709551615w", "1µs"]
        {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }
}

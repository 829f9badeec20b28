//! `memlog agents`: who is in the store.

use std::io::Write;

use serde::Serialize;

use crate::args::{AgentsArgs, Globals};
use crate::failure::Failure;
use crate::open::{Access, hides, open, utf8};
use crate::output::{self, escape_line};

#[derive(Serialize)]
struct Row<'a> {
    agent: &'a str,
    #[serde(flatten)]
    counts: Option<Counts>,
}

#[derive(Serialize)]
struct Counts {
    floor: u64,
    next: u64,
    entries: u64,
}

pub(crate) fn run(globals: &Globals, args: &AgentsArgs) -> Result<(), Failure> {
    let prefix = utf8("the prefix", &args.prefix)?;
    let store = open(globals, Access::Read)?;
    let mut out = output::stdout();
    for agent in store.agents(prefix) {
        let agent = agent?;
        if hides(prefix, agent.name()) {
            continue;
        }
        let counts = if args.long {
            let view = agent.view()?;
            let (floor, next) = (view.floor(), view.next_seq());
            Some(Counts { floor, next, entries: next.saturating_sub(floor) })
        } else {
            None
        };
        if globals.json {
            output::json_line(&mut out, &Row { agent: agent.name(), counts })?;
            continue;
        }
        let name = escape_line(agent.name());
        match counts {
            Some(c) => writeln!(
                out,
                "{name}  floor {}, next {}, {}",
                c.floor,
                c.next,
                output::plural(c.entries, "entry", "entries")
            )?,
            None => writeln!(out, "{name}")?,
        }
    }
    out.flush()?;
    Ok(())
}

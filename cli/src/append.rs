//! `memlog append`: one entry.

use serde::Serialize;

use crate::args::{AppendArgs, Globals};
use crate::failure::Failure;
use crate::line::{self, Message};
use crate::open::{Access, open, text_or_stdin, utf8};
use crate::output;
use crate::role;

#[derive(Serialize)]
struct Appended {
    seq: u64,
    lsn: u64,
}

pub(crate) fn run(globals: &Globals, args: &AppendArgs) -> Result<(), Failure> {
    let name = utf8("the agent's name", &args.agent)?;
    let (kind, keep_role) = role::to_kind(&args.role);
    let fields = line::object(args.meta.as_deref().unwrap_or("{}"))
        .map_err(|refusal| Failure::usage(format!("--meta: {}", refusal.what)))?;
    let meta = line::meta(keep_role.then_some(args.role.as_str()), &fields)
        .map_err(|reason| Failure::usage(format!("--meta: {reason}")))?;
    let message = Message {
        agent: name.to_owned(),
        kind,
        at: None,
        payload: text_or_stdin("TEXT", args.text.as_ref())?,
        meta,
        weight: args.weight,
        joined: Some(args.joined),
        redacted: false,
        calls: Vec::new(),
        answers: Vec::new(),
    };
    let store = open(globals, Access::Create)?;
    let agent = store.agent(name)?;
    let mut batch = store.batch();
    batch.append(&agent, message.entry());
    if let Some(seq) = args.expect_next {
        batch.expect_next(&agent, seq);
    }
    let receipt = batch.commit()?;
    let seq = receipt.seqs(&agent).start;
    if globals.json {
        return output::json_answer(&Appended { seq, lsn: receipt.lsn().0 });
    }
    output::text_answer(&format!("{seq}\n"))
}

//! What the command line says: one type a command, read by clap.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::demo::DemoArgs;
use crate::demo::writer::WriterArgs;
use crate::failure::{Failure, code};
use crate::say;

const LONG_ABOUT: &str = "\
Timelines and state of AI agents, kept in one directory by the storage engine memlog.

A store is one directory, opened by one writing process. Each agent has a timeline of numbered \
entries (messages, tool calls, observations, summaries) and a small state of keys and values.";

/// The store where none is named.
const DEFAULT_STORE: &str = "./memlog-store";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  other: any failure that has no code of its own
  2  usage: wrong arguments, a malformed line, a name, seq or size out of bounds
  3  damage: bytes on the medium are not what was written, or something was lost
  4  conflict: an expectation (--expect-next, --expect-revision) did not hold, or the source was \
imported before; nothing changed
  5  in use: another process has the store open for writing
  6  not a store: the directory is missing or is something else
  7  absent: the store has no such agent, key or entry
  8  disk full: there is no room for the store, or for the output
  9  io: any other error of the operating system
  10 version: the store is of another version of the format
  11 in doubt: a write failed, and the change is there or not once the store is reopened

With --json a failure is one JSON object on standard error, with level, kind, message, exit_code, \
and hint, file, offset, line, column, field, lsn, agent and seq where they are known.";

/// The whole command line.
#[derive(Parser)]
#[command(
    name = "memlog",
    version,
    about = "Timelines and state of AI agents, kept in one directory",
    long_about = LONG_ABOUT,
    after_long_help = EXIT_CODES,
    propagate_version = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command knows.
#[derive(Args)]
pub(crate) struct Globals {
    /// The directory of the store
    ///
    /// [env: MEMLOG_STORE] [default: ./memlog-store]
    #[arg(long = "store", global = true, value_name = "DIR")]
    pub(crate) named: Option<PathBuf>,

    /// What `named` or, without it, the environment says
    #[arg(skip)]
    pub(crate) store: PathBuf,

    /// Answer in JSON, for scripts
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Read what is whole of a damaged store, and name what is not
    #[arg(long, global = true)]
    pub(crate) salvage: bool,

    /// The permission bits of files that are created, in octal; directories may be searched too
    #[arg(long, global = true, value_name = "OCTAL", default_value = "600", value_parser = mode)]
    pub(crate) mode: u32,
}

/// Reads the command line of the process.
///
/// # Errors
/// The exit code, once what is wrong was said, or the help was printed.
pub(crate) fn read() -> Result<Cli, ExitCode> {
    let mut cli = Cli::try_parse().map_err(|error| refused(&error))?;
    say::use_json(cli.globals.json);
    let globals = &mut cli.globals;
    let by_environment = || std::env::var_os("MEMLOG_STORE").filter(|dir| !dir.is_empty());
    globals.store = match &globals.named {
        Some(dir) => dir.clone(),
        None => by_environment().map_or_else(|| Path::new(DEFAULT_STORE).into(), PathBuf::from),
    };
    Ok(cli)
}

/// Prints the help, or what is wrong with the arguments.
fn refused(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => Failure::from(error).report(),
        };
    }
    // Nothing was parsed: the flag is looked for as it is written.
    if std::env::args_os().any(|arg| arg == "--json") {
        say::use_json(true);
        let text = error.render().to_string();
        let text = text.trim().strip_prefix("error: ").unwrap_or(text.trim());
        return Failure::usage(text).report();
    }
    // The exit code says it where stderr cannot.
    let _ = error.print();
    ExitCode::from(code::USAGE)
}

/// Reads permission bits of files as `chmod` takes them.
fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(bits) if bits & !0o066 == 0o600 => Ok(bits),
        _ => Err("octal digits from 600 to 666, as chmod takes them: 600, 640, 660".to_owned()),
    }
}

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Append the messages of JSONL files, one message a line
    Import(ImportArgs),
    /// Write agents as JSONL that `import` takes back
    Export(ExportArgs),
    /// Append one entry and print its seq
    Append(AppendArgs),
    /// Print the timeline of an agent
    Show(ShowArgs),
    /// List agents, ordered by name
    Agents(AgentsArgs),
    /// Read and change the keyed state of an agent
    #[command(subcommand)]
    State(StateCommand),
    /// Forget an agent, or all agents under a prefix
    Forget(ForgetArgs),
    /// Take the oldest entries of an agent away
    #[command(long_about = TRUNCATE_HELP)]
    Truncate(TruncateArgs),
    /// Take payload and meta out of entries, which keep their place
    #[command(long_about = REDACT_HELP)]
    Redact(RedactArgs),
    /// Show, set and clear how much of an agent's timeline is kept
    #[command(subcommand, long_about = RETENTION_HELP)]
    Retention(RetentionCommand),
    /// Print how much agents have stored
    #[command(long_about = USAGE_HELP)]
    Usage(UsageArgs),
    /// Print figures of the store
    Stats,
    /// Merge segments and give back the room of what is dead
    #[command(long_about = COMPACT_HELP)]
    Compact,
    /// Erase what is dead from every file of the store, to the last byte
    #[command(long_about = PURGE_HELP)]
    Purge,
    /// Back the store up into a new directory
    Backup(BackupArgs),
    /// Bring a backup back as a store in a new directory, and verify it
    Restore(RestoreArgs),
    /// Check every byte of the store
    Verify,
    /// Copy what is whole of a damaged store into a new directory
    Repair(RepairArgs),
    /// Accept what a repair lost: those entries read as redacted ones from then on
    AcceptHoles(AcceptHolesArgs),
    /// Write, kill, reopen, check: the promises of the store shown on this machine
    Demo(DemoArgs),
    /// The process that `demo` kills
    #[command(hide = true)]
    DemoWriter(WriterArgs),
}

/// How durable imported entries are when the command returns.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// On stable storage, batch by batch
    Sync,
    /// With the operating system batch by batch, on stable storage at the end
    Write,
    /// In memory at first, on stable storage at the end
    Buffer,
}

impl From<DurabilityArg> for memlog::Durability {
    fn from(arg: DurabilityArg) -> Self {
        match arg {
            DurabilityArg::Sync => memlog::Durability::Sync,
            DurabilityArg::Write => memlog::Durability::Write,
            DurabilityArg::Buffer => memlog::Durability::Buffer,
        }
    }
}

const IMPORT_HELP: &str = "\
Appends the messages of JSONL files, one JSON object a line:

  {\"agent\":\"acme/support/t-7\",\"role\":\"user\",\"ts\":\"2024-05-15T15:00:00Z\",\"content\":\"hello\"}

  agent    the owner of the timeline, 1 to 512 bytes; --agent names it for lines without one
  role     system, developer, user, assistant, tool_call, tool (its result), observation, summary, \
kind:N (a kind by number), or any other word, which is kept
  ts       a time of ISO 8601, or a number since 1970, whose unit its magnitude tells (seconds, \
milliseconds, microseconds); null or absent: the time of the import
  content  text, null, or a list of parts; or content_base64: bytes
  weight   optional, a whole number (the cost of the entry, for example in tokens)
  joined   optional, true: belongs with the entry before it

Messages of OpenAI and Anthropic are taken as they are, and whole transcripts, \
{\"messages\":[...]}, one a line. A tool's result is linked to its call, and joined to it where it \
follows at once. Any further fields are kept as the entry's meta, in their order and spelling, and \
exported again. docs/jsonl.md has all of the format. Empty lines are passed over.

A malformed line ends the import: it is reported with its file, line, column and field, nothing of \
it or after it is imported, and everything before it is kept. With --skip-malformed it is \
reported, counted and left out.

How far a file is imported is kept in the store, with its entries. A file that was imported \
before, in whole or in part, is refused with exit code 4, under another name too. --resume goes on \
where the import was killed or stopped, or takes what a file has grown by. --again imports all of \
it once more. Standard input is not remembered.

The lines of one batch become durable together. Several files are imported in the order given.";

/// `import`
#[derive(Args)]
#[command(long_about = IMPORT_HELP)]
pub(crate) struct ImportArgs {
    /// The files to read; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The agent of messages that name none; {line} in it is the line's number, {file} the file's
    /// name without its extension
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<String>,
    /// How durable each batch is before the next is read
    #[arg(long, value_enum, default_value = "sync")]
    pub(crate) durability: DurabilityArg,
    /// Lines a batch (a batch also ends at 1 MiB)
    #[arg(long, value_name = "N", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) batch: u32,
    /// Report, count and leave out malformed lines instead of stopping at the first
    #[arg(long)]
    pub(crate) skip_malformed: bool,
    /// Go on after what was imported of the files before, which has to be unchanged
    #[arg(long)]
    pub(crate) resume: bool,
    /// Import the files once more though they were imported before
    #[arg(long, conflicts_with = "resume")]
    pub(crate) again: bool,
}

const EXPORT_HELP: &str = "\
Writes agents as JSONL, one entry a line, agent by agent in the order of names. Importing the \
lines into a new store gives the same contents, roles, times, weights and meta.

A redacted entry is written as {\"agent\":…,\"seq\":…,\"role\":…,\"ts\":…,\"redacted\":true}. A \
payload that is not UTF-8 is written as content_base64. Meta that is not a flat JSON object as \
import writes it is written verbatim as \"memlog.meta\" (or \"memlog.meta_base64\"). State, \
expiry times and entries below an agent's floor are not exported.

A file given with --output is replaced only once all lines are written and on stable storage.";

/// `export`
#[derive(Args)]
#[command(long_about = EXPORT_HELP)]
pub(crate) struct ExportArgs {
    /// Only agents whose names begin with this
    #[arg(value_name = "PREFIX", default_value = "")]
    pub(crate) prefix: OsString,
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `append`
#[derive(Args)]
pub(crate) struct AppendArgs {
    /// The agent's name
    #[arg(value_name = "AGENT")]
    pub(crate) agent: OsString,
    /// The text; absent: standard input, byte for byte
    #[arg(value_name = "TEXT")]
    pub(crate) text: Option<OsString>,
    /// The role, as in `import`
    #[arg(long, value_name = "ROLE", default_value = "user")]
    pub(crate) role: String,
    /// A JSON object of further fields
    #[arg(long, value_name = "JSON")]
    pub(crate) meta: Option<String>,
    /// The cost of the entry, for example in tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) weight: u32,
    /// The entry belongs with the one before it
    #[arg(long)]
    pub(crate) joined: bool,
    /// Append only if the entry gets this seq; exit code 4 if not
    #[arg(long, value_name = "SEQ")]
    pub(crate) expect_next: Option<u64>,
}

const SHOW_HELP: &str = "\
Prints the timeline of an agent: seq, time (UTC), role, weight and text of each entry. Control \
characters are escaped, so that no entry can drive the terminal. With --json each entry is one \
JSON object a line.

--follow goes on after the last entry and prints what is appended. It looks at the \
store's files read-only and without the lock, anew every half second, and prints the entries that \
were not there before. It sees what has been written to \
the files, not what a writer at durability `buffer` still holds in memory, and may see an entry a \
moment before it is on stable storage. If the agent is forgotten and the name used again, it \
starts again at seq 1. It ends when interrupted.";

/// `show`
#[derive(Args)]
#[command(long_about = SHOW_HELP)]
pub(crate) struct ShowArgs {
    /// The agent's name
    #[arg(value_name = "AGENT")]
    pub(crate) agent: OsString,
    /// Only the latest N entries
    #[arg(long, value_name = "N", conflicts_with = "range")]
    pub(crate) latest: Option<u64>,
    /// Only these seqs: A..B (without B), A..=B, A.. or ..B
    #[arg(long, value_name = "A..B", value_parser = crate::show::seq_range)]
    pub(crate) range: Option<crate::show::SeqRange>,
    /// Go on with what is appended
    #[arg(long, short, conflicts_with = "range")]
    pub(crate) follow: bool,
}

/// `agents`
#[derive(Args)]
pub(crate) struct AgentsArgs {
    /// Only agents whose names begin with this
    #[arg(value_name = "PREFIX", default_value = "")]
    pub(crate) prefix: OsString,
    /// With each agent's floor, next seq and number of entries
    #[arg(long, short)]
    pub(crate) long: bool,
}

/// `state …`
#[derive(Subcommand)]
pub(crate) enum StateCommand {
    /// Print the value of a key
    Get {
        /// The agent's name
        agent: OsString,
        /// The key
        key: OsString,
    },
    /// Set a key and print its revision
    Set {
        /// The agent's name
        agent: OsString,
        /// The key
        key: OsString,
        /// The value; absent: standard input, byte for byte
        value: Option<OsString>,
        /// Only if the key is at this revision (`absent`: not set); exit code 4 if not
        #[arg(long, value_name = "N|absent", value_parser = crate::state::revision)]
        expect_revision: Option<crate::state::Expected>,
    },
    /// Remove a key
    Unset {
        /// The agent's name
        agent: OsString,
        /// The key
        key: OsString,
        /// Only if the key is at this revision (`absent`: not set); exit code 4 if not
        #[arg(long, value_name = "N|absent", value_parser = crate::state::revision)]
        expect_revision: Option<crate::state::Expected>,
    },
    /// List keys with revision and value
    List {
        /// The agent's name
        agent: OsString,
        /// Only keys that begin with this
        #[arg(default_value = "")]
        prefix: OsString,
    },
}

/// `forget`
#[derive(Args)]
#[group(id = "what", required = true, multiple = false, args = ["name", "prefix"])]
pub(crate) struct ForgetArgs {
    /// The agent to forget
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<OsString>,
    /// Forget every agent whose name begins with this; it must end in '/'
    #[arg(long, value_name = "P")]
    pub(crate) prefix: Option<OsString>,
}

const TRUNCATE_HELP: &str = "\
Raises the floor of an agent: entries before it are unreadable at once. The agent keeps its seqs, \
its state and its policy. A floor is never lowered: a seq at or below it changes nothing, and one \
beyond the next seq is refused with exit code 2.

The bytes leave the files with compaction; `purge` erases them at once.";

/// `truncate`
#[derive(Args)]
pub(crate) struct TruncateArgs {
    /// The agent's name
    #[arg(value_name = "AGENT")]
    pub(crate) agent: OsString,
    /// The lowest seq that stays
    #[arg(long, value_name = "SEQ", required_unless_present = "keep")]
    pub(crate) before: Option<u64>,
    /// Keep the latest N entries
    #[arg(long, value_name = "N", conflicts_with = "before")]
    pub(crate) keep: Option<u64>,
}

const REDACT_HELP: &str = "\
Takes payload and meta out of entries, all of them or none. Each keeps its seq, time and kind, and \
is shown as redacted. A seq below the floor changes nothing, and one that is not given yet is \
refused with exit code 2.

The bytes leave the files with compaction; `purge` erases them at once.";

/// `redact`
#[derive(Args)]
pub(crate) struct RedactArgs {
    /// The agent's name
    #[arg(value_name = "AGENT")]
    pub(crate) agent: OsString,
    /// The entries
    #[arg(value_name = "SEQ", required = true)]
    pub(crate) seqs: Vec<u64>,
}

const RETENTION_HELP: &str = "\
A policy of an agent's own says how much of its timeline is kept: the latest N entries, those whose \
payloads and meta take at most N bytes, those that are not older than an age; with several limits, \
what all of them allow. It holds in place of the store's, from the next view on and for what is \
appended later. A looser policy brings nothing back that a stricter one has dropped.";

/// `retention …`
#[derive(Subcommand)]
pub(crate) enum RetentionCommand {
    /// Print the policy of an agent's own
    Show {
        /// The agent's name
        agent: OsString,
    },
    /// Give an agent a policy; an agent that does not exist begins to
    Set {
        /// The agent's name
        agent: OsString,
        /// Keep the latest N entries
        #[arg(long, value_name = "N")]
        max_entries: Option<u64>,
        /// Keep the latest entries whose payloads and meta take at most N bytes together
        #[arg(long, value_name = "N")]
        max_bytes: Option<u64>,
        /// Drop entries that are older: a number with ms, s, m, h, d or w
        #[arg(long, value_name = "AGE", value_parser = crate::retention::age)]
        max_age: Option<std::time::Duration>,
    },
    /// Take the policy of an agent's own away: the store's holds again
    Clear {
        /// The agent's name
        agent: OsString,
    },
}

const USAGE_HELP: &str = "\
Prints how many entries an agent has, and how many bytes of payload and meta: live, and dead and \
still on disk. Without an agent it goes through all agents, or those under --prefix.";

/// `usage`
#[derive(Args)]
pub(crate) struct UsageArgs {
    /// The agent's name; absent: all agents
    #[arg(value_name = "AGENT")]
    pub(crate) agent: Option<OsString>,
    /// Only agents whose names begin with this
    #[arg(long, value_name = "P", conflicts_with = "agent")]
    pub(crate) prefix: Option<OsString>,
}

const COMPACT_HELP: &str = "\
Merges segments, so that the entries of an agent lie together, and leaves behind what is dead: \
forgotten agents, truncated and redacted entries, overwritten values.

A process that has the store open compacts by itself, in the background. This command does all \
that is worth it at once, and needs the store for itself. It leaves what is not worth a copy: \
`purge` erases everything that is dead.

Compaction needs room for what it writes before it gives any back. If the disk has too little the \
exit code is 8, and nothing that lives is lost.";

const PURGE_HELP: &str = "\
Erases everything that is dead from every file of the store: forgotten agents, truncated and \
redacted entries, overwritten values, what retention has dropped. Files that hold any of it, \
however little, are written anew without it and removed.

No payload, meta, key or value of it is left. An agent's name may stay where it marks the end of the \
names in a file.

It reports the agents of which something was erased, the files that are gone, and those whose \
bytes something else still holds: a backup made with hard links keeps what is erased later. Such \
files are no failure, and erasing is complete once they are removed too. A later purge does not \
name them again.";

const BACKUP_HELP: &str = "\
Makes a backup in a directory that does not exist yet or is empty: a store with everything \
committed so far, which opens by itself.

On the same file system it is made of hard links: it takes almost no room, keeps the bytes of what \
is erased in the store later, and does not outlive the disk. Name a directory on another disk, or \
copy the backup there, for one that does.

What a backup that was killed has left in the directory is removed by the next one into it.

The store must not be open elsewhere. A process that has it open calls `Store::backup`, which lets \
appends and reads go on.";

/// `backup`
#[derive(Args)]
#[command(long_about = BACKUP_HELP)]
pub(crate) struct BackupArgs {
    /// A directory that does not exist yet or is empty
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

const RESTORE_HELP: &str = "\
Copies a backup into a new directory, opens the copy and verifies every byte of it. The backup is \
only read.

The files are copied beside DIR, taken to stable storage, and get their name last: DIR is a whole \
copy or is not there. What a restore that was killed has left is removed by the next one into the \
same DIR. If verifying finds damage the copy stays, the damage is listed and the exit \
code is 3.

BACKUP may also be a store that no process has open. One that a process has open for writing is \
refused with exit code 5, as far as its LOCK tells.";

/// `restore`
#[derive(Args)]
#[command(long_about = RESTORE_HELP)]
pub(crate) struct RestoreArgs {
    /// The backup; it is only read
    #[arg(value_name = "BACKUP")]
    pub(crate) from: PathBuf,
    /// A directory that does not exist yet or is empty
    #[arg(value_name = "DIR")]
    pub(crate) to: PathBuf,
}

const REPAIR_HELP: &str = "\
Copies every whole record of a damaged store into a new one. The damaged store is only read, and a \
process may have it open. Lost entries keep their seqs: reading one is an error until `accept-holes` \
accepts the loss.

The exit code is 0 only if nothing was damaged and nothing is lost, and 3 if something was. TO is there \
whole or not at all; what a killed repair left beside it, the next one removes. A file that may not be \
read and a medium that fails are errors with exit code 1, and no damage.";

/// `repair`
#[derive(Args)]
#[command(long_about = REPAIR_HELP)]
pub(crate) struct RepairArgs {
    /// The damaged store; it is only read
    #[arg(value_name = "FROM")]
    pub(crate) from: PathBuf,
    /// A directory that does not exist yet or is empty
    #[arg(value_name = "TO")]
    pub(crate) to: PathBuf,
}

/// `accept-holes`
#[derive(Args)]
pub(crate) struct AcceptHolesArgs {
    /// The agent whose losses are accepted; absent: those of all agents
    #[arg(value_name = "AGENT")]
    pub(crate) agent: Option<OsString>,
}

//! What the command line says: one type a command, read by clap.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::demo::DemoArgs;
use crate::demo::writer::WriterArgs;

const LONG_ABOUT: &str = "\
Timelines and state of AI agents, kept in one directory by the storage engine memlog.

A store is one directory, opened by one writing process. Each agent has a timeline of numbered \
entries (messages, tool calls, observations, summaries) and a small state of keys and values.";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  any other failure (the disk is full, no such agent, an error of the operating system)
  2  usage: wrong arguments, a malformed line, a name or size out of bounds
  3  damage: bytes on the medium are not what was written, or something was lost
  4  conflict: an expectation (--expect-next, --expect-revision) did not hold; nothing changed
  5  in use: another process has the store open for writing
  6  not a store: the directory is missing or is something else";

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
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "MEMLOG_STORE",
        default_value = "./memlog-store"
    )]
    pub(crate) store: PathBuf,

    /// Answer in JSON, for scripts
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Read what can be read of a store that is damaged or in use: read-only, without its lock
    #[arg(long, global = true)]
    pub(crate) salvage: bool,
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

  {\"agent\":\"acme/support/t-7\",\"role\":\"user\",\"ts\":1715785200000,\"content\":\"hello\"}

  agent    the owner of the timeline, 1 to 512 bytes
  role     system, user, assistant, tool_call, tool (its result), observation, summary, kind:N \
(a kind by number), or any other word, which is kept
  ts       milliseconds since 1970, or null or absent: the time of the import
  content  text; or content_base64: bytes
  weight   optional, a whole number (the cost of the entry, for example in tokens)
  joined   optional, true: belongs with the entry before it

Any further fields are kept as the entry's meta, in their order and spelling, and exported again. \
Names that begin with \"memlog.\" are reserved. A line with \"redacted\":true and no content, as \
export writes it, takes its place in the timeline as a redacted entry. Empty lines are passed over.

A malformed line ends the import: it is reported with its file and number, nothing of it or after \
it is imported, and everything before it is kept. With --skip-malformed it is reported, counted \
and left out.

The lines of one batch become durable together. Several files are imported in the order given.";

/// `import`
#[derive(Args)]
#[command(long_about = IMPORT_HELP)]
pub(crate) struct ImportArgs {
    /// The files to read; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
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

--follow goes on after the last entry and prints what is appended. A store is opened by one \
writing process, so this looks at the store's files read-only and without the lock, anew every \
half second, and prints the entries that were not there before. It sees what has been written to \
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

const COMPACT_HELP: &str = "\
Merges segments, so that the entries of an agent lie together, and leaves behind what is dead: \
forgotten agents, truncated and redacted entries, overwritten values.

A process that has the store open compacts by itself, in the background. This command does all \
that is worth it at once, and needs the store for itself. It leaves what is not worth a copy: \
`purge` erases everything that is dead.

Compaction needs room for what it writes before it gives any back. If the disk has too little the \
exit code is 1, and nothing that lives is lost.";

const PURGE_HELP: &str = "\
Erases everything that is dead from every file of the store: forgotten agents, truncated and \
redacted entries, overwritten values, what retention has dropped. Files that hold any of it, \
however little, are written anew without it and removed.

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
copy or is not there. If verifying finds damage the copy stays, the damage is listed and the exit \
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

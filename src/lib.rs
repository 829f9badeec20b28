//! memlog is the storage engine under stateful agent runtimes: for each of millions of agents it
//! keeps an append-only timeline of entries and a small keyed state, in one log-structured,
//! memory-mapped store that survives crashes.
//!
//! ```
//! use memlog::{NewEntry, Store};
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().join("mem");
//! let store = Store::open(&dir)?;
//! let agent = store.agent("acme/support/t-7")?;
//! agent.append(NewEntry::user("hello"))?; // on stable storage when it returns
//!
//! let view = agent.view()?; // a point in time
//! for entry in view.latest(50) {
//!     let entry = entry?;
//!     println!("{} {}: {}", entry.seq(), entry.kind(), entry.text()?);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The words
//!
//! - A **store** is one directory, opened by one writing process: [`Store`], [`Options`].
//! - An **agent** owns a timeline. Its name is a UTF-8 string of 1 to 512 bytes, hierarchical by `/`.
//!   An [`Agent`] is a handle of the name; nothing need exist under it.
//! - A **life** is one existence of an agent: from its first append or set to its forgetting. The
//!   name may be used again, with nothing of the old life visible.
//! - An **entry** is one item of a timeline: [`NewEntry`] on its way in, [`Entry`] on its way out.
//!   Its **seq** is its number in the timeline: dense, from 1, given by the store.
//! - The **state** of an agent is a map from keys to values, last write wins. A value's **revision**
//!   is the lsn of the batch that wrote it: [`StateValue`].
//! - A **batch** is an atomic group of changes, to one agent or several: [`Batch`], [`Receipt`],
//!   [`Commit`]. Its **lsn** is its place in the one order of all batches: [`Lsn`].
//! - The **floor** of an agent is its lowest live seq. Truncation and [`Retention`] only raise it.
//! - A **view** is a consistent read of one agent at one moment: [`View`], [`Entries`].
//!
//! # Durability
//!
//! | [`Durability`] | the call returns when the batch is | survives |
//! |---|---|---|
//! | `Sync` (default) | on stable storage | a power failure |
//! | `Write` | with the operating system | a killed process |
//! | `Buffer` | in memory; written within 10 ms, synced within 1 s | nothing until then |
//!
//! Threads that commit at `Sync` at the same moment share one flush. Others see a batch once it has
//! reached its durability, and the writer when its call returns. No agent ever shows a gap: a batch
//! that follows an unpublished one of stronger durability on the same agent is raised to that.
//!
//! # Changing several things at once
//!
//! Bind the batch to a variable first, since its methods borrow it:
//!
//! ```
//! use memlog::{ErrorKind, Kind, NewEntry, Store};
//! # let dir = tempfile::tempdir()?;
//! # let store = Store::open(dir.path().join("mem"))?;
//! let agent = store.agent("acme/support/t-7")?;
//! let mut batch = store.batch();
//! batch
//!     .append(&agent, NewEntry::new(Kind::TOOL_CALL, "find_order(11)").weight(12))
//!     .append(&agent, NewEntry::new(Kind::TOOL_RESULT, "sent on Monday").joined())
//!     .set(&agent, "goal", "find order 11")
//!     .expect_next(&agent, 1);
//! assert_eq!(batch.commit()?.seqs(&agent), 1..3);
//!
//! // Somebody who still expects seq 1 changes nothing.
//! let late = store.batch().append(&agent, NewEntry::user("?")).expect_next(&agent, 1).commit();
//! assert_eq!(late.unwrap_err().kind(), ErrorKind::Conflict);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Threads and asynchronous code
//!
//! One process has a store open for writing. Any number read it beside that process, or at rest, with
//! [`Options::read_only`], which takes no lock and changes nothing.
//!
//! [`Store`], [`Agent`] and [`View`] are `Send + Sync` and cheap to clone. [`Batch::submit`] orders
//! a batch without waiting for the disk and gives a future that is tied to no runtime.
//! [`Agent::view`] may read from the disk, and the blocking calls wait for it: call them from a
//! blocking task where that matters. [`Batch::try_submit`] and [`Agent::try_view`] do not wait: they
//! answer `None` where they would have to.
//!
//! # Errors and damage
//!
//! Every call that can fail gives an [`Error`] with an [`ErrorKind`] to act on and words to read.
//! Bad input changes nothing. A failed write or sync of the log answers
//! [`Indeterminate`](ErrorKind::Indeterminate), and from then on the store is
//! [`Poisoned`](ErrorKind::Poisoned) for writing, while reads go on, until it is reopened.
//!
//! Every byte on disk is under a checksum that is verified when it is first read. Damage is an error
//! that says where ([`Error::damage`]) or a row in a report ([`Store::verify`],
//! [`RecoveryReport`]). [`Options::salvage`] reads on around it, and [`Options::repair`] copies what
//! is whole into a new store.
//!
//! # Space and erasure
//!
//! Segments are compacted in the background: entries of an agent come to lie together, and what is
//! dead is left behind. [`Store::compact`] does it at once. What was forgotten, truncated or redacted
//! cannot be read from that moment on; [`Store::purge`] erases its bytes from every file, and
//! [`Options::erase_within`] does so within a time without a call. [`Store::backup`] copies a store
//! while it is written.
//!
//! The repository's `docs/format.md` specifies every byte on disk and what an opening makes of it
//! after a crash; `docs/architecture.md` tells how the crate is built.
//!
//! # Features
//!
//! `sim` adds `memlog::sim`, a simulated disk and clock for tests. `unstable-internals` opens the
//! decoders to the fuzz targets of the repository. Both are exempt from semantic versioning.

#[cfg(all(test, memlog_shuttle))]
extern crate self as memlog;

mod agent;
mod batch;
mod catalog;
mod commit;
mod compaction;
mod entry;
mod error;
mod format;
mod holes;
mod io;
mod manifest;
mod options;
mod recovery;
mod repair;
mod retention;
mod segment;
mod snapshot;
mod store;
mod sync;
mod types;
mod verify;
mod view;

pub use agent::Agent;
pub use batch::{Batch, Commit, NewEntry, Receipt};
pub use commit::health::Health;
pub use compaction::{CompactOutcome, ErasureReport};
pub use entry::{Entry, StateValue};
pub use error::{Damage, Error, ErrorKind, Result};
#[cfg(feature = "unstable-internals")]
#[doc(hidden)]
pub use format::internals;
pub use holes::Holes;
#[cfg(feature = "sim")]
pub use io::sim;
pub use options::Options;
pub use recovery::RecoveryReport;
pub use repair::RepairReport;
pub use snapshot::Entries;
pub use store::{Stats, Store};
pub use types::{Durability, Kind, Lsn, Maintenance, Retention, Usage, Verify};
pub use view::View;

/// The examples of the README are tests too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

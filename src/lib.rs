//! memlog: the storage engine under stateful agent runtimes.

mod agent;
mod batch;
mod catalog;
mod commit;
mod entry;
mod error;
mod format;
mod io;
mod manifest;
mod options;
mod recovery;
mod repair;
mod retention;
mod segment;
mod store;
mod types;
mod verify;
mod view;

pub use agent::{Agent, Usage};
pub use batch::{Batch, Commit, NewEntry, Receipt};
pub use entry::{Entry, StateValue};
pub use error::{Damage, Error, ErrorKind, Result};
#[cfg(feature = "sim")]
pub use io::sim;
pub use options::Options;
pub use recovery::RecoveryReport;
pub use store::{Stats, Store};
pub use types::{Durability, Kind, Lsn, Maintenance, Retention, Verify};
pub use view::{Entries, View};

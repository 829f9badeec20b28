//! The one error type: what went wrong, where, for whom, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::types::Lsn;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, in a form that a program can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument can never be right: an empty name, a handle of another store. Nothing changed.
    InvalidInput,
    /// A payload, meta, key or batch is above its limit. Nothing changed.
    TooLarge,
    /// A seq is 0, or beyond the end of the timeline. Nothing changed.
    OutOfRange,
    /// An expectation of the batch did not hold. Nothing changed: read again and retry.
    Conflict,
    /// Bytes on the medium are not what was written; [`Error::damage`] says where.
    Damaged,
    /// A write or sync of the log failed: the batch may be there after reopening, or not.
    Indeterminate,
    /// An earlier write or sync failed: reads go on, writing needs a reopened store.
    Poisoned,
    /// The store was closed.
    Closed,
    /// The store was opened read-only, or for salvage.
    ReadOnly,
    /// Another process, or another handle of this one, has the store open.
    InUse,
    /// The directory is not a store, and creating one was not asked for or not possible.
    NotAStore,
    /// The manifest is older than the segments beside it.
    StaleManifest,
    /// The store is of another format version.
    Version,
    /// The disk is full. Nothing changed; writing goes on once there is room.
    DiskFull,
    /// Any other error of the operating system.
    Io,
    /// An error of the program's own, made by [`Error::other`]. The store itself never answers it.
    Other,
}

/// One place where bytes on the medium are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// The position in the log, where it is known.
    pub lsn: Option<Lsn>,
    /// The agents known to be touched. Empty if the damage hides whom it hits.
    pub agents: Vec<String>,
    /// What is wrong, in words.
    pub reason: String,
}

impl Damage {
    pub(crate) fn new(file: impl Into<PathBuf>, offset: u64, reason: impl Into<String>) -> Self {
        Damage { file: file.into(), offset, lsn: None, agents: Vec::new(), reason: reason.into() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {} of {}", self.reason, self.offset, self.file.display())?;
        if let Some(lsn) = self.lsn {
            write!(f, " (lsn {lsn})")?;
        }
        if !self.agents.is_empty() {
            write!(f, " (agents: {})", self.agents.join(", "))?;
        }
        Ok(())
    }
}

/// Why a call failed. Cheap to clone; one pointer in size.
///
/// ```
/// use memlog::{ErrorKind, Store};
/// # let dir = tempfile::tempdir()?;
/// let store = Store::open(dir.path().join("mem"))?;
/// let error = store.agent("").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidInput);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    agent: Option<String>,
    seq: Option<u64>,
    damage: Option<Damage>,
    path: Option<PathBuf>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// What went wrong, in a form that a program can act on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The name of the agent concerned, where there is one.
    #[must_use]
    pub fn agent(&self) -> Option<&str> {
        self.0.agent.as_deref()
    }

    /// The seq concerned, where there is one. After an iterator's error, `range(seq + 1..)` goes on
    /// behind it.
    #[must_use]
    pub fn seq(&self) -> Option<u64> {
        self.0.seq
    }

    /// Where the damage is, for [`ErrorKind::Damaged`].
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.0.damage.as_ref()
    }

    /// The file or directory concerned, where there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        let damaged = self.0.damage.as_ref().map(|damage| damage.file.as_path());
        damaged.or(self.0.path.as_deref())
    }

    /// An error of the program's own, of kind [`Other`](ErrorKind::Other), for functions that call
    /// the store and answer its [`Result`]. It says what `source` says, and has it as its source.
    ///
    /// ```
    /// use memlog::{Agent, Error, ErrorKind};
    ///
    /// fn step(agent: &Agent) -> memlog::Result<u32> {
    ///     let view = agent.view()?;
    ///     let text = view.state("steps")?.map(|value| value.value().to_vec()).unwrap_or_default();
    ///     let text = String::from_utf8(text).map_err(Error::other)?;
    ///     text.parse().map_err(Error::other)
    /// }
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let store = memlog::Store::open(dir.path().join("mem"))?;
    /// let error = step(&store.agent("a")?).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Other);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn other(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        let mut error = Error::new(ErrorKind::Other, source.to_string());
        Arc::make_mut(&mut error.0).source = Some(Arc::new(source));
        error
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Arc::new(Inner {
            kind,
            message: message.into(),
            agent: None,
            seq: None,
            damage: None,
            path: None,
            source: None,
        }))
    }

    pub(crate) fn damaged(damage: Damage) -> Self {
        let mut error = Error::new(
            ErrorKind::Damaged,
            format!(
                "damaged: {damage}; read what is left with Options::salvage, or copy it with repair"
            ),
        );
        let inner = Arc::make_mut(&mut error.0);
        inner.agent = damage.agents.first().cloned();
        inner.damage = Some(damage);
        error
    }

    /// A file that needs features which this crate does not have.
    pub(crate) fn features(path: &Path, names: &str) -> Self {
        Error::new(
            ErrorKind::Version,
            format!(
                "{} needs features of the format that this memlog does not have ({names}): open it \
                 with the memlog that wrote it",
                path.display()
            ),
        )
    }

    /// A file of another format version than `ours`.
    pub(crate) fn version(path: &Path, found: u32, ours: u32) -> Self {
        Error::new(
            ErrorKind::Version,
            format!(
                "{} is of format version {found}, and this memlog reads version {ours}: open it \
                 with the memlog that wrote it",
                path.display()
            ),
        )
    }

    /// An operating system's error while `doing` something to `path`.
    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
            _ => ErrorKind::Io,
        };
        let mut message = format!("cannot {doing} {}", path.display());
        if source.kind() == io::ErrorKind::PermissionDenied {
            message.push_str(" (only the user whom the store's files belong to may)");
        }
        Error::new(kind, message).with_path(path).with_source(source)
    }

    pub(crate) fn with_agent(mut self, agent: &str) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.agent = Some(agent.to_owned());
        if let Some(damage) = &mut inner.damage
            && damage.agents.is_empty()
        {
            damage.agents.push(agent.to_owned());
        }
        self
    }

    /// Adds an agent that the damage touches.
    pub(crate) fn touching(mut self, agent: &str) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.agent.get_or_insert_with(|| agent.to_owned());
        if let Some(damage) = &mut inner.damage {
            damage.agents.push(agent.to_owned());
        }
        self
    }

    /// Names the agent, unless the error names one already.
    pub(crate) fn for_agent(self, agent: &str) -> Self {
        if self.0.agent.is_some() { self } else { self.with_agent(agent) }
    }

    pub(crate) fn with_seq(mut self, seq: u64) -> Self {
        Arc::make_mut(&mut self.0).seq = Some(seq);
        self
    }

    pub(crate) fn with_path(mut self, path: &Path) -> Self {
        Arc::make_mut(&mut self.0).path = Some(path.to_owned());
        self
    }

    pub(crate) fn with_source(mut self, source: io::Error) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Arc::new(source));
        self
    }

    /// The same cause under another kind, for those who meet it later.
    pub(crate) fn restated(&self, kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut inner = (*self.0).clone();
        inner.message = format!("{}: {}", message.into(), inner.message);
        inner.kind = kind;
        Error(Arc::new(inner))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(agent) = &self.0.agent {
            write!(f, " [agent {agent}]")?;
        }
        if let Some(seq) = self.0.seq {
            write!(f, " [seq {seq}]")?;
        }
        match &self.0.source {
            // The words of an error of the program's own are its source's.
            Some(source) if self.0.kind != ErrorKind::Other => write!(f, ": {source}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::InvalidInput | ErrorKind::TooLarge | ErrorKind::OutOfRange => {
                io::ErrorKind::InvalidInput
            }
            ErrorKind::Damaged | ErrorKind::Version | ErrorKind::StaleManifest => {
                io::ErrorKind::InvalidData
            }
            ErrorKind::NotAStore => io::ErrorKind::NotFound,
            ErrorKind::InUse => io::ErrorKind::ResourceBusy,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::DiskFull => io::ErrorKind::StorageFull,
            ErrorKind::Io => {
                let source = error.0.source.as_deref();
                let source = source.and_then(|source| source.downcast_ref::<io::Error>());
                source.map_or(io::ErrorKind::Other, io::Error::kind)
            }
            ErrorKind::Other
            | ErrorKind::Conflict
            | ErrorKind::Indeterminate
            | ErrorKind::Poisoned
            | ErrorKind::Closed => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

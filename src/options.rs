//! How a store is opened.

use std::time::Duration;

use crate::types::{Durability, Maintenance, Retention, Verify};

/// The largest payload of an entry and value of a state, in bytes: 32 MiB.
pub(crate) const MAX_PAYLOAD: u32 = 32 << 20;
/// The largest meta of an entry, in bytes: 64 KiB.
pub(crate) const MAX_META: usize = 64 << 10;
/// The longest name of an agent, in bytes.
pub(crate) const MAX_NAME: usize = 512;
/// The longest key of a state, in bytes.
pub(crate) const MAX_KEY: usize = 1024;
/// The largest encoded batch, in bytes: 64 MiB.
pub(crate) const MAX_BATCH: usize = 64 << 20;

/// How a store is opened; every choice has a sensible default.
///
/// ```
/// use memlog::{Durability, Options};
/// # let dir = tempfile::tempdir()?;
/// let store = Options::new().durability(Durability::Write).open(dir.path().join("mem"))?;
/// store.agent("acme/t-1")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Options {
    pub(crate) durability: Durability,
    pub(crate) verify: Verify,
    pub(crate) maintenance: Maintenance,
    pub(crate) retention: Retention,
    pub(crate) segment_bytes: u64,
    pub(crate) spare_bytes: u64,
    pub(crate) resident_bytes: usize,
    pub(crate) max_payload: u32,
    pub(crate) max_unsynced: u64,
    pub(crate) flush_interval: Duration,
    pub(crate) sync_interval: Duration,
    pub(crate) erase_within: Option<Duration>,
    pub(crate) scan_interval: Duration,
    pub(crate) extent_bytes: u64,
    pub(crate) dead_share: u64,
    pub(crate) compaction_rate: u64,
    pub(crate) create: bool,
    pub(crate) salvage: bool,
    pub(crate) read_only: bool,
    pub(crate) mode: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The defaults, which each method below names.
    pub fn new() -> Self {
        Options {
            durability: Durability::Sync,
            verify: Verify::FirstTouch,
            maintenance: Maintenance::Background,
            retention: Retention::new(),
            segment_bytes: 64 << 20,
            spare_bytes: 192 << 20,
            resident_bytes: 64 << 20,
            max_payload: MAX_PAYLOAD,
            max_unsynced: 64 << 20,
            flush_interval: Duration::from_millis(10),
            sync_interval: Duration::from_secs(1),
            erase_within: None,
            scan_interval: Duration::from_secs(30),
            extent_bytes: 64 << 10,
            dead_share: 50,
            compaction_rate: 256 << 20,
            create: true,
            salvage: false,
            read_only: false,
            mode: 0o600,
        }
    }

    /// The durability of batches that name none. Default: [`Durability::Sync`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// When checksums of data read are verified. Default: [`Verify::FirstTouch`].
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// Who does the background work. Default: [`Maintenance::Background`].
    pub fn maintenance(mut self, maintenance: Maintenance) -> Self {
        self.maintenance = maintenance;
        self
    }

    /// How much of a timeline is kept of agents without a policy of their own. Default: everything.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// The largest log segment, in bytes, from 256 KiB to 1 GiB (clamped). Default: 64 MiB.
    /// The first one has 128 KiB; later ones begin at 1 MiB and grow with the rate of writing.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes.clamp(256 << 10, 1 << 30);
        self
    }

    /// The most that log segments made ahead of need take on the disk, in bytes: up to three where
    /// segments fill up within moments, else one. Default: 192 MiB. A batch that finds its segment
    /// full and none ahead waits until one is made, some milliseconds; so 0 saves disk and costs the
    /// longest appends. A store that rests for [`scan_interval`](Self::scan_interval), or is closed,
    /// gives back what was made ahead.
    pub fn spare_bytes(mut self, bytes: u64) -> Self {
        self.spare_bytes = bytes;
        self
    }

    /// About how much memory agents at rest may take, in bytes. Default: 64 MiB. Agents with
    /// entries in an unsealed segment are held besides.
    pub fn resident_bytes(mut self, bytes: usize) -> Self {
        self.resident_bytes = bytes;
        self
    }

    /// The largest payload accepted, in bytes, up to 32 MiB, which is the default.
    pub fn max_payload(mut self, bytes: u32) -> Self {
        self.max_payload = bytes.min(MAX_PAYLOAD);
        self
    }

    /// How many bytes may be written and not yet synced, beyond which appenders are slowed down to
    /// the disk's rate. At least 1 MiB. Default: 64 MiB.
    pub fn max_unsynced(mut self, bytes: u64) -> Self {
        self.max_unsynced = bytes.max(1 << 20);
        self
    }

    /// Within what time a batch at [`Durability::Buffer`] is written. Default: 10 ms.
    pub fn flush_interval(mut self, interval: Duration) -> Self {
        self.flush_interval = interval;
        self
    }

    /// Within what time a batch below [`Durability::Sync`] is synced. Default: 1 s.
    pub fn sync_interval(mut self, interval: Duration) -> Self {
        self.sync_interval = interval;
        self
    }

    /// How long what is dead - forgotten, truncated, redacted, overwritten, expired - may stay in the
    /// store's files: with [`Maintenance::Background`] it is erased in that time without a call of
    /// [`Store::purge`](crate::Store::purge). Default: no such bound. The bound holds as far as disk
    /// and processor keep up with the appends.
    pub fn erase_within(mut self, time: Duration) -> Self {
        self.erase_within = Some(time);
        self
    }

    /// How long a possible death may go unnoticed in a store that rests: after a forgotten prefix or
    /// a changed policy, after the last append under a policy, and after an expiry, the footers of
    /// all sealed segments are scanned for garbage within about this time, and what is found is
    /// reclaimed. A scan reads a page or less an agent; scans take at most a sixteenth of the time,
    /// so that they come more seldom in a store where one takes long. A store that nothing was
    /// appended to for this long is idle: what is left of its log is then clustered without waiting
    /// for more. Default: 30 s. At least 1 s.
    pub fn scan_interval(mut self, interval: Duration) -> Self {
        self.scan_interval = interval.max(Duration::from_secs(1));
        self
    }

    /// Compaction clusters the entries of an agent until it finds about this many bytes of them in
    /// one place. Default 64 KiB: a load is then one read. At least 4 KiB.
    pub fn extent_bytes(mut self, bytes: u64) -> Self {
        self.extent_bytes = bytes.max(4 << 10);
        self
    }

    /// Compaction rewrites segments of which this share is dead, in percent. Default 50; from 10 to
    /// 90. A lower share saves space and costs writes.
    pub fn dead_share(mut self, percent: u8) -> Self {
        self.dead_share = u64::from(percent.clamp(10, 90));
        self
    }

    /// Bytes a second that compaction in the background writes at most. Default 256 MiB. Calls of
    /// [`compact`](crate::Store::compact) and [`purge`](crate::Store::purge) take no heed of it.
    ///
    /// Appends whose deaths outrun compaction are slowed down, in small steps, to the rate at which
    /// it reclaims, and up to four times this limit are written meanwhile: what is dead stays in
    /// proportion to what lives. So a low limit is one for appends too, where much dies.
    pub fn compaction_rate(mut self, bytes: u64) -> Self {
        self.compaction_rate = bytes.max(1 << 20);
        self
    }

    /// Whether an absent or empty directory becomes a new store. Default: yes.
    pub fn create(mut self, yes: bool) -> Self {
        self.create = yes;
        self
    }

    /// The permission bits of the files that the store creates, as `chmod` takes them, less what the
    /// process's umask takes away. Default: `0o600`, the owner alone. The owner can always read and
    /// write; of the other bits `0o066` count.
    ///
    /// A directory that is created gets the same bits, and may be searched by all who may read it:
    /// `0o700` with the default, `0o750` with `0o640`. What exists keeps its mode, a directory that
    /// the store is opened in too. Backups and repairs that the options make follow the same rule;
    /// a backup by hard links shares the files with their mode. A simulated disk has no modes.
    ///
    /// ```
    /// use std::os::unix::fs::PermissionsExt;
    /// use memlog::Options;
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("mem");
    /// let store = Options::new().mode(0o600).open(&path)?;
    /// let mode = std::fs::metadata(path.join("MANIFEST"))?.permissions().mode();
    /// assert_eq!(mode & 0o777, 0o600);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = 0o600 | (mode & 0o066);
        self
    }

    /// Opens the store for reading only, strictly: what an opening for writing would refuse as damaged
    /// is refused, and what can be read is all that there is. It takes no lock and changes nothing in
    /// the directory, which may be on a read-only medium: a store that no process has open, one that
    /// another process writes, a backup. Default: no.
    ///
    /// It shows the store as of the opening; open it again to see more. Beside a writer it shows what
    /// the writer has given to the operating system: a batch that is on its way to stable storage may
    /// be seen before it is there, and one that the writer holds in memory is not seen. Calls that
    /// change something answer [`ReadOnly`](crate::ErrorKind::ReadOnly).
    ///
    /// An opening reads the manifest, the footers of sealed segments, and the unsealed end of the log,
    /// a few segments. It blocks for these reads, and for some ms more where a writer replaces files
    /// meanwhile. The retention of the store is applied as the writer last had it.
    ///
    /// ```
    /// use memlog::{ErrorKind, NewEntry, Options, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path().join("mem");
    /// let store = Store::open(&dir)?;
    /// store.agent("a")?.append(NewEntry::user("hello"))?;
    /// let reader = Options::new().read_only(true).open(&dir)?; // beside the writer
    /// let agent = reader.agent("a")?;
    /// assert_eq!(agent.view()?.iter().count(), 1);
    /// let refused = agent.append(NewEntry::user("more")).unwrap_err();
    /// assert_eq!(refused.kind(), ErrorKind::ReadOnly);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_only(mut self, yes: bool) -> Self {
        self.read_only = yes;
        self
    }

    /// Opens read-only and as much as can be read: damaged entries keep their seq, and iterators
    /// yield [`Damaged`](crate::ErrorKind::Damaged) in their place and go on. It takes no lock,
    /// changes no file, and shows a store that another process has open as of this moment.
    /// Default: no.
    pub fn salvage(mut self, yes: bool) -> Self {
        self.salvage = yes;
        self
    }
}

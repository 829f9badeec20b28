//! A segment: one file, mapped read-only. Log segments are written through a [`LogFile`] beside the
//! map; sealed ones end with a footer.

mod check;
mod index;
pub(crate) mod pieces;
pub(crate) mod scan;
#[cfg(all(test, feature = "sim"))]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing;
#[cfg(all(test, feature = "sim"))]
mod tests;
pub(crate) mod window;
pub(crate) mod writer;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::{Damage, Error, Result};
use crate::format::codec::u32_at;
use crate::format::footer::{self, Bounds, FooterRef, LACKS_FEATURES, TRAILER_LEN, Trailer};
use crate::format::head::Head;
use crate::format::header::{HEADER_LEN, Header, HeaderFault, Layout};
use crate::format::manifest::{Listed, Role};
use crate::format::record::{self, Append, Record};
use crate::format::touched::Touched;
use crate::format::{Fault, VERSION, features};
use crate::io::{Io, Map};
use crate::segment::index::Index;
pub(crate) use crate::segment::index::Step;
use crate::segment::scan::Frames;
use crate::sync::Published;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::types::{Lsn, Verify};

/// Two appends never begin within the same 32 bytes: one bit of "verified" for each.
const RECORD_GRANULE: usize = 32;

/// The name of a segment's file.
pub(crate) fn file_name(id: u64, run: bool) -> String {
    format!("{id:016x}.{}", if run { "run" } else { "log" })
}

/// The id and layout that a segment's file name tells of.
pub(crate) fn parse_file_name(name: &str) -> Option<(u64, bool)> {
    let (id, run) = match name.split_once('.')? {
        (id, "log") => (id, false),
        (id, "run") => (id, true),
        _ => return None,
    };
    if id.len() != 16 || !id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    u64::from_str_radix(id, 16).ok().map(|id| (id, run))
}

/// A mapped segment. Bytes below its published end never change.
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) salt: u64,
    pub(crate) base: u64,
    pub(crate) capacity: u64,
    pub(crate) run: bool,
    path: PathBuf,
    map: Map,
    /// Offset in the file below which bytes were written and may be read.
    published: Published,
    /// The generation of the set of segments that first held it as sealed; MAX before that.
    sealed_at: AtomicU64,
    verify: Verify,
    touched: Touched,
    footer: OnceLock<Footer>,
    /// Bytes of dead content, as far as that is known, and the oldest death among them in ms since
    /// the epoch; 0: none.
    dead: AtomicU64,
    dead_since: AtomicU64,
    /// The lowest expiry of its entries that have their bytes, in ms since the epoch; MAX: none has
    /// an expiry.
    next_expiry: AtomicU64,
    /// An agent in it has, or had, a policy of its own.
    policies: AtomicBool,
    /// Part of it proved damaged: compaction leaves it alone until the store is opened again.
    quarantined: AtomicBool,
    /// Names of which the segment is not to tell, since a run that was made from it does.
    hidden: OnceLock<Vec<Names>>,
}

/// Names from the first on, up to the second, itself excluded; `None`: to the end of all names.
pub(crate) type Names = (Box<str>, Option<Box<str>>);

/// A copy of bounds that outlives their footer.
pub(crate) fn names_within((from, to): Bounds<'_>) -> Names {
    (from.into(), to.map(Into::into))
}

struct Footer {
    trailer: Trailer,
    /// A footer that was built from frames because the file has none, or a damaged one.
    heap: Option<Vec<u8>>,
    touched: Touched,
    index: Index,
}

impl Segment {
    /// Maps a segment's file and checks that it is the one that `listed` means.
    ///
    /// # Errors
    /// `Damaged` if the file is missing, of another length, or not this segment's.
    pub(crate) fn open(
        io: &Io,
        dir: &Path,
        store: u128,
        listed: &Listed,
        verify: Verify,
    ) -> Result<Self> {
        let path = dir.join(file_name(listed.id, listed.run));
        let file = io.fs.open(&path, false).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::damaged(Damage::new(
                &path,
                0,
                "the segment is missing: bring the file back, or repair the store without it",
            )),
            _ => Error::io("open", &path, e),
        })?;
        let len = file.len().map_err(|e| Error::io("measure", &path, e))?;
        if len != listed.capacity {
            let reason = format!("the segment is {len} bytes long and not {}", listed.capacity);
            return Err(Error::damaged(Damage::new(&path, len.min(listed.capacity), reason)));
        }
        let map = file.map(len).map_err(|e| Error::io("map", &path, e))?;
        let segment = Segment::assemble(path, map, listed, verify);
        // What a sealed segment's header says, its trailer says again, which is read anyway.
        if listed.role != Role::Sealed {
            segment.check_header(store)?;
        }
        Ok(segment)
    }

    pub(crate) fn assemble(path: PathBuf, map: Map, listed: &Listed, verify: Verify) -> Self {
        Segment {
            id: listed.id,
            salt: listed.salt,
            base: listed.base,
            capacity: listed.capacity,
            run: listed.run,
            path,
            touched: Touched::new(in_memory(map.len()), RECORD_GRANULE)
                .always(verify == Verify::Always),
            map,
            published: Published::new(HEADER_LEN as u64),
            sealed_at: AtomicU64::new(u64::MAX),
            verify,
            footer: OnceLock::new(),
            dead: AtomicU64::new(listed.dead),
            dead_since: AtomicU64::new(listed.dead_since),
            next_expiry: AtomicU64::new(u64::MAX),
            policies: AtomicBool::new(false),
            quarantined: AtomicBool::new(false),
            hidden: OnceLock::new(),
        }
    }

    /// Lets the segment tell nothing of these names. For salvage, before anybody looks.
    pub(crate) fn hide_names(&self, names: Vec<Names>) {
        self.hidden.get_or_init(|| names);
    }

    /// Whether the segment is not to tell of this name.
    pub(crate) fn hides(&self, name: &str) -> bool {
        let within = |(from, to): &Names| footer::contain((from, to.as_deref()), name);
        self.hidden.get().is_some_and(|hidden| hidden.iter().any(within))
    }

    fn check_header(&self, store: u128) -> Result<()> {
        let header = self.header()?;
        let layout = if self.run { Layout::Run } else { Layout::Log };
        let expected = Header {
            store,
            id: self.id,
            salt: self.salt,
            base: self.base,
            capacity: self.capacity,
            layout,
            ..header
        };
        if header != expected {
            return Err(self.damage(0, "the file is another segment, or of another store"));
        }
        Ok(())
    }

    /// The segment's own header.
    pub(crate) fn header(&self) -> Result<Header> {
        Header::decode(self.map.get(0, HEADER_LEN).unwrap_or_default()).map_err(|e| match e {
            HeaderFault::Damaged(Fault(reason)) => self.damage(0, reason),
            HeaderFault::Version(found) => Error::version(&self.path, found, VERSION),
            HeaderFault::Features(bits) => Error::features(&self.path, &features::names(bits)),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The error for damage at `offset` of this file.
    pub(crate) fn damage(&self, offset: u64, reason: &str) -> Error {
        let mut damage = Damage::new(&self.path, offset, reason);
        // What lies in a run has left its place in the log behind.
        damage.lsn = self.base.checked_add(offset).filter(|_| !self.run).map(Lsn);
        Error::damaged(damage)
    }

    /// The whole file, for recovery and salvage, when nobody writes it.
    pub(crate) fn frames(&self) -> Frames<'_> {
        let len = usize::try_from(self.capacity).unwrap_or(usize::MAX);
        let bytes = self.map.get(0, len).unwrap_or_default();
        Frames { bytes, start: 0, salt: self.salt, base: self.base }
    }

    /// What has been published of the file, while it may be written further.
    pub(crate) fn published_frames(&self) -> Frames<'_> {
        let bytes = self.map.get(0, in_memory(self.published())).unwrap_or_default();
        Frames { bytes, start: 0, salt: self.salt, base: self.base }
    }

    /// Whether its footer was built beside the file, from its frames.
    pub(crate) fn is_rebuilt(&self) -> bool {
        self.footer.get().is_some_and(|footer| footer.heap.is_some())
    }

    /// Whether the footer is the file's own, and not one that was built beside it.
    pub(crate) fn has_own_footer(&self) -> bool {
        self.footer.get().is_some_and(|footer| footer.heap.is_none())
    }

    /// Verifies the trailer again.
    pub(crate) fn reread_footer(&self) -> Result<()> {
        let start = self.capacity.saturating_sub(TRAILER_LEN as u64);
        let bytes = self.map.get(start, TRAILER_LEN).unwrap_or_default();
        match Trailer::read(bytes, self.capacity) {
            Ok(_) => Ok(()),
            Err(Fault(reason)) => Err(self.damage(start, reason)),
        }
    }

    /// The offset below which bytes may be read.
    #[inline]
    pub(crate) fn published(&self) -> u64 {
        self.published.get()
    }

    /// Publishes everything below `offset`: it was written, and never changes again.
    pub(crate) fn publish(&self, offset: u64) {
        self.published.raise(offset);
    }

    /// The generation of the set of segments that first held it as sealed; MAX before that.
    pub(crate) fn sealed_at(&self) -> u64 {
        self.sealed_at.load(Ordering::Acquire)
    }

    pub(crate) fn set_sealed_at(&self, generation: u64) {
        self.sealed_at.store(generation, Ordering::Release);
    }

    /// Reads the trailer, and with it the footer. `check` is what the manifest says of it.
    pub(crate) fn load_footer(&self, check: Option<u32>) -> Result<()> {
        let start = self.capacity.saturating_sub(TRAILER_LEN as u64);
        let bytes = self.map.get(start, TRAILER_LEN).unwrap_or_default();
        let trailer = Trailer::read(bytes, self.capacity).map_err(|fault| {
            if fault == LACKS_FEATURES {
                Error::features(&self.path, "of its footer")
            } else {
                self.damage(start, fault.0)
            }
        })?;
        let first = self.base.saturating_add(HEADER_LEN as u64);
        let facts = &trailer.facts;
        if (facts.segment, facts.salt, facts.first_lsn) != (self.id, self.salt, first) {
            return Err(self.damage(start, "the footer is another segment's"));
        }
        if check.is_some() && check != u32_at(bytes, TRAILER_CHECK_AT) {
            return Err(self.damage(start, "the footer is not the one that the manifest lists"));
        }
        self.set_next_expiry(trailer.soonest);
        if trailer.flags & Head::POLICY != 0 {
            self.note_policy();
        }
        self.publish(trailer.facts.data_end);
        let touched = self.footer_touched(trailer.footer_len());
        self.footer.get_or_init(|| Footer {
            trailer,
            heap: None,
            touched,
            index: Index::default(),
        });
        Ok(())
    }

    /// Gives a segment without a usable footer one that was built from its frames.
    /// It is as if the file were `file_len` bytes long.
    pub(crate) fn adopt_footer(&self, bytes: Vec<u8>, file_len: u64) -> Result<()> {
        let tail = bytes.len().saturating_sub(TRAILER_LEN);
        let trailer = Trailer::read(bytes.get(tail..).unwrap_or_default(), file_len)
            .map_err(|Fault(reason)| self.damage(0, reason))?;
        self.publish(trailer.facts.data_end);
        let touched = self.footer_touched(bytes.len() as u64);
        let heap = Some(bytes);
        self.footer.get_or_init(|| Footer { trailer, heap, touched, index: Index::default() });
        Ok(())
    }

    fn footer_touched(&self, len: u64) -> Touched {
        Touched::new(in_memory(len), footer::GRANULE).always(self.verify == Verify::Always)
    }

    /// The footer of a sealed segment; `None` before it is sealed.
    pub(crate) fn footer(&self) -> Option<Result<FooterRef<'_>>> {
        let footer = self.footer.get()?;
        let bytes =
            self.footer_bytes(footer, footer.trailer.footer_at, footer.trailer.footer_len());
        let made = FooterRef::new(&footer.trailer, bytes.unwrap_or_default(), &footer.touched);
        Some(made.map_err(|fault| self.footer_damage(fault)))
    }

    /// Bytes of the footer, by their place in the file, wherever it lies.
    #[inline]
    fn footer_bytes<'a>(&'a self, footer: &'a Footer, at: u64, len: u64) -> Option<&'a [u8]> {
        let len = usize::try_from(len).ok()?;
        match &footer.heap {
            None => self.map.get(at, len),
            Some(bytes) => {
                let start = usize::try_from(at.checked_sub(footer.trailer.footer_at)?).ok()?;
                bytes.get(start..start.checked_add(len)?)
            }
        }
    }

    /// The place of entry `index` of an extent whose offsets begin at `offsets_at`, in units of 8
    /// bytes. The block that holds them was verified when the extent was found.
    #[inline]
    pub(crate) fn extent_offset(&self, offsets_at: u64, index: u64) -> Option<u32> {
        let at = offsets_at.checked_add(index.checked_mul(4)?)?;
        u32_at(self.footer_bytes(self.footer.get()?, at, 4)?, 0)
    }

    /// The places of these entries of an extent, 4 bytes each; empty if they are not there.
    pub(crate) fn extent_offsets(&self, offsets_at: u64, entries: Range<u64>) -> &[u8] {
        let at = offsets_at.saturating_add(entries.start.saturating_mul(4));
        let len = entries.end.saturating_sub(entries.start).saturating_mul(4);
        let bytes = self.footer.get().and_then(|footer| self.footer_bytes(footer, at, len));
        bytes.unwrap_or_default()
    }

    /// The error for a damaged footer.
    pub(crate) fn footer_damage(&self, Fault(reason): Fault) -> Error {
        self.damage(self.trailer().map_or(0, |t| t.footer_at), reason)
    }

    /// The lsn up to which the segment covers the log, itself excluded; MAX as long as frames may be
    /// added. Where a record lies in a run says nothing of its lsn.
    pub(crate) fn end_lsn(&self) -> u64 {
        match self.trailer() {
            Some(trailer) if self.run => trailer.facts.highest_lsn,
            Some(trailer) => self.base.saturating_add(trailer.facts.data_end),
            None => u64::MAX,
        }
    }

    /// Bytes of dead content, as far as that is known, and the time of the oldest death; 0: none.
    pub(crate) fn dead(&self) -> (u64, u64) {
        (self.dead.load(Ordering::Relaxed), self.dead_since.load(Ordering::Relaxed))
    }

    /// Counts bytes of content that die at `time`.
    pub(crate) fn add_dead(&self, bytes: u64, time: u64) {
        if bytes > 0 {
            self.dead.fetch_add(bytes, Ordering::Relaxed);
            let _ = self.dead_since.compare_exchange(
                0,
                time.max(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// Takes what a scan at `time` found.
    pub(crate) fn set_dead(&self, bytes: u64, time: u64) {
        self.dead.store(0, Ordering::Relaxed);
        if bytes == 0 {
            self.dead_since.store(0, Ordering::Relaxed);
        }
        self.add_dead(bytes, time);
    }

    /// An entry with this expiry was added. True for the first one that has any.
    #[inline]
    pub(crate) fn note_expiry(&self, date: u64) -> bool {
        self.next_expiry.fetch_min(date, Ordering::Relaxed) == u64::MAX
    }

    /// The lowest expiry of its entries that have their bytes, in ms since the epoch; MAX: none has
    /// an expiry.
    pub(crate) fn next_expiry(&self) -> u64 {
        self.next_expiry.load(Ordering::Relaxed)
    }

    /// Takes what a scan found.
    pub(crate) fn set_next_expiry(&self, date: u64) {
        self.next_expiry.store(date, Ordering::Relaxed);
    }

    /// A policy of an agent was set or cleared in it.
    pub(crate) fn note_policy(&self) {
        self.policies.store(true, Ordering::Relaxed);
    }

    /// Whether an agent in it has, or had, a policy of its own.
    pub(crate) fn has_policies(&self) -> bool {
        self.policies.load(Ordering::Relaxed)
    }

    /// Leaves the segment to readers, and to a repair: part of it proved damaged.
    pub(crate) fn quarantine(&self) {
        self.quarantined.store(true, Ordering::Relaxed);
    }

    /// Whether part of it proved damaged.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Relaxed)
    }

    /// Bytes of the file before the footer that mean something; all of it before it is sealed.
    pub(crate) fn data_len(&self) -> u64 {
        self.trailer().map_or(self.capacity, |trailer| trailer.facts.data_end)
    }

    /// What it takes on disk: the room between data and footer is given back.
    pub(crate) fn disk_len(&self) -> u64 {
        let page = crate::format::PAGE as u64;
        self.trailer().map_or(self.capacity, |trailer| {
            trailer.facts.data_end.next_multiple_of(page).saturating_add(trailer.footer_len())
        })
    }

    /// Bytes of the file as they are, for a copy of a sealed segment.
    pub(crate) fn raw(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.trailer().and_then(|_| self.map.get(offset, len))
    }

    /// Whether remains of frames that a recovery cut, or of an earlier footer, lie between data and
    /// footer. The blocks there are given back after the manifest was replaced, and a process may end
    /// in between. Reads what is not a hole.
    ///
    /// # Errors
    /// If the file cannot be opened or searched.
    pub(crate) fn has_remains(&self, io: &Io) -> Result<bool> {
        let own = self.trailer().filter(|_| self.has_own_footer() && !self.run);
        let Some(trailer) = own else { return Ok(false) };
        let failed = |e| Error::io("look for remains in", &self.path, e);
        let (mut at, end) = (trailer.facts.data_end, trailer.footer_at);
        if at >= end {
            return Ok(false);
        }
        let file = io.fs.open(&self.path, false).map_err(failed)?;
        while let Some(data) = file.data_from(at).map_err(failed)?.filter(|data| data.start < end) {
            let from = data.start.max(at);
            at = data.end.min(end).max(from.saturating_add(1));
            let bytes = self.map.get(from, in_memory(at.min(end).saturating_sub(from)));
            if bytes.is_some_and(|bytes| !scan::is_zero(bytes)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The lsn at which what it covers begins: that of its first frame, or of the oldest segment that
    /// a run was made from.
    pub(crate) fn lowest_lsn(&self) -> u64 {
        self.trailer().map_or(self.base, |trailer| trailer.facts.lowest_lsn)
    }

    /// The footer's trailer, if the segment is sealed.
    pub(crate) fn trailer(&self) -> Option<&Trailer> {
        self.footer.get().map(|f| &f.trailer)
    }

    /// The record at `offset`, verified as the store was told to.
    #[inline]
    pub(crate) fn record(&self, offset: u64) -> Result<Record<'_>> {
        self.record_bytes(offset)
            .and_then(record::decode)
            .map_err(|Fault(reason)| self.damage(offset, reason))
    }

    /// The append at `offset`; `verified`: its check was looked at before.
    #[inline]
    pub(crate) fn entry(&self, offset: u64, verified: bool) -> Result<Append<'_>> {
        let bytes = if verified { self.stated_bytes(offset) } else { self.record_bytes(offset) };
        match bytes.and_then(record::decode_entry) {
            Ok(Some(append)) => Ok(append),
            Ok(None) => Err(self.damage(offset, "the index leads to a record that is no entry")),
            Err(Fault(reason)) => Err(self.damage(offset, reason)),
        }
    }

    /// Whether nothing read counts as verified.
    pub(crate) fn verifies_always(&self) -> bool {
        self.verify == Verify::Always
    }

    /// Reads the beginning of the record at `offset`, so that it is near when it is needed.
    #[inline]
    pub(crate) fn peek(&self, offset: u64) -> u32 {
        self.map.get(offset, 8).and_then(|bytes| u32_at(bytes, 4)).unwrap_or(0)
    }

    #[inline]
    fn record_bytes(&self, offset: u64) -> std::result::Result<&[u8], Fault> {
        let bytes = self.stated_bytes(offset)?;
        self.touched.first(in_memory(offset), || {
            record::verify(bytes, self.salt, offset).map(|_plain| ())
        })?;
        Ok(bytes)
    }

    #[inline]
    fn stated_bytes(&self, offset: u64) -> std::result::Result<&[u8], Fault> {
        const OUTSIDE: Fault = Fault("a record lies outside the segment's data");
        let end = self.published();
        let prefix = self.map.get(offset, 8).filter(|_| offset < end).ok_or(OUTSIDE)?;
        let len = record::stated_len(prefix)?;
        if offset.saturating_add(len as u64) > end {
            return Err(OUTSIDE);
        }
        self.map.get(offset, len).ok_or(OUTSIDE)
    }

    /// Bytes of the file that a slice handed out earlier covers.
    pub(crate) fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let end = offset.checked_add(len as u64)?;
        if end > self.published() {
            return None;
        }
        self.map.get(offset, len)
    }

    /// Whether the record at `offset` has been read before, as far as that is noted.
    pub(crate) fn is_touched(&self, offset: u64) -> bool {
        self.verify == Verify::Always || self.touched.test(in_memory(offset))
    }

    /// Tells the system that exactly this range is about to be read.
    pub(crate) fn will_need(&self, range: Range<u64>) {
        let len = range.end.min(self.capacity).saturating_sub(range.start);
        self.map.will_need(range.start, in_memory(len));
    }

    /// Tells the system that the segment is about to be read in order, or no longer.
    pub(crate) fn will_scan(&self, scan: bool) {
        self.map.will_scan(scan);
    }
}

/// Where a trailer keeps its check.
const TRAILER_CHECK_AT: usize = 12;

/// A length of a mapped file, which fits the address space.
fn in_memory(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

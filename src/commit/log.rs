//! The log: writing what was ordered, flushing it once for many, and stopping for good when the
//! disk has lied once.
//!
//! Two roles, each held by one thread at a time. The *writer* takes everything queued and writes
//! it in order; the *leader* flushes: it reads how far was written, syncs, and publishes that
//! position, so that whoever arrives meanwhile waits for the next flush.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use crate::catalog::resident::Progress;
use crate::commit::queue::{Group, Run};
use crate::error::{Error, ErrorKind, Result};
use crate::segment::writer::LogFile;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, OnceLock, Published};
use crate::types::{Durability, Lsn};

/// Zeros are written ahead of groups below this size that are flushed, up to a multiple of the other
/// number; larger ones have enough of one flush.
const SMALL: u64 = 64 << 10;
const FLUSHED_AHEAD: u64 = 256 << 10;
/// The same of groups that are only written; larger ones gain less.
const SMALL_WRITE: u64 = 32 << 10;
const WRITTEN_AHEAD: u64 = 64 << 10;
/// Flushed groups below this size still gain by segments that were filled with zeros long before.
const FILLED: u64 = 256 << 10;
/// Bytes of a chunk: of a small segment, and of one of 8 MiB or more.
const CHUNK: Range<u64> = 64 << 10..512 << 10;
/// Bytes that are written under one hold of the writer's lock, when there are many: the file system
/// may take them slowly, and appenders that wait for the lock want to go on.
const PIECE: u64 = 512 << 10;
/// The same, and the bytes of a chunk, while appenders are slowed down: they have time for many
/// small writes. Where memory for the file is slow to come, which it is in a virtual machine whose
/// host has taken back what was free, the system copies a large write for milliseconds without
/// letting go of the processor.
const BRIEF: u64 = 64 << 10;

/// Bytes that are written at a time to a segment of this size, at multiples of it, while nobody
/// waits for any.
///
/// At multiples of a power of two the system keeps the file in large pieces of memory: elsewhere
/// such a write into blocks that are not in memory takes 1.6 times as long, and 64 KiB at a time
/// take 1.3 times as long as 512. No more: the bytes are to be in the processor's cache when they
/// are written, and whoever appends, or reads what was just appended, is not kept for long.
fn chunk(capacity: u64) -> u64 {
    1 << (capacity / 16).clamp(CHUNK.start, CHUNK.end).ilog2()
}

/// Where the writer gets its work, and brings the empty buffers back to.
pub(crate) trait Queue {
    /// Moves all of it to `into`, which is empty.
    fn take(&self, into: &mut Vec<Group>);
    /// The lsn at which all of it ends, and what was taken before.
    fn end(&self) -> u64;
    fn recycle(&self, runs: Vec<Run>);
}

/// What the writer has written and nobody has synced yet.
#[derive(Default)]
struct Writer {
    /// Files in the order of the log, with the lsn up to which each was written.
    unsynced: Vec<(LogFile, u64)>,
    /// Sealed frames that were left for a later write. The first file may have the beginning of them.
    held: VecDeque<Group>,
    /// Empty between writes; its memory is used again.
    taken: Vec<Group>,
}

/// What a write takes of what is queued.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Whole chunks, and no more than a piece.
    Chunks,
    /// Everything below an lsn, and what has come behind it, if it is no more than a piece.
    To(u64),
    /// The same, and a flush follows, and others like it.
    Flush(u64),
}

/// Set when a flush is over, well or not.
type Event = Arc<OnceLock<()>>;

/// The group that the next flush is for.
struct Gathering {
    has_leader: bool,
    event: Event,
    /// That of the group before it.
    before: Event,
}

/// A future that waits: for what position, at which durability.
type Waiting = (u64, Durability, Waker);

/// How far the log has got, and who may take it further.
pub(crate) struct Log {
    written: Published,
    durable: Published,
    /// When the log reaches this lsn, there is a chunk to be written.
    due: AtomicU64,
    /// The durable lsn that the last written frame carries.
    witnessed: Published,
    /// A group that gains by filled segments was flushed since it was last asked.
    small: AtomicBool,
    /// Appenders are slowed down.
    brief: AtomicBool,
    writer: Mutex<Writer>,
    gathering: Mutex<Gathering>,
    wakers: Mutex<Vec<Waiting>>,
    poison: OnceLock<(u64, Error)>,
    /// The panic that poisoned it, with the name of the work that unwound.
    panicked: OnceLock<Error>,
}

impl Log {
    /// A log of which everything below `durable` is on stable storage, and nothing else exists.
    pub(crate) fn new(durable: u64) -> Self {
        Log {
            written: Published::new(durable),
            durable: Published::new(durable),
            due: AtomicU64::new(0),
            witnessed: Published::new(durable),
            small: AtomicBool::new(false),
            brief: AtomicBool::new(false),
            writer: Mutex::default(),
            gathering: Mutex::new(Gathering {
                has_leader: false,
                event: Event::default(),
                before: Arc::new(OnceLock::from(())),
            }),
            wakers: Mutex::default(),
            poison: OnceLock::new(),
            panicked: OnceLock::new(),
        }
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.get()
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.get()
    }

    /// The durable lsn that the medium itself bears witness of.
    pub(crate) fn witnessed(&self) -> u64 {
        self.witnessed.get()
    }

    /// Whether small groups were flushed since this was last asked: they gain by blocks that are
    /// filled ahead.
    pub(crate) fn takes_small_groups(&self) -> bool {
        self.small.swap(false, Ordering::Relaxed)
    }

    /// Appenders are slowed down, or no longer: what is written at a time is small meanwhile.
    pub(crate) fn be_brief(&self, brief: bool) {
        if self.brief.load(Ordering::Relaxed) != brief {
            self.brief.store(brief, Ordering::Relaxed);
        }
    }

    /// Bytes that are written under one hold of the writer's lock, when there are many.
    fn piece(&self) -> u64 {
        if self.brief.load(Ordering::Relaxed) { BRIEF } else { PIECE }
    }

    pub(crate) fn progress(&self) -> Progress {
        // Durable first: it never runs ahead of what is then read as written.
        let durable = self.durable();
        Progress { written: self.written(), durable }
    }

    /// The error for writes after a failure, if there was one.
    pub(crate) fn poisoned(&self) -> Option<Error> {
        let (lsn, cause) = self.poison.get()?;
        let cause = self.panicked.get().unwrap_or(cause);
        Some(cause.restated(
            ErrorKind::Poisoned,
            format!(
                "the store takes no more writes after a failed one: batches from lsn {} on may be \
                 lost; reopen the store to go on",
                Lsn(*lsn)
            ),
        ))
    }

    /// Nothing is written any more, and nothing acknowledged that is not there already. Those who
    /// wait hear of it by the next [`wake`](Self::wake).
    pub(crate) fn poison(&self, cause: &Error) {
        let _ = self.poison.set((self.durable(), cause.clone()));
    }

    /// The same for background work that unwound. The log may have been poisoned on the way, by a
    /// role that does not know whose work it was.
    pub(crate) fn poison_by_panic(&self, cause: &Error) {
        let _ = self.panicked.set(cause.clone());
        self.poison(cause);
    }

    /// The error for a batch that was ordered and whose writing or syncing failed.
    fn in_doubt(&self) -> Result<()> {
        match self.poison.get() {
            None => Ok(()),
            Some((_, cause)) => Err(self.panicked.get().unwrap_or(cause).restated(
                ErrorKind::Indeterminate,
                "the batch may or may not be there after the store is reopened",
            )),
        }
    }

    /// Takes everything up to `end` to that durability, and wakes the futures that got what they
    /// wait for. For those who hold neither lock nor role: a waker is somebody else's code.
    pub(crate) fn wait(&self, end: u64, durability: Durability, queue: &impl Queue) -> Result<()> {
        let outcome = match durability {
            Durability::Buffer => return Ok(()),
            Durability::Write => self.write(end, queue),
            Durability::Sync => self.flush(end, queue),
        };
        // Who only waited for another leaves the waking to that one.
        if !matches!(outcome, Ok(false)) {
            self.wake();
        }
        outcome.map(drop)
    }

    /// Writes everything queued, at least up to `end`. Wakes nobody.
    pub(crate) fn write_to(&self, end: u64, queue: &impl Queue) -> Result<()> {
        self.write(end, queue).map(drop)
    }

    /// Makes everything up to `end` durable. Wakes nobody.
    pub(crate) fn flush_to(&self, end: u64, queue: &impl Queue) -> Result<()> {
        self.flush(end, queue).map(drop)
    }

    /// True if it was this thread that wrote.
    fn write(&self, end: u64, queue: &impl Queue) -> Result<bool> {
        if self.written() >= end {
            return Ok(false);
        }
        let wrote = self.write_pieces(end, queue)?;
        let mut writer = self.writer.lock();
        Ok(self.write_by(&mut writer, end, queue)? || wrote)
    }

    /// Writes whole chunks of what is queued up to `end`, if there are any and nobody is writing
    /// already. Wakes nobody.
    ///
    /// The appender does it and not the log thread: to wake a thread costs as much as a hundred
    /// appends, and bytes that another processor has read cost as much as their copy to write over.
    pub(crate) fn write_chunks(&self, end: u64, queue: &impl Queue) -> Result<()> {
        if end < self.due.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(mut writer) = self.writer.try_lock() else { return Ok(()) };
        self.in_doubt()?;
        self.write_under(&mut writer, queue, Extent::Chunks)
    }

    /// Writes until no more than `bound` bytes below `end` are queued, a piece at a time, if nobody
    /// else is writing. False if somebody is. Wakes nobody.
    pub(crate) fn try_write_down_to(
        &self,
        bound: u64,
        end: u64,
        queue: &impl Queue,
    ) -> Result<bool> {
        while end.saturating_sub(self.written()) > bound {
            let Some(mut writer) = self.writer.try_lock() else { return Ok(false) };
            self.write_piece(&mut writer, end, queue)?;
        }
        Ok(true)
    }

    /// Writes until no more than a piece below `end` is queued, a piece at a time: whoever else waits
    /// for this may have the lock in between. True if it was this thread that wrote.
    fn write_pieces(&self, end: u64, queue: &impl Queue) -> Result<bool> {
        let mut wrote = false;
        let piece = self.piece();
        while end.saturating_sub(self.written()) > piece {
            let mut writer = self.writer.lock();
            if end.saturating_sub(self.written()) <= piece {
                break;
            }
            self.write_piece(&mut writer, end, queue)?;
            wrote = true;
        }
        Ok(wrote)
    }

    fn write_piece(&self, writer: &mut Writer, end: u64, queue: &impl Queue) -> Result<()> {
        self.in_doubt()?;
        let whole = self.due.load(Ordering::Relaxed) <= end;
        // Without a whole chunk it is one large frame that has not been written to its end.
        let extent = if whole { Extent::Chunks } else { Extent::To(end) };
        self.write_under(writer, queue, extent)
    }

    /// True if there was something to write.
    fn write_by(&self, writer: &mut Writer, end: u64, queue: &impl Queue) -> Result<bool> {
        self.in_doubt()?;
        if self.written() >= end {
            return Ok(false);
        }
        self.write_under(writer, queue, Extent::To(end))?;
        if self.written() < end {
            // Whoever took it from the queue has failed, and poisoned the log under this lock.
            self.poison(&Error::new(ErrorKind::Io, "a batch was ordered and not written"));
            self.in_doubt()?;
        }
        Ok(true)
    }

    /// A failure poisons before anybody else gets the lock: what is listed as unsynced was then not
    /// all written, and what was taken from the queue never will be.
    fn write_under(&self, writer: &mut Writer, queue: &impl Queue, extent: Extent) -> Result<()> {
        let guard = Panicking(self);
        let outcome = self.write_queued(writer, queue, extent);
        std::mem::forget(guard);
        outcome.or_else(|cause| {
            self.poison(&cause);
            self.in_doubt()
        })
    }

    fn write_queued(&self, writer: &mut Writer, queue: &impl Queue, extent: Extent) -> Result<()> {
        let mut taken = std::mem::take(&mut writer.taken);
        queue.take(&mut taken);
        let durable = self.durable();
        for mut group in taken.drain(..) {
            let sealed = group.seal(durable);
            sealed.map_err(|(at, fault)| group.file.segment.damage(at, fault.0))?;
            if !writer.held.back_mut().is_some_and(|last| last.join(&mut group)) {
                writer.held.push_back(group);
            }
        }
        writer.taken = taken;
        let next = writer.held.front().map_or(0, |group| group.file.segment.base + group.from());
        let piece = self.piece();
        let stop = match extent {
            Extent::Chunks => next + piece,
            Extent::To(end) | Extent::Flush(end) => end.saturating_add(piece),
        };
        while let Some(group) = writer.held.pop_front() {
            let (from, end) = (group.from(), group.end());
            let chunk = chunk(group.file.segment.capacity).min(piece);
            let stop = stop.saturating_sub(group.file.segment.base);
            // At a chunk where more is left for later: what is beyond a piece, and the end of the file
            // that the log has not left.
            let rounds = end > stop || (extent == Extent::Chunks && writer.held.is_empty());
            let cut = if rounds { end.min(stop) & !(chunk - 1) } else { end };
            let cut = cut.max(from);
            // A chunk after a piece of one, rather than many small writes.
            let due = (cut + chunk / 2).next_multiple_of(chunk);
            self.due.store(group.file.segment.base + due, Ordering::Relaxed);
            self.write_group(writer, queue, group, cut, extent)?;
            if cut < end {
                break;
            }
        }
        Ok(())
    }

    /// Writes a group up to the offset `cut` of its file, and holds back what lies behind that.
    fn write_group(
        &self,
        writer: &mut Writer,
        queue: &impl Queue,
        mut group: Group,
        cut: u64,
        extent: Extent,
    ) -> Result<()> {
        let segment = Arc::clone(&group.file.segment);
        if cut > group.from() {
            let frames = group.last_frame(cut);
            if let Some((end, _)) = frames {
                // Noted before the write: from its first byte on the file has unsynced writes.
                writer.note(&group.file, segment.base + end);
            }
            group.write(cut)?;
            if let Some((end, durable)) = frames {
                let end_lsn = segment.base + end;
                // Behind it the file may have the beginning of the next frame, or the log has left it.
                if cut == group.end() && writer.held.is_empty() {
                    self.zero_ahead(&group, end, extent);
                }
                segment.publish(end);
                self.witnessed.raise(durable);
                self.written.raise(end_lsn);
            }
            queue.recycle(group.written(cut));
        }
        if !group.is_empty() {
            writer.held.push_front(group);
        }
        Ok(())
    }

    /// Writes zeros behind a small group, all of which was written.
    fn zero_ahead(&self, group: &Group, end: u64, extent: Extent) {
        let (small, ahead) = match extent {
            Extent::Chunks => return,
            Extent::To(_) => (end.saturating_sub(group.from()) < SMALL_WRITE, WRITTEN_AHEAD),
            Extent::Flush(_) => {
                // All of what the flush is for, whoever has written it.
                let end_lsn = group.file.segment.base + end;
                let len = end_lsn.saturating_sub(self.durable());
                if len < FILLED {
                    self.small.store(true, Ordering::Relaxed);
                }
                (len < SMALL, FLUSHED_AHEAD)
            }
        };
        if small {
            // Only an optimisation: what goes wrong here goes wrong again, and counts, later.
            let _ = group.file.zero_ahead(end, ahead);
        }
    }

    /// Makes everything up to `end` durable: leads a flush, or waits for one. True if it has led.
    ///
    /// Whoever comes while a flush is under way joins the group that the next one is for. The first
    /// of a group leads it, once the group before it is durable, and sets off the event that the
    /// others wait for: one call wakes them all, and nobody of the group behind.
    fn flush(&self, end: u64, queue: &impl Queue) -> Result<bool> {
        let mut led = false;
        while self.durable() < end {
            self.in_doubt()?;
            let mut gathering = self.gathering.lock();
            if self.durable() >= end {
                break;
            }
            let leads = !std::mem::replace(&mut gathering.has_leader, true);
            let (mine, before) = (Arc::clone(&gathering.event), Arc::clone(&gathering.before));
            drop(gathering);
            if !leads {
                mine.wait();
                continue;
            }
            let guard = Leading { log: self, event: Some(mine) };
            before.wait();
            {
                let mut gathering = self.gathering.lock();
                gathering.has_leader = false;
                gathering.before = std::mem::take(&mut gathering.event);
            }
            led = true;
            if let Err(cause) = self.lead(queue) {
                self.poison(&cause);
            }
            guard.done();
        }
        Ok(led)
    }

    /// Writes whatever is queued, for all of the group, and syncs it.
    fn lead(&self, queue: &impl Queue) -> Result<()> {
        let end = queue.end();
        if self.write_pieces(end, queue).is_err() {
            // Poisoned already, by the cause.
            return Ok(());
        }
        let files = {
            // One hold of the lock: a write that fails behind this one lists what it did not write.
            let mut writer = self.writer.lock();
            // A sync that failed is never tried again: the second one would lie.
            if self.poison.get().is_some()
                || self.write_under(&mut writer, queue, Extent::Flush(end)).is_err()
            {
                return Ok(());
            }
            writer.unsynced.clone()
        };
        // In order: nothing in a file is durable before all of the file before it is.
        for (file, written) in &files {
            file.sync_frames(written.saturating_sub(file.segment.base))?;
            self.durable.raise(*written);
            let mut writer = self.writer.lock();
            writer.unsynced.retain(|(f, lsn)| f.segment.id != file.segment.id || lsn > written);
        }
        Ok(())
    }

    /// Wakes the futures whose batches have got where they wanted to, or never will.
    ///
    /// Called without any lock or role: a waker may do whatever its executor likes, and wait for
    /// this log. Its panic is neither the log's nor the other wakers'.
    pub(crate) fn wake(&self) {
        let progress = self.progress();
        let poisoned = self.poison.get().is_some();
        let ready: Vec<Waiting> = {
            let mut wakers = self.wakers.lock();
            if wakers.is_empty() {
                return;
            }
            let reached = |(end, durability, _): &mut Waiting| {
                poisoned || progress.reached(*end, *durability)
            };
            wakers.extract_if(.., reached).collect()
        };
        for (_, _, waker) in ready {
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    /// Whether a batch has got where it wanted to; if not, `waker` is woken when it has.
    pub(crate) fn poll(
        &self,
        end: u64,
        durability: Durability,
        waker: &Waker,
    ) -> Option<Result<()>> {
        // Cloned, and dropped, outside of the lock: that is somebody else's code too.
        let clone = waker.clone();
        let mut wakers = self.wakers.lock();
        if self.progress().reached(end, durability) {
            return Some(Ok(()));
        }
        if let Err(e) = self.in_doubt() {
            return Some(Err(e));
        }
        let same = |(e, d, w): &(u64, Durability, Waker)| {
            (*e, *d) == (end, durability) && w.will_wake(waker)
        };
        if !wakers.iter().any(same) {
            wakers.push((end, durability, clone));
        }
        None
    }
}

impl Writer {
    /// Notes that `file` has unsynced writes, with frames up to `lsn`.
    fn note(&mut self, file: &LogFile, lsn: u64) {
        match self.unsynced.last_mut() {
            Some((last, end)) if last.segment.id == file.segment.id => *end = lsn,
            _ => self.unsynced.push((file.clone(), lsn)),
        }
    }
}

/// Poisons the log if its holder unwinds: a role whose holder is gone must not stay taken.
struct Panicking<'a>(&'a Log);

impl Drop for Panicking<'_> {
    fn drop(&mut self) {
        self.0.poison(&Error::new(ErrorKind::Io, "a thread panicked while it wrote the log"));
    }
}

/// The lead of a group. Whatever happens to the leader, the group hears of it.
struct Leading<'a> {
    log: &'a Log,
    /// Taken when the leader is done.
    event: Option<Event>,
}

impl Leading<'_> {
    fn done(mut self) {
        if let Some(event) = self.event.take() {
            let _ = event.set(());
        }
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let Some(event) = self.event.take() else { return };
        self.log.poison(&Error::new(ErrorKind::Io, "a thread panicked while it flushed the log"));
        let _ = event.set(());
    }
}

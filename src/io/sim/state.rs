//! The state of a simulated disk, and what each call does to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::SimFault;
use super::chance::Chance;
use super::content::{Content, SECTOR};
use super::tree::{Entry, Tree};

/// What is allocated at once.
const BLOCK: u64 = 4096;

/// The wall clock's first milliseconds since the epoch.
const EPOCH: u64 = 1_700_000_000_000;

pub(super) struct State {
    /// Which run of a process it is. Handles of earlier ones are dead.
    pub(super) run: u64,
    pub(super) tree: Tree,
    files: BTreeMap<u64, Node>,
    /// Lock files whose lock is held.
    pub(super) locks: BTreeSet<u64>,
    pub(super) capacity: u64,
    pub(super) device_bytes: u64,

    pub(super) calls: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) faults: Vec<Fault>,
    without_power: bool,
    pub(super) trace: Option<Vec<String>>,

    monotonic: Duration,
    pub(super) wall_offset: i64,
    /// Decides what happens to the disk.
    chance: Chance,
    /// What the store draws from.
    pub(super) random: Chance,
}

#[derive(Clone, Copy)]
pub(super) struct Fault {
    pub(super) call: u64,
    pub(super) fault: SimFault,
    pub(super) sticky: bool,
}

/// A file, by whatever name or none.
struct Node {
    content: Content,
    /// The name it had last, for the trace.
    name: PathBuf,
    linked: bool,
    open: u64,
    /// Blocks that were punched and not written since.
    holes: BTreeSet<u64>,
    /// Counts its failed syncs: each open file reports each once.
    failed_syncs: u64,
}

/// An open file: which one, and since which of its failed syncs.
pub(super) struct Handle {
    run: u64,
    file: u64,
    write: bool,
    /// Used under the lock of the disk only.
    seen: AtomicU64,
}

/// How a call goes.
enum Fate {
    Whole,
    /// The power fails meanwhile.
    Crash,
    Fails(SimFault),
}

impl State {
    pub(super) fn new(seed: u64, capacity: u64) -> State {
        let mut chance = Chance::new(seed);
        let random = Chance::new(chance.next());
        State {
            run: 0,
            tree: Tree::new(),
            files: BTreeMap::new(),
            locks: BTreeSet::new(),
            capacity,
            device_bytes: 0,
            calls: 0,
            crash_at: None,
            faults: Vec::new(),
            without_power: false,
            trace: None,
            monotonic: Duration::ZERO,
            wall_offset: 0,
            chance,
            random,
        }
    }

    pub(super) fn fork(&self) -> State {
        let fork = |node: &Node| node.alone(node.content.fork());
        State {
            files: self.named_files().map(|(id, node)| (*id, fork(node))).collect(),
            crash_at: self.crash_at,
            faults: self.faults.clone(),
            without_power: self.without_power,
            ..self.next_run(self.tree.clone(), self.chance.clone())
        }
    }

    pub(super) fn after_power_loss(&self, seed: u64) -> State {
        let mut chance = Chance::new(seed);
        let tree = self.tree.after_power_loss(&mut chance);
        let mut files = BTreeMap::new();
        for (name, id) in tree.files() {
            if let Some(node) = self.files.get(&id) {
                let content = node.content.after_power_loss(&mut chance);
                files.insert(id, Node { name, linked: true, ..node.alone(content) });
            }
        }
        State { files, ..self.next_run(tree, chance) }
    }

    pub(super) fn restart(&mut self) {
        self.run += 1;
        self.locks.clear();
        self.files.values_mut().for_each(|node| node.open = 0);
        self.clear_faults();
        self.without_power = false;
        self.sweep();
    }

    pub(super) fn evict(&mut self) {
        self.files.values_mut().for_each(|node| node.content.evict());
    }

    pub(super) fn clear_faults(&mut self) {
        self.crash_at = None;
        self.faults.clear();
    }

    /// Fails for whoever is not of the run that goes on.
    pub(super) fn alive(&self, run: u64) -> io::Result<()> {
        if self.without_power || run != self.run {
            return Err(power_lost());
        }
        Ok(())
    }

    /// Everything but the files, for another run of a process, without open files and locks.
    fn next_run(&self, tree: Tree, chance: Chance) -> State {
        State {
            run: self.run + 1,
            tree,
            capacity: self.capacity,
            device_bytes: self.device_bytes,
            calls: self.calls,
            trace: self.trace.clone(),
            monotonic: self.monotonic,
            wall_offset: self.wall_offset,
            random: self.random.clone(),
            chance,
            ..State::new(0, 0)
        }
    }

    fn named_files(&self) -> impl Iterator<Item = (&u64, &Node)> {
        let named = self.tree.referenced();
        self.files.iter().filter(move |(id, _)| named.contains(id))
    }

    /// Forgets files that nobody can reach any more.
    fn sweep(&mut self) {
        let named = self.tree.referenced();
        self.files
            .retain(|id, node| named.contains(id) || node.open > 0 || node.content.is_mapped());
    }
}

/// Calls that are not counted.
impl State {
    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.tree.list(dir)
    }

    /// Answers the lock file's number in `locks`.
    pub(super) fn lock(&mut self, path: &Path) -> io::Result<u64> {
        if self.tree.get(path)?.is_none() {
            self.new_file(path, Content::new(0))?;
        }
        let file = self.tree.file(path)?;
        if !self.locks.insert(file) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(file)
    }

    pub(super) fn open(&mut self, path: &Path, write: bool) -> io::Result<Handle> {
        let file = self.tree.file(path)?;
        let run = self.run;
        let node = self.node_mut(file)?;
        node.open += 1;
        Ok(Handle { run, file, write, seen: node.failed_syncs.into() })
    }

    pub(super) fn close(&mut self, handle: &Handle) {
        if handle.run == self.run
            && let Ok(node) = self.node_mut(handle.file)
        {
            node.open = node.open.saturating_sub(1);
        }
    }

    pub(super) fn content(&self, handle: &Handle) -> io::Result<&Content> {
        self.alive(handle.run)?;
        Ok(&self.node(handle.file)?.content)
    }

    pub(super) fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.tree.dir(dir)?;
        Ok(self.free())
    }

    pub(super) fn used(&self) -> u64 {
        self.files.values().filter(|node| node.is_used()).map(Node::allocated).sum()
    }

    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }
}

/// Calls that are counted.
impl State {
    pub(super) fn create_dir(&mut self, dir: &Path) -> io::Result<()> {
        let what = format_args!("create_dir {}", dir.display());
        let result = match self.next_fate() {
            Fate::Whole => self.tree.create_dir(dir),
            // Perhaps only some of the parents.
            Fate::Crash => {
                let made = self.chance.index(dir.ancestors().count() + 1);
                let made = dir.ancestors().nth(made).unwrap_or(Path::new(""));
                self.tree.create_dir(made).and(Err(power_lost()))
            }
            Fate::Fails(fault) => Err(error(fault)),
        };
        self.record_line(what, &result);
        result
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.name_call(format_args!("sync_dir {}", dir.display()), |s| {
            s.tree.sync_dir(dir)?;
            s.sweep();
            Ok(())
        })
    }

    pub(super) fn create(&mut self, path: &Path, len: u64) -> io::Result<Handle> {
        self.name_call(format_args!("create {} {len}", path.display()), |s| {
            if s.tree.get(path)?.is_some() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            if len.checked_next_multiple_of(BLOCK).is_none_or(|need| need > s.free()) {
                return Err(ErrorKind::StorageFull.into());
            }
            s.new_file(path, Content::new(len))?;
            s.open(path, true)
        })
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let what = format_args!("rename {} {}", from.display(), to.display());
        self.name_call(what, |s| {
            let (file, lost) = s.tree.rename(from, to)?;
            s.node_mut(file)?.name = to.to_path_buf();
            if let Some(lost) = lost {
                s.node_mut(lost)?.linked = false;
            }
            Ok(())
        })
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.name_call(format_args!("remove {}", path.display()), |s| {
            let file = s.tree.remove(path)?;
            s.node_mut(file)?.linked = false;
            Ok(())
        })
    }

    pub(super) fn write(
        &mut self,
        handle: &Handle,
        bufs: &[IoSlice<'_>],
        offset: u64,
    ) -> io::Result<()> {
        self.alive(handle.run)?;
        let len = bufs.iter().map(|buf| buf.len() as u64).sum::<u64>();
        let end = offset.checked_add(len).ok_or(ErrorKind::InvalidInput)?;
        let fate = self.next_fate();
        let result = match fate {
            _ if !handle.write => Err(ErrorKind::PermissionDenied.into()),
            Fate::Whole => self.write_part(handle.file, bufs, offset, len),
            // Whole sectors: the power failure to come tears them as it likes.
            Fate::Crash => {
                let cut = offset + self.chance.below(len + 1);
                let cut = if cut >= end { end } else { cut / SECTOR * SECTOR };
                let part = cut.saturating_sub(offset);
                self.write_part(handle.file, bufs, offset, part).and(Err(power_lost()))
            }
            Fate::Fails(fault) => {
                let part = self.chance.below(len);
                self.write_part(handle.file, bufs, offset, part).and(Err(error(fault)))
            }
        };
        self.record(handle.file, format_args!("write {offset}+{len}"), &result);
        result
    }

    pub(super) fn sync(&mut self, handle: &Handle) -> io::Result<()> {
        self.alive(handle.run)?;
        let result = match self.next_fate() {
            Fate::Whole => self.sync_file(handle.file),
            // Which of the sectors arrived is for the power failure to say.
            Fate::Crash => Err(power_lost()),
            Fate::Fails(fault) => self.node_mut(handle.file).and_then(|node| {
                node.content.fail_sync();
                node.failed_syncs += 1;
                handle.seen.store(node.failed_syncs, Relaxed);
                Err(error(fault))
            }),
        };
        let failed_syncs = self.node(handle.file)?.failed_syncs;
        let missed = handle.seen.swap(failed_syncs, Relaxed) < failed_syncs;
        let result = result.and(if missed { Err(error(SimFault::Eio)) } else { Ok(()) });
        self.record(handle.file, format_args!("sync"), &result);
        result
    }

    pub(super) fn punch(&mut self, handle: &Handle, offset: u64, len: u64) -> io::Result<()> {
        self.alive(handle.run)?;
        let result = match self.next_fate() {
            _ if !handle.write => Err(ErrorKind::PermissionDenied.into()),
            Fate::Whole => self.punch_file(handle.file, offset, len),
            Fate::Crash if self.chance.one_in(2) => {
                self.punch_file(handle.file, offset, len).and(Err(power_lost()))
            }
            Fate::Crash => Err(power_lost()),
            Fate::Fails(fault) => Err(error(fault)),
        };
        self.record(handle.file, format_args!("punch {offset}+{len}"), &result);
        result
    }

    /// A call that changes names: it happens whole or not at all, even when the power fails.
    fn name_call<T>(
        &mut self,
        what: fmt::Arguments<'_>,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let result = match self.next_fate() {
            Fate::Whole => act(self),
            Fate::Crash if self.chance.one_in(2) => act(self).and(Err(power_lost())),
            Fate::Crash => Err(power_lost()),
            Fate::Fails(fault) => Err(error(fault)),
        };
        self.record_line(what, &result);
        result
    }

    /// Counts the call.
    fn next_fate(&mut self) -> Fate {
        let call = self.calls;
        self.calls += 1;
        if self.crash_at.is_some_and(|at| call >= at) {
            self.without_power = true;
            return Fate::Crash;
        }
        let hit = |fault: &&Fault| fault.call == call || (fault.sticky && call > fault.call);
        self.faults.iter().find(hit).map_or(Fate::Whole, |fault| Fate::Fails(fault.fault))
    }

    fn write_part(
        &mut self,
        file: u64,
        bufs: &[IoSlice<'_>],
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let end = offset + len;
        let blocks = offset / BLOCK..end.div_ceil(BLOCK);
        let node = self.node(file)?;
        let grown = end.div_ceil(BLOCK).saturating_sub(node.content.len().div_ceil(BLOCK));
        let need = (grown + node.holes.range(blocks.clone()).count() as u64).saturating_mul(BLOCK);
        if need > 0 && need > self.free() {
            return Err(ErrorKind::StorageFull.into());
        }
        let node = self.node_mut(file)?;
        node.holes.retain(|block| !blocks.contains(block));
        node.content.write(bufs, offset, len);
        Ok(())
    }

    fn sync_file(&mut self, file: u64) -> io::Result<()> {
        let written = self.node_mut(file)?.content.sync();
        self.device_bytes += written;
        Ok(())
    }

    fn punch_file(&mut self, file: u64, offset: u64, len: u64) -> io::Result<()> {
        let node = self.node_mut(file)?;
        let end = offset.saturating_add(len).min(node.content.len());
        node.content.zero(offset, len);
        node.holes.extend(offset.div_ceil(BLOCK)..end / BLOCK);
        Ok(())
    }

    fn new_file(&mut self, path: &Path, content: Content) -> io::Result<()> {
        let id = self.tree.new_id();
        self.tree.put(path, Entry::File(id))?;
        let name = path.to_path_buf();
        let holes = BTreeSet::new();
        let node = Node { content, name, linked: true, open: 0, holes, failed_syncs: 0 };
        self.files.insert(id, node);
        Ok(())
    }

    fn node(&self, file: u64) -> io::Result<&Node> {
        self.files.get(&file).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn node_mut(&mut self, file: u64) -> io::Result<&mut Node> {
        self.files.get_mut(&file).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn record<T>(&mut self, file: u64, what: fmt::Arguments<'_>, result: &io::Result<T>) {
        if self.trace.is_some() {
            let name = self.files.get(&file).map(|node| node.name.display().to_string());
            self.record_line(format_args!("{} {what}", name.unwrap_or_default()), result);
        }
    }

    fn record_line<T>(&mut self, what: fmt::Arguments<'_>, result: &io::Result<T>) {
        if let Some(trace) = &mut self.trace {
            let call = self.calls - 1;
            trace.push(match result {
                Ok(_) => format!("{call}: {what}"),
                Err(e) => format!("{call}: {what}: {e}"),
            });
        }
    }
}

/// What only tests do.
impl State {
    pub(super) fn flip_bit(&mut self, path: &Path, offset: u64, bit: u8) -> bool {
        let file = self.tree.file(path);
        file.and_then(|file| self.node_mut(file)).is_ok_and(|node| node.content.flip(offset, bit))
    }

    pub(super) fn read_file(&self, path: &Path) -> Option<Vec<u8>> {
        Some(self.node(self.tree.file(path).ok()?).ok()?.content.to_vec())
    }

    pub(super) fn write_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new(""));
        self.tree.create_dir(dir)?;
        match self.tree.get(path)? {
            Some(Entry::Dir(_)) => return Err(ErrorKind::IsADirectory.into()),
            Some(Entry::File(old)) => self.node_mut(old)?.linked = false,
            None => {}
        }
        self.new_file(path, Content::durable(bytes))?;
        self.tree.sync_dir(dir)
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let file = self.tree.remove(path)?;
        self.node_mut(file)?.linked = false;
        self.tree.sync_dir(path.parent().unwrap_or(Path::new("")))
    }

    pub(super) fn truncate_file(&mut self, path: &Path, len: u64) -> bool {
        let file = self.tree.file(path);
        file.and_then(|file| self.node_mut(file)).is_ok_and(|node| {
            node.content.truncate(len);
            node.holes.retain(|block| *block < len / BLOCK);
            true
        })
    }
}

/// Time.
impl State {
    pub(super) fn advance(&mut self, time: Duration) {
        self.monotonic = self.monotonic.saturating_add(time);
    }

    /// Each look takes a microsecond, so that waiting for a moment ends.
    pub(super) fn monotonic(&mut self) -> Duration {
        self.advance(Duration::from_micros(1));
        self.monotonic
    }

    pub(super) fn now(&self) -> u64 {
        let passed = u64::try_from(self.monotonic.as_millis()).unwrap_or(u64::MAX);
        EPOCH.saturating_add(passed).saturating_add_signed(self.wall_offset)
    }
}

impl Node {
    /// The same file with other content, which nobody has open.
    fn alone(&self, content: Content) -> Node {
        let is_hole = |block: &&u64| content.is_hole(**block * BLOCK, BLOCK);
        let end = content.len().div_ceil(BLOCK);
        let holes = self.holes.range(..end).filter(is_hole).copied().collect();
        Node {
            content,
            name: self.name.clone(),
            linked: self.linked,
            open: 0,
            holes,
            failed_syncs: 0,
        }
    }

    fn is_used(&self) -> bool {
        self.linked || self.open > 0 || self.content.is_mapped()
    }

    fn allocated(&self) -> u64 {
        (self.content.len().div_ceil(BLOCK) - self.holes.len() as u64) * BLOCK
    }
}

fn power_lost() -> io::Error {
    io::Error::other("power lost")
}

fn error(fault: SimFault) -> io::Error {
    match fault {
        SimFault::Eio => io::Error::from_raw_os_error(5),
        SimFault::NoSpace => ErrorKind::StorageFull.into(),
        SimFault::ShortWrite => ErrorKind::WriteZero.into(),
    }
}

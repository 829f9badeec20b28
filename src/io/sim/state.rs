//! The state of a simulated disk, and what each call does to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use super::SimFault;
use super::chance::Chance;
use super::content::{Content, SECTOR};
use super::node::{BLOCK, Fault, Handle, Node, error};
use super::time::Time;
use super::tree::{Entry, Tree};

pub(super) struct State {
    /// Which run of a process it is. Handles of earlier ones are dead.
    pub(super) run: u64,
    pub(super) tree: Tree,
    files: BTreeMap<u64, Node>,
    /// Lock files whose lock is held.
    pub(super) locks: BTreeSet<u64>,
    pub(super) capacity: u64,
    pub(super) hard_links: bool,
    pub(super) device_bytes: u64,

    pub(super) calls: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) panic_at: Option<u64>,
    pub(super) faults: Vec<Fault>,
    pub(super) reads: u64,
    pub(super) read_faults: Vec<Fault>,
    without_power: bool,
    pub(super) trace: Option<Vec<String>>,

    pub(super) time: Time,
    /// Decides what happens to the disk.
    chance: Chance,
    /// What the store draws from.
    pub(super) random: Chance,
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
            hard_links: true,
            device_bytes: 0,
            calls: 0,
            crash_at: None,
            panic_at: None,
            faults: Vec::new(),
            reads: 0,
            read_faults: Vec::new(),
            without_power: false,
            trace: None,
            time: Time::default(),
            chance,
            random,
        }
    }

    pub(super) fn fork(&self) -> State {
        let fork = |node: &Node| node.alone(node.content.fork());
        State {
            files: self.named_files().map(|(id, node)| (*id, fork(node))).collect(),
            crash_at: self.crash_at,
            panic_at: self.panic_at,
            faults: self.faults.clone(),
            read_faults: self.read_faults.clone(),
            without_power: self.without_power,
            ..self.next_run(self.tree.clone(), self.chance.clone())
        }
    }

    pub(super) fn after_power_loss(&self, seed: u64) -> State {
        let mut chance = Chance::new(seed);
        let tree = self.tree.after_power_loss(Some(&mut chance));
        let files = self.left_files(&tree, |content| content.after_power_loss(&mut chance));
        State { files, ..self.next_run(tree, chance) }
    }

    /// The least that a loss of power may leave.
    pub(super) fn synced(&self) -> State {
        let tree = self.tree.after_power_loss(None);
        let files = self.left_files(&tree, Content::synced);
        State { files, ..self.next_run(tree, self.chance.clone()) }
    }

    /// The files that a tree names, with what is left of each.
    fn left_files(
        &self,
        tree: &Tree,
        mut left: impl FnMut(&Content) -> Content,
    ) -> BTreeMap<u64, Node> {
        let mut files = BTreeMap::new();
        for (name, id) in tree.files() {
            let Some(node) = self.files.get(&id) else { continue };
            let file = files.entry(id).or_insert_with(|| {
                let content = left(&node.content);
                Node { name, links: 0, ..node.alone(content) }
            });
            file.links += 1;
        }
        files
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
        self.files.values_mut().for_each(Node::evict);
    }

    pub(super) fn clear_faults(&mut self) {
        self.crash_at = None;
        self.panic_at = None;
        self.faults.clear();
        self.read_faults.clear();
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
            hard_links: self.hard_links,
            device_bytes: self.device_bytes,
            calls: self.calls,
            reads: self.reads,
            trace: self.trace.clone(),
            time: self.time.clone(),
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

/// Calls that only look.
impl State {
    /// Counts a look, which may fail.
    pub(super) fn look(&mut self) -> io::Result<()> {
        let read = self.reads;
        self.reads += 1;
        let Some(fault) = self.read_faults.iter().find(|fault| fault.hits(read)) else {
            return Ok(());
        };
        let fails = error(fault.fault);
        if let Some(trace) = &mut self.trace {
            trace.push(format!("read {read}: {fails}"));
        }
        Err(fails)
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.tree.list(dir)
    }

    /// Answers the lock file's number in `locks`.
    pub(super) fn lock(&mut self, path: &Path) -> io::Result<u64> {
        if self.tree.get(path)?.is_none() {
            self.new_file(path, Content::new(0))?;
        }
        self.lock_existing(path)
    }

    pub(super) fn lock_existing(&mut self, path: &Path) -> io::Result<u64> {
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
        Ok(Handle { run, file, write, seen: node.heard().into() })
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

    pub(super) fn links(&self, path: &Path) -> io::Result<u64> {
        Ok(self.node(self.tree.file(path)?)?.links)
    }

    pub(super) fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.tree.dir(dir)?;
        Ok(self.free())
    }

    pub(super) fn used(&self) -> u64 {
        self.files.values().filter(|node| node.is_used()).map(Node::allocated).sum()
    }

    pub(super) fn owes_an_error(&self) -> bool {
        self.files.values().any(|node| node.unheard)
    }

    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }
}

/// Calls that are counted.
impl State {
    pub(super) fn create_dir(&mut self, dir: &Path) -> io::Result<()> {
        let what = format_args!("create_dir {}", dir.display());
        let result = match self.next_fate(false) {
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

    pub(super) fn create(&mut self, path: &Path, len: u64, allocate: bool) -> io::Result<Handle> {
        let how = if allocate { "create" } else { "create_sparse" };
        self.name_call(format_args!("{how} {} {len}", path.display()), |s| {
            if s.tree.get(path)?.is_some() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            let need = len.checked_next_multiple_of(BLOCK);
            if need.is_none_or(|need| allocate && need > s.free()) {
                return Err(ErrorKind::StorageFull.into());
            }
            s.new_file(path, Content::new(len))?;
            let handle = s.open(path, true)?;
            if !allocate {
                s.node_mut(handle.file)?.holes.extend(0..len.div_ceil(BLOCK));
            }
            Ok(handle)
        })
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let what = format_args!("rename {} {}", from.display(), to.display());
        self.name_call(what, |s| {
            if let Some(Entry::Dir(_)) = s.tree.get(from)? {
                s.tree.rename_dir(from, to)?;
                for node in s.files.values_mut() {
                    if let Ok(inner) = node.name.strip_prefix(from) {
                        node.name = to.join(inner);
                    }
                }
                return Ok(());
            }
            let (file, lost) = s.tree.rename(from, to)?;
            s.node_mut(file)?.name = to.to_path_buf();
            lost.map_or(Ok(()), |lost| s.lose_name(lost))
        })
    }

    pub(super) fn remove_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.name_call(format_args!("remove_dir {}", dir.display()), |s| s.tree.remove_dir(dir))
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.name_call(format_args!("remove {}", path.display()), |s| {
            let file = s.tree.remove(path)?;
            s.lose_name(file)
        })
    }

    pub(super) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let what = format_args!("link {} {}", from.display(), to.display());
        self.name_call(what, |s| {
            if !s.hard_links {
                return Err(ErrorKind::Unsupported.into());
            }
            let file = s.tree.link(from, to)?;
            s.node_mut(file)?.links += 1;
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
        let fate = self.next_fate(true);
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
            Fate::Fails(fault) if fault.is_silent() => self
                .write_part(handle.file, bufs, offset, len)
                .and_then(|()| self.mislead(handle.file, fault, offset, len)),
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
        let result = match self.next_fate(false) {
            Fate::Whole => self.sync_file(handle.file),
            // Which of the sectors arrived is for the power failure to say.
            Fate::Crash => Err(power_lost()),
            Fate::Fails(fault) => {
                let mut chance = self.chance.clone();
                let failed = self.node_mut(handle.file).map(|node| node.fail_sync(&mut chance));
                self.chance = chance;
                failed.and(Err(error(fault)))
            }
        };
        // A failure that this very call met is heard of by its own error.
        let is_new = result.is_err();
        let node = self.node_mut(handle.file)?;
        let missed = handle.seen.swap(node.failed_syncs, Relaxed) < node.failed_syncs && !is_new;
        node.unheard &= !(missed || is_new);
        let result = result.and(if missed { Err(error(SimFault::Eio)) } else { Ok(()) });
        self.record(handle.file, format_args!("sync"), &result);
        result
    }

    pub(super) fn punch(&mut self, handle: &Handle, offset: u64, len: u64) -> io::Result<()> {
        self.alive(handle.run)?;
        let result = match self.next_fate(false) {
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
        let result = match self.next_fate(false) {
            Fate::Whole => act(self),
            Fate::Crash if self.chance.one_in(2) => act(self).and(Err(power_lost())),
            Fate::Crash => Err(power_lost()),
            Fate::Fails(fault) => Err(error(fault)),
        };
        self.record_line(what, &result);
        result
    }

    /// Counts the call. What happens to writes silently happens to nothing else.
    fn next_fate(&mut self, write: bool) -> Fate {
        let call = self.calls;
        self.calls += 1;
        assert!(
            self.panic_at.take_if(|at| *at == call).is_none(),
            "the simulated call {call} panics"
        );
        if self.crash_at.is_some_and(|at| call >= at) {
            self.without_power = true;
            return Fate::Crash;
        }
        let hit = |fault: &&Fault| fault.hits(call) && (write || !fault.fault.is_silent());
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

    /// What was just written to a range does not get to the medium, or not to its place.
    fn mislead(&mut self, file: u64, fault: SimFault, offset: u64, len: u64) -> io::Result<()> {
        let node = self.node_mut(file)?;
        let sectors = node.content.give_up(offset, len);
        if fault == SimFault::Writeback {
            node.failed_syncs += 1;
            node.unheard = true;
        }
        if fault != SimFault::Misdirected {
            return Ok(());
        }
        let durable = |(id, node): (&u64, &Node)| (*id, node.content.durable_sectors());
        let targets: Vec<(u64, u64)> =
            self.named_files().map(durable).filter(|(_, sectors)| *sectors > 0).collect();
        let picked = self.chance.index(targets.len());
        let Some((other, room)) = targets.get(picked).copied() else { return Ok(()) };
        let at = self.chance.below(room);
        self.node_mut(other)?.content.overwrite(at, &sectors);
        if let Some(trace) = &mut self.trace {
            let there = self.files.get(&other).map(|node| node.name.display().to_string());
            trace.push(format!("  misdirected to {} {}", there.unwrap_or_default(), at * SECTOR));
        }
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
        self.files.insert(id, Node::new(content, path.to_path_buf()));
        Ok(())
    }

    fn lose_name(&mut self, file: u64) -> io::Result<()> {
        let node = self.node_mut(file)?;
        node.links = node.links.saturating_sub(1);
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
            Some(Entry::File(old)) => self.lose_name(old)?,
            None => {}
        }
        self.new_file(path, Content::durable(bytes))?;
        self.tree.sync_dir(dir)
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let file = self.tree.remove(path)?;
        self.lose_name(file)?;
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

fn power_lost() -> io::Error {
    io::Error::other("power lost")
}

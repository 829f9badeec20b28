//! The names of a simulated disk: directories, with what they show and what the medium has.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use super::chance::Chance;

/// The root directory. It is always there; a relative path starts there too.
const ROOT: u64 = 0;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    File(u64),
    Dir(u64),
}

/// A change of a directory that is not durable yet.
#[derive(Clone)]
enum Change {
    Put(String, Entry),
    Remove(String),
    Rename(String, String, Entry),
}

#[derive(Clone, Default)]
struct Dir {
    cached: BTreeMap<String, Entry>,
    durable: BTreeMap<String, Entry>,
    /// The way from durable to cached.
    pending: Vec<Change>,
}

#[derive(Clone)]
pub(super) struct Tree {
    dirs: BTreeMap<u64, Dir>,
    next: u64,
}

impl Tree {
    pub(super) fn new() -> Tree {
        Tree { dirs: BTreeMap::from([(ROOT, Dir::default())]), next: 1 }
    }

    /// A number for a new file or directory.
    pub(super) fn new_id(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub(super) fn get(&self, path: &Path) -> io::Result<Option<Entry>> {
        let (dir, name) = self.resolve(path)?;
        Ok(self.dirs.get(&dir).and_then(|dir| dir.cached.get(name)).copied())
    }

    /// The file of that name.
    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        match self.get(path)? {
            Some(Entry::File(id)) => Ok(id),
            Some(Entry::Dir(_)) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn put(&mut self, path: &Path, entry: Entry) -> io::Result<()> {
        let (dir, name) = self.resolve(path)?;
        self.change(dir, Change::Put(name.to_owned(), entry));
        Ok(())
    }

    /// Gives a file another name; answers the file.
    pub(super) fn link(&mut self, from: &Path, to: &Path) -> io::Result<u64> {
        let file = self.file(from)?;
        if self.get(to)?.is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.put(to, Entry::File(file))?;
        Ok(file)
    }

    /// Removes a file's name; answers the file.
    pub(super) fn remove(&mut self, path: &Path) -> io::Result<u64> {
        let file = self.file(path)?;
        let (dir, name) = self.resolve(path)?;
        self.change(dir, Change::Remove(name.to_owned()));
        Ok(file)
    }

    /// Renames a file; answers it, and the one that lost its name to it.
    ///
    /// Between two directories it is not atomic here, harsher than most file systems: each
    /// directory makes its part durable by itself.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<(u64, Option<u64>)> {
        let file = self.file(from)?;
        let lost = match self.get(to)? {
            Some(Entry::File(id)) if id == file => return Ok((file, None)),
            Some(Entry::File(id)) => Some(id),
            Some(Entry::Dir(_)) => return Err(ErrorKind::IsADirectory.into()),
            None => None,
        };
        let (dir, name) = self.resolve(from)?;
        let (to_dir, to_name) = self.resolve(to)?;
        let entry = Entry::File(file);
        if dir == to_dir {
            self.change(dir, Change::Rename(name.to_owned(), to_name.to_owned(), entry));
        } else {
            self.change(to_dir, Change::Put(to_name.to_owned(), entry));
            self.change(dir, Change::Remove(name.to_owned()));
        }
        Ok((file, lost))
    }

    /// Removes an empty directory.
    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        if !self.list(path)?.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let (dir, name) = self.resolve(path)?;
        self.change(dir, Change::Remove(name.to_owned()));
        Ok(())
    }

    /// Renames a directory within its parent, to a name that is free or that of an empty directory.
    pub(super) fn rename_dir(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let entry = Entry::Dir(self.dir(from)?);
        match self.get(to)? {
            Some(Entry::File(_)) => return Err(ErrorKind::NotADirectory.into()),
            Some(Entry::Dir(_)) if !self.list(to)?.is_empty() => {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            Some(Entry::Dir(_)) | None => {}
        }
        let (dir, name) = self.resolve(from)?;
        let (to_dir, to_name) = self.resolve(to)?;
        if dir != to_dir {
            return Err(ErrorKind::Unsupported.into());
        }
        self.change(dir, Change::Rename(name.to_owned(), to_name.to_owned(), entry));
        Ok(())
    }

    /// As the real one does it: what is missing is made and synced in its parent, and so is the
    /// name of the deepest that was there.
    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let (mut dir, mut above, mut made) = (ROOT, None, false);
        for name in names(path)? {
            let entry = self.dirs.get(&dir).and_then(|dir| dir.cached.get(name)).copied();
            let inner = match entry {
                Some(Entry::Dir(inner)) => inner,
                Some(Entry::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                None => {
                    if let Some(above) = above.filter(|_| !made) {
                        self.sync(above);
                    }
                    made = true;
                    let inner = self.new_id();
                    self.dirs.insert(inner, Dir::default());
                    self.change(dir, Change::Put(name.to_owned(), Entry::Dir(inner)));
                    self.sync(dir);
                    inner
                }
            };
            above = Some(dir);
            dir = inner;
        }
        if let Some(above) = above.filter(|_| !made) {
            self.sync(above);
        }
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let dir = self.dirs.get(&self.dir(path)?);
        Ok(dir.map(|dir| dir.cached.keys().cloned().collect()).unwrap_or_default())
    }

    /// Makes the names in a directory durable.
    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.dir(path)?;
        self.sync(dir);
        Ok(())
    }

    /// Is there such a directory?
    pub(super) fn dir(&self, path: &Path) -> io::Result<u64> {
        let mut dir = ROOT;
        for name in names(path)? {
            dir = self.step(dir, name)?;
        }
        Ok(dir)
    }

    /// The names after a loss of power: of each directory's pending changes some arrived, or none
    /// if nothing is left to chance.
    pub(super) fn after_power_loss(&self, mut chance: Option<&mut Chance>) -> Tree {
        let mut tree = self.clone();
        for dir in tree.dirs.values_mut() {
            if let Some(chance) = &mut chance {
                dir.lose_power(chance);
            }
            dir.pending.clear();
            dir.cached.clone_from(&dir.durable);
        }
        let mut reached = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(id) = todo.pop() {
            for entry in tree.dirs.get(&id).iter().flat_map(|dir| dir.cached.values()) {
                if let Entry::Dir(inner) = entry {
                    reached.insert(*inner);
                    todo.push(*inner);
                }
            }
        }
        tree.dirs.retain(|id, _| reached.contains(id));
        tree
    }

    /// The files that have a name, or may have one after a loss of power.
    pub(super) fn referenced(&self) -> BTreeSet<u64> {
        let mut files = BTreeSet::new();
        for dir in self.dirs.values() {
            let pending = dir.pending.iter().filter_map(|change| match change {
                Change::Put(_, entry) | Change::Rename(_, _, entry) => Some(entry),
                Change::Remove(_) => None,
            });
            for entry in dir.cached.values().chain(dir.durable.values()).chain(pending) {
                if let Entry::File(id) = entry {
                    files.insert(*id);
                }
            }
        }
        files
    }

    /// The files, by path.
    pub(super) fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        let mut todo = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, id)) = todo.pop() {
            for (name, entry) in self.dirs.get(&id).iter().flat_map(|dir| &dir.cached) {
                match entry {
                    Entry::File(id) => files.push((path.join(name), *id)),
                    Entry::Dir(id) => todo.push((path.join(name), *id)),
                }
            }
        }
        files.sort();
        files
    }

    fn sync(&mut self, dir: u64) {
        if let Some(dir) = self.dirs.get_mut(&dir) {
            dir.pending.clear();
            dir.durable.clone_from(&dir.cached);
        }
    }

    fn change(&mut self, dir: u64, change: Change) {
        if let Some(dir) = self.dirs.get_mut(&dir) {
            apply(&mut dir.cached, change.clone());
            dir.pending.push(change);
        }
    }

    /// The directory of a path, which must exist, and the name in it.
    fn resolve<'a>(&self, path: &'a Path) -> io::Result<(u64, &'a str)> {
        let mut names = names(path)?;
        let name = names.pop().ok_or(ErrorKind::InvalidInput)?;
        let mut dir = ROOT;
        for name in names {
            dir = self.step(dir, name)?;
        }
        Ok((dir, name))
    }

    fn step(&self, dir: u64, name: &str) -> io::Result<u64> {
        match self.dirs.get(&dir).and_then(|dir| dir.cached.get(name)) {
            Some(Entry::Dir(inner)) => Ok(*inner),
            Some(Entry::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }
}

impl Dir {
    /// The first few of the changes arrived, as a journal has it; or any of them, in any order, as
    /// where each name is written by itself. A name has one of the entries that it had since the
    /// last sync. Where a rename arrived, the old name may have stayed besides.
    fn lose_power(&mut self, chance: &mut Chance) {
        let pending = std::mem::take(&mut self.pending);
        if chance.one_in(2) {
            let arrived = chance.index(pending.len() + 1);
            pending.into_iter().take(arrived).for_each(|change| apply(&mut self.durable, change));
        } else {
            for change in pending {
                match change {
                    _ if chance.one_in(2) => {}
                    Change::Rename(_, to, entry) if chance.one_in(4) => {
                        apply(&mut self.durable, Change::Put(to, entry));
                    }
                    change => apply(&mut self.durable, change),
                }
            }
        }
    }
}

fn apply(names: &mut BTreeMap<String, Entry>, change: Change) {
    match change {
        Change::Put(name, entry) => drop(names.insert(name, entry)),
        Change::Remove(name) => drop(names.remove(&name)),
        Change::Rename(from, to, entry) => {
            names.remove(&from);
            names.insert(to, entry);
        }
    }
}

fn names(path: &Path) -> io::Result<Vec<&str>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name.to_str().ok_or(ErrorKind::InvalidInput)?),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(ErrorKind::InvalidInput.into());
            }
        }
    }
    Ok(names)
}

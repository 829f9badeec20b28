//! The bytes of one simulated file: what the page cache shows, what the medium has, and what is on
//! its way from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::sync::Arc;

use super::chance::Chance;
use crate::io::map::Region;

/// What the medium writes at once.
pub(super) const SECTOR: u64 = 512;

/// Versions of a sector kept between two syncs, besides the first and the last.
const MAX_VERSIONS: usize = 6;

pub(super) type Sector = [u8; 512];

const ZERO: Sector = [0; 512];

/// Sectors that are zero everywhere are in none of the maps, so that a large file of which little
/// was written costs little to copy.
pub(super) struct Content {
    /// The cached bytes. Its length is the cached length.
    region: Arc<Region>,
    /// What the medium has.
    durable: BTreeMap<u64, Arc<Sector>>,
    durable_len: u64,
    /// Sectors that the next sync writes, with the versions that they had since the last one; the
    /// durable version and the cached one come before and after these.
    dirty: BTreeMap<u64, Vec<Arc<Sector>>>,
    /// Sectors of which the medium has something else than the cache and never gets that: a failed
    /// sync gave them up, or a write went elsewhere.
    dropped: BTreeSet<u64>,
}

impl Content {
    /// A file of `len` zero bytes, with nothing of it on the medium.
    pub(super) fn new(len: u64) -> Content {
        Content {
            region: new_region(len),
            durable: BTreeMap::new(),
            durable_len: 0,
            dirty: BTreeMap::new(),
            dropped: BTreeSet::new(),
        }
    }

    /// A file that is on the medium.
    pub(super) fn durable(bytes: &[u8]) -> Content {
        let len = bytes.len() as u64;
        let mut content = Content::new(len);
        content.write(&[IoSlice::new(bytes)], 0, len);
        content.sync();
        content
    }

    pub(super) fn len(&self) -> u64 {
        self.region.len()
    }

    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// The file is mapped by somebody.
    pub(super) fn is_mapped(&self) -> bool {
        Arc::strong_count(&self.region) > 1
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len()).unwrap_or(0)];
        self.region.read(0, &mut bytes);
        bytes
    }

    /// Writes the first `limit` bytes of `bufs`.
    pub(super) fn write(&mut self, bufs: &[IoSlice<'_>], offset: u64, limit: u64) {
        if limit == 0 {
            return;
        }
        if offset + limit > self.len() {
            self.region = self.copy_region(offset + limit);
        }
        self.mark_dirty(offset, limit);
        let (mut at, mut left) = (offset, limit);
        for buf in bufs {
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
            self.region.write(at, buf.get(..take).unwrap_or_default());
            at += take as u64;
            left -= take as u64;
        }
    }

    /// Overwrites a range with zeros.
    pub(super) fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len());
        if offset >= end {
            return;
        }
        self.mark_dirty(offset, end - offset);
        let mut at = offset;
        while at < end {
            let step = (end - at).min(SECTOR);
            self.region.write(at, first(&ZERO, step));
            at += step;
        }
    }

    /// Brings everything to the medium; answers the number of bytes written.
    pub(super) fn sync(&mut self) -> u64 {
        let dirty = std::mem::take(&mut self.dirty);
        for sector in dirty.keys() {
            let bytes = self.cached(*sector);
            put(&mut self.durable, *sector, &bytes);
            self.dropped.remove(sector);
        }
        self.durable_len = self.len();
        dirty.len() as u64 * SECTOR
    }

    /// A failed sync, as Linux has it: the pages count as clean and keep the new bytes. All of them
    /// are lost to the medium, or those that the device refused.
    pub(super) fn fail_sync(&mut self, chance: &mut Chance) {
        let all = chance.one_in(2);
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            if all || chance.one_in(2) {
                self.dropped.insert(sector);
            } else {
                let bytes = self.cached(sector);
                put(&mut self.durable, sector, &bytes);
                self.dropped.remove(&sector);
            }
        }
    }

    /// What was just written to a range never gets to the medium. Gives the sectors that should
    /// have.
    pub(super) fn give_up(&mut self, offset: u64, len: u64) -> Vec<Sector> {
        let end = if len == 0 { 0 } else { (offset + len).div_ceil(SECTOR) };
        (offset / SECTOR..end)
            .map(|sector| {
                self.dirty.remove(&sector);
                self.dropped.insert(sector);
                self.cached(sector)
            })
            .collect()
    }

    /// The medium gets sectors that were meant for another place; the cache knows nothing of it.
    pub(super) fn overwrite(&mut self, first: u64, sectors: &[Sector]) {
        let end = self.durable_len / SECTOR;
        for (sector, bytes) in (first..end).zip(sectors) {
            put(&mut self.durable, sector, bytes);
            self.dropped.insert(sector);
        }
    }

    /// Sectors that the medium has for it, the holes among them.
    pub(super) fn durable_sectors(&self) -> u64 {
        self.durable_len / SECTOR
    }

    /// Clean pages go from memory and are read anew, so what a failed sync gave up is lost.
    /// The memory is new: maps made before keep what they show.
    pub(super) fn evict(&mut self) {
        let mut kept: Vec<(u64, Sector)> = Vec::new();
        for sector in self.dropped.iter().filter(|sector| !self.dirty.contains_key(sector)) {
            let durable = self.durable.get(sector).map_or(ZERO, |bytes| **bytes);
            kept.push((*sector, durable));
        }
        if kept.is_empty() {
            return;
        }
        self.region = self.copy_region(self.len());
        for (sector, bytes) in kept {
            set(&self.region, sector, &bytes);
            self.dropped.remove(&sector);
        }
    }

    /// What is left of the file when the power fails.
    pub(super) fn after_power_loss(&self, chance: &mut Chance) -> Content {
        let len = self.surviving_len(chance);
        let mut durable = self.durable.clone();
        let mood = Mood::pick(chance, self.dirty.len());
        for (rank, (sector, versions)) in self.dirty.iter().enumerate() {
            let old = self.durable.get(sector).map_or(ZERO, |bytes| **bytes);
            let bytes = match mood.fate(rank, chance) {
                Fate::Old => continue,
                Fate::New => self.cached(*sector),
                Fate::Any => self.any_outcome(*sector, &old, versions, chance),
            };
            put(&mut durable, *sector, &bytes);
        }
        Content::from_medium(durable, len)
    }

    /// What is left of the file at the least when the power fails.
    pub(super) fn synced(&self) -> Content {
        Content::from_medium(self.durable.clone(), self.durable_len)
    }

    /// The same bytes, cached and durable, in memory of its own.
    pub(super) fn fork(&self) -> Content {
        Content {
            region: self.copy_region(self.len()),
            durable: self.durable.clone(),
            durable_len: self.durable_len,
            dirty: self.dirty.clone(),
            dropped: self.dropped.clone(),
        }
    }

    /// Cuts the file or lets it grow by zeros, on the medium too. The memory is new: maps made
    /// before keep what they show.
    pub(super) fn truncate(&mut self, len: u64) {
        self.region = self.copy_region(len);
        cut(&mut self.durable, len);
        self.durable_len = len;
        let end = len.div_ceil(SECTOR);
        self.dirty.retain(|sector, _| *sector < end);
        self.dropped.retain(|sector| *sector < end);
    }

    /// Flips a bit where it is, in the cache and on the medium; false beyond the end.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) -> bool {
        if offset >= self.len() {
            return false;
        }
        let mask = 1_u8 << (bit % 8);
        let mut byte = [0];
        self.region.read(offset, &mut byte);
        self.region.write(offset, &byte.map(|byte| byte ^ mask));
        let sector = offset / SECTOR;
        let mut bytes = self.durable.get(&sector).map_or(ZERO, |bytes| **bytes);
        if let Some(byte) = bytes.get_mut(usize::try_from(offset % SECTOR).unwrap_or(0)) {
            *byte ^= mask;
        }
        put(&mut self.durable, sector, &bytes);
        true
    }

    /// No byte of the range is on the medium, other than zeros.
    pub(super) fn is_hole(&self, offset: u64, len: u64) -> bool {
        let end = (offset + len).div_ceil(SECTOR);
        self.durable.range(offset / SECTOR..end).next().is_none()
    }

    /// What the medium has, seen after power came back.
    fn from_medium(mut durable: BTreeMap<u64, Arc<Sector>>, len: u64) -> Content {
        cut(&mut durable, len);
        let mut content = Content::new(len);
        for (sector, bytes) in &durable {
            set(&content.region, *sector, bytes);
        }
        content.durable = durable;
        content.durable_len = len;
        content
    }

    /// The sectors of a range are about to be written: keeps the versions that they have.
    fn mark_dirty(&mut self, offset: u64, len: u64) {
        for sector in offset / SECTOR..(offset + len).div_ceil(SECTOR) {
            let now = self.dirty.contains_key(&sector).then(|| self.cached(sector));
            let versions = self.dirty.entry(sector).or_default();
            let Some(now) = now else { continue };
            if versions.last().is_some_and(|last| **last == now) {
                continue;
            }
            if versions.len() == MAX_VERSIONS {
                versions.remove(MAX_VERSIONS / 2);
            }
            versions.push(Arc::new(now));
        }
    }

    fn cached(&self, sector: u64) -> Sector {
        let mut bytes = ZERO;
        let offset = sector * SECTOR;
        let len = self.len().saturating_sub(offset).min(SECTOR);
        if len > 0 {
            self.region.read(offset, first_mut(&mut bytes, len));
        }
        bytes
    }

    /// New memory of `len` bytes with what is cached.
    fn copy_region(&self, len: u64) -> Arc<Region> {
        let region = new_region(len);
        let sectors = self.durable.keys().chain(self.dirty.keys()).chain(&self.dropped);
        for sector in sectors {
            set(&region, *sector, &self.cached(*sector));
        }
        region
    }

    /// A length between the durable and the cached one.
    fn surviving_len(&self, chance: &mut Chance) -> u64 {
        let (old, new) = (self.durable_len, self.len());
        if old >= new {
            return new;
        }
        match chance.below(4) {
            0 => old,
            1 => (old + chance.below(new - old)).next_multiple_of(SECTOR).min(new),
            _ => new,
        }
    }

    /// Any version, or two of them torn at a byte, or, rarely, noise where they differ. Bytes that
    /// no write since the last sync has changed are never harmed: a sector is shared with older
    /// records, and the medium is promised to leave those alone.
    fn any_outcome(
        &self,
        sector: u64,
        old: &Sector,
        versions: &[Arc<Sector>],
        chance: &mut Chance,
    ) -> Sector {
        let new = self.cached(sector);
        match chance.below(16) {
            0..5 => *old,
            5..10 => new,
            10..12 => versions.get(chance.index(versions.len())).map_or(new, |bytes| **bytes),
            12..15 => {
                let tear = chance.index(old.len());
                let mut torn = *old;
                torn.iter_mut().zip(&new).take(tear).for_each(|(byte, new)| *byte = *new);
                torn
            }
            _ => {
                let mut noise = new;
                for (i, byte) in noise.iter_mut().enumerate() {
                    let before =
                        old.get(i).into_iter().chain(versions.iter().filter_map(|v| v.get(i)));
                    if before.into_iter().any(|before| *before != *byte) {
                        *byte = chance.byte();
                    }
                }
                noise
            }
        }
    }
}

/// How the sectors of one file fared together. Were each left to itself, a file with many dirty
/// sectors would practically never survive whole, nor up to a point.
enum Mood {
    AllOld,
    AllNew,
    /// What was below it arrived.
    UpTo(usize),
    MostlyNew,
    Mixed,
}

enum Fate {
    Old,
    New,
    Any,
}

impl Mood {
    fn pick(chance: &mut Chance, dirty: usize) -> Mood {
        match chance.below(10) {
            0 => Mood::AllOld,
            1 => Mood::AllNew,
            2 | 3 => Mood::UpTo(chance.index(dirty)),
            4 | 5 => Mood::MostlyNew,
            _ => Mood::Mixed,
        }
    }

    fn fate(&self, rank: usize, chance: &mut Chance) -> Fate {
        match self {
            Mood::AllOld => Fate::Old,
            Mood::AllNew => Fate::New,
            Mood::UpTo(end) if rank < *end => Fate::New,
            Mood::UpTo(end) if rank > *end => Fate::Old,
            Mood::MostlyNew if !chance.one_in(8) => Fate::New,
            Mood::UpTo(_) | Mood::MostlyNew | Mood::Mixed => Fate::Any,
        }
    }
}

fn new_region(len: u64) -> Arc<Region> {
    Arc::new(Region::new(usize::try_from(len).unwrap_or(usize::MAX)))
}

/// Puts a sector into a region, as far as that reaches.
fn set(region: &Region, sector: u64, bytes: &Sector) {
    let offset = sector * SECTOR;
    let len = region.len().saturating_sub(offset).min(SECTOR);
    if len > 0 {
        region.write(offset, first(bytes, len));
    }
}

fn put(durable: &mut BTreeMap<u64, Arc<Sector>>, sector: u64, bytes: &Sector) {
    if *bytes == ZERO {
        durable.remove(&sector);
    } else {
        durable.insert(sector, Arc::new(*bytes));
    }
}

/// Drops what is beyond `len`.
fn cut(durable: &mut BTreeMap<u64, Arc<Sector>>, len: u64) {
    drop(durable.split_off(&len.div_ceil(SECTOR)));
    if len.is_multiple_of(SECTOR) {
        return;
    }
    if let Some(last) = durable.get(&(len / SECTOR)) {
        let mut bytes = ZERO;
        first_mut(&mut bytes, len % SECTOR).copy_from_slice(first(last, len % SECTOR));
        put(durable, len / SECTOR, &bytes);
    }
}

fn first(bytes: &Sector, len: u64) -> &[u8] {
    bytes.get(..usize::try_from(len).unwrap_or(usize::MAX)).unwrap_or(bytes)
}

fn first_mut(bytes: &mut Sector, len: u64) -> &mut [u8] {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
    bytes.split_at_mut(len).0
}

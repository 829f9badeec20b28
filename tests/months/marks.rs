//! Marks: every payload and value carries its number in a form that a scan of raw bytes finds, so
//! that what had to be erased can be looked for in the files of the store.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use memlog::sim::SimDisk;

use crate::model::{Model, Span};
use crate::rng::Rng;

const MARK: u64 = u64::from_le_bytes(*b"\xee<month>");
/// A payload has a mark at each multiple of this.
const EACH: usize = 256;
/// Mark and number.
const LEN: usize = 16;
/// Bytes that died so lately may be in no file yet, milliseconds.
const FRESH: u64 = 3_600_000;

/// What is known of the bytes that were put in. Times are those of the driver, in milliseconds.
#[derive(Default)]
pub struct Marks {
    numbers: u64,
    /// Numbers that may be shown, or were when last looked at.
    live: HashSet<u64>,
    /// Numbers that nothing shows any more, with a time by which they had died.
    dead: HashMap<u64, u64>,
    /// Numbers of batches that never took place. Nothing is promised of them.
    lost: HashSet<u64>,
}

/// What a scan found that should not be there.
pub struct Left {
    pub id: u64,
    /// How long it has been dead; `None` if a scan before this one found it in no file.
    pub dead_for: Option<u64>,
    pub file: String,
    pub offset: usize,
}

/// Bytes that follow from a number. Nothing but marks has the first byte of a mark, except numbers.
pub fn payload(id: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(id);
    let mut block = Vec::with_capacity(EACH);
    block.extend_from_slice(&MARK.to_le_bytes());
    block.extend_from_slice(&id.to_le_bytes());
    while block.len() < EACH {
        block.extend_from_slice(&(rng.next() & 0x7f7f_7f7f_7f7f_7f7f).to_le_bytes());
    }
    let mut bytes: Vec<u8> = block.iter().copied().cycle().take(len).collect();
    // What is too short for a mark has none, and not a part of one either.
    let cut = len % EACH;
    if cut < LEN {
        bytes[len - cut..].copy_from_slice(&block[LEN..LEN + cut]);
    }
    bytes
}

impl Marks {
    /// A number for `len` bytes; 0 if they have no room for a mark.
    pub fn take(&mut self, len: usize) -> u64 {
        if len < LEN {
            return 0;
        }
        self.numbers += 1;
        self.live.insert(self.numbers);
        self.numbers
    }

    /// The number is of a batch that never took place.
    pub fn lose(&mut self, id: u64) {
        if self.live.remove(&id) {
            self.lost.insert(id);
        }
    }

    /// Notes what has died since the last time.
    pub fn sweep(&mut self, model: &Model, span: Span, now: u64) {
        let mut shown: HashSet<u64> = HashSet::with_capacity(self.live.len());
        for life in model.agents.values() {
            let floor = life.floor_at(model.default, span.lo);
            let items = life.items.iter().skip((floor - life.floor) as usize);
            shown.extend(items.filter(|item| item.is_live(span)).map(|item| item.id));
            shown.extend(life.state.values().map(|value| value.id));
        }
        let gone: Vec<u64> = self.live.iter().filter(|id| !shown.contains(id)).copied().collect();
        for id in gone {
            self.live.remove(&id);
            self.dead.insert(id, now);
        }
    }

    /// Looks for marks in all files of a directory. Gives those that came back, and those that have
    /// been dead since before `due`. What is in no file any more must never come back.
    pub fn scan(&mut self, disk: &SimDisk, dir: &str, now: u64, due: Option<u64>) -> Vec<Left> {
        let mut present = HashSet::new();
        let mut left = Vec::new();
        for file in disk.files().into_iter().filter(|file| file.starts_with(dir)) {
            for (id, offset) in marks_of(disk, &file) {
                // No number is 0: a failure of the power tore the mark before its number.
                if id == 0
                    || self.live.contains(&id)
                    || self.lost.contains(&id)
                    || id > self.numbers
                {
                    continue;
                }
                present.insert(id);
                let died = self.dead.get(&id).copied();
                if died.is_none_or(|died| due.is_some_and(|due| died < due)) {
                    let dead_for = died.map(|died| now - died);
                    left.push(Left { id, dead_for, file: file.display().to_string(), offset });
                }
            }
        }
        self.dead.retain(|id, died| present.contains(id) || now - *died < FRESH);
        left
    }

    /// What the store shows is what counts after a crash: numbers of lost batches are forgotten.
    pub fn lose_all(&mut self, ids: impl Iterator<Item = u64>) {
        ids.for_each(|id| self.lose(id));
    }
}

/// The marks in a file: each number once, with the first place where it is.
fn marks_of(disk: &SimDisk, file: &Path) -> BTreeMap<u64, usize> {
    let Some(bytes) = disk.read_file(file) else { return BTreeMap::new() };
    find(&bytes)
}

fn find(bytes: &[u8]) -> BTreeMap<u64, usize> {
    let first = MARK.to_le_bytes()[0];
    let mut found = BTreeMap::new();
    let mut at = 0;
    while at + LEN <= bytes.len() {
        if let Some(id) = mark_at(bytes, at) {
            found.entry(id).or_insert(at);
            at += LEN;
            // The rest of a long payload is the same number again and again.
            while mark_at(bytes, at + EACH - LEN) == Some(id) {
                at += EACH;
            }
            continue;
        }
        match words_without(&bytes[at + 1..], first) {
            Some(step) => at += 1 + step,
            None => break,
        }
    }
    found
}

fn mark_at(bytes: &[u8], at: usize) -> Option<u64> {
    let mark = bytes.get(at..at + LEN)?;
    let word = |part: &[u8]| u64::from_le_bytes(part.try_into().unwrap());
    (word(&mark[..8]) == MARK).then(|| word(&mark[8..]))
}

/// Where a byte is first.
fn words_without(bytes: &[u8], byte: u8) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let pattern = ONES * u64::from(byte);
    let mut at = 0;
    let mut chunks = bytes.chunks_exact(32);
    for chunk in &mut chunks {
        let mut any = 0;
        for word in chunk.chunks_exact(8) {
            let other = u64::from_le_bytes(word.try_into().unwrap()) ^ pattern;
            any |= other.wrapping_sub(ONES) & !other & (ONES << 7);
        }
        if any != 0 {
            break;
        }
        at += 32;
    }
    bytes[at..].iter().position(|other| *other == byte).map(|found| at + found)
}

/// The numbers that the changes of a batch put in.
pub fn ids(ops: &[(String, crate::model::Op)]) -> BTreeSet<u64> {
    use crate::model::Op;
    let id = |op: &Op| match op {
        Op::Append(item) => item.id,
        Op::Set(_, value) => value.id,
        _ => 0,
    };
    ops.iter().map(|(_, op)| id(op)).filter(|id| *id != 0).collect()
}

#[test]
fn marks_are_found_wherever_they_lie() {
    for at in 0..70 {
        for len in [16, 100, 256, 265, 300, 5000] {
            let mut file = vec![0x3c; at];
            file.extend(payload(7, len));
            file.extend([0xee; 9]);
            file.extend(payload(9, 40));
            let found: Vec<u64> = find(&file).into_keys().collect();
            assert_eq!(found, [7, 9], "{at} {len}");
            assert_eq!(payload(7, len).len(), len);
        }
    }
    assert!(find(&payload(7, 15)).is_empty());
}

#[test]
fn what_died_is_missed_when_it_is_due_and_when_it_comes_back() {
    let disk = SimDisk::new(1);
    let mut marks = Marks::default();
    let id = marks.take(100);
    let dead = payload(id, 100);
    assert!(disk.write_file("/s/f", &dead));
    marks.sweep(&Model::default(), Span::default(), 10);
    assert!(marks.scan(&disk, "/s", 10, None).is_empty());
    assert!(marks.scan(&disk, "/s", 20, Some(10)).is_empty());
    assert_eq!(marks.scan(&disk, "/s", 20, Some(11))[0].dead_for, Some(10));
    disk.write_file("/s/torn", &[&dead[..8], &[0; 8]].concat());
    assert_eq!(marks.scan(&disk, "/s", 20, Some(10)).len(), 0);
    disk.write_file("/s/f", b"");
    assert!(marks.scan(&disk, "/s", 10 + FRESH, Some(11)).is_empty());
    disk.write_file("/s/f", &dead);
    assert!(marks.scan(&disk, "/s", 20 + FRESH, None)[0].dead_for.is_none());
}

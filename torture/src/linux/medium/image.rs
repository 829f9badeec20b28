//! What a medium holds, cheap to copy, and what a power failure leaves of it.

use std::sync::Arc;

use crate::linux::rng::Rng;

const BLOCK: usize = 16 << 10;
/// What a medium writes as a whole: its sectors, or, as most of today, 4 KiB of them. Where it is
/// the former, a superblock of ext4 can be torn, which its checksum then refuses.
const PIECES: [u64; 3] = [512, 4096, 4096];

/// The bytes of a medium; blocks never written are zero.
#[derive(Clone)]
pub struct Image {
    blocks: Vec<Option<Arc<[u8]>>>,
}

/// One request that came to the medium.
pub enum Event {
    Write(u64, Vec<u8>),
    /// Everything written before is on stable storage.
    Flush,
    /// One that failed, in words: nothing of it was done.
    Refused(String),
}

/// What is lost of what was written and not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    Nothing,
    Everything,
    /// Each write with this chance, in percent.
    Some(u64),
    /// Each piece of so many bytes, with this chance in percent.
    Torn {
        piece: u64,
        chance: u64,
    },
    /// Pieces of the last write behind a random one.
    CutShort {
        piece: u64,
    },
}

impl Loss {
    pub fn of(rng: &mut Rng) -> Loss {
        match rng.below(10) {
            0 => Loss::Nothing,
            1 => Loss::Everything,
            2..6 => Loss::Some(*rng.pick(&[5, 30, 50, 80, 95])),
            6..9 => Loss::Torn { piece: *rng.pick(&PIECES), chance: *rng.pick(&[5, 30, 50, 90]) },
            _ => Loss::CutShort { piece: *rng.pick(&PIECES) },
        }
    }
}

impl Image {
    pub fn new(bytes: u64) -> Image {
        Image { blocks: vec![None; (bytes as usize).div_ceil(BLOCK)] }
    }

    pub fn len(&self) -> u64 {
        (self.blocks.len() * BLOCK) as u64
    }

    /// What was ever written, with where it begins.
    pub fn written(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let blocks = self.blocks.iter().enumerate();
        blocks.filter_map(|(at, bytes)| Some(((at * BLOCK) as u64, bytes.as_deref()?)))
    }

    pub fn read(&self, offset: u64, out: &mut [u8]) {
        let mut at = offset as usize;
        let mut out = out;
        while !out.is_empty() {
            let (block, within) = (at / BLOCK, at % BLOCK);
            let count = out.len().min(BLOCK - within);
            let (here, rest) = out.split_at_mut(count);
            match self.blocks.get(block).and_then(Option::as_ref) {
                Some(bytes) => here.copy_from_slice(&bytes[within..within + count]),
                None => here.fill(0),
            }
            (out, at) = (rest, at + count);
        }
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (mut at, mut bytes) = (offset as usize, bytes);
        while !bytes.is_empty() {
            let (block, within) = (at / BLOCK, at % BLOCK);
            let count = bytes.len().min(BLOCK - within);
            let (here, rest) = bytes.split_at(count);
            let block = self.blocks[block].get_or_insert_with(|| vec![0; BLOCK].into());
            Arc::make_mut(block)[within..within + count].copy_from_slice(here);
            (bytes, at) = (rest, at + count);
        }
    }

    /// Applies what was flushed, and of the rest what the loss leaves, in an order of its own.
    pub fn after(&self, events: &[Event], loss: Loss, rng: &mut Rng) -> Image {
        let mut image = self.clone();
        let flushed = events.iter().rposition(|e| matches!(e, Event::Flush)).map_or(0, |at| at + 1);
        image.apply(&events[..flushed]);
        let mut rest: Vec<&Event> = events[flushed..].iter().collect();
        // Any two may change places: nothing orders them before the next flush.
        if matches!(loss, Loss::Some(_) | Loss::Torn { .. }) {
            for at in (1..rest.len()).rev() {
                rest.swap(at, rng.below(at as u64 + 1) as usize);
            }
        }
        let last = rest.len().saturating_sub(1);
        for (index, event) in rest.into_iter().enumerate() {
            let Event::Write(offset, bytes) = event else { continue };
            match loss {
                Loss::Everything => {}
                Loss::Nothing => image.write(*offset, bytes),
                Loss::Some(chance) if rng.below(100) < chance => {}
                Loss::Some(_) => image.write(*offset, bytes),
                Loss::Torn { piece, chance } => {
                    for (offset, bytes) in pieces(*offset, bytes, piece) {
                        if rng.below(100) >= chance {
                            image.write(offset, bytes);
                        }
                    }
                }
                Loss::CutShort { piece } => {
                    let all = pieces(*offset, bytes, piece);
                    let count = all.clone().count();
                    let kept = if index == last { rng.below(count as u64) as usize } else { count };
                    all.take(kept).for_each(|(offset, bytes)| image.write(offset, bytes));
                }
            }
        }
        image
    }

    pub fn apply(&mut self, events: &[Event]) {
        for event in events {
            if let Event::Write(offset, bytes) = event {
                self.write(*offset, bytes);
            }
        }
    }
}

/// The bytes of a write as the medium takes them: cut at multiples of `piece`.
fn pieces(offset: u64, bytes: &[u8], piece: u64) -> impl Iterator<Item = (u64, &[u8])> + Clone {
    let mut rest = (offset, bytes);
    std::iter::from_fn(move || {
        let (at, bytes) = rest;
        let len = ((piece - at % piece) as usize).min(bytes.len());
        let (here, behind) = bytes.split_at(len);
        rest = (at + len as u64, behind);
        (len > 0).then_some((at, here))
    })
}

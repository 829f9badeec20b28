//! Going through the frames of a segment whose index is lost or was never made: what is whole is handed
//! on, what is not is reported with whom it hits.

use crate::error::{Damage, Result};
use crate::format::Fault;
use crate::format::codec::u32_at;
use crate::format::frame::{FRAME_LEN, FrameAgent, FrameHeader};
use crate::format::record::Sort;
use crate::recovery::gather::Found;
use crate::recovery::salvage::Salvage;
use crate::segment::Segment;
use crate::segment::pieces::{Body, Lost, Piece, pieces};
use crate::segment::scan::Frame;
use crate::segment::window::Window;
use crate::segment::writer::FIRST_FRAME;
use crate::types::Lsn;

/// A wrong byte is searched for in headers up to this length.
const MENDED_HEADER: usize = 2048;
/// So many tries of a record's first bytes take as long as that of a header.
const TRIES_A_HEADER: u32 = 8;

/// What is known of the end of the frames.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// Nothing says where they end: what lies behind the last whole frame may have been torn by a crash,
    /// or is being written.
    pub(super) torn_may_be: bool,
    /// The next segment of the log says that they go on to the end of the window.
    pub(super) linked: bool,
}

/// What a walk meets.
pub(super) enum Met<'a> {
    Frame(&'a Frame<'a>),
    /// A frame of which some records are whole.
    Part(Part<'a>),
}

/// A frame of which some records are whole.
pub(super) struct Part<'a> {
    pub(super) header: FrameHeader,
    pub(super) agents: Vec<FrameAgent<'a>>,
    pub(super) pieces: Vec<Piece<'a>>,
}

impl Met<'_> {
    pub(super) fn header(&self) -> &FrameHeader {
        match self {
            Met::Frame(frame) => &frame.header,
            Met::Part(part) => &part.header,
        }
    }
}

type Each<'e> = dyn FnMut(Met<'_>) -> std::result::Result<(), Fault> + 'e;

impl Salvage<'_> {
    /// Goes through the frames that lie in a window, and reports what is not whole; gives where the
    /// last of them ends.
    pub(super) fn walk(
        &mut self,
        segment: &Segment,
        window: &mut Window,
        extent: Extent,
        each: &mut Each<'_>,
    ) -> Result<u64> {
        let (mut at, mut end) = (FIRST_FRAME, FIRST_FRAME);
        let mut read_again = 0;
        while at < window.end() {
            let fault = match window.frame(at)? {
                Ok(frame) => {
                    let applied = each(Met::Frame(&frame));
                    let len = frame.header.len() as u64;
                    if let Err(Fault(reason)) = applied {
                        self.lose_frame(segment, &frame.header, &frame.agents, at, reason);
                    }
                    at = at.saturating_add(len);
                    end = at;
                    continue;
                }
                Err(fault) => fault,
            };
            let next = window.next_header(at.saturating_add(8))?.map(|(next, _)| next);
            if next.is_some() && read_again != at {
                // A writer writes in order: what comes before an intact header is there by now.
                read_again = at;
                window.forget();
                continue;
            }
            if self.is_torn(segment, extent, at) {
                self.cut(window, at)?;
                break;
            }
            if segment.run && extent.torn_may_be && next.is_none() && window.header(at)?.is_none() {
                // Its footer, or what is left of it.
                break;
            }
            if let Some(len) = self.part(segment, window, at, fault, each)? {
                at = at.saturating_add(len);
                end = at;
                continue;
            }
            let Some(next) = next else {
                self.lose_tail(segment, window, extent, at, fault)?;
                break;
            };
            self.lose_stretch(segment, at, next, fault.0);
            at = next;
        }
        Ok(end)
    }

    /// Goes through the frames of a segment whose index is sound: for damage that the index does not
    /// lead to, and before a failing medium ends the process by a signal of its map.
    pub(super) fn check_frames(&mut self, found: &Found) -> Result<()> {
        let segment = &found.segment;
        let end = segment.trailer().map_or(0, |trailer| trailer.facts.data_end);
        let Some(mut window) = self.window(found, end)? else { return Ok(()) };
        let extent = Extent { torn_may_be: false, linked: false };
        self.found.indexed = true;
        let walked = self.walk(segment, &mut window, extent, &mut |_| Ok(()));
        self.found.indexed = false;
        walked.map(|_| ())
    }

    /// Whether the log is torn at `at`: what was on stable storage cannot have been, and all that was is
    /// proved by the manifest and the frames that tell of it.
    fn is_torn(&self, segment: &Segment, extent: Extent, at: u64) -> bool {
        let lsn = segment.base.saturating_add(at);
        extent.torn_may_be && !segment.run && lsn >= self.proven
    }

    /// Leaves out the torn end of the log, from `at` of this segment on, as a recovery does.
    pub(super) fn cut(&mut self, window: &mut Window, at: u64) -> Result<()> {
        self.torn = true;
        if let Some(last) = window.last_written(at)? {
            self.found.report.bytes_cut += last - at + 1;
            self.found.report.possibly_acknowledged = true;
        }
        Ok(())
    }

    /// Hands on what is whole of the frame at `at`; gives its length, if its header is intact or can be
    /// told.
    fn part(
        &mut self,
        segment: &Segment,
        window: &mut Window,
        at: u64,
        Fault(reason): Fault,
        each: &mut Each<'_>,
    ) -> Result<Option<u64>> {
        let offset = usize::try_from(at).unwrap_or(usize::MAX);
        if window.header(at)?.is_none() {
            return self.mended(segment, window, at, each);
        }
        let frames = window.frames();
        let Ok((header, agents)) = frames.header(offset) else { return Ok(None) };
        let len = header.len() as u64;
        if header.unknown {
            self.lose_frame(segment, &header, &agents, at, reason);
            return Ok(Some(len));
        }
        let bytes = frames.from(offset).unwrap_or_default();
        let end = header.len().min(bytes.len());
        let body = Body {
            bytes: bytes.get(header.header_len..end).unwrap_or_default(),
            offset: offset.saturating_add(header.header_len),
            salt: segment.salt,
        };
        let pieces = pieces(&header, body, &mut self.tries);
        if pieces.iter().all(|piece| matches!(piece, Piece::Whole(_))) {
            // Whole records, and not those that the header means.
            self.lose_frame(segment, &header, &agents, at, reason);
            return Ok(Some(len));
        }
        for piece in &pieces {
            match piece {
                Piece::Whole(_) => {}
                Piece::Lost(lost) => self.lose_record(segment, &header, &agents, lost),
                Piece::Hole(at) => {
                    let reason = "records are damaged, and what they were cannot be told";
                    self.lose_frame(segment, &header, &agents, *at as u64, reason);
                }
            }
        }
        let part = Met::Part(Part { header, agents, pieces });
        if let Err(Fault(reason)) = each(part) {
            self.found.damage(segment.path(), at, reason);
        }
        Ok(Some(len))
    }

    /// Hands on the frame at `at` if it is whole but for one byte of its header: its records say so
    /// twice, by their own checks and by the digest that the header has of them.
    fn mended(
        &mut self,
        segment: &Segment,
        window: &mut Window,
        at: u64,
        each: &mut Each<'_>,
    ) -> Result<Option<u64>> {
        let Some(left) = self.tries.checked_sub(TRIES_A_HEADER) else { return Ok(None) };
        self.tries = left;
        let offset = usize::try_from(at).unwrap_or(usize::MAX);
        window.load(at, MENDED_HEADER)?;
        let bytes = window.frames().from(offset).unwrap_or_default();
        let mut head = bytes.get(..bytes.len().min(MENDED_HEADER)).unwrap_or_default().to_vec();
        // The length may be what is wrong; it is among the first bytes itself.
        let stated = u32_at(&head, 4).map_or(0, |len| usize::try_from(len).unwrap_or(usize::MAX));
        let searched = if stated > head.len() { FRAME_LEN } else { stated.max(FRAME_LEN) };
        let changes =
            (0..searched.min(head.len())).flat_map(|at| (1..=u8::MAX).map(move |b| (at, b)));
        for (byte, difference) in changes {
            change(&mut head, byte, difference);
            let decoded =
                window.frames().decode_header(offset, &head).map(|(header, _)| header.len());
            if let Ok(len) = decoded {
                window.load(at, len)?;
                let frames = window.frames();
                if let Ok(frame) = frames.frame_under(offset, &head) {
                    let reason = "one byte of a frame's header is wrong; its records are whole";
                    let mut damage = Damage::new(segment.path(), at, reason);
                    damage.agents = frame.agents.iter().map(|a| a.name.to_owned()).collect();
                    self.found.add(damage);
                    if let Err(Fault(reason)) = each(Met::Frame(&frame)) {
                        self.lose_frame(segment, &frame.header, &frame.agents, at, reason);
                    }
                    return Ok(Some(len as u64));
                }
            }
            change(&mut head, byte, difference);
        }
        Ok(None)
    }

    /// Reports the end of a segment that holds no frame any more, if it is known that it did.
    fn lose_tail(
        &mut self,
        segment: &Segment,
        window: &mut Window,
        extent: Extent,
        at: u64,
        Fault(reason): Fault,
    ) -> Result<()> {
        let last = window.last_written(at)?.map(|last| last + 1);
        let proven = self.proven.checked_sub(segment.base).filter(|end| *end <= segment.capacity);
        let proven = proven.filter(|end| *end > at && !segment.run && extent.torn_may_be);
        let known = (!extent.torn_may_be || extent.linked).then(|| window.end());
        let to = last.max(proven).or(known.filter(|_| !segment.run));
        if let Some(to) = to {
            self.lose_stretch(segment, at, to, reason);
        }
        Ok(())
    }

    /// Reports a stretch in which no frame header is intact.
    fn lose_stretch(&mut self, segment: &Segment, at: u64, to: u64, reason: &str) {
        let mut damage = Damage::new(segment.path(), at, reason);
        damage.lsn = segment.base.checked_add(at).filter(|_| !segment.run).map(Lsn);
        damage.reason.push_str(if self.found.indexed {
            "; the index says what is there besides"
        } else if segment.run {
            "; whom it hits cannot be told: any agent may lack what the run kept of it here, \
             forgettings included"
        } else {
            "; whom it hits cannot be told: any agent may lack the changes of these lsns, forgettings \
             included"
        });
        self.found.add(damage);
        if segment.run {
            self.found.lose_any();
        } else {
            self.found.lose(segment.base.saturating_add(at)..segment.base.saturating_add(to));
        }
    }

    /// Reports records of a frame whose header is intact: any of its agents may be hit.
    fn lose_frame(
        &mut self,
        segment: &Segment,
        header: &FrameHeader,
        agents: &[FrameAgent<'_>],
        at: u64,
        reason: &str,
    ) {
        let mut damage = Damage::new(segment.path(), at, reason);
        damage.lsn = Some(Lsn(header.lsn)).filter(|_| !segment.run);
        damage.agents = agents.iter().map(|agent| agent.name.to_owned()).collect();
        agents.iter().for_each(|agent| self.found.lose_erasure(agent.name));
        if agents.is_empty() {
            // It may have forgotten a prefix.
            self.found.lose_any();
        }
        self.found.add(damage);
    }

    /// Reports one record that is not whole.
    fn lose_record(
        &mut self,
        segment: &Segment,
        header: &FrameHeader,
        agents: &[FrameAgent<'_>],
        lost: &Lost<'_>,
    ) {
        let named = lost.was.map(|(sort, agent)| {
            let index = usize::try_from(agent).unwrap_or(usize::MAX);
            (sort, agents.get(index).map(|agent| agent.name))
        });
        let Some((sort, name)) = named else {
            let reason = "a record is damaged, and what it was cannot be told";
            return self.lose_frame(segment, header, agents, lost.offset as u64, reason);
        };
        let reason = match (sort, lost.text.as_deref()) {
            _ if self.found.indexed => "a record's checksum is wrong".to_owned(),
            (Sort::Append, _) => "a record is damaged: an entry is lost".to_owned(),
            (Sort::State, Some(key)) => {
                format!("a record is damaged: a change of the key {key:?} is lost")
            }
            (Sort::State, None) => "a record is damaged: a change of a key is lost".to_owned(),
            (Sort::Policy, _) => "a record is damaged: a change of a policy is lost".to_owned(),
            (Sort::Erasure, _) => "a record is damaged: something that was truncated, redacted or \
                                   forgotten may be back"
                .to_owned(),
        };
        let mut damage = Damage::new(segment.path(), lost.offset as u64, reason);
        damage.lsn = Some(Lsn(header.lsn)).filter(|_| !segment.run);
        damage.agents.extend(name.map(str::to_owned));
        self.found.add(damage);
        match (sort, name.or(lost.text.as_deref())) {
            (Sort::Append, _) => {}
            (Sort::State, _) if lost.text.is_some() => {}
            (Sort::State, Some(agent)) => self.found.lose_key(agent),
            // Without its policy an agent may show what the policy had dropped.
            (Sort::Erasure | Sort::Policy, Some(of)) => self.found.lose_erasure(of),
            (_, None) => self.found.lose_any(),
        }
    }
}

fn change(bytes: &mut [u8], at: usize, difference: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= difference;
    }
}

//! Replaying the frames of one segment into what its footer is to say.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::part::{Pushed, Spot};
use crate::catalog::version::{Applied, Place, Version};
use crate::catalog::{dead, hash_name};
use crate::commit::seal::{AgentAtEnd, Contents, Run, build_footer};
use crate::error::Result as Outcome;
use crate::format::footer::{Bound, MAX_NAME};
use crate::format::frame::FrameAgent;
use crate::format::head::Head;
use crate::format::manifest::Forgotten;
use crate::format::record::{Append, Change, Sort};
use crate::format::{Fault, len32};
use crate::recovery::walk::{Met, Part};
use crate::segment::Segment;
use crate::segment::pieces::{Lost, Piece};
use crate::segment::scan::{Frame, Placed};

/// The agents of one segment, frame by frame.
pub(crate) struct Replay {
    segment: Arc<Segment>,
    /// What seeds the hash of names.
    seed: u64,
    /// The index is made beside the file, and has the place of records that stand for lost entries: it
    /// has none for what the walk could not read.
    is_beside: bool,
    agents: BTreeMap<Arc<str>, Version>,
    pub(crate) prefixes: Vec<(u64, Box<str>)>,
    /// Frames with records, and their bytes.
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    /// Bytes of the bodies of the frames.
    pub(crate) record_bytes: u64,
    /// Bytes of content that died in the segment and that its footer will not tell of.
    pub(crate) hidden: u64,
    /// Some record takes something away.
    pub(crate) kills: bool,
}

impl Replay {
    pub(crate) fn new(segment: Arc<Segment>, seed: u64) -> Self {
        Replay {
            segment,
            seed,
            is_beside: false,
            agents: BTreeMap::new(),
            prefixes: Vec::new(),
            frames: 0,
            bytes: 0,
            record_bytes: 0,
            hidden: 0,
            kills: false,
        }
    }

    /// The same for an index that is made beside the file, by a reader of what it holds.
    pub(crate) fn beside(segment: Arc<Segment>, seed: u64) -> Self {
        Replay { is_beside: true, ..Replay::new(segment, seed) }
    }

    /// Applies a frame. Its records lie where the segment has them.
    pub(crate) fn apply(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        if frame.header.records == 0 {
            return Ok(());
        }
        self.frames += 1;
        self.bytes = self.bytes.saturating_add(frame.header.len() as u64);
        self.record_bytes = self.record_bytes.saturating_add(frame.body.len() as u64);
        let names = self.meet(&frame.agents);
        for (ordinal, placed) in frame.records().enumerate() {
            self.record(frame.header.lsn, ordinal, &placed?, &names)?;
        }
        Ok(())
    }

    /// Notes the agents of a frame as they are before it; gives their names.
    fn meet(&mut self, agents: &[FrameAgent<'_>]) -> Vec<Arc<str>> {
        let names: Vec<Arc<str>> = agents.iter().map(|a| Arc::from(a.name)).collect();
        for (agent, name) in agents.iter().zip(&names) {
            let version =
                self.agents.entry(Arc::clone(name)).or_insert_with(|| Version::at_rest(agent.head));
            if version.head != agent.head {
                version.catch_up(&agent.head, &self.segment);
            }
        }
        names
    }

    /// Applies a record of a frame.
    fn record(
        &mut self,
        lsn: u64,
        ordinal: usize,
        placed: &Placed<'_>,
        names: &[Arc<str>],
    ) -> Result<(), Fault> {
        let adds = matches!(placed.record.change, Change::Append(_) | Change::Policy(_));
        self.kills |= !adds;
        match placed.record.change {
            Change::ForgetPrefix { prefix } => self.prefixes.push((lsn, prefix.into())),
            Change::KeptPrefix { lsn, prefix } => self.prefixes.push((lsn, prefix.into())),
            _ => {}
        }
        match placed.record.change {
            Change::Append(Append { expires: Some(date), .. }) => {
                self.segment.note_expiry(date);
            }
            Change::Policy(_) => self.segment.note_policy(),
            _ => {}
        }
        let Some(mut change) = Applied::of(&placed.record.change) else { return Ok(()) };
        if let Applied::Append(entry, _) = &mut change {
            entry.lost &= !self.is_beside;
        }
        let index = usize::try_from(placed.record.agent).unwrap_or(usize::MAX);
        let name = names.get(index).ok_or(Fault("a record is of no agent of its frame"))?;
        self.change(name, &change, lsn, ordinal, placed.offset);
        Ok(())
    }

    /// Applies a change to an agent. Its record lies at `offset`.
    fn change(
        &mut self,
        name: &str,
        change: &Applied<'_>,
        lsn: u64,
        ordinal: usize,
        offset: usize,
    ) {
        let Some(version) = self.agents.get_mut(name) else { return };
        let (spot, ordinal) = (Spot::at(offset as u64), ordinal as u64);
        self.hidden += dead::hidden_by(version, change, self.segment.id);
        version.apply(change, &Place { segment: &self.segment, spot, lsn, ordinal });
    }

    /// Applies what a salvage meets.
    pub(super) fn take(&mut self, met: &Met<'_>) -> Result<(), Fault> {
        match met {
            Met::Frame(frame) => self.apply(frame),
            Met::Part(part) => self.apply_part(part),
        }
    }

    /// Applies what is whole of a frame. A lost entry keeps its seq, and a key whose change is lost
    /// answers `Damaged` rather than with an older value.
    ///
    /// After damage that does not say whose entries it hit, the seqs of those in the rest of the frame
    /// are not known. They count as lost, and the next frame of the agent says how many there were.
    fn apply_part(&mut self, part: &Part<'_>) -> Result<(), Fault> {
        let header = &part.header;
        self.frames += 1;
        self.bytes = self.bytes.saturating_add(header.len() as u64);
        self.record_bytes = self.record_bytes.saturating_add(header.body_len as u64);
        let names = self.meet(&part.agents);
        let name_of = |agent: u32| usize::try_from(agent).ok().and_then(|agent| names.get(agent));
        let lost_entry = Applied::Append(Pushed { lost: true, ..Pushed::default() }, false);
        let mut unsure = false;
        for (ordinal, piece) in part.pieces.iter().enumerate() {
            match piece {
                Piece::Whole(placed) => match (unsure, &placed.record.change) {
                    (true, Change::Append(_)) => {
                        if let Some(name) = name_of(placed.record.agent) {
                            self.change(name, &lost_entry, header.lsn, ordinal, placed.offset);
                        }
                    }
                    _ => self.record(header.lsn, ordinal, placed, &names)?,
                },
                Piece::Lost(Lost { offset, len, was: Some((sort, agent)), text }) => {
                    let change = match (sort, text.as_deref()) {
                        (Sort::Append, _) => Some(lost_entry),
                        (Sort::State, Some(key)) => {
                            Some(Applied::Set { key, len: len32(*len), revision: None })
                        }
                        _ => None,
                    };
                    if let (Some(change), Some(name)) = (change, name_of(*agent)) {
                        self.change(name, &change, header.lsn, ordinal, *offset);
                    }
                    self.kills |= *sort != Sort::Append;
                }
                Piece::Lost(Lost { was: None, .. }) | Piece::Hole(_) => unsure = true,
            }
        }
        Ok(())
    }

    /// True if nothing happened in the segment that a footer would tell of.
    pub(crate) fn is_empty(&self) -> bool {
        self.agents.is_empty() && self.prefixes.is_empty()
    }

    /// Gives the segment an index in memory, beside its file, of which `end` is the end of the frames;
    /// hands over the prefixes that were forgotten in it.
    ///
    /// # Errors
    /// If the segment says more than a footer can.
    pub(super) fn index(
        self,
        store: u128,
        end: u64,
        run: Option<Run>,
    ) -> Outcome<impl Iterator<Item = Forgotten>> {
        let contents = Contents { run, ..self.contents(end) };
        let agents = self.at_end();
        let mut bound = Bound::new();
        bound.add_bounds(MAX_NAME, MAX_NAME);
        for agent in &agents {
            bound.add_agent(agent.name.len());
            if let Some(part) = &agent.part {
                (0..part.count).for_each(|_| bound.add_entry());
                part.redacted().iter().for_each(|_| bound.add_redaction());
                part.policy().iter().for_each(|_| bound.add_policy());
                part.states("", u64::MAX, |key, _| bound.add_state(key.len()));
            }
        }
        contents.prefixes.iter().for_each(|(_, prefix)| bound.add_prefix(prefix.len()));
        // As if the file went on far enough for the footer.
        let len = end.saturating_add(bound.bytes()).next_multiple_of(4096);
        let agents = agents.into_iter().map(Ok);
        let footer = build_footer(store, &self.segment, len, contents, agents)?;
        self.segment.adopt_footer(footer.bytes, len)?;
        let prefixes = self.prefixes.into_iter();
        Ok(prefixes.map(|(lsn, prefix)| Forgotten { prefix: prefix.into(), lsn }))
    }

    /// What the footer is to say, the agents aside.
    pub(crate) fn contents(&self, data_end: u64) -> Contents<'_> {
        let Replay { record_bytes, hidden, ref prefixes, .. } = *self;
        Contents { data_end, record_bytes, hidden, prefixes, run: None }
    }

    /// What the footer is to say of each agent, in the order of their names.
    pub(crate) fn at_end(&self) -> Vec<AgentAtEnd> {
        let id = self.segment.id;
        let at_end = self.agents.iter().map(|(name, version)| AgentAtEnd {
            name: Arc::clone(name),
            hash: hash_name(self.seed, name),
            head: if version.head.life == 0 { Head::absent() } else { version.head },
            part: version.parts().find(|p| p.segment.id == id).cloned(),
            pages: None,
        });
        at_end.collect()
    }

    /// The agents as they are after the last frame.
    pub(crate) fn into_versions(self) -> impl Iterator<Item = (Arc<str>, Version)> {
        self.agents.into_iter()
    }
}

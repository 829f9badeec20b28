//! The manifest: the list of live segments, and the few facts that belong to the whole store.

use super::check::crc;
use super::codec::{Cursor, pad, put_at};
use super::{Fault, LIMIT, VERSION, align, features, len32};
use crate::types::Retention;

const MAGIC: &[u8; 8] = b"memlogMF";
/// The fixed part, and what of it is in use.
const HEADER_LEN: usize = 224;
const KNOWN_LEN: usize = 120;
const CLAIM_AT: usize = 160;
const HOLES_LEN: usize = 40;
/// A manifest longer than this was never written: a million segments and as many prefixes fit.
pub(crate) const MAX_LEN: u64 = 512 << 20;

/// What a listed segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Ready to become the active one; may hold frames if it did after the manifest was written.
    Spare,
    /// Takes the frames that arrive.
    Active,
    /// Immutable, with a footer.
    Sealed,
    /// The output of a recovery or a job that has not finished: nothing in it counts.
    Draft,
}

/// One listed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) salt: u64,
    pub(crate) role: Role,
    /// True for a run, false for a log segment.
    pub(crate) run: bool,
    pub(crate) base: u64,
    /// Length of the file.
    pub(crate) capacity: u64,
    /// Sealed: where its frames end, as an offset in the file. Otherwise 0.
    pub(crate) data_end: u64,
    /// Sealed: the check stored in its footer's trailer, which ties the footer to this line.
    pub(crate) footer_check: u32,
    /// Sealed: bytes of its records that are known to be dead. Otherwise 0.
    pub(crate) dead: u64,
    /// Sealed: when the oldest of them died, in ms since 1970; 0 if none is known to have.
    pub(crate) dead_since: u64,
}

/// A forgotten prefix: every life that began before `lsn` under it is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forgotten {
    pub(crate) prefix: String,
    pub(crate) lsn: u64,
}

/// A default of retention: what it keeps, and up to where it held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PastDefault {
    /// It held for entries below this lsn; MAX for the default in force.
    pub(crate) until: u64,
    /// The engine's now when it ceased to hold.
    pub(crate) time: u64,
    pub(crate) retention: Retention,
}

/// What a repaired store lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holes {
    /// Entries that were lost and keep their seqs.
    pub(crate) entries: u64,
    /// Values of state that were lost.
    pub(crate) values: u64,
    /// When the store was repaired, in ms since 1970.
    pub(crate) repaired: u64,
    /// The id of the store that it was repaired from.
    pub(crate) from: u128,
}

/// The manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) store: u128,
    /// Counts the openings for writing.
    pub(crate) incarnation: u64,
    /// Counts the manifests.
    pub(crate) generation: u64,
    /// Ids from here on have not been used.
    pub(crate) next_id: u64,
    /// Everything below this lsn is on stable storage.
    pub(crate) durable: u64,
    /// The engine's now when the manifest was written.
    pub(crate) time: u64,
    /// After a clean close: the lsn at which the frames of the active segment end. Else 0.
    pub(crate) clean_end: u64,
    /// Features that a reader may ignore, those left out that this crate knows.
    pub(crate) compatible: u64,
    /// The lineage of the store's lsns: random, never 0.
    pub(crate) history: u64,
    /// A reading of the wall clock that was not believed yet, in ms since 1970; 0: there is none.
    pub(crate) claim: u64,
    /// What a repair could not bring over and nothing has accepted yet.
    pub(crate) holes: Option<Holes>,
    pub(crate) segments: Vec<Listed>,
    pub(crate) forgotten: Vec<Forgotten>,
    /// Segments dropped whose files may still be there: to be unlinked.
    pub(crate) obsolete: Vec<u64>,
    /// Defaults of retention, those that dropped nothing left out, in the order of their ends.
    pub(crate) defaults: Vec<PastDefault>,
}

/// Why a manifest cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ManifestFault {
    /// Not a manifest of memlog at all.
    Foreign,
    Damaged(Fault),
    Version(u32),
    /// It needs these features, which this crate does not read.
    Features(u64),
}

impl From<Fault> for ManifestFault {
    fn from(fault: Fault) -> Self {
        ManifestFault::Damaged(fault)
    }
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.segments.len() * 80);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.store.to_le_bytes());
        for value in [
            self.incarnation,
            self.generation,
            self.next_id,
            self.durable,
            self.time,
            self.clean_end,
        ] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for count in
            [self.segments.len(), self.forgotten.len(), self.obsolete.len(), self.defaults.len()]
        {
            out.extend_from_slice(&len32(count).to_le_bytes());
        }
        let holes = if self.holes.is_some() { features::HOLES } else { 0 };
        out.extend_from_slice(&(self.compatible | holes).to_le_bytes());
        // No feature that a reader must know is in use.
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.history.to_le_bytes());
        // Fields of features that are not built.
        out.resize(CLAIM_AT, 0);
        out.extend_from_slice(&self.claim.to_le_bytes());
        if let Some(Holes { entries, values, repaired, from }) = self.holes {
            for value in [entries, values, repaired] {
                out.extend_from_slice(&value.to_le_bytes());
            }
            out.extend_from_slice(&from.to_le_bytes());
        }
        out.resize(HEADER_LEN, 0);
        self.segments.iter().for_each(|s| encode_listed(&mut out, s));
        for line in &self.forgotten {
            out.extend_from_slice(&line.lsn.to_le_bytes());
            out.extend_from_slice(&len32(line.prefix.len()).to_le_bytes());
            out.extend_from_slice(line.prefix.as_bytes());
            pad(&mut out);
        }
        for id in &self.obsolete {
            out.extend_from_slice(&id.to_le_bytes());
        }
        for PastDefault { until, time, retention } in &self.defaults {
            let Retention { max_entries, max_bytes, max_age } = *retention;
            let limits = [max_entries, max_bytes, max_age].map(|limit| limit.unwrap_or(u64::MAX));
            for value in [*until, *time].into_iter().chain(limits) {
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        let check = out.get(16..).map_or(0, crc);
        let placed = put_at(&mut out, 12, &check.to_le_bytes());
        debug_assert!(placed);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ManifestFault> {
        let mut cursor = Cursor::new(bytes);
        if cursor.bytes(8).ok() != Some(MAGIC.as_slice()) {
            return Err(ManifestFault::Foreign);
        }
        let (version, check) = (cursor.u32()?, cursor.u32()?);
        // The version is outside the checksum, whose place and extent another version may change.
        if version != VERSION {
            return Err(ManifestFault::Version(version));
        }
        if crc(cursor.rest()) != check {
            return Err(Fault("the manifest's checksum is wrong").into());
        }
        let (low, high) = (cursor.u64()?, cursor.u64()?);
        let mut manifest = Manifest {
            store: u128::from(high) << 64 | u128::from(low),
            incarnation: cursor.u64()?,
            generation: cursor.u64()?,
            next_id: cursor.u64()?,
            durable: cursor.u64()?,
            time: cursor.u64()?,
            clean_end: cursor.u64()?,
            ..Manifest::default()
        };
        let (segments, forgotten, obsolete) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let defaults = cursor.u32()?;
        manifest.decode_features(&mut cursor)?;
        let counted = manifest.incarnation.max(manifest.generation).max(manifest.next_id);
        if counted.max(manifest.durable).max(manifest.clean_end) > LIMIT {
            return Err(Fault("the manifest tells of what is beyond all lsns").into());
        }
        manifest.decode_rest_of_header(&mut cursor)?;
        for _ in 0..segments {
            manifest.segments.push(decode_listed(&mut cursor)?);
        }
        for _ in 0..forgotten {
            let (lsn, len) = (cursor.number()?, cursor.length()?);
            let prefix = std::str::from_utf8(cursor.bytes(len)?)
                .map_err(|_| Fault("a prefix is not UTF-8"))?
                .to_owned();
            cursor.bytes(align(len + 12).saturating_sub(len + 12))?;
            manifest.forgotten.push(Forgotten { prefix, lsn });
        }
        for _ in 0..obsolete {
            manifest.obsolete.push(cursor.number()?);
        }
        for _ in 0..defaults {
            let (until, time) = (cursor.u64()?, cursor.u64()?);
            let mut limit = || cursor.u64().map(|limit| (limit != u64::MAX).then_some(limit));
            let retention =
                Retention { max_entries: limit()?, max_bytes: limit()?, max_age: limit()? };
            manifest.defaults.push(PastDefault { until, time, retention });
        }
        if !cursor.rest().is_empty() {
            return Err(Fault("the manifest is too long").into());
        }
        manifest.check_ids()?;
        Ok(manifest)
    }

    /// Every id is given out once: a file of one that is to come would stand in the way.
    fn check_ids(&self) -> Result<(), Fault> {
        let listed = self.segments.iter().map(|listed| listed.id);
        let mut ids: Vec<u64> = listed.chain(self.obsolete.iter().copied()).collect();
        ids.sort_unstable();
        if ids.last().is_some_and(|last| *last >= self.next_id) {
            return Err(Fault("the manifest lists an id that is not given out yet"));
        }
        if ids.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
            return Err(Fault("the manifest lists an id twice"));
        }
        Ok(())
    }
}

impl Manifest {
    /// Reads the feature words.
    fn decode_features(&mut self, cursor: &mut Cursor<'_>) -> Result<(), ManifestFault> {
        let compatible = cursor.u64()?;
        self.compatible = compatible & !features::HOLES;
        if compatible & features::HOLES != 0 {
            self.holes = Some(Holes { entries: 0, values: 0, repaired: 0, from: 0 });
        }
        match features::lacking(cursor.u64()?) {
            0 => Ok(()),
            lacking => Err(ManifestFault::Features(lacking)),
        }
    }

    /// Reads what stands behind them in the fixed part.
    fn decode_rest_of_header(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        self.history = cursor.u64()?;
        if self.history == 0 {
            return Err(Fault("the manifest names no history"));
        }
        // Fields of features that are not built, and reserved ones.
        let unbuilt = cursor.bytes(CLAIM_AT - KNOWN_LEN)?;
        self.claim = cursor.u64()?;
        let mut reserved = HEADER_LEN - CLAIM_AT - 8;
        if let Some(holes) = &mut self.holes {
            (holes.entries, holes.values) = (cursor.u64()?, cursor.u64()?);
            holes.repaired = cursor.u64()?;
            let (low, high) = (cursor.u64()?, cursor.u64()?);
            holes.from = u128::from(high) << 64 | u128::from(low);
            reserved -= HOLES_LEN;
        }
        let reserved = cursor.bytes(reserved)?;
        // What a feature that may be ignored put there is no concern of a reader.
        let unknown = unbuilt.iter().chain(reserved).any(|byte| *byte != 0);
        if unknown && self.compatible == 0 {
            return Err(Fault("reserved bytes of the manifest are in use"));
        }
        Ok(())
    }
}

fn encode_listed(out: &mut Vec<u8>, segment: &Listed) {
    for value in [segment.id, segment.salt, segment.base, segment.capacity, segment.data_end] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(&segment.footer_check.to_le_bytes());
    let role = match segment.role {
        Role::Spare => 1,
        Role::Active => 2,
        Role::Sealed => 3,
        Role::Draft => 4,
    };
    out.extend_from_slice(&[role, u8::from(segment.run), 0, 0]);
    out.extend_from_slice(&segment.dead.to_le_bytes());
    out.extend_from_slice(&segment.dead_since.to_le_bytes());
}

fn decode_listed(cursor: &mut Cursor<'_>) -> Result<Listed, Fault> {
    let (id, salt, base) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
    let (capacity, data_end, footer_check) = (cursor.u64()?, cursor.u64()?, cursor.u32()?);
    let role = match cursor.u8()? {
        1 => Role::Spare,
        2 => Role::Active,
        3 => Role::Sealed,
        4 => Role::Draft,
        _ => return Err(Fault("a segment's role is unknown")),
    };
    let run = match cursor.u8()? {
        0 => false,
        1 => true,
        _ => return Err(Fault("a segment's layout is unknown")),
    };
    let _zero = cursor.u16()?;
    if id > LIMIT || base.saturating_add(capacity) > LIMIT {
        return Err(Fault("a segment lies beyond all lsns"));
    }
    let (dead, dead_since) = (cursor.u64()?, cursor.u64()?);
    Ok(Listed { id, salt, role, run, base, capacity, data_end, footer_check, dead, dead_since })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back_and_every_flipped_bit_is_seen() {
        let manifest = Manifest {
            store: 5,
            incarnation: 2,
            generation: 3,
            next_id: 4,
            durable: 5,
            time: 6,
            clean_end: 7,
            compatible: 1 << 63,
            history: 8,
            claim: 11,
            holes: Some(Holes { entries: 1 << 40, values: 12, repaired: 13, from: 14 << 70 }),
            segments: vec![Listed {
                id: 1,
                salt: 2,
                role: Role::Sealed,
                run: true,
                base: 3,
                capacity: 4096,
                data_end: 200,
                footer_check: 9,
                dead: 1 << 40,
                dead_since: 1_763_884_800_000,
            }],
            forgotten: vec![Forgotten { prefix: "acme/".into(), lsn: 8 }],
            obsolete: vec![3],
            defaults: vec![PastDefault {
                until: 9,
                time: 10,
                retention: Retention::new().max_entries(3),
            }],
        };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len]).is_err(), "cut to {len}");
        }
        let beyond = |change: fn(&mut Manifest)| {
            let mut hostile = manifest.clone();
            change(&mut hostile);
            Manifest::decode(&hostile.encode()).is_err()
        };
        assert!(!beyond(|manifest| manifest.durable = LIMIT));
        assert!(beyond(|manifest| manifest.durable = LIMIT + 1));
        assert!(beyond(|manifest| manifest.generation = u64::MAX));
        assert!(beyond(|manifest| manifest.segments[0].base = LIMIT));
        assert!(beyond(|manifest| manifest.segments[0].id = LIMIT + 1));
        assert!(beyond(|manifest| manifest.forgotten[0].lsn = LIMIT + 1));
        assert!(beyond(|manifest| manifest.obsolete[0] = LIMIT + 1));
        assert!(beyond(|manifest| manifest.obsolete[0] = 4));
        assert!(beyond(|manifest| manifest.next_id = 3));
        assert!(beyond(|manifest| manifest.obsolete[0] = 1));
        assert!(!beyond(|manifest| manifest.obsolete[0] = 2));
    }
}

//! What a repair kept and what it lost.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::error::Damage;
use crate::recovery::findings::{Findings, ROWS};
use crate::types::Lsn;

/// What a repair kept, what it lost, and what it cannot tell.
///
/// Each list has at most 10,000 rows; [`omitted`](Self::omitted) counts those that were left out. The
/// sums count everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// Agents in the new store.
    pub agents: u64,
    /// Entries brought over, redacted ones included.
    pub entries: u64,
    /// Values of state brought over.
    pub values: u64,
    /// The seqs of entries that are lost, by agent. In the new store they keep their place, and read as
    /// `Damaged` until they are accepted with [`Store::accept_holes`](crate::Store::accept_holes).
    pub lost: Vec<(String, RangeInclusive<u64>)>,
    /// Entries that are lost.
    pub lost_entries: u64,
    /// Keys of state whose value is lost, by agent. The key is empty where it is lost too.
    pub lost_keys: Vec<(String, String)>,
    /// Values of state that are lost.
    pub lost_values: u64,
    /// Positions in the log that may have held changes of any agent: it cannot be told whom they hit.
    pub unknown: Vec<RangeInclusive<Lsn>>,
    /// Agents and prefixes of which something may be back that was truncated, redacted or forgotten,
    /// since the record that said so is lost.
    pub erasures: Vec<String>,
    /// True if something is lost of which it cannot be told whom it hit: any agent may lack something,
    /// and anything that was erased may be back. So it is without a manifest.
    pub any_agent: bool,
    /// Bytes of a torn end of the log that were left out: no batch in it was acknowledged at
    /// [`Sync`](crate::Durability::Sync), if the medium kept its promises.
    pub bytes_cut: u64,
    /// True if such bytes may have been acknowledged all the same, if the disk broke its promises. A
    /// crash while a batch was being written looks the same.
    pub possibly_acknowledged: bool,
    /// The damage that was met, whether or not anything was lost by it.
    pub damage: Vec<Damage>,
    /// Rows that were left out of the lists.
    pub omitted: u64,
    /// Lost entries that have a place in the new store.
    pub(crate) lost_in_place: u64,
    /// Agents that a row of damage names, and the places that rows name.
    named: BTreeSet<String>,
    places: BTreeSet<(PathBuf, u64)>,
}

impl RepairReport {
    /// Whether nothing is lost, and nothing that was erased can be back. There may have been damage all
    /// the same, to what could be made again or was dead.
    #[must_use]
    pub fn is_lossless(&self) -> bool {
        self.lost_entries == 0
            && self.lost_values == 0
            && self.unknown.is_empty()
            && self.erasures.is_empty()
            && !self.any_agent
    }

    pub(super) fn of(found: Findings) -> Self {
        let Findings { report, unknown, erasures, any_agent, omitted, keys, .. } = found;
        let lsns = unknown.into_iter().filter(|lsns| lsns.end > lsns.start);
        let named = report.damage.iter().flat_map(|damage| damage.agents.iter().cloned());
        let places = report.damage.iter().map(|damage| (damage.file.clone(), damage.offset));
        RepairReport {
            unknown: lsns.map(|lsns| Lsn(lsns.start)..=Lsn(lsns.end - 1)).collect(),
            erasures: erasures.into_iter().collect(),
            any_agent,
            bytes_cut: report.bytes_cut,
            possibly_acknowledged: report.possibly_acknowledged,
            lost_values: keys.len() as u64,
            lost_keys: keys.into_iter().map(|agent| (agent, String::new())).collect(),
            named: named.collect(),
            places: places.collect(),
            damage: report.damage,
            omitted,
            ..RepairReport::default()
        }
    }

    /// Notes an entry that is lost and keeps its place.
    pub(super) fn lose_entry(&mut self, agent: &str, seq: u64, damage: Option<&Damage>) {
        self.lost_in_place += 1;
        // Of an entry without a record the walk of its segment has told, if it knew whose it was.
        let untold = damage.filter(|damage| damage.offset > 0 || !self.named.contains(agent));
        self.lose_entries(agent, seq, seq.saturating_add(1), untold.cloned());
    }

    /// Notes the entries from `from` up to `to`, itself excluded.
    pub(super) fn lose_entries(&mut self, agent: &str, from: u64, to: u64, damage: Option<Damage>) {
        self.lost_entries = self.lost_entries.saturating_add(to.saturating_sub(from));
        let last = to.saturating_sub(1);
        let rows = self.lost.len();
        match self.lost.last_mut() {
            Some((name, seqs)) if name == agent && seqs.end().saturating_add(1) == from => {
                *seqs = *seqs.start()..=last;
            }
            _ if rows < ROWS => self.lost.push((agent.to_owned(), from..=last)),
            _ => self.omitted += 1,
        }
        self.tell(agent, damage);
    }

    /// Notes a value that is lost.
    pub(super) fn lose_value(&mut self, agent: &str, key: Option<&str>, damage: Option<&Damage>) {
        self.lost_values += 1;
        if self.lost_keys.len() < ROWS {
            self.lost_keys.push((agent.to_owned(), key.unwrap_or_default().to_owned()));
        } else {
            self.omitted += 1;
        }
        self.tell(agent, damage.cloned());
    }

    fn tell(&mut self, agent: &str, damage: Option<Damage>) {
        let Some(mut damage) = damage else { return };
        let place = (damage.file.clone(), damage.offset);
        if damage.offset > 0 && self.places.contains(&place) {
            return;
        }
        if damage.agents.is_empty() {
            damage.agents.push(agent.to_owned());
        }
        if self.named.len() < ROWS {
            self.named.insert(agent.to_owned());
        }
        if self.damage.len() < ROWS {
            self.places.insert(place);
            self.damage.push(damage);
        } else {
            self.omitted += 1;
        }
    }
}

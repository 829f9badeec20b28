//! Ordering what is ordered most: entries of one agent that everybody may see at once.

use std::sync::Arc;

use crate::catalog::part::Spot;
use crate::catalog::resident::Progress;
use crate::catalog::version::{Applied, Place};
use crate::commit::Engine;
use crate::commit::costs::{TABLE_ENTRY, table_bytes};
use crate::commit::order::{Order, Ordered};
use crate::commit::prepared::Prepared;
use crate::format::footer::Bound;
use crate::format::record;
use crate::types::{Durability, Lsn};

impl Engine {
    /// Gives the batch its place, if nothing about it is out of the ordinary: nothing but entries of
    /// one agent, at `Buffer`, without expectations, behind nothing that waits to be published. The
    /// agent is then changed in place, since its version before is in nobody's way, and under one hold
    /// of its lock. `None`: nothing changed.
    pub(super) fn order_at_once(
        &self,
        order: &mut Order,
        batch: &mut Prepared,
        durability: Durability,
        progress: Progress,
        time: u64,
    ) -> Option<Ordered> {
        if durability != Durability::Buffer {
            return None;
        }
        let len = batch.len() as u64;
        let body_at = order.tail + batch.header.len() as u64;
        let [agent] = batch.agents.as_mut_slice() else { return None };
        let expects = agent.expect_next.is_some() || agent.expect_last.is_some();
        if expects || !batch.revisions.is_empty() || !batch.appends_only || batch.records == 0 {
            return None;
        }
        let resident = &agent.resident;
        let mut slot = resident.lock();
        if !slot.is_known() || slot.is_held() {
            return None;
        }
        self.catalog.apply_prefixes(resident, &mut slot);
        slot.settle(progress);
        let entries = usize::try_from(batch.records).ok()?;
        let first = slot.is_first_in(order.active.segment.id);
        let mut table = entries.saturating_mul(TABLE_ENTRY);
        if first {
            table += table_bytes(&resident.name);
        }
        let agent_too = |bound: &mut Bound| bound.add_agent(resident.name.len());
        let more = first.then_some(&agent_too as &dyn Fn(&mut Bound));
        if !order.has_room_for_entries(len, entries, table, more) {
            return None;
        }
        let (segment, lsn, end) = (&order.active.segment, order.end(), order.end() + len);
        let version = slot.change_at_once(segment, end)?;
        // In place and not as a whole: a copy of what was just changed in parts waits for the parts.
        order.bound.add_entries(entries);
        if first {
            agent_too(&mut order.bound);
        }
        order.table_bytes += table;
        batch.header.set_head(agent.head_at, &version.head);
        agent.seqs.start = version.head.next;
        let mut at = 0;
        let mut ordinal = 0;
        // The body was just encoded, and holds nothing but entries.
        while let Some((len, append)) = record::entry_at(&batch.body, at) {
            let spot = Spot::at(body_at + at as u64);
            if let Some(date) = append.expires {
                self.note_expiry(segment, date);
            }
            version.apply(&Applied::append(&append), &Place { segment, spot, lsn, ordinal });
            at += len;
            ordinal += 1;
        }
        agent.seqs.end = version.head.next;
        if first {
            order.touched.push(Arc::clone(resident));
        }
        drop(slot);
        let scarce = order.scarce();
        order.enqueue_batch(batch, time);
        Some(Ordered { lsn: Lsn(lsn), end, durability: Durability::Buffer, scarce })
    }
}

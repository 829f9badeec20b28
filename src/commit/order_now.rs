//! Ordering a batch by a caller that must not wait: it gets its place at once, or not at all.

use crate::commit::Engine;
use crate::commit::order::{Attempt, Ordered};
use crate::commit::prepared::Prepared;
use crate::error::Result;
use crate::types::Durability;

impl Engine {
    /// Gives the batch its place in the log, unless that would read the disk, wait for room, for
    /// another change of an agent, or for the pace that appends are slowed down to. With `None` the
    /// batch is as it was.
    ///
    /// # Errors
    /// Those of [`order`](Engine::order). Nothing changed then.
    pub(crate) fn order_now(
        &self,
        batch: &mut Prepared,
        durability: Durability,
    ) -> Result<Option<Ordered>> {
        self.check_writable()?;
        self.check_open()?;
        if let Some(error) = batch.take_error() {
            return Err(error);
        }
        batch.check_len()?;
        if self.may_read(batch) || self.is_paced(durability) {
            return Ok(None);
        }
        let len = batch.len() as u64;
        match self.try_order(batch, durability)? {
            Attempt::Ordered(ordered) => {
                self.pace_later(len, ordered);
                Ok(Some(ordered))
            }
            // It is answered once its reason can be read.
            Attempt::Refused(error, wait) => match wait {
                Some((end, durability)) if !self.progress().reached(end, durability) => Ok(None),
                _ => Err(error),
            },
            Attempt::NoRoom { .. } | Attempt::Unknown | Attempt::Held(_) => Ok(None),
        }
    }

    /// Whether ordering the batch may look at pages of a state index: the values that its keys have so
    /// far are told from them.
    fn may_read(&self, batch: &Prepared) -> bool {
        if batch.appends_only && batch.revisions.is_empty() {
            return false;
        }
        let mut residents = batch.agents.iter().map(|agent| &agent.resident);
        residents.any(|agent| agent.lock().base().is_some_and(|base| !base.states.is_empty()))
    }
}

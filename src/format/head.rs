//! The head of an agent: what is true of its life as a whole.

use super::{Fault, LIMIT};

/// An agent's life at the end of a segment, or now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The life's number; 0: the agent is absent, because it was forgotten or never was.
    pub(crate) life: u64,
    /// The seq that the next entry gets.
    pub(crate) next: u64,
    /// The lowest live seq; equal to `next` in an empty timeline.
    pub(crate) floor: u64,
    /// [`Head::STATE`] and its siblings.
    pub(crate) flags: u16,
}

impl Head {
    /// The life has had a change of state, here or before.
    pub(crate) const STATE: u16 = 1;
    /// An entry of the life has been redacted, here or before.
    pub(crate) const REDACTED: u16 = 2;
    /// The life has a policy of its own.
    pub(crate) const POLICY: u16 = 4;
    /// Some entry of the life has an expiry.
    pub(crate) const EXPIRES: u16 = 8;

    /// Refuses what no agent comes to.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        if self.life.max(self.next) > LIMIT {
            return Err(Fault("an agent's head is beyond all lsns or seqs"));
        }
        if self.floor == 0 || self.floor > self.next {
            return Err(Fault("the floor of an agent's head is outside of its timeline"));
        }
        Ok(())
    }

    /// The head of an agent that is not there: its first entry would get seq 1.
    pub(crate) const fn absent() -> Self {
        Head { life: 0, next: 1, floor: 1, flags: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_that_no_agent_comes_to_are_refused() {
        let last = Head { life: LIMIT, next: LIMIT, floor: LIMIT, flags: 0 };
        assert!(last.check().is_ok() && Head::absent().check().is_ok());
        for beyond in [
            Head { life: LIMIT + 1, ..last },
            Head { next: LIMIT + 1, ..last },
            Head { floor: LIMIT + 1, ..last },
            Head { floor: 3, next: 2, ..last },
            Head { floor: 0, ..last },
        ] {
            assert!(beyond.check().is_err(), "{beyond:?}");
        }
    }
}

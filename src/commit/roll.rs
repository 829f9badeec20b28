//! Agents in a list that is made and given back piece by piece.

use std::sync::Arc;

use crate::catalog::resident::Resident;

/// Agents, in pieces.
///
/// A large block that goes back to an allocator may have it tidy up whatever was freed before, and
/// return it to the system, while whoever needs memory waits: 15 ms behind the agents of one
/// segment. With a block every few thousand agents that comes in small doses.
#[derive(Default)]
pub(crate) struct Roll {
    pieces: Vec<Vec<Arc<Resident>>>,
}

impl Roll {
    /// Agents in a piece: 64 KiB of them.
    const PIECE: usize = 8192;

    pub(crate) fn push(&mut self, agent: Arc<Resident>) {
        match self.pieces.last_mut() {
            Some(piece) if piece.len() < Self::PIECE => piece.push(agent),
            _ => self.pieces.push(vec![agent]),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Resident>> {
        self.pieces.iter().flatten()
    }

    /// The pieces, to be given back one by one.
    pub(crate) fn into_pieces(self) -> impl Iterator<Item = Vec<Arc<Resident>>> {
        self.pieces.into_iter()
    }
}

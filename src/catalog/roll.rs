//! The agents with changes in one unsealed segment: a list that is made and given back piece by
//! piece, and the same agents in the order of their names for listings.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::catalog::resident::Resident;
use crate::sync::Mutex;

/// Agents in a piece: 64 KiB of them.
const PIECE: usize = 8192;
/// Agents copied under one hold of the lock, for which an appender may wait.
const A_FEW: usize = 512;

/// Agents in the order of their names, each once.
pub(crate) type Sorted = Arc<[Arc<Resident>]>;

/// The agents with changes in one unsealed segment. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Roll(Arc<Shared>);

#[derive(Default)]
struct Shared {
    list: Mutex<List>,
    index: Mutex<Index>,
}

/// Agents, in pieces.
///
/// When a large block is freed, an allocator may consolidate all that was freed before and return it
/// to the system, while other threads wait for memory: 15 ms after the agents of one segment. Blocks
/// of a few thousand agents spread that out.
#[derive(Default)]
struct List {
    pieces: VecDeque<Vec<Arc<Resident>>>,
    /// How many agents were in pieces that were given back.
    gone: usize,
}

/// What was sorted so far. Each agent is sorted once, by the first listing after its touch, and then
/// merged at most once for each bit of the number of agents.
#[derive(Default)]
struct Index {
    /// Agents of the list that were sorted.
    taken: usize,
    /// Each less than half as long as the one before it.
    parts: Vec<Sorted>,
}

impl Roll {
    /// Adds an agent. One may be added twice.
    pub(crate) fn push(&self, agent: Arc<Resident>) {
        let mut list = self.0.list.lock();
        match list.pieces.back_mut() {
            Some(piece) if piece.len() < PIECE => piece.push(agent),
            _ => list.pieces.push_back(vec![agent]),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.list.lock().pieces.is_empty()
    }

    /// The agents in the order of their names, each once.
    pub(crate) fn in_order(&self) -> Vec<Arc<Resident>> {
        let mut agents = self.behind(&mut 0);
        sort(&mut agents);
        agents
    }

    /// The agents in the order of their names, in parts: about one for each bit of their number. An
    /// agent that was touched again since may be in several.
    pub(crate) fn sorted(&self) -> Vec<Sorted> {
        let mut index = self.0.index.lock();
        let mut more = self.behind(&mut index.taken);
        sort(&mut more);
        while let Some(last) = index.parts.pop_if(|last| last.len() <= more.len() * 2) {
            more = merged(&last, &more);
        }
        if !more.is_empty() {
            index.parts.push(more.into());
        }
        index.parts.clone()
    }

    /// The agents from a place in the list on, as far as they were not given back; the place is then
    /// the end of the list.
    fn behind(&self, from: &mut usize) -> Vec<Arc<Resident>> {
        let mut agents = Vec::new();
        loop {
            let list = self.0.list.lock();
            *from = (*from).max(list.gone);
            let (mut skip, before) = (*from - list.gone, agents.len());
            for piece in &list.pieces {
                let rest = piece.get(skip..).unwrap_or_default();
                skip = skip.saturating_sub(piece.len());
                let room = A_FEW - (agents.len() - before);
                agents.extend(rest.iter().take(room).cloned());
            }
            if agents.len() == before {
                return agents;
            }
            *from += agents.len() - before;
        }
    }

    /// Gives the pieces, to be given back one by one.
    pub(crate) fn into_pieces(self) -> impl Iterator<Item = Vec<Arc<Resident>>> {
        std::iter::from_fn(move || {
            let mut list = self.0.list.lock();
            let piece = list.pieces.pop_front()?;
            list.gone += piece.len();
            Some(piece)
        })
    }
}

fn sort(agents: &mut Vec<Arc<Resident>>) {
    agents.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    agents.dedup_by(|a, b| a.name == b.name);
}

/// Two lists in one, each agent once.
fn merged(old: &[Arc<Resident>], new: &[Arc<Resident>]) -> Vec<Arc<Resident>> {
    let mut all = Vec::with_capacity(old.len() + new.len());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let next = match (old.peek(), new.peek()) {
            (Some(a), Some(b)) => match a.name.cmp(&b.name) {
                Ordering::Less => old.next(),
                Ordering::Greater => new.next(),
                Ordering::Equal => {
                    old.next();
                    new.next()
                }
            },
            (Some(_), None) => old.next(),
            _ => new.next(),
        };
        match next {
            Some(agent) => all.push(Arc::clone(agent)),
            None => return all,
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn agent(i: usize) -> Arc<Resident> {
        Arc::new(Resident::new(Arc::from(format!("a{i:05}")), i as u64))
    }

    fn names(parts: &[Sorted]) -> Vec<String> {
        let mut names: Vec<String> =
            parts.iter().flat_map(|part| part.iter()).map(|agent| agent.name.to_string()).collect();
        assert!(parts.iter().all(|part| part.is_sorted_by_key(|agent| &agent.name)));
        names.sort();
        names
    }

    #[test]
    fn a_listing_finds_what_was_touched_and_sorts_nothing_twice() {
        let roll = Roll::default();
        assert!(roll.is_empty() && roll.sorted().is_empty());
        let most = if cfg!(miri) { 600 } else { 20_000 };
        let mut touched = 0;
        for (round, step) in [most / 2, 1, 1, 40, most / 4, 7].into_iter().enumerate() {
            // In no order.
            (0..step).for_each(|i| roll.push(agent((touched + i) * 7919 % 100_000)));
            touched += step;
            let parts = roll.sorted();
            let mut all: Vec<String> =
                (0..touched).map(|i| format!("a{:05}", i * 7919 % 100_000)).collect();
            all.sort();
            assert_eq!(names(&parts), all, "round {round}");
            assert!(parts.windows(2).all(|two| two[1].len() * 2 < two[0].len() + 2));
            // Nothing is new: nothing is made anew.
            let again = roll.sorted();
            assert!(parts.iter().zip(&again).all(|(a, b)| Arc::ptr_eq(a, b)));
        }
        assert_eq!(roll.in_order().len(), touched);
    }

    #[test]
    fn what_was_given_back_is_not_missed_and_the_rest_is_found_once() {
        let roll = Roll::default();
        (0..PIECE + 5).for_each(|i| roll.push(agent(i)));
        let sealed = roll.clone();
        let mut pieces = sealed.into_pieces();
        assert_eq!(pieces.next().map(|piece| piece.len()), Some(PIECE));
        assert_eq!(names(&roll.sorted()).len(), 5);
        roll.push(agent(PIECE + 5));
        assert_eq!(names(&roll.sorted()).len(), 6);
        assert_eq!(pieces.next().map(|piece| piece.len()), Some(6));
        assert!(pieces.next().is_none() && roll.is_empty());
    }

    #[test]
    fn an_agent_that_is_touched_again_is_listed_once_in_a_part() {
        let roll = Roll::default();
        [3, 1, 3].into_iter().for_each(|i| roll.push(agent(i)));
        assert_eq!(names(&roll.sorted()), ["a00001", "a00003"]);
        roll.push(agent(3));
        assert_eq!(names(&roll.sorted()), ["a00001", "a00003"]);
    }
}

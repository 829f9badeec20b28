//! What readers see while a history goes on: views, listings, and the answers to what is wrong.

use memlog::{Error, ErrorKind, View};

use crate::ledger::look;
use crate::model::{self, Seen, hash};
use crate::world::{EPOCH, Held, KEYS, World, time};

impl World {
    /// Opens a view and keeps it.
    pub fn hold(&mut self) -> Result<(), Error> {
        let name = self.name();
        let Some((view, seen)) = self.read(&name)? else { return Ok(()) };
        if self.held.len() > 5 {
            self.held.remove(0);
        }
        self.held.push(Held { view, seen });
        Ok(())
    }

    /// Reads an agent and holds it against the ledger.
    pub fn read(&mut self, name: &str) -> Result<Option<(View, Seen)>, Error> {
        let view = match self.store().agent(name).unwrap().view() {
            Ok(view) => view,
            Err(error) => {
                // Its bytes may have been left in memory by a failed write.
                assert!(self.trouble, "view: {error:?}");
                assert_eq!(error.kind(), ErrorKind::Poisoned, "view: {error:?}");
                self.poisoned = true;
                return Ok(None);
            }
        };
        let seen = look(&view).unwrap_or_else(|e| panic!("reading {name}: {e:?}"));
        if self.pending.is_empty() && !self.poisoned {
            let expected = model::seen(self.ledger.now(), name);
            assert!(expected.matches(&seen), "{name}: expected {expected:?}\n but saw {seen:?}");
        } else {
            assert!(self.ledger.may_see(name, &seen), "{name} never was {seen:?}");
        }
        Ok(Some((view, seen)))
    }

    pub fn check_one(&mut self) -> Result<(), Error> {
        self.check_held();
        let name = self.name();
        let Some((view, seen)) = self.read(&name)? else { return Ok(()) };
        let seq = seen.floor.saturating_sub(1) + self.rng.below(seen.next - seen.floor + 3);
        let got = view.get(seq)?.map(|entry| crate::ledger::item(&entry));
        assert_eq!(got.as_ref(), seen.items.get(&seq), "{name}: get({seq})");
        let count = self.rng.below(6) as usize;
        let latest: Vec<u64> = view.latest(count).map(|e| e.unwrap().seq()).collect();
        let expected: Vec<u64> = seen.items.keys().rev().take(count).rev().copied().collect();
        assert_eq!(latest, expected, "{name}: latest({count})");
        let since = EPOCH - 6000 + self.rng.below(22_000);
        let from = seen.items.iter().find(|(_, item)| item.at.unwrap_or(0) >= since);
        let told = view.since(time(since)).next().map(|e| e.unwrap().seq());
        assert_eq!(told, from.map(|(seq, _)| *seq), "{name}: since({since})");
        let key = *self.rng.pick(KEYS);
        let value = view.state(key)?.map(|v| (hash(v.value()), Some(v.revision().0)));
        let expected = seen.state.get(key).map(|v| (v.hash, v.revision));
        assert_eq!(value, expected, "{name}: state({key})");
        Ok(())
    }

    pub fn check_held(&self) {
        for Held { view, seen } in &self.held {
            let now = look(view).unwrap_or_else(|e| panic!("a held view: {e:?}"));
            assert!(now == *seen, "a held view of {} changed", view.agent().name());
        }
    }

    pub fn check_agents(&mut self) -> Result<(), Error> {
        if !self.pending.is_empty() || self.poisoned {
            return Ok(());
        }
        let prefix = *self.rng.pick(&["", "t/", "u/", "t/a", "s", "x"]);
        let mut told = Vec::new();
        for agent in self.store().agents(prefix) {
            told.push(agent?.name().to_owned());
        }
        let names = self.ledger.now().keys().filter(|name| name.starts_with(prefix));
        assert!(names.eq(&told), "agents({prefix:?}): {told:?}");
        Ok(())
    }

    /// What can never be right changes nothing.
    pub fn check_errors(&mut self) -> Result<(), Error> {
        let name = self.name();
        let agent = self.store().agent(&name).unwrap();
        let next = self.ledger.now().get(&name).map_or(1, |life| life.next);
        let outcome = match self.rng.below(4) {
            0 => agent.truncate_before(0),
            1 => agent.truncate_before(next + 1),
            2 => agent.redact(next),
            _ => agent.redact(0),
        };
        let error = outcome.expect_err("a seq that there is not was accepted");
        let expected = [ErrorKind::OutOfRange, ErrorKind::Poisoned];
        assert!(expected.contains(&error.kind()) || self.trouble, "{name}: {error:?}");
        Ok(())
    }
}

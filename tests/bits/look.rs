//! All that a store shows, and how that differs from what it should show.

use std::collections::BTreeMap;
use std::path::Path;

use memlog::{Damage, Entry, Error, ErrorKind, Store, View};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    at: u64,
    kind: u16,
    weight: u32,
    joined: bool,
    redacted: bool,
    meta: Vec<u8>,
    payload: Vec<u8>,
}

/// What a view shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    floor: u64,
    next: u64,
    items: BTreeMap<u64, Item>,
    /// Values and their revisions.
    state: BTreeMap<String, (Vec<u8>, u64)>,
}

pub type All = BTreeMap<String, Seen>;

fn item(entry: &Entry<'_>) -> Item {
    let at = entry.at().duration_since(std::time::UNIX_EPOCH).unwrap();
    Item {
        at: at.as_millis() as u64,
        kind: entry.kind().get(),
        weight: entry.weight(),
        joined: entry.is_joined(),
        redacted: entry.is_redacted(),
        meta: entry.meta().to_vec(),
        payload: entry.payload().to_vec(),
    }
}

/// What a whole store shows.
pub fn all(store: &Store) -> All {
    let mut found = Found::of(store, &[]);
    assert!(found.damage.is_empty(), "{:?}", found.damage);
    std::mem::take(&mut found.all)
}

/// What a store shows that may be damaged: what could be read, and every damage that was met.
#[derive(Default)]
pub struct Found {
    pub all: All,
    /// Agents of which something could not be read.
    pub partial: Vec<String>,
    /// Whether the list of agents could not be read to its end.
    pub unlisted: bool,
    pub damage: Vec<Damage>,
}

impl Found {
    /// Looks at all agents that the store lists, and at those of these names.
    pub fn of(store: &Store, names: &[&String]) -> Found {
        let mut found = Found::default();
        let mut names: Vec<String> = names.iter().map(|name| (*name).clone()).collect();
        for agent in store.agents("") {
            match agent {
                Ok(agent) => names.push(agent.name().to_owned()),
                Err(error) => {
                    found.met(error);
                    found.unlisted = true;
                    break;
                }
            }
        }
        let listed = names.clone();
        names.sort();
        names.dedup();
        for name in names {
            match store.agent(&name).unwrap().view() {
                Ok(view) => {
                    let before = found.damage.len();
                    let seen = found.look(&view);
                    let there = listed.contains(&name) || seen != Seen::nothing();
                    if found.damage.len() > before {
                        found.partial.push(name.clone());
                    }
                    if there {
                        found.all.insert(name, seen);
                    }
                }
                Err(error) => {
                    found.met(error);
                    found.partial.push(name);
                }
            }
        }
        found
    }

    fn met(&mut self, error: Error) {
        assert_eq!(error.kind(), ErrorKind::Damaged, "reading: {error:?}");
        self.damage.push(error.damage().expect("damage says where").clone());
    }

    fn look(&mut self, view: &View) -> Seen {
        let mut seen = Seen { floor: view.floor(), next: view.next_seq(), ..Seen::default() };
        let mut seq = seen.floor;
        for entry in view.iter() {
            match entry {
                Ok(entry) => {
                    assert_eq!(
                        entry.seq(),
                        seq,
                        "a hole in the timeline of {}",
                        view.agent().name()
                    );
                    seen.items.insert(seq, item(&entry));
                }
                // An iteration ends with its first error.
                Err(error) => {
                    self.met(error);
                    self.rest(view, &mut seen, seq);
                    seq = seen.next - 1;
                }
            }
            seq += 1;
        }
        assert_eq!(seq, seen.next, "the timeline of {} ends early", view.agent().name());
        for value in view.states("") {
            match value {
                Ok(value) => {
                    let told = (value.value().to_vec(), value.revision().0);
                    seen.state.insert(value.key().to_owned(), told);
                }
                Err(error) => self.met(error),
            }
        }
        seen
    }

    /// Looks at the entries from there on, one by one.
    fn rest(&mut self, view: &View, seen: &mut Seen, from: u64) {
        for seq in from..seen.next {
            match view.get(seq) {
                Ok(entry) => drop(seen.items.insert(seq, item(&entry.expect("between the ends")))),
                Err(error) => self.met(error),
            }
        }
    }

    /// Panics if anything was found that should not be there, or is missing without a word.
    pub fn check(&self, truth: &All, file: &Path, what: &str) {
        for damage in &self.damage {
            assert_eq!(
                damage.file, file,
                "{what}: damage is said to be in another file: {damage:?}"
            );
        }
        for (name, seen) in &self.all {
            let Some(wanted) = truth.get(name) else {
                // Of a name that was asked for nothing may be there.
                assert!(self.partial.contains(name), "{what}: {name} never was {seen:?}");
                continue;
            };
            let partial = self.partial.contains(name);
            assert!(partial || seen == wanted, "{what}: {name} is {seen:?}\nand not {wanted:?}");
            assert_eq!((seen.floor, seen.next), (wanted.floor, wanted.next), "{what}: {name}");
            for (seq, item) in &seen.items {
                assert_eq!(Some(item), wanted.items.get(seq), "{what}: {name} seq {seq}");
            }
            for (key, value) in &seen.state {
                assert_eq!(Some(value), wanted.state.get(key), "{what}: {name} key {key}");
            }
        }
        for name in truth.keys().filter(|name| !self.all.contains_key(*name)) {
            assert!(self.partial.contains(name), "{what}: {name} is gone without a word");
        }
    }
}

impl Seen {
    fn nothing() -> Seen {
        Seen { floor: 1, next: 1, ..Seen::default() }
    }
}

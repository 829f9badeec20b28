//! Arbitrary operations, compactions, power failures and reopenings against a model of what was
//! acknowledged.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use memlog::sim::SimDisk;
use memlog::{ErrorKind, Maintenance, NewEntry, Options, Store};

#[derive(Arbitrary, Debug)]
enum Operation {
    Append {
        agent: u8,
        len: u16,
        sync: bool,
    },
    Both {
        first: u8,
        second: u8,
    },
    Truncate {
        agent: u8,
        back: u8,
    },
    Redact {
        agent: u8,
        back: u8,
    },
    Forget {
        agent: u8,
    },
    ForgetAll,
    Set {
        agent: u8,
        value: u8,
    },
    /// Three of these fill a segment.
    Large {
        agent: u8,
    },
    Reopen,
    Tend {
        how: Tending,
    },
    Power {
        after: u8,
        seed: u64,
        how: Option<Tending>,
    },
}

/// What a store does for itself.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Tending {
    Compact,
    Purge,
    Backup,
}

/// Payload lengths of an agent's live entries, by seq; `None` if redacted.
#[derive(Clone, Default, Debug, PartialEq)]
struct Model {
    floor: u64,
    entries: Vec<Option<usize>>,
    state: Option<u8>,
}

const LARGE: usize = 70 << 10;

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual).segment_bytes(256 << 10)
}

fn name(agent: u8) -> String {
    format!("t/{}", agent % 5)
}

type Models = BTreeMap<String, Model>;

fn observe(store: &Store) -> Models {
    let mut seen = Models::new();
    for agent in store.agents("") {
        let agent = agent.expect("names can be read");
        let view = agent.view().expect("an agent can be viewed");
        let mut model = Model { floor: view.floor(), ..Model::default() };
        for entry in view.iter() {
            let entry = entry.expect("an entry can be read");
            model.entries.push((!entry.is_redacted()).then_some(entry.payload().len()));
            assert!(entry.payload().iter().all(|byte| b"x12".contains(byte)), "other bytes");
        }
        let state = view.state("k").expect("state can be read");
        model.state = state.map(|value| value.value()[0]);
        seen.insert(agent.name().to_owned(), model);
    }
    seen
}

fn apply(models: &mut Models, operation: &Operation) {
    match operation {
        Operation::Append { agent, len, .. } => push(models, *agent, usize::from(*len)),
        Operation::Large { agent } => push(models, *agent, LARGE),
        Operation::Both { first, second } => {
            push(models, *first, 1);
            push(models, *second, 2);
        }
        Operation::Truncate { agent, back } => {
            if let Some(model) = models.get_mut(&name(*agent)) {
                let keep = usize::from(*back).min(model.entries.len());
                let dropped = model.entries.len() - keep;
                model.entries.drain(..dropped);
                model.floor += dropped as u64;
            }
        }
        Operation::Redact { agent, back } => {
            if let Some(model) = models.get_mut(&name(*agent)) {
                let len = model.entries.len();
                if let Some(entry) =
                    len.checked_sub(1 + usize::from(*back)).and_then(|i| model.entries.get_mut(i))
                {
                    *entry = None;
                }
            }
        }
        Operation::Forget { agent } => drop(models.remove(&name(*agent))),
        Operation::ForgetAll => models.clear(),
        Operation::Set { agent, value } => {
            let fresh = Model { floor: 1, ..Model::default() };
            models.entry(name(*agent)).or_insert(fresh).state = Some(*value);
        }
        Operation::Reopen | Operation::Tend { .. } | Operation::Power { .. } => {}
    }
}

fn push(models: &mut Models, agent: u8, len: usize) {
    let fresh = Model { floor: 1, ..Model::default() };
    models.entry(name(agent)).or_insert(fresh).entries.push(Some(len));
}

/// The seq of the entry that is so far from the end, if it lives.
fn redacted(models: &Models, agent: u8, back: u8) -> Option<u64> {
    let model = models.get(&name(agent))?;
    let index = model.entries.len().checked_sub(1 + usize::from(back))?;
    Some(model.floor + index as u64)
}

/// Whether nothing is committed: what was below `Sync` before stays so.
fn is_idle(models: &Models, operation: &Operation) -> bool {
    matches!(operation, Operation::Redact { agent, back } if redacted(models, *agent, *back).is_none())
}

fn perform(store: &Store, models: &Models, operation: &Operation) -> memlog::Result<()> {
    let agent = |number: &u8| store.agent(&name(*number)).expect("a good name");
    let next =
        |number: &u8| models.get(&name(*number)).map_or(1, |m| m.floor + m.entries.len() as u64);
    let floor = |number: &u8| models.get(&name(*number)).map_or(1, |m| m.floor);
    match operation {
        Operation::Append { agent: number, len, sync } => {
            let bytes = vec![b'x'; usize::from(*len)];
            let mut batch = store.batch();
            batch.append(&agent(number), NewEntry::new(memlog::Kind::USER, &bytes));
            if !sync {
                batch.durability(memlog::Durability::Write);
            }
            batch.commit().map(drop)
        }
        Operation::Large { agent: number } => {
            let bytes = vec![b'x'; LARGE];
            agent(number).append(memlog::NewEntry::new(memlog::Kind::USER, &bytes)).map(drop)
        }
        Operation::Both { first, second } => {
            let mut batch = store.batch();
            batch.append(&agent(first), NewEntry::user("1"));
            batch.append(&agent(second), NewEntry::user("22"));
            batch.commit().map(drop)
        }
        Operation::Truncate { agent: number, back } => {
            let seq = next(number).saturating_sub(u64::from(*back)).max(floor(number));
            agent(number).truncate_before(seq)
        }
        Operation::Redact { agent: number, back } => match redacted(models, *number, *back) {
            Some(seq) => agent(number).redact(seq),
            None => Ok(()),
        },
        Operation::Forget { agent: number } => agent(number).forget(),
        Operation::ForgetAll => store.forget_prefix("t/").map(drop),
        Operation::Set { agent: number, value } => {
            let mut batch = store.batch();
            batch.set(&agent(number), "k", &[*value]).commit().map(drop)
        }
        Operation::Tend { how } => tend(store, *how),
        Operation::Reopen | Operation::Power { .. } => Ok(()),
    }
}

fn tend(store: &Store, how: Tending) -> memlog::Result<()> {
    match how {
        Tending::Compact => {
            let mut steps = 0;
            while store.compact()? == memlog::CompactOutcome::More {
                steps += 1;
                assert!(steps < 100, "a compaction does not end");
            }
            Ok(())
        }
        Tending::Purge => store.purge().map(drop),
        Tending::Backup => {
            let outcome = store.backup("/backup");
            assert!(
                outcome.is_ok() || outcome.as_ref().is_err_and(|e| e.kind() != ErrorKind::Damaged)
            );
            // The second time there is one already.
            match outcome {
                Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
                outcome => outcome.map(drop),
            }
        }
    }
}

fuzz_target!(|operations: Vec<Operation>| {
    let disk = SimDisk::new(7);
    let mut store = options().open_on(&disk, "/mem").expect("a store is made");
    let mut models = Models::new();
    // States that a crash may leave: from the last one synced on.
    let mut possible = vec![models.clone()];
    for operation in operations.iter().take(64) {
        match operation {
            Operation::Reopen => {
                store.close().expect("it closes");
                drop(store);
                store = options().open_on(&disk, "/mem").expect("it opens again");
                assert_eq!(observe(&store), models);
                possible = vec![models.clone()];
            }
            Operation::Power { after, seed, how } => {
                disk.crash_at(disk.calls() + u64::from(*after % 64));
                if let Some(how) = how {
                    let _ = tend(&store, *how);
                }
                let extra = Operation::Append { agent: 0, len: 10, sync: true };
                let mut dying = models.clone();
                for _ in 0..4 {
                    let outcome = perform(&store, &dying, &extra);
                    apply(&mut dying, &extra);
                    possible.push(dying.clone());
                    if outcome.is_ok() {
                        possible = vec![dying.clone()];
                    }
                }
                drop(store);
                disk.power_cycle(*seed);
                store = options().open_on(&disk, "/mem").expect("a crash is no corruption");
                let seen = observe(&store);
                assert!(possible.contains(&seen), "{seen:?} is none of {possible:?}");
                assert!(store.verify().expect("it verifies").is_empty());
                models = seen;
                possible = vec![models.clone()];
            }
            operation if is_idle(&models, operation) => {}
            operation => match perform(&store, &models, operation) {
                Ok(()) => {
                    apply(&mut models, operation);
                    if matches!(operation, Operation::Append { sync: false, .. }) {
                        possible.push(models.clone());
                    } else if matches!(operation, Operation::Tend { .. }) {
                        // Changes nothing that can be seen, and whatever it made durable may stay.
                        assert_eq!(observe(&store), models);
                    } else {
                        possible = vec![models.clone()];
                    }
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}"),
            },
        }
    }
});

//! The scenarios.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use shuttle::future::block_on;

use super::super::gate::{Op, is_log};
use super::*;
use crate::Retention;

/// Enough bytes that four entries fill a segment.
const QUARTER: usize = 50 << 10;

#[test]
fn group_commit_at_every_durability() {
    explore("group_commit", || {
        let disk = disk();
        let store = open(&disk, &options());
        let kinds = [Durability::Sync, Durability::Sync, Durability::Write, Durability::Buffer];
        let threads = kinds.into_iter().enumerate().map(|(thread, durability)| {
            let (store, disk) = (store.clone(), disk.clone());
            spawn(move || {
                let agent = store.agent(&format!("a{thread}")).unwrap();
                let mut kept = Vec::new();
                for seq in 1..=2 {
                    append(&agent, seq, durability).unwrap();
                    assert_eq!(read_all(&agent), seq + 1, "its own entry is seen");
                    match durability {
                        Durability::Sync => kept.push((disk.fork_synced(), seq + 1)),
                        Durability::Write => {}
                        Durability::Buffer => {
                            store.sync().unwrap();
                            kept.push((disk.fork_synced(), seq + 1));
                        }
                    }
                }
                (agent.name().to_owned(), kept)
            })
        });
        let threads: Vec<_> = threads.collect();
        let kept: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        drop(store);
        // What was acknowledged at the moment of a loss of power is there: one of those moments.
        let (name, disks) = &kept[pick(kept.len())];
        if let Some((disk, next)) = disks.get(pick(2)) {
            let store = reopened(disk);
            assert!(read_all(&store.agent(name).unwrap()) >= *next, "{name}");
        }
    });
}

#[test]
fn futures_are_woken() {
    explore("futures", || {
        let store = open(&disk(), &options());
        let threads = [0, 1].map(|thread| {
            let store = store.clone();
            spawn(move || {
                let durability = [Durability::Write, Durability::Sync][pick(2)];
                for seq in 1..=2 {
                    let agent = store.agent(&format!("a{thread}")).unwrap();
                    let mut batch = store.batch();
                    batch.append(&agent, NewEntry::user(&text(&agent, 0, seq)));
                    let commit = batch.durability(durability).submit();
                    let receipt = block_on(commit).unwrap();
                    assert_eq!(receipt.seqs(&agent), seq..seq + 1);
                    assert_eq!(read_all(&agent), seq + 1);
                }
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        store.close().unwrap();
    });
}

#[test]
fn what_is_buffered_gets_written_and_synced_by_itself() {
    explore("buffered", || {
        let disk = disk();
        let store = open(&disk, &options());
        let agent = store.agent("a").unwrap();
        let other = spawn({
            let agent = store.agent("b").unwrap();
            move || append(&agent, 1, Durability::Buffer).unwrap()
        });
        append(&agent, 1, Durability::Buffer).unwrap();
        other.join().unwrap();
        // Nobody asks for it any more, and nobody waits: a thread that overslept stays asleep.
        let engine = store.engine();
        for turn in 0.. {
            // A frame that only bears witness may lie behind that.
            let content_end = engine.order.lock().content_end;
            if engine.log.durable() >= content_end {
                break;
            }
            assert!(turn < 5_000, "nobody syncs what was buffered");
            engine.io.clock.sleep(Duration::from_millis(1));
        }
    });
}

fn failing(fails: fn(Op) -> bool) {
    let disk = disk();
    let (calls, bad) = (AtomicU64::new(0), pick(6) as u64);
    let armed = Arc::new(AtomicU64::new(0));
    let is_armed = Arc::clone(&armed);
    let store = open_gated(&disk, move |op, path| {
        let counts = fails(op) && is_log(path) && is_armed.load(SeqCst) == 1;
        match counts && calls.fetch_add(1, SeqCst) == bad {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    });
    armed.store(1, SeqCst);
    let threads = [0, 1, 2].map(|thread| {
        let store = store.clone();
        spawn(move || {
            let agent = store.agent(&format!("a{thread}")).unwrap();
            let mut acknowledged = 1;
            for seq in 1..=3 {
                let durability = [Durability::Sync, Durability::Write, Durability::Buffer][pick(3)];
                let outcome = match pick(3) {
                    0 => {
                        let mut batch = store.batch();
                        batch.append(&agent, NewEntry::user(&text(&agent, 0, seq)));
                        block_on(batch.durability(durability).submit()).map(drop)
                    }
                    _ => append(&agent, seq, durability),
                };
                match outcome {
                    Ok(()) if durability == Durability::Sync => acknowledged = seq + 1,
                    Ok(()) => {}
                    Err(error) => {
                        assert!(is_of_a_failure(&error), "{error}");
                        let after = append(&agent, seq + 1, durability).unwrap_err();
                        assert_eq!(after.kind(), ErrorKind::Poisoned, "{after}");
                        break;
                    }
                }
            }
            (agent.name().to_owned(), acknowledged)
        })
    });
    let acknowledged = threads.map(|thread| thread.join().unwrap());
    let _ = store.close();
    drop(store);
    let store = reopened(&disk.fork_synced());
    for (name, next) in &acknowledged {
        assert!(read_all(&store.agent(name).unwrap()) >= *next, "{name} was at {next}");
    }
}

#[test]
fn a_sync_that_fails() {
    explore("a_sync_that_fails", || failing(|op| op == Op::Sync));
}

#[test]
fn a_write_that_fails() {
    explore("a_write_that_fails", || failing(|op| matches!(op, Op::Write(_))));
}

/// Appenders that fill segments; a reader beside them.
fn filling(options: &Options) {
    let disk = disk();
    let store = open(&disk, options);
    let threads = [0, 1].map(|thread| {
        let store = store.clone();
        spawn(move || {
            let agent = store.agent(&format!("a{thread}")).unwrap();
            let durability = [Durability::Buffer, Durability::Write, Durability::Sync][pick(3)];
            for seq in 1..=5 {
                append_large(&agent, seq, durability, QUARTER).unwrap();
            }
        })
    });
    let reader = spawn({
        let store = store.clone();
        move || {
            let agents = ["a0", "a1"].map(|name| store.agent(name).unwrap());
            let mut seen = [1; 2];
            for _ in 0..4 {
                let which = pick(2);
                let next = read_all(&agents[which]);
                assert!(next >= seen[which], "back in time");
                seen[which] = next;
            }
        }
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    reader.join().unwrap();
    assert_eq!(next_of_both(&store), [6, 6]);
    store.close().unwrap();
    let store = reopened(&disk);
    assert_eq!(store.verify().unwrap(), []);
    assert_eq!(next_of_both(&store), [6, 6]);
}

#[test]
fn segments_are_switched_and_sealed_under_appends_and_reads() {
    explore("sealing", || filling(&options()));
}

#[test]
fn agents_are_let_go_of_while_segments_are_sealed() {
    explore("eviction", || filling(&options().resident_bytes(0)));
}

/// A handle gets an agent without asking the table, while that lets go of it.
#[test]
fn a_handle_is_used_while_its_agent_is_let_go_of() {
    explore("handles", || {
        let disk = disk();
        let store = open(&disk, &options().resident_bytes(0));
        let agent = store.agent("a").unwrap();
        append(&agent, 1, Durability::Sync).unwrap();
        store.engine().seal_active().unwrap();
        let evictor = spawn({
            let store = store.clone();
            let hash = store.engine().catalog.hash("a");
            move || {
                let engine = store.engine();
                // Of the same shard, by their hashes.
                for other in 1..=4 {
                    let name = Arc::from(format!("other {other}"));
                    drop(engine.catalog.resident(&name, hash ^ other, engine.progress()));
                }
            }
        });
        let users = [agent.clone(), agent.clone()].map(|shared| {
            let store = store.clone();
            spawn(move || {
                let agent = if pick(2) == 0 { shared } else { store.agent("a").unwrap() };
                for _ in 0..2 {
                    let seen = agent.view().unwrap().next_seq();
                    assert!(seen > 1, "it was let go of, and not looked up");
                    let durability = [Durability::Buffer, Durability::Write][pick(2)];
                    let entry = NewEntry::user("one more");
                    store.batch().append(&agent, entry).durability(durability).commit().unwrap();
                }
            })
        });
        users.into_iter().for_each(|thread| thread.join().unwrap());
        evictor.join().unwrap();
        for agent in [agent, store.agent("a").unwrap()] {
            assert_eq!(agent.view().unwrap().next_seq(), 6);
        }
    });
}

/// A store with three sealed segments, in each of which are both agents.
fn with_sealed(disk: &SimDisk, each: u64) -> Store {
    let store = open(disk, &options());
    for round in 0..3 {
        for name in ["a0", "a1"] {
            let agent = store.agent(name).unwrap();
            for seq in round * each + 1..=(round + 1) * each {
                append(&agent, seq, Durability::Buffer).unwrap();
            }
        }
        store.engine().seal_active().unwrap();
    }
    store
}

#[test]
fn views_while_a_compaction_is_installed() {
    explore("view_against_install", || {
        let disk = disk();
        let store = with_sealed(&disk, 2);
        let before = store.agent("a0").unwrap().view().unwrap();
        let compacting = spawn({
            let store = store.clone();
            move || store.compact().unwrap()
        });
        let reading = spawn({
            let store = store.clone();
            move || {
                let agent = store.agent("a1").unwrap();
                for _ in 0..3 {
                    assert!(read_all(&agent) >= 7);
                }
            }
        });
        let appending = spawn({
            let store = store.clone();
            move || {
                let agent = store.agent("a1").unwrap();
                append(&agent, 7, Durability::Write).unwrap();
                agent.truncate_before(3).unwrap();
                assert_eq!(agent.view().unwrap().floor(), 3);
                append(&agent, 8, Durability::Sync).unwrap();
            }
        });
        compacting.join().unwrap();
        reading.join().unwrap();
        appending.join().unwrap();
        // A view keeps what it was made of, though its files are gone.
        let texts: Vec<_> =
            before.iter().map(|entry| entry.unwrap().text().unwrap().to_owned()).collect();
        assert_eq!(texts, [1, 2, 3, 4, 5, 6].map(|seq| text(before.agent(), 0, seq)));
        drop(before);
        store.close().unwrap();
        let store = reopened(&disk);
        assert_eq!(next_of_both(&store), [7, 9]);
        assert_eq!(store.verify().unwrap(), []);
    });
}

#[test]
fn payloads_and_views_pin_what_is_unlinked() {
    explore("pin_against_unlink", || {
        let disk = disk();
        let store = with_sealed(&disk, 2);
        let pinning = spawn({
            let store = store.clone();
            move || {
                let view = store.agent("a0").unwrap().view().unwrap();
                let bytes = view.get(2).unwrap().unwrap().payload_bytes();
                let rest: Vec<_> = view.iter().map(Result::unwrap).collect();
                drop(rest);
                drop(view);
                bytes
            }
        });
        let first = spawn({
            let store = store.clone();
            move || store.compact().unwrap()
        });
        let copying = spawn({
            let store = store.clone();
            move || store.backup("/copy").unwrap()
        });
        let bytes = pinning.join().unwrap();
        first.join().unwrap();
        copying.join().unwrap();
        assert_eq!(bytes, "a0 0 2");
        drop(bytes);
        // The compaction task may look at what was replaced until it is over.
        store.close().unwrap();
        assert_eq!(store.stats().pinned_bytes, 0);
        let copy = Options::new().maintenance(Maintenance::Manual).open_on(&disk, "/copy").unwrap();
        assert_eq!(next_of_both(&copy), [7, 7]);
    });
}

/// Closing, by hand or by letting go of the last handle, while others append.
#[test]
fn closing_against_appends() {
    explore("close", || {
        let disk = disk();
        let store = open(&disk, &options());
        let by_hand = pick(2) == 0;
        let threads = [0, 1].map(|thread| {
            let store = store.clone();
            spawn(move || {
                let agent = store.agent(&format!("a{thread}")).unwrap();
                drop(store);
                let durability = [Durability::Buffer, Durability::Sync][thread];
                let mut next = 1;
                while next <= 4 {
                    match append_large(&agent, next, durability, QUARTER) {
                        Ok(()) => next += 1,
                        Err(error) => {
                            assert!(by_hand && error.kind() == ErrorKind::Closed, "{error}");
                            break;
                        }
                    }
                }
                next
            })
        });
        if by_hand {
            store.close().unwrap();
        }
        drop(store);
        let next = threads.map(|thread| thread.join().unwrap());
        // The directory is free once the last one is gone, and what was acknowledged is there.
        let store = reopened(&disk);
        assert_eq!(next_of_both(&store), next);
        assert_eq!(store.verify().unwrap(), []);
    });
}

#[test]
fn the_forgotten_stay_forgotten() {
    explore("forget_against_compaction", || {
        let disk = disk();
        let store = with_sealed(&disk, 1);
        let compacting = spawn({
            let store = store.clone();
            move || match pick(2) {
                0 => drop(store.compact().unwrap()),
                _ => drop(store.purge().unwrap()),
            }
        });
        let forgetting = spawn({
            let store = store.clone();
            move || {
                let agent = store.agent("a0").unwrap();
                agent.forget().unwrap();
                assert_eq!(agent.view().unwrap().next_seq(), 1);
                append(&agent, 1, Durability::Buffer).unwrap();
                assert_eq!(read_all(&agent), 2);
            }
        });
        let reading = spawn({
            let store = store.clone();
            move || {
                let agent = store.agent("a0").unwrap();
                let mut new_life = false;
                for _ in 0..4 {
                    let next = read_all(&agent);
                    assert!(next == 4 || next <= 2, "neither the old life nor the new one");
                    assert!(next <= 2 || !new_life, "the old life after the new one");
                    new_life |= next <= 2;
                }
            }
        });
        compacting.join().unwrap();
        forgetting.join().unwrap();
        reading.join().unwrap();
        store.close().unwrap();
        let store = reopened(&disk);
        assert_eq!(next_of_both(&store), [2, 4]);
        while store.compact().unwrap() == crate::CompactOutcome::More {}
        assert_eq!(next_of_both(&store), [2, 4]);
    });
}

#[test]
fn a_prefix_is_forgotten_while_its_agents_are_used() {
    explore("prefix", || {
        let disk = disk();
        let store = open(&disk, &options());
        let agent = store.agent("p/a").unwrap();
        append(&agent, 1, Durability::Write).unwrap();
        let forgetting = spawn({
            let store = store.clone();
            move || store.forget_prefix("p/").unwrap()
        });
        let sealing = spawn({
            let store = store.clone();
            move || store.engine().seal_active().unwrap()
        });
        let appending = spawn({
            let agent = agent.clone();
            move || {
                let mut batch = agent.store().batch();
                batch.append(&agent, NewEntry::user("x"));
                let receipt = batch.commit().unwrap();
                (receipt.lsn(), receipt.seqs(&agent))
            }
        });
        let forgotten = forgetting.join().unwrap();
        sealing.join().unwrap();
        let (lsn, seqs) = appending.join().unwrap();
        let next = if lsn > forgotten { 2 } else { 1 };
        assert_eq!(seqs, if lsn > forgotten { 1..2 } else { 2..3 });
        assert_eq!(agent.view().unwrap().next_seq(), next);
        store.close().unwrap();
        let store = reopened(&disk);
        assert_eq!(store.agent("p/a").unwrap().view().unwrap().next_seq(), next);
    });
}

#[test]
fn a_policy_is_changed_while_others_append() {
    explore("policy", || {
        let disk = disk();
        let store = open(&disk, &options());
        let agent = store.agent("a").unwrap();
        let threads = [0, 1].map(|thread| {
            let agent = agent.clone();
            spawn(move || {
                for _ in 0..2 {
                    match thread {
                        0 => drop(agent.append(NewEntry::user("x")).unwrap()),
                        _ => agent
                            .set_retention(Some(Retention::new().max_entries(1 + pick(2) as u64)))
                            .unwrap(),
                    }
                }
            })
        });
        let mut floor = 0;
        for _ in 0..3 {
            let view = agent.view().unwrap();
            assert!(view.floor() >= floor, "the floor falls");
            floor = view.floor();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let view = agent.view().unwrap();
        assert_eq!(view.next_seq(), 3);
        assert!(view.iter().count() <= 2);
    });
}

#[test]
fn batches_over_several_agents_are_seen_whole() {
    explore("atomic", || {
        let store = open(&disk(), &options());
        let agents = ["a", "b"].map(|name| store.agent(name).unwrap());
        let threads = [Durability::Sync, Durability::Buffer].map(|durability| {
            let (store, [a, b]) = (store.clone(), agents.clone());
            spawn(move || {
                for _ in 0..2 {
                    let mut batch = store.batch();
                    batch.append(&a, NewEntry::user("x")).append(&b, NewEntry::user("x"));
                    batch.durability(durability).commit().unwrap();
                }
            })
        });
        let [a, b] = &agents;
        for _ in 0..3 {
            let first = a.view().unwrap().next_seq();
            let behind = b.view().unwrap().next_seq();
            assert!(behind >= first, "b was at {behind} when a had been at {first}");
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(agents.map(|agent| agent.view().unwrap().next_seq()), [5, 5]);
    });
}

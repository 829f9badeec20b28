//! The promises about state, batches, commits, limits, handles and threads, each with a test that
//! names it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memlog::{
    Agent, Batch, Commit, Durability, Entries, Entry, Error, ErrorKind, Kind, Lsn, Maintenance,
    NewEntry, Options, Receipt, Store, View,
};
use tempfile::TempDir;

fn options() -> Options {
    Options::new().durability(Durability::Write).maintenance(Maintenance::Manual)
}

fn open(options: &Options) -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = options.open(dir.path().join("mem")).unwrap();
    (dir, store)
}

fn reopen(dir: &TempDir, store: &Store) -> Store {
    store.close().unwrap();
    options().open(dir.path().join("mem")).unwrap()
}

fn ms(n: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(n)
}

/// The keys of the state that begin with a prefix, with their values.
fn states(view: &View, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let found = view.states(prefix).map(|s| s.unwrap());
    found.map(|s| (s.key().to_owned(), s.value().to_vec())).collect()
}

fn revision(agent: &Agent, key: &str) -> Option<Lsn> {
    agent.view().unwrap().state(key).unwrap().map(|value| value.revision())
}

#[test]
fn state_last_write_wins_and_a_revision_is_the_lsn_of_its_batch() {
    let (dir, mut store) = open(&options());
    let mut last = Lsn(0);
    for round in 0..3u8 {
        let agent = store.agent("a").unwrap();
        let mut batch = store.batch();
        batch.set(&agent, "k", &[9]).set(&agent, "k", &[round]).set(&agent, "twice", "x");
        let lsn = batch.unset(&agent, "twice").commit().unwrap().lsn();
        assert!(lsn > last);
        last = lsn;
        let value = agent.view().unwrap().state("k").unwrap().unwrap();
        assert_eq!((value.key(), &value.value()[..], value.revision()), ("k", &[round][..], lsn));
        assert!(agent.view().unwrap().state("twice").unwrap().is_none());
        store = reopen(&dir, &store);
        assert_eq!(revision(&store.agent("a").unwrap(), "k"), Some(lsn), "revisions stay");
    }
    let agent = store.agent("a").unwrap();
    store.batch().unset(&agent, "k").unset(&agent, "never").commit().unwrap();
    store = reopen(&dir, &store);
    assert_eq!(revision(&store.agent("a").unwrap(), "k"), None);
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn expect_revision_holds_and_conflicts_with_none_for_absent() {
    let (dir, mut store) = open(&options());
    let agent = store.agent("a").unwrap();
    let expect = |store: &Store, key: &str, at: Option<Lsn>| {
        let agent = store.agent("a").unwrap();
        let mut batch = store.batch();
        batch.expect_revision(&agent, key, at).set(&agent, "k", "v").commit()
    };
    let first = expect(&store, "k", None).unwrap().lsn();
    for wrong in [None, Some(Lsn(first.0 + 1)), Some(Lsn(0))] {
        let error = expect(&store, "k", wrong).unwrap_err();
        assert_eq!((error.kind(), error.agent()), (ErrorKind::Conflict, Some("a")));
    }
    let second = expect(&store, "k", Some(first)).unwrap().lsn();
    store = reopen(&dir, &store);
    assert_eq!(expect(&store, "k", Some(first)).unwrap_err().kind(), ErrorKind::Conflict);
    let third = expect(&store, "k", Some(second)).unwrap().lsn();
    assert!(third > second);
    let agent_now = store.agent("a").unwrap();
    store.batch().unset(&agent_now, "k").commit().unwrap();
    assert_eq!(expect(&store, "k", Some(third)).unwrap_err().kind(), ErrorKind::Conflict);
    expect(&store, "k", None).unwrap();
    agent_now.forget().unwrap();
    expect(&store, "k", None).unwrap();
    // A handle of the store before is of another store.
    let error = store.batch().set(&agent, "k", "v").commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn expectations_are_checked_against_the_store_before_the_batch_in_flight_ones_counted() {
    let (_dir, store) = open(&options().durability(Durability::Sync));
    let agent = store.agent("a").unwrap();
    let one = store.batch().append(&agent, NewEntry::user("1")).submit();
    let set = store.batch().set(&agent, "k", "v").expect_next(&agent, 2).submit();
    let mut late = store.batch();
    late.append(&agent, NewEntry::user("x")).append(&agent, NewEntry::user("x"));
    assert_eq!(late.expect_next(&agent, 1).commit().unwrap_err().kind(), ErrorKind::Conflict);
    // It was answered when what it conflicts with could be read.
    let view = agent.view().unwrap();
    assert_eq!((view.next_seq(), view.states("").count()), (2, 1));
    let lsn = set.wait().unwrap().lsn();
    assert!(one.wait().unwrap().lsn() < lsn);
    let mut own = store.batch();
    own.append(&agent, NewEntry::user("2")).set(&agent, "k", "w").forget(&agent);
    own.expect_next(&agent, 2).expect_revision(&agent, "k", Some(lsn)).commit().unwrap();
    assert_eq!(agent.view().unwrap().next_seq(), 1);
}

#[test]
fn states_are_listed_by_prefix_from_both_ends() {
    let (dir, mut store) = open(&options());
    let keys = ["a", "a/1", "a/2", "a/3", "b", "\u{e9}", "\u{10ffff}"];
    for key in keys.iter().rev() {
        let agent = store.agent("x").unwrap();
        store.batch().set(&agent, key, key.as_bytes()).commit().unwrap();
        store = reopen(&dir, &store);
    }
    let view = store.agent("x").unwrap().view().unwrap();
    let listed = |prefix: &str| -> Vec<String> {
        let found = states(&view, prefix);
        assert!(found.iter().all(|(key, value)| key.as_bytes() == value));
        found.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(listed(""), keys);
    assert_eq!(listed("a/"), ["a/1", "a/2", "a/3"]);
    assert_eq!(listed("b"), ["b"]);
    assert_eq!(listed("\u{10ffff}"), ["\u{10ffff}"]);
    assert!(listed("c").is_empty());
    let mut both = view.states("a/");
    let mut next = |front: bool| {
        let value = if front { both.next() } else { both.next_back() };
        value.unwrap().unwrap().key().to_owned()
    };
    let ends = [next(false), next(true), next(false)];
    assert_eq!(ends, ["a/3", "a/1", "a/2"]);
    assert!(both.next().is_none() && both.next_back().is_none());
}

#[test]
fn entries_and_values_of_0_bytes_and_of_32_mib_and_meta_of_64_kib() {
    let (dir, store) = open(&options().segment_bytes(1 << 20));
    let agent = store.agent("a").unwrap();
    let large: Vec<u8> = (0..32u32 << 20).map(|i| (i >> 8) as u8).collect();
    let meta = vec![0xab; 64 << 10];
    agent.append(NewEntry::new(Kind::USER, "")).unwrap();
    agent.append(NewEntry::new(Kind::USER, &large).meta(&meta)).unwrap();
    let mut batch = store.batch();
    batch.set(&agent, "empty", "").set(&agent, "large", &large[..31 << 20]).commit().unwrap();
    agent.append(NewEntry::user("after")).unwrap();
    let store = reopen(&dir, &store);
    let view = store.agent("a").unwrap().view().unwrap();
    let entries: Vec<Entry<'_>> = view.iter().map(|e| e.unwrap()).collect();
    assert_eq!(entries.len(), 3);
    assert!(entries[0].payload().is_empty() && entries[0].meta().is_empty());
    assert!(!entries[0].is_redacted(), "empty is not redacted");
    assert!(entries[1].payload() == large && entries[1].meta() == meta);
    assert!(entries[1].payload_bytes() == large);
    assert_eq!(entries[2].text().unwrap(), "after");
    assert_eq!(view.state("empty").unwrap().unwrap().value().len(), 0);
    assert!(view.state("large").unwrap().unwrap().value()[..] == large[..31 << 20]);
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn names_of_1_and_512_bytes_and_any_characters() {
    let (dir, store) = open(&options());
    let names = [
        "a".to_owned(),
        "\0".to_owned(),
        "/".to_owned(),
        "//".to_owned(),
        "..".to_owned(),
        " \n\t".to_owned(),
        "z".repeat(512),
        "\u{1f980}".repeat(128),
        "tenant/\u{4f60}\u{597d}/e\u{301}".to_owned(),
    ];
    for name in &names {
        let agent = store.agent(name).unwrap();
        agent.append(NewEntry::user(name)).unwrap();
        let key = "k".repeat(1024);
        store.batch().set(&agent, &key, name.as_bytes()).set(&agent, "\0", "").commit().unwrap();
    }
    let store = reopen(&dir, &store);
    let mut sorted = names.to_vec();
    sorted.sort();
    let listed: Vec<_> = store.agents("").map(|a| a.unwrap().name().to_owned()).collect();
    assert_eq!(listed, sorted, "in the order of their bytes");
    for name in &names {
        let view = store.agent(name).unwrap().view().unwrap();
        assert_eq!(view.get(1).unwrap().unwrap().text().unwrap(), name);
        assert_eq!(states(&view, "k")[0].1, name.as_bytes());
    }
    store.forget_prefix(&format!("{}/", "p".repeat(511))).unwrap();
    store.forget_prefix("/").unwrap();
    let left: Vec<_> = store.agents("").map(|a| a.unwrap().name().to_owned()).collect();
    sorted.retain(|name| !name.starts_with('/'));
    assert_eq!(left, sorted);
}

#[test]
fn joined_weight_kind_and_at_round_trip() {
    let (dir, store) = open(&options());
    let agent = store.agent("a").unwrap();
    for (i, kind) in [0u16, 1, 7, 255, 256, 4711, u16::MAX].into_iter().enumerate() {
        let weight = [0, 1, u32::MAX][i % 3];
        let mut entry = NewEntry::new(Kind::new(kind), "p").weight(weight).at(ms(i as u64 * 1001));
        if i % 2 == 1 {
            entry = entry.joined();
        }
        agent.append(entry).unwrap();
    }
    let before = SystemTime::now() - Duration::from_millis(1);
    agent.append(NewEntry::system("by the clock")).unwrap();
    let after = SystemTime::now();
    let store = reopen(&dir, &store);
    let view = store.agent("a").unwrap().view().unwrap();
    for (i, kind) in [0u16, 1, 7, 255, 256, 4711, u16::MAX].into_iter().enumerate() {
        let entry = view.get(i as u64 + 1).unwrap().unwrap();
        assert_eq!(entry.kind().get(), kind);
        assert_eq!(entry.weight(), [0, 1, u32::MAX][i % 3]);
        assert_eq!(entry.is_joined(), i % 2 == 1);
        assert_eq!(entry.at(), ms(i as u64 * 1001));
    }
    let last = view.get(8).unwrap().unwrap();
    assert_eq!(last.kind(), Kind::SYSTEM);
    assert!(last.at() >= before && last.at() <= after, "{:?}", last.at());
}

#[test]
fn a_batch_over_several_agents_has_one_lsn_and_dense_seqs() {
    let (_dir, store) = open(&options());
    let agents: Vec<Agent> = (0..5).map(|i| store.agent(&format!("a{i}")).unwrap()).collect();
    let mut batch = store.batch();
    for round in 0..20u64 {
        for (i, agent) in agents.iter().enumerate() {
            for _ in 0..=i {
                batch.append(agent, NewEntry::user("x"));
            }
        }
        let receipt = batch.commit().unwrap();
        for (i, agent) in agents.iter().enumerate() {
            let n = i as u64 + 1;
            assert_eq!(receipt.seqs(agent), round * n + 1..(round + 1) * n + 1);
        }
        assert!(receipt.seqs(&store.agent("other").unwrap()).is_empty());
    }
    let empty = batch.commit().unwrap();
    assert!(empty.seqs(&agents[0]).is_empty(), "a committed batch is empty");
    assert_eq!(empty.lsn(), store.stats().next_lsn);
}

/// A waker that counts.
#[derive(Default)]
struct Counter(AtomicU64);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Drives a future by parking the thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(out) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return out;
        }
        std::thread::park();
    }
}

#[test]
fn a_commit_is_a_future_that_wakes_and_dropping_it_cancels_nothing() {
    let (dir, store) = open(&Options::new());
    let agent = store.agent("a").unwrap();
    let mut last = Lsn(0);
    for durability in [Durability::Sync, Durability::Write, Durability::Buffer] {
        for _ in 0..20 {
            let mut batch = store.batch();
            batch.append(&agent, NewEntry::user("x")).durability(durability);
            let receipt = block_on(batch.submit()).unwrap();
            assert!(receipt.lsn() > last);
            last = receipt.lsn();
            assert_eq!(receipt.seqs(&agent).end, agent.view().unwrap().next_seq());
        }
    }
    let counter = Arc::new(Counter::default());
    let waker = Waker::from(Arc::clone(&counter));
    let mut commit = store.batch().append(&agent, NewEntry::user("x")).submit();
    if Pin::new(&mut commit).poll(&mut Context::from_waker(&waker)).is_pending() {
        let woken = || counter.0.load(Ordering::SeqCst) > 0;
        (0..5000).take_while(|_| !woken()).for_each(|_| std::thread::sleep(ms_of(1)));
        assert!(woken(), "a pending commit wakes its waker");
        assert!(Pin::new(&mut commit).poll(&mut Context::from_waker(&waker)).is_ready());
    }
    let again = Pin::new(&mut commit).poll(&mut Context::from_waker(&waker));
    assert!(matches!(again, Poll::Ready(Err(_))), "polled after its end it does not panic");
    for _ in 0..50 {
        drop(store.batch().append(&agent, NewEntry::user("x")).submit());
    }
    let error = block_on(store.batch().set(&agent, "", "v").submit()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    store.close().unwrap();
    let store = options().open(dir.path().join("mem")).unwrap();
    assert_eq!(store.agent("a").unwrap().view().unwrap().next_seq(), 112);
}

fn ms_of(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn order_of_submits_is_order_of_lsns_and_seqs() {
    let (_dir, store) = open(&Options::new());
    let agents: Vec<Agent> = (0..3).map(|i| store.agent(&format!("a{i}")).unwrap()).collect();
    let mut batch = store.batch();
    let mut commits = Vec::new();
    for i in 0..300usize {
        let durability = [Durability::Sync, Durability::Write, Durability::Buffer][i % 3];
        batch.append(&agents[i / 7 % 3], NewEntry::user(&i.to_string())).durability(durability);
        commits.push((i, batch.submit()));
    }
    let mut last = Lsn(0);
    let mut next = [1; 3];
    for (i, commit) in commits {
        let receipt = commit.wait().unwrap();
        assert!(receipt.lsn() > last);
        last = receipt.lsn();
        let seq = next[i / 7 % 3];
        assert_eq!(receipt.seqs(&agents[i / 7 % 3]), seq..seq + 1);
        next[i / 7 % 3] += 1;
    }
}

#[test]
fn payload_bytes_live_on_after_view_and_store() {
    let (dir, store) = open(&options());
    let agent = store.agent("a").unwrap();
    let texts: Vec<String> = (0..50).map(|i| format!("{i}").repeat(i * 50)).collect();
    for text in &texts {
        agent.append(NewEntry::user(text).meta("m")).unwrap();
    }
    store.batch().set(&agent, "k", "value").commit().unwrap();
    let view = agent.view().unwrap();
    let kept: Vec<_> = view.iter().map(|e| e.unwrap().payload_bytes()).collect();
    let value = view.state("k").unwrap().unwrap().value().clone();
    agent.forget().unwrap();
    drop((view, agent));
    store.close().unwrap();
    drop(store);
    drop(dir);
    for (bytes, text) in kept.iter().zip(&texts) {
        assert_eq!(bytes, text.as_bytes());
    }
    assert_eq!(&value[..], b"value");
}

#[test]
fn debug_prints_no_payload_meta_or_state_value() {
    let (_dir, store) = open(&options());
    let agent = store.agent("a").unwrap();
    let entry = NewEntry::user("hush1").meta("hush2");
    let mut batch = store.batch();
    batch.append(&agent, entry).set(&agent, "k", "hush3");
    let mut printed = format!("{entry:?} {batch:?}");
    let commit = batch.submit();
    printed += &format!("{commit:?}");
    printed += &format!("{:?}", commit.wait().unwrap());
    let view = agent.view().unwrap();
    let got = view.get(1).unwrap().unwrap();
    printed += &format!("{store:?} {agent:?} {view:?} {got:?} {:?}", view.iter());
    printed += &format!("{:?}", view.state("k").unwrap().unwrap());
    printed += &format!("{:?} {:?}", store.stats(), store.recovery_report());
    let error = store.batch().expect_revision(&agent, "k", None).commit().unwrap_err();
    printed += &format!("{error:?} {error}");
    assert!(!printed.contains("hush"), "{printed}");
    // Neither as the numbers of their bytes.
    assert!(!printed.contains("104, 117, 115, 104"), "{printed}");
}

#[test]
fn handles_go_between_threads_and_an_error_is_one_pointer() {
    fn shared<T: Send + Sync>() {}
    fn future<T: Future + Send + Sync + Unpin + 'static>() {}
    fn owned<T: Send + Sync + Clone + 'static>() {}
    owned::<Store>();
    owned::<Agent>();
    owned::<View>();
    owned::<Receipt>();
    owned::<Error>();
    owned::<Options>();
    future::<Commit>();
    shared::<Entries<'_>>();
    shared::<Entry<'_>>();
    fn sent<T: Send>() {}
    sent::<Batch>();
    assert_eq!(size_of::<Error>(), 8);
    let io: std::io::Error = {
        let (_dir, store) = open(&options());
        store.agent("").unwrap_err().into()
    };
    assert_eq!(io.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn clones_answer_closed_after_close_and_open_views_go_on() {
    let (_dir, store) = open(&Options::new());
    let agent = store.agent("a").unwrap();
    agent.append(NewEntry::user("1")).unwrap();
    let (view, clone, mut batch) = (agent.view().unwrap(), store.clone(), store.batch());
    let listed = store.agents("");
    batch.append(&agent, NewEntry::user("x"));
    store.close().unwrap();
    store.close().unwrap();
    let closed = [
        agent.append(NewEntry::user("x")).unwrap_err(),
        agent.view().unwrap_err(),
        agent.forget().unwrap_err(),
        agent.truncate_before(1).unwrap_err(),
        agent.redact(1).unwrap_err(),
        agent.set_retention(None).unwrap_err(),
        agent.usage().unwrap_err(),
        batch.commit().unwrap_err(),
        batch.commit().unwrap_err(),
        batch.submit().wait().unwrap_err(),
        clone.forget_prefix("a/").unwrap_err(),
        clone.sync().unwrap_err(),
        clone.verify().unwrap_err(),
        clone.agents("").next().unwrap().unwrap_err(),
    ];
    for (i, error) in closed.iter().enumerate() {
        assert_eq!(error.kind(), ErrorKind::Closed, "{i}");
    }
    assert_eq!(listed.count(), 1, "a listing that was begun goes on");
    assert_eq!(view.get(1).unwrap().unwrap().text().unwrap(), "1");
    assert_eq!(view.iter().count(), 1);
}

#[test]
fn many_threads_on_few_agents_stay_dense_lose_nothing_and_keep_each_ones_order() {
    const THREADS: u64 = 8;
    const EACH: u64 = 120;
    let (dir, store) = open(&Options::new().segment_bytes(256 << 10));
    let barrier = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, barrier) = (store.clone(), &barrier);
            scope.spawn(move || {
                barrier.wait();
                for i in 0..EACH {
                    let agent = store.agent(&format!("a{}", i % 3)).unwrap();
                    let durability = [Durability::Buffer, Durability::Write, Durability::Sync];
                    let durability = durability[((thread + i) % 11).min(2) as usize];
                    let text = format!("{thread} {i} {}", "x".repeat(700));
                    let mut batch = store.batch();
                    batch.append(&agent, NewEntry::user(&text)).durability(durability);
                    let seqs = batch.commit().unwrap().seqs(&agent);
                    // The writer reads its own writes.
                    let view = agent.view().unwrap();
                    let entry = view.get(seqs.start).unwrap().unwrap();
                    assert_eq!(entry.text().unwrap(), text);
                }
            });
        }
    });
    check_threads(&store, THREADS, EACH);
    assert_eq!(store.verify().unwrap(), []);
    store.close().unwrap();
    let store = options().open(dir.path().join("mem")).unwrap();
    check_threads(&store, THREADS, EACH);
}

fn check_threads(store: &Store, threads: u64, each: u64) {
    let mut total = 0;
    for a in 0..3 {
        let view = store.agent(&format!("a{a}")).unwrap().view().unwrap();
        let mut last = vec![-1i64; threads as usize];
        for (entry, seq) in view.iter().zip(1u64..) {
            let entry = entry.unwrap();
            assert_eq!(entry.seq(), seq);
            let mut words = entry.text().unwrap().split(' ');
            let mut word = || words.next().unwrap().parse::<i64>().unwrap();
            let (thread, i) = (word(), word());
            assert!(i > last[thread as usize], "each thread's own order");
            last[thread as usize] = i;
            total += 1;
        }
        assert_eq!(view.iter().count() as u64 + 1, view.next_seq());
    }
    assert_eq!(total, threads * each);
}

#[test]
fn a_view_beside_an_appender_at_buffer_reads_all_that_it_shows() {
    let (_dir, store) = open(&options().durability(Durability::Buffer));
    let agent = store.agent("a").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20_000 {
                agent.append(NewEntry::user("text")).unwrap();
            }
            over.store(true, Ordering::Release);
        });
        while !over.load(Ordering::Acquire) {
            let view = agent.view().unwrap();
            let seqs: Vec<u64> = view.latest(3).map(|entry| entry.unwrap().seq()).collect();
            let next = view.next_seq();
            assert_eq!(seqs, (view.floor().max(next.saturating_sub(3))..next).collect::<Vec<_>>());
        }
    });
}

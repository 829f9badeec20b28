//! The promises about timelines, each with a test that names it: while entries lie in the active
//! segment, after their segments were sealed and the agents evicted, and after a reopening.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memlog::{
    Agent, Durability, ErrorKind, Maintenance, NewEntry, Options, Retention, Store, View,
};
use tempfile::TempDir;

/// What happens between the steps of a test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Nothing: all of it is in the active segment.
    Active,
    /// The segment is sealed and agents at rest are evicted.
    Sealed,
    /// The store is closed and opened again.
    Reopened,
}

const WAYS: [Way; 3] = [Way::Active, Way::Sealed, Way::Reopened];

struct World {
    way: Way,
    dir: TempDir,
    options: Options,
    store: Store,
    rounds: u32,
}

fn options() -> Options {
    Options::new()
        .durability(Durability::Write)
        .maintenance(Maintenance::Manual)
        .segment_bytes(256 << 10)
        .resident_bytes(0)
}

impl World {
    fn new(way: Way) -> World {
        World::with(way, options())
    }

    fn with(way: Way, options: Options) -> World {
        let dir = tempfile::tempdir().unwrap();
        let store = options.open(dir.path().join("mem")).unwrap();
        World { way, dir, options, store, rounds: 0 }
    }

    fn agent(&self, name: &str) -> Agent {
        self.store.agent(name).unwrap()
    }

    fn view(&self, name: &str) -> View {
        self.agent(name).view().unwrap()
    }

    /// Appends so many entries whose payloads are their seqs.
    fn append(&self, name: &str, n: u64) {
        let agent = self.agent(name);
        for _ in 0..n {
            let seq = agent.view().unwrap().next_seq();
            assert_eq!(agent.append(NewEntry::user(&seq.to_string())).unwrap(), seq);
        }
    }

    /// Does between two steps what the way says.
    fn pass(&mut self) {
        self.rounds += 1;
        match self.way {
            Way::Active => {}
            Way::Sealed => roll(&self.store, self.rounds),
            Way::Reopened => {
                self.store.close().unwrap();
                self.store = self.options.open(self.dir.path().join("mem")).unwrap();
            }
        }
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        let agents = self.store.agents(prefix);
        let names = agents.map(|a| a.unwrap().name().to_owned());
        names.filter(|name| !name.starts_with('~')).collect()
    }

    fn done(self) {
        assert_eq!(self.store.verify().unwrap(), []);
    }
}

/// Seals the active segment, and has the agents at rest evicted.
fn roll(store: &Store, round: u32) {
    let before = store.stats().segments;
    let filler = vec![7u8; 90 << 10];
    for i in 0.. {
        if store.stats().segments > before {
            break;
        }
        let agent = store.agent(&format!("~filler/{round}/{i}")).unwrap();
        agent.append(NewEntry::new(memlog::Kind::OBSERVATION, &filler)).unwrap();
    }
    for i in 0..400 {
        let other = store.agent(&format!("~nobody/{round}/{i}")).unwrap();
        assert_eq!(other.view().unwrap().next_seq(), 1);
    }
}

fn texts(view: &View) -> Vec<String> {
    view.iter().map(|e| e.unwrap().text().unwrap().to_owned()).collect()
}

fn seqs<'v>(entries: impl Iterator<Item = memlog::Result<memlog::Entry<'v>>>) -> Vec<u64> {
    entries.map(|e| e.unwrap().seq()).collect()
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn ms(n: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(n)
}

#[test]
fn seq_is_dense_from_1_whatever_the_clocks_say() {
    for way in WAYS {
        let mut w = World::new(way);
        for (n, at) in [9_000u64, 1, 5_000, 0, 77].into_iter().enumerate() {
            let seq = w.agent("a").append(NewEntry::user("x").at(ms(at))).unwrap();
            assert_eq!(seq, n as u64 + 1, "{way:?}");
            w.pass();
        }
        let view = w.view("a");
        let ats: Vec<_> = view.iter().map(|e| e.unwrap().at()).collect();
        assert_eq!(ats, [ms(9_000), ms(1), ms(5_000), ms(0), ms(77)]);
        w.done();
    }
}

#[test]
fn an_absent_agent_has_next_seq_1_no_state_and_is_not_listed() {
    for way in WAYS {
        let mut w = World::new(way);
        w.append("there", 1);
        w.pass();
        let view = w.view("absent");
        assert_eq!((view.floor(), view.next_seq(), view.iter().count()), (1, 1, 0));
        assert!(view.get(0).unwrap().is_none() && view.get(1).unwrap().is_none());
        assert!(view.state("k").unwrap().is_none());
        assert_eq!(view.states("").count(), 0);
        // What changes nothing does not make it exist either.
        let absent = w.agent("absent");
        absent.forget().unwrap();
        absent.truncate_before(1).unwrap();
        w.store.batch().unset(&absent, "k").commit().unwrap();
        w.pass();
        assert_eq!(w.names(""), ["there"]);
        assert_eq!(w.agent("absent").append(NewEntry::user("x")).unwrap(), 1);
        w.done();
    }
}

#[test]
fn forgetting_begins_a_new_life_at_seq_1_with_nothing_of_the_old_one() {
    for way in WAYS {
        let mut w = World::new(way);
        w.append("a", 3);
        w.store.batch().set(&w.agent("a"), "k", "old").commit().unwrap();
        w.agent("a").set_retention(Some(Retention::new().max_entries(2))).unwrap();
        w.agent("a").redact(3).unwrap();
        w.pass();
        w.agent("a").forget().unwrap();
        w.pass();
        let view = w.view("a");
        assert_eq!((view.floor(), view.next_seq(), view.states("").count()), (1, 1, 0), "{way:?}");
        assert!(w.names("").is_empty());
        w.pass();
        w.append("a", 3);
        w.pass();
        let view = w.view("a");
        assert_eq!(texts(&view), numbers(1..=3), "{way:?}: no policy, no redaction of old");
        assert!(view.state("k").unwrap().is_none());
        w.done();
    }
}

#[test]
fn records_of_a_batch_apply_in_order_forget_then_append_and_again() {
    for way in WAYS {
        let mut w = World::new(way);
        w.append("a", 2);
        w.pass();
        let a = w.agent("a");
        let mut batch = w.store.batch();
        batch.append(&a, NewEntry::user("gone")).set(&a, "k", "gone").forget(&a);
        batch.append(&a, NewEntry::user("one")).append(&a, NewEntry::user("two"));
        batch.set(&a, "k", "new").expect_next(&a, 3);
        let receipt = batch.commit().unwrap();
        assert_eq!(receipt.seqs(&a), 1..3);
        w.pass();
        let view = w.view("a");
        assert_eq!(texts(&view), ["one", "two"], "{way:?}");
        assert_eq!(&view.state("k").unwrap().unwrap().value()[..], b"new");
        let a = w.agent("a");
        w.store.batch().append(&a, NewEntry::user("x")).forget(&a).commit().unwrap();
        w.pass();
        assert_eq!(w.view("a").next_seq(), 1);
        assert!(w.names("").is_empty());
        w.done();
    }
}

#[test]
fn forget_prefix_forgets_all_under_it_and_nobody_else() {
    for way in WAYS {
        let mut w = World::new(way);
        let dead = ["acme/a", "acme/b/c", "acme/", "acme/\u{10ffff}z"];
        let others = ["acme", "acmf/a", "acm/e", "x/acme/a"];
        for name in dead.iter().chain(&others) {
            w.append(name, 2);
            w.store.batch().set(&w.agent(name), "k", name).commit().unwrap();
        }
        w.pass();
        w.store.forget_prefix("acme/").unwrap();
        assert!(w.names("acme/").is_empty(), "{way:?}: at once");
        w.pass();
        assert!(w.names("acme/").is_empty(), "{way:?}: later");
        for name in dead {
            let view = w.view(name);
            assert_eq!((view.next_seq(), view.states("").count()), (1, 0), "{way:?} {name}");
        }
        for name in others {
            assert_eq!(texts(&w.view(name)), numbers(1..=2), "{way:?} {name}");
        }
        w.append("acme/a", 1);
        w.pass();
        assert_eq!(w.names("acme/"), ["acme/a"]);
        assert_eq!(w.view("acme/a").next_seq(), 2);
        // Twice, and with nothing under it.
        w.store.forget_prefix("acme/").unwrap();
        w.store.forget_prefix("acme/").unwrap();
        w.store.forget_prefix("nobody/").unwrap();
        w.pass();
        assert_eq!(w.names(""), ["acm/e", "acme", "acmf/a", "x/acme/a"]);
        w.done();
    }
}

#[test]
fn truncate_before_edges() {
    for way in WAYS {
        let mut w = World::new(way);
        w.append("a", 5);
        w.pass();
        for beyond in [0, 7, u64::MAX] {
            let error = w.agent("a").truncate_before(beyond).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange);
            assert_eq!((error.agent(), error.seq()), (Some("a"), Some(beyond)));
        }
        w.agent("a").truncate_before(3).unwrap();
        w.pass();
        for at_or_below in [1, 2, 3] {
            w.agent("a").truncate_before(at_or_below).unwrap();
            w.pass();
            assert_eq!((w.view("a").floor(), w.view("a").next_seq()), (3, 6), "{way:?}");
        }
        let view = w.view("a");
        assert_eq!(texts(&view), numbers(3..=5));
        assert!(view.get(2).unwrap().is_none() && view.get(6).unwrap().is_none());
        assert_eq!(view.get(3).unwrap().unwrap().text().unwrap(), "3");
        w.done();
    }
}

#[test]
fn an_emptied_agent_keeps_seq_state_and_policy_until_forgotten() {
    for way in WAYS {
        let mut w = World::new(way);
        w.append("a", 4);
        w.store.batch().set(&w.agent("a"), "k", "v").commit().unwrap();
        w.agent("a").set_retention(Some(Retention::new().max_entries(2))).unwrap();
        w.pass();
        w.agent("a").truncate_before(5).unwrap();
        w.pass();
        let view = w.view("a");
        assert_eq!((view.floor(), view.next_seq(), view.iter().count()), (5, 5, 0), "{way:?}");
        assert_eq!(view.latest(9).count(), 0);
        assert_eq!(&view.state("k").unwrap().unwrap().value()[..], b"v");
        assert_eq!(w.names(""), ["a"]);
        w.append("a", 3);
        w.pass();
        assert_eq!(texts(&w.view("a")), numbers(6..=7), "{way:?}: the policy holds on");
        w.done();
    }
}

#[test]
fn redact_keeps_seq_at_and_kind_and_says_so() {
    for way in WAYS {
        let mut w = World::new(way);
        let secret = NewEntry::new(memlog::Kind::new(300), "secret").meta("m").at(ms(42)).weight(9);
        w.append("a", 1);
        w.agent("a").append(secret.joined()).unwrap();
        w.append("a", 1);
        w.pass();
        for beyond in [0, 4, u64::MAX] {
            let error = w.agent("a").redact(beyond).unwrap_err();
            assert_eq!((error.kind(), error.seq()), (ErrorKind::OutOfRange, Some(beyond)));
        }
        w.agent("a").redact(2).unwrap();
        w.agent("a").redact(2).unwrap();
        w.pass();
        w.append("a", 1);
        w.pass();
        let view = w.view("a");
        let hidden: Vec<_> = view.iter().map(|e| e.unwrap().is_redacted()).collect();
        assert_eq!(hidden, [false, true, false, false], "{way:?}");
        let entry = view.get(2).unwrap().unwrap();
        assert_eq!((entry.seq(), entry.at(), entry.kind().get()), (2, ms(42), 300));
        assert!(entry.payload().is_empty() && entry.meta().is_empty() && entry.is_joined());
        assert!(entry.payload_bytes().is_empty());
        assert_eq!(entry.text().unwrap(), "");
        // Below the floor it does nothing.
        w.agent("a").truncate_before(3).unwrap();
        w.agent("a").redact(1).unwrap();
        w.pass();
        assert_eq!(seqs(w.view("a").iter()), [3, 4]);
        w.done();
    }
}

#[test]
fn a_view_is_fixed_in_time() {
    for way in [Way::Active, Way::Sealed] {
        let mut w = World::new(way);
        w.append("p/a", 3);
        let a = w.agent("p/a");
        w.store.batch().set(&a, "k", "v1").set(&a, "gone", "soon").commit().unwrap();
        w.pass();
        let views = [a.view().unwrap(), {
            w.append("p/a", 1);
            a.view().unwrap()
        }];
        let check = |what: &str| {
            assert_eq!(texts(&views[0]), numbers(1..=3), "{way:?} {what}");
            assert_eq!(texts(&views[1]), numbers(1..=4), "{way:?} {what}");
            for view in &views {
                assert_eq!(view.floor(), 1);
                assert!(view.iter().all(|e| !e.unwrap().is_redacted()), "{what}");
                let keys: Vec<_> = view.states("").map(|s| s.unwrap().key().to_owned()).collect();
                assert_eq!(keys, ["gone", "k"], "{what}");
                assert_eq!(&view.state("k").unwrap().unwrap().value()[..], b"v1", "{what}");
            }
        };
        let mut batch = w.store.batch();
        batch.set(&a, "k", "v2").unset(&a, "gone").set(&a, "new", "n").commit().unwrap();
        check("set and unset");
        w.pass();
        a.redact(2).unwrap();
        check("redact");
        w.pass();
        a.truncate_before(3).unwrap();
        check("truncate");
        w.pass();
        a.set_retention(Some(Retention::new().max_entries(1))).unwrap();
        check("retention");
        w.pass();
        a.forget().unwrap();
        check("forget");
        w.pass();
        w.append("p/a", 9);
        check("a new life");
        w.pass();
        w.store.forget_prefix("p/").unwrap();
        check("forget_prefix");
        w.pass();
        check("the end");
        w.store.close().unwrap();
        check("close");
    }
}

#[test]
fn agents_are_listed_in_order_with_empty_and_state_only_ones() {
    for way in WAYS {
        let mut w = World::new(way);
        let names = ["a", "a/", "a/b", "ab", "b/1", "b/2", "b/3", "c", "\u{e9}", "\u{10ffff}"];
        for (i, name) in names.iter().enumerate() {
            match i % 3 {
                0 => w.append(name, 1),
                1 => drop(w.store.batch().set(&w.agent(name), "k", "v").commit().unwrap()),
                _ => w.agent(name).set_retention(Some(Retention::new())).unwrap(),
            }
            if i % 4 == 0 {
                w.pass();
            }
        }
        w.agent("a").truncate_before(2).unwrap();
        w.agent("c").forget().unwrap();
        w.pass();
        let left: Vec<_> = names.into_iter().filter(|n| *n != "c").collect();
        assert_eq!(w.names(""), left, "{way:?}");
        assert_eq!(w.names("a"), ["a", "a/", "a/b", "ab"]);
        assert_eq!(w.names("a/"), ["a/", "a/b"]);
        assert_eq!(w.names("b/2"), ["b/2"]);
        assert!(w.names("zzz").is_empty() && w.names("c").is_empty());
        let mut reversed: Vec<_> =
            w.store.agents("b/").rev().map(|a| a.unwrap().name().to_owned()).collect();
        reversed.reverse();
        assert_eq!(reversed, ["b/1", "b/2", "b/3"], "{way:?}");
        meet(&w, &left);
        w.done();
    }
}

/// Both ends of the listing meet: every name once, whoever steps.
fn meet(w: &World, names: &[&str]) {
    for pattern in 0..64u32 {
        let mut agents = w.store.agents("");
        let (mut front, mut back) = (Vec::new(), Vec::new());
        for step in 0.. {
            let from_front = pattern >> (step % 6) & 1 == 0;
            let next = if from_front { agents.next() } else { agents.next_back() };
            let Some(agent) = next else { break };
            let name = agent.unwrap().name().to_owned();
            if from_front { front.push(name) } else { back.push(name) }
        }
        assert!(agents.next().is_none() && agents.next_back().is_none(), "fused");
        back.reverse();
        front.append(&mut back);
        front.retain(|name| !name.starts_with('~'));
        assert_eq!(front, names, "{pattern:b}");
    }
}

#[test]
fn since_is_the_suffix_from_the_first_entry_at_or_after() {
    for way in WAYS {
        let mut w = World::new(way);
        // More than one group of running maxima, and unordered.
        let ats: Vec<u64> = (0..150u64).map(|i| 1000 + (i * 37) % 100 * 10 + i).collect();
        for (i, at) in ats.iter().enumerate() {
            w.agent("a").append(NewEntry::user("x").at(ms(*at))).unwrap();
            if i % 60 == 59 {
                w.pass();
            }
        }
        w.pass();
        for floor in [1, 2, 70, 150, 151] {
            w.agent("a").truncate_before(floor).unwrap();
            let view = w.view("a");
            for time in (900..2300).step_by(7) {
                let first = (floor..151).find(|seq| ats[*seq as usize - 1] >= time).unwrap_or(151);
                let wanted: Vec<u64> = (first..151).collect();
                assert_eq!(seqs(view.since(ms(time))), wanted, "{way:?} {floor} {time}");
            }
            assert_eq!(view.since(UNIX_EPOCH - Duration::from_secs(9)).count() as u64, 151 - floor);
            assert_eq!(view.since(ms(1 << 60)).count(), 0);
            let never = UNIX_EPOCH + Duration::from_secs(1 << 60);
            assert_eq!(view.since(never).count(), 0, "further than milliseconds reach");
        }
        w.done();
    }
}

#[test]
fn ranges_clamp_to_what_there_is() {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    for way in WAYS {
        let mut w = World::new(way);
        w.append("a", 6);
        w.agent("a").truncate_before(3).unwrap();
        w.pass();
        let view = w.view("a");
        assert_eq!(seqs(view.range(..)), [3, 4, 5, 6]);
        assert_eq!(seqs(view.range(0..=u64::MAX)), [3, 4, 5, 6]);
        assert_eq!(seqs(view.range(4..6)), [4, 5]);
        assert_eq!(seqs(view.range(4..=6)), [4, 5, 6]);
        assert_eq!(seqs(view.range((Excluded(4), Included(5)))), [5]);
        let (high, low) = (5, 4);
        for empty in [7..9, 0..3, 5..5, high..low, u64::MAX..u64::MAX, 0..0] {
            assert_eq!(view.range(empty.clone()).count(), 0, "{empty:?}");
            assert_eq!(view.range(empty.clone()).rev().count(), 0, "{empty:?}");
        }
        assert_eq!(view.range((Excluded(u64::MAX), Unbounded)).count(), 0);
        for (n, wanted) in [(0, vec![]), (1, vec![6]), (3, vec![4, 5, 6]), (4, vec![3, 4, 5, 6])] {
            assert_eq!(seqs(view.latest(n)), wanted);
        }
        assert_eq!(seqs(view.latest(usize::MAX)), [3, 4, 5, 6]);
        assert_eq!(seqs(view.latest(3).rev()), [6, 5, 4]);
        let mut both = view.iter();
        let mut next = |front: bool| {
            let entry = if front { both.next() } else { both.next_back() };
            entry.map(|e| e.unwrap().seq())
        };
        let met = [next(true), next(false), next(false), next(true), next(true), next(false)];
        assert_eq!(met, [Some(3), Some(6), Some(5), Some(4), None, None]);
        w.done();
    }
}

#[test]
fn retention_by_entries_bytes_and_age_survives_and_loosening_revives_nothing() {
    for way in WAYS {
        let mut w = World::with(way, options().retention(Retention::new().max_entries(4)));
        w.append("default", 6);
        w.append("own", 6);
        w.pass();
        assert_eq!(texts(&w.view("default")), numbers(3..=6), "{way:?}");
        w.agent("own").set_retention(Some(Retention::new())).unwrap();
        w.pass();
        w.append("own", 4);
        assert_eq!(texts(&w.view("own")), numbers(3..=10), "{way:?}: own over default, 1, 2 dead");
        w.agent("own").set_retention(Some(Retention::new().max_bytes(4))).unwrap();
        w.pass();
        assert_eq!(texts(&w.view("own")), numbers(8..=10), "{way:?}: 1 + 1 + 2 bytes");
        w.agent("own").set_retention(Some(Retention::new().max_bytes(1))).unwrap();
        w.pass();
        assert_eq!(w.view("own").floor(), 11, "{way:?}: the newest alone is too large");
        w.agent("own").set_retention(None).unwrap();
        w.pass();
        assert_eq!((w.view("own").floor(), w.view("own").next_seq()), (11, 11));
        w.append("own", 5);
        w.pass();
        assert_eq!(texts(&w.view("own")), numbers(12..=15), "{way:?}: the store's again");
        let now = SystemTime::now();
        let week = Duration::from_secs(7 * 86_400);
        for age in [3, 2, 0, 3, 0] {
            w.agent("aged").append(NewEntry::user("x").at(now - week * age)).unwrap();
            w.pass();
        }
        let policy = Retention::new().max_age(week + week / 2);
        w.agent("aged").set_retention(Some(policy)).unwrap();
        w.pass();
        assert_eq!(w.view("aged").floor(), 3, "{way:?}: the longest expired prefix");
        w.agent("aged").set_retention(Some(Retention::new())).unwrap();
        w.pass();
        assert_eq!(seqs(w.view("aged").iter()), [3, 4, 5], "{way:?}");
        w.done();
    }
}

#[test]
fn loosening_the_default_of_the_store_revives_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mem");
    let strict = options().retention(Retention::new().max_entries(2));
    let store = strict.open(&path).unwrap();
    let agent = store.agent("a").unwrap();
    for text in ["1", "2", "3", "4", "5"] {
        agent.append(NewEntry::user(text)).unwrap();
    }
    assert_eq!(agent.view().unwrap().floor(), 4);
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert_eq!(store.agent("a").unwrap().view().unwrap().floor(), 4);
}

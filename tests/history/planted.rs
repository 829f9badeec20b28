//! The checker itself: it finds what is planted, and nothing in what is right.

use super::check::check;
use super::record::{Call, Change, Draft, Expect, Refusal, Seen, What};
use super::store_in_three_runs;

fn call(client: usize, (begun, ended): (u64, u64), what: What) -> Call {
    Call { client, begun, ended, what }
}

type Seqs = Vec<(usize, std::ops::Range<u64>)>;

fn wrote(lsn: u64, changes: Vec<(usize, Change)>, seqs: Seqs) -> What {
    What::Wrote { lsn, batch: Draft { expects: Vec::new(), changes }, seqs }
}

/// One entry to agent 0, as that seq, known by its lsn.
fn appended(lsn: u64, seq: u64) -> What {
    wrote(lsn, vec![(0, Change::Append(lsn))], vec![(0, seq..seq + 1)])
}

fn set(lsn: u64, revision: u64) -> What {
    let expects = vec![(0, Expect::Revision("k", revision))];
    let batch = Draft { expects, changes: vec![(0, Change::Set("k", lsn))] };
    What::Wrote { lsn, batch, seqs: Vec::new() }
}

fn read(agent: usize, floor: u64, entries: &[u64]) -> What {
    let next = floor + entries.len() as u64;
    let entries = (floor..).zip(entries.iter().copied().map(Some)).collect();
    What::Read { agent, seen: Seen { floor, next, entries, state: Vec::new() } }
}

fn conflict(expect: Expect) -> What {
    let batch = Draft { expects: vec![(0, expect)], changes: vec![(0, Change::Append(99))] };
    What::Refused { batch, why: Refusal::Conflict }
}

fn right(calls: &[Call]) {
    assert_eq!(check(calls), Ok(()));
}

fn wrong(calls: &[Call], why: &str) {
    let found = check(calls).unwrap_err();
    assert!(found.contains(why), "{found}");
}

#[test]
fn what_overlaps_may_come_in_either_order() {
    for entries in [&[10][..], &[10, 20]] {
        right(&[
            call(1, (1, 2), appended(10, 1)),
            call(1, (3, 6), appended(20, 2)),
            call(2, (4, 5), read(0, 1, entries)),
        ]);
    }
}

#[test]
fn a_view_of_the_past() {
    let mut calls = [
        call(1, (1, 2), appended(10, 1)),
        call(1, (3, 4), appended(20, 2)),
        call(2, (5, 6), read(0, 1, &[10])),
    ];
    wrong(&calls, "seen what was no more");
    calls[2].begun = 4;
    right(&calls);
}

#[test]
fn a_view_of_the_future() {
    let calls = [call(1, (3, 4), appended(10, 1)), call(2, (1, 2), read(0, 1, &[10]))];
    wrong(&calls, "seen what was not yet");
}

#[test]
fn a_client_that_goes_back_in_time() {
    let mut calls = [
        call(1, (1, 9), appended(10, 1)),
        call(2, (2, 3), read(0, 1, &[10])),
        call(2, (4, 5), read(0, 1, &[])),
    ];
    wrong(&calls, "the last before the first");
    // Another client that begins after that sees it too.
    calls[2].client = 3;
    wrong(&calls, "the last before the first");
    calls[2].begun = 2;
    right(&calls);
}

#[test]
fn seqs_that_leave_a_gap_or_are_given_twice() {
    for seq in [1, 3] {
        let calls = [call(1, (1, 2), appended(10, 1)), call(1, (3, 4), appended(20, seq))];
        wrong(&calls, "was to get seqs 2..3");
    }
    let calls = [call(1, (1, 2), appended(10, 1)), call(1, (3, 4), appended(10, 2))];
    wrong(&calls, "an lsn was given twice");
}

#[test]
fn lsns_against_the_order_of_calls() {
    let calls = [call(1, (1, 2), appended(20, 2)), call(2, (3, 4), appended(10, 1))];
    wrong(&calls, "the last before the first");
}

#[test]
fn another_entry_in_its_place() {
    let calls = [call(1, (1, 2), appended(10, 1)), call(1, (3, 4), read(0, 1, &[11]))];
    wrong(&calls, "no moment of agent 0 fits (as seq 1 Some(Some(10)))");
}

#[test]
fn an_update_that_is_lost() {
    right(&[call(1, (1, 5), set(10, 0)), call(2, (1, 5), set(20, 10))]);
    wrong(
        &[call(1, (1, 5), set(10, 0)), call(2, (1, 5), set(20, 0))],
        "though an expectation did not hold",
    );
}

#[test]
fn a_revision_of_another_batch() {
    let seen = |revision| {
        let state = vec![("k", revision, 10)];
        What::Read { agent: 0, seen: Seen { floor: 1, next: 1, entries: Vec::new(), state } }
    };
    right(&[call(1, (1, 2), set(10, 0)), call(1, (3, 4), seen(10))]);
    wrong(&[call(1, (1, 2), set(10, 0)), call(1, (3, 4), seen(11))], "no moment");
}

#[test]
fn half_of_a_batch() {
    let both = vec![(0, Change::Append(10)), (1, Change::Append(10))];
    let calls = |first, then| {
        [
            call(1, (1, 9), wrote(10, both.clone(), vec![(0, 1..2), (1, 1..2)])),
            call(2, (2, 3), read(first, 1, &[10])),
            call(2, (4, 5), read(then, 1, &[])),
        ]
    };
    wrong(&calls(0, 1), "the last before the first");
    wrong(&calls(1, 0), "the last before the first");
    let mut fine = calls(0, 1);
    fine[2].begun = 1;
    fine[2].client = 3;
    right(&fine);
}

/// Two who write and two who each see the other one of them first.
#[test]
fn no_order_that_all_agree_upon() {
    let entry = |lsn, agent| wrote(lsn, vec![(agent, Change::Append(lsn))], vec![(agent, 1..2)]);
    let mut calls = [
        call(1, (1, 9), entry(10, 0)),
        call(2, (1, 9), entry(20, 1)),
        call(3, (2, 3), read(0, 1, &[10])),
        call(3, (4, 5), read(1, 1, &[])),
        call(4, (2, 3), read(1, 1, &[20])),
        call(4, (4, 5), read(0, 1, &[])),
    ];
    wrong(&calls, "the last before the first");
    calls[3].what = read(1, 1, &[20]);
    calls[5].what = read(0, 1, &[10]);
    right(&calls);
}

#[test]
fn a_floor_that_falls() {
    let mut calls = [
        call(1, (1, 2), appended(10, 1)),
        call(1, (3, 4), wrote(20, vec![(0, Change::Truncate(2))], Vec::new())),
        call(1, (5, 6), read(0, 1, &[10])),
    ];
    wrong(&calls, "seen what was no more");
    calls[2].what = read(0, 2, &[]);
    right(&calls);
    calls[1].what = wrote(20, vec![(0, Change::Truncate(3))], Vec::new());
    wrong(&calls, "though a seq was out of range");
}

#[test]
fn a_life_that_comes_back() {
    let reborn = vec![(0, Change::Forget), (0, Change::Append(20))];
    let mut calls = [
        call(1, (1, 2), appended(10, 1)),
        call(1, (3, 4), wrote(20, reborn, vec![(0, 1..2)])),
        call(1, (5, 6), read(0, 1, &[10])),
    ];
    wrong(&calls, "seen what was no more");
    calls[2].what = read(0, 1, &[20]);
    right(&calls);
    // And of a forgotten prefix.
    calls[1].what = What::ForgotPrefix { lsn: 20, agents: vec![0] };
    wrong(&calls, "no moment");
    calls[2].what = read(0, 1, &[]);
    right(&calls);
}

#[test]
fn a_redacted_entry_in_clear() {
    let mut calls = [
        call(1, (1, 2), appended(10, 1)),
        call(1, (3, 4), wrote(20, vec![(0, Change::Redact(1))], Vec::new())),
        call(1, (5, 6), read(0, 1, &[10])),
    ];
    wrong(&calls, "seen what was no more");
    let entries = vec![(1, None)];
    let seen = Seen { floor: 1, next: 2, entries, state: Vec::new() };
    calls[2].what = What::Read { agent: 0, seen };
    right(&calls);
}

#[test]
fn refused_for_nothing() {
    let mut calls = [call(1, (1, 2), appended(10, 1)), call(2, (3, 4), conflict(Expect::Next(2)))];
    wrong(&calls, "no moment");
    calls[1].what = conflict(Expect::Next(1));
    right(&calls);
    // For what it conflicts with was there, the next view shows it.
    let calls = [
        call(1, (1, 9), appended(10, 1)),
        call(2, (2, 3), conflict(Expect::Next(1))),
        call(2, (4, 5), read(0, 1, &[])),
    ];
    wrong(&calls, "the last before the first");
    let batch = Draft { changes: vec![(0, Change::Truncate(2))], ..Draft::default() };
    let refused = What::Refused { batch, why: Refusal::OutOfRange };
    right(&[call(2, (1, 2), refused.clone())]);
    wrong(&[call(1, (1, 2), appended(10, 1)), call(2, (3, 4), refused)], "no moment");
}

#[test]
fn two_calls_of_a_client_at_a_time() {
    let calls = [call(1, (1, 3), appended(10, 1)), call(1, (2, 4), appended(20, 2))];
    wrong(&calls, "two calls at a time");
}

/// In a real history each view is moved behind the next batch of its agent, and before the one that
/// it shows: that is found each time.
#[test]
fn views_of_a_real_history_at_another_time() {
    let history = store_in_three_runs(4711, 60);
    assert_eq!(check(&history), Ok(()));
    let alone = |index: usize, begun: u64| {
        let mut moved = history.clone();
        let view = &mut moved[index];
        (view.client, view.begun, view.ended) = (usize::MAX, begun, begun);
        check(&moved)
    };
    let (mut moved, first) = (0, history.iter().map(|call| call.begun).min().unwrap());
    for (index, call) in history.iter().enumerate() {
        let What::Read { agent, seen } = &call.what else { continue };
        if seen.entries.iter().all(|(_, entry)| entry.is_none()) {
            // Lives are alike but for what was appended in them.
            continue;
        }
        let appends = |other: &&Call| match &other.what {
            What::Wrote { seqs, .. } => seqs.iter().any(|(a, _)| a == agent),
            _ => false,
        };
        let next = history.iter().filter(appends).filter(|other| other.begun > call.ended);
        if let Some(next) = next.min_by_key(|other| other.ended) {
            assert!(alone(index, next.ended + 1).is_err(), "{call:?} behind {next:?}");
            moved += 1;
        }
        assert!(alone(index, first - 1).is_err(), "{call:?} before all");
        moved += 1;
    }
    assert!(moved > 200, "{moved} views were moved");
}

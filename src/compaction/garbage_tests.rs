use std::time::Duration;

use super::{Facts, Schedule};

const MINUTE: u64 = 60_000;

/// A store at rest, a day after the last scan.
fn rest() -> (Schedule, Facts) {
    let facts = Facts {
        now: 1_000 * MINUTE,
        time: 1_000 * MINUTE,
        monotonic: Duration::from_secs(1_000),
        end: 5_000,
        unbooked: 3,
        first_unbooked: None,
        seals: 4_000,
        policies: false,
        next_expiry: u64::MAX,
        lines: false,
        each: 1 << 20,
        interval: MINUTE / 2,
        erase_within: None,
    };
    let mut schedule = Schedule::default();
    schedule.scanned(&facts, Duration::from_secs(2), None, None);
    (schedule, later(&facts, 1_440 * MINUTE))
}

fn later(facts: &Facts, ms: u64) -> Facts {
    let monotonic = facts.monotonic + Duration::from_millis(ms);
    Facts { now: facts.now + ms, time: facts.time + ms, monotonic, ..*facts }
}

#[test]
fn a_store_in_which_nothing_can_have_died_is_not_scanned() {
    let (schedule, facts) = rest();
    assert_eq!(schedule.due(&facts), None);
    assert_eq!(schedule.due_now(&facts), None);
    assert_eq!(schedule.pause(&facts), None);
    let appended = Facts { end: 1 << 40, seals: 1 << 39, ..facts };
    assert_eq!(schedule.due(&appended), None);
}

#[test]
fn a_death_that_was_not_booked_is_looked_for_within_the_interval_without_any_append() {
    let (schedule, facts) = rest();
    let died = Facts { unbooked: 4, first_unbooked: Some(facts.now), ..facts };
    assert_eq!(schedule.due(&died), None);
    assert_eq!(schedule.pause(&died), Some(Duration::from_secs(30)));
    let due = schedule.due(&later(&died, MINUTE / 2));
    assert_eq!(due, Some(died.now));
    // A deadline for erasure is shorter.
    let dated = Facts { erase_within: Some(MINUTE), ..died };
    assert_eq!(schedule.due(&later(&dated, MINUTE / 4 - 1)), None);
    assert!(schedule.due(&later(&dated, MINUTE / 4)).is_some());
}

#[test]
fn an_expiry_makes_a_scan_due_by_its_date_alone() {
    let (mut schedule, facts) = rest();
    let date = facts.now + 10 * MINUTE;
    let facts = Facts { next_expiry: date, ..facts };
    assert_eq!(schedule.due(&facts), None);
    assert_eq!(schedule.pause(&facts), Some(Duration::from_secs(630)));
    let due = later(&facts, 10 * MINUTE + MINUTE / 2);
    assert_eq!(schedule.due(&due), Some(date));
    schedule.scanned(&due, Duration::ZERO, None, None);
    assert_eq!(schedule.due(&Facts { next_expiry: u64::MAX, ..due }), None);
}

#[test]
fn ages_and_policies_are_looked_at_as_time_passes_and_as_bytes_come() {
    let (mut schedule, facts) = rest();
    let dies = facts.now + 4 * MINUTE;
    schedule.scanned(&facts, Duration::ZERO, Some(160 * MINUTE), Some(dies));
    // Not at each death: often enough within the age.
    assert_eq!(schedule.pause(&facts), Some(Duration::from_secs(630)));
    assert_eq!(schedule.due(&later(&facts, 10 * MINUTE)), None);
    assert!(schedule.due(&later(&facts, 11 * MINUTE)).is_some());
    let dated = Facts { erase_within: Some(MINUTE), ..facts };
    assert_eq!(schedule.pause(&dated), Some(Duration::from_secs(255)));

    schedule.scanned(&facts, Duration::ZERO, None, None);
    let facts = Facts { policies: true, ..facts };
    assert_eq!(schedule.due(&later(&facts, MINUTE)), None, "nothing was appended");
    let little = Facts { end: facts.end + 1, ..facts };
    assert_eq!(schedule.due(&little), None);
    assert!(schedule.due(&later(&little, MINUTE / 2)).is_some());
    let much = Facts { end: facts.end + facts.each, ..facts };
    assert!(schedule.due(&much).is_some());
}

#[test]
fn scans_take_a_sixteenth_of_the_time() {
    let (mut schedule, facts) = rest();
    schedule.scanned(&facts, Duration::from_secs(60), None, None);
    let died = Facts { unbooked: 4, first_unbooked: Some(facts.now), ..facts };
    assert_eq!(schedule.due(&later(&died, 16 * MINUTE)), None);
    assert!(schedule.due(&later(&died, 17 * MINUTE)).is_some());
    // What is to be erased by a date is not put off.
    let dated = Facts { erase_within: Some(MINUTE), ..died };
    assert!(schedule.due(&later(&dated, MINUTE)).is_some());
    // Nor does a call wait.
    assert!(schedule.due_now(&died).is_some());
}

#[test]
fn what_died_before_an_opening_is_looked_for_after_a_rest() {
    let (_, facts) = rest();
    let mut schedule = Schedule::default();
    let unknown = Facts { unbooked: 1, first_unbooked: Some(7), next_expiry: 9, ..facts };
    schedule.opened(&unknown);
    assert_eq!(schedule.due(&unknown), None);
    let unscanned = Facts { unbooked: 0, ..unknown };
    assert_eq!(schedule.pause(&unscanned), Some(Duration::from_secs(30)));
    let due = schedule.due(&later(&unknown, MINUTE));
    assert_eq!(due, Some(7));
    assert_eq!(schedule.due_now(&unknown), Some(7));
}

#[test]
fn lines_of_forgotten_prefixes_are_looked_at_after_a_job() {
    let (mut schedule, facts) = rest();
    let facts = Facts { lines: true, ..facts };
    assert_eq!(schedule.due(&facts), None);
    schedule.installed();
    assert!(schedule.due(&facts).is_some());
}

#[test]
fn a_clock_that_was_set_back_keeps_no_scan_from_its_time() {
    let (schedule, facts) = rest();
    let died = Facts { unbooked: 4, first_unbooked: Some(facts.now), ..facts };
    let back = Facts { time: facts.time, ..later(&died, MINUTE / 2) };
    assert!(schedule.due(&back).is_some());
    // What has not expired by the store's time is not looked for.
    let date = facts.time + MINUTE;
    let back = Facts { next_expiry: date, time: facts.time, ..later(&facts, 10 * MINUTE) };
    assert_eq!(schedule.due(&back), None);
}

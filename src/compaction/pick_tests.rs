use super::*;

const MIB: u64 = 1 << 20;

/// A log segment of 64 MiB with small extents, the `place`th in the log.
fn log(place: u64, dead_percent: u64) -> SegmentStats {
    let dead = 60 * MIB * dead_percent / 100;
    SegmentStats {
        id: place,
        generation: 0,
        lsns: place * 100..place * 100 + 100,
        from: "".into(),
        to: None,
        file_bytes: 64 * MIB,
        live_bytes: 60 * MIB - dead,
        dead_bytes: dead,
        agents: 20_000,
        dead_since: (dead > 0).then_some(place + 1),
        quarantined: false,
    }
}

/// A run of the tier that covers the lsns of these log segments.
fn run(id: u64, tier: Range<u64>, names: (&str, &str), mib: u64) -> SegmentStats {
    SegmentStats {
        id,
        generation: 1,
        lsns: tier.start * 100..tier.end * 100,
        from: names.0.into(),
        to: (!names.1.is_empty()).then(|| names.1.into()),
        file_bytes: mib * MIB,
        live_bytes: mib * MIB,
        ..log(0, 0)
    }
}

fn dies(segment: SegmentStats, percent: u64) -> SegmentStats {
    let dead = segment.live_bytes * percent / 100;
    let live_bytes = segment.live_bytes - dead;
    SegmentStats { live_bytes, dead_bytes: dead, dead_since: Some(5), ..segment }
}

fn is_bad(segment: SegmentStats) -> SegmentStats {
    SegmentStats { quarantined: true, ..segment }
}

fn inputs(segments: &[SegmentStats], policy: &Policy) -> Option<(Reason, Vec<u64>)> {
    let job = pick(segments, policy)?;
    let of = |id: &u64| segments.iter().find(|segment| segment.id == *id).unwrap();
    let picked: Vec<&SegmentStats> = job.inputs.iter().map(of).collect();
    assert!(is_valid(&picked, segments), "{job:?}");
    Some((job.reason, job.inputs))
}

/// What it shows, the segments, the policy, and the job that is wanted.
type Case<'a> = (&'a str, Vec<SegmentStats>, &'a Policy, Option<(Reason, Vec<u64>)>);

#[test]
fn each_case_picks_what_the_rules_say() {
    use Reason::{Align, Cluster, Erase, Reclaim};
    let lazy = Policy::default();
    let eager = Policy { thorough: true, ..Policy::default() };
    let due = Policy { erase_before: Some(5), ..Policy::default() };
    let logs = |count: u64, dead: u64| (0..count).map(|n| log(n, dead)).collect::<Vec<_>>();
    let with = |mut all: Vec<SegmentStats>, more: &[SegmentStats]| {
        all.extend_from_slice(more);
        all
    };
    let (left, right) = (run(50, 0..2, ("", "m"), 200), run(51, 0..2, ("m", ""), 200));
    let tier = vec![left.clone(), right.clone()];
    let wide = || SegmentStats { agents: 10, ..log(9, 60) };
    let table: Vec<Case<'_>> = vec![
        ("nothing", vec![], &lazy, None),
        ("few log segments wait", logs(5, 0), &lazy, None),
        ("a full job does not wait", logs(7, 0), &lazy, Some((Cluster, (0..7).collect()))),
        ("logs are merged", logs(12, 40), &lazy, Some((Reclaim, (0..12).collect()))),
        ("all dead first", with(logs(12, 20), &[log(12, 100)]), &lazy, Some((Reclaim, vec![12]))),
        (
            "a dead run",
            vec![dies(left.clone(), 60), right.clone()],
            &lazy,
            Some((Reclaim, vec![50])),
        ),
        ("not dead enough", vec![dies(left.clone(), 30), right.clone()], &lazy, None),
        ("thorough", vec![dies(left.clone(), 6), right.clone()], &eager, Some((Reclaim, vec![50]))),
        (
            "dead as ever",
            vec![SegmentStats { dead_since: None, ..dies(left.clone(), 60) }],
            &lazy,
            None,
        ),
        ("due", vec![dies(left.clone(), 1), right.clone()], &due, Some((Erase, vec![50]))),
        ("long extents do not wait", vec![wide()], &lazy, Some((Reclaim, vec![9]))),
        ("bad ones are left", vec![is_bad(dies(left.clone(), 60)), right.clone()], &lazy, None),
        ("one tier is enough", tier.clone(), &eager, None),
        (
            "a slice with its like",
            with(tier.clone(), &[run(52, 2..4, ("", "m"), 200), run(53, 2..4, ("m", ""), 200)]),
            &eager,
            Some((Cluster, vec![50, 52])),
        ),
        (
            "nothing is merged across a bad one",
            vec![left.clone(), is_bad(run(52, 2..4, ("", "m"), 9)), run(53, 4..6, ("", "m"), 9)],
            &eager,
            None,
        ),
        (
            "what overlaps too much is cut first",
            with(tier, &[run(52, 2..4, ("a", "z"), 190)]),
            &eager,
            Some((Align, vec![52])),
        ),
    ];
    for (case, segments, policy, wanted) in table {
        assert_eq!(inputs(&segments, policy), wanted, "{case}");
    }
}

#[test]
fn the_newest_logs_wait_while_much_dies() {
    let policy = Policy { lag: 6 * 64 * MIB, ..Policy::default() };
    let logs = |dead| (0..12).map(|place| log(place, dead)).collect::<Vec<_>>();
    assert_eq!(inputs(&logs(60), &policy), Some((Reason::Reclaim, (0..6).collect())));
    assert_eq!(inputs(&logs(60)[6..], &policy), None);
    // Where little dies nothing is gained by waiting, nor when all of it is asked for.
    assert_eq!(inputs(&logs(5), &policy), Some((Reason::Cluster, (0..8).collect())));
    let thorough = Policy { thorough: true, ..policy };
    assert_eq!(inputs(&logs(60), &thorough), Some((Reason::Reclaim, (0..12).collect())));
}

#[test]
fn runs_are_not_clustered_while_much_dies() {
    let tiers =
        |dead| -> Vec<_> { (0..8).map(|n| dies(run(n, n..n + 1, ("a", "b"), 20), dead)).collect() };
    let policy = Policy::default();
    assert_eq!(inputs(&tiers(5), &policy), Some((Reason::Cluster, (0..8).collect())));
    assert_eq!(inputs(&tiers(15), &policy), None);
}

#[test]
fn a_run_is_not_rewritten_for_next_to_nothing() {
    let policy = Policy { least_gain: 4 * MIB, ..Policy::default() };
    let small = |mib| vec![dies(run(1, 0..1, ("a", "b"), mib), 60)];
    assert_eq!(inputs(&small(5), &policy), None);
    assert_eq!(inputs(&small(7), &policy), Some((Reason::Reclaim, vec![1])));
}

#[test]
fn inputs_that_span_the_age_of_another_are_not_valid() {
    let all = [log(0, 0), run(1, 1..2, ("a", "c"), 1), log(2, 0), run(3, 3..4, ("d", "e"), 1)];
    let [old, run, new, late] = &all;
    assert!(is_valid(&[old, run], &all));
    assert!(is_valid(&[old, run, new], &all));
    assert!(!is_valid(&[old, new], &all));
    assert!(!is_valid(&[run, late], &all), "a log segment lies between");
    assert!(!is_valid(&[], &all));
    let apart = [run.clone(), late.clone()];
    assert!(is_valid(&[run, late], &apart));
}

#[test]
fn a_job_cuts_its_outputs_evenly_and_counts_generations() {
    let segments: Vec<_> = (0..12).map(|n| log(n, 40)).collect();
    let job = pick(&segments, &Policy::default()).unwrap();
    assert_eq!((job.output_bytes, job.generation), (12 * 40 * MIB, 1));
    assert_eq!(job.run_bytes, 60 * MIB);
    let job = pick(&segments, &Policy { thorough: true, ..Policy::default() }).unwrap();
    assert_eq!((job.output_bytes, job.run_bytes), (12 * 40 * MIB, 240 * MIB));
}

/// Outcome of a job whose agents are spread evenly over names of one letter.
fn done(segments: &mut Vec<SegmentStats>, job: &Pick, next: &mut u64) {
    let (inputs, rest): (Vec<_>, Vec<_>) =
        segments.drain(..).partition(|segment| job.inputs.contains(&segment.id));
    *segments = rest;
    let live: u64 = inputs.iter().map(|input| input.live_bytes).sum();
    let lo = inputs.iter().map(|input| input.lsns.start).min().unwrap();
    let hi = inputs.iter().map(|input| input.lsns.end).max().unwrap();
    let from = inputs.iter().map(|input| input.from.clone()).min().unwrap();
    let to = inputs.iter().map(|input| input.to.clone().unwrap_or_else(|| "~".into())).max();
    let mut bounds: Vec<Box<str>> = segments
        .iter()
        .flat_map(|one| [Some(one.from.clone()), one.to.clone()])
        .flatten()
        .chain([Box::from("m")])
        .filter(|bound| *bound > from && to.as_ref().is_none_or(|to| bound < to))
        .collect();
    bounds.sort();
    bounds.dedup();
    bounds.insert(0, from);
    let share = live / bounds.len() as u64;
    for (at, from) in bounds.iter().enumerate() {
        *next += 1;
        let end = bounds.get(at + 1).cloned().or_else(|| to.clone().filter(|to| **to != *"~"));
        let output = SegmentStats {
            id: *next,
            generation: job.generation,
            lsns: lo..hi,
            from: from.clone(),
            to: end,
            file_bytes: share,
            live_bytes: share,
            dead_bytes: 0,
            dead_since: None,
            agents: 10_000,
            quarantined: false,
        };
        segments.push(output);
    }
}

#[test]
fn thorough_picks_end_with_one_tier() {
    let policy = Policy { thorough: true, ..Policy::default() };
    let mut segments: Vec<_> = (0..32).map(|n| log(n, n % 3 * 20)).collect();
    let mut next = 100;
    let mut jobs = 0;
    while let Some(job) = pick(&segments, &policy) {
        assert!(inputs(&segments, &policy).is_some());
        done(&mut segments, &job, &mut next);
        jobs += 1;
        assert!(jobs < 1000, "picking does not end: {job:?}");
    }
    // Slices whose pair would be more than a job are left, and nothing else.
    for (at, one) in segments.iter().enumerate() {
        for other in segments.iter().skip(at + 1).filter(|other| share_names(one, other)) {
            assert!(one.live_bytes + other.live_bytes > policy.max_job, "{one:?} {other:?}");
        }
    }
}

/// What a run takes beside its data must stay a small part of it.
#[test]
fn small_stores_have_long_runs_and_few_of_them() {
    let options = crate::options::Options::new().segment_bytes(256 << 10);
    let small = |place: u64| {
        let length = 256 << 10;
        SegmentStats { file_bytes: length, live_bytes: length, agents: 60, ..log(place, 0) }
    };
    let segments: Vec<SegmentStats> = (0..32).map(small).collect();
    let policy = Policy::of(&options, false, &segments);
    let job = pick(&segments, &policy).unwrap();
    assert!(job.run_bytes >= 200 << 10, "{job:?}");
    // Erasures leave a little of each of the runs of one tier.
    let left = |number: u64| {
        let names = (format!("{number:04}"), format!("{:04}", number + 1));
        let whole = run(number + 1, 0..600, (&names.0, &names.1), 1);
        SegmentStats { file_bytes: 20 << 10, live_bytes: 8 << 10, ..whole }
    };
    let tier: Vec<SegmentStats> = (0..400).map(left).collect();
    let policy = Policy::of(&options, false, &tier);
    let job = pick(&tier, &policy).unwrap();
    assert_eq!(job.reason, Reason::Gather);
    assert!(job.inputs.len() > 10, "{job:?}");
}

/// An erasure makes a run of a log segment. Those on either side of it are clustered all the same.
#[test]
fn what_was_a_log_segment_is_clustered_with_its_neighbours() {
    let erased = |place: u64| run(place, place..place + 1, ("", ""), 50);
    let mixed = |place: u64| if place % 4 == 3 { erased(place) } else { log(place, 0) };
    let mut segments: Vec<SegmentStats> = (0..12).map(mixed).collect();
    let policy = Policy { max_job: 1 << 40, ..Policy::default() };
    let all = (0..12).collect();
    assert_eq!(inputs(&segments, &policy), Some((Reason::Cluster, all)));
    assert_eq!(pick(&segments, &policy).unwrap().generation, 1, "a job of the logs' own level");
    segments.truncate(11);
    assert_eq!(inputs(&segments, &policy), None);
    // A great tier is no such run.
    let great = run(100, 1..2, ("", ""), 5 << 10);
    let segments: Vec<SegmentStats> =
        (0..12).map(|place| if place == 1 { great.clone() } else { log(place, 0) }).collect();
    assert_eq!(inputs(&segments, &policy), None);
}

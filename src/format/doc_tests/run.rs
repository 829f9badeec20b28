//! The examples of a run: what is left of the segment of the other examples.

use super::*;

/// A run of what the log segment holds.
const RUN: Home = (0x0f1e_2d3c_4b5a_6978, BASE + 128);
const KEPT_AT: u64 = 128;
const KEPT_PREFIX_AT: u64 = 336;
const RUN_END: u64 = 448;

/// What is left of the agent in a run: the entry above its floor, and the value with its revision.
pub(super) fn kept() -> Vec<u8> {
    let flags = Head::STATE | Head::REDACTED | Head::POLICY | Head::EXPIRES;
    let head = Head { life: life(), next: 2, floor: 2, flags };
    let records = [
        second_entry(),
        Change::Kept { key: "goal", revision: BASE + CHANGES_AT, value: b"refund" },
    ]
    .map(|change| Record { agent: 0, change });
    build(RUN, KEPT_AT, RUN.1, None, &[FrameAgent { name: "acme/t-7", head }], &records)
}

pub(super) fn kept_prefix() -> Vec<u8> {
    let change = Change::KeptPrefix { lsn: BASE + PREFIX_AT, prefix: "acme/old/" };
    build(RUN, KEPT_PREFIX_AT, RUN.1, None, &[], &[Record { agent: u32::MAX, change }])
}

/// The footer of the run: of names below `acme/u`, it has one agent.
pub(super) fn footer() -> Footer {
    let mut builder = Builder::new(SegmentFacts {
        store: STORE,
        segment: 5,
        salt: RUN.0,
        first_lsn: RUN.1 + HEADER_LEN as u64,
        generation: 1,
        lowest_lsn: RUN.1,
        highest_lsn: BASE + DATA_END,
        ..SegmentFacts::default()
    });
    let flags = Head::STATE | Head::REDACTED | Head::POLICY | Head::EXPIRES;
    let goal =
        StateChange { key: "goal", tag: 0, revision: BASE + CHANGES_AT, offset: 288 / 8, len: 48 };
    let state = PagesBuilder::of([goal]).unwrap();
    let seven = Summary {
        name: "acme/t-7",
        head: Head { life: life(), next: 3, floor: 2, flags },
        first_seq: 2,
        offsets: &[240 / 8],
        groups: &[Group {
            max_at: TIME + 5,
            bytes: 2,
            weight: 0,
            unweighted: 1,
            joined: 1,
            soonest: TIME + 1000,
        }],
        state: state.as_ref(),
        redacted: &[],
        policy: None,
    };
    builder.add(&seven, hash("acme/t-7")).unwrap();
    builder.add_prefix(BASE + PREFIX_AT, "acme/old/").unwrap();
    builder.set_bounds("", Some("acme/u")).unwrap();
    let facts = builder.facts_mut();
    (facts.data_end, facts.record_bytes, facts.cleaned) = (RUN_END, 96 + 40, BASE + DATA_END);
    builder.finish(CAPACITY).unwrap()
}

#[test]
fn the_frames_of_a_run_are_as_documented() {
    let (bytes, frame) = check_frame("frame-kept", RUN, KEPT_AT);
    assert_eq!(bytes, kept());
    assert_eq!((frame.lsn, frame.durable, frame.time), (1_052_928, 1_052_800, TIME));
    assert_eq!((frame.header_len, frame.body_len), (112, 96));
    let starts: Vec<usize> = records(&bytes[112..]).map(|(at, _)| at + 112 + 128).collect();
    assert_eq!(starts, [240, 288]);
    assert_eq!(KEPT_AT + bytes.len() as u64, KEPT_PREFIX_AT);

    let (bytes, frame) = check_frame("frame-kept-prefix", RUN, KEPT_PREFIX_AT);
    assert_eq!(bytes, kept_prefix());
    assert_eq!((frame.lsn, frame.header_len, frame.body_len), (1_053_136, 72, 40));
    let change = Change::KeptPrefix { lsn: 1_053_424, prefix: "acme/old/" };
    assert_eq!(
        records(&bytes[72..]).collect::<Vec<_>>(),
        [(0, Record { agent: u32::MAX, change })]
    );
    assert_eq!(KEPT_PREFIX_AT + bytes.len() as u64, RUN_END);
}

#[test]
fn the_bounds_of_a_run_are_as_documented() {
    let made = footer();
    assert_eq!(example("run-prefixes"), parts(&made)[3].1);
    let touched = Touched::new(made.bytes.len(), GRANULE);
    let footer = FooterRef::new(&made.trailer, &made.bytes, &touched).unwrap();
    assert_eq!(footer.bounds(), Ok(Some(("", Some("acme/u")))));
    let prefixes: Vec<_> = footer.prefixes().unwrap().map(|line| line.unwrap()).collect();
    assert_eq!(prefixes, [(1_053_424, "acme/old/")]);
}

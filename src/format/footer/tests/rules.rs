//! What writers and readers of footers refuse, and what a builder may be told late.

use super::*;

/// The lengths of the blocks are held against each other even where checks do not protect.
#[test]
fn a_state_change_with_an_impossible_length_is_refused() {
    let model = Model {
        agents: BTreeMap::from([(
            "a".to_owned(),
            Agent {
                head: Head { life: 1, ..Head::absent() },
                state: BTreeMap::from([("key".to_owned(), (7, 9, 0x1230))]),
                ..Agent::default()
            },
        )]),
        ..Model::default()
    };
    let footer = build_tight(&model, &mut Random(8));
    // The block's own sum comes first.
    let is_len = |(_, bytes): &(usize, &[u8])| *bytes == 0x1230_u32.to_le_bytes();
    let found = footer.bytes.windows(4).enumerate().filter(is_len).nth(1).unwrap().0;
    let (offset_at, len_at) = (found - 4, found);
    let read = |bytes: &[u8], touched: &Touched| -> Result<usize, Fault> {
        let found = FooterRef::new(&footer.trailer, bytes, touched)?.find("a")?;
        let changes: Result<Vec<_>, Fault> = found.unwrap().1.states().all().collect();
        Ok(changes?.len())
    };
    for (at, value) in
        [(len_at, 0_u32), (len_at, 0x1234), (len_at, u32::MAX), (offset_at, 0), (len_at, 0x1238)]
    {
        let mut bytes = footer.bytes.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let touched = touched(&footer);
        assert!(walk(&bytes, footer.trailer.file_len, &[], &touched).is_err(), "the check");
        (0..bytes.len()).step_by(GRANULE).for_each(|at| touched.set(at));
        assert!(walk(&bytes, footer.trailer.file_len, &[], &touched).is_err(), "the sum");
        assert_eq!(read(&bytes, &touched).is_ok(), value == 0x1238, "{value:x} at {at}");
    }
    // The bytes of the block's entries, and of its state.
    let block = usize::try_from(footer.trailer.blocks_at - footer.trailer.footer_at).unwrap();
    let sum = footer.bytes.windows(4).enumerate().find(is_len).unwrap().0;
    for (at, most) in [(block + 48, MAX_FILE), (sum, MAX_FILE)] {
        for (value, is_fine) in [(most, true), (most + 1, false)] {
            let mut bytes = footer.bytes.clone();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let touched = touched(&footer);
            (0..bytes.len()).step_by(GRANULE).for_each(|at| touched.set(at));
            assert_eq!(read(&bytes, &touched).is_ok(), is_fine, "{value:x} at {at}");
        }
    }
}

#[test]
fn a_trailer_that_counts_too_much_is_refused() {
    let mut random = Random(9);
    let model = model(&mut random, 5, 20, 40);
    let Footer { trailer, .. } = build_tight(&model, &mut random);
    let read = |trailer: &Trailer| Trailer::read(&trailer.encode().unwrap(), trailer.file_len);
    assert_eq!(read(&trailer), Ok(trailer));
    let facts = trailer.facts;
    let with = |facts| Trailer { facts, ..trailer };
    let recorded = |record_bytes| with(SegmentFacts { record_bytes, ..facts });
    for bad in [
        recorded(facts.data_end + 1),
        recorded(trailer.state_bytes - 1),
        Trailer { state_bytes: facts.record_bytes + 1, ..trailer },
        Trailer { state_bytes: u64::MAX, ..trailer },
        Trailer { bytes: MAX_FILE + 1, ..trailer },
        Trailer { entries: trailer.blocks_len / 4 + 1, ..trailer },
        with(SegmentFacts { hidden: MAX_FILE + 1, ..facts }),
        with(SegmentFacts { segment: LIMIT + 1, ..facts }),
        with(SegmentFacts { first_lsn: LIMIT + 1, ..facts }),
        with(SegmentFacts { generation: u64::MAX, ..facts }),
        with(SegmentFacts { lowest_lsn: LIMIT + 1, ..facts }),
        with(SegmentFacts { highest_lsn: LIMIT + 1, ..facts }),
        with(SegmentFacts { cleaned: LIMIT + 1, ..facts }),
    ] {
        assert!(read(&bad).is_err(), "{bad:?}");
    }
    for good in [facts.data_end, trailer.state_bytes].map(recorded) {
        assert_eq!(read(&good), Ok(good));
    }
    let mut bytes = trailer.encode().unwrap();
    bytes[280] = 1;
    let check = trailer.check(&bytes, trailer.file_len).unwrap();
    bytes[12..16].copy_from_slice(&check.to_le_bytes());
    assert!(Trailer::read(&bytes, trailer.file_len).is_err(), "reserved bytes in use");
}

#[test]
fn agents_outside_the_bounds_are_refused() {
    let mut random = Random(10);
    let mut model = Model::default();
    for name in ["b", "c", "d"] {
        model.agents.insert(name.into(), agent(&mut random, 5));
    }
    let facts = facts(&mut random, state_bytes(&model));
    let file_len = facts.data_end.next_multiple_of(4096) + 65_536;
    for (from, to, fits) in [
        ("", None, true),
        ("b", Some("d!"), true),
        ("b", Some("e"), true),
        ("b!", Some("e"), false),
        ("c", None, false),
        ("", Some("d"), false),
        ("", Some("a"), false),
        ("e", None, false),
    ] {
        model.bounds = Some((from.to_owned(), to.map(str::to_owned)));
        assert_eq!(build(&model, facts, file_len).is_ok(), fits, "{from:?} {to:?}");
    }
    model.agents.clear();
    model.bounds = Some(("x".into(), Some("y".into())));
    compare(&build(&model, facts, file_len).unwrap(), &model, &mut random);
}

/// A run's writer knows where its data end only when all agents have been added.
#[test]
fn facts_may_be_told_at_the_end() {
    let mut random = Random(11);
    for round in 0..20 {
        let model = model(&mut random, 30 * round, 20, 60);
        let facts = facts(&mut random, state_bytes(&model));
        let blank = SegmentFacts { data_end: 0, record_bytes: 0, highest_lsn: 0, ..facts };
        let mut builder = Builder::new(blank);
        for (name, agent) in &model.agents {
            add(&mut builder, name, agent).unwrap();
        }
        for (lsn, prefix) in &model.prefixes {
            builder.add_prefix(*lsn, prefix).unwrap();
        }
        let mut estimate = bound(&model);
        estimate.add_bounds(MAX_NAME, MAX_NAME);
        let estimate = estimate.bytes();
        if let Some((from, to)) = &model.bounds {
            builder.set_bounds(from, to.as_deref()).unwrap();
        }
        let max_at = builder.facts_mut().max_at;
        *builder.facts_mut() = SegmentFacts { max_at, ..facts };
        let file_len = (facts.data_end + estimate).next_multiple_of(8);
        let footer = builder.finish(file_len).unwrap();
        let told_before = build(&model, SegmentFacts { max_at, ..facts }, file_len).unwrap();
        assert_eq!(footer.bytes, told_before.bytes);
        compare(&footer, &model, &mut random);
    }
}

#[test]
fn what_breaks_the_rules_is_refused_and_changes_nothing() {
    let mut random = Random(6);
    let mut model = Model::default();
    model.agents.insert("m".into(), agent(&mut random, 40));
    let facts = facts(&mut random, state_bytes(&model));
    let mut builder = Builder::new(facts);
    add(&mut builder, "m", &model.agents["m"]).unwrap();
    let good = |name: &str| {
        (name.to_owned(), Agent { head: Head { life: 1, ..Head::absent() }, ..Agent::default() })
    };
    let absent = |agent: Agent| ("n".to_owned(), Agent { head: Head::absent(), ..agent });
    let long_key = BTreeMap::from([("k".repeat(65_536), (1, 1, 8))]);
    let change = |change| {
        let state = BTreeMap::from([("k".to_owned(), change)]);
        ("n".to_owned(), Agent { state, ..good("n").1 })
    };
    let many = || Agent { offsets: vec![1; 33], ..good("n").1 };
    let falling = |field: fn(&mut Group) -> &mut u64| {
        let mut groups = vec![NOTHING; 2];
        *field(&mut groups[0]) = 2;
        groups
    };
    for (name, bad) in [
        good("m"),
        good("a"),
        good(""),
        good(&"n".repeat(513)),
        absent(Agent { offsets: vec![1], groups: vec![NOTHING], ..Agent::default() }),
        absent(Agent { policy: Some(None), ..Agent::default() }),
        absent(Agent { redacted: BTreeSet::from([1]), ..Agent::default() }),
        ("n".into(), Agent { offsets: vec![1], ..good("n").1 }),
        ("n".into(), Agent { groups: falling(|group| &mut group.max_at), ..many() }),
        ("n".into(), Agent { groups: falling(|group| &mut group.bytes), ..many() }),
        ("n".into(), Agent { groups: falling(|group| &mut group.weight), ..many() }),
        ("n".into(), Agent { state: long_key, ..good("n").1 }),
        change((1, 1, 0)),
        change((1, 0, 8)),
        change((1, 1, 12)),
        ("n".into(), Agent { head: Head { life: 1, flags: 256, ..Head::absent() }, ..good("n").1 }),
    ] {
        assert!(add(&mut builder, &name, &bad).is_err(), "{name:?} {bad:?}");
    }
    assert!(builder.add_prefix(1, "").is_err());
    assert!(builder.set_bounds("b", Some("a")).is_err());
    assert!(builder.set_bounds(&"n".repeat(513), None).is_err());
    let file_len = facts.data_end.next_multiple_of(4096) + 65_536;
    let footer = builder.finish(file_len).unwrap();
    assert_eq!(footer.bytes, build(&model, facts, file_len).unwrap().bytes);
    compare(&footer, &model, &mut random);
    assert!(build(&model, facts, file_len + 4).is_err());
    assert!(build(&model, facts, facts.data_end + 8192).is_err());
    assert!(build(&model, facts, 0).is_err());
}

/// Of a footer the slack of a page hides what is not counted.
#[test]
fn bounds_count_as_much_as_they_take() {
    for (from, to) in [("", ""), ("a", ""), ("acme/t-7", "acme/t-8"), ("", &*"n".repeat(512))] {
        let mut bound = Bound::new();
        let before = bound.bytes();
        bound.add_bounds(from.len(), to.len());
        let to = Some(to).filter(|to| !to.is_empty());
        assert_eq!(bound.bytes() - before, bounds::write((from, to)).unwrap().len() as u64);
    }
}

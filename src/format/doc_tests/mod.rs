//! The worked examples of `docs/format.md`: read out of the document, decoded by the real decoders,
//! held against what the prose says, and re-created byte for byte.
//!
//! `cargo test --lib print_the_examples -- --ignored --nocapture` prints them anew.

mod fields;
mod run;

use std::fmt::Write;

use fields::{
    APPEND_FIELDS, BLOCK_FIELDS, CHANGES_FIELDS, DIRECTORY_FIELDS, HEADER_FIELDS, KEPT_FIELDS,
    KEPT_PREFIX_FIELDS, LINK_FIELDS, MANIFEST_FIELDS, PREFIX_FIELDS, PREFIXES_FIELDS,
    RUN_PREFIXES_FIELDS, TRAILER_FIELDS,
};

use super::check::{crc, mask};
use super::footer::{
    Builder, Footer, FooterRef, GRANULE, Group, PagesBuilder, SegmentFacts, StateChange, Summary,
    TRAILER_LEN, Trailer,
};
use super::frame::{self, FrameAgent, FrameHeader, HeaderBuilder, Link, Place};
use super::head::Head;
use super::header::{HEADER_LEN, Header, HeaderFault, Layout};
use super::manifest::{Forgotten, Listed, Manifest, ManifestFault, Role};
use super::record::{self, Append, Change, JOINED, Record};
use super::touched::Touched;
use super::{Era, PAGE, VERSION};
use crate::types::{Kind, Retention};

const DOCUMENT: &str = include_str!("../../../docs/format.md");

const STORE: u128 = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;
const SALT: u64 = 0x0123_4567_89ab_cdef;
const BASE: u64 = 4096 + (1 << 20);
const CAPACITY: u64 = 1 << 20;
const TIME: u64 = 1_763_884_800_000;
const ABSENT: Head = Head::absent();
const HISTORY: u64 = 0x7f3a_90c1_55d2_e86b;
const ERA: Era = Era { incarnation: 3, history: HISTORY };

const LINK_AT: u64 = 128;
const APPEND_AT: u64 = 216;
const CHANGES_AT: u64 = 368;
const PREFIX_AT: u64 = 752;
const DATA_END: u64 = 856;

/// A segment: its salt and its base.
type Home = (u64, u64);
const LOG: Home = (SALT, BASE);

/// The bytes of the fenced block `label`: each line an offset, bytes, and a comment behind `;`.
/// `*N` repeats the byte before it up to N times in all.
fn example(label: &str) -> Vec<u8> {
    let fence = format!("```hex {label}\n");
    let (_, rest) = DOCUMENT.split_once(&fence).unwrap_or_else(|| panic!("no block {label}"));
    let (block, _) = rest.split_once("\n```").unwrap();
    let mut bytes = Vec::new();
    for line in block.lines() {
        let code = line.split(';').next().unwrap();
        let mut words = code.split_whitespace();
        let offset = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        assert_eq!(offset, bytes.len(), "the offset of {line:?} in {label}");
        for word in words {
            match word.strip_prefix('*') {
                Some(times) => {
                    let byte = *bytes.last().unwrap();
                    bytes.resize(bytes.len() + times.parse::<usize>().unwrap() - 1, byte);
                }
                None => bytes.push(u8::from_str_radix(word, 16).unwrap()),
            }
        }
    }
    bytes
}

/// A block of the document as it ought to be: the bytes, cut into fields.
fn text(label: &str, bytes: &[u8], fields: &str) -> String {
    let mut out = format!("```hex {label}\n");
    let mut at = 0;
    for field in fields.lines() {
        let (len, what) = field.split_once(' ').unwrap();
        let len: usize = len.parse().unwrap();
        for (part, chunk) in lines_of(&bytes[at..at + len]).enumerate() {
            let mut line = format!("{:04x} ", at + chunk.0);
            line.push_str(&chunk.1);
            if part == 0 {
                write!(line, "{:1$}; {what}", "", 54_usize.saturating_sub(line.len())).unwrap();
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        at += len;
    }
    assert_eq!(at, bytes.len(), "the fields of {label}");
    out.push_str("```\n");
    out
}

fn lines_of(bytes: &[u8]) -> impl Iterator<Item = (usize, String)> {
    let mut lines = Vec::new();
    if bytes.len() > 16 && bytes.iter().all(|byte| *byte == bytes[0]) {
        lines.push((0, format!(" {:02x} *{}", bytes[0], bytes.len())));
    } else {
        for (number, chunk) in bytes.chunks(16).enumerate() {
            let hex: String = chunk.iter().map(|byte| format!(" {byte:02x}")).collect();
            lines.push((number * 16, hex));
        }
    }
    lines.into_iter()
}

fn header() -> Header {
    Header {
        store: STORE,
        id: 2,
        salt: SALT,
        base: BASE,
        capacity: CAPACITY,
        layout: Layout::Log,
        era: ERA,
        compatible: 0,
    }
}

/// Builds a frame at `offset` of a segment of the examples.
fn build(
    (salt, base): Home,
    offset: u64,
    durable: u64,
    link: Option<Link>,
    agents: &[FrameAgent<'_>],
    records: &[Record<'_>],
) -> Vec<u8> {
    let mut builder = HeaderBuilder::start(Vec::new(), link);
    for agent in agents {
        let at = builder.add_agent(agent.name);
        builder.set_head(at, &agent.head);
    }
    let (mut body, mut digest, mut count) = (Vec::new(), 0, 0);
    for record in records {
        let plain = record::encode(&mut body, record.agent, &record.change);
        digest = frame::fold(digest, plain);
        count += 1;
    }
    let mut head = builder.finish(body.len(), digest, count);
    let place = Place { salt, offset, lsn: base + offset, durable, time: TIME, era: ERA };
    frame::seal(&mut head, &mut body, &place).unwrap();
    head.extend_from_slice(&body);
    head
}

/// Decodes a frame of the document with every check, and builds it again from what was decoded.
fn check_frame(label: &str, home: Home, offset: u64) -> (Vec<u8>, FrameHeader) {
    let (salt, base) = home;
    let bytes = example(label);
    let header = frame::decode_header(&bytes, salt, base, offset).unwrap();
    assert_eq!(header.len(), bytes.len(), "{label}");
    let agents = frame::agents(&header, &bytes).unwrap();
    let body = &bytes[header.header_len..];
    frame::verify_body(&header, body, salt, offset + header.header_len as u64).unwrap();
    let records: Vec<Record<'_>> = records(body).map(|(_, record)| record).collect();
    assert_eq!(records.len(), header.records as usize);
    assert_eq!(agents.len(), header.agents as usize);
    let again = build(home, offset, header.durable, header.link, &agents, &records);
    assert_eq!(again, bytes, "{label}");
    for other in [offset - 8, offset + 8] {
        assert!(frame::decode_header(&bytes, salt, base, other).is_err(), "bound to its place");
    }
    (bytes, header)
}

/// The records of a body, with where in it they begin.
fn records(body: &[u8]) -> impl Iterator<Item = (usize, Record<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let here = at;
        at += record::padded_len(body, here).ok()?;
        Some((here, record::decode(&body[here..at]).unwrap()))
    })
}

fn link() -> Vec<u8> {
    build(LOG, LINK_AT, 1_000_000, Some(Link { id: 1, end: 1_010_000 }), &[], &[])
}

fn first_entry() -> Record<'static> {
    let append = Append {
        at: TIME,
        kind: Kind::USER,
        weight: 3,
        flags: 0,
        expires: None,
        meta: b"{}",
        payload: b"hello",
    };
    Record { agent: 0, change: Change::Append(append) }
}

fn append() -> Vec<u8> {
    let agent = FrameAgent { name: "acme/t-7", head: ABSENT };
    build(LOG, APPEND_AT, 1_000_000, None, &[agent], &[first_entry()])
}

fn life() -> u64 {
    BASE + APPEND_AT
}

fn second_entry() -> Change<'static> {
    Change::Append(Append {
        at: TIME + 5,
        kind: Kind::new(300),
        weight: 0,
        flags: JOINED,
        expires: Some(TIME + 1000),
        meta: b"",
        payload: b"ok",
    })
}

fn changes() -> Vec<u8> {
    let agents = [
        FrameAgent { name: "acme/t-7", head: Head { life: life(), next: 2, floor: 1, flags: 0 } },
        FrameAgent { name: "acme/t-8", head: Head { life: 4224, next: 9, floor: 1, flags: 0 } },
    ];
    let policy = Retention::new().max_entries(100);
    let of = |agent, change| Record { agent, change };
    let records = [
        of(0, second_entry()),
        of(0, Change::Set { key: "goal", value: b"refund" }),
        of(0, Change::Unset { key: "old" }),
        of(0, Change::Redact { seq: 1 }),
        of(0, Change::Truncate { seq: 2 }),
        of(0, Change::Policy(Some(policy))),
        of(1, Change::Policy(None)),
        of(1, Change::Forget),
    ];
    build(LOG, CHANGES_AT, BASE + APPEND_AT, None, &agents, &records)
}

fn prefix() -> Vec<u8> {
    let change = Change::ForgetPrefix { prefix: "acme/old/" };
    build(LOG, PREFIX_AT, BASE + CHANGES_AT, None, &[], &[Record { agent: u32::MAX, change }])
}

fn footer() -> Footer {
    let first = BASE + HEADER_LEN as u64;
    let mut builder = Builder::new(SegmentFacts {
        store: STORE,
        segment: 2,
        salt: SALT,
        first_lsn: first,
        data_end: DATA_END,
        generation: 0,
        lowest_lsn: first,
        highest_lsn: BASE + DATA_END,
        max_at: 0,
        record_bytes: 40 + 232 + 32,
        cleaned: 0,
        hidden: 0,
    });
    let flags = Head::STATE | Head::REDACTED | Head::POLICY | Head::EXPIRES;
    let revision = BASE + CHANGES_AT;
    let goal = StateChange { key: "goal", tag: 0, revision, offset: 568 / 8, len: 40 };
    let old = StateChange { key: "old", tag: 0, revision, offset: 0, len: 0 };
    let state = PagesBuilder::of([goal, old]).unwrap();
    let seven = Summary {
        name: "acme/t-7",
        head: Head { life: life(), next: 3, floor: 2, flags },
        first_seq: 1,
        offsets: &[328 / 8, 520 / 8],
        groups: &[Group {
            max_at: TIME + 5,
            bytes: 9,
            weight: 3,
            unweighted: 1,
            joined: 2,
            soonest: TIME + 1000,
        }],
        state: state.as_ref(),
        redacted: &[1],
        policy: Some(Some(Retention::new().max_entries(100))),
    };
    let eight = Summary {
        name: "acme/t-8",
        head: ABSENT,
        first_seq: 1,
        offsets: &[],
        groups: &[],
        state: None,
        redacted: &[],
        policy: None,
    };
    builder.add(&seven, hash("acme/t-7")).unwrap();
    builder.add(&eight, hash("acme/t-8")).unwrap();
    builder.add_prefix(BASE + PREFIX_AT, "acme/old/").unwrap();
    builder.finish(CAPACITY).unwrap()
}

/// The hash of a name as the document defines it.
fn hash(name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), 0x8899_aabb_ccdd_eeff)
}

fn manifest(footer_check: u32) -> Manifest {
    let line = |id, role, base, data_end, footer_check| Listed {
        id,
        salt: SALT,
        role,
        run: false,
        base,
        capacity: CAPACITY,
        data_end,
        footer_check,
        dead: 0,
        dead_since: 0,
    };
    Manifest {
        store: STORE,
        incarnation: 3,
        generation: 17,
        next_id: 5,
        durable: BASE + DATA_END,
        time: TIME,
        clean_end: 0,
        compatible: 0,
        history: HISTORY,
        claim: 0,
        holes: None,
        segments: vec![
            Listed {
                dead: 48,
                dead_since: TIME,
                ..line(2, Role::Sealed, BASE, DATA_END, footer_check)
            },
            Listed { salt: 77, ..line(3, Role::Active, BASE + CAPACITY, 0, 0) },
        ],
        forgotten: vec![Forgotten { prefix: "acme/old/".into(), lsn: BASE + PREFIX_AT }],
        obsolete: vec![1],
        defaults: Vec::new(),
    }
}

/// The footer's parts and their labels, cut where the trailer says.
fn parts(footer: &Footer) -> [(&'static str, &[u8]); 5] {
    let trailer = &footer.trailer;
    let at = |n: u64| usize::try_from(n - trailer.footer_at).unwrap();
    let bytes = &footer.bytes;
    let end = bytes.len() - TRAILER_LEN;
    [
        ("footer-directory", &bytes[..at(trailer.filter_at)]),
        ("footer-filter", &bytes[at(trailer.filter_at)..at(trailer.blocks_at)]),
        ("footer-blocks", &bytes[at(trailer.blocks_at)..at(trailer.prefixes_at)]),
        ("footer-prefixes", &bytes[at(trailer.prefixes_at)..end]),
        ("footer-trailer", &bytes[end..]),
    ]
}

#[test]
#[ignore = "prints the examples, for whoever changes the format"]
fn print_the_examples() {
    let footer = footer();
    let check = u32::from_le_bytes(*parts(&footer)[4].1[12..].first_chunk().unwrap());
    println!("{}", text("segment-header", &header().encode(), HEADER_FIELDS));
    println!("{}", text("frame-link", &link(), LINK_FIELDS));
    println!("{}", text("frame-append", &append(), APPEND_FIELDS));
    println!("{}", text("frame-changes", &changes(), CHANGES_FIELDS));
    println!("{}", text("frame-prefix", &prefix(), PREFIX_FIELDS));
    println!("{}", text("frame-kept", &run::kept(), KEPT_FIELDS));
    println!("{}", text("frame-kept-prefix", &run::kept_prefix(), KEPT_PREFIX_FIELDS));
    for (label, bytes) in parts(&footer) {
        let fields = match label {
            "footer-directory" => DIRECTORY_FIELDS.to_owned(),
            "footer-filter" => filter_fields(bytes),
            "footer-blocks" => BLOCK_FIELDS.to_owned(),
            "footer-prefixes" => PREFIXES_FIELDS.to_owned(),
            _ => TRAILER_FIELDS.to_owned(),
        };
        println!("{}", text(label, bytes, &fields));
    }
    println!("{}", text("run-prefixes", parts(&run::footer())[3].1, RUN_PREFIXES_FIELDS));
    println!("{}", text("manifest", &manifest(check).encode(), MANIFEST_FIELDS));
    for (salt, position) in [(0, 0), (SALT, 0), (SALT, APPEND_AT), (SALT, CAPACITY - 320)] {
        println!("mask({salt:016x}, {position}) = {:08x}", mask(salt, position));
    }
    println!("hash(acme/t-7) = {:016x}", hash("acme/t-7"));
}

/// A filter page, cut into the groups that are in use and the zeros between them.
fn filter_fields(page: &[u8]) -> String {
    let mut fields = "4 check\n28 zero\n".to_owned();
    let mut blank = 0;
    for group in page[32..].chunks(32).chain([&[1][..]]) {
        if group.iter().all(|byte| *byte == 0) {
            blank += 32;
            continue;
        }
        if blank > 0 {
            writeln!(fields, "{blank} groups not in use").unwrap();
        }
        if group.len() == 32 {
            fields.push_str("32 a group of eight words\n");
        }
        blank = 0;
    }
    fields
}

#[test]
fn the_segment_header_is_as_documented() {
    let bytes = example("segment-header");
    assert_eq!(Header::decode(&bytes), Ok(header()));
    assert_eq!(header().encode()[..], bytes);
    let mut other = bytes;
    other[8] = 1;
    other[12..16].fill(0);
    let check = crc(&other) ^ mask(SALT, 0);
    other[12..16].copy_from_slice(&check.to_le_bytes());
    assert_eq!(Header::decode(&other), Err(HeaderFault::Version(1)));
}

#[test]
fn the_frames_are_as_documented() {
    let (bytes, frame) = check_frame("frame-link", LOG, LINK_AT);
    assert_eq!(bytes, link());
    assert_eq!(frame.link, Some(Link { id: 1, end: 1_010_000 }));
    assert_eq!((frame.lsn, frame.header_len, frame.body_len), (1_052_800, 88, 0));
    assert_eq!((frame.digest, frame.records, frame.agents), (0, 0, 0));

    let (bytes, frame) = check_frame("frame-append", LOG, APPEND_AT);
    assert_eq!(bytes, append());
    assert_eq!((frame.lsn, frame.durable, frame.time), (1_052_888, 1_000_000, TIME));
    assert_eq!((frame.header_len, frame.body_len), (112, 40));
    let agents = frame::agents(&frame, &bytes).unwrap();
    assert_eq!(agents, [FrameAgent { name: "acme/t-7", head: ABSENT }]);
    assert_eq!(records(&bytes[112..]).collect::<Vec<_>>(), [(0, first_entry())]);

    let (bytes, frame) = check_frame("frame-changes", LOG, CHANGES_AT);
    assert_eq!(bytes, changes());
    assert_eq!((frame.lsn, frame.header_len, frame.body_len), (1_053_040, 152, 232));
    let starts: Vec<usize> = records(&bytes[152..]).map(|(at, _)| at + 152 + 368).collect();
    assert_eq!(starts, [520, 568, 608, 632, 656, 680, 720, 736]);

    let (bytes, frame) = check_frame("frame-prefix", LOG, PREFIX_AT);
    assert_eq!(bytes, prefix());
    assert_eq!(frame.lsn + bytes.len() as u64, BASE + DATA_END);
    // One behind the other, without a gap.
    let lengths = ["frame-link", "frame-append", "frame-changes", "frame-prefix"]
        .map(|label| example(label).len() as u64);
    let ends = [APPEND_AT, CHANGES_AT, PREFIX_AT, DATA_END];
    let mut at = LINK_AT;
    for (len, end) in lengths.into_iter().zip(ends) {
        at += len;
        assert_eq!(at, end);
    }
}

#[test]
fn the_footer_is_as_documented() {
    let made = footer();
    let mut bytes = Vec::new();
    for (label, part) in parts(&made) {
        let documented = example(label);
        assert_eq!(documented, part, "{label}");
        bytes.extend_from_slice(&documented);
    }
    let tail = &bytes[bytes.len() - TRAILER_LEN..];
    let trailer = Trailer::read(tail, CAPACITY).unwrap();
    assert_eq!(trailer, made.trailer);
    assert_eq!(trailer.footer_at, 1_036_288);
    assert_eq!((trailer.facts.record_bytes, trailer.state_bytes), (304, 40));
    assert_eq!(trailer.footer_at + bytes.len() as u64, CAPACITY);
    let touched = Touched::new(bytes.len(), GRANULE);
    let footer = FooterRef::new(&trailer, &bytes, &touched).unwrap();
    footer.check_filter().unwrap();
    for name in ["acme/t-7", "acme/t-8"] {
        assert!(footer.may_contain(hash(name)).unwrap());
    }
    assert_eq!(footer.may_contain(hash("acme/t-9")), Ok(false));
    let (at, block) = footer.find("acme/t-7").unwrap().unwrap();
    assert_eq!((at, block.first_seq(), block.count(), block.bytes()), (1_044_480, 1, 2, 9));
    assert_eq!((block.offset(0), block.offset(1)), (Some(328 / 8), Some(520 / 8)));
    let head = Head { life: 1_052_888, next: 3, floor: 2, flags: 15 };
    assert_eq!((block.head(), block.max_at()), (head, Some(TIME + 5)));
    assert_eq!(block.redacted().collect::<Vec<_>>(), [1]);
    assert_eq!(block.policy(), Some(Some(Retention::new().max_entries(100))));
    let states: Vec<_> = block.states().all().map(|state| state.unwrap()).collect();
    assert_eq!((states[0].key, states[0].offset, states[0].len), ("goal", 568 / 8, 40));
    assert_eq!((states[1].key, states[1].offset, states[1].len), ("old", 0, 0));
    let (_, tombstone) = footer.find("acme/t-8").unwrap().unwrap();
    assert_eq!(tombstone.head(), ABSENT);
    let prefixes: Vec<_> = footer.prefixes().unwrap().map(|line| line.unwrap()).collect();
    assert_eq!(prefixes, [(1_053_424, "acme/old/")]);
}

#[test]
fn the_manifest_is_as_documented() {
    let bytes = example("manifest");
    let trailer = example("footer-trailer");
    let check = u32::from_le_bytes(*trailer[12..].first_chunk().unwrap());
    let decoded = Manifest::decode(&bytes).unwrap();
    assert_eq!(decoded, manifest(check));
    assert_eq!(decoded.encode(), bytes);
    let mut other = bytes;
    other[8] = 1;
    assert_eq!(Manifest::decode(&other), Err(ManifestFault::Version(1)));
}

/// The checks, by the definitions in the document and not by the code that they define.
#[test]
fn the_checks_are_as_documented() {
    fn slow_crc(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
            }
        }
        !crc
    }
    let le = |bytes: &[u8]| u32::from_le_bytes(*bytes.first_chunk().unwrap());
    assert_eq!((slow_crc(b"123456789"), crc(b"123456789")), (0xCBF4_3926, 0xCBF4_3926));

    let header = example("segment-header");
    let mut blank = header.clone();
    blank[12..16].fill(0);
    assert_eq!(le(&header[12..]), slow_crc(&blank) ^ mask(SALT, 0));

    let frame = example("frame-append");
    assert_eq!(le(&frame), slow_crc(&frame[4..112]) ^ mask(SALT, APPEND_AT));
    let plain = slow_crc(&frame[116..152]);
    assert_eq!(le(&frame[112..]), plain ^ mask(SALT, 328));
    let digest = slow_crc(&[[0; 4], plain.to_le_bytes()].concat());
    assert_eq!(le(&frame[44..]), digest);

    let page = example("footer-directory");
    assert_eq!((page.len(), le(&page)), (PAGE, slow_crc(&page[4..]) ^ mask(SALT, 1_036_288)));
    let trailer = example("footer-trailer");
    let covered = [&trailer[..12], &trailer[16..]].concat();
    assert_eq!(le(&trailer[12..]), slow_crc(&covered) ^ mask(SALT, CAPACITY - 320));

    let manifest = example("manifest");
    assert_eq!(le(&manifest[12..]), slow_crc(&manifest[16..]));

    for (salt, position) in [(0, 0), (SALT, 0), (SALT, APPEND_AT), (SALT, CAPACITY - 320)] {
        let line = format!("mask({salt:016x}, {position}) = {:08x}", mask(salt, position));
        assert!(DOCUMENT.contains(&line), "the document lacks {line}");
    }
    let line = format!("hash(acme/t-7) = {:016x}", hash("acme/t-7"));
    assert!(DOCUMENT.contains(&line), "the document lacks {line}");
    assert!(DOCUMENT.contains(&format!("The format version is {VERSION}.")));
}

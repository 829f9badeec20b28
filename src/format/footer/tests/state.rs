//! State pages: random keys against a map, and what hostile bytes do.

use super::*;

/// Keys and what changed: revision, offset, len.
type Changes = BTreeMap<String, (u64, u32, u32)>;

fn changes(random: &mut Random, count: u64, longest: usize) -> Changes {
    let change = |random: &mut Random| {
        let (offset, len) = match random.below(4) {
            0 => (0, 0),
            _ => (random.small().max(1), 8 * (1 + random.small() % 500)),
        };
        let key = match random.below(50) {
            0 => "k".repeat(random.size(longest as u64) + 1),
            _ => format!("{}{}", random.text(24), random.below(1 << 40)),
        };
        (key, (random.below(LIMIT), offset, len))
    };
    (0..count).map(|_| change(random)).collect()
}

fn build(changes: &Changes) -> Footer {
    let state = BTreeMap::clone(changes);
    let agent = Agent { head: Head { life: 1, ..Head::absent() }, state, ..Agent::default() };
    let agents = BTreeMap::from([("a".to_owned(), agent)]);
    build_tight(&Model { agents, ..Model::default() }, &mut Random(1))
}

fn wanted<'a>((key, change): (&'a String, &(u64, u32, u32))) -> StateChange<'a> {
    let (revision, offset, len) = *change;
    StateChange { key, tag: 0, revision, offset, len }
}

#[test]
fn every_key_is_found_and_no_other() {
    let mut random = Random(21);
    for (count, longest) in [(1, 9), (2, 65_535), (90, 20), (3000, 1024), (700, 65_535), (9000, 9)]
    {
        let changes = changes(&mut random, count, longest);
        let footer = build(&changes);
        let touched = touched(&footer);
        let reading = FooterRef::new(&footer.trailer, &footer.bytes, &touched).unwrap();
        let pages = reading.find("a").unwrap().unwrap().1.states();
        pages.check(&mut || true).unwrap();
        assert!(pages.all().map(Result::unwrap).eq(changes.iter().map(wanted)));
        for change in &changes {
            assert_eq!(pages.find(change.0, u64::MAX), Ok(Some(wanted(change))));
        }
        for _ in 0..2000 {
            let absent = random.text(60);
            let above = changes.range(absent.clone()..).next();
            assert_eq!(pages.get(pages.seek(&absent).unwrap()), Ok(above.map(wanted)));
            let found = above.filter(|(key, _)| **key == absent);
            assert_eq!(pages.find(&absent, 0), Ok(found.map(wanted)));
        }
        let mut at = pages.end();
        for change in changes.iter().rev() {
            at = pages.before(at).unwrap().unwrap();
            assert_eq!(pages.get(at), Ok(Some(wanted(change))));
        }
        assert_eq!(pages.before(at), Ok(None));
        assert_eq!(pages.seek("\u{10FFFF}"), Ok(pages.end()));
    }
}

/// Of very many keys a look-up verifies one page a level.
#[test]
fn a_look_up_touches_a_page_a_level() {
    let change = |i: u64| (format!("key/{i:08}"), (i, 1, 8));
    let changes: Changes = (0..100_000).map(change).collect();
    let footer = build(&changes);
    for key in ["key/00000000", "key/00050000", "key/00099999", "key/x", ""] {
        let touched = touched(&footer);
        let reading = FooterRef::new(&footer.trailer, &footer.bytes, &touched).unwrap();
        let pages = reading.find("a").unwrap().unwrap().1.states();
        let count =
            || (0..footer.bytes.len()).step_by(GRANULE).filter(|at| touched.test(*at)).count();
        let before = count();
        let found = pages.find(key, 0).unwrap();
        assert_eq!(found.map(|found| found.key), changes.get_key_value(key).map(|(key, _)| &**key));
        assert!(count() - before <= 3, "{} pages for {key:?}", count() - before);
    }
}

#[test]
fn pages_stay_short() {
    let mut random = Random(22);
    for longest in [9, 1024, 65_535] {
        let footer = build(&changes(&mut random, 2000, longest));
        let touched = touched(&footer);
        let reading = FooterRef::new(&footer.trailer, &footer.bytes, &touched).unwrap();
        let block = reading.find("a").unwrap().unwrap().1;
        let (at, facts) = block.pages_at();
        let start = usize::try_from(at - footer.trailer.footer_at).unwrap();
        let pages = &footer.bytes[start..start + usize::try_from(facts.len).unwrap()];
        let mut at = 0;
        while at < pages.len() {
            let len = u32::from_le_bytes(*pages[at + 4..].first_chunk().unwrap()) as usize;
            let count = usize::from(u16::from_le_bytes(*pages[at + 12..].first_chunk().unwrap()));
            let level = u16::from_le_bytes(*pages[at + 14..].first_chunk().unwrap());
            let alone = if level == 0 { 1 } else { 4 };
            assert!(len <= 4096 || count <= alone, "{count} items in {len} bytes");
            at += len;
            let next = pages.get(at + 14..).map(|next| next[0]);
            let is_last = next.is_none_or(|next| u16::from(next) != level);
            assert!(level == 0 || count >= 4 || is_last, "{count} children");
        }
    }
}

#[test]
fn keys_out_of_order_are_refused() {
    let change = |key| StateChange { key, revision: 1, ..StateChange::default() };
    assert!(PagesBuilder::of([change("b"), change("a")]).is_err());
    assert!(PagesBuilder::of([change("a"), change("a")]).is_err());
    assert!(PagesBuilder::of([StateChange { revision: LIMIT + 1, ..change("a") }]).is_err());
    assert_eq!(PagesBuilder::of([]), Ok(None));
}

/// With all checks taken for verified whatever the pages say is survived, in bounded time.
#[test]
fn hostile_pages_do_no_harm() {
    let mut random = Random(23);
    let changes = changes(&mut random, 2000, 300);
    let footer = build(&changes);
    let touched = touched(&footer);
    (0..footer.bytes.len()).step_by(GRANULE).for_each(|at| touched.set(at));
    let start = usize::try_from(footer.trailer.blocks_at - footer.trailer.footer_at).unwrap();
    let end = usize::try_from(footer.trailer.prefixes_at - footer.trailer.footer_at).unwrap();
    for _ in 0..400 {
        let mut bytes = footer.bytes.clone();
        for _ in 0..=random.size(4) {
            let place = start + random.size((end - start) as u64 / 8) * 8 + random.size(8);
            bytes[place] = [0, 1, 0x7F, 0xFF, random.next().to_le_bytes()[0]][random.size(5)];
        }
        let reading = FooterRef::new(&footer.trailer, &bytes, &touched).unwrap();
        let Ok(Some((_, block))) = reading.find("a") else { continue };
        let pages = block.states();
        let steps = pages.all().take(1 << 20).count();
        assert!(steps <= bytes.len(), "a walk goes round");
        let (mut at, mut back) = (pages.end(), 0);
        while let Ok(Some(before)) = pages.before(at) {
            (at, back) = (before, back + 1);
            assert!(back <= bytes.len(), "a walk back goes round");
        }
        for key in changes.keys().step_by(97) {
            let _ = (pages.find(key, 0), pages.seek(key));
        }
        let _ = pages.check(&mut || true);
    }
}

#[test]
fn what_is_only_drawn_is_refused() {
    let footer = build(&Changes::from([("key".to_owned(), (7, 9, 8))]));
    let touched = touched(&footer);
    (0..footer.bytes.len()).step_by(GRANULE).for_each(|at| touched.set(at));
    let block = usize::try_from(footer.trailer.blocks_at - footer.trailer.footer_at).unwrap();
    let page = {
        let reading = FooterRef::new(&footer.trailer, &footer.bytes, &touched).unwrap();
        let at = reading.find("a").unwrap().unwrap().1.pages_at().0;
        usize::try_from(at - footer.trailer.footer_at).unwrap()
    };
    let reads = |at: usize, value: u8| {
        let mut bytes = footer.bytes.clone();
        bytes[at] |= value;
        let reading = FooterRef::new(&footer.trailer, &bytes, &touched).unwrap();
        let found = reading.find("a")?;
        found.unwrap().1.states().all().try_for_each(|change| change.map(drop))
    };
    assert!(reads(block + 45, 0).is_ok());
    for flag in [0x20, 0x40, 0x80] {
        assert!(reads(block + 45, flag).is_err(), "flag {flag:x} of a block");
    }
    assert!(reads(page + 24 + 8, 1).is_err(), "a tag");
    assert!(reads(page + 8, 8).is_ok(), "only a walk back asks what lies before");
    assert!(reads(page + 14, 1).is_err(), "a level");
}

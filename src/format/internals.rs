//! The decoders for the fuzz targets of `fuzz/`, and for nobody else: behind a feature that is off
//! by default and exempt from semantic versioning.
//!
//! Each function decodes all that there is to decode in some bytes and says whether they were
//! accepted. What is accepted is encoded again, and must read back as the same.

use super::Fault;
use super::footer::{
    self, Builder, FooterRef, Pages, PagesBuilder, StateChange, Summary, TRAILER_LEN, Trailer,
};
use super::frame::{self, FrameHeader, HeaderBuilder, Place};
use super::header::Header;
use super::manifest::Manifest;
use super::record;
use super::touched::Touched;

/// Decodes the frame that `bytes` begin with, at `offset` of the segment with `salt` and `base`.
/// Gives its length if it is whole.
///
/// # Panics
/// If what was decoded does not read back once it is encoded.
#[must_use]
pub fn frame(bytes: &[u8], salt: u64, base: u64, offset: u64) -> Option<usize> {
    let header = frame::decode_header(bytes, salt, base, offset).ok()?;
    let agents = frame::agents(&header, bytes).ok()?;
    let body = bytes.get(header.header_len..header.len())?;
    let body_offset = offset.checked_add(header.header_len as u64)?;
    frame::verify_body(&header, body, salt, body_offset).ok()?;
    let mut builder = HeaderBuilder::start(Vec::new(), header.link);
    for agent in &agents {
        let at = builder.add_agent(agent.name);
        builder.set_head(at, &agent.head);
    }
    let mut again = Vec::new();
    let (mut at, mut digest) = (0, 0);
    let mut records = Vec::new();
    while at < body.len() {
        let len = record::padded_len(body, at).ok()?;
        let record = record::decode(body.get(at..at + len)?).ok()?;
        digest = frame::fold(digest, record::encode(&mut again, record.agent, &record.change));
        records.push(record);
        at += len;
    }
    builder.set_durability(header.durability);
    let mut head = builder.finish(again.len(), digest, header.records);
    let FrameHeader { lsn, durable, time, era, .. } = header;
    let place = Place { salt, offset, lsn, durable, time, era };
    assert!(frame::seal(&mut head, &mut again, &place).is_ok(), "what was read can be written");
    head.extend_from_slice(&again);
    let same = frame::decode_header(&head, salt, base, offset).is_ok_and(|back| {
        let body = head.get(back.header_len..).unwrap_or_default();
        let body_offset = offset.saturating_add(back.header_len as u64);
        frame::verify_body(&back, body, salt, body_offset).is_ok()
            && frame::agents(&back, &head).as_ref() == Ok(&agents)
            && back.link == header.link
            && (back.durability, back.era) == (header.durability, header.era)
            && read_back(body, &records)
    });
    assert!(same, "a frame reads back as another one");
    Some(header.len())
}

fn read_back(body: &[u8], records: &[record::Record<'_>]) -> bool {
    let mut at = 0;
    for wanted in records {
        let Ok(len) = record::padded_len(body, at) else { return false };
        let found = body.get(at..at + len).map(record::decode);
        // A prefix has no agent, whatever the bytes say.
        if !matches!(found, Some(Ok(found)) if found.change == wanted.change) {
            return false;
        }
        at += len;
    }
    at == body.len()
}

/// Decodes a segment's header.
///
/// # Panics
/// If what was decoded does not read back once it is encoded.
#[must_use]
pub fn header(bytes: &[u8]) -> bool {
    let Ok(header) = Header::decode(bytes) else { return false };
    assert!(bytes.starts_with(&header.encode()), "a header has one form only");
    true
}

/// Decodes the footer that ends a file of that length, of which `bytes` are the end, and looks up
/// each of its agents in every way. False if anything of it was refused.
///
/// # Panics
/// If two ways of looking something up disagree, or the same footer cannot be written.
#[must_use]
pub fn footer(bytes: &[u8], file_len: u64) -> bool {
    let tail = bytes.len().saturating_sub(TRAILER_LEN);
    let Ok(trailer) = Trailer::read(bytes.get(tail..).unwrap_or_default(), file_len) else {
        return false;
    };
    let Ok(len) = usize::try_from(trailer.footer_len()) else { return false };
    let Some(bytes) = bytes.len().checked_sub(len).and_then(|start| bytes.get(start..)) else {
        return false;
    };
    let touched = Touched::new(bytes.len(), footer::GRANULE);
    let Ok(footer) = FooterRef::new(&trailer, bytes, &touched) else { return false };
    walk(&footer).is_ok()
}

/// Walks a footer forwards and backwards, and builds it again.
fn walk(footer: &FooterRef<'_>) -> Result<(), Fault> {
    let trailer = footer.trailer();
    footer.check_directory()?;
    footer.check_filter()?;
    let fences = footer.fences()?;
    let mut builder = Builder::new(trailer.facts);
    if let Some((from, to)) = footer.bounds()? {
        builder.set_bounds(from, to)?;
    }
    let (mut position, mut forwards) = (footer.first(), 0u64);
    let mut rebuilt = Ok(());
    while let Some((name, at)) = footer.entry(position)? {
        let block = footer.block_at(at)?;
        if block.name() != name {
            return Err(Fault("the directory leads to the block of another agent"));
        }
        // Pages that are intact by their checks may still lead elsewhere; but no way of looking a
        // name up gives another agent's block.
        for found in [footer.find(name), footer.find_behind(&fences, name, &|_near| {})] {
            assert!(found.ok().flatten().is_none_or(|(_, b)| b.name() == name), "another agent");
        }
        let _ = footer.seek(name)?;
        let offsets: Vec<u32> = (0..block.count()).filter_map(|i| block.offset(i)).collect();
        assert_eq!(offsets.len(), block.count() as usize, "an offset for each entry");
        let state = states(&block.states())?;
        let redacted: Vec<u64> = block.redacted().collect();
        let at = block.max_at().unwrap_or(0);
        let _ = (block.first_at_or_after(at), block.first_at_or_after(u64::MAX));
        let groups: Vec<_> = (0..block.groups()).map_while(|group| block.group(group)).collect();
        let state = PagesBuilder::of(state);
        let summary = Summary {
            name,
            head: block.head(),
            first_seq: block.first_seq(),
            offsets: &offsets,
            groups: &groups,
            state: state.as_ref().ok().and_then(Option::as_ref),
            redacted: &redacted,
            policy: block.policy(),
        };
        // A footer of sound checks and senseless content is told by the builder.
        rebuilt = rebuilt.and_then(|()| builder.add(&summary, forwards));
        (position, forwards) = (footer.next(position)?, forwards.saturating_add(1));
    }
    for line in footer.prefixes()? {
        let (lsn, prefix) = line?;
        rebuilt = rebuilt.and_then(|()| builder.add_prefix(lsn, prefix));
    }
    let mut backwards = 0u64;
    while let Some(before) = footer.previous(position)? {
        (position, backwards) = (before, backwards.saturating_add(1));
    }
    assert_eq!(forwards, backwards, "as many agents backwards as forwards");
    let again = rebuilt.and_then(|()| builder.finish(trailer.file_len))?;
    let start = again.bytes.len().saturating_sub(TRAILER_LEN);
    let tail = again.bytes.get(start..).unwrap_or_default();
    assert_eq!(Trailer::read(tail, trailer.file_len), Ok(again.trailer), "it can be read again");
    Ok(())
}

/// Walks state pages forwards and backwards, and looks up each of their keys.
fn states<'a>(pages: &Pages<'a>) -> Result<Vec<StateChange<'a>>, Fault> {
    let state: Vec<_> = pages.all().collect::<Result<_, _>>()?;
    for change in &state {
        // In pages that are intact by their checks and out of order it may be missed, but no other
        // key is given for it.
        let found = pages.find(change.key, u64::MAX).ok().flatten();
        assert!(found.is_none_or(|found| found.key == change.key), "another key");
        let _ = pages.seek(change.key)?;
    }
    let (mut back, mut backwards) = (pages.end(), 0_usize);
    while let Some(before) = pages.before(back)? {
        (back, backwards) = (before, backwards.saturating_add(1));
        assert!(backwards <= state.len(), "as many keys backwards as forwards");
    }
    let _ = pages.check(&mut || true);
    Ok(state)
}

/// Decodes a manifest.
///
/// # Panics
/// If what was decoded does not read back once it is encoded.
#[must_use]
pub fn manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Manifest::decode(bytes) else { return false };
    assert_eq!(Manifest::decode(&manifest.encode()).as_ref(), Ok(&manifest), "it reads back");
    true
}

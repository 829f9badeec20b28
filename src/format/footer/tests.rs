//! Random footers: what goes in comes out, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};

use super::super::touched::Touched;
use super::*;
use crate::format::LIMIT;
use crate::format::head::Head;
use crate::types::Retention;

mod rules;
mod state;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn size(&mut self, n: u64) -> usize {
        usize::try_from(self.below(n)).unwrap()
    }

    fn small(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).unwrap()
    }

    fn text(&mut self, longest: usize) -> String {
        let wanted = if self.below(4) == 0 { longest } else { 1 + self.size(24) };
        let wanted = wanted.min(1 + self.size(longest as u64));
        let mut text = String::new();
        while text.len() < wanted {
            text.push(['a', 'b', '/', '0', 'z', '_', 'é', '火'][self.size(8)]);
        }
        while text.len() > longest {
            text.pop();
        }
        if text.is_empty() { "a".to_owned() } else { text }
    }
}

#[derive(Debug, Default)]
struct Agent {
    head: Head,
    first_seq: u64,
    offsets: Vec<u32>,
    groups: Vec<Group>,
    state: BTreeMap<String, (u64, u32, u32)>,
    redacted: BTreeSet<u64>,
    policy: Option<Option<Retention>>,
}

impl Agent {
    fn bytes(&self) -> u64 {
        self.groups.last().map_or(0, |all| all.bytes)
    }
}

#[derive(Debug, Default)]
struct Model {
    agents: BTreeMap<String, Agent>,
    prefixes: Vec<(u64, String)>,
    bounds: Option<(String, Option<String>)>,
}

fn hash(name: &str) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    Random(name.as_bytes().iter().fold(0xCBF2_9CE4_8422_2325, step)).next()
}

fn agent(random: &mut Random, busy: u64) -> Agent {
    if random.below(10) == 0 {
        return Agent { head: Head::absent(), ..Agent::default() };
    }
    let next = 1 + random.below(LIMIT);
    let mut agent = Agent {
        head: Head {
            life: 1 + random.below(99),
            next,
            floor: 1 + random.below(next),
            flags: u16::try_from(random.below(16)).unwrap(),
        },
        first_seq: random.below(1 << 40),
        ..Agent::default()
    };
    let expires = random.below(3) == 0;
    let (mut last, first) = (Group { max_at: random.below(1000), ..NOTHING }, random.below(40));
    for i in 0..random.size(busy) {
        agent.offsets.push(random.small());
        let place = i % GROUP;
        if place == 0 {
            (last.joined, last.soonest) = (0, NEVER);
        }
        last.max_at += random.below(3);
        last.bytes += random.below(1 << (10 + first % 12));
        last.weight += random.below(1 << 32);
        last.unweighted += u32::try_from(random.below(2)).unwrap();
        last.joined |= u32::try_from(random.below(2)).unwrap() << place;
        if expires && random.below(40) == 0 {
            last.soonest = last.soonest.min(random.below(1 << 41));
        }
        match agent.groups.last_mut() {
            Some(group) if place != 0 => *group = last,
            _ => agent.groups.push(last),
        }
    }
    for _ in 0..random.below(2 + busy / 4) {
        let longest = if random.below(20) == 0 { 3000 } else { 60 };
        let (offset, len) = match random.below(4) {
            0 => (0, 0),
            _ => (random.small().max(1), 8 * (1 + random.small() % 500)),
        };
        agent.state.insert(random.text(longest), (random.below(LIMIT), offset, len));
    }
    agent.redacted = (0..random.below(1 + busy / 8)).map(|_| random.below(500)).collect();
    let mut limit = || (random.below(2) == 0).then(|| random.below(1 << 50));
    let limits = Retention { max_entries: limit(), max_bytes: limit(), max_age: limit() };
    agent.policy = [None, None, Some(None), Some(Some(limits))][random.size(4)];
    agent
}

const NOTHING: Group =
    Group { max_at: 0, bytes: 0, weight: 0, unweighted: 0, joined: 0, soonest: NEVER };

fn model(random: &mut Random, agents: u64, busy: u64, longest: usize) -> Model {
    let mut model = Model::default();
    for _ in 0..agents {
        model.agents.insert(random.text(longest), agent(random, busy));
    }
    for lsn in 0..random.below(5) {
        model.prefixes.push((lsn * 8, random.text(longest)));
    }
    model.bounds = bounds(random, &model.agents);
    model
}

/// Bounds that the agents are within, tight or not; or none.
fn bounds(
    random: &mut Random,
    agents: &BTreeMap<String, Agent>,
) -> Option<(String, Option<String>)> {
    let from = agents.keys().next().cloned().filter(|_| random.below(2) == 0);
    let above = agents.keys().next_back().filter(|_| random.below(2) == 0);
    let to = above.map(|last| format!("{last}!")).filter(|to| to.len() <= MAX_NAME);
    (random.below(3) > 0).then(|| (from.unwrap_or_default(), to))
}

fn bound(model: &Model) -> Bound {
    let mut bound = Bound::new();
    for (name, agent) in &model.agents {
        bound.add_agent(name.len());
        agent.offsets.iter().for_each(|_| bound.add_entry());
        agent.state.keys().for_each(|key| bound.add_state(key.len()));
        agent.redacted.iter().for_each(|_| bound.add_redaction());
        if agent.policy.is_some() {
            bound.add_policy();
        }
    }
    model.prefixes.iter().for_each(|(_, prefix)| bound.add_prefix(prefix.len()));
    if let Some((from, to)) = &model.bounds {
        bound.add_bounds(from.len(), to.as_ref().map_or(0, String::len));
    }
    bound
}

fn state_bytes(model: &Model) -> u64 {
    let changes = model.agents.values().flat_map(|agent| agent.state.values());
    changes.map(|&(_, _, len)| u64::from(len)).sum()
}

fn add(builder: &mut Builder, name: &str, agent: &Agent) -> Result<(), Fault> {
    let change = |(key, &(revision, offset, len))| StateChange {
        key: String::as_str(key),
        tag: 0,
        revision,
        offset,
        len,
    };
    let state = PagesBuilder::of(agent.state.iter().map(change))?;
    let summary = Summary {
        name,
        head: agent.head,
        first_seq: agent.first_seq,
        offsets: &agent.offsets,
        groups: &agent.groups,
        state: state.as_ref(),
        redacted: &agent.redacted.iter().copied().collect::<Vec<_>>(),
        policy: agent.policy,
    };
    builder.add(&summary, hash(name))
}

/// The facts of a segment in which there is room for the records of so many bytes.
fn facts(random: &mut Random, state_bytes: u64) -> SegmentFacts {
    let record_bytes = state_bytes + 8 * random.below(10_000);
    SegmentFacts {
        store: u128::from(random.next()) << 64 | u128::from(random.next()),
        segment: random.below(LIMIT),
        salt: random.next(),
        first_lsn: random.below(LIMIT),
        data_end: record_bytes + 8 * random.below(10_000),
        generation: random.below(5),
        lowest_lsn: random.below(LIMIT),
        highest_lsn: random.below(LIMIT),
        max_at: random.below(2),
        record_bytes,
        cleaned: random.below(LIMIT),
        hidden: random.below(MAX_FILE + 1),
    }
}

fn build(model: &Model, facts: SegmentFacts, file_len: u64) -> Result<Footer, Fault> {
    let mut builder = Builder::new(facts);
    for (name, agent) in &model.agents {
        add(&mut builder, name, agent)?;
    }
    for (lsn, prefix) in &model.prefixes {
        builder.add_prefix(*lsn, prefix)?;
    }
    if let Some((from, to)) = &model.bounds {
        builder.set_bounds(from, to.as_deref())?;
    }
    builder.finish(file_len)
}

/// Builds in a file just as long as the bound allows.
fn build_tight(model: &Model, random: &mut Random) -> Footer {
    let facts = facts(random, state_bytes(model));
    let file_len = (facts.data_end + bound(model).bytes()).next_multiple_of(8);
    let footer = build(model, facts, file_len).expect("the bound is one");
    assert!(footer.trailer.footer_at >= facts.data_end);
    assert_eq!(footer.trailer.footer_at + footer.bytes.len() as u64, file_len);
    footer
}

fn touched(footer: &Footer) -> Touched {
    Touched::new(footer.bytes.len(), GRANULE)
}

/// Compares everything that a footer tells with the model.
fn compare(footer: &Footer, model: &Model, random: &mut Random) {
    let (file_len, tail) = (footer.trailer.file_len, footer.bytes.len() - TRAILER_LEN);
    let trailer = Trailer::read(&footer.bytes[tail..], file_len).unwrap();
    assert_eq!(trailer, footer.trailer);
    assert_eq!(trailer.agents, model.agents.len() as u64);
    assert_eq!(trailer.entries, model.agents.values().map(|a| a.offsets.len() as u64).sum::<u64>());
    assert_eq!(trailer.bytes, model.agents.values().map(Agent::bytes).sum::<u64>());
    let weights = model.agents.values().map(|a| a.groups.last().map_or(0, |all| all.weight));
    assert_eq!(trailer.weight, weights.sum::<u64>());
    let soonest = model.agents.values().flat_map(|a| &a.groups).map(|group| group.soonest);
    assert_eq!(trailer.soonest, soonest.min().unwrap_or(NEVER));
    assert_eq!(trailer.state_bytes, state_bytes(model));
    let highest = model.agents.values().filter_map(|a| a.groups.last()).map(|all| all.max_at).max();
    assert_eq!(trailer.facts.max_at, highest.unwrap_or_default().max(footer.trailer.facts.max_at));

    let mut file = vec![0; usize::try_from(trailer.footer_at).unwrap()];
    file.extend_from_slice(&footer.bytes);
    let touched = touched(footer);
    let footer = FooterRef::new(&trailer, &footer.bytes, &touched).unwrap();
    let mut position = footer.first();
    let mut reached = vec![];
    for (name, agent) in &model.agents {
        let (_, block) = footer.find(name).unwrap().expect("it is there");
        same(&block, name, agent, &file, random);
        assert!(footer.may_contain(hash(name)).unwrap());
        let (found, at) = footer.entry(position).unwrap().unwrap();
        assert_eq!(found, name);
        assert_eq!(footer.block_at(at).unwrap().offsets_at(), block.offsets_at());
        assert_eq!(footer.seek(name).unwrap(), position);
        reached.push(position);
        position = footer.next(position).unwrap();
    }
    assert_eq!(position, footer.end());
    assert_eq!(footer.next(position).unwrap(), position);
    assert_eq!(footer.entry(position).unwrap(), None);
    for &before in reached.iter().rev() {
        position = footer.previous(position).unwrap().unwrap();
        assert_eq!(position, before);
    }
    assert_eq!(footer.previous(position).unwrap(), None);

    for _ in 0..300 {
        let absent = random.text(MAX_NAME);
        let above = model.agents.range(absent.clone()..).next().map(|(name, _)| name.as_str());
        let found = footer.entry(footer.seek(&absent).unwrap()).unwrap().map(|(name, _)| name);
        assert_eq!(found, above);
        assert_eq!(footer.find(&absent).unwrap().is_some(), above == Some(absent.as_str()));
    }
    assert_eq!(footer.seek("\u{10FFFF}").unwrap(), footer.end());
    let prefixes: Vec<_> =
        footer.prefixes().unwrap().map(|p| p.map(|(l, p)| (l, p.to_owned())).unwrap()).collect();
    assert_eq!(prefixes, model.prefixes);
    let bounds = model.bounds.as_ref().map(|(from, to)| (from.as_str(), to.as_deref()));
    assert_eq!(footer.bounds(), Ok(bounds));
}

fn same(block: &Block, name: &str, agent: &Agent, file: &[u8], random: &mut Random) {
    assert_eq!((block.name(), block.head()), (name, agent.head));
    assert_eq!((block.first_seq(), block.bytes()), (agent.first_seq, agent.bytes()));
    assert_eq!(block.policy(), agent.policy);
    assert_eq!(block.count() as usize, agent.offsets.len());
    for (i, &offset) in (0..).zip(&agent.offsets) {
        assert_eq!(block.offset(i), Some(offset));
        let at = usize::try_from(block.offsets_at()).unwrap() + i as usize * 4;
        assert_eq!(u32::from_le_bytes(*file[at..].first_chunk().unwrap()), offset);
    }
    assert_eq!(block.offset(block.count()), None);
    assert_eq!(block.max_at(), agent.groups.last().map(|all| all.max_at));
    assert_eq!(block.groups(), agent.groups.len());
    for (i, group) in agent.groups.iter().enumerate() {
        assert_eq!(block.group(i), Some(*group));
        assert_eq!(block.soonest_of(i), group.soonest);
        let sums = Sums { bytes: group.bytes, weight: group.weight };
        assert_eq!(block.sums_before(i + 1), Ok(sums));
    }
    assert_eq!(block.sums_before(0), Ok(Sums::default()));
    assert_eq!(block.group(agent.groups.len()), None);
    for _ in 0..8 {
        let t = random.below(1200);
        let group = agent.groups.iter().position(|group| group.max_at >= t);
        assert_eq!(block.first_at_or_after(t).map(|group| group as usize), group);
    }
    assert!(block.redacted().eq(agent.redacted.iter().copied()));
    let pages = block.states();
    assert_eq!(pages.count() as usize, agent.state.len());
    pages.check(&mut || true).unwrap();
    for (found, (key, &(revision, offset, len))) in pages.all().zip(&agent.state) {
        let wanted = StateChange { key, tag: 0, revision, offset, len };
        assert_eq!(found, Ok(wanted));
        assert_eq!(pages.find(key, 0), Ok(Some(wanted)));
    }
}

/// Reads every byte of a footer.
fn walk(bytes: &[u8], file_len: u64, hashes: &[u64], touched: &Touched) -> Result<usize, Fault> {
    let tail = bytes.len().checked_sub(TRAILER_LEN).ok_or(Fault("too short"))?;
    let trailer = Trailer::read(&bytes[tail..], file_len)?;
    let footer = FooterRef::new(&trailer, bytes, touched)?;
    let mut steps = footer.prefixes()?.collect::<Result<Vec<_>, _>>()?.len();
    steps += usize::from(footer.bounds()?.is_some());
    for &hash in hashes {
        steps += usize::from(footer.may_contain(hash)?);
    }
    let mut position = footer.first();
    while let Some((name, at)) = footer.entry(position)? {
        let block = footer.block_at(at)?;
        footer.find(name)?;
        for state in block.states().all() {
            block.states().find(state?.key, u64::MAX)?;
        }
        block.states().check(&mut || true)?;
        let mut place = block.states().end();
        while let Some(before) = block.states().before(place)? {
            place = before;
        }
        (0..=block.groups()).try_for_each(|group| block.sums_before(group).map(drop))?;
        steps += block.redacted().count();
        position = footer.next(position)?;
        footer.previous(position)?;
    }
    Ok(steps)
}

#[test]
fn what_goes_in_comes_out() {
    let mut random = Random(1);
    for (agents, busy, longest) in
        [(0, 1, 9), (1, 100, 512), (40, 300, 40), (300, 12, 512), (4000, 3, 30), (5000, 2, 512)]
    {
        let model = model(&mut random, agents, busy, longest);
        let footer = build_tight(&model, &mut random);
        compare(&footer, &model, &mut random);
    }
}

#[test]
fn the_bound_holds_and_is_not_far_off() {
    let mut random = Random(2);
    for round in 0..400 {
        let (agents, busy) = (random.below(1 + round), 1 + random.below(80));
        let longest = if round % 3 == 0 { 512 } else { 1 + random.size(60) };
        let mut model = model(&mut random, agents, busy, longest);
        if round % 4 == 0 {
            model
                .agents
                .values_mut()
                .for_each(|agent| agent.state.retain(|key, _| key.len() <= 64));
        }
        let len = build_tight(&model, &mut random).bytes.len() as u64;
        let bound = bound(&model).bytes();
        // Where some keys are long, the tree above the leaves may be taken for twice the leaves.
        let keys = || model.agents.values().flat_map(|agent| agent.state.keys());
        let tree = if keys().all(|key| key.len() <= 64) {
            0
        } else {
            2 * keys().map(|key| 34 + key.len()).sum::<usize>()
        };
        let most = len + len / 4 + 3 * 4096 + tree as u64;
        assert!(bound >= len && bound <= most, "{len} {bound}");
    }
    // The worst names for a page: each leaves just no room for the last one that might fit.
    for name_len in [1, 2, 30, 283, 284, 330, 500, 501, 502, 511, 512] {
        for agents in [1, 7, 8, 56, 57, 2032, 2033] {
            let mut model = Model::default();
            for i in 0..agents.min(if name_len == 1 { 90 } else { 2033 }) {
                let name = format!("{i:04}{}", "x".repeat(512));
                let name = if name_len < 4 { name_at(i) } else { name[..name_len].to_owned() };
                model.agents.insert(name, agent(&mut random, 3));
            }
            build_tight(&model, &mut random);
        }
    }
}

fn name_at(i: u32) -> String {
    [i / 90, i % 90].iter().filter_map(|&c| char::from_u32(c + 33)).collect()
}

#[test]
fn a_change_of_any_byte_is_found() {
    let mut random = Random(3);
    let mut model = model(&mut random, 12, 70, 80);
    model.bounds = Some((String::new(), Some("\u{10FFFF}".into())));
    let Footer { mut bytes, trailer } = build_tight(&model, &mut random);
    let hashes: Vec<u64> = model.agents.keys().map(|name| hash(name)).collect();
    let fresh = || Touched::new(bytes.len(), GRANULE);
    walk(&bytes, trailer.file_len, &hashes, &fresh()).unwrap();
    for i in 0..bytes.len() {
        let change = 1 + u8::try_from(random.below(255)).unwrap();
        bytes[i] ^= change;
        let result = walk(&bytes, trailer.file_len, &hashes, &Touched::new(bytes.len(), GRANULE));
        assert!(result.is_err(), "byte {i} of {trailer:?}");
        bytes[i] ^= change;
    }
}

#[test]
fn truncated_or_moved_bytes_are_refused() {
    let mut random = Random(4);
    let model = model(&mut random, 5, 20, 40);
    let Footer { bytes, trailer } = build_tight(&model, &mut random);
    for len in 0..bytes.len() {
        for cut in [&bytes[..len], &bytes[bytes.len() - len..]] {
            let touched = Touched::new(bytes.len(), GRANULE);
            assert!(walk(cut, trailer.file_len, &[], &touched).is_err());
        }
    }
    let touched = Touched::new(bytes.len(), GRANULE);
    for file_len in [0, 256, trailer.file_len - 8, trailer.file_len + 4096, u64::MAX] {
        assert!(walk(&bytes, file_len, &[], &touched).is_err());
    }
    // A page that is intact, but lies where another belongs.
    let mut swapped = bytes.clone();
    let (first, rest) = swapped.split_at_mut(4096);
    first.swap_with_slice(&mut rest[..4096]);
    assert!(walk(&swapped, trailer.file_len, &[], &touched).is_err());
}

#[test]
fn verified_once_or_always() {
    let mut random = Random(7);
    let model = model(&mut random, 5, 20, 40);
    let Footer { mut bytes, trailer } = build_tight(&model, &mut random);
    let once = Touched::new(bytes.len(), GRANULE);
    let always = Touched::new(bytes.len(), GRANULE).always(true);
    let read = |bytes: &[u8], touched| walk(bytes, trailer.file_len, &[1], touched);
    assert_eq!(read(&bytes, &once), read(&bytes, &always));
    bytes[4095] ^= 1; // filler of the only directory page
    assert!(read(&bytes, &once).is_ok());
    assert!(read(&bytes, &always).is_err());
}

/// With every granule marked as verified no check protects: whatever the bytes say must be
/// survived, in bounded time.
#[test]
fn hostile_bytes_do_no_harm() {
    let mut random = Random(5);
    for _ in 0..50 {
        let model = model(&mut random, 60, 60, 512);
        let footer = build_tight(&model, &mut random);
        let hashes: Vec<u64> = model.agents.keys().map(|name| hash(name)).collect();
        let touched = touched(&footer);
        (0..footer.bytes.len()).step_by(GRANULE).for_each(|at| touched.set(at));
        for _ in 0..200 {
            let mut bytes = footer.bytes.clone();
            for _ in 0..=random.size(6) {
                let place = match random.below(3) {
                    0 => random.size(64),
                    1 => random.size((bytes.len() - TRAILER_LEN) as u64),
                    _ => random.size((bytes.len() - TRAILER_LEN) as u64 / 8) * 8 + 4,
                };
                bytes[place] = [0, 1, 0x7F, 0xFF, random.next().to_le_bytes()[0]][random.size(5)];
            }
            let _ = walk(&bytes, footer.trailer.file_len, &hashes, &touched);
        }
    }
}

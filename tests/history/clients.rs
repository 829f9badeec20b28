//! Clients that do something by chance, and note what they were answered.

use std::collections::BTreeMap;

use memlog::{Agent, Durability, Error, ErrorKind, NewEntry, Store, View};

use super::record::{Call, Change, Draft, Expect, Refusal, Seen, What};

pub(crate) const KEYS: [&str; 2] = ["goal", "plan"];
/// Agents from here on have a prefix of their own, which is forgotten now and then.
const TOGETHER: usize = 2;
const PREFIX: &str = "team/";

/// What the clients of a history share.
pub(crate) struct World<'a> {
    pub(crate) store: Store,
    pub(crate) agents: Vec<Agent>,
    /// The time, the same for all.
    pub(crate) now: &'a (dyn Fn() -> u64 + Sync),
    /// Payloads have up to so many bytes more than they need.
    pub(crate) padding: u64,
}

impl<'a> World<'a> {
    pub(crate) fn new(
        store: &Store,
        agents: usize,
        now: &'a (dyn Fn() -> u64 + Sync),
        padding: u64,
    ) -> Self {
        let name = |i| if i < TOGETHER { format!("a{i}") } else { format!("{PREFIX}a{i}") };
        let agents = (0..agents).map(|i| store.agent(&name(i)).unwrap()).collect();
        World { store: store.clone(), agents, now, padding }
    }
}

/// A client: its calls one behind the other.
pub(crate) struct Client<'w, R: FnMut(u64) -> u64> {
    world: &'w World<'w>,
    id: usize,
    /// One of the numbers below.
    random: R,
    written: u64,
    calls: Vec<Call>,
    /// Views that are kept for a while, and which call made them.
    kept: Vec<(usize, View)>,
    /// What it knows of each agent, from its last view: it may be outdated.
    known: BTreeMap<usize, Seen>,
}

impl<'w, R: FnMut(u64) -> u64> Client<'w, R> {
    pub(crate) fn new(world: &'w World<'w>, id: usize, random: R) -> Self {
        let (calls, kept, known) = (Vec::new(), Vec::new(), BTreeMap::new());
        Client { world, id, random, written: 0, calls, kept, known }
    }

    /// Makes so many calls; gives what it noted.
    pub(crate) fn run(mut self, calls: usize) -> Vec<Call> {
        for _ in 0..calls {
            match (self.random)(100) {
                0..45 => self.write(),
                45..48 => self.forget_prefix(),
                48..80 => self.read(),
                80..90 => self.keep(),
                _ => self.read_kept(),
            }
        }
        while !self.kept.is_empty() {
            self.read_kept();
        }
        self.calls
    }

    /// Looks at each agent once.
    pub(crate) fn see_all(mut self) -> Vec<Call> {
        for agent in 0..self.world.agents.len() {
            let (call, view) = self.view_of(agent);
            self.look(call, &view);
        }
        self.calls
    }

    fn some_agent(&mut self) -> usize {
        usize::try_from((self.random)(self.world.agents.len() as u64)).unwrap()
    }

    /// A number that nobody else writes.
    fn number(&mut self) -> u64 {
        self.written += 1;
        self.written << 8 | self.id as u64
    }

    fn note(&mut self, begun: u64, what: What) {
        let ended = (self.world.now)();
        self.calls.push(Call { client: self.id, begun, ended, what });
    }

    fn durability(&mut self) -> Durability {
        [Durability::Sync, Durability::Write, Durability::Buffer, Durability::Buffer]
            [usize::try_from((self.random)(4)).unwrap()]
    }

    fn draft(&mut self) -> Draft {
        let mut draft = Draft::default();
        for _ in 0..1 + (self.random)(3) / 2 {
            let agent = self.some_agent();
            let known = self.known.get(&agent).cloned().unwrap_or_default();
            let key = KEYS[usize::try_from((self.random)(2)).unwrap()];
            if (self.random)(3) == 0 {
                draft.expects.push((agent, Expect::Next(known.next.max(1))));
            }
            if (self.random)(4) == 0 {
                let found = known.state.iter().find(|(k, ..)| *k == key);
                draft.expects.push((agent, Expect::Revision(key, found.map_or(0, |f| f.1))));
            }
            for _ in 0..1 + (self.random)(2) {
                let change = match (self.random)(20) {
                    0..10 => Change::Append(self.number()),
                    10..15 => Change::Set(key, self.number()),
                    15 => Change::Unset(key),
                    16..18 => Change::Truncate((known.floor + 1 + (self.random)(3)).max(1)),
                    18 => Change::Redact(known.floor + (self.random)(3)),
                    _ => Change::Forget,
                };
                let forgets = matches!(change, Change::Forget);
                draft.changes.push((agent, change));
                if forgets && (self.random)(4) > 0 {
                    // A life that begins at once tells that the old one is over.
                    let number = self.number();
                    draft.changes.push((agent, Change::Append(number)));
                }
            }
        }
        draft
    }

    fn write(&mut self) {
        let draft = self.draft();
        let durability = self.durability();
        let mut batch = self.world.store.batch();
        for (agent, expect) in &draft.expects {
            let agent = &self.world.agents[*agent];
            match *expect {
                Expect::Next(seq) => batch.expect_next(agent, seq),
                Expect::Revision(key, 0) => batch.expect_revision(agent, key, None),
                Expect::Revision(key, lsn) => {
                    batch.expect_revision(agent, key, Some(memlog::Lsn(lsn)))
                }
            };
        }
        for (agent, change) in &draft.changes {
            let agent = &self.world.agents[*agent];
            match *change {
                Change::Append(number) => {
                    let payload = payload(number, (self.random)(self.world.padding + 1));
                    batch.append(agent, NewEntry::user(&payload))
                }
                Change::Set(key, number) => batch.set(agent, key, &payload(number, 0)),
                Change::Unset(key) => batch.unset(agent, key),
                Change::Truncate(seq) => batch.truncate_before(agent, seq),
                Change::Redact(seq) => batch.redact(agent, seq),
                Change::Forget => batch.forget(agent),
            };
        }
        batch.durability(durability);
        let submits = (self.random)(4) == 0;
        let begun = (self.world.now)();
        let outcome = if submits { batch.submit().wait() } else { batch.commit() };
        let what = match outcome {
            Ok(receipt) => {
                let agents = self.world.agents.iter().enumerate();
                let seqs = agents.map(|(i, agent)| (i, receipt.seqs(agent)));
                let seqs = seqs.filter(|(_, seqs)| !seqs.is_empty()).collect();
                What::Wrote { lsn: receipt.lsn().0, batch: draft, seqs }
            }
            Err(error) => What::Refused { batch: draft, why: refusal(&error) },
        };
        self.note(begun, what);
    }

    fn forget_prefix(&mut self) {
        let begun = (self.world.now)();
        let lsn = self.world.store.forget_prefix(PREFIX).unwrap().0;
        let agents = (TOGETHER..self.world.agents.len()).collect();
        self.note(begun, What::ForgotPrefix { lsn, agents });
    }

    fn view(&mut self) -> (usize, View) {
        let agent = self.some_agent();
        self.view_of(agent)
    }

    fn view_of(&mut self, agent: usize) -> (usize, View) {
        let begun = (self.world.now)();
        let view = self.world.agents[agent].view().unwrap();
        // What it shows is noted when it was read, which may be later.
        self.note(begun, What::Read { agent, seen: Seen::default() });
        (self.calls.len() - 1, view)
    }

    fn read(&mut self) {
        let (call, view) = self.view();
        self.look(call, &view);
    }

    fn keep(&mut self) {
        if self.kept.len() < 3 {
            let kept = self.view();
            self.kept.push(kept);
        }
    }

    fn read_kept(&mut self) {
        if self.kept.is_empty() {
            return self.read();
        }
        let (call, view) = self.kept.remove(0);
        self.look(call, &view);
    }

    /// Reads a view in one of several ways, and notes what it shows.
    fn look(&mut self, call: usize, view: &View) {
        let mut seen = Seen { floor: view.floor(), next: view.next_seq(), ..Seen::default() };
        let live = seen.next - seen.floor;
        let mut entry = |entry: memlog::Entry<'_>| {
            let number = (!entry.is_redacted()).then(|| number_in(entry.payload()));
            seen.entries.push((entry.seq(), number));
        };
        match (self.random)(4) {
            0 => view.iter().for_each(|found| entry(found.unwrap())),
            1 => view.latest(5).rev().for_each(|found| entry(found.unwrap())),
            2 => view.iter().rev().take(20).for_each(|found| entry(found.unwrap())),
            _ => {
                for _ in 0..3 {
                    let seq = view.floor() + (self.random)(live + 1);
                    match view.get(seq).unwrap() {
                        Some(found) => entry(found),
                        None => assert!(seq == view.next_seq(), "seq {seq} of {view:?}"),
                    }
                }
            }
        }
        for value in view.states("") {
            let value = value.unwrap();
            let key = KEYS.into_iter().find(|key| *key == value.key()).unwrap();
            seen.state.push((key, value.revision().0, number_in(value.value())));
        }
        let What::Read { agent, seen: noted } = &mut self.calls[call].what else { return };
        self.known.insert(*agent, seen.clone());
        *noted = seen;
    }
}

/// A number as a payload, and so many bytes more that follow from it.
fn payload(number: u64, more: u64) -> String {
    let fill = char::from(b'a' + u8::try_from(number % 26).unwrap());
    let more = usize::try_from(more).unwrap();
    format!("{number} {}", fill.to_string().repeat(more))
}

fn number_in(payload: &[u8]) -> u64 {
    let text = std::str::from_utf8(payload).unwrap();
    let (number, fill) = text.split_once(' ').unwrap();
    let number = number.parse().unwrap();
    assert_eq!(text, self::payload(number, fill.len() as u64), "{number}");
    number
}

fn refusal(error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::Conflict => Refusal::Conflict,
        ErrorKind::OutOfRange => Refusal::OutOfRange,
        _ => panic!("{error}"),
    }
}

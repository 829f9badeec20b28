//! A store of which only the statistics exist: who appends what, what dies when, and what jobs make
//! of it. Time is counted in bytes of payload appended.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, clippy::cast_possible_truncation)]
#![allow(clippy::cast_sign_loss)]

use std::ops::Range;

use crate::compaction::cuts::{Cuts, Other, ends_at_bound};
use crate::compaction::pick::{Pick, Reason, SegmentStats};

/// What a record, and the frame of one, take beyond the content; a name, and an agent's place in a
/// footer.
const RECORD: f64 = 40.0;
const FRAME: f64 = 120.0;
const NAME: f64 = 24.0;
const AGENT: f64 = 72.0 + 2.0 * NAME + 14.0;
/// Names are numbers from 0 to 1, written out.
const SCALE: f64 = (1u64 << 48) as f64;

/// Agents that are alike. Few of them are points among the names, many are spread evenly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    pub(super) agents: f64,
    /// Their part of all that is appended.
    pub(super) share: f64,
}

/// What dies, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Deaths {
    None,
    /// All but so many of an agent's newest entries.
    Latest(f64),
    /// Entries at random, a half of them in so many bytes appended.
    Random(f64),
    /// At this moment, this part of the names.
    Forget(f64, f64),
    /// At this moment, this part of the agents, anywhere among the names.
    Thin(f64, f64),
    /// Each time so much was appended, all that is older than that, of half of the names.
    Bursts(f64),
}

/// Who appends what.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) classes: Vec<Class>,
    /// Payload of an entry.
    pub(super) entry: f64,
    /// Entries of an agent that come together and are all that it ever has; 0: they go on and on.
    pub(super) once: f64,
    /// New names are above all old ones.
    pub(super) ascending: bool,
    pub(super) deaths: Deaths,
    /// All that is going to be appended.
    pub(super) total: f64,
}

/// Agents that one log segment has in memory at most.
const AGENTS: f64 = 60_000.0;

/// A segment's names and times, and the moment as of which the dead are left out of it.
#[derive(Clone, Debug)]
struct Rect {
    times: Range<f64>,
    names: Range<f64>,
    made: f64,
}

/// Entries and extents.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mass {
    pub(super) entries: f64,
    agents: f64,
}

impl Load {
    /// What of this rectangle lives at a moment.
    fn mass(&self, times: &Range<f64>, names: &Range<f64>, now: f64) -> Mass {
        let mut mass = Mass::default();
        for class in &self.classes {
            let (mut bytes, mut agents) = (0.0, 0.0);
            for (part, lives) in self.cuts(names, now, class) {
                let times = times.start.max(lives.start)..times.end.min(lives.end);
                let times = self.ascending_times(&times, &part);
                if times.is_empty() {
                    continue;
                }
                let width = if self.ascending { 1.0 } else { class.width(&part) };
                let span = times.end - times.start;
                let mut alive = width * class.share * span;
                if let Deaths::Random(half) = self.deaths {
                    let tau = half / std::f64::consts::LN_2;
                    let left = |t: f64| (-(now - t) / tau).exp();
                    alive *= tau * (left(times.end) - left(times.start)) / span;
                }
                if let Deaths::Thin(at, part) = self.deaths
                    && now >= at
                {
                    alive *= 1.0 - part;
                }
                let entries = alive / self.entry;
                bytes += alive;
                agents += if self.once > 0.0 {
                    entries / self.once
                } else {
                    let all = class.agents * width;
                    all * -(-entries / all.max(1e-9)).exp_m1()
                };
            }
            mass.entries += bytes / self.entry;
            mass.agents += agents;
        }
        mass
    }

    fn ascending_times(&self, times: &Range<f64>, names: &Range<f64>) -> Range<f64> {
        if !self.ascending {
            return times.clone();
        }
        times.start.max(names.start * self.total)..times.end.min(names.end * self.total)
    }

    /// The names in parts, with the times of which something lives in each.
    fn cuts(&self, names: &Range<f64>, now: f64, class: &Class) -> [(Range<f64>, Range<f64>); 2] {
        let all = 0.0..f64::MAX;
        let split = |part: f64| {
            let at = part.clamp(names.start, names.end);
            (names.start..at, at..names.end)
        };
        match self.deaths {
            Deaths::None | Deaths::Random(_) | Deaths::Thin(..) => {
                [(names.clone(), all), (0.0..0.0, 0.0..0.0)]
            }
            Deaths::Latest(most) => {
                let window = most * self.entry * class.agents / class.share;
                [(names.clone(), now - window..f64::MAX), (0.0..0.0, 0.0..0.0)]
            }
            Deaths::Forget(at, part) => {
                let (gone, stays) = split(part);
                [(gone, if now >= at { at } else { 0.0 }..f64::MAX), (stays, all)]
            }
            Deaths::Bursts(each) => {
                let (cut, stays) = split(0.5);
                let last = (now / each).floor() * each - each;
                [(cut, last..f64::MAX), (stays, all)]
            }
        }
    }

    /// Where single agents are, within these names.
    fn points(&self, names: &Range<f64>) -> Vec<f64> {
        let few = self.classes.iter().filter(|class| class.is_few() && !self.ascending);
        let points = few.flat_map(|class| class.points());
        let mut points: Vec<f64> = points.filter(|at| names.contains(at)).collect();
        points.sort_by(f64::total_cmp);
        points
    }

    pub(super) fn content(&self, mass: Mass) -> f64 {
        mass.entries * (self.entry + RECORD)
    }

    fn footer(mass: Mass) -> f64 {
        mass.entries * 4.25 + mass.agents * AGENT + 3.0 * 4096.0
    }

    /// The file of a log segment: each entry in a frame of its own.
    fn log_file(&self, mass: Mass) -> f64 {
        self.content(mass) + mass.entries * (FRAME + NAME) + Self::footer(mass)
    }

    /// The file of a run: a frame for each agent, and for each MiB.
    pub(super) fn run_file(&self, mass: Mass) -> f64 {
        let frames = mass.agents + self.content(mass) / (1 << 20) as f64;
        self.content(mass) + frames * (FRAME + NAME) + Self::footer(mass)
    }
}

impl Class {
    fn is_few(&self) -> bool {
        self.agents <= 64.0
    }

    fn points(&self) -> impl Iterator<Item = f64> + use<> {
        let agents = self.agents;
        (0..agents as u64).map(move |at| ((at as f64 + 0.37) / agents * SCALE).floor() / SCALE)
    }

    /// Which part of its agents has these names.
    fn width(&self, names: &Range<f64>) -> f64 {
        if self.is_few() {
            self.points().filter(|at| names.contains(at)).count() as f64 / self.agents
        } else {
            names.end - names.start
        }
    }
}

/// The store.
#[derive(Clone)]
pub(super) struct World {
    pub(super) load: Load,
    pub(super) now: f64,
    pub(super) segments: Vec<SegmentStats>,
    rects: Vec<Rect>,
    next: u64,
    /// Bytes of files that the log, and that jobs, have written.
    pub(super) logged: f64,
    pub(super) written: f64,
}

impl World {
    pub(super) fn new(load: Load) -> Self {
        World {
            load,
            now: 0.0,
            segments: Vec::new(),
            rects: Vec::new(),
            next: 0,
            logged: 0.0,
            written: 0.0,
        }
    }

    /// Begins with so much payload in runs of this length, all of one tier.
    pub(super) fn begin_with(&mut self, payload: f64, run: f64) {
        if payload > 0.0 {
            let runs = (payload / run).ceil();
            let at = |index: f64| (index / runs * SCALE).floor() / SCALE;
            for index in 0..runs as u64 {
                let names = at(index as f64)..at(index as f64 + 1.0);
                let rect = Rect { times: 0.0..payload, names, made: payload };
                let file = self.load.run_file(self.load.mass(&rect.times, &rect.names, payload));
                if file > run / 1e3 {
                    self.push(rect, 8, file, false);
                }
            }
        }
        self.now = payload;
    }

    /// Appends a log segment of at most this length, and of at most so many agents.
    pub(super) fn append(&mut self, file_bytes: f64) {
        let all = 0.0..1.0;
        let mut span = file_bytes;
        let mass = |span: f64| self.load.mass(&(self.now..self.now + span), &all, self.now + span);
        for _ in 0..12 {
            let mass = mass(span);
            let over = (self.load.log_file(mass) / file_bytes).max(mass.agents / AGENTS);
            span = (span / over).max(self.load.entry);
        }
        let span = span.min(self.load.total - self.now).max(self.load.entry);
        let rect = Rect { times: self.now..self.now + span, names: all, made: self.now + span };
        self.now += span;
        let file = self.load.log_file(self.load.mass(&rect.times, &rect.names, rect.made));
        self.logged += file;
        self.push(rect, 0, file, true);
        self.age();
    }

    fn push(&mut self, rect: Rect, generation: u64, file: f64, is_log: bool) {
        self.next += 1;
        let mass = self.load.mass(&rect.times, &rect.names, rect.made);
        let name = |at: f64| -> Box<str> { format!("{:012x}", (at * SCALE) as u64).into() };
        self.segments.push(SegmentStats {
            id: self.next,
            generation,
            lsns: (rect.times.start * 8.0) as u64..(rect.times.end * 8.0) as u64,
            from: if rect.names.start == 0.0 { "".into() } else { name(rect.names.start) },
            to: (!is_log && rect.names.end < 1.0).then(|| name(rect.names.end)),
            file_bytes: file as u64,
            live_bytes: self.load.content(mass) as u64,
            dead_bytes: 0,
            agents: mass.agents.ceil() as u64,
            dead_since: None,
            quarantined: false,
        });
        self.rects.push(rect);
    }

    /// Books what has died since.
    pub(super) fn age(&mut self) {
        if self.load.deaths == Deaths::None {
            return;
        }
        for (segment, rect) in self.segments.iter_mut().zip(&self.rects) {
            let content = segment.live_bytes + segment.dead_bytes;
            let mass = self.load.mass(&rect.times, &rect.names, self.now);
            segment.live_bytes = (self.load.content(mass) as u64).min(content);
            segment.dead_bytes = content - segment.live_bytes;
            segment.dead_since = (segment.dead_bytes > 0).then_some(1);
        }
    }

    /// What lives of all that was appended, in one run.
    pub(super) fn lives(&self) -> f64 {
        self.load.run_file(self.load.mass(&(0.0..self.now), &(0.0..1.0), self.now))
    }

    pub(super) fn disk(&self) -> f64 {
        self.segments.iter().map(|segment| segment.file_bytes as f64).sum()
    }

    /// Does a job; gives what it wrote.
    pub(super) fn job(&mut self, job: &Pick) -> f64 {
        let is_input: Vec<bool> =
            self.segments.iter().map(|one| job.inputs.contains(&one.id)).collect();
        let inputs = || self.rects.iter().zip(&is_input).filter(|(_, is)| **is).map(|(one, _)| one);
        let low = |of: fn(&Rect) -> f64| inputs().map(of).fold(f64::MAX, f64::min);
        let high = |of: fn(&Rect) -> f64| inputs().map(of).fold(0.0, f64::max);
        let times = low(|one| one.times.start)..high(|one| one.times.end);
        let names = low(|one| one.names.start)..high(|one| one.names.end);
        let mut keep = is_input.iter().map(|is| !is);
        self.segments.retain(|_| keep.next().unwrap());
        let mut keep = is_input.iter().map(|is| !is);
        self.rects.retain(|_| keep.next().unwrap());
        let mut wrote = 0.0;
        for names in self.outputs(&times, &names, job) {
            let rect = Rect { times: times.clone(), names, made: self.now };
            let mass = self.load.mass(&rect.times, &rect.names, self.now);
            if mass.entries < 0.5 {
                continue;
            }
            let file = self.load.run_file(mass);
            wrote += file;
            self.push(rect, job.generation, file, false);
        }
        self.written += wrote;
        wrote
    }

    /// Where the runs of a job are cut, as `plan` does it.
    fn outputs(&self, times: &Range<f64>, names: &Range<f64>, job: &Pick) -> Vec<Range<f64>> {
        let number = |name: &str| u64::from_str_radix(name, 16).unwrap_or(0) as f64 / SCALE;
        let runs = self.segments.iter().filter(|one| one.generation > 0);
        let others: Vec<Other> =
            runs.map(|one| (one.generation, one.from.clone(), one.to.clone())).collect();
        let is_aligned = job.reason == Reason::Align;
        let cuts =
            if is_aligned { Cuts::all(&others) } else { Cuts::clean(&others, job.generation) };
        let bounds = cuts.above("").map(|bound| number(bound));
        // Points behind bounds: a single agent, and where the names go on behind it.
        let mut stops: Vec<(f64, bool)> = bounds.map(|at| (at, true)).collect();
        for at in self.load.points(names) {
            stops.extend([(at, false), (at + 2.0 / SCALE, false)]);
        }
        stops.push((names.end, false));
        stops.retain(|(at, _)| names.start < *at && *at <= names.end);
        stops.sort_by(|one, other| one.0.total_cmp(&other.0));
        let most = job.run_bytes as f64 * 17.0 / 16.0;
        let bytes = |names: Range<f64>| self.load.run_file(self.load.mass(times, &names, self.now));
        let (mut outputs, mut from, mut at) = (Vec::new(), names.start, names.start);
        let (mut size, mut began_between) = (0.0, false);
        let mut cut = |from: &mut f64, at: f64| {
            if at > *from {
                outputs.push(*from..at);
            }
            *from = at;
        };
        for (stop, is_bound) in stops {
            let mut more = bytes(at..stop);
            while size + more > most && (stop - at) > 4.0 / SCALE {
                // Where it is full. What lies between two stops is spread evenly.
                let part = ((most - size) / more).clamp(0.0, 1.0);
                let full = ((at + (stop - at) * part) * SCALE).floor() / SCALE;
                if full <= at && size == 0.0 {
                    break;
                }
                cut(&mut from, full.max(at));
                (at, size, began_between) = (full.max(at), 0.0, true);
                more = bytes(at..stop);
            }
            if size + more > most && size > 0.0 {
                cut(&mut from, at);
                (size, began_between) = (0.0, true);
            }
            (size, at) = (size + more, stop);
            if is_bound && ends_at_bound(size as u64, job.cut_from, began_between) {
                cut(&mut from, stop);
                (size, began_between) = (0.0, false);
            }
        }
        cut(&mut from, names.end);
        outputs
    }
}

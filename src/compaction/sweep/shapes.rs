//! The shapes of stores that are swept over.

use super::world::{Class, Deaths, Load};

const MIB: f64 = 1024.0 * 1024.0;
const GB: f64 = 1e9;
const TB: f64 = 1e12;

/// A store to be filled.
#[derive(Clone)]
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) load: Load,
    /// Log segments have this length at most,
    pub(super) segment: f64,
    /// or that which follows what the store holds, as each takes long to fill.
    pub(super) slow: bool,
    /// Bytes that compaction writes for each one that the log grows by.
    pub(super) speed: f64,
    /// Nothing is compacted before it is asked for.
    pub(super) manual: bool,
    /// Payload that is there to begin with, in runs of this length.
    pub(super) base: f64,
    pub(super) base_run: f64,
}

impl Shape {
    fn new(name: impl Into<String>, load: Load) -> Self {
        let (slow, speed, manual, base) = (false, 1.0, false, 0.0);
        let (name, segment) = (name.into(), 64.0 * MIB);
        Shape { name, load, segment, slow, speed, manual, base, base_run: 0.0 }
    }

    fn bulk(self) -> Self {
        Shape { name: format!("{}, bulk", self.name), speed: 0.0, ..self }
    }

    fn manual(self) -> Self {
        Shape { name: format!("{}, manual", self.name), manual: true, ..self }
    }

    fn slow(self) -> Self {
        Shape { name: format!("{}, slowly", self.name), slow: true, ..self }
    }

    fn dying(self, what: &str, deaths: Deaths) -> Self {
        let load = Load { deaths, ..self.load };
        Shape { name: format!("{}, {what}", self.name), load, ..self }
    }

    pub(super) fn dies(&self) -> bool {
        self.load.deaths != Deaths::None
    }

    /// Tiers that an agent has at least because a run holds no more of it.
    pub(super) fn giant_tiers(&self) -> u64 {
        let longest = self.load.classes.iter().map(|class| class.share / class.agents);
        let bytes = longest.fold(0.0, f64::max) * self.load.total;
        if bytes > 6.0 * GB { 32 + (bytes / 6e9) as u64 } else { 0 }
    }

    /// The most that the background may write for each byte of the log: a copy for each sixfold of
    /// the store beyond the first job, one for that, and what reclaiming may cost.
    pub(super) fn copies(&self) -> f64 {
        let first = 12.0 * self.segment.min(self.load.total / 48.0);
        let levels = (self.load.total / first).max(1.0).log(6.0);
        1.25 + levels + if self.dies() { 1.0 } else { 0.0 }
    }
}

fn load(agents: f64, entry: f64, total: f64) -> Load {
    let (once, ascending, deaths) = (0.0, false, Deaths::None);
    Load { classes: vec![Class { agents, share: 1.0 }], entry, once, ascending, deaths, total }
}

/// Agents whose traffic falls off with their rank, in classes.
fn zipf(agents: f64, power: f64) -> Vec<Class> {
    let mut classes = Vec::new();
    let (mut rank, mut sum) = (1.0, 0.0);
    while rank < agents {
        let next = (rank * 2.0f64).min(agents + 1.0);
        let share = (next - rank) * f64::midpoint(rank, next).powf(-power);
        sum += share;
        classes.push(Class { agents: next - rank, share });
        rank = next;
    }
    classes.into_iter().map(|class| Class { share: class.share / sum, ..class }).collect()
}

/// A store of every size of entries, agents and pace, without deaths and with each kind of them.
pub(super) fn all() -> Vec<Shape> {
    let mut all = vec![
        Shape::new("1 KB, 20,000 agents, 3 GB", load(20e3, 1e3, 3.0 * GB)),
        Shape::new("1 KB, 20,000 agents, 3 GB", load(20e3, 1e3, 3.0 * GB)).bulk(),
        Shape::new("400 B, 20,000 agents, 1.5 GB", load(20e3, 400.0, 1.5 * GB)),
        Shape::new("400 B, 20,000 agents, 1.5 GB", load(20e3, 400.0, 1.5 * GB)).bulk(),
        Shape::new("8 busy agents, 2 GB", load(8.0, 500.0, 2.0 * GB)).slow(),
        Shape::new("8 busy agents, 40 GB", load(8.0, 500.0, 40.0 * GB)).slow(),
        Shape::new("20 MB, 1,000 agents, 100 GB", load(1e3, 20e6, 100.0 * GB)),
        Shape::new("one agent, 100 GB", load(1.0, 20e3, 100.0 * GB)),
        Shape::new("one agent of 200 B, 4 GB", load(1.0, 200.0, 4.0 * GB)),
    ];
    all.push(Shape::new("1 KB, 20,000 agents, 3 GB", load(20e3, 1e3, 3.0 * GB)).manual());
    all.push(Shape::new("400 B, 20,000 agents, 1.5 GB", load(20e3, 400.0, 1.5 * GB)).manual());
    for tenths in 32..=35 {
        let total = f64::from(tenths) * GB / 10.0;
        let name = format!("2.5 KB, 20,000 agents, {:.1} GB", total / GB);
        all.push(Shape::new(name, load(20e3, 2.5e3, total)).bulk());
    }
    for agents in [1e6, 5e6] {
        let tiny = Load { once: 1.5, ..load(agents, 200.0, agents * 300.0) };
        let named = |name: &str| format!("{:.0} M tiny agents, {name}", agents / 1e6);
        all.push(Shape::new(named("names anywhere"), tiny.clone()));
        all.push(Shape::new(named("names anywhere"), tiny.clone()).bulk());
        all.push(Shape::new(named("names ascending"), Load { ascending: true, ..tiny.clone() }));
        let third = Deaths::Thin(tiny.total * 0.99, 1.0 / 3.0);
        for segment in [32.0, 64.0] {
            let what = format!("{segment} MiB, a third forgotten");
            let shape = Shape::new(named("names anywhere"), tiny.clone()).dying(&what, third);
            let shape = Shape { segment: segment * MIB, ..shape };
            all.extend([shape.clone().bulk(), shape.manual()]);
        }
    }
    for (index, entry) in [50.0, 200.0, 700.0, 2e3, 20e3, 300e3].into_iter().enumerate() {
        for (other, agents) in [1.0, 10.0, 3e3, 1e6].into_iter().enumerate() {
            let name = format!("{entry} B, {agents} agents, 1 GB");
            let shape = Shape::new(name, load(agents, entry, GB));
            all.push(if (index + other).is_multiple_of(2) { shape.bulk() } else { shape });
        }
    }
    let giant = vec![Class { agents: 1.0, share: 0.5 }, Class { agents: 1e5, share: 0.5 }];
    all.push(Shape::new("one half of 20 GB", Load { classes: giant, ..load(1.0, 1e3, 20.0 * GB) }));
    let base = Shape::new("1 KB, 20,000 agents, 2 GB", load(20e3, 1e3, 2.0 * GB));
    all.push(base.clone().dying("half forgotten", Deaths::Forget(1.8 * GB, 0.5)));
    all.push(base.clone().dying("nine tenths forgotten", Deaths::Forget(1.9 * GB, 0.9)));
    all.push(base.clone().dying("forgotten while filled", Deaths::Forget(GB, 0.5)));
    all.push(base.clone().dying("at random", Deaths::Random(0.7 * GB)));
    all.push(base.clone().dying("in bursts", Deaths::Bursts(0.3 * GB)));
    all.push(base.slow().dying("latest 20", Deaths::Latest(20.0)));
    all
}

/// What dies as fast as it is appended.
pub(super) fn churns() -> Vec<Shape> {
    let mut all = Vec::new();
    for power in [1.2, 1.0, 0.8, 0.5] {
        let classes = zipf(14e3, power);
        let load = Load { classes, deaths: Deaths::Latest(200.0), ..load(1.0, 750.0, 14.0 * GB) };
        let shape = Shape::new(format!("latest 200, Zipf {power}"), load);
        all.push(Shape { speed: 2.0, ..shape });
    }
    all
}

/// Terabytes.
pub(super) fn large() -> Vec<Shape> {
    let grown = |name: &str, load: Load, base: f64| {
        let (segment, base_run) = (1024.0 * MIB, 3e9);
        Shape { segment, base, base_run, ..Shape::new(name, load) }
    };
    let mut all = vec![
        grown("16 TB, the last of them", load(1e7, 2e3, 15.0 * TB), 14.9 * TB),
        grown("16 TB of 20 MB", load(1e6, 20e6, 15.0 * TB), 14.9 * TB),
    ];
    if std::env::var_os("MEMLOG_SWEEP").is_some() {
        all.push(grown("16 TB from the first on", load(1e7, 2e3, 15.0 * TB), 0.0));
        all.push(grown("16 TB of 20 MB, from the first on", load(1e6, 20e6, 15.0 * TB), 0.0));
        let small = Shape::new("1 TB in segments of 64 MiB", load(1e6, 1e3, TB));
        all.extend([small.clone(), small.slow()]);
    }
    all
}

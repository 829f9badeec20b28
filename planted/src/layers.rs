//! The layers of tests, the cheapest first.

/// A binary of tests, and how it is run.
pub(crate) struct Layer {
    /// The name of the test target; `lib` for the unit tests.
    pub(crate) name: &'static str,
    /// The target, where several layers are of the same one.
    pub(crate) target: &'static str,
    pub(crate) package: &'static str,
    pub(crate) env: &'static [(&'static str, &'static str)],
    /// Seconds after which it hangs.
    pub(crate) patience: u64,
    /// What the build is told besides, and the only tests that are of use then.
    pub(crate) cfg: &'static str,
    pub(crate) filter: &'static str,
}

impl Layer {
    /// What tells its build from others.
    pub(crate) fn build(&self) -> &'static str {
        if self.cfg.is_empty() { self.target } else { self.name }
    }
}

/// A layer of tests of the command.
const fn command(name: &'static str) -> Layer {
    Layer { package: "memlog-cli", ..layer(name) }
}

const fn layer(name: &'static str) -> Layer {
    Layer { name, target: name, package: "memlog", env: &[], patience: 120, cfg: "", filter: "" }
}

/// A failure is not to be shrunk: that takes up to two minutes.
const UNSHRUNK: (&str, &str) = ("MEMLOG_STEPS", "");

/// In the order in which they are tried.
pub(crate) const LAYERS: &[Layer] = &[
    layer("lib"),
    layer("smoke"),
    layer("history"),
    layer("promises"),
    layer("promises_api"),
    layer("promises_sim"),
    layer("bad_input"),
    layer("retention_races"),
    layer("wakers"),
    layer("stepped"),
    layer("panics"),
    layer("clocks"),
    layer("clusters"),
    layer("compaction"),
    layer("compaction_ends"),
    layer("compaction_forgotten"),
    layer("compaction_sim"),
    layer("garbage"),
    layer("erased"),
    layer("months"),
    layer("damage"),
    layer("damage_files"),
    layer("damage_runs"),
    layer("repair"),
    layer("repair_beside"),
    layer("repair_memory"),
    layer("disk_full"),
    layer("read_only"),
    layer("backups"),
    layer("without_waiting"),
    layer("openings"),
    layer("small_stores"),
    layer("residents"),
    layer("hostile"),
    Layer { patience: 240, ..layer("every_call_fails") },
    // A part of what `.ci/run` looks at: the same histories, from the first on.
    Layer { env: &[UNSHRUNK, ("MEMLOG_CRASH_STATES", "4000")], patience: 240, ..layer("crash") },
    // As many states as in `.ci/run`.
    Layer { name: "crash_full", env: &[UNSHRUNK], patience: 400, ..layer("crash") },
    Layer { patience: 400, ..layer("bits") },
    command("exits"),
    command("shapes"),
    command("resume"),
    command("reading"),
    command("space"),
    Layer { package: "memlog-torture", patience: 240, ..layer("bounded") },
    Layer { name: "loom", cfg: "--cfg memlog_loom", filter: "sync::", ..layer("lib") },
];

pub(crate) fn named(name: &str) -> Option<&'static Layer> {
    LAYERS.iter().find(|layer| layer.name == name)
}

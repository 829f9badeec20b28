//! Compaction: sealed segments are rewritten as runs, clustered by agent and without the dead.

pub(crate) mod pick;

//! Cases that are small as they are.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs one case; if it fails, says how to run it again.
pub fn case<T>(test: &str, seed: u64, point: Option<u64>, run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|cause| {
        let point = point.map(|point| format!("MEMLOG_POINT={point} ")).unwrap_or_default();
        eprintln!(
            "\nreproduce: MEMLOG_SEED={seed} {point}MEMLOG_TRAIL=1 cargo test --release \
             --features sim --test crash -- {test} --exact --nocapture\n"
        );
        resume_unwind(cause)
    })
}

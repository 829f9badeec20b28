//! Torture of memlog on a real system: see CONTRIBUTING.md for what there is to run.
//!
//! A tool for tests: what it does not expect ends it, loudly.
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("memlog-torture needs Linux");
    std::process::ExitCode::FAILURE
}

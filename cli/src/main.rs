//! The command `memlog`.

use std::process::ExitCode;

fn main() -> ExitCode {
    memlog_cli::run()
}

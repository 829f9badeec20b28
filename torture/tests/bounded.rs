//! A little of each campaign that needs no root: CONTRIBUTING.md has the long ones.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Command;

fn passes(args: &[&str]) {
    let out = Command::new(env!("CARGO_BIN_EXE_memlog-torture")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    println!("{}", text(&out.stdout));
    assert!(out.status.success(), "{args:?}: {}{}", text(&out.stdout), text(&out.stderr));
}

#[test]
fn killed_writers_lose_nothing_that_was_acknowledged() {
    passes(&["kills", "--kills", "24"]);
}

#[test]
fn failing_system_calls_lose_nothing_that_was_acknowledged() {
    passes(&["inject", "--every", "37", "--steps", "12"]);
    passes(&["inject", "--every", "61", "--steps", "12", "--threads"]);
}

#[test]
fn other_processes_and_forks_do_no_harm() {
    passes(&["processes"]);
}

//! The medium fails, or is full: typed errors, no panic, and what was acknowledged is there
//! afterwards, after a power failure that takes what no flush confirmed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Instant;

use super::device::Failing;
use super::image::{Event, Loss};
use super::{Bench, MediumArgs, checker};
use crate::linux::FITTING;
use crate::linux::acks::Ack;
use crate::linux::rng::Rng;
use crate::linux::trail;

/// How a writer ended, in words, or that it must not end like that.
fn ending(status: ExitStatus, said: &str, reads_fail: bool) -> Result<&'static str, String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok("unharmed"),
        (Some(code), _) if code == i32::from(FITTING) => Ok("typed errors"),
        // A map that cannot be read: the documented outcome.
        (_, Some(libc::SIGBUS)) if reads_fail => Ok("SIGBUS"),
        _ => Err(format!("the writer ended with {status}: {said}")),
    }
}

pub fn run(bench: &Bench, args: &MediumArgs, seed: u64) -> Result<(), String> {
    let began = Instant::now();
    let mut tally: BTreeMap<String, u64> = BTreeMap::new();
    let (mut done, mut wrong) = (0, Ok(()));
    for number in 0..args.points {
        if began.elapsed().as_secs() >= args.seconds || (wrong.is_err() && !args.go_on) {
            break;
        }
        let seed = seed + number;
        let what = [Failing::Writes, Failing::Flushes, Failing::Reads][number as usize % 3];
        let what = args.what.unwrap_or(what);
        let ended = one_failure(bench, args, seed, what).unwrap_or_else(|reason| {
            wrong = Err(format!("workload {seed}, {what:?} fail: {reason}"));
            if args.go_on {
                println!("WRONG: workload {seed}, {what:?} fail: {reason}");
            }
            "WRONG"
        });
        *tally.entry(format!("{what:?}: {ended}")).or_default() += 1;
        done += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "failures of the medium under {}: {}, {seconds:.1} s, seed {seed}: {tally:?}",
        args.fs.name(),
        done
    );
    wrong
}

fn one_failure(
    bench: &Bench,
    args: &MediumArgs,
    seed: u64,
    what: Failing,
) -> Result<&'static str, String> {
    let mut rng = Rng::of(&[seed, 815]);
    bench.device.medium().restart(bench.new.clone());
    let mounted = bench.mount()?;
    {
        let mut medium = bench.device.medium();
        let from = medium.events.len() + rng.below(250) as usize;
        medium.failing = Some((what, from, *rng.pick(&[1, 1, 3, u64::MAX])));
    }
    let (status, acks, said) = bench.write(seed, args.millis / 2, true);
    drop(mounted);
    let (events, times, failed) = {
        let mut medium = bench.device.medium();
        medium.failing = None;
        let failed = (medium.failed, medium.failed_at);
        (std::mem::take(&mut medium.events), std::mem::take(&mut medium.times), failed)
    };
    let ended = ending(status, &said, what == Failing::Reads)?;
    // Whole writes only: a file system notes an error in its superblock at once, unprotected, and
    // one that is torn in there is lost as a whole.
    let loss = *rng.pick(&[Loss::Nothing, Loss::Everything, Loss::Some(30), Loss::Some(80)]);
    let image = bench.new.after(&events, loss, &mut rng);
    bench.device.medium().restart(image);
    let acks_file = bench.path("acks");
    checker::write_acks(&acks_file, &acks);
    let ended = match what {
        Failing::Reads => read_failing(bench, &acks_file, &mut rng)?,
        _ => ended,
    };
    let _mounted = bench.mount()?;
    bench.check(&acks_file, u64::MAX).map_err(|e| {
        let trail = trail_of(bench, &events, &times, &acks);
        let kept = std::env::temp_dir().join(format!("memlog-torture-trail-{seed}"));
        let _ = std::fs::write(&kept, &trail);
        let flushed = events.iter().rposition(|event| matches!(event, Event::Flush));
        let last = acks.last().map(|ack| ack.stamp);
        format!(
            "{e}\nthe trail is in {}\n{} requests failed, first after event {} of {}; last flush {flushed:?}, last \
             acknowledgement after {last:?}; lost then: {loss:?}; {said}",
            kept.display(),
            failed.0,
            failed.1,
            events.len(),
        )
    })?;
    Ok(ended)
}

/// What came to the medium, what the store called of the system, and what it acknowledged, in the
/// order of time.
fn trail_of(bench: &Bench, events: &[Event], times: &[u64], acks: &[Ack]) -> String {
    let mut lines = trail::read(&bench.path("trail"));
    for (at, (event, time)) in events.iter().zip(times).enumerate() {
        let what = match event {
            Event::Write(offset, bytes) => format!("write at {offset}, {} bytes", bytes.len()),
            Event::Flush => "flush".to_owned(),
            Event::Refused(what) => format!("REFUSED {what}"),
        };
        lines.push((*time, format!("    medium {at}: {what}")));
    }
    for ack in acks {
        let Ack { what, lane, step, durability, lsn, stamp, at } = ack;
        let what = format!("        {what:?} {durability:?}: lane {lane}, step {step}, lsn {lsn}");
        lines.push((*at, format!("{what}, after event {stamp}")));
    }
    lines.sort_by_key(|(time, _)| *time);
    let first = lines.first().map_or(0, |(time, _)| *time);
    let told = |(time, line): &(u64, String)| format!("{:>9} us {line}\n", (time - first) / 1000);
    lines.iter().map(told).collect()
}

/// Opens and reads a store of which nothing is cached, while reads fail.
fn read_failing(bench: &Bench, acks: &Path, rng: &mut Rng) -> Result<&'static str, String> {
    let _mounted = bench.mount()?;
    bench.device.medium().failing = Some((Failing::Reads, 0, *rng.pick(&[1, 3, u64::MAX])));
    let out =
        checker::command(&bench.store(), &bench.path("history"), acks, u64::MAX).output().unwrap();
    bench.device.medium().failing = None;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    // A checker that met an error says which, and ends with 1.
    let code = out.status.code().map(|code| if code == 1 { i32::from(FITTING) } else { code });
    if code == Some(i32::from(FITTING)) && !text.contains("(Io)") {
        return Err(format!("failing reads are taken for something else: {text}"));
    }
    match code {
        Some(0) => Ok("unharmed"),
        Some(code) if code == i32::from(FITTING) => Ok("typed errors"),
        _ => ending(out.status, &text, true),
    }
}

pub fn run_full(bench: &Bench, args: &MediumArgs, seed: u64) -> Result<(), String> {
    let began = Instant::now();
    let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
    for number in 0..args.points {
        let seed = seed + number;
        let ended = one_full(bench, args, seed).map_err(|e| format!("workload {seed}: {e}"))?;
        *tally.entry(ended).or_default() += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} full: {} times, {seconds:.1} s, seed {seed}: {tally:?}",
        args.fs.name(),
        args.points
    );
    Ok(())
}

/// Something else takes nearly all of the room; the power fails while there is none; then there is
/// room again.
fn one_full(bench: &Bench, args: &MediumArgs, seed: u64) -> Result<&'static str, String> {
    let mut rng = Rng::of(&[seed, 99]);
    bench.device.medium().restart(bench.new.clone());
    let mounted = bench.mount()?;
    take_room(bench, 1 + rng.below(12));
    let (status, acks, said) = bench.write(seed, args.millis, false);
    drop(mounted);
    let ended = ending(status, &said, false)?;
    let events = std::mem::take(&mut bench.device.medium().events);
    let image = bench.new.after(&events, Loss::of(&mut rng), &mut rng);
    bench.device.medium().restart(image);
    let acks_file = bench.path("acks");
    checker::write_acks(&acks_file, &acks);
    let _mounted = bench.mount()?;
    let _ = std::fs::remove_file(bench.path("mnt/ballast"));
    bench.check(&acks_file, u64::MAX).map_err(|e| format!("{e}\n{said}"))?;
    Ok(ended)
}

/// Fills the file system up, but for some MiB.
fn take_room(bench: &Bench, left: u64) {
    let path = bench.path("mnt");
    let file = File::create(path.join("ballast")).unwrap();
    let room = || {
        let stat = rustix::fs::statvfs(&path).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let piece = vec![0x5a; 1 << 20];
    while room() > left << 20 {
        if (&file).write_all(&piece).is_err() || file.sync_data().is_err() {
            break;
        }
    }
}

//! What it costs to put a turn into a batch and to get it back: encoding without a commit, and
//! decoding with every check made at each read (`Verify::Always`), beside the copy and the checksum
//! of the same bytes.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{text, workdir};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use memlog::{Durability, Kind, NewEntry, Options, Verify};

/// Turns encoded into one batch, and read by one load.
const TURNS: u64 = 64;
/// Bytes of a turn: a short message, what a turn is on average, a long answer of a tool.
const SIZES: [usize; 3] = [350, 2500, 16_000];

fn codec(c: &mut Criterion) {
    let dir = workdir();
    let options = Options::new().durability(Durability::Write).verify(Verify::Always);
    let store = options.open(dir.path().join("store")).unwrap();
    for (name, is_encode) in [("encode", true), ("decode", false)] {
        let mut group = c.benchmark_group(name);
        group.sample_size(30);
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
        for size in SIZES {
            let turn = text(size);
            let agent = store.agent(&format!("agent-{name}-{size}")).unwrap();
            group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: size as u64 });
            let entry = || NewEntry::new(Kind::ASSISTANT, &turn);
            if is_encode {
                group.bench_function(format!("memlog/{size}"), |b| {
                    b.iter_custom(|iters| {
                        turns(iters, |count| {
                            let mut batch = store.batch();
                            for _ in 0..count {
                                batch.append(&agent, entry());
                            }
                            black_box(&batch);
                        })
                    });
                });
            } else {
                let mut batch = store.batch();
                for _ in 0..TURNS {
                    batch.append(&agent, entry());
                }
                batch.commit().unwrap();
                let view = agent.view().unwrap();
                group.bench_function(format!("memlog/{size}"), |b| {
                    b.iter_custom(|iters| {
                        turns(iters, |count| {
                            for entry in view.range(1..=count) {
                                black_box(entry.unwrap().payload());
                            }
                        })
                    });
                });
            }
            let mut buffer = Vec::with_capacity(TURNS as usize * size);
            group.bench_function(format!("limit/{size}"), |b| {
                b.iter_custom(|iters| {
                    turns(iters, |count| {
                        buffer.clear();
                        for _ in 0..count {
                            if is_encode {
                                buffer.extend_from_slice(black_box(&turn));
                            }
                            black_box(crc32fast::hash(black_box(&turn)));
                        }
                    })
                });
            });
        }
        group.finish();
    }
}

/// Times `iters` turns, at most [`TURNS`] of them at a time.
fn turns(iters: u64, mut work: impl FnMut(u64)) -> Duration {
    let start = Instant::now();
    let mut left = iters;
    while left > 0 {
        let count = left.min(TURNS);
        work(count);
        left -= count;
    }
    start.elapsed()
}

criterion_group!(benches, codec);
criterion_main!(benches);

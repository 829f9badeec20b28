//! Latencies and medians.

use std::time::Duration;

use hdrhistogram::Histogram;

/// A distribution of times.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Self {
        // 10 minutes in nanoseconds; what is longer counts as that.
        match Histogram::new_with_bounds(1, 600_000_000_000, 3) {
            Ok(histogram) => Latencies(histogram),
            Err(error) => unreachable!("these bounds are allowed: {error:?}"),
        }
    }

    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(time.as_nanos() as u64);
    }

    pub fn merge(&mut self, other: &Latencies) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// At that share, in microseconds.
    pub fn us(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e3
    }

    /// The longest, in microseconds.
    pub fn longest(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }
}

/// The middle of some figures.
pub fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => figures[n / 2],
        n => (figures[n / 2 - 1] + figures[n / 2]) / 2.0,
    }
}

/// Makes all bytes come from memory, by reading one of each cache line.
pub fn touch(bytes: &[u8]) {
    let mut sum = bytes.last().copied().unwrap_or(0);
    for line in bytes.chunks(64) {
        sum = sum.wrapping_add(line[0]);
    }
    std::hint::black_box(sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}

//! Distributions of durations and sizes.

use serde::{Deserialize, Serialize};

use super::Counter;

/// The powers of two that have buckets: values up to 2^26, which is 67 s in microseconds.
const POWERS: usize = 26;
/// One bucket for each value below 4, four for each power of two, and one for everything larger.
const BUCKETS: usize = 4 + (POWERS - 2) * 4 + 1;

/// A distribution of whole numbers in buckets, four for each power of two: a percentile is at most 25 % too high.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl Histogram {
    /// Adds a value `count` times.
    pub(crate) fn add(&self, value: u64, count: u64) {
        self.buckets[bucket(value)].add(count);
        self.sum.add(value.saturating_mul(count));
    }

    /// Returns the numbers. A value that is added at the same time may be in the sum and not yet in a bucket.
    pub(crate) fn report(&self) -> HistogramReport {
        let counts = self.buckets.iter().map(Counter::get).enumerate().filter(|(_, count)| *count > 0);
        HistogramReport::new(self.sum.get(), counts.map(|(at, count)| (bound(at), count)).collect())
    }
}

fn bucket(value: u64) -> usize {
    if value < 4 {
        return value as usize;
    }
    let power = value.ilog2() as usize;
    let quarter = (value >> (power - 2)) as usize & 3;
    (4 + (power - 2) * 4 + quarter).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn bound(bucket: usize) -> u64 {
    match bucket {
        0..4 => bucket as u64,
        _ if bucket == BUCKETS - 1 => u64::MAX,
        _ => {
            let (power, quarter) = ((bucket - 4) / 4 + 2, (bucket - 4) as u64 % 4);
            ((5 + quarter) << (power - 2)) - 1
        }
    }
}

/// The numbers of a [`Histogram`] at one moment, or of a period.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HistogramReport {
    /// The number of values.
    pub(crate) count: u64,
    /// The sum of all values.
    pub(crate) sum: u64,
    /// The value that half of all values do not exceed; 0 without values. Percentiles are at most 25 % too high.
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    /// The buckets that have values: the largest value of each, and its number of values, in ascending order.
    pub(crate) buckets: Vec<(u64, u64)>,
}

impl HistogramReport {
    fn new(sum: u64, buckets: Vec<(u64, u64)>) -> Self {
        let count = buckets.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count));
        let mut report = Self { count, sum, buckets, ..Self::default() };
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|share| report.percentile(share));
        report = Self { p50, p90, p99, p999, ..report };
        report
    }

    /// Returns the value that this share of all values (0 to 1) does not exceed; 0 without values.
    pub(crate) fn percentile(&self, share: f64) -> u64 {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut below = 0u64;
        for (bound, count) in &self.buckets {
            below = below.saturating_add(*count);
            if below >= rank {
                return *bound;
            }
        }
        0
    }

    /// Returns the mean; 0 without values.
    pub(crate) fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    /// Returns the values since an earlier report of the same histogram.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = |bound: u64| {
            let found = earlier.buckets.iter().find(|(other, _)| *other == bound);
            found.map_or(0, |(_, count)| *count)
        };
        let rest = self.buckets.iter().map(|(bound, count)| (*bound, count.saturating_sub(before(*bound))));
        Self::new(self.sum.saturating_sub(earlier.sum), rest.filter(|(_, count)| *count > 0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_between_the_bounds_of_its_bucket() {
        let powers = (0..64).map(|power| 1 << power);
        for value in (0..5000).chain(powers.clone()).chain(powers.map(|power: u64| power - 1)) {
            let at = bucket(value);
            assert!(value <= bound(at), "{value} is in bucket {at}");
            assert!(at == 0 || value > bound(at - 1), "{value} is in bucket {at}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_bounds_of_buckets() {
        let histogram = Histogram::default();
        assert_eq!(histogram.report(), HistogramReport::default());
        histogram.add(100, 98);
        histogram.add(10_000, 2);
        let report = histogram.report();
        assert_eq!((report.count, report.sum), (100, 29_800));
        assert_eq!((report.p50, report.p90, report.p99, report.p999), (111, 111, 10_239, 10_239));
    }

    #[test]
    fn difference_of_two_reports_is_that_of_the_values_between() {
        let histogram = Histogram::default();
        histogram.add(100, 7);
        let before = histogram.report();
        histogram.add(100, 1);
        histogram.add(3, 2);
        let between = histogram.report().since(&before);
        let alone = Histogram::default();
        alone.add(100, 1);
        alone.add(3, 2);
        assert_eq!(between, alone.report());
        assert_eq!(before.since(&before), HistogramReport::default());
    }
}

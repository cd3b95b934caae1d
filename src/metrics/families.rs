//! Metric families, written one after the other.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::stats::HistogramReport;

/// The upper bounds of the buckets of durations, in microseconds: powers of two, at which the server's own buckets end,
/// too. All counts are therefore exact.
const MICROSECONDS: [u64; 17] = [
    32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072, 262_144, 524_288,
    1_048_576, 2_097_152,
];
/// The largest values of the buckets of sizes, at which the server's own buckets end, too.
const SIZES: [u64; 9] = [1, 2, 3, 7, 15, 31, 63, 127, 255];

/// The name of a family and its description. Names of counters have no `_total`, and none has its unit.
pub(super) type Description = (&'static str, &'static str);

/// Writes families.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    /// Writes a number that only grows.
    pub(super) fn counter(&mut self, (name, help): Description, value: u64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    /// Writes numbers that only grow, each with its labels.
    pub(super) fn counters<L: EncodeLabelSet>(
        &mut self,
        (name, help): Description,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    /// Writes a time that only grows, in seconds.
    pub(super) fn seconds_counter(&mut self, (name, help): Description, value: f64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    /// Writes a number that changes. One that is unknown is left out.
    pub(super) fn gauge(
        &mut self,
        (name, help): Description,
        unit: Option<Unit>,
        value: impl Into<Option<u64>>,
    ) -> fmt::Result {
        let Some(value) = value.into() else {
            return Ok(());
        };
        self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?.encode_gauge(&value)
    }

    /// Writes numbers that change, each with its labels.
    pub(super) fn gauges<L: EncodeLabelSet>(
        &mut self,
        (name, help): Description,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Writes labels alone.
    pub(super) fn info(&mut self, (name, help): Description, labels: &impl EncodeLabelSet) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(labels)
    }

    /// Writes a distribution of durations, which was measured in microseconds.
    pub(super) fn durations(&mut self, (name, help): Description, report: &HistogramReport) -> fmt::Result {
        let buckets = reduce(report, &MICROSECONDS.map(|bound| (bound - 1, seconds(bound))));
        let mut family = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        family.encode_histogram::<NoLabelSet>(seconds(report.sum), report.count, &buckets, None)
    }

    /// Writes a distribution of sizes.
    pub(super) fn sizes(&mut self, (name, help): Description, report: &HistogramReport) -> fmt::Result {
        let buckets = reduce(report, &SIZES.map(|bound| (bound, bound as f64)));
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        family.encode_histogram::<NoLabelSet>(report.sum as f64, report.count, &buckets, None)
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// Returns the number of values in each of these buckets, given as their largest value and upper bound, and in one for
/// all larger values.
fn reduce(report: &HistogramReport, bounds: &[(u64, f64)]) -> Vec<(f64, u64)> {
    let mut reduced: Vec<_> = bounds.iter().map(|(_, bound)| (*bound, 0)).collect();
    reduced.push((f64::INFINITY, 0));
    for (largest, count) in &report.buckets {
        let at = bounds.partition_point(|(bound, _)| bound < largest);
        reduced[at].1 += count;
    }
    reduced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Histogram;

    #[test]
    fn buckets_are_exact() {
        let bounds = MICROSECONDS.map(|bound| (bound - 1, seconds(bound)));
        for bounds in [&bounds[..], &SIZES.map(|bound| (bound, bound as f64))] {
            for (index, (largest, _)) in bounds.iter().enumerate() {
                let histogram = Histogram::default();
                histogram.add(*largest, 3);
                histogram.add(*largest + 1, 4);
                let reduced = reduce(&histogram.report(), bounds);
                assert_eq!((reduced[index].1, reduced[index + 1].1), (3, 4), "{largest}");
            }
        }
        let histogram = Histogram::default();
        histogram.add(u64::MAX, 1);
        histogram.add(0, 2);
        let reduced = reduce(&histogram.report(), &bounds);
        assert_eq!((reduced[0].1, reduced.last().unwrap().1), (2, 1));
    }
}

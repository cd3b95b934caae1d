//! Histograms: how many latencies are in each range.

use super::measurement::TimeHistogram;

/// The lower bounds of the ranges in the first power of ten. Each is about a quarter above the one before.
const BOUNDS: [u64; 10] = [100, 125, 160, 200, 250, 315, 400, 500, 630, 800];
/// The number of powers of ten, enough for the longest time that is measured.
const POWERS: u32 = 10;

/// The times from `from` up to, but not including, `below`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LatencyRange {
    pub(super) from: u64,
    pub(super) below: u64,
    /// The number of times in the range.
    pub(super) count: u64,
}

/// Returns all ranges from the first to the last with times in it. The bounds are the same for all measurements.
///
/// Times are exact to a thousandth, so one near a bound may be counted on its other side.
pub(super) fn ranges(times: &TimeHistogram) -> Vec<LatencyRange> {
    let bounds = (0..POWERS).flat_map(|power| BOUNDS.map(|bound| bound * 10u64.pow(power)));
    let bounds: Vec<u64> = [0].into_iter().chain(bounds).collect();
    let mut ranges: Vec<LatencyRange> =
        bounds.windows(2).map(|pair| LatencyRange { from: pair[0], below: pair[1], count: 0 }).collect();
    for step in times.iter_recorded() {
        let time = times.lowest_equivalent(step.value_iterated_to());
        let at = ranges.partition_point(|range| range.below <= time).min(ranges.len() - 1);
        ranges[at].count += step.count_at_value();
    }
    let first = ranges.iter().position(|range| range.count > 0).unwrap_or(ranges.len());
    let last = ranges.iter().rposition(|range| range.count > 0).map_or(first, |last| last + 1);
    ranges[first..last].to_vec()
}

/// Merges neighbouring ranges until there are at most `most`.
pub(super) fn merged(ranges: &[LatencyRange], most: usize) -> Vec<LatencyRange> {
    let merge = |part: &[LatencyRange]| LatencyRange {
        from: part[0].from,
        below: part[part.len() - 1].below,
        count: part.iter().map(|range| range.count).sum(),
    };
    ranges.chunks(ranges.len().div_ceil(most.max(1)).max(1)).map(merge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::time_histogram;

    #[test]
    fn every_time_is_in_one_range() {
        let mut times = time_histogram();
        let mut recorded: u64 = 0;
        // Around every bound, where a time could be counted in two ranges.
        for power in 0..=9 {
            for bound in BOUNDS {
                for off in [-1, 0, 1] {
                    times.saturating_record((bound * 10u64.pow(power)).saturating_add_signed(off));
                    recorded += 1;
                }
            }
        }
        for time in [0, 1, 99, u64::MAX] {
            times.saturating_record(time);
            recorded += 1;
        }
        let ranges = ranges(&times);
        assert_eq!(ranges.iter().map(|range| range.count).sum::<u64>(), recorded);
        assert!(ranges.windows(2).all(|pair| pair[0].below == pair[1].from));
        for most in 1..=30 {
            let merged = merged(&ranges, most);
            assert!(merged.len() <= most);
            assert_eq!(merged.iter().map(|range| range.count).sum::<u64>(), recorded);
            assert!(merged.windows(2).all(|pair| pair[0].below == pair[1].from));
        }
    }

    #[test]
    fn ranges_begin_and_end_with_times() {
        let mut times = time_histogram();
        assert_eq!(ranges(&times), []);
        assert_eq!(merged(&[], 12), []);
        for time in [170, 170, 300] {
            times.saturating_record(time);
        }
        let range = |from, below, count| LatencyRange { from, below, count };
        assert_eq!(ranges(&times), [range(160, 200, 2), range(200, 250, 0), range(250, 315, 1)]);
        assert_eq!(merged(&ranges(&times), 2), [range(160, 250, 2), range(250, 315, 1)]);
    }
}

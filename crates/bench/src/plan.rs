//! Plans of runs: pace, length and source of requests.

use super::choice::RequestSource;

/// The pace of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum LoadPace {
    /// A request for each reply, with `window` requests outstanding.
    Closed { window: usize },
    /// `rate` requests per second, independent of replies.
    Open { rate: f64 },
}

/// Several rates, in requests per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RateSweep {
    /// The lowest rate.
    pub(super) from: f64,
    /// The upper bound of the rates.
    pub(super) to: f64,
    /// The difference between two rates.
    pub(super) step: f64,
}

impl RateSweep {
    /// Returns all rates in ascending order, at least one.
    pub(super) fn rates(self) -> impl Iterator<Item = f64> {
        (0..self.count()).map(move |number| self.from + number as f64 * self.step)
    }

    /// The number of rates. A rate that exceeds the bound only by rounding is included.
    pub(super) fn count(self) -> u64 {
        ((self.to - self.from) / self.step + 1e-6) as u64 + 1
    }
}

/// The condition that ends a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MeasurementEnd {
    /// This many nanoseconds have passed.
    After(u64),
    /// This many requests were sent and answered or lost.
    Count(u64),
}

/// The plan of a run. Times are in nanoseconds.
#[derive(Debug)]
pub(super) struct LoadPlan {
    pub(super) source: RequestSource,
    pub(super) pace: LoadPace,
    pub(super) warm_up: u64,
    pub(super) end: MeasurementEnd,
    /// The time between progress lines; `None`: no progress.
    pub(super) interval: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweep_has_its_bounds_and_all_rates_between() {
        let rates = |from, to, step| RateSweep { from, to, step }.rates().collect::<Vec<_>>();
        assert_eq!(rates(10.0, 30.0, 10.0), [10.0, 20.0, 30.0]);
        assert_eq!(rates(10.0, 39.9, 10.0), [10.0, 20.0, 30.0]);
        assert_eq!(rates(10.0, 10.0, 5.0), [10.0]);
        assert_eq!(rates(0.1, 0.3, 0.1).len(), 3);
    }
}

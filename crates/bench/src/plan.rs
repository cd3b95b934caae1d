//! What is to be measured.

use super::choice::RequestSource;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum LoadPace {
    /// One for each reply, with so many outstanding.
    Closed {
        /// How many.
        window: usize,
    },
    /// So many a second, whatever the replies.
    Open {
        /// How many.
        rate: f64,
    },
}

/// A row of rates, in requests a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RateSweep {
    /// The lowest rate.
    pub(super) from: f64,
    /// The bound of the highest rate.
    pub(super) to: f64,
    /// From one rate to the next.
    pub(super) step: f64,
}

impl RateSweep {
    /// All rates, in ascending order; at least one.
    pub(super) fn rates(self) -> impl Iterator<Item = f64> {
        (0..self.count()).map(move |number| self.from + number as f64 * self.step)
    }

    /// How many rates there are. A rate above the bound by rounding is one of them.
    pub(super) fn count(self) -> u64 {
        ((self.to - self.from) / self.step + 1e-6) as u64 + 1
    }
}

/// When it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MeasurementEnd {
    /// After so many nanoseconds.
    After(u64),
    /// With so many requests, and their replies.
    Count(u64),
}

/// What is to be measured. TimeHistogram are in nanoseconds.
#[derive(Debug)]
pub(super) struct LoadPlan {
    pub(super) source: RequestSource,
    pub(super) pace: LoadPace,
    pub(super) warm_up: u64,
    pub(super) end: MeasurementEnd,
    /// How often to tell how it goes.
    pub(super) interval: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_has_its_bounds_and_all_rates_between() {
        let rates = |from, to, step| RateSweep { from, to, step }.rates().collect::<Vec<_>>();
        assert_eq!(rates(10.0, 30.0, 10.0), [10.0, 20.0, 30.0]);
        assert_eq!(rates(10.0, 39.9, 10.0), [10.0, 20.0, 30.0]);
        assert_eq!(rates(10.0, 10.0, 5.0), [10.0]);
        assert_eq!(rates(0.1, 0.3, 0.1).len(), 3);
    }
}

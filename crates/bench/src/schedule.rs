//! The schedule of an open loop.

use super::plan::MeasurementEnd;

/// Requests at equal intervals, numbered from the start of the warm-up. Times are nanoseconds of the run.
#[derive(Debug)]
pub(super) struct Schedule {
    begin: u64,
    /// Requests per second.
    rate: f64,
    /// The number of the first request of the measurement.
    first: u64,
    /// The number after the last request.
    end: u64,
    /// The number of the next request to send.
    next: u64,
}

/// A request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The time when it is due.
    pub(super) at: u64,
    /// Whether the request belongs to the measurement, not to the warm-up.
    pub(super) is_counted: bool,
}

impl Schedule {
    /// Creates the schedule of a run that begins at `begin` and measures from `measured_from`.
    pub(super) fn new(rate: f64, begin: u64, measured_from: u64, end: MeasurementEnd) -> Self {
        let mut schedule = Self { begin, rate, first: 0, end: u64::MAX, next: 0 };
        schedule.first = schedule.before(measured_from);
        schedule.end = match end {
            MeasurementEnd::After(duration) => schedule.before(measured_from.saturating_add(duration)),
            MeasurementEnd::Count(count) => schedule.first.saturating_add(count),
        };
        schedule
    }

    /// The number of requests in the measurement.
    pub(super) fn count(&self) -> u64 {
        self.end.saturating_sub(self.first)
    }

    /// The time when the next request is due; `None` after the last one.
    pub(super) fn next_due(&self) -> Option<u64> {
        (self.next < self.end).then(|| self.due(self.next))
    }

    /// Takes the next request if it is due at `now`.
    pub(super) fn take(&mut self, now: u64) -> Option<Due> {
        let at = self.next_due().filter(|at| *at <= now)?;
        let is_counted = self.next >= self.first;
        self.next += 1;
        Some(Due { at, is_counted })
    }

    /// Skips all requests that were due before this time.
    pub(super) fn skip_before(&mut self, time: u64) {
        self.next = self.next.max(self.before(time).min(self.end));
    }

    /// The number of requests of the measurement that were due until this time.
    pub(super) fn scheduled_until(&self, time: u64) -> u64 {
        self.before(time.saturating_add(1)).clamp(self.first, self.end) - self.first
    }

    fn due(&self, number: u64) -> u64 {
        self.begin.saturating_add((number as f64 * 1e9 / self.rate) as u64)
    }

    /// The number of requests due before this time.
    fn before(&self, time: u64) -> u64 {
        let mut number = (time.saturating_sub(self.begin) as f64 * self.rate / 1e9) as u64;
        // Correct rounding errors of the estimate.
        while number > 0 && self.due(number - 1) >= time {
            number -= 1;
        }
        while self.due(number) < time {
            number += 1;
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_taken_when_due_and_not_before() {
        let mut schedule = Schedule::new(1000.0, 5, 2_000_005, MeasurementEnd::After(3_000_000));
        assert_eq!(schedule.next_due(), Some(5));
        assert_eq!(schedule.take(4), None);
        let mut taken = Vec::new();
        taken.extend(std::iter::from_fn(|| schedule.take(3_000_005)));
        let due = |at, is_counted| Due { at, is_counted };
        let expected = [due(5, false), due(1_000_005, false), due(2_000_005, true), due(3_000_005, true)];
        assert_eq!(taken, expected);
        assert_eq!(schedule.next_due(), Some(4_000_005));
        assert_eq!(schedule.take(u64::MAX), Some(due(4_000_005, true)));
        assert_eq!((schedule.take(u64::MAX), schedule.next_due()), (None, None));
    }

    #[test]
    fn skipped_requests_are_scheduled_but_never_taken() {
        let mut schedule = Schedule::new(1000.0, 0, 2_000_000, MeasurementEnd::Count(10));
        schedule.skip_before(4_000_000);
        assert_eq!(schedule.take(u64::MAX), Some(Due { at: 4_000_000, is_counted: true }));
        schedule.skip_before(1_000_000);
        assert_eq!(schedule.next_due(), Some(5_000_000));
        schedule.skip_before(60_000_000);
        assert_eq!(schedule.take(u64::MAX), None);
        let scheduled = [0, 1_999_999, 2_000_000, 2_999_999, 11_000_000, 99_000_000];
        assert_eq!(scheduled.map(|time| schedule.scheduled_until(time)), [0, 0, 1, 1, 10, 10]);
    }

    #[test]
    fn measurement_of_a_low_rate_may_have_no_requests() {
        for (rate, measured_from, end, expected) in [
            (0.5, 0, MeasurementEnd::After(1_000_000_000), 1),
            (0.5, 1_000_000_000, MeasurementEnd::After(1_000_000_000), 0),
            (0.5, 1_000_000_000, MeasurementEnd::After(1_000_000_001), 1),
            (0.5, 1_000_000_000, MeasurementEnd::Count(3), 3),
            (3.0, 1_000_000_000, MeasurementEnd::After(2_000_000_000), 6),
        ] {
            assert_eq!(Schedule::new(rate, 0, measured_from, end).count(), expected, "{rate} {end:?}");
        }
    }

    #[test]
    fn numbers_and_times_agree_at_every_rate() {
        for rate in [0.1, 0.3, 7.0, 3000.5, 999_999.9, 3e6, 1e7] {
            let schedule = Schedule::new(rate, 12_345, 12_345, MeasurementEnd::Count(1));
            // Up to the longest duration, ten million seconds.
            let numbers = [0, 1, 2, 3, 999, 1_000_003, 100_000_000_001].into_iter();
            for number in numbers.filter(|number| *number as f64 / rate <= 1e7) {
                let due = schedule.due(number);
                assert_eq!(schedule.before(due), number, "{rate}");
                assert_eq!(schedule.before(due + 1), number + 1, "{rate}");
            }
        }
    }
}

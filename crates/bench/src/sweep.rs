//! Sweeps: several rates one after the other, and the highest one at which the server keeps up.

use super::figures::{decimal, rate, wrapped};
use super::measurement::Measurement;
use super::plan::RateSweep;

/// The highest share of the scheduled requests that may be unsent, and of the sent ones that may be lost or failed.
const MOST_MISSING: f64 = 0.001;
/// The lowest rate of replies, as a share of the rate of requests.
const LEAST_REPLIES: f64 = 0.99;
/// The highest 99th percentile of the lag, in nanoseconds.
const MOST_LAG: u64 = 10_000_000;
/// The width of a terminal.
const COLUMNS: usize = 80;

/// The measurement of one rate.
#[derive(Debug)]
pub(super) struct MeasuredRate {
    /// Requests per second.
    pub(super) rate: f64,
    pub(super) measurement: Measurement,
}

/// The reason why a rate is too high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bottleneck {
    /// The generator did not send all requests.
    Unsent,
    /// The generator sent requests too late.
    Lag,
    /// Requests were not answered in time.
    Lost,
    /// Replies were unsuccessful.
    Failed,
    /// Replies came more slowly than requests.
    Replies,
}

impl Bottleneck {
    /// The name in the table and in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::Lag => "lag",
            Self::Lost => "lost",
            Self::Failed => "failed",
            Self::Replies => "replies",
        }
    }

    /// Whether the generator is the bottleneck, so that the server's limit is unknown.
    fn is_own(self) -> bool {
        matches!(self, Self::Unsent | Self::Lag)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl MeasuredRate {
    fn failed(&self) -> u64 {
        self.measurement.answered() - self.measurement.succeeded
    }

    fn lag_p99(&self) -> u64 {
        self.measurement.lag.value_at_quantile(0.99)
    }

    /// Returns the first criterion that the rate does not meet; `None` if the server keeps up.
    pub(super) fn limit(&self) -> Option<Bottleneck> {
        let measurement = &self.measurement;
        [
            (
                measurement.sent == 0 || share(measurement.unsent(), measurement.scheduled) > MOST_MISSING,
                Bottleneck::Unsent,
            ),
            (self.lag_p99() > MOST_LAG, Bottleneck::Lag),
            (share(measurement.lost, measurement.sent) > MOST_MISSING, Bottleneck::Lost),
            (share(self.failed(), measurement.sent) > MOST_MISSING, Bottleneck::Failed),
            (
                // One reply more or less depends on where the measurement begins and ends.
                self.rate * measurement.seconds() * LEAST_REPLIES > (measurement.arrived + 1) as f64,
                Bottleneck::Replies,
            ),
        ]
        .into_iter()
        .find_map(|(is_exceeded, limit)| is_exceeded.then_some(limit))
    }

    /// Formats the row of the table.
    pub(super) fn row(&self) -> String {
        let measurement = &self.measurement;
        let percent = |part, whole| format!("{:.2} %", share(part, whole) * 100.0);
        let p99 = match measurement.latency() {
            times if times.is_empty() => "-".to_owned(),
            times => decimal(times.value_at_quantile(0.99) as f64 / 1e3, 0),
        };
        format!(
            "{:>11} {:>10} {:>8} {:>8} {:>8} {p99:>10} {:>9}  {}",
            rate(self.rate),
            decimal(measurement.throughput(), 0),
            percent(measurement.unsent(), measurement.scheduled),
            percent(measurement.lost, measurement.sent),
            percent(self.failed(), measurement.sent),
            decimal(self.lag_p99() as f64 / 1e3, 0),
            self.limit().map_or("yes", Bottleneck::name),
        )
    }
}

/// The column headings for [`MeasuredRate::row`].
pub(super) fn column_headings() -> String {
    format!(
        "{:>11} {:>10} {:>8} {:>8} {:>8} {:>10} {:>9}  keeps up",
        "rate/s", "replies/s", "unsent", "lost", "failed", "p99 in µs", "lag p99"
    )
}

/// Returns the highest rate at which the server keeps up.
pub(super) fn knee(steps: &[MeasuredRate]) -> Option<&MeasuredRate> {
    steps.iter().rev().find(|step| step.limit().is_none())
}

/// Whether all rates were measured in full.
pub(super) fn is_complete(sweep: RateSweep, steps: &[MeasuredRate]) -> bool {
    sweep.rates().count() == steps.iter().filter(|step| !step.measurement.is_interrupted).count()
}

/// Sums up the measured rates, which must be in ascending order.
pub(super) fn conclusion(sweep: RateSweep, steps: &[MeasuredRate]) -> Vec<String> {
    if steps.is_empty() {
        return vec!["No rate was measured.".to_owned()];
    }
    let knee = knee(steps);
    let mut text = match knee {
        Some(step) => format!("The server keeps up with {} requests a second", rate(step.rate)),
        None => "The server keeps up with none of these rates".to_owned(),
    };
    let above = steps.iter().find(|step| knee.is_none_or(|knee| step.rate > knee.rate));
    match above.and_then(|step| step.limit().map(|limit| (step.rate, limit))) {
        None => text.push_str(", the highest rate that was tried."),
        Some((above, limit)) if limit.is_own() => text.push_str(&format!(
            "; at {} pyzor-bench itself does not keep up ({}), so the limit of the server is unknown.",
            rate(above),
            limit.name()
        )),
        Some((above, limit)) => {
            text.push_str(&format!("; not with {} ({}).", rate(above), limit.name()));
        }
    }
    let is_uneven =
        steps.iter().any(|step| step.limit().is_some() && knee.is_some_and(|knee| step.rate < knee.rate));
    if is_uneven {
        text.push_str(" A lower rate was too high: measure longer, or with less other load on the machine.");
    }
    if !is_complete(sweep, steps) {
        text.push_str(" Not all rates were measured in full.");
    }
    wrapped(&text, COLUMNS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pyzor_wire::reply_reader::Code;

    /// A measurement of one second at 1000 requests per second, without any problem.
    fn step() -> MeasuredRate {
        let mut measurement = Measurement::default();
        (measurement.scheduled, measurement.sent, measurement.succeeded) = (1000, 1000, 1000);
        (measurement.arrived, measurement.nanoseconds) = (1000, 1_000_000_000);
        MeasuredRate { rate: 1000.0, measurement }
    }

    fn changed(change: impl FnOnce(&mut Measurement)) -> MeasuredRate {
        let mut step = step();
        change(&mut step.measurement);
        step
    }

    #[test]
    fn each_limit_is_exact() {
        for (limit, within, beyond) in [
            (
                Bottleneck::Unsent,
                changed(|measurement| measurement.sent = 999),
                changed(|measurement| measurement.sent = 998),
            ),
            (
                Bottleneck::Lost,
                changed(|measurement| measurement.lost = 1),
                changed(|measurement| measurement.lost = 2),
            ),
            (
                Bottleneck::Failed,
                changed(|measurement| measurement.failed = [(Code::Number(500), 1)].into()),
                changed(|measurement| measurement.failed = [(Code::WithoutCount, 2)].into()),
            ),
            (
                Bottleneck::Replies,
                changed(|measurement| measurement.arrived = 989),
                changed(|measurement| measurement.arrived = 988),
            ),
            (
                Bottleneck::Lag,
                changed(|measurement| measurement.lag.saturating_record(9_900_000)),
                changed(|measurement| measurement.lag.saturating_record(10_100_000)),
            ),
        ] {
            assert_eq!(within.limit(), None, "{limit:?}");
            assert_eq!(beyond.limit(), Some(limit));
            assert_eq!(beyond.row().split_whitespace().next_back(), Some(limit.name()));
        }
        assert_eq!(
            changed(|measurement| (measurement.sent, measurement.scheduled) = (0, 0)).limit(),
            Some(Bottleneck::Unsent)
        );
    }

    #[test]
    fn knee_is_the_highest_rate_and_doubts_are_reported() {
        let at = |rate: f64, limit: Option<Bottleneck>| {
            let mut step = step();
            step.rate = rate;
            step.measurement.arrived = 10_000;
            match limit {
                None => {}
                Some(Bottleneck::Lost) => step.measurement.lost = 10,
                Some(_) => step.measurement.sent = 500,
            }
            step
        };
        for (limits, knee_at, expected) in [
            ([None, None, None], Some(3000.0), "with 3,000 requests a second, the highest rate that"),
            (
                [None, None, Some(Bottleneck::Lost)],
                Some(2000.0),
                "with 2,000 requests a second; not with 3,000 (lost).",
            ),
            (
                [None, Some(Bottleneck::Unsent), Some(Bottleneck::Lost)],
                Some(1000.0),
                "at 2,000 pyzor-bench itself does not keep up (unsent)",
            ),
            (
                [Some(Bottleneck::Lost), None, Some(Bottleneck::Lost)],
                Some(2000.0),
                "A lower rate was too high",
            ),
            ([Some(Bottleneck::Lost); 3], None, "with none of these rates; not with 1,000 (lost)."),
        ] {
            let rates = [1000.0, 2000.0, 3000.0];
            let steps: Vec<MeasuredRate> =
                rates.into_iter().zip(limits).map(|(rate, limit)| at(rate, limit)).collect();
            assert_eq!(knee(&steps).map(|step| step.rate), knee_at, "{limits:?}");
            let sweep = RateSweep { from: 1000.0, to: 3000.0, step: 1000.0 };
            let lines = conclusion(sweep, &steps);
            let text = lines.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(is_complete(sweep, &steps) && !text.contains("Not all rates"), "{text}");
            assert!(text.contains(expected), "{text}");
            assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS), "{lines:?}");
        }
    }

    #[test]
    fn missing_and_interrupted_rates_are_reported() {
        let sweep = RateSweep { from: 1000.0, to: 2000.0, step: 1000.0 };
        let last = |is_interrupted| MeasuredRate {
            rate: 2000.0,
            ..changed(|measurement| {
                (measurement.arrived, measurement.is_interrupted) = (2000, is_interrupted);
            })
        };
        for (steps, is_all) in
            [(vec![step(), last(false)], true), (vec![step(), last(true)], false), (vec![step()], false)]
        {
            assert_eq!(is_complete(sweep, &steps), is_all, "{steps:?}");
            let text = conclusion(sweep, &steps).join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(!text.contains("Not all rates were measured in full."), is_all, "{text}");
        }
        assert_eq!(conclusion(sweep, &[]), ["No rate was measured."]);
    }

    #[test]
    fn rows_fit_a_terminal() {
        let mut step = changed(|measurement| {
            measurement.lag.saturating_record(120_000_000_000);
            measurement.nanoseconds = 100_000_000;
        });
        step.rate = 9_999_999.999;
        assert_eq!(column_headings().chars().count(), COLUMNS);
        assert!(step.row().chars().count() <= COLUMNS + 2, "{}", step.row());
    }
}

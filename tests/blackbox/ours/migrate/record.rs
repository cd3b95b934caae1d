//! Records that tests store and expect.

use jiff::tz::TimeZone;

/// A time in the past, in microseconds since the epoch: in New York, shortly after the start of summer time.
pub(crate) const THEN: i64 = 1_300_000_000 * SECOND;

pub(crate) const SECOND: i64 = 1_000_000;

/// A count, and the first and last time in microseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) count: i64,
    pub(crate) first: Option<i64>,
    pub(crate) last: Option<i64>,
}

/// A tally with both times.
pub(crate) const fn tally(count: i64, first: i64, last: i64) -> Tally {
    Tally { count, first: Some(first), last: Some(last) }
}

/// Reports and whitelistings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) reports: Tally,
    pub(crate) whitelists: Tally,
}

impl Record {
    /// A record with this number of reports and no whitelistings.
    pub(crate) const fn reported(count: i64) -> Self {
        let none = Tally { count: 0, first: None, last: None };
        Self { reports: tally(count, THEN, THEN + SECOND), whitelists: none }
    }

    /// A record in which all fields differ from each other.
    pub(crate) const fn full(count: i64) -> Self {
        let whitelists = tally(count.saturating_add(1), THEN + 2 * SECOND, THEN + 3 * SECOND);
        Self { reports: tally(count, THEN, THEN + SECOND), whitelists }
    }

    /// Returns the sum of two records: counts added, the earliest first times, the latest last times.
    pub(crate) fn and(self, other: Self) -> Self {
        let both = |a: Tally, b: Tally| Tally {
            count: a.count.saturating_add(b.count),
            first: a.first.into_iter().chain(b.first).min(),
            last: a.last.max(b.last),
        };
        Self {
            reports: both(self.reports, other.reports),
            whitelists: both(self.whitelists, other.whitelists),
        }
    }
}

/// Returns a different digest for each number.
pub(crate) fn digest(number: u32) -> String {
    // Spread over the key space, with letters that can be in upper case.
    format!("{:08x}{number:028x}cafe", number.wrapping_mul(0x9e37_79b9) | 0xa000_000a)
}

/// Formats a time as a local date, with a fraction if it has one.
pub(crate) fn local_date(zone: &str, micros: i64) -> String {
    let zoned = jiff::Timestamp::from_microsecond(micros).unwrap().to_zoned(TimeZone::get(zone).unwrap());
    let fraction = micros.rem_euclid(SECOND);
    let date = zoned.strftime("%Y-%m-%d %H:%M:%S");
    if fraction == 0 { date.to_string() } else { format!("{date}.{fraction:06}") }
}

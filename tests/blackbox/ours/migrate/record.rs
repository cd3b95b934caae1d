//! Records, as tests plant them and expect them.

use jiff::tz::TimeZone;

/// Some moment of the past, in microseconds since the epoch; in New York it is soon after the clocks were put
/// forward.
pub(crate) const THEN: i64 = 1_300_000_000 * SECOND;

pub(crate) const SECOND: i64 = 1_000_000;

/// How often something was said of a digest, and when first and last, in microseconds since the epoch.
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
    /// A record that was only reported, so often.
    pub(crate) const fn reported(count: i64) -> Self {
        let none = Tally { count: 0, first: None, last: None };
        Self { reports: tally(count, THEN, THEN + SECOND), whitelists: none }
    }

    /// A record whose fields all differ.
    pub(crate) const fn full(count: i64) -> Self {
        let whitelists = tally(count.saturating_add(1), THEN + 2 * SECOND, THEN + 3 * SECOND);
        Self { reports: tally(count, THEN, THEN + SECOND), whitelists }
    }

    /// Both together: the sum of the counts, the earliest first and the latest last times.
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

/// A digest of its own for each number.
pub(crate) fn digest(number: u32) -> String {
    // All over the key space, with letters that have two cases.
    format!("{:08x}{number:028x}cafe", number.wrapping_mul(0x9e37_79b9) | 0xa000_000a)
}

/// A moment as a local date with the fraction that it has.
pub(crate) fn local_date(zone: &str, micros: i64) -> String {
    let zoned = jiff::Timestamp::from_microsecond(micros).unwrap().to_zoned(TimeZone::get(zone).unwrap());
    let fraction = micros.rem_euclid(SECOND);
    let date = zoned.strftime("%Y-%m-%d %H:%M:%S");
    if fraction == 0 { date.to_string() } else { format!("{date}.{fraction:06}") }
}

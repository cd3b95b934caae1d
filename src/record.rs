//! The record of a digest: two tallies with their times.

use std::time::{SystemTime, UNIX_EPOCH};

use pyzor_wire::reply::{RecordCounts, RecordTimes};

/// A point in time, in microseconds since the Unix epoch (UTC); negative before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The time this many microseconds after the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The time this many seconds after the epoch.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// The current time of the system clock.
    pub fn now() -> Self {
        let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
        };
        Self(micros)
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
}

/// Selects one of the two tallies of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TallyKind {
    /// The digest was reported as spam.
    Report,
    /// The digest was whitelisted as not spam.
    Whitelist,
}

/// The number of reports or whitelistings of a digest, with the first and the last time.
///
/// A tally that never changed has no times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The count. Negative numbers stored by other programs are kept.
    pub count: i64,
    /// The time of the first change.
    pub first: Option<Timestamp>,
    /// The time of the last change.
    pub last: Option<Timestamp>,
}

impl Tally {
    /// Adds `amount` at `now`. The count saturates at `limit`.
    pub fn add(&mut self, amount: u32, now: Timestamp, limit: i64) {
        // A count that already exceeds the limit of an engine with narrower numbers is not lowered.
        self.count = self.count.saturating_add(i64::from(amount)).min(limit.max(self.count));
        self.first.get_or_insert(now);
        self.last = Some(now);
    }
}

/// The stored data of a digest. A digest that was never reported or whitelisted has the default record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The reports as spam.
    pub reports: Tally,
    /// The whitelistings.
    pub whitelists: Tally,
}

impl Record {
    /// The tally of this kind.
    pub fn tally_mut(&mut self, kind: TallyKind) -> &mut Tally {
        match kind {
            TallyKind::Report => &mut self.reports,
            TallyKind::Whitelist => &mut self.whitelists,
        }
    }

    /// Both counts, for a reply.
    pub fn counts(&self) -> RecordCounts {
        RecordCounts { reports: self.reports.count, whitelists: self.whitelists.count }
    }

    /// All four times, for a reply.
    pub fn times(&self) -> RecordTimes {
        let seconds = |time: Option<Timestamp>| time.map_or(0, Timestamp::seconds);
        RecordTimes {
            entered: seconds(self.reports.first),
            updated: seconds(self.reports.last),
            wl_entered: seconds(self.whitelists.first),
            wl_updated: seconds(self.whitelists.last),
        }
    }

    /// The time of the last change of either tally; none for a record without times.
    pub fn last_change(&self) -> Option<Timestamp> {
        self.reports.last.max(self.whitelists.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_123_456);

    #[test]
    fn count_saturates_at_the_limit() {
        let mut tally = Tally { count: i64::MAX - 1, first: None, last: None };
        tally.add(3, NOW, i64::MAX);
        assert_eq!(tally, Tally { count: i64::MAX, first: Some(NOW), last: Some(NOW) });
    }

    #[test]
    fn count_above_the_limit_is_not_lowered() {
        let mut tally = Tally { count: 3_000_000_000, ..Tally::default() };
        tally.add(1, NOW, 2_147_483_647);
        assert_eq!(tally.count, 3_000_000_000);
    }

    #[test]
    fn adding_keeps_the_first_time_and_updates_the_last() {
        let earlier = Timestamp::from_seconds(5);
        let mut tally = Tally { count: 1, first: Some(earlier), last: Some(earlier) };
        tally.add(1, NOW, i64::MAX);
        assert_eq!(tally, Tally { count: 2, first: Some(earlier), last: Some(NOW) });
    }

    #[test]
    fn last_change_is_the_later_one_of_both_tallies() {
        let mut record = Record::default();
        assert_eq!(record.last_change(), None);
        record.whitelists.last = Some(Timestamp::from_seconds(7));
        assert_eq!(record.last_change(), Some(Timestamp::from_seconds(7)));
        record.reports.last = Some(NOW);
        assert_eq!(record.last_change(), Some(NOW));
    }

    #[test]
    fn seconds_are_rounded_down() {
        assert_eq!(NOW.seconds(), 1_700_000_000);
        assert_eq!(Timestamp::from_micros(-1).seconds(), -1);
    }

    #[test]
    fn times_in_replies_are_rounded_down_to_seconds() {
        let at = |micros| Some(Timestamp::from_micros(micros));
        let record = Record {
            reports: Tally { count: 1, first: at(5_900_000), last: at(-1) },
            whitelists: Tally { count: 0, first: None, last: at(7_000_000) },
        };
        let times = RecordTimes { entered: 5, updated: -1, wl_entered: 0, wl_updated: 7 };
        assert_eq!(record.times(), times);
    }
}

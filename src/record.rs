//! What is stored under a digest: two tallies with their times.

use std::time::{SystemTime, UNIX_EPOCH};

use pyzor_wire::reply::{RecordCounts, RecordTimes};

/// A moment, in microseconds since the Unix epoch (UTC); negative before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment this many microseconds after the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The moment this many whole seconds after the epoch.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// The moment now, by the system's clock.
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

    /// Whole seconds since the epoch, the fraction cut off (towards the past).
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
}

/// Which of a record's two tallies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TallyKind {
    /// The digest was reported as spam.
    Report,
    /// The digest was whitelisted as no spam.
    Whitelist,
}

/// How often something was said of a digest, and when first and last.
///
/// A tally that never changed has no times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often. Foreign programs can have stored a negative number, which is kept.
    pub count: i64,
    /// The moment of the first change.
    pub first: Option<Timestamp>,
    /// The moment of the last change.
    pub last: Option<Timestamp>,
}

impl Tally {
    /// Counts `amount` more at `now`; the count stops at `limit` instead of failing.
    pub fn add(&mut self, amount: u32, now: Timestamp, limit: i64) {
        // A stored count may already exceed the limit of a narrower engine: it is not lowered.
        self.count = self.count.saturating_add(i64::from(amount)).min(limit.max(self.count));
        self.first.get_or_insert(now);
        self.last = Some(now);
    }
}

/// All that is stored of a digest. A digest that was never reported or whitelisted has the default record.
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

    /// Both counts, as replies tell them.
    pub fn counts(&self) -> RecordCounts {
        RecordCounts { reports: self.reports.count, whitelists: self.whitelists.count }
    }

    /// All four times, as replies tell them.
    pub fn times(&self) -> RecordTimes {
        let seconds = |time: Option<Timestamp>| time.map_or(0, Timestamp::seconds);
        RecordTimes {
            entered: seconds(self.reports.first),
            updated: seconds(self.reports.last),
            wl_entered: seconds(self.whitelists.first),
            wl_updated: seconds(self.whitelists.last),
        }
    }

    /// The moment at which either tally last changed; none for a record without any time.
    pub fn last_change(&self) -> Option<Timestamp> {
        self.reports.last.max(self.whitelists.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_123_456);

    #[test]
    fn a_count_stops_at_the_limit() {
        let mut tally = Tally { count: i64::MAX - 1, first: None, last: None };
        tally.add(3, NOW, i64::MAX);
        assert_eq!(tally, Tally { count: i64::MAX, first: Some(NOW), last: Some(NOW) });
    }

    #[test]
    fn a_count_above_the_limit_is_not_lowered() {
        let mut tally = Tally { count: 3_000_000_000, ..Tally::default() };
        tally.add(1, NOW, 2_147_483_647);
        assert_eq!(tally.count, 3_000_000_000);
    }

    #[test]
    fn the_first_time_stays_and_the_last_moves() {
        let earlier = Timestamp::from_seconds(5);
        let mut tally = Tally { count: 1, first: Some(earlier), last: Some(earlier) };
        tally.add(1, NOW, i64::MAX);
        assert_eq!(tally, Tally { count: 2, first: Some(earlier), last: Some(NOW) });
    }

    #[test]
    fn the_last_change_is_the_later_of_both_tallies() {
        let mut record = Record::default();
        assert_eq!(record.last_change(), None);
        record.whitelists.last = Some(Timestamp::from_seconds(7));
        assert_eq!(record.last_change(), Some(Timestamp::from_seconds(7)));
        record.reports.last = Some(NOW);
        assert_eq!(record.last_change(), Some(NOW));
    }

    #[test]
    fn seconds_are_cut_off_towards_the_past() {
        assert_eq!(NOW.seconds(), 1_700_000_000);
        assert_eq!(Timestamp::from_micros(-1).seconds(), -1);
    }

    #[test]
    fn times_are_told_in_whole_seconds_cut_off_towards_the_past() {
        let at = |micros| Some(Timestamp::from_micros(micros));
        let record = Record {
            reports: Tally { count: 1, first: at(5_900_000), last: at(-1) },
            whitelists: Tally { count: 0, first: None, last: at(7_000_000) },
        };
        let times = RecordTimes { entered: 5, updated: -1, wl_entered: 0, wl_updated: 7 };
        assert_eq!(record.times(), times);
    }
}

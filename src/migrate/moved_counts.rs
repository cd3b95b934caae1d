//! The counts of one source key that have been moved, and those of its present record that have not.
//!
//! While a record exists, its counts only grow and its first time stays the same. So if 5 reports have been moved and
//! the record now has 8 with the same first time, 3 are new. A record that was deleted and then reported again is
//! another *series*: all of its reports are new. [`MovedCounts`] keeps one entry for each series that has been moved,
//! even after the series has been deleted, because the repair of a gdbm file can bring a deleted record back; its
//! reports must not be added again.

use crate::record::{Record, Tally, Timestamp};

/// The series of one tally: for each the count that has been moved and the first time it had when it was moved first;
/// and the latest time of all changes that have been moved. Times are in microseconds.
type MovedSeries = (Vec<(i64, Option<i64>)>, Option<i64>);
/// The series of reports and of whitelistings, and whether the key has been deleted from the source since. The format of
/// the journal: it must not change.
pub(super) type MovedTallies = (MovedSeries, MovedSeries, bool);

/// The journal's entry for one source key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MovedCounts(pub(super) MovedTallies);

impl MovedCounts {
    /// Returns the entry after all of a record has been moved, given the entry before.
    pub(super) fn with(before: Option<&Self>, record: &Record) -> Self {
        let Self((mut reports, mut whitelists, was_deleted)) = before.cloned().unwrap_or_default();
        for (moved, tally) in [(&mut reports, &record.reports), (&mut whitelists, &record.whitelists)] {
            match series_of(moved, was_deleted, tally) {
                Some(index) => moved.0[index].0 = tally.count.max(moved.0[index].0),
                None if *tally == Tally::default() => {}
                None => moved.0.push((tally.count, tally.first.map(Timestamp::micros))),
            }
            moved.1 = moved.1.max(tally.last.or(tally.first).map(Timestamp::micros));
        }
        Self((reports, whitelists, false))
    }

    /// Returns the entry after the key has been deleted from the source.
    pub(super) fn deleted(self) -> Self {
        let Self((reports, whitelists, _)) = self;
        Self((reports, whitelists, true))
    }

    /// Whether the key has been deleted from the source since it was moved.
    pub(super) fn was_deleted(&self) -> bool {
        self.0.2
    }

    /// Returns the counts of a record that have not been moved; none if all have.
    pub(super) fn rest_of(&self, record: &Record) -> Option<Record> {
        let tally = |tally: &Tally, moved: &MovedSeries| match series_of(moved, self.was_deleted(), tally) {
            Some(index) => Tally { count: tally.count.saturating_sub(moved.0[index].0).max(0), ..*tally },
            None => *tally,
        };
        let rest = Record {
            reports: tally(&record.reports, &self.0.0),
            whitelists: tally(&record.whitelists, &self.0.1),
        };
        (rest.reports.count != 0 || rest.whitelists.count != 0).then_some(rest)
    }

    /// Returns the counts of reports and of whitelistings that have been moved, all series added up.
    pub(super) fn counts(&self) -> (i64, i64) {
        let sum =
            |moved: &MovedSeries| moved.0.iter().fold(0, |sum: i64, (count, _)| sum.saturating_add(*count));
        (sum(&self.0.0), sum(&self.0.1))
    }
}

/// Returns the index of the moved series that a tally continues; none if it is a new series.
///
/// After a deletion, a tally is a new series, whatever its times are. The only exception is the first time of an earlier
/// series: then the source was repaired or restored, and has that series again.
///
/// Without a deletion, a tally continues the series with its first time, or else the newest series. Two things make it a
/// new series: it began after the last change that was moved, or it is less than the newest series. (A first time can
/// change within a series: another database with an older record was merged into the source, or the record had no first
/// time before. Neither makes the count less.)
fn series_of((series, last): &MovedSeries, was_deleted: bool, tally: &Tally) -> Option<usize> {
    let first = tally.first.map(Timestamp::micros);
    let same_first = series.iter().position(|(_, known)| *known == first);
    if was_deleted {
        return same_first.filter(|_| first.is_some());
    }
    if same_first.is_some() {
        return same_first;
    }
    let (newest, newest_first) = series.last()?;
    let is_later = newest_first.is_some() && first.zip(*last).is_some_and(|(first, last)| first > last);
    (!is_later && tally.count >= *newest).then(|| series.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(count: i64, first: i64) -> Record {
        let first = Some(Timestamp::from_seconds(first));
        Record { reports: Tally { count, first, last: first }, whitelists: Tally::default() }
    }

    #[test]
    fn rest_is_what_came_since_the_move() {
        let moved = MovedCounts::with(None, &record(5, 100));
        assert_eq!(moved.rest_of(&record(5, 100)), None);
        assert_eq!(moved.rest_of(&record(8, 100)), Some(record(3, 100)));
        assert_eq!(moved.rest_of(&record(2, 200)), Some(record(2, 200)), "deleted and reported again");
        let again = MovedCounts::with(Some(&moved), &record(2, 200));
        assert_eq!(again.counts(), (7, 0));
        assert_eq!(again.rest_of(&record(5, 100)), None, "restored by a repair");
        assert_eq!(again.rest_of(&record(3, 200)), Some(record(1, 200)));
        assert_eq!(MovedCounts::default().rest_of(&record(5, 100)), Some(record(5, 100)));
        // Deleted, and then an older record was merged in, or a server with a slow clock reported.
        let deleted = again.clone().deleted();
        assert_eq!(deleted.rest_of(&record(4, 50)), Some(record(4, 50)));
        assert_eq!(deleted.rest_of(&record(2, 200)), None, "restored by a repair");
        assert_eq!(MovedCounts::with(Some(&deleted), &record(4, 50)).counts(), (11, 0));
        // An older record was merged in.
        assert_eq!(again.rest_of(&record(4, 50)), Some(record(2, 50)));
        assert_eq!(
            again.rest_of(&record(1, 150)),
            Some(record(1, 150)),
            "fewer than were moved: another series"
        );
    }
}

//! What of one key has been moved, and what of it has come since.

use crate::record::{Record, Tally, Timestamp};

/// Counts, each with the moment of its first change as it was moved first, and the last change known to have been
/// moved. What was deleted and then counted anew is another count. All of them are kept, since the repair of a gdbm file
/// can bring former ones back.
type Counted = (Vec<(i64, Option<i64>)>, Option<i64>);
/// Both tallies of a key, and whether it has been deleted from the source since.
pub(super) type MovedTallies = (Counted, Counted, bool);

/// What is known of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MovedCounts(pub(super) MovedTallies);

impl MovedCounts {
    /// What is known when all of a record has been moved, too.
    pub(super) fn with(known: Option<&Self>, record: &Record) -> Self {
        let Self((mut reports, mut whitelists, was_deleted)) = known.cloned().unwrap_or_default();
        for (counted, tally) in [(&mut reports, &record.reports), (&mut whitelists, &record.whitelists)] {
            match continued(counted, was_deleted, tally) {
                Some(at) => counted.0[at].0 = tally.count.max(counted.0[at].0),
                None if *tally == Tally::default() => {}
                None => counted.0.push((tally.count, tally.first.map(Timestamp::micros))),
            }
            counted.1 = counted.1.max(tally.last.or(tally.first).map(Timestamp::micros));
        }
        Self((reports, whitelists, false))
    }

    /// What is known when it has been deleted from the source.
    pub(super) fn deleted(self) -> Self {
        let Self((reports, whitelists, _)) = self;
        Self((reports, whitelists, true))
    }

    /// Whether it has been.
    pub(super) fn was_deleted(&self) -> bool {
        self.0.2
    }

    /// What is in a record beyond this; none if nothing is.
    pub(super) fn rest_of(&self, record: &Record) -> Option<Record> {
        let tally = |tally: &Tally, counted: &Counted| match continued(counted, self.was_deleted(), tally) {
            Some(at) => Tally { count: tally.count.saturating_sub(counted.0[at].0).max(0), ..*tally },
            None => *tally,
        };
        let rest = Record {
            reports: tally(&record.reports, &self.0.0),
            whitelists: tally(&record.whitelists, &self.0.1),
        };
        (rest.reports.count != 0 || rest.whitelists.count != 0).then_some(rest)
    }

    /// The counts of reports and of whitelistings.
    pub(super) fn counts(&self) -> (i64, i64) {
        let sum =
            |counted: &Counted| counted.0.iter().fold(0, |sum: i64, (count, _)| sum.saturating_add(*count));
        (sum(&self.0.0), sum(&self.0.1))
    }
}

/// Which count a tally goes on from; none if it is another one.
///
/// What comes after a deletion is another one, whatever its times, but for one with the first time of a former one: the
/// source, repaired or restored, has brought that back. Without a deletion, one that began after the last change that was
/// moved is another one. A tally whose first time is another one for other reasons was merged with an older one, or had
/// none before; but then it has not become less.
fn continued((counts, last): &Counted, was_deleted: bool, tally: &Tally) -> Option<usize> {
    let first = tally.first.map(Timestamp::micros);
    let known = counts.iter().position(|(_, known)| *known == first);
    if was_deleted {
        return known.filter(|_| first.is_some());
    }
    if known.is_some() {
        return known;
    }
    let (newest, began) = counts.last()?;
    let is_later = began.is_some() && first.zip(*last).is_some_and(|(first, last)| first > last);
    (!is_later && tally.count >= *newest).then(|| counts.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(count: i64, first: i64) -> Record {
        let first = Some(Timestamp::from_seconds(first));
        Record { reports: Tally { count, first, last: first }, whitelists: Tally::default() }
    }

    #[test]
    fn only_what_came_since_is_the_rest() {
        let moved = MovedCounts::with(None, &record(5, 100));
        assert_eq!(moved.rest_of(&record(5, 100)), None);
        assert_eq!(moved.rest_of(&record(8, 100)), Some(record(3, 100)));
        assert_eq!(moved.rest_of(&record(2, 200)), Some(record(2, 200)), "deleted and counted anew");
        let again = MovedCounts::with(Some(&moved), &record(2, 200));
        assert_eq!(again.counts(), (7, 0));
        assert_eq!(again.rest_of(&record(5, 100)), None, "brought back by a repair");
        assert_eq!(again.rest_of(&record(3, 200)), Some(record(1, 200)));
        assert_eq!(MovedCounts::default().rest_of(&record(5, 100)), Some(record(5, 100)));
        // Deleted, and then merged into by a record that is older, or counted by a clock that is behind.
        let deleted = again.clone().deleted();
        assert_eq!(deleted.rest_of(&record(4, 50)), Some(record(4, 50)));
        assert_eq!(deleted.rest_of(&record(2, 200)), None, "brought back");
        assert_eq!(MovedCounts::with(Some(&deleted), &record(4, 50)).counts(), (11, 0));
        // Merged with an older one.
        assert_eq!(again.rest_of(&record(4, 50)), Some(record(2, 50)));
        assert_eq!(
            again.rest_of(&record(1, 150)),
            Some(record(1, 150)),
            "less than was moved is another one"
        );
    }
}

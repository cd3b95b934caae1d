//! Differences between an expected record and the one found in a database.

use crate::record::{Record, Tally, Timestamp};
use crate::storage::bulk::Item;

/// Describes how a record differs from the expected one; none if it is equal.
pub(super) fn difference(expected: &Record, found: Option<&Item>) -> Option<String> {
    let found = match readable(found) {
        Ok(found) => found,
        Err(why) => return Some(why),
    };
    describe(
        expected,
        found,
        |expected, found| expected == found,
        |expected, found| expected == found,
        |expected, found| expected == found,
    )
}

/// Describes the counts and times of the expected record that a record lacks; none if it lacks nothing. Servers may
/// have added more.
pub(super) fn lacks(expected: &Record, found: Option<&Item>) -> Option<String> {
    let found = match readable(found) {
        Ok(found) => found,
        Err(why) => return Some(why),
    };
    let earlier = |expected: Option<Timestamp>, found: Option<Timestamp>| {
        expected.is_none_or(|expected| found.is_some_and(|found| found <= expected))
    };
    let later = |expected: Option<Timestamp>, found: Option<Timestamp>| {
        expected.is_none_or(|expected| found.is_some_and(|found| found >= expected))
    };
    describe(expected, found, |expected, found| expected <= found, earlier, later)
}

/// Returns the record that was found, or why there is none.
fn readable(found: Option<&Item>) -> Result<&Record, String> {
    found.ok_or_else(|| "missing in the destination".to_owned())?.record.as_ref().map_err(Clone::clone)
}

/// Names the fields that do not pass the checks, by their names in MySQL and Redis.
fn describe(
    expected: &Record,
    found: &Record,
    count: impl Fn(i64, i64) -> bool,
    first: impl Fn(Option<Timestamp>, Option<Timestamp>) -> bool,
    last: impl Fn(Option<Timestamp>, Option<Timestamp>) -> bool,
) -> Option<String> {
    let mut differences = Vec::new();
    let tallies = [("r", expected.reports, found.reports), ("wl", expected.whitelists, found.whitelists)];
    for (name, expected, found) in tallies {
        let (expected, found): (Tally, Tally) = (expected, found);
        if !count(expected.count, found.count) {
            differences.push(format!("{name}_count is {} instead of {}", found.count, expected.count));
        }
        if !first(expected.first, found.first) {
            differences.push(format!(
                "{name}_entered is {} instead of {}",
                text(found.first),
                text(expected.first)
            ));
        }
        if !last(expected.last, found.last) {
            differences.push(format!(
                "{name}_updated is {} instead of {}",
                text(found.last),
                text(expected.last)
            ));
        }
    }
    (!differences.is_empty()).then(|| differences.join(", "))
}

fn text(time: Option<Timestamp>) -> String {
    let Some(time) = time else { return "unset".to_owned() };
    match jiff::Timestamp::from_microsecond(time.micros()) {
        Ok(moment) => moment.to_string(),
        Err(_) => time.seconds().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(count: i64, first: i64, last: i64) -> Tally {
        Tally {
            count,
            first: Some(Timestamp::from_seconds(first)),
            last: Some(Timestamp::from_seconds(last)),
        }
    }

    fn item(record: Record) -> Item {
        Item { key: Vec::new(), held: Vec::new(), record: Ok(record) }
    }

    #[test]
    fn every_field_is_compared() {
        let expected = Record { reports: tally(2, 10, 20), whitelists: Tally::default() };
        assert_eq!(difference(&expected, Some(&item(expected))), None);
        assert_eq!(difference(&expected, None), Some("missing in the destination".to_owned()));
        for (found, expected_text) in [
            (Record { reports: tally(3, 10, 20), ..expected }, "r_count is 3 instead of 2"),
            (
                Record { reports: tally(2, 11, 20), ..expected },
                "r_entered is 1970-01-01T00:00:11Z instead of 1970-01-01T00:00:10Z",
            ),
            (
                Record { reports: tally(2, 10, 21), ..expected },
                "r_updated is 1970-01-01T00:00:21Z instead of 1970-01-01T00:00:20Z",
            ),
            (
                Record { whitelists: tally(0, 1, 2), ..expected },
                "wl_entered is 1970-01-01T00:00:01Z instead of unset, wl_updated is 1970-01-01T00:00:02Z instead of \
                 unset",
            ),
        ] {
            assert_eq!(difference(&expected, Some(&item(found))).as_deref(), Some(expected_text));
        }
    }

    #[test]
    fn sum_lacks_nothing_of_its_parts() {
        let part = Record { reports: tally(2, 10, 20), whitelists: Tally::default() };
        let sum = |count, first, last| {
            item(Record { reports: tally(count, first, last), whitelists: tally(1, 1, 1) })
        };
        assert_eq!(lacks(&part, Some(&sum(5, 5, 30))), None);
        assert!(lacks(&part, Some(&sum(1, 5, 30))).is_some());
        assert!(lacks(&part, Some(&sum(5, 11, 30))).is_some());
        assert!(lacks(&part, Some(&sum(5, 5, 19))).is_some());
    }
}

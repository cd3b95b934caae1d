//! The text of a record in the file: version 1, which the Python server writes today, and version 0 before it.
//!
//! | version | text | times |
//! | --- | --- | --- |
//! | 1 | `1,r_count,r_entered,r_updated,wl_count,wl_entered,wl_updated` | local dates, or `None` |
//! | 0 | `r_count,r_entered,r_updated` | seconds since the epoch, -1 for never |
//!
//! The Python server converts version 0 to version 1 without converting the times, so numbers in the place of dates
//! are accepted in version 1. Records are always written as version 1.
//!
//! **Invariant: a change leaves the dates alone that it does not set.** A decoded date stays a local date without a
//! time zone, so the date of the first report is written back unchanged even if the time zone has changed since.

mod time;

use jiff::tz::TimeZone;

pub(super) use self::time::DateWriter;
pub(in crate::storage) use self::time::in_calendar;
use self::time::{StoredTime, date, date_length, seconds};
use crate::record::{Record, Tally, TallyKind, Timestamp};
use pyzor_wire::number::{integer, push_number};

/// A decoded record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StoredRecord {
    reports: StoredTally,
    whitelists: StoredTally,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct StoredTally {
    count: i64,
    first: StoredTime,
    last: StoredTime,
}

impl StoredRecord {
    /// Decodes a text of version 1 or 0. Returns none if it is damaged.
    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        let mut fields = text.split(|byte| *byte == b',');
        let mut next = || fields.next();
        let (first, second, third) = (next()?, next()?, next()?);
        let Some(fourth) = next() else {
            let reports =
                StoredTally { count: count(first)?, first: seconds(second)?, last: seconds(third)? };
            return Some(Self { reports, ..Self::default() });
        };
        if first != b"1" {
            return None;
        }
        let reports = StoredTally { count: count(second)?, first: date(third)?, last: date(fourth)? };
        let whitelists = StoredTally { count: count(next()?)?, first: date(next()?)?, last: date(next()?)? };
        next().is_none().then_some(Self { reports, whitelists })
    }

    /// Decodes a text of version 1 at the beginning of some bytes whose end is unknown. Accepts only the form in which
    /// this server and the Python server write records.
    pub(super) fn decode_prefix(bytes: &[u8]) -> Option<Self> {
        let mut at = bytes.starts_with(b"1,").then_some(2)?;
        for _tally in 0..2 {
            let digits =
                bytes.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'-').count();
            at += digits;
            for _date in 0..2 {
                at += 1;
                at += date_length(bytes.get(at..)?)?;
            }
            at += 1;
        }
        // No separator follows the last field.
        Self::decode(bytes.get(..at - 1)?)
    }

    /// Returns the record with its times. Local dates are taken in this time zone.
    pub(super) fn record(&self, zone: &TimeZone) -> Record {
        Record { reports: self.reports.tally(zone), whitelists: self.whitelists.tally(zone) }
    }

    /// Returns the record without its times, whose conversion costs more than the rest of a look-up.
    pub(super) fn counts(&self) -> Record {
        let tally = |tally: &StoredTally| Tally { count: tally.count, first: None, last: None };
        Record { reports: tally(&self.reports), whitelists: tally(&self.whitelists) }
    }

    /// Returns the sum of both counts. It only grows, so it orders versions of a record by age.
    pub(super) fn total(&self) -> i128 {
        i128::from(self.reports.count) + i128::from(self.whitelists.count)
    }

    /// Returns the form to store for a record.
    pub(super) fn from_record(record: &Record) -> Self {
        let tally = |tally: &Tally| StoredTally {
            count: tally.count,
            first: tally.first.map_or(StoredTime::Never, StoredTime::Absolute),
            last: tally.last.map_or(StoredTime::Never, StoredTime::Absolute),
        };
        Self { reports: tally(&record.reports), whitelists: tally(&record.whitelists) }
    }

    /// Adds `amount` to a tally at the time `now`. The count stops at `i64::MAX`.
    pub(super) fn add(&mut self, kind: TallyKind, amount: u32, now: Timestamp) {
        let tally = match kind {
            TallyKind::Report => &mut self.reports,
            TallyKind::Whitelist => &mut self.whitelists,
        };
        tally.count = tally.count.saturating_add(i64::from(amount));
        if tally.first == StoredTime::Never {
            tally.first = StoredTime::Absolute(now);
        }
        tally.last = StoredTime::Absolute(now);
    }

    /// Writes the record into `out` as text of version 1.
    pub(super) fn encode(&self, out: &mut Vec<u8>, calendar: &mut DateWriter) {
        out.clear();
        out.push(b'1');
        for tally in [&self.reports, &self.whitelists] {
            out.push(b',');
            push_number(out, tally.count);
            for when in [tally.first, tally.last] {
                out.push(b',');
                calendar.push_stored(out, when);
            }
        }
    }
}

impl StoredTally {
    fn tally(&self, zone: &TimeZone) -> Tally {
        Tally { count: self.count, first: self.first.timestamp(zone), last: self.last.timestamp(zone) }
    }
}

/// Parses a count. The Python server's migration writes `None` for an empty column.
fn count(text: &[u8]) -> Option<i64> {
    if text == b"None" { Some(0) } else { integer(text) }
}

#[cfg(test)]
mod tests;

//! Records as text, in the established server's form (version 1) and the one before it
//! (version 0).
//!
//! Version 1 is `1,r_count,r_entered,r_updated,wl_count,wl_entered,wl_updated` with local dates
//! or `None`; version 0 is `r_count,r_entered,r_updated` with seconds since the epoch. The
//! established server turned the latter into the former without converting the dates, so a number
//! in the place of a date is one.
//!
//! A decoded record keeps its dates as they are: a report leaves the date of the first report
//! alone to the letter, whatever the time zone has become since.

mod time;

use jiff::tz::TimeZone;

pub(super) use self::time::DateWriter;
pub(in crate::storage) use self::time::in_calendar;
use self::time::{StoredTime, date, date_length, seconds};
use crate::record::{Record, Tally, TallyKind, Timestamp};
use pyzor_wire::number::{integer, push_number};

/// A record as stored.
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
    /// Reads a stored text; none if it is damaged.
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

    /// Reads a stored text of version 1 at the beginning of some bytes, where it is as we and the
    /// established server write it, and nothing says where it ends.
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
        // The last separator is not there.
        Self::decode(bytes.get(..at - 1)?)
    }

    /// The record with its times, local ones taken as of this zone.
    pub(super) fn record(&self, zone: &TimeZone) -> Record {
        Record { reports: self.reports.tally(zone), whitelists: self.whitelists.tally(zone) }
    }

    /// The record without its times, which cost more than all the rest of a look-up.
    pub(super) fn counts(&self) -> Record {
        let tally = |tally: &StoredTally| Tally { count: tally.count, first: None, last: None };
        Record { reports: tally(&self.reports), whitelists: tally(&self.whitelists) }
    }

    /// Both counts together, which only ever grow.
    pub(super) fn total(&self) -> i128 {
        i128::from(self.reports.count) + i128::from(self.whitelists.count)
    }

    /// What to store for a record.
    pub(super) fn from_record(record: &Record) -> Self {
        let tally = |tally: &Tally| StoredTally {
            count: tally.count,
            first: tally.first.map_or(StoredTime::Never, StoredTime::Absolute),
            last: tally.last.map_or(StoredTime::Never, StoredTime::Absolute),
        };
        Self { reports: tally(&record.reports), whitelists: tally(&record.whitelists) }
    }

    /// Counts `amount` more at `now`.
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

    /// Writes version 1.
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

/// A count, which a migration from a database with empty columns may have left as `None`.
fn count(text: &[u8]) -> Option<i64> {
    if text == b"None" { Some(0) } else { integer(text) }
}

#[cfg(test)]
mod tests;

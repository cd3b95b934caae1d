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

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::record::{Kind, Record, Tally, Timestamp};
use pyzor_wire::number::integer;
use pyzor_wire::number::push_number;

/// A record as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    reports: StoredTally,
    whitelists: StoredTally,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct StoredTally {
    count: i64,
    first: When,
    last: When,
}

/// A moment as it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum When {
    /// There was none.
    #[default]
    Never,
    /// In local time, whatever the zone was.
    Local(DateTime),
    /// As it has always been.
    Absolute(Timestamp),
}

impl Stored {
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
            first: tally.first.map_or(When::Never, When::Absolute),
            last: tally.last.map_or(When::Never, When::Absolute),
        };
        Self { reports: tally(&record.reports), whitelists: tally(&record.whitelists) }
    }

    /// Counts `amount` more at `now`.
    pub(super) fn add(&mut self, kind: Kind, amount: u32, now: Timestamp) {
        let tally = match kind {
            Kind::Report => &mut self.reports,
            Kind::Whitelist => &mut self.whitelists,
        };
        tally.count = tally.count.saturating_add(i64::from(amount));
        if tally.first == When::Never {
            tally.first = When::Absolute(now);
        }
        tally.last = When::Absolute(now);
    }

    /// Writes version 1.
    pub(super) fn encode(&self, out: &mut Vec<u8>, calendar: &mut Calendar) {
        out.clear();
        out.push(b'1');
        for tally in [&self.reports, &self.whitelists] {
            out.push(b',');
            push_number(out, tally.count);
            for when in [tally.first, tally.last] {
                out.push(b',');
                match when {
                    When::Never => out.extend_from_slice(b"None"),
                    When::Local(date) => push_date(out, date),
                    When::Absolute(time) => calendar.push(out, time),
                }
            }
        }
    }
}

impl StoredTally {
    fn tally(&self, zone: &TimeZone) -> Tally {
        Tally { count: self.count, first: self.first.timestamp(zone), last: self.last.timestamp(zone) }
    }
}

impl When {
    fn timestamp(self, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Never => None,
            Self::Absolute(time) => Some(time),
            // The hour that an autumn night has twice is taken as the earlier one. A date at the
            // edge of the calendar that no moment corresponds to is as good as none.
            Self::Local(date) => {
                zone.to_timestamp(date).ok().map(|time| Timestamp::from_micros(time.as_microsecond()))
            }
        }
    }
}

/// The nearest moment whose local date has a year of four digits.
pub(in crate::storage) fn in_calendar(zone: &TimeZone, time: Timestamp) -> Timestamp {
    // A day inside, whatever the time zone; the library ends before the year does.
    const FIRST: i64 = -62_135_510_400;
    const LAST: i64 = 253_402_207_199;
    match jiff::Timestamp::from_second(time.seconds()) {
        Ok(moment) if zone.to_datetime(moment).year() >= 1 => time,
        _ => Timestamp::from_seconds(time.seconds().clamp(FIRST, LAST)),
    }
}

/// Writes moments as local dates. Most are of the same second, so that one is kept.
#[derive(Debug)]
pub(super) struct Calendar {
    zone: TimeZone,
    second: Option<i64>,
    text: Vec<u8>,
}

impl Calendar {
    /// A calendar of this time zone.
    pub(super) fn new(zone: TimeZone) -> Self {
        Self { zone, second: None, text: Vec::new() }
    }

    /// The time zone.
    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    fn push(&mut self, out: &mut Vec<u8>, time: Timestamp) {
        if self.second != Some(time.seconds()) {
            // A moment beyond the calendar can only come from a foreign program.
            let moment = jiff::Timestamp::from_second(time.seconds()).unwrap_or_default();
            self.text.clear();
            push_date(&mut self.text, self.zone.to_datetime(moment));
            self.second = Some(time.seconds());
        }
        out.extend_from_slice(&self.text);
        push_fraction(out, time.micros().rem_euclid(1_000_000) as u32);
    }
}

/// `YYYY-MM-DD HH:MM:SS.ffffff`, without the fraction where it is zero.
fn push_date(out: &mut Vec<u8>, date: DateTime) {
    let year = date.year().unsigned_abs();
    push_pair(out, (year / 100) as u8);
    push_pair(out, (year % 100) as u8);
    let rest = [
        (b'-', date.month()),
        (b'-', date.day()),
        (b' ', date.hour()),
        (b':', date.minute()),
        (b':', date.second()),
    ];
    for (separator, number) in rest {
        out.push(separator);
        push_pair(out, number.unsigned_abs());
    }
    push_fraction(out, date.subsec_nanosecond().unsigned_abs() / 1000);
}

fn push_pair(out: &mut Vec<u8>, number: u8) {
    out.extend_from_slice(&[b'0' + number / 10 % 10, b'0' + number % 10]);
}

fn push_fraction(out: &mut Vec<u8>, micros: u32) {
    if micros > 0 {
        out.push(b'.');
        for pair in [micros / 10_000, micros / 100 % 100, micros % 100] {
            push_pair(out, pair as u8);
        }
    }
}

/// A count, which a migration from a database with empty columns may have left as `None`.
fn count(text: &[u8]) -> Option<i64> {
    if text == b"None" { Some(0) } else { integer(text) }
}

/// Seconds since the epoch; version 0 wrote -1 for never.
fn seconds(text: &[u8]) -> Option<When> {
    match text {
        b"None" => Some(When::Never),
        text => match integer(text)? {
            -1 => Some(When::Never),
            seconds => Some(When::Absolute(Timestamp::from_seconds(seconds))),
        },
    }
}

/// A date of version 1, or a number of version 0 that stands in its place.
fn date(text: &[u8]) -> Option<When> {
    if text == b"None" || !text.contains(&b':') {
        return seconds(text);
    }
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let mut parts = whole.splitn(2, |byte| *byte == b' ');
    let (day, time) = (parts.next()?, parts.next()?);
    let [year, month, day] = numbers(day, b'-')?;
    let [hour, minute, second] = numbers(time, b':')?;
    let micros = match fraction {
        None => 0,
        Some(digits) if (1..=6).contains(&digits.len()) => {
            number(digits)? * 10_i32.pow(6 - digits.len() as u32)
        }
        Some(_) => return None,
    };
    let narrow = |number: i32| i8::try_from(number).ok();
    let date = DateTime::new(
        i16::try_from(year).ok()?,
        narrow(month)?,
        narrow(day)?,
        narrow(hour)?,
        narrow(minute)?,
        // A leap second, of which the established server's reader admits two.
        narrow(second).filter(|second| *second <= 61)?.min(59),
        micros * 1000,
    );
    date.ok().map(When::Local)
}

/// The length of the date that some bytes begin with, in the form in which it is written.
fn date_length(bytes: &[u8]) -> Option<usize> {
    const WHOLE: usize = "YYYY-MM-DD HH:MM:SS".len();
    const FRACTION: usize = ".ffffff".len();
    if bytes.starts_with(b"None") {
        return Some(4);
    }
    let whole = bytes.get(..WHOLE)?;
    if whole[4] != b'-' || whole[13] != b':' {
        return None;
    }
    let fraction = bytes.get(WHOLE..WHOLE + FRACTION);
    let has_fraction =
        fraction.is_some_and(|text| text[0] == b'.' && text[1..].iter().all(u8::is_ascii_digit));
    Some(if has_fraction { WHOLE + FRACTION } else { WHOLE })
}

fn numbers(text: &[u8], separator: u8) -> Option<[i32; 3]> {
    let mut parts = text.split(|byte| *byte == separator);
    let numbers = [number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?];
    parts.next().is_none().then_some(numbers)
}

/// Up to six digits.
fn number(text: &[u8]) -> Option<i32> {
    if !(1..=6).contains(&text.len()) || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |number, digit| number * 10 + i32::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calendar(zone: &str) -> Calendar {
        Calendar::new(TimeZone::posix(zone).unwrap())
    }

    fn written(stored: &Stored, zone: &str) -> String {
        let mut out = Vec::new();
        stored.encode(&mut out, &mut calendar(zone));
        String::from_utf8(out).unwrap()
    }

    const NOW: Timestamp = Timestamp::from_micros(1_795_343_206_605_606);

    #[test]
    fn a_first_report_is_written_as_the_established_server_writes_it() {
        let mut stored = Stored::default();
        stored.add(Kind::Report, 1, NOW);
        assert_eq!(
            written(&stored, "UTC0"),
            "1,1,2026-11-22 10:26:46.605606,2026-11-22 10:26:46.605606,0,None,None"
        );
        assert_eq!(
            written(&stored, "EST5"),
            "1,1,2026-11-22 05:26:46.605606,2026-11-22 05:26:46.605606,0,None,None"
        );
        let mut stored = Stored::default();
        stored.add(Kind::Whitelist, 2, Timestamp::from_seconds(NOW.seconds()));
        assert_eq!(written(&stored, "UTC0"), "1,0,None,None,2,2026-11-22 10:26:46,2026-11-22 10:26:46");
    }

    #[test]
    fn what_is_stored_comes_back_to_the_letter() {
        for text in [
            "1,3,2020-03-29 02:30:00.000001,2026-11-22 10:26:46,0,None,None",
            "1,0,None,None,-7,0001-01-01 00:00:00,9999-12-31 23:59:59.999999",
            "1,9223372036854775807,None,None,0,None,None",
        ] {
            assert_eq!(
                written(&Stored::decode(text.as_bytes()).unwrap(), "CET-1CEST,M3.5.0,M10.5.0/3"),
                text
            );
        }
    }

    #[test]
    fn a_report_leaves_the_first_date_alone() {
        let mut stored =
            Stored::decode(b"1,1,2020-03-29 02:30:00.5,2020-03-29 02:30:00.5,0,None,None").unwrap();
        stored.add(Kind::Report, 1, NOW);
        assert_eq!(
            written(&stored, "UTC0"),
            "1,2,2020-03-29 02:30:00.500000,2026-11-22 10:26:46.605606,0,None,None"
        );
    }

    #[test]
    fn times_are_taken_in_the_zone() {
        let stored =
            Stored::decode(b"1,1,2026-11-22 05:37:12.285078,2026-11-22 05:37:12,0,None,None").unwrap();
        let record = stored.record(calendar("EST5").zone());
        assert_eq!(record.reports.first, Some(Timestamp::from_micros(1_795_343_832_285_078)));
        assert_eq!(record.reports.last, Some(Timestamp::from_seconds(1_795_343_832)));
        assert_eq!(record.whitelists, Tally::default());
    }

    #[test]
    fn the_old_version_and_half_converted_records_are_read() {
        let zone = TimeZone::UTC;
        let old = Stored::decode(b"5,1300000000,1400000000").unwrap().record(&zone);
        let reports = Tally {
            count: 5,
            first: Some(Timestamp::from_seconds(1_300_000_000)),
            last: Some(Timestamp::from_seconds(1_400_000_000)),
        };
        assert_eq!(old, Record { reports, whitelists: Tally::default() });
        let old = Stored::decode(b"1,1300000000,-1").unwrap().record(&zone);
        assert_eq!((old.reports.count, old.reports.last), (1, None));
        let half =
            Stored::decode(b"1,6,1300000000,2026-11-22 10:26:46.605606,0,None,None").unwrap().record(&zone);
        assert_eq!(half.reports, Tally { count: 6, first: reports.first, last: Some(NOW) });
    }

    #[test]
    fn counts_are_read_as_python_reads_them_and_clamped() {
        for (text, count) in [
            (" 7 ", 7),
            ("+1_000", 1000),
            ("-3", -3),
            ("1000000000000000000000000000000", i64::MAX),
            ("None", 0),
        ] {
            let stored = Stored::decode(format!("1,{text},None,None,0,None,None").as_bytes()).unwrap();
            assert_eq!(stored.reports.count, count, "{text}");
        }
    }

    #[test]
    fn a_text_is_found_at_the_beginning_of_others() {
        for text in [
            "1,1,2026-11-22 10:26:46.605606,2026-11-22 10:26:46,0,None,None",
            "1,0,None,None,12,2026-11-22 10:26:46.605606,2026-11-22 10:26:46",
            "1,9223372036854775807,None,None,0,2026-11-22 10:26:46,2026-11-22 10:26:46.605606",
        ] {
            let whole = Stored::decode(text.as_bytes());
            assert!(whole.is_some());
            for behind in ["", "00aa", ",", ".", ".12", "None", "1,1"] {
                assert_eq!(
                    Stored::decode_prefix(format!("{text}{behind}").as_bytes()),
                    whole,
                    "{text}{behind}"
                );
            }
            for length in 0..text.len() - "10:26:46.605606".len() {
                assert_eq!(Stored::decode_prefix(&text.as_bytes()[..length]), None);
            }
        }
    }

    #[test]
    fn damaged_texts_are_told() {
        for text in [
            "",
            "garbage",
            "1,2",
            "2,1,None,None,0,None,None",
            "1,1,None,None,0,None",
            "1,1,None,None,0,None,None,",
            "1,x,None,None,0,None,None",
            "1,1,2026-13-01 00:00:00,None,0,None,None",
            "1,1,2026-11-22,None,0,None,None",
            "1,1,2026-11-22 10:26:46.1234567,None,0,None,None",
            "1,1,2026-11-22 10:26:46.,None,0,None,None",
            "1,1,2026-11-22 10:26:62,None,0,None,None",
            "1,1,,None,0,None,None",
            "x,1,2",
            "1,1,\u{e9},None,0,None,None",
        ] {
            assert_eq!(Stored::decode(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_same_second_is_not_confused_with_another() {
        let mut calendar = calendar("UTC0");
        let mut text = |micros| {
            let mut out = Vec::new();
            calendar.push(&mut out, Timestamp::from_micros(micros));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(999_999), "1970-01-01 00:00:00.999999");
        assert_eq!(text(1_000_000), "1970-01-01 00:00:01");
        assert_eq!(text(-1), "1969-12-31 23:59:59.999999");
    }
}

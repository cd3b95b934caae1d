//! Times in records: local dates, or seconds since the epoch.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::record::Timestamp;
use pyzor_wire::number::integer;

/// A time as it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum StoredTime {
    /// No time.
    #[default]
    Never,
    /// A date in local time, of an unknown time zone.
    Local(DateTime),
    /// A point in time: read from a number, or set by this server.
    Absolute(Timestamp),
}

impl StoredTime {
    /// Returns the time. A local date is taken in this time zone.
    pub(super) fn timestamp(self, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Never => None,
            Self::Absolute(time) => Some(time),
            // Of the hour that the end of daylight saving time repeats, the earlier one is taken. A date at the edge
            // of the calendar that has no time counts as none.
            Self::Local(date) => {
                zone.to_timestamp(date).ok().map(|time| Timestamp::from_micros(time.as_microsecond()))
            }
        }
    }
}

/// Returns the nearest time whose local date has a year from 1 to 9999.
pub(in crate::storage) fn in_calendar(zone: &TimeZone, time: Timestamp) -> Timestamp {
    // A day from the edge, for any time zone. The range of the library ends shortly before the year 9999.
    const FIRST: i64 = -62_135_510_400;
    const LAST: i64 = 253_402_207_199;
    match jiff::Timestamp::from_second(time.seconds()) {
        Ok(moment) if zone.to_datetime(moment).year() >= 1 => time,
        _ => Timestamp::from_seconds(time.seconds().clamp(FIRST, LAST)),
    }
}

/// Writes times as local dates. Keeps the text of the last second, because most times are in the same second.
#[derive(Debug)]
pub(in crate::storage::gdbm) struct DateWriter {
    zone: TimeZone,
    second: Option<i64>,
    text: Vec<u8>,
}

impl DateWriter {
    pub(in crate::storage::gdbm) fn new(zone: TimeZone) -> Self {
        Self { zone, second: None, text: Vec::new() }
    }

    pub(in crate::storage::gdbm) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Appends a time in its stored form.
    pub(super) fn push_stored(&mut self, out: &mut Vec<u8>, time: StoredTime) {
        match time {
            StoredTime::Never => out.extend_from_slice(b"None"),
            StoredTime::Local(date) => push_date(out, date),
            StoredTime::Absolute(time) => self.push(out, time),
        }
    }

    fn push(&mut self, out: &mut Vec<u8>, time: Timestamp) {
        if self.second != Some(time.seconds()) {
            // A time beyond the calendar can only come from another program.
            let moment = jiff::Timestamp::from_second(time.seconds()).unwrap_or_default();
            self.text.clear();
            push_date(&mut self.text, self.zone.to_datetime(moment));
            self.second = Some(time.seconds());
        }
        out.extend_from_slice(&self.text);
        push_fraction(out, time.micros().rem_euclid(1_000_000) as u32);
    }
}

/// Appends `YYYY-MM-DD HH:MM:SS.ffffff`, without the fraction if it is zero.
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

/// Parses seconds since the epoch; -1 in version 0 means never.
pub(super) fn seconds(text: &[u8]) -> Option<StoredTime> {
    match text {
        b"None" => Some(StoredTime::Never),
        text => match integer(text)? {
            -1 => Some(StoredTime::Never),
            seconds => Some(StoredTime::Absolute(Timestamp::from_seconds(seconds))),
        },
    }
}

/// Parses a date of version 1, or a number of version 0 in its place.
pub(super) fn date(text: &[u8]) -> Option<StoredTime> {
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
        // A leap second, written as 60 or 61, as Python accepts it.
        narrow(second).filter(|second| *second <= 61)?.min(59),
        micros * 1000,
    );
    date.ok().map(StoredTime::Local)
}

/// Returns the length of the written date or `None` at the beginning of the bytes.
pub(super) fn date_length(bytes: &[u8]) -> Option<usize> {
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

/// Parses one to six digits.
fn number(text: &[u8]) -> Option<i32> {
    if !(1..=6).contains(&text.len()) || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |number, digit| number * 10 + i32::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_second_is_not_used_for_another_second() {
        let mut calendar = DateWriter::new(TimeZone::UTC);
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

//! The fuzz target of the record codec: decoded texts are encoded unchanged, and increments change only their tally.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::codec::{DateWriter, StoredRecord, in_calendar};
use crate::fuzz_models::{FuzzInput, any_record, model_integer};
use crate::record::{Record, Tally, TallyKind, Timestamp};

/// Maximum length of a text: twice that of the longest one written.
const LONGEST: usize = 256;

/// Encodes a record in a time zone and decodes it again.
pub fn through_text(zone: &TimeZone, record: &Record) -> (String, Option<Record>) {
    let mut text = Vec::new();
    StoredRecord::from_record(record).encode(&mut text, &mut DateWriter::new(zone.clone()));
    let again = StoredRecord::decode(&text).map(|stored| stored.record(zone));
    (String::from_utf8_lossy(&text).into_owned(), again)
}

/// Checks the codec with any bytes as a text, or with any record.
pub(crate) fn target(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    let mut calendar = DateWriter::new(zone(input.byte()));
    let mode = input.byte();
    let stored = if mode & 1 > 0 {
        let record = any_record(&mut input);
        let stored = StoredRecord::from_record(&record);
        assert_eq!(stored.record(calendar.zone()), record);
        stored
    } else {
        let text = &input.rest()[..input.rest().len().min(LONGEST)];
        check_prefix(text);
        let Some(stored) = StoredRecord::decode(text) else { return };
        check_counts(text, &stored);
        check_dates(text, &stored, calendar.zone());
        stored
    };
    check_adding(&stored, Timestamp::from_micros(input.number()), &calendar);
    check_text(&stored, &mut calendar, input.rest());
}

/// Returns one of some time zones: with and without daylight saving time, and with unusual offsets.
pub(crate) fn zone(choice: u8) -> TimeZone {
    const ZONES: [&str; 6] = [
        "UTC0",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "EST5EDT,M3.2.0,M11.1.0",
        "<+1345>-13:45",
        "<-12>12",
        "IST-5:30",
    ];
    TimeZone::posix(ZONES[usize::from(choice) % ZONES.len()]).unwrap_or(TimeZone::UTC)
}

/// Checks that a record decoded from the beginning of bytes is a prefix of them.
fn check_prefix(bytes: &[u8]) {
    if let Some(found) = StoredRecord::decode_prefix(bytes) {
        assert!((0..=bytes.len()).any(|end| StoredRecord::decode(&bytes[..end]) == Some(found)));
    }
}

/// Checks that the counts are those of the text.
fn check_counts(text: &[u8], stored: &StoredRecord) {
    let fields: Vec<&[u8]> = text.split(|byte| *byte == b',').collect();
    let count = |text: &[u8]| model_integer(if text == b"None" { b"0" } else { text });
    let counts = match fields.as_slice() {
        [reports, _, _] => (count(reports), Some(0)),
        [version, reports, _, _, whitelists, _, _] if version == b"1" => (count(reports), count(whitelists)),
        _ => panic!("decoded: {}", text.escape_ascii()),
    };
    let record = stored.counts();
    assert_eq!((Some(record.reports.count), Some(record.whitelists.count)), counts);
    assert_eq!(stored.total(), i128::from(record.reports.count) + i128::from(record.whitelists.count));
}

/// Checks dates in the form of the Python server against another parser.
fn check_dates(text: &[u8], stored: &StoredRecord, zone: &TimeZone) {
    let fields: Vec<&[u8]> = text.split(|byte| *byte == b',').collect();
    let [_, _, first, last, _, wl_first, wl_last] = fields.as_slice() else { return };
    let record = stored.record(zone);
    for (text, time) in [first, last, wl_first, wl_last].into_iter().zip(times_of(&record)) {
        let Ok(text) = std::str::from_utf8(text) else { continue };
        let is_written_so = text.len() >= 19
            && text.bytes().zip(*b"0000-00-00 00:00:00.000000").all(|(byte, pattern)| match pattern {
                b'0' => byte.is_ascii_digit(),
                separator => byte == separator,
            });
        // The library knows no leap seconds.
        if is_written_so && !["60", "61"].contains(&&text[17..19]) {
            let date = DateTime::strptime("%Y-%m-%d %H:%M:%S%.f", text);
            let date = date.unwrap_or_else(|error| panic!("{text:?} is no date: {error}"));
            let moment =
                zone.to_timestamp(date).ok().map(|time| Timestamp::from_micros(time.as_microsecond()));
            assert_eq!(time, moment, "{text:?}");
        }
    }
}

/// Checks that an increment changes only its tally, and the first date only if there was none.
fn check_adding(stored: &StoredRecord, now: Timestamp, calendar: &DateWriter) {
    let record = |stored: &StoredRecord| stored.record(calendar.zone());
    for (kind, amount) in [(TallyKind::Report, 1), (TallyKind::Whitelist, u32::MAX)] {
        let mut changed = *stored;
        changed.add(kind, amount, now);
        let (before, after) = (record(stored), record(&changed));
        let (before, after, rest) = match kind {
            TallyKind::Report => (before.reports, after.reports, before.whitelists == after.whitelists),
            TallyKind::Whitelist => (before.whitelists, after.whitelists, before.reports == after.reports),
        };
        assert!(rest, "the other tally has changed");
        assert_eq!(after.last, Some(now));
        let count = (i128::from(before.count) + i128::from(amount)).min(i64::MAX.into());
        assert_eq!(i128::from(after.count), count);
        assert!(after.first == before.first || before.first.is_none());
    }
}

/// Checks that an encoded record is decoded unchanged, also with other bytes after it.
fn check_text(stored: &StoredRecord, calendar: &mut DateWriter, behind: &[u8]) {
    let zone = calendar.zone().clone();
    let record = stored.record(&zone);
    let times = |tally: Tally| [tally.first, tally.last];
    let mut times = times(record.reports).into_iter().chain(times(record.whitelists)).flatten();
    if !times.all(|time| in_calendar(&zone, time) == time) {
        // No date can express such a time, but the text must still be decodable.
        let mut text = Vec::new();
        stored.encode(&mut text, calendar);
        return assert!(StoredRecord::decode(&text).is_some(), "{}", text.escape_ascii());
    }
    let mut text = Vec::new();
    stored.encode(&mut text, calendar);
    let shown = || text.escape_ascii().to_string();
    let again = StoredRecord::decode(&text).unwrap_or_else(|| panic!("not to be read: {}", shown()));
    assert_eq!(again.counts(), stored.counts(), "{}", shown());
    let mut rewritten = Vec::new();
    again.encode(&mut rewritten, calendar);
    assert_eq!(rewritten, text, "{}", shown());
    for (before, after) in times_of(&record).into_iter().zip(times_of(&again.record(&zone))) {
        check_time(before, after, &zone);
    }
    if behind.first() != Some(&b'.') {
        let behind = &behind[..behind.len().min(LONGEST)];
        let found = StoredRecord::decode_prefix(&[&text, behind].concat());
        assert_eq!(found, Some(again), "{} before {}", shown(), behind.escape_ascii());
    }
}

fn times_of(record: &Record) -> [Option<Timestamp>; 4] {
    [record.reports.first, record.reports.last, record.whitelists.first, record.whitelists.last]
}

/// Checks that a time survives as a local date, except in the hour that the end of daylight saving time repeats.
fn check_time(before: Option<Timestamp>, after: Option<Timestamp>, zone: &TimeZone) {
    if before == after {
        return;
    }
    let date = |time: Option<Timestamp>| {
        jiff::Timestamp::from_microsecond(time?.micros()).ok().map(|time| zone.to_datetime(time))
    };
    assert_eq!(date(before), date(after), "{before:?} has become {after:?}");
    assert!(after < before, "the later hour of two is taken for {before:?}");
}

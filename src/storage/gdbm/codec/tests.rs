use super::*;
use crate::record::Timestamp;

fn calendar(zone: &str) -> DateWriter {
    DateWriter::new(TimeZone::posix(zone).unwrap())
}

fn written(stored: &StoredRecord, zone: &str) -> String {
    let mut out = Vec::new();
    stored.encode(&mut out, &mut calendar(zone));
    String::from_utf8(out).unwrap()
}

const NOW: Timestamp = Timestamp::from_micros(1_795_343_206_605_606);

#[test]
fn first_report_is_written_in_the_form_of_the_established_server() {
    let mut stored = StoredRecord::default();
    stored.add(TallyKind::Report, 1, NOW);
    assert_eq!(
        written(&stored, "UTC0"),
        "1,1,2026-11-22 10:26:46.605606,2026-11-22 10:26:46.605606,0,None,None"
    );
    assert_eq!(
        written(&stored, "EST5"),
        "1,1,2026-11-22 05:26:46.605606,2026-11-22 05:26:46.605606,0,None,None"
    );
    let mut stored = StoredRecord::default();
    stored.add(TallyKind::Whitelist, 2, Timestamp::from_seconds(NOW.seconds()));
    assert_eq!(written(&stored, "UTC0"), "1,0,None,None,2,2026-11-22 10:26:46,2026-11-22 10:26:46");
}

#[test]
fn decoded_text_is_encoded_byte_for_byte() {
    for text in [
        "1,3,2020-03-29 02:30:00.000001,2026-11-22 10:26:46,0,None,None",
        "1,0,None,None,-7,0001-01-01 00:00:00,9999-12-31 23:59:59.999999",
        "1,9223372036854775807,None,None,0,None,None",
    ] {
        assert_eq!(
            written(&StoredRecord::decode(text.as_bytes()).unwrap(), "CET-1CEST,M3.5.0,M10.5.0/3"),
            text
        );
    }
}

#[test]
fn report_keeps_the_first_date() {
    let mut stored =
        StoredRecord::decode(b"1,1,2020-03-29 02:30:00.5,2020-03-29 02:30:00.5,0,None,None").unwrap();
    stored.add(TallyKind::Report, 1, NOW);
    assert_eq!(
        written(&stored, "UTC0"),
        "1,2,2020-03-29 02:30:00.500000,2026-11-22 10:26:46.605606,0,None,None"
    );
}

#[test]
fn local_dates_are_converted_in_the_time_zone() {
    let stored =
        StoredRecord::decode(b"1,1,2026-11-22 05:37:12.285078,2026-11-22 05:37:12,0,None,None").unwrap();
    let record = stored.record(calendar("EST5").zone());
    assert_eq!(record.reports.first, Some(Timestamp::from_micros(1_795_343_832_285_078)));
    assert_eq!(record.reports.last, Some(Timestamp::from_seconds(1_795_343_832)));
    assert_eq!(record.whitelists, Tally::default());
}

#[test]
fn version_0_and_half_converted_records_are_decoded() {
    let zone = TimeZone::UTC;
    let old = StoredRecord::decode(b"5,1300000000,1400000000").unwrap().record(&zone);
    let reports = Tally {
        count: 5,
        first: Some(Timestamp::from_seconds(1_300_000_000)),
        last: Some(Timestamp::from_seconds(1_400_000_000)),
    };
    assert_eq!(old, Record { reports, whitelists: Tally::default() });
    let old = StoredRecord::decode(b"1,1300000000,-1").unwrap().record(&zone);
    assert_eq!((old.reports.count, old.reports.last), (1, None));
    let half =
        StoredRecord::decode(b"1,6,1300000000,2026-11-22 10:26:46.605606,0,None,None").unwrap().record(&zone);
    assert_eq!(half.reports, Tally { count: 6, first: reports.first, last: Some(NOW) });
}

#[test]
fn counts_are_parsed_like_python_and_clamped() {
    for (text, count) in
        [(" 7 ", 7), ("+1_000", 1000), ("-3", -3), ("1000000000000000000000000000000", i64::MAX), ("None", 0)]
    {
        let stored = StoredRecord::decode(format!("1,{text},None,None,0,None,None").as_bytes()).unwrap();
        assert_eq!(stored.reports.count, count, "{text}");
    }
}

#[test]
fn text_is_decoded_from_the_beginning_of_longer_bytes() {
    for text in [
        "1,1,2026-11-22 10:26:46.605606,2026-11-22 10:26:46,0,None,None",
        "1,0,None,None,12,2026-11-22 10:26:46.605606,2026-11-22 10:26:46",
        "1,9223372036854775807,None,None,0,2026-11-22 10:26:46,2026-11-22 10:26:46.605606",
    ] {
        let whole = StoredRecord::decode(text.as_bytes());
        assert!(whole.is_some());
        for behind in ["", "00aa", ",", ".", ".12", "None", "1,1"] {
            assert_eq!(
                StoredRecord::decode_prefix(format!("{text}{behind}").as_bytes()),
                whole,
                "{text}{behind}"
            );
        }
        for length in 0..text.len() - "10:26:46.605606".len() {
            assert_eq!(StoredRecord::decode_prefix(&text.as_bytes()[..length]), None);
        }
    }
}

#[test]
fn damaged_texts_are_not_decoded() {
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
        assert_eq!(StoredRecord::decode(text.as_bytes()), None, "{text:?}");
    }
}

//! GNU dbm files: the forms of records, and values and keys that are not records.

mod ours;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::{LATER, Record, Store, THEN, Tally, done};
use crate::harness::{DIGEST, Home, unix_time};

/// The gdbm database in a homedir.
pub(super) struct Gdbm;

impl Store for Gdbm {
    const LIMIT: i64 = i64::MAX;

    fn new() -> Self {
        Self
    }

    fn home(&self, settings: &str) -> Home {
        Home::open().config(settings)
    }

    fn plant(&self, home: &Home, records: &[(&str, Record)]) {
        let date = |time: Option<i64>| {
            let zoned = |time| Timestamp::from_second(time).unwrap().to_zoned(TimeZone::UTC);
            // The established server writes whole seconds without a fraction.
            time.map_or("None".to_owned(), |time| zoned(time).strftime("%Y-%m-%d %H:%M:%S").to_string())
        };
        let text = |(reports, whitelistings): &Record| {
            let tally = |tally: &Tally| format!("{},{},{}", tally.count, date(tally.first), date(tally.last));
            format!("1,{},{}", tally(reports), tally(whitelistings))
        };
        let records: Vec<_> = records.iter().map(|(digest, record)| (digest, text(record))).collect();
        home.database().write(&records);
    }

    fn record(&self, home: &Home, digest: &str) -> Option<Record> {
        home.database().read().get(digest.as_bytes()).map(|text| parse(text, &TimeZone::UTC))
    }
}

/// Parses a record. Accepts only the form that the established server writes.
fn parse(text: &[u8], zone: &TimeZone) -> Record {
    let text = std::str::from_utf8(text).unwrap();
    let fields: Vec<&str> = text.split(',').collect();
    assert!(fields.len() == 7 && fields[0] == "1", "{text}");
    let date = |field: &str| {
        let length = field.len();
        assert!(field == "None" || length == 19 || (length == 26 && !field.ends_with(".000000")), "{text}");
        (field != "None").then(|| {
            let date: DateTime = field.replace(' ', "T").parse().unwrap();
            date.to_zoned(zone.clone()).unwrap().timestamp().as_second()
        })
    };
    let tally = |fields: &[&str]| Tally {
        count: fields[0].parse().unwrap(),
        first: date(fields[1]),
        last: date(fields[2]),
    };
    (tally(&fields[1..4]), tally(&fields[4..7]))
}

/// Returns a homedir without expiry.
fn home() -> Home {
    Home::open().config("CleanupAge = 0\n")
}

#[test]
fn dates_with_and_without_a_fraction_are_read_and_kept_byte_for_byte() {
    let home = home();
    let (first, second) = (DIGEST, "b".repeat(40));
    let database = home.database();
    let text = "2011-03-13 07:06:42.000001,2011-03-13 07:06:43.999999";
    database.write(&[
        (first, format!("1,5,2011-03-13 07:06:40.250000,2011-03-13 07:06:41,3,{text}")),
        (&second, "1, 1 ,2011-03-13 07:06:40.5,2011-03-13 07:06:41,+0,None,None".to_owned()),
    ]);
    let server = home.start();
    let info = done(&server, "info", first);
    assert_eq!(info.times(), [THEN, LATER, THEN + 2, THEN + 3]);
    assert_eq!(info.counts(), (5, 3));
    let info = done(&server, "info", &second);
    assert_eq!(info.times(), [THEN, LATER, 0, 0]);
    assert_eq!(info.counts(), (1, 0));
    assert_eq!(server.request("report", &[first, &second]).code(), 200);
    server.stop();

    let record = database.record(first);
    assert!(record.starts_with("1,6,2011-03-13 07:06:40.250000,20"), "{record}");
    assert!(record.ends_with(&format!(",3,{text}")), "{record}");
    let record = database.record(&second);
    assert!(record.starts_with("1,2,2011-03-13 07:06:40.500000,20"), "{record}");
    assert!(record.ends_with(",0,None,None"), "{record}");
}

#[test]
fn new_records_have_the_established_form() {
    let home = home();
    let server = home.start();
    let start = unix_time();
    assert_eq!(server.request("report", &[DIGEST]).code(), 200);
    let database = home.database();
    server.stop();
    let (reports, whitelistings) = parse(database.record(DIGEST).as_bytes(), &TimeZone::UTC);
    assert_eq!(whitelistings, Tally::default());
    let time = reports.first.unwrap();
    assert!((start..=unix_time()).contains(&time));
    assert_eq!(reports.count, 1);
}

#[test]
fn server_and_gdbmtool_read_each_others_records() {
    let home = home();
    let other = "b".repeat(40);
    let database = home.database();
    database.write(&[("c".repeat(40), "1,0,None,None,0,None,None")]);
    let text = "1,5,2011-03-13 07:06:40,2011-03-13 07:06:41,0,None,None";
    database.gdbmtool(&format!("store {other} \"{text}\"\n"));
    let server = home.start();
    assert_eq!(done(&server, "check", &other).counts(), (5, 0));
    done(&server, "whitelist", DIGEST);
    server.stop();
    let fetched = database.gdbmtool(&format!("fetch {DIGEST}\ncount\n"));
    assert!(fetched.starts_with("1,0,None,None,1,2"), "{fetched}");
    assert!(fetched.contains("There are 3 items"), "{fetched}");
}

#[test]
fn records_of_version_0_are_counted() {
    let home = home();
    home.database()
        .write(&[(DIGEST, "5,1300000000,1300000001"), (&"1".repeat(40), "1,1300000000,1300000001")]);
    let server = home.start();
    assert_eq!(done(&server, "check", DIGEST).counts(), (5, 0));
    assert_eq!(done(&server, "check", &"1".repeat(40)).counts(), (1, 0));
}

#[test]
fn dates_are_local_times_in_the_time_zone_of_the_server() {
    // The first is just after a change to daylight saving time.
    for (zone, then, written) in [
        ("America/New_York", THEN, "2011-03-13 03:06:40"),
        ("Asia/Kolkata", THEN, "2011-03-13 12:36:40"),
        ("Australia/Lord_Howe", THEN, "2011-03-13 18:06:40"),
        ("Europe/Berlin", 1_310_000_000, "2011-07-07 02:53:20"),
        ("XYZ-3:30", THEN, "2011-03-13 10:36:40"),
    ] {
        let home = home().environment("TZ", zone);
        let database = home.database();
        database.write(&[(DIGEST, format!("1,1,{written},{written},0,None,None"))]);
        let server = home.start();
        let info = done(&server, "info", DIGEST);
        assert_eq!(info.times(), [then, then, 0, 0], "{zone}");
        let start = unix_time();
        done(&server, "whitelist", DIGEST);
        let [.., updated] = done(&server, "info", DIGEST).times();
        assert!((start..=unix_time()).contains(&updated), "{zone}");
        server.stop();
        let zone = TimeZone::get(zone).or_else(|_| TimeZone::posix(zone)).unwrap();
        let (reports, whitelistings) = parse(database.record(DIGEST).as_bytes(), &zone);
        assert_eq!(reports, Tally::new(1, then, then));
        assert_eq!(whitelistings, Tally::new(1, updated, updated));
    }
}

/// Returns the number of log lines that recommend pyzor-migrate for unusual keys.
fn hints(home: &Home) -> usize {
    home.log().lines().filter(|line| line.contains(" WARNING ") && line.contains("pyzor-migrate")).count()
}

#[test]
fn lower_case_keys_cause_no_warning() {
    let home = Home::open();
    let server = home.start();
    done(&server, "report", DIGEST);
    server.stop();
    let server = home.start();
    assert_eq!(done(&server, "check", DIGEST).counts(), (1, 0));
    assert!(server.stop().success());
    assert_eq!(hints(&home), 0, "{}", home.log());
}

#[test]
fn empty_file_becomes_a_database() {
    let home = Home::open().file("pyzord.db", "");
    let server = home.start();
    done(&server, "report", DIGEST);
    let database = home.database();
    server.stop();
    assert_eq!(database.read().len(), 1);
}

//! Servers on migrated databases.

use super::sides::{Gdbm, Hashes, MySql, Texts};
use super::{Place, Record, SECOND, Side, THEN, Tally, digest, tally};
use crate::harness::{Home, interop, unix_time};

/// Records of all kinds.
fn kinds() -> [Record; 4] {
    let whitelists = tally(2, THEN + 4 * SECOND, THEN + 5 * SECOND);
    [
        Record::reported(5),
        Record { whitelists, ..Record::default() },
        Record::full(7),
        Record { reports: Tally { count: 3, ..Tally::default() }, ..Record::default() },
    ]
}

/// Migrates records to this database, and checks and reports them through a server.
fn served(destination: &dyn Side, home: &Home) {
    let source = Gdbm::new();
    let digests: Vec<String> = (0..4).map(digest).collect();
    let records: Vec<_> = digests.iter().map(String::as_str).zip(kinds()).collect();
    source.plant(&records, "UTC");
    // Records that must be repaired.
    let odd = [digest(10), digest(11)];
    source.put(&[(odd[0].to_uppercase().into_bytes(), b"5,1300000000,1300000001".to_vec())]);
    source.plant(&[(&format!("b'{}'", odd[1]), Record::reported(6))], "UTC");
    Place::new().migrate(&source, destination, &[]).expect_plain(destination, 6);

    let server = home.start();
    let seconds = |time: Option<i64>| time.map_or(0, |micros| micros / SECOND);
    let times = |record: &Record| {
        [record.reports.first, record.reports.last, record.whitelists.first, record.whitelists.last]
            .map(seconds)
    };
    let odd_records = [(&*odd[0], Record::reported(5)), (&*odd[1], Record::reported(6))];
    for (digest, record) in records.iter().chain(&odd_records) {
        assert_eq!(
            server.request("check", &[digest]).counts(),
            (record.reports.count, record.whitelists.count),
            "{digest}"
        );
        assert_eq!(server.request("info", &[digest]).times(), times(record), "{digest}");
    }
    let start = unix_time();
    for (digest, record) in &records {
        assert_eq!(server.request("report", &[digest]).code(), 200, "{digest}");
        assert_eq!(server.request("whitelist", &[digest]).code(), 200, "{digest}");
        let info = server.request("info", &[digest]);
        assert_eq!(info.counts(), (record.reports.count + 1, record.whitelists.count + 1), "{digest}");
        let [first, last, wl_first, wl_last] = info.times();
        let now = start..=unix_time();
        assert!(now.contains(&last) && now.contains(&wl_last), "{digest}");
        if let Some(time) = record.reports.first {
            assert_eq!(first, time / SECOND, "{digest}");
        }
        if let Some(time) = record.whitelists.first {
            assert_eq!(wl_first, time / SECOND, "{digest}");
        }
    }
    assert!(server.stop().success());
}

fn home(side: &dyn Side) -> Home {
    Home::open().config(&format!("CleanupAge = 0\n{}", side.settings()))
}

#[test]
fn a_migrated_file_is_served() {
    let destination = Gdbm::new();
    served(&destination, &destination.home().clone().config("CleanupAge = 0\n"));
}

#[test]
fn migrated_hashes_are_served() {
    let destination = Hashes::new();
    served(&destination, &home(&destination));
}

#[test]
fn migrated_texts_are_served() {
    let destination = Texts::new();
    served(&destination, &home(&destination));
}

#[test]
fn a_migrated_table_is_served() {
    let destination = MySql::new();
    served(&destination, &home(&destination));
}

#[test]
fn table_created_by_the_migration_is_served() {
    let destination = MySql::absent();
    served(&destination, &home(&destination));
}

#[test]
fn python_server_serves_a_migrated_file() {
    let destination = Gdbm::new();
    let home = destination.home().clone().config("CleanupAge = 0\n").program(interop("pyzord"));
    served(&destination, &home);
}

#[test]
fn python_server_serves_migrated_hashes() {
    let destination = Hashes::new();
    served(&destination, &home(&destination).program(interop("pyzord")));
}

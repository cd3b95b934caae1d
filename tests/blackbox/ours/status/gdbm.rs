//! GNU dbm files.

use std::fs;

use crate::harness::{Home, StorageStatus, digest};

/// A record of one report, as the Python server writes it.
fn record(date: &str) -> String {
    format!("1,1,{date} 00:00:00,{date} 00:00:00,0,None,None")
}

fn is_counted(records: u64) -> impl Fn(&StorageStatus) -> bool {
    move |status| status.number("records") == Some(records)
}

#[test]
fn records_are_as_many_as_gdbmtool_counts() {
    let home = Home::open();
    let old = record("2011-03-13");
    let planted: Vec<(String, String)> = (0..3000).map(|number| (digest(number), old.clone())).collect();
    home.database().write(&planted);
    let home = home.config("CleanupAge = 0\n");
    let server = home.start();
    home.storage_with("3000 records", is_counted(3000));
    for number in (2900..3500).step_by(100) {
        let digests: Vec<String> = (number..number + 100).map(digest).collect();
        let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
        assert_eq!(server.request("report", &digests).code(), 200);
        // A digest that is only whitelisted is a record, too.
        assert_eq!(server.request("whitelist", &[&digest(number + 50_000)]).code(), 200);
    }
    let status = home.storage_status();
    assert!(
        status.is_available() && status.reason().is_empty() && status.problems().is_empty(),
        "{status:?}"
    );
    assert_eq!(status.number("records"), Some(3506));
    assert_eq!(status.number("next_expiry_in_seconds"), None);
    assert_eq!(server.stop().code(), Some(0));
    let counted = home.database().gdbmtool("count\n");
    assert!(counted.contains("3506"), "{counted}");
}

#[test]
fn expiry_is_counted() {
    let home = Home::open();
    let planted: Vec<(String, String)> = (0..900)
        .map(|number| (digest(number), record(if number % 3 == 0 { "2999-01-01" } else { "2011-03-13" })))
        .collect();
    home.database().write(&planted);
    let server = home.start();
    let status = home.storage_with("an expiry", |status| status.expiry("removed").is_some());
    assert_eq!((status.expiry("removed"), status.expiry("visited")), (Some(600), Some(900)));
    assert_eq!(status.number("records"), Some(300));
    assert!(status.number("next_expiry_in_seconds") > Some(86_000), "{status:?}");
    assert_eq!(server.stop().code(), Some(0));
    assert!(home.database().gdbmtool("count\n").contains("300"));
}

#[test]
fn size_is_that_of_the_closed_file() {
    let home = Home::open();
    assert_eq!(home.start().stop().code(), Some(0));
    let length = fs::metadata(home.path("pyzord.db")).unwrap().len();
    let _server = home.start();
    // The file is a gibibyte longer while it is open for changes.
    assert_eq!(home.storage_status().number("bytes"), Some(length));
}

#[test]
fn deleted_file_and_foreign_keys_are_problems() {
    let home = Home::open().config("CleanupAge = 0\n");
    home.database().write(&[("a mail's subject", &*record("2011-03-13"))]);
    let server = home.start();
    let status = home.storage_with("the foreign key", |status| !status.problems().is_empty());
    assert!(status.problems()[0].contains("keys that are not lower-case digests"), "{status:?}");
    fs::remove_file(home.path("pyzord.db")).unwrap();
    let status = home.storage_with("the deleted file", |status| status.problems().len() == 2);
    assert!(status.problems()[0].contains("was deleted"), "{status:?}");
    assert!(status.is_available() && server.request("report", &[&digest(1)]).code() == 200);
}

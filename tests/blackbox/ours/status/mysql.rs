//! MySQL and MariaDB.

use crate::harness::{Home, MariaDb, StorageStatus, digest};

fn home(mariadb: &MariaDb, settings: &str) -> Home {
    Home::open().config(&format!(
        "Engine = mysql\nDigestDB = 127.0.0.1:{},pyzor,secret,pyzor,digests\n{settings}",
        mariadb.port()
    ))
}

fn is(availability: &str) -> impl Fn(&StorageStatus) -> bool {
    move |status| status.availability() == availability
}

/// Creates the table, and records of one report each that last changed so many days ago.
fn plant(mariadb: &MariaDb, numbers: std::ops::Range<u32>, days_ago: u32) {
    let row = |number| {
        format!(
            "('{}', 1, 0, NOW() - INTERVAL {days_ago} DAY, NOW() - INTERVAL {days_ago} DAY)",
            digest(number)
        )
    };
    let rows: Vec<String> = numbers.map(row).collect();
    mariadb.sql(&format!(
        "CREATE TABLE IF NOT EXISTS pyzor.digests (digest char(40) NOT NULL, r_count int, wl_count int, r_entered \
         datetime, wl_entered datetime, r_updated datetime, wl_updated datetime, PRIMARY KEY (digest)); INSERT INTO \
         pyzor.digests (digest, r_count, wl_count, r_entered, r_updated) VALUES {}",
        rows.join(",")
    ));
}

#[test]
fn killed_server_is_unavailable_until_it_is_back() {
    let mut mariadb = MariaDb::start();
    plant(&mariadb, 0..500, 1);
    mariadb.sql("ANALYZE TABLE pyzor.digests");
    let home = home(&mariadb, "CleanupAge = 0\n");
    let server = home.start();
    let status = home.storage_with("the size", |status| status.number("records").is_some());
    assert_eq!(
        status.number("records"),
        mariadb.sql("SELECT COUNT(*) FROM pyzor.digests").trim().parse().ok()
    );
    assert!(status.is_available() && status.number("bytes") > Some(10_000), "{status:?}");
    assert_eq!((status.number("synced_seconds_ago"), status.expiry("removed")), (None, None));
    mariadb.service().kill();
    let status = home.storage_with("an unavailable database", is("unavailable"));
    assert!(!status.reason().is_empty() && status.number("since_seconds").is_some(), "{status:?}");
    home.storage_with("an unknown size", |status| status.number("records").is_none());
    mariadb.restart();
    home.storage_with("an available database", is("available"));
    home.storage_with("the size", |status| status.number("records") == Some(500));
    assert_eq!(server.request("report", &[&digest(1)]).code(), 200);
}

#[test]
fn read_only_server_and_its_end_are_noticed_without_a_request() {
    let mariadb = MariaDb::start();
    plant(&mariadb, 0..1, 1);
    mariadb.sql("SET GLOBAL read_only = 1");
    let home = home(&mariadb, "CleanupAge = 0\n");
    let server = home.start();
    let status = home.storage_with("a read-only database", is("read_only"));
    assert!(status.reason().contains("read-only"), "{status:?}");
    assert_eq!(server.request("check", &[&digest(0)]).code(), 200);
    assert_eq!(home.storage_status().availability(), "read_only");
    mariadb.sql("SET GLOBAL read_only = 0");
    home.storage_with("an available database", is("available"));
    mariadb.sql("SET GLOBAL read_only = 1");
    assert_eq!(server.request("report", &[&digest(0)]).code(), 500);
    assert_eq!(home.storage_status().availability(), "read_only");
    mariadb.sql("SET GLOBAL read_only = 0");
    assert_eq!(server.request("report", &[&digest(0)]).code(), 200);
    let status = home.storage_status();
    assert!(status.is_available() && status.reason().is_empty(), "{status:?}");
}

#[test]
fn expiry_is_shown() {
    let mariadb = MariaDb::start();
    plant(&mariadb, 0..300, 1);
    plant(&mariadb, 300..500, 365);
    let home = home(&mariadb, "");
    let _server = home.start();
    let status = home.storage_with("an expiry", |status| status.expiry("removed").is_some());
    assert_eq!((status.expiry("removed"), status.expiry("visited")), (Some(200), Some(500)));
    assert!(status.number("next_expiry_in_seconds") > Some(86_000), "{status:?}");
}

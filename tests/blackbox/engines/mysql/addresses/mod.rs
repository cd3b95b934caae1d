//! `DigestDB`, accounts, TLS, and the messages of failed starts.

mod ours;

use super::{MySql, PASSWORD};
use crate::engines::{Store, done};
use crate::harness::{DIGEST, Home};

/// Starts a server, sends a report, and checks the digest's count.
#[track_caller]
fn counts(home: &Home, expected: i64) {
    let server = home.start();
    done(&server, "report", DIGEST);
    assert_eq!(done(&server, "check", DIGEST).counts(), (expected, 0));
    assert!(server.stop().success());
    assert!(!home.everything_said().contains(PASSWORD), "{}", home.everything_said());
}

#[test]
fn table_in_another_database_is_found() {
    // The Python server pastes the table name into its statements; ours parses it.
    let store = MySql::new();
    let other = MySql::bare();
    store.sql(&format!("GRANT ALL ON {}.* TO {}", store.name, other.name));
    let dsn = format!("localhost,{},{PASSWORD},{},{}.digests", other.name, other.name, store.name);
    let socket = store.mariadb.socket().display().to_string();
    counts(&other.home_at(&dsn, "").environment("MYSQL_UNIX_PORT", socket), 1);
    assert_eq!(store.row("r_count", DIGEST), "1");
}

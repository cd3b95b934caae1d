//! The state of a database whose syncs fail or hang.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Home, Server, StorageStatus, digest};

/// The longest wait for the first sync, which comes a minute after the start.
const LIMIT: Duration = Duration::from_secs(150);

/// Starts a server with strace injecting something into its syncs.
fn start(home: &Home, injection: &str) -> Server {
    let trace = home.parent().join("trace");
    let script = format!(
        "exec strace -f --seccomp-bpf -qq -o '{}' -e trace=fsync -e inject=fsync:{injection} \"$@\"",
        trace.display()
    );
    let mut server = Server::start(home, home.under(&script, false));
    server.serves(&mut home.caller());
    server
}

/// Waits until the state satisfies a condition, and returns it.
fn status_with(home: &Home, is_met: impl Fn(&StorageStatus) -> bool) -> StorageStatus {
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = home.storage_status();
        if is_met(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn failed_sync_makes_the_database_read_only_until_one_succeeds() {
    let home = Home::open();
    // A database that exists already: the start then syncs nothing.
    assert_eq!(home.start().stop().code(), Some(0));
    let server = start(&home, "error=EIO:when=1..8");
    assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
    let failed = status_with(&home, |status| !status.is_available());
    assert_eq!(failed.availability(), "read_only", "{failed:?}");
    assert!(failed.reason().contains("to disk: Input/output error"), "{failed:?}");
    assert_eq!(home.caller().answered("report", &[&digest(2)]).code(), 500);
    let age = failed.number("synced_seconds_ago");
    assert!(age > Some(40), "the change is a minute old: {failed:?}");
    status_with(&home, |status| status.number("synced_seconds_ago") > age);
    let again = status_with(&home, StorageStatus::is_available);
    assert_eq!(again.number("synced_seconds_ago"), Some(0), "{again:?}");
    assert!(
        again.problems().iter().any(|problem| problem.contains("the next start repairs it")),
        "{again:?}"
    );
    drop(server);
}

#[test]
fn hanging_sync_shows_in_the_time_since_the_last_one() {
    let home = Home::open();
    assert_eq!(home.start().stop().code(), Some(0));
    let server = start(&home, "delay_enter=20000000:when=1");
    assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
    let hanging = status_with(&home, |status| status.number("synced_seconds_ago") > Some(70));
    assert!(hanging.is_available(), "{hanging:?}");
    status_with(&home, |status| status.number("synced_seconds_ago") == Some(0));
    drop(server);
}

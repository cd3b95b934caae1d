//! What operators see of the engine.

use std::thread;

use super::*;
use crate::storage::{Availability, EngineStatus};

const LIMIT: Duration = Duration::from_secs(20);

/// Waits until the status satisfies a condition, and returns it.
fn status_with(engine: &Gdbm, is_met: impl Fn(&EngineStatus) -> bool) -> EngineStatus {
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = engine.status();
        if is_met(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn count(engine: &Gdbm) -> u64 {
    engine.shared.lock().as_mut().unwrap().handle.count().unwrap()
}

#[test]
fn records_are_counted_and_kept_current() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    write(&path, (0..5000).map(|number| (digest(number).to_hex().to_vec(), record(1))));
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    // Some of these reports come while the keeper counts.
    for first in (5000..6000).step_by(10) {
        report_all(&engine, first..first + 10);
    }
    status_with(&engine, |status| status.records == Some(6000));
    assert_eq!(count(&engine), 6000);
    report_all(&engine, 5990..6100);
    let status = engine.status();
    assert_eq!((status.records, status.availability), (Some(6100), Availability::Available));
    assert_eq!((status.since_seconds, status.reason, status.problems), (None, None, Vec::new()));
    assert_eq!((status.last_expiry, status.next_expiry_in_seconds), (None, None));
    engine.shared.refresh();
    let bytes = engine.status().bytes;
    close(engine);
    assert_eq!(bytes, Some(std::fs::metadata(&path).unwrap().len()));
}

#[test]
fn expiry_and_what_it_found_are_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    let odd = [(b"a subject".to_vec(), record(1)), (digest(900_000).to_hex().to_vec(), b"damaged".to_vec())];
    let mixed = (0..3000)
        .map(|number| (digest(number).to_hex().to_vec(), record(if number % 3 == 0 { 1 } else { 100 })));
    write(&path, mixed.chain(odd));
    let engine = Gdbm::open(&path, Some(Duration::from_secs(30 * 86_400)), TimeZone::UTC).unwrap();
    let status = status_with(&engine, |status| status.last_expiry.is_some());
    let expiry = status.last_expiry.clone().unwrap();
    assert_eq!((expiry.removed, expiry.visited, &expiry.error), (2000, 3002, &None));
    assert!(expiry.seconds_ago <= LIMIT.as_secs());
    assert!((86_000..=86_400).contains(&status.next_expiry_in_seconds.unwrap()), "{status:?}");
    assert_eq!((status.records, count(&engine)), (Some(1002), 1002));
    assert!(
        matches!(status.problems.as_slice(), [damaged, foreign]
            if damaged.starts_with("1 damaged records") && foreign.starts_with("1 keys that are not")),
        "{:?}",
        status.problems
    );
    close(engine);
}

#[test]
fn status_does_not_wait_for_the_lock_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Gdbm::open(&directory.path().join("pyzord.db"), None, TimeZone::UTC).unwrap();
    status_with(&engine, |status| status.records == Some(0));
    report_all(&engine, 0..3);
    let shared = std::sync::Arc::clone(&engine.shared);
    let guard = shared.lock();
    // Would wait forever for the lock.
    assert_eq!(engine.status().records, Some(3));
    drop(guard);
    close(engine);
}

#[test]
fn new_file_is_unsynced_until_the_first_sync() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Gdbm::open(&directory.path().join("pyzord.db"), None, TimeZone::UTC).unwrap();
    let synced_later = || {
        let later = Instant::now() + Duration::from_secs(100);
        engine.shared.condition.status(later).synced_seconds_ago.unwrap()
    };
    assert!(synced_later() >= 100);
    engine.shared.sync_if_due(&mut Instant::now());
    assert_eq!(synced_later(), 0);
    report_all(&engine, 0..1);
    assert!(synced_later() >= 100);
    engine.shared.sync_if_due(&mut Instant::now());
    assert_eq!(synced_later(), 0);
    close(engine);
}

#[test]
fn moved_file_foreign_keys_and_damaged_records_are_problems() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    write(&path, [(b"a subject".to_vec(), record(1)), (digest(1).to_hex().to_vec(), b"damaged".to_vec())]);
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    status_with(
        &engine,
        |status| matches!(status.problems.as_slice(), [one] if one.contains("not lower-case")),
    );
    assert_eq!(report(&engine, [digest(1)]), [Err(StorageError::Damaged)]);
    let other = directory.path().join("other");
    std::fs::rename(&path, &other).unwrap();
    engine.shared.refresh();
    let problems = engine.status().problems;
    assert!(
        problems.len() == 3
            && problems[0].contains("was moved or replaced")
            && problems[1].contains(&digest(1).to_string()),
        "{problems:?}"
    );
    std::fs::rename(&other, &path).unwrap();
    engine.shared.refresh();
    assert_eq!(engine.status().problems, problems[1..]);
    std::fs::remove_file(&path).unwrap();
    engine.shared.refresh();
    assert!(engine.status().problems[0].contains("was deleted"));
    close(engine);
}

#[test]
fn engine_that_stops_the_server_is_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Gdbm::open(&directory.path().join("pyzord.db"), None, TimeZone::UTC).unwrap();
    engine.shared.fail("it is damaged".to_owned());
    engine.shared.marker.flag().require_repair();
    let status = engine.status();
    assert_eq!(status.availability, Availability::Unavailable);
    assert_eq!(status.reason.as_deref(), Some("it is damaged"));
    assert!(status.problems[0].ends_with("the next start repairs it"), "{:?}", status.problems);
}

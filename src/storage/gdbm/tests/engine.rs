//! Batches, errors and syncs of the engine.

use std::sync::Arc;
use std::thread;

use super::*;
use crate::storage::gdbm::engine::PanicReport;

#[test]
fn look_up_sees_the_record_before_the_increments_of_its_batch() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    write(
        &path,
        [
            (digest(1).to_hex().to_vec(), b"5,1300000000,1400000000".to_vec()),
            (digest(2).to_hex().to_vec(), b"damaged".to_vec()),
        ],
    );
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    let mut batch = Batch::default();
    batch.restart(Timestamp::from_seconds(1_700_000_000), Instant::now());
    let look_up = batch.look_up(digest(1));
    let reports = [1, 1, 2, 3].map(|number| batch.increment(digest(number), TallyKind::Report));
    let whitelisting = batch.increment(digest(3), TallyKind::Whitelist);
    let BatchProgress::Done(batch) = engine.run(batch) else { panic!("it is not completed on the spot") };
    assert_eq!(batch.found(look_up, i64::MAX).unwrap().reports.count, 5);
    assert_eq!(
        reports.map(|report| batch.counted(report)),
        [Ok(()), Ok(()), Err(StorageError::Damaged), Ok(())]
    );
    assert_eq!(batch.counted(whitelisting), Ok(()));
    close(engine);
    let found = read(&path);
    assert_eq!(found[&digest(1).to_string()], "1,7,2011-03-13 07:06:40,2023-11-14 22:13:20,0,None,None");
    assert_eq!(found[&digest(2).to_string()], "damaged");
    assert_eq!(
        found[&digest(3).to_string()],
        "1,1,2023-11-14 22:13:20,2023-11-14 22:13:20,1,2023-11-14 22:13:20,2023-11-14 22:13:20"
    );
}

#[test]
fn opening_error_is_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    let error = |path: &Path| match Gdbm::open(path, None, TimeZone::UTC) {
        Ok(_) => panic!("it was opened"),
        Err(error) => (error.to_string().replace(&path.display().to_string(), "FILE"), error.is_busy()),
    };
    std::fs::write(&path, "this is no database, but long enough for the header of one\n".repeat(100))
        .unwrap();
    let (text, busy) = error(&path);
    assert_eq!(
        text,
        "FILE is not a GNU dbm database (Bad magic number): if it was one, run pyzord --recover, which repairs it and \
         keeps the original file; otherwise move it away, or set DigestDB to another file"
    );
    assert!(!busy);
    std::fs::write(&path, "short").unwrap();
    assert!(error(&path).0.starts_with("FILE is not a GNU dbm database ("), "{:?}", error(&path));
    assert!(error(&directory.path().join("missing/pyzord.db")).0.contains("No such file or directory"));

    std::fs::write(&path, "").unwrap();
    let _first = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    let (text, busy) = error(&path);
    // The holder is this process, so the message does not name it.
    assert_eq!(text, "the database FILE is in use by another process: stop that first");
    assert!(busy);
}

#[test]
fn changes_are_synced_when_the_time_has_come() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Gdbm::open(&directory.path().join("pyzord.db"), None, TimeZone::UTC).unwrap();
    let is_dirty = || engine.shared.lock().as_ref().unwrap().dirty;
    assert!(report(&engine, [digest(1)]).iter().all(Result::is_ok));
    assert!(is_dirty());
    let mut later = Instant::now() + Duration::from_secs(60);
    engine.shared.sync_if_due(&mut later);
    assert!(is_dirty(), "it was synced too early");
    let mut due = Instant::now();
    engine.shared.sync_if_due(&mut due);
    assert!(!is_dirty());
    assert!(due > Instant::now() + Duration::from_secs(30), "no next sync is planned");
}

#[test]
fn database_is_closed_without_a_runtime_and_only_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    assert!(report(&engine, [digest(1)]).iter().all(Result::is_ok));
    assert!(marker(&path).path().exists());
    assert_eq!(engine.close().now_or_never(), Some(()));
    assert!(!marker(&path).path().exists());
    // The marker of a next owner.
    std::fs::write(marker(&path).path(), "").unwrap();
    close(engine);
    assert!(marker(&path).path().exists());
}

#[test]
fn close_that_is_abandoned_is_completed_by_the_drop() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    assert!(report(&engine, [digest(1)]).iter().all(Result::is_ok));
    let runtime = runtime();
    runtime.block_on(async {
        let _ = engine.close().now_or_never();
        drop(engine);
        assert!(!marker(&path).path().exists());
    });
    assert_eq!(read(&path).len(), 1);
}

#[test]
fn close_in_a_runtime_that_ends_is_completed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    let ended = runtime();
    let handle = ended.handle().clone();
    ended.shutdown_background();
    handle.block_on(engine.close());
    assert!(!marker(&path).path().exists());
    assert!(engine.shared.lock().is_none());
}

#[test]
fn database_that_is_not_a_regular_file_is_refused_without_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [path.as_path(), directory.path()] {
        let Err(error) = Gdbm::open(path, None, TimeZone::UTC) else { panic!("it was opened") };
        assert!(error.to_string().ends_with("it is not a regular file"), "{error}");
    }
}

#[test]
fn panic_of_the_maintenance_thread_stops_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Gdbm::open(&directory.path().join("pyzord.db"), None, TimeZone::UTC).unwrap();
    let shared = Arc::clone(&engine.shared);
    let thread = thread::spawn(move || {
        let _report = PanicReport(&shared);
        panic!("in the maintenance thread");
    });
    thread.join().unwrap_err();
    assert!(engine.failed().now_or_never().is_some_and(|why| why.contains("panicked")));
}

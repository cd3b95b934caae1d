//! Digests that were chosen to collide.

use super::*;

/// Digests whose hashes are equal: the hash adds up characters shifted by a number that repeats
/// every 24, so that two of them can change places.
fn colliding(number: usize) -> impl Iterator<Item = Digest> {
    (0..number).map(|number| {
        let mut text = *b"0123456789abcdef01234567fedcba9876543210";
        for place in (0..16).filter(|place| number >> place & 1 == 1) {
            text.swap(place, place + 24);
        }
        Digest::from_hex(&text).unwrap()
    })
}

#[test]
fn digests_that_were_chosen_to_collide_are_refused_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    let outcomes = report(&engine, colliding(300));
    let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!((100..300).contains(&stored), "{stored}");
    assert_eq!(engine.failed().now_or_never(), None);
    assert!(report(&engine, (0..100).map(digest)).iter().all(Result::is_ok));
    assert!(
        report(&engine, colliding(stored)).iter().all(Result::is_ok),
        "those that are stored are still counted"
    );
    close(engine);
    assert!(std::fs::metadata(&path).unwrap().len() < 4 << 20);
    assert_eq!(read(&path).len(), stored + 100);
}

#[test]
fn digests_that_nobody_chose_are_never_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    for start in (0..30_000).step_by(1000) {
        assert!(report(&engine, (start..start + 1000).map(digest)).iter().all(Result::is_ok));
    }
}

//! Digests chosen to collide.

use super::*;

/// Returns digests with equal hashes. The hash adds characters, each shifted by a number that repeats every 24, so two
/// characters 24 apart can be swapped.
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
fn only_digests_chosen_to_collide_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    let outcomes = report(&engine, colliding(300));
    let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!((100..300).contains(&stored), "{stored}");
    assert_eq!(engine.failed().now_or_never(), None);
    assert!(report(&engine, (0..100).map(digest)).iter().all(Result::is_ok));
    assert!(report(&engine, colliding(stored)).iter().all(Result::is_ok), "stored digests are still counted");
    close(engine);
    assert!(std::fs::metadata(&path).unwrap().len() < 4 << 20);
    assert_eq!(read(&path).len(), stored + 100);
}

#[test]
fn ordinary_digests_are_never_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    for start in (0..30_000).step_by(1000) {
        assert!(report(&engine, (start..start + 1000).map(digest)).iter().all(Result::is_ok));
    }
}

//! Comparisons of a source with its copy.

use super::sides::{Gdbm, Hashes, MySql, Texts};
use super::{Place, Record, SECOND, Side, THEN, digest, tally};

#[test]
fn a_copy_is_compared_at_the_destinations_resolution_and_limits() {
    let source = Gdbm::new();
    let mut record = Record::full(i64::MAX);
    record.whitelists = tally(i64::MAX, THEN + 999_999, THEN + SECOND + 1);
    source.plant(&[(&digest(1), record), (&digest(2), Record::full(5))], "UTC");
    for destination in [&Hashes::new() as &dyn Side, &Texts::new(), &MySql::new()] {
        let place = Place::new();
        place.migrate(&source, destination, &[]).migrated();
        let summary = place.migrate(&source, destination, &["--verify-only"]).verified();
        assert_eq!((summary.complete, summary.named.len()), (Some((2, 0)), 0), "{}", destination.engine());
        // A difference of a second is found.
        let mut other = record;
        other.whitelists.first = Some(THEN + SECOND);
        destination.plant(&[(&digest(1), other)], "UTC");
        let summary = place.migrate(&source, destination, &["--verify-only"]).verified();
        assert_eq!(
            (summary.complete, summary.named),
            (Some((2, 1)), [digest(1)].into()),
            "{}",
            destination.engine()
        );
    }
}

#[test]
fn repaired_keys_are_compared_with_their_sum() {
    let (source, destination, place) = (Gdbm::new(), Hashes::new(), Place::new());
    let (a, b) = (digest(1), digest(2));
    source.plant(
        &[
            (&a, Record::reported(1)),
            (&a.to_uppercase(), Record::reported(2)),
            (&format!("b'{b}'"), Record::reported(3)),
        ],
        "UTC",
    );
    place.migrate(&source, &destination, &[]).expect_plain(&destination, 3);
    let finished = place.migrate(&source, &destination, &["--verify-only"]);
    assert_eq!(finished.verified().named.len(), 0, "{finished:?}");
    for (count, digest) in [(1, &a), (2, &b)] {
        let before = destination.redis().hash(&destination.key(digest));
        destination.plant(&[(digest, Record::reported(count))], "UTC");
        let finished = place.migrate(&source, &destination, &["--verify-only"]);
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(1), ""), "{finished:?}");
        assert!(finished.stdout.contains(" differs: "), "{finished:?}");
        destination.redis().cli(&["hset", &destination.key(digest), "r_count", &before["r_count"]]);
    }
    let finished = place.migrate(&source, &destination, &["--verify-only"]);
    assert_eq!(finished.verified().named.len(), 0, "{finished:?}");
}

#[test]
fn corrupt_records_on_either_side_differ() {
    let (source, destination, place) = (Gdbm::new(), Hashes::new(), Place::new());
    let (a, b, c) = (digest(1), digest(2), digest(3));
    source.plant(&[(&a, Record::full(5)), (&b, Record::full(5)), (&c, Record::full(5))], "UTC");
    place.migrate(&source, &destination, &[]).expect_plain(&destination, 3);
    source.put(&[(a.clone().into_bytes(), b"garbage".to_vec())]);
    destination.put(&[(b.clone().into_bytes(), b"HSET KEY r_count x".to_vec())]);
    let (from, to) = (source.all(), destination.all());
    let finished = place.migrate(&source, &destination, &["--verify-only"]);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(1), ""), "{finished:?}");
    for digest in [&a, &b] {
        assert!(finished.stdout.contains(&format!("Record {digest} ")), "{finished:?}");
    }
    assert!(!finished.stdout.contains(&c), "{finished:?}");
    assert_eq!((source.all(), destination.all()), (from, to));
}

#[test]
fn verification_with_missing_destination_is_refused() {
    let source = Gdbm::new();
    source.plant(&[(&digest(1), Record::full(5))], "UTC");
    for destination in [&Gdbm::absent() as &dyn Side, &MySql::absent()] {
        let finished = Place::new().migrate(&source, destination, &["--verify-only"]);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(!finished.stdout.contains(" 0 differ"), "{finished:?}");
        assert!(!destination.is_there());
    }
}

#[test]
fn expired_records_are_not_compared() {
    let (source, destination, place) = (Gdbm::new(), Hashes::new(), Place::new());
    source.plant(&[(&digest(1), Record::full(5))], "UTC");
    let age = ["--cleanup-age", "1000000"];
    let finished = place.migrate(&source, &destination, &[&age[..], &["--verify"]].concat());
    assert!(
        finished.stdout.contains("Verification complete, 0 records compared, 0 differ\n"),
        "{finished:?}"
    );
    assert_eq!(finished.code, Some(0));
    let summary = place.migrate(&source, &destination, &[&age[..], &["--verify-only"]].concat()).verified();
    assert_eq!(summary.complete, Some((0, 0)));
    let summary = place.migrate(&source, &destination, &["--verify-only"]).verified();
    assert_eq!(summary.complete, Some((1, 1)));
}

//! Merges with `--merge`.

use super::sides::{Gdbm, Hashes, MySql, Texts};
use super::{Content, Place, Planted, Record, SECOND, Side, Summary, THEN, Tally, digest, tally};

const MERGE: [&str; 3] = ["--merge", "--journal", "journal"];

#[test]
fn sums_are_clamped_at_the_limit() {
    for destination in [&Gdbm::new() as &dyn Side, &Hashes::new(), &Texts::new(), &MySql::new()] {
        let (source, place, limit) = (Gdbm::new(), Place::new(), destination.limit());
        let digests: Vec<String> = (0..5).map(digest).collect();
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|at: usize| digests[at].as_str());
        let here = [(a, 1), (b, limit), (c, limit - 5), (d, limit - 7), (e, i64::MAX)];
        let there = [(a, limit), (b, limit), (c, 6), (d, 7), (e, 0)];
        source.plant(&here.map(|(digest, count)| (digest, Record::reported(count))), "UTC");
        destination.plant(&there.map(|(digest, count)| (digest, Record::reported(count))), "UTC");
        let finished = place.migrate(&source, destination, &MERGE);
        let summary = finished.migrated();
        assert_eq!(summary.complete, Some((5, 0)), "{finished:?}");
        assert!(summary.says_clamped || limit == i64::MAX, "{finished:?}");
        let full = digests.iter().map(|digest| (digest.as_str(), Record::reported(limit)));
        let expected = destination.showing(&full.collect::<Vec<_>>(), "UTC");
        destination.expect(&expected);
        // A rerun does not add what was clamped.
        let finished = place.migrate(&source, destination, &MERGE);
        let summary = finished.migrated();
        assert_eq!((summary.complete, summary.before), (Some((0, 0)), 5), "{finished:?}");
        destination.expect(&expected);
    }
}

#[test]
fn all_spellings_of_a_digest_are_added_once() {
    let (source, destination, place) = (Gdbm::new(), Hashes::new(), Place::new());
    let (a, b) = (digest(1), digest(2));
    let (upper, repr) = (a.to_uppercase(), format!("b'{a}'"));
    source.plant(
        &[
            (&a, Record::reported(1)),
            (&upper, Record::reported(10)),
            (&repr, Record::reported(100)),
            (&b.to_uppercase(), Record::reported(5)),
        ],
        "UTC",
    );
    destination.plant(&[(&a, Record::reported(1000)), (&b, Record::reported(50))], "UTC");
    place.migrate(&source, &destination, &MERGE).expect_plain(&destination, 4);
    let expected = |a_count, b_count| {
        destination.showing(&[(&a, Record::reported(a_count)), (&b, Record::reported(b_count))], "UTC")
    };
    destination.expect(&expected(1111, 55));
    let summary = place.migrate(&source, &destination, &MERGE).migrated();
    assert_eq!((summary.complete, summary.before), (Some((0, 0)), 4));
    destination.expect(&expected(1111, 55));
    source.plant(&[(&upper, Record::reported(12))], "UTC");
    let summary = place.migrate(&source, &destination, &MERGE).migrated();
    // The number of transferred keys may include all spellings or only the one that has grown.
    let (transferred, failed) = summary.complete.unwrap();
    assert!(transferred >= 1 && failed == 0 && transferred + summary.before == 4, "{summary:?}");
    destination.expect(&expected(1113, 55));
}

#[test]
fn a_merge_that_deletes_empties_the_source() {
    for source in [&Gdbm::new() as &dyn Side, &Hashes::new(), &Texts::new(), &MySql::new()] {
        let (destination, place) = (Gdbm::new(), Place::new());
        let (a, b) = (digest(1), digest(2));
        source.plant(&[(&a, Record::full(5)), (&b, Record::reported(3))], "UTC");
        destination.plant(&[(&a, Record::full(7))], "UTC");
        let options = [&MERGE[..], &["--delete"]].concat();
        let summary = place.migrate(source, &destination, &options).migrated();
        let expected = Summary { complete: Some((2, 0)), deleted: 2, ..Summary::default() };
        assert_eq!(summary, expected, "{}", source.engine());
        let both = |a_is| destination.showing(&[(&a, a_is), (&b, Record::reported(3))], "UTC");
        destination.expect(&both(Record::full(5).and(Record::full(7))));
        assert_eq!(source.all(), Content::new());
        // Counts of a new record under the key are added.
        let anew = Record { reports: tally(1, THEN + 60 * SECOND, THEN + 61 * SECOND), ..Record::default() };
        source.plant(&[(&a, anew)], "UTC");
        let summary = place.migrate(source, &destination, &options).migrated();
        assert_eq!(
            summary,
            Summary { complete: Some((1, 0)), deleted: 1, ..Summary::default() },
            "{}",
            source.engine()
        );
        let sum = Record::full(5).and(Record::full(7)).and(anew);
        destination.expect(&both(sum));
        assert_eq!(source.all(), Content::new());
    }
}

#[test]
fn two_sources_are_merged_into_one_destination() {
    let (first, second, destination, place) = (Gdbm::new(), Hashes::new(), MySql::new(), Place::new());
    let (a, b, c) = (digest(1), digest(2), digest(3));
    first.plant(&[(&a, Record::reported(1)), (&b, Record::reported(2))], "UTC");
    second.plant(&[(&b, Record::reported(30)), (&c, Record::reported(40))], "UTC");
    place.migrate(&first, &destination, &["--merge", "--journal=one"]).expect_plain(&destination, 2);
    place.migrate(&second, &destination, &["--merge", "--journal=two"]).expect_plain(&destination, 2);
    let expected =
        [(a.as_str(), Record::reported(1)), (&b, Record::reported(32)), (&c, Record::reported(40))];
    destination.expect(&destination.showing(&expected, "UTC"));
    for (source, journal) in [(&first as &dyn Side, "--journal=one"), (&second, "--journal=two")] {
        let summary = place.migrate(source, &destination, &["--merge", journal]).migrated();
        assert_eq!((summary.complete, summary.before), (Some((0, 0)), 2));
    }
    destination.expect(&destination.showing(&expected, "UTC"));
    // A journal belongs to one migration.
    let refused = place.migrate(&second, &destination, &["--merge", "--journal=one"]);
    refused.expect_refusal(&["one"]);
    destination.expect(&destination.showing(&expected, "UTC"));
    let summary = place.migrate(&first, &destination, &["--merge", "--journal=one"]).migrated();
    assert_eq!((summary.complete, summary.before), (Some((0, 0)), 2));
}

#[test]
fn missing_times_are_taken_from_the_other_record() {
    for destination in [&Gdbm::new() as &dyn Side, &Hashes::new(), &Texts::new(), &MySql::new()] {
        let (source, place) = (Gdbm::new(), Place::new());
        let none = Tally { count: 2, first: None, last: None };
        let some = tally(3, THEN, THEN + SECOND);
        let outer = tally(4, THEN - SECOND, THEN + 2 * SECOND);
        let inner = tally(5, THEN + SECOND, THEN + SECOND);
        let of = |reports, whitelists| Record { reports, whitelists };
        let pairs = [
            (of(none, some), of(some, none)),
            (of(outer, some), of(some, outer)),
            (of(inner, outer), of(outer, inner)),
            (of(Tally::default(), some), of(some, Tally::default())),
            (of(none, none), of(none, none)),
        ];
        let digests: Vec<String> = (0..5).map(digest).collect();
        for (digest, (here, there)) in digests.iter().zip(pairs) {
            source.plant(&[(digest, here)], "UTC");
            destination.plant(&[(digest, there)], "UTC");
        }
        place.migrate(&source, destination, &MERGE).expect_plain(destination, 5);
        let sums: Vec<_> =
            digests.iter().zip(pairs).map(|(digest, (a, b))| (digest.as_str(), a.and(b))).collect();
        destination.expect(&destination.showing(&sums, "UTC"));
    }
}

#[test]
fn fractions_of_seconds_are_merged() {
    let (source, destination, place) = (Gdbm::new(), Gdbm::new(), Place::new());
    let record = |first, last| Record { reports: tally(1, first, last), ..Record::default() };
    let (a, b) = (record(THEN + 5, THEN + 7), record(THEN + 4, THEN + 6));
    source.plant(&[(&digest(1), a)], "UTC");
    destination.plant(&[(&digest(1), b)], "UTC");
    place.migrate(&source, &destination, &MERGE).expect_plain(&destination, 1);
    destination.expect(&destination.showing(&[(&digest(1), a.and(b))], "UTC"));
}

#[test]
fn merge_is_verified_as_a_minimum() {
    let (source, destination, place) = (Gdbm::new(), MySql::new(), Place::new());
    let (a, b) = (digest(1), digest(2));
    source.plant(&[(&a, Record::full(5)), (&b, Record::full(7))], "UTC");
    destination.plant(&[(&a, Record::full(50))], "UTC");
    let finished = place.migrate(&source, &destination, &[&MERGE[..], &["--verify"]].concat());
    assert!(
        finished.stdout.contains("Verification complete, 2 records compared, 0 differ\n"),
        "{finished:?}"
    );
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    let verify = [&MERGE[..], &["--verify-only"]].concat();
    let summary = place.migrate(&source, &destination, &verify).verified();
    assert_eq!((summary.complete, summary.named.len()), (Some((2, 0)), 0));
    // Without --merge the sum differs.
    let summary = place.migrate(&source, &destination, &["--verify-only"]).verified();
    assert_eq!((summary.complete, summary.named), (Some((2, 1)), [a.clone()].into()));
    for change in ["r_count = 4", "wl_count = 5", "r_entered = '2020-01-01'", "wl_updated = '2001-01-01'"] {
        destination.sql(&format!("UPDATE digests SET {change} WHERE digest = '{a}'"));
        let summary = place.migrate(&source, &destination, &verify).verified();
        assert_eq!((summary.complete, summary.named), (Some((2, 1)), [a.clone()].into()), "{change}");
        destination.plant(&[(&a, Record::full(55))], "UTC");
    }
    let summary = place.migrate(&source, &destination, &verify).verified();
    assert_eq!(summary.complete, Some((2, 0)));
}

#[test]
fn corrupt_record_in_the_destination_fails_and_stays() {
    for destination in [&Gdbm::new() as &dyn Side, &Hashes::new(), &Texts::new()] {
        let (source, place) = (Gdbm::new(), Place::new());
        let (a, b) = (digest(1), digest(2));
        source.plant(&[(&a, Record::full(5)), (&b, Record::full(7))], "UTC");
        destination.put(&[(a.clone().into_bytes(), destination.damaged().pop().unwrap())]);
        let damaged = destination.all();
        let before = source.all();
        let options = [&MERGE[..], &["--delete"]].concat();
        let finished = place.migrate(&source, destination, &options);
        let summary = finished.migrated();
        assert_eq!((summary.complete, summary.named), (Some((1, 1)), [a.clone()].into()), "{finished:?}");
        let mut expected = destination.showing(&[(&b, Record::full(7))], "UTC");
        expected.extend(damaged);
        destination.expect(&expected);
        let left: Content = before.into_iter().filter(|(key, _)| *key == a).collect();
        source.expect(&left);
        // After the repair the merge succeeds.
        destination.plant(&[(&a, Record::full(1))], "UTC");
        let summary = place.migrate(&source, destination, &options).migrated();
        assert_eq!((summary.complete, summary.deleted), (Some((1, 0)), 1));
        let sum = Record::full(5).and(Record::full(1));
        let expected = destination.showing(&[(&a, sum), (&b, Record::full(7))], "UTC");
        let shown = destination.all();
        assert_eq!(shown, expected, "{}", destination.engine());
    }
}

/// Merges into existing records in every stored form.
fn records_of_all_shapes_are_added_to(destination: &dyn Side) {
    let (source, place) = (Gdbm::new(), Place::new());
    let mut there = destination.awkward("UTC");
    // Another test covers negative counts.
    there.retain(|planted| planted.says.unwrap().reports.count >= 0);
    let raw = |planted: &Planted| (planted.key.clone(), planted.raw.clone());
    destination.put(&there.iter().map(raw).collect::<Vec<_>>());
    let addition = Record::reported(3);
    let says = |planted: &Planted| (String::from_utf8(planted.key.clone()).unwrap(), planted.says.unwrap());
    let there: Vec<(String, Record)> = there.iter().map(says).collect();
    let all = |change: &dyn Fn(Record) -> Record| -> Vec<(&str, Record)> {
        there.iter().map(|(digest, record)| (digest.as_str(), change(*record))).collect()
    };
    source.plant(&all(&|_| addition), "UTC");
    let finished = place.migrate(&source, destination, &MERGE);
    assert_eq!(finished.migrated().complete, Some((there.len() as u64, 0)), "{finished:?}");
    let sums = all(&|record| record.and(addition));
    let arrived: Content = destination.all().into_iter().map(|(key, text)| (key, plain(&text))).collect();
    let expected = destination.showing(&sums, "UTC");
    assert!(arrived == expected, "{arrived:#?}\nis not\n{expected:#?}");
}

/// Removes from a stored record what has no meaning and may stay in a merge: other fields of a hash, and in a row the
/// dates of a count of 0 and zero dates.
fn plain(text: &str) -> String {
    let mut fields: Vec<&str> = text.split('\t').collect();
    for tally in fields.chunks_exact_mut(3) {
        for at in 1..3 {
            if tally[0] == "0" || tally[at].starts_with("0000") {
                tally[at] = "NULL";
            }
        }
    }
    fields.join("\t").replace("note=mine ", "")
}

#[test]
fn records_of_all_shapes_in_gdbm_are_added_to() {
    records_of_all_shapes_are_added_to(&Gdbm::new());
}

#[test]
fn records_of_all_shapes_in_redis_are_added_to() {
    records_of_all_shapes_are_added_to(&Hashes::new());
}

#[test]
fn records_of_all_shapes_in_redis_v0_are_added_to() {
    records_of_all_shapes_are_added_to(&Texts::new());
}

#[test]
fn records_of_all_shapes_in_mysql_are_added_to() {
    records_of_all_shapes_are_added_to(&MySql::new());
}

#[test]
fn negative_counts_are_added_to() {
    for destination in [&Gdbm::new() as &dyn Side, &Hashes::new(), &Texts::new(), &MySql::new()] {
        let (source, place) = (Gdbm::new(), Place::new());
        source.plant(&[(&digest(1), Record::reported(3))], "UTC");
        destination.plant(&[(&digest(1), Record::reported(-7))], "UTC");
        place.migrate(&source, destination, &MERGE).expect_plain(destination, 1);
        destination.expect(&destination.showing(&[(&digest(1), Record::reported(-4))], "UTC"));
    }
}

/// Many digests with several spellings each, far apart in the scan.
fn spellings_far_apart_are_added(source: &dyn Side) {
    const COUNT: u32 = 3000;
    let digests: Vec<String> = (0..COUNT).map(digest).collect();
    let spellings = |digest: &str| [digest.to_owned(), digest.to_uppercase(), format!("b'{digest}'")];
    let mut records = Vec::new();
    for (at, digest) in digests.iter().enumerate() {
        for (spelling, count) in spellings(digest).into_iter().zip([1, 10, 100]).skip(at % 2) {
            records.push((spelling, Record::reported(count)));
        }
    }
    let all: Vec<_> = records.iter().map(|(key, record)| (key.as_str(), *record)).collect();
    source.plant(&all, "UTC");
    let sums = |factor: i64| -> Vec<(&str, Record)> {
        let sum = |at| factor * if at % 2 == 0 { 111 } else { 110 };
        digests.iter().enumerate().map(|(at, digest)| (digest.as_str(), Record::reported(sum(at)))).collect()
    };
    let (copy, total, place) = (Gdbm::new(), Hashes::new(), Place::new());
    let keys = all.len() as u64;
    place.migrate(source, &copy, &[]).expect_plain(&copy, keys);
    copy.expect(&copy.showing(&sums(1), "UTC"));
    place.migrate(source, &total, &[]).expect_plain(&total, keys);
    place.migrate(source, &total, &MERGE).expect_plain(&total, keys);
    total.expect(&total.showing(&sums(2), "UTC"));
    let summary = place.migrate(source, &total, &MERGE).migrated();
    assert_eq!((summary.complete, summary.before), (Some((0, 0)), keys));
    total.expect(&total.showing(&sums(2), "UTC"));
    let moved = MySql::new();
    let summary = place.migrate(source, &moved, &["--delete"]).migrated();
    assert_eq!((summary.complete, summary.deleted), (Some((keys, 0)), keys));
    assert_eq!(source.all(), Content::new());
    moved.expect(&moved.showing(&sums(1), "UTC"));
}

#[test]
fn spellings_far_apart_in_gdbm_are_added() {
    spellings_far_apart_are_added(&Gdbm::new());
}

#[test]
fn spellings_far_apart_in_redis_are_added() {
    spellings_far_apart_are_added(&Hashes::new());
}

#[test]
fn spellings_far_apart_in_redis_v0_are_added() {
    spellings_far_apart_are_added(&Texts::new());
}

#[test]
fn spellings_far_apart_in_mysql_are_added() {
    spellings_far_apart_are_added(&MySql::lenient());
}

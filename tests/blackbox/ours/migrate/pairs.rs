//! Tests of every pair of engines. To add a pair, add a line at the end of this file.

use std::collections::BTreeSet;

use super::{
    Content, MIGRATED, Place, Planted, Record, SECOND, Side, Summary, THEN, ZONES, digest, snapshot, tally,
};

/// Creates a source with these records, and a destination.
fn ends<S: Side, D: Side>(records: &[Planted]) -> (S, D) {
    let source = S::lenient();
    let raw = |planted: &Planted| (planted.key.clone(), planted.raw.clone());
    source.put(&records.iter().map(raw).collect::<Vec<_>>());
    (source, D::new())
}

/// Creates a source with valid records in every stored form.
fn awkward<S: Side>(zone: &str) -> (S, Vec<(String, Record)>) {
    let source = S::new();
    let records = source.awkward(zone);
    let raw = |planted: &Planted| (planted.key.clone(), planted.raw.clone());
    source.put(&records.iter().map(raw).collect::<Vec<_>>());
    let says = |planted: Planted| (String::from_utf8(planted.key).unwrap(), planted.says.unwrap());
    (source, records.into_iter().map(says).collect())
}

fn borrowed(records: &[(String, Record)]) -> Vec<(&str, Record)> {
    records.iter().map(|(digest, record)| (digest.as_str(), *record)).collect()
}

/// Returns the expected output when all of these records have arrived.
fn all_arrived(records: &[(String, Record)], destination: &dyn Side) -> Summary {
    let limit = destination.limit();
    let is_beyond = |record: &Record| record.reports.count > limit || record.whitelists.count > limit;
    Summary {
        complete: Some((records.len() as u64, 0)),
        says_clamped: records.iter().any(|(_, record)| is_beyond(record)),
        says_no_ttl: destination.has_ttl(),
        ..Summary::default()
    }
}

fn valid_records_of_all_shapes_arrive<S: Side, D: Side>() {
    for zone in ZONES {
        let (source, records) = awkward::<S>(zone);
        let (destination, before) = (D::new(), source.all());
        let finished = Place::at(zone).migrate(&source, &destination, &[]);
        assert_eq!(finished.migrated(), all_arrived(&records, &destination), "{zone}: {finished:?}");
        destination.expect_when(zone, &destination.showing(&borrowed(&records), zone));
        source.expect_when(zone, &before);
    }
}

/// Odd keys and corrupt records, and the expected result.
struct Odd {
    planted: Vec<Planted>,
    /// The records that arrive.
    arrives: Vec<(String, Record)>,
    summary: Summary,
}

/// Creates a source with records that must be repaired or cannot be.
fn odd<S: Side>(zone: &str) -> Odd {
    let source = S::lenient();
    let damaged = source.damaged();
    let (early, late) = (
        Record { reports: tally(2, THEN - 9 * SECOND, THEN + 9 * SECOND), ..Record::default() },
        Record::full(5),
    );
    let mut odd = Odd { planted: Vec::new(), arrives: Vec::new(), summary: Summary::default() };
    let mut number = 100;
    let mut next = || {
        number += 1;
        digest(number)
    };
    let upper = |digest: &str| digest.to_uppercase();
    let repr = |digest: &str| format!("b'{digest}'");

    let (a, b, c, d, e, f) = (next(), next(), next(), next(), next(), next());
    let mixed = format!("{}{}", &upper(&e)[..20], &e[20..]);
    assert!(mixed != e && mixed != upper(&e));
    let good = [
        (next(), late),
        (upper(&a), late),
        (upper(&b), early),
        (b.clone(), late),
        (repr(&c), late),
        (repr(&d), early),
        (d.clone(), late),
        (upper(&d), Record::reported(11)),
        (mixed, early),
        (repr(&upper(&f)), late),
    ];
    let arrives = [
        (good[0].0.clone(), late),
        (a, late),
        (b, late.and(early)),
        (c, late),
        (d, late.and(early).and(Record::reported(11))),
        (e, early),
        (f, late),
    ];
    odd.arrives.extend(arrives);
    let transferred = good.len() as u64 + 2;
    for (key, record) in good {
        odd.planted.push(Planted {
            key: key.into_bytes(),
            raw: source.raw(&record, zone),
            says: Some(record),
        });
    }
    // A corrupt record does not stop a good one under another spelling.
    let (g, h) = (next(), next());
    for (fine, broken) in [(g.clone(), upper(&g)), (upper(&h), h.clone())] {
        odd.planted.push(Planted { key: fine.into_bytes(), raw: source.raw(&late, zone), says: Some(late) });
        odd.planted.push(Planted { key: broken.into_bytes(), raw: damaged[0].clone(), says: None });
    }
    odd.arrives.extend([(g, late), (h, late)]);
    for raw in &damaged {
        odd.planted.push(Planted { key: next().into_bytes(), raw: raw.clone(), says: None });
    }
    odd.planted.push(Planted { key: repr(&next()).into_bytes(), raw: damaged[0].clone(), says: None });

    let fails = odd.planted.iter().filter(|planted| planted.says.is_none());
    let named: BTreeSet<_> = fails.map(|planted| String::from_utf8(planted.key.clone()).unwrap()).collect();
    let junk: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"short".to_vec(),
        [next().as_bytes(), b"0"].concat(),
        next().as_bytes()[1..].to_vec(),
        next().replace('a', "g").into_bytes(),
        format!("b\"{}\"", next()).into_bytes(),
        format!("b'{}", next()).into_bytes(),
        b"b'short'".to_vec(),
        format!(" {}", &next()[1..]).into_bytes(),
        b"\xff\xfe\x00\x01\n'\"\\".to_vec(),
        [0xe9; 40].to_vec(),
        "\u{20ac}".as_bytes().to_vec(),
        format!("pyzord.{}", next()).into_bytes(),
    ];
    odd.summary = Summary {
        complete: Some((transferred, named.len() as u64)),
        named,
        skipped: junk.len() as u64,
        ..Summary::default()
    };
    for (at, key) in junk.into_iter().enumerate() {
        // The content of a corrupt record is not printed.
        let raw = if at % 3 == 0 { damaged[0].clone() } else { source.raw(&late, zone) };
        odd.planted.push(Planted { key, raw, says: None });
    }
    odd
}

fn odd_keys_are_repaired_and_foreign_keys_skipped<S: Side, D: Side>() {
    let odd = odd::<S>("UTC");
    let (source, destination): (S, D) = ends(&odd.planted);
    let before = source.all();
    let finished = Place::new().migrate(&source, &destination, &[]);
    let summary = Summary { says_no_ttl: destination.has_ttl(), ..odd.summary.clone() };
    assert_eq!(finished.migrated(), summary, "{finished:?}");
    destination.expect(&destination.showing(&borrowed(&odd.arrives), "UTC"));
    source.expect(&before);
}

fn only_records_that_have_arrived_are_deleted<S: Side, D: Side>() {
    let odd = odd::<S>("UTC");
    let (source, destination): (S, D) = ends(&odd.planted);
    let all = source.all();
    let place = Place::new();
    let finished = place.migrate(&source, &destination, &["--delete"]);
    let summary = Summary { says_no_ttl: destination.has_ttl(), ..odd.summary.clone() };
    let transferred = summary.complete.unwrap().0;
    assert_eq!(finished.migrated(), Summary { deleted: transferred, ..summary }, "{finished:?}");
    let arrived = destination.showing(&borrowed(&odd.arrives), "UTC");
    destination.expect(&arrived);
    let good = odd.planted.iter().filter(|planted| planted.says.is_some());
    let gone: BTreeSet<_> = good.map(|planted| source.key(&planted.key.escape_ascii().to_string())).collect();
    assert_eq!(gone.len() as u64, transferred);
    let left: Content = all.into_iter().filter(|(key, _)| !gone.contains(key)).collect();
    source.expect(&left);

    // Again, with the records that are left.
    let finished = place.migrate(&source, &destination, &["--delete"]);
    let summary = finished.migrated();
    let failed = summary.named.len() as u64;
    let expected =
        Summary { complete: Some((0, failed)), says_no_ttl: summary.says_no_ttl, ..summary.clone() };
    assert_eq!(summary, expected, "{finished:?}");
    assert_eq!((summary.deleted, summary.skipped), (0, odd.summary.skipped), "{finished:?}");
    assert_eq!(summary.named, odd.summary.named);
    destination.expect(&arrived);
    source.expect(&left);
}

fn source_without_failures_is_empty_after_a_move<S: Side, D: Side>() {
    let (source, records) = awkward::<S>("UTC");
    let (destination, place) = (D::new(), Place::new());
    let finished = place.migrate(&source, &destination, &["--delete", "--verify"]);
    let (verification, rest): (Vec<&str>, Vec<&str>) =
        finished.stdout.lines().partition(|line| line.starts_with("Verification "));
    let summary = Summary::read(rest.into_iter(), MIGRATED, " failed: ");
    let arrived = all_arrived(&records, &destination);
    assert_eq!(summary, Summary { deleted: records.len() as u64, ..arrived }, "{finished:?}");
    assert!(verification.iter().all(|line| line.ends_with(", 0 differ")), "{finished:?}");
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    destination.expect(&destination.showing(&borrowed(&records), "UTC"));
    assert_eq!(source.all(), Content::new());
    assert!(place.kept().is_empty(), "{:?}", place.kept());
}

fn a_dry_run_counts_and_changes_nothing<S: Side, D: Side>() {
    let odd = odd::<S>("UTC");
    let (source, destination): (S, D) = ends(&odd.planted);
    let (before, place) = (source.all(), Place::new());
    let files = snapshot(place.directory.path());
    let expected = Summary { says_no_ttl: destination.has_ttl(), ..odd.summary };
    destination.plant(&[(&odd.arrives[0].0, Record::reported(1))], "UTC");
    let there = destination.all();
    let absent = D::absent();
    for options in [&[][..], &["--delete"], &["--merge", "--journal", "journal"]] {
        let options = [&["--dry-run"], options].concat();
        for destination in [&absent, &destination] {
            let finished = place.migrate(&source, destination, &options);
            let summary = finished.dry_run();
            // All records to transfer would be deleted; one is in the destination already.
            let deleted = if options.contains(&"--delete") { expected.complete.unwrap().0 } else { 0 };
            let met = u64::from(!destination.all().is_empty());
            assert_eq!(summary, Summary { deleted, met, ..expected.clone() }, "{options:?}: {finished:?}");
        }
        assert_eq!(absent.is_there(), absent.has_ttl(), "{options:?}");
        assert_eq!(absent.all(), Content::new(), "{options:?}");
        destination.expect_when(&format!("{options:?}"), &there);
        source.expect_when(&format!("{options:?}"), &before);
        assert_eq!(snapshot(place.directory.path()), files, "{options:?}");
    }
}

fn a_copy_is_found_equal<S: Side, D: Side>() {
    for zone in ZONES {
        let (source, records) = awkward::<S>(zone);
        let (destination, place) = (D::new(), Place::at(zone));
        let count = records.len() as u64;
        let line = format!("Verification complete, {count} records compared, 0 differ");
        let finished = place.migrate(&source, &destination, &["--verify"]);
        let (verification, rest): (Vec<&str>, Vec<&str>) =
            finished.stdout.lines().partition(|line| line.starts_with("Verification "));
        assert_eq!((finished.code, verification), (Some(0), vec![line.as_str()]), "{zone}: {finished:?}");
        let summary = Summary::read(rest.into_iter(), MIGRATED, " failed: ");
        assert_eq!(summary, all_arrived(&records, &destination), "{zone}: {finished:?}");
        let from = source.all();
        destination.expect_when(zone, &destination.showing(&borrowed(&records), zone));
        // Other records in the destination are not compared.
        destination.plant(&[(&digest(9999), Record::full(1))], zone);
        let to = destination.all();
        assert_eq!(to.len(), records.len() + 1);
        let finished = place.migrate(&source, &destination, &["--verify-only"]);
        let summary = finished.verified();
        assert_eq!((summary.complete, summary.named.len()), (Some((count, 0)), 0), "{zone}: {finished:?}");
        source.expect_when(zone, &from);
        destination.expect_when(zone, &to);
    }
}

fn each_field_that_differs_is_found<S: Side, D: Side>() {
    let (source, destination, place) = (S::new(), D::new(), Place::new());
    let record = Record::full(5);
    let mut others = [record; 10];
    others[0].reports.count += 1;
    others[1].whitelists.count -= 1;
    others[2].reports.first = Some(THEN - SECOND);
    others[3].reports.last = Some(THEN + 5 * SECOND);
    others[4].whitelists.first = Some(THEN);
    others[5].whitelists.last = Some(THEN + 5 * SECOND);
    others[6].reports.first = None;
    others[7].whitelists.last = None;
    others[8].reports = super::Tally::default();
    // The last record is equal, and another record is missing.
    let digests: Vec<String> = (0..=10).map(digest).collect();
    let records: Vec<_> = digests.iter().map(|digest| (digest.as_str(), record)).collect();
    source.plant(&records, "UTC");
    let records: Vec<_> = digests.iter().map(String::as_str).zip(others).collect();
    destination.plant(&records, "UTC");
    let (from, to) = (source.all(), destination.all());
    let finished = place.migrate(&source, &destination, &["--verify-only"]);
    let summary = finished.verified();
    let named: BTreeSet<String> = digests[..9].iter().chain(&digests[10..]).cloned().collect();
    assert_eq!((summary.complete, summary.named), (Some((11, 10)), named), "{finished:?}");
    assert_eq!((source.all(), destination.all()), (from, to));
}

fn merged_counts_are_added_once<S: Side, D: Side>() {
    let (source, destination, place) = (S::new(), D::new(), Place::new());
    let digests: Vec<String> = (0..5).map(digest).collect();
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|at: usize| digests[at].as_str());
    let early = Record { reports: tally(3, THEN - 9 * SECOND, THEN), ..Record::default() };
    let late = Record { whitelists: tally(4, THEN + SECOND, THEN + 9 * SECOND), ..Record::full(7) };
    let wide = Record { reports: tally(1, THEN - 20 * SECOND, THEN + 20 * SECOND), ..Record::default() };
    let here = [(a, early), (b, late), (c, Record::full(5)), (d, Record::default())];
    let there = [(a, late), (b, early), (d, wide), (e, Record::reported(1))];
    source.plant(&here, "UTC");
    destination.plant(&there, "UTC");
    let before = source.all();
    let merge = ["--merge", "--journal", "journal"];
    let sum = early.and(late);
    let expected = |a_is, c_is| {
        destination.showing(&[(a, a_is), (b, sum), (c, c_is), (d, wide), (e, Record::reported(1))], "UTC")
    };
    place.migrate(&source, &destination, &merge).expect_plain(&destination, 4);
    destination.expect(&expected(sum, Record::full(5)));
    source.expect(&before);

    let finished = place.migrate(&source, &destination, &merge);
    let summary = finished.migrated();
    assert_eq!((summary.complete, summary.before), (Some((0, 0)), 4), "{finished:?}");
    destination.expect(&expected(sum, Record::full(5)));

    // Only the reports since the last run are added.
    let mut grown = early;
    grown.reports = tally(10, THEN - 9 * SECOND, THEN + 30 * SECOND);
    source.plant(&[(a, grown)], "UTC");
    let finished = place.migrate(&source, &destination, &merge);
    let summary = finished.migrated();
    assert_eq!((summary.complete, summary.before), (Some((1, 0)), 3), "{finished:?}");
    let mut more = sum;
    more.reports.count += 7;
    more.reports.last = Some(THEN + 30 * SECOND);
    destination.expect(&expected(more, Record::full(5)));

    // Reports in the destination are kept.
    destination.plant(&[(c, Record::full(105))], "UTC");
    source.plant(&[(c, Record::full(6))], "UTC");
    let finished = place.migrate(&source, &destination, &merge);
    let summary = finished.migrated();
    assert_eq!((summary.complete, summary.before), (Some((1, 0)), 3), "{finished:?}");
    destination.expect(&expected(more, Record::full(106)));
}

/// The tests of pairs of engines.
macro_rules! battery {
    ($($pair:ident: $source:ident $destination:ident)+) => {
        $(mod $pair {
            use crate::ours::migrate::sides::*;
            battery!(@tests $source $destination:
                valid_records_of_all_shapes_arrive
                odd_keys_are_repaired_and_foreign_keys_skipped
                only_records_that_have_arrived_are_deleted
                source_without_failures_is_empty_after_a_move
                a_dry_run_counts_and_changes_nothing
                a_copy_is_found_equal
                each_field_that_differs_is_found
                merged_counts_are_added_once
            );
        })+
    };
    (@tests $source:ident $destination:ident: $($test:ident)+) => {
        $(#[test]
        fn $test() {
            super::$test::<$source, $destination>();
        })+
    };
}

battery! {
    gdbm_to_gdbm: Gdbm Gdbm
    gdbm_to_redis: Gdbm Hashes
    gdbm_to_redis_v0: Gdbm Texts
    gdbm_to_mysql: Gdbm MySql
    redis_to_gdbm: Hashes Gdbm
    redis_to_redis: Hashes Hashes
    redis_to_redis_v0: Hashes Texts
    redis_to_mysql: Hashes MySql
    redis_v0_to_gdbm: Texts Gdbm
    redis_v0_to_redis: Texts Hashes
    redis_v0_to_redis_v0: Texts Texts
    redis_v0_to_mysql: Texts MySql
    mysql_to_gdbm: MySql Gdbm
    mysql_to_redis: MySql Hashes
    mysql_to_redis_v0: MySql Texts
    mysql_to_mysql: MySql MySql
}

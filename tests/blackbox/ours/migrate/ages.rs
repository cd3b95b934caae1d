//! Limits of a destination: counts and times that it cannot hold, records that expire, and existing records.

use super::sides::{COLUMNS, Gdbm, Hashes, MySql, Texts};
use super::{Content, Place, Record, SECOND, Side, Summary, THEN, Tally, digest, tally};
use crate::harness::{Redis, unix_time};

/// Copies one raw record to a destination, and returns the output and the destination's content.
#[track_caller]
fn moved(source: &dyn Side, raw: &str, destination: &dyn Side) -> (Summary, String) {
    source.put(&[(digest(1).into_bytes(), raw.as_bytes().to_vec())]);
    let finished = Place::new().migrate(source, destination, &[]);
    let summary = finished.migrated();
    assert_eq!(summary.complete, Some((1, 0)), "{finished:?}");
    let all = destination.all();
    assert_eq!(all.len(), 1);
    (summary, all[&destination.key(&digest(1))].clone())
}

#[test]
fn counts_beyond_every_engine_are_clamped_and_reported() {
    let many = "1000000000000000000000000000000";
    let max = i64::MAX;
    for (source, raw) in [
        (&Gdbm::new() as &dyn Side, format!("1,{many},None,None,3,None,None")),
        (&Hashes::new(), format!("HSET KEY r_count {many} wl_count 3")),
        (&Texts::new(), format!("SET KEY {many},,,3,,")),
        (
            &MySql::table(&COLUMNS.replace("int(11)", "decimal(40)"), max),
            format!("{many},NULL,NULL,3,NULL,NULL"),
        ),
        (
            &MySql::table(&COLUMNS.replace("int(11)", "bigint unsigned"), max),
            "18446744073709551615,NULL,NULL,3,NULL,NULL".to_owned(),
        ),
    ] {
        let (summary, record) = moved(source, &raw, &Gdbm::new());
        assert_eq!(record, format!("1,{max},None,None,3,None,None"), "{raw}");
        assert!(summary.says_clamped, "{raw}: {summary:?}");
    }
}

#[test]
fn counts_are_clamped_to_what_each_column_holds() {
    for (kind, limit) in [
        ("int(11)", 2_147_483_647),
        ("int(10) unsigned", 4_294_967_295),
        ("mediumint", 8_388_607),
        ("bigint(20)", i64::MAX),
        ("bigint unsigned", i64::MAX),
    ] {
        let destination = MySql::table(&COLUMNS.replace("int(11)", kind), limit);
        let digests = [digest(1), digest(2), digest(3)];
        let counts = [limit, limit.saturating_add(1), i64::MAX];
        let records: Vec<_> = digests.iter().map(String::as_str).zip(counts.map(Record::reported)).collect();
        let source = Gdbm::new();
        source.plant(&records, "UTC");
        let summary = Place::new().migrate(&source, &destination, &[]).migrated();
        let expected =
            Summary { complete: Some((3, 0)), says_clamped: limit < i64::MAX, ..Summary::default() };
        assert_eq!(summary, expected, "{kind}");
        destination.expect_when(kind, &destination.showing(&records, "UTC"));
    }
}

#[test]
fn counts_below_the_minimum_of_a_column_are_clamped() {
    let (_, record) = moved(&Gdbm::new(), "1,-3000000000,None,None,1,None,None", &MySql::new());
    assert_eq!(record, "-2147483648\tNULL\tNULL\t1\tNULL\tNULL");
    let unsigned = MySql::table(&COLUMNS.replace("int(11)", "int(10) unsigned"), 4_294_967_295);
    let (summary, record) = moved(&Gdbm::new(), "1,-3,None,None,1,None,None", &unsigned);
    assert_eq!(record, "0\tNULL\tNULL\t1\tNULL\tNULL");
    assert!(summary.says_clamped);
}

#[test]
fn times_beyond_the_destination_are_clamped_and_reported() {
    // Far after and far before the range of 32 bits.
    let raw = "1,5,1969-12-31 23:59:00,2150-01-01 00:00:00,0,None,None";
    let (summary, record) = moved(&Gdbm::new(), raw, &Hashes::new());
    assert_eq!(record, "r_count=5 r_entered=-60 r_updated=5680281600 wl_count=0 wl_entered=0 wl_updated=0");
    assert!(!summary.says_clamped);
    let (summary, record) = moved(&Gdbm::new(), raw, &MySql::new());
    assert!(summary.says_clamped, "{record}");
    let fields: Vec<&str> = record.split('\t').collect();
    assert!(fields[1].starts_with("1970-01-01 ") && fields[2].starts_with("20"), "{record}");
}

#[test]
fn years_of_five_digits_are_clamped_and_reported() {
    for time in ["999999999999", "99999999999999", "9223372036854775807"] {
        let raw = format!("HSET KEY r_count 5 r_entered 1300000000 r_updated {time}");
        for destination in [&Gdbm::new() as &dyn Side, &Texts::new()] {
            let (summary, record) = moved(&Hashes::new(), &raw, destination);
            assert!(summary.says_clamped, "{time}: {record}");
            assert!(record.contains("5,2011-03-13 07:06:40,9999-12-3"), "{time}: {record}");
        }
    }
}

#[test]
fn invalid_date_in_the_source_is_no_time() {
    let dates = "'0000-00-00 00:00:00','0000-00-00 00:00:00'";
    let (_, record) = moved(&MySql::new(), &format!("5,{dates},3,{dates}"), &Gdbm::new());
    assert_eq!(record, "1,5,None,None,3,None,None");
}

#[test]
fn time_zone_of_the_program_does_not_change_times() {
    let (source, destination) = (MySql::new(), MySql::new());
    let (digest, record) = (digest(1), Record::full(5));
    source.plant(&[(&digest, record)], "UTC");
    for zone in super::ZONES {
        let place = Place::at(zone);
        place.migrate(&source, &destination, &[]).expect_plain(&destination, 1);
        destination.expect_when(zone, &source.all());
        let texts = Texts::new();
        place.migrate(&source, &texts, &[]).expect_plain(&texts, 1);
        texts.expect_when(zone, &texts.showing(&[(&digest, record)], zone));
    }
}

/// A record that changed this many seconds ago.
fn changed(seconds: i64) -> Record {
    let last = (unix_time() - seconds) * SECOND;
    Record { reports: tally(5, last - 1000 * SECOND, last), ..Record::default() }
}

/// Returns the time to live of a key in seconds; -1 if it does not expire.
fn time_to_live(redis: &Redis, key: &str) -> i64 {
    redis.cli(&["ttl", key]).trim().parse().unwrap()
}

/// Records of different ages, and whether each is older than a million seconds.
fn aged() -> [(String, Record, bool); 6] {
    let (old, young) = (changed(2_000_000), changed(500_000));
    let whitelists = |record: Record| Record { reports: Tally::default(), whitelists: record.reports };
    let both = |a: Record, b: Record| Record { reports: a.reports, whitelists: b.reports };
    let none = Record { reports: Tally { count: 5, ..Tally::default() }, ..Record::default() };
    let records = [
        (old, true),
        (young, false),
        (whitelists(old), true),
        (both(old, young), false),
        (both(old, old), true),
        (none, false),
    ];
    let mut number = 0;
    records.map(|(record, expired)| {
        number += 1;
        (digest(number), record, expired)
    })
}

fn expired_records_are_left_out(source: &dyn Side, destination: &dyn Side) {
    let aged = aged();
    let all: Vec<_> = aged.iter().map(|(digest, record, _)| (digest.as_str(), *record)).collect();
    let left: Vec<_> =
        aged.iter().filter(|aged| !aged.2).map(|(digest, record, _)| (digest.as_str(), *record)).collect();
    source.plant(&all, "UTC");
    let before = source.all();
    let place = Place::new();
    let age = ["--cleanup-age", "1000000"];
    let expected = Summary { complete: Some((3, 0)), expired: 3, ..Summary::default() };
    let finished = place.migrate(source, destination, &[&age[..], &["--dry-run"]].concat());
    assert_eq!(finished.dry_run(), expected, "{finished:?}");
    assert_eq!(destination.all(), Content::new());
    let finished = place.migrate(source, destination, &age);
    assert_eq!(finished.migrated(), expected, "{finished:?}");
    let shown = |(key, shown): (String, String)| {
        // A record without times never expires.
        let is_timeless = key.ends_with(&digest(6));
        let ttl = if destination.has_ttl() && !is_timeless { " for a time" } else { "" };
        (key, shown + ttl)
    };
    let arrived: Content = destination.showing(&left, "UTC").into_iter().map(shown).collect();
    destination.expect(&arrived);
    source.expect(&before);
    // Records that are left out are not deleted either.
    let elsewhere = Gdbm::new();
    let finished = place.migrate(source, &elsewhere, &[&age[..], &["--delete"]].concat());
    assert_eq!(finished.migrated(), Summary { deleted: 3, ..expected }, "{finished:?}");
    assert_eq!(source.all().len(), 3);
    elsewhere.expect(&elsewhere.showing(&left, "UTC"));
}

#[test]
fn expired_records_of_gdbm_are_left_out() {
    expired_records_are_left_out(&Gdbm::new(), &MySql::new());
}

#[test]
fn expired_records_of_redis_are_left_out() {
    expired_records_are_left_out(&Hashes::new(), &Gdbm::new());
}

#[test]
fn expired_records_of_redis_v0_are_left_out() {
    expired_records_are_left_out(&Texts::new(), &Hashes::new());
}

#[test]
fn expired_records_of_mysql_are_left_out() {
    expired_records_are_left_out(&MySql::new(), &Texts::new());
}

#[test]
fn time_to_live_is_the_rest_of_the_age() {
    let source = Gdbm::new();
    let aged = aged();
    let all: Vec<_> = aged.iter().map(|(digest, record, _)| (digest.as_str(), *record)).collect();
    source.plant(&all, "UTC");
    let (hashes, texts) = (Hashes::new(), Texts::new());
    for (side, redis) in [(&hashes as &dyn Side, hashes.redis()), (&texts, texts.redis())] {
        let place = Place::new();
        place.migrate(&source, side, &["--cleanup-age", "1000000"]).migrated();
        for number in [2, 4] {
            let left = time_to_live(redis, &side.key(&digest(number)));
            assert!((499_900..=500_000).contains(&left), "{number}: {left}");
        }
        assert_eq!(time_to_live(redis, &side.key(&digest(6))), -1);
        // A copy without an age removes the time to live.
        let summary = place.migrate(&source, side, &[]).migrated();
        assert_eq!(summary, Summary { complete: Some((6, 0)), says_no_ttl: true, ..Summary::default() });
        side.expect(&side.showing(&all, "UTC"));
        // An age of 0 means no age.
        redis.cli(&["expire", &side.key(&digest(2)), "1000"]);
        let summary = place.migrate(&source, side, &["--cleanup-age", "0"]).migrated();
        assert_eq!((summary.complete, summary.expired), (Some((6, 0)), 0));
        side.expect(&side.showing(&all, "UTC"));
    }
}

#[test]
fn existing_records_are_replaced_and_others_stay() {
    for destination in [&Gdbm::new() as &dyn Side, &Hashes::new(), &Texts::new(), &MySql::new()] {
        let source = Gdbm::new();
        let (a, b, c) = (digest(1), digest(2), digest(3));
        source.plant(&[(&a, Record::reported(1)), (&b, Record::full(5))], "UTC");
        let bigger = Record { whitelists: tally(9, THEN - SECOND, THEN + 99 * SECOND), ..Record::full(100) };
        destination.plant(&[(&a, bigger), (&c, bigger)], "UTC");
        Place::new().migrate(&source, destination, &[]).expect_plain(destination, 2);
        let expected = [(a.as_str(), Record::reported(1)), (&b, Record::full(5)), (&c, bigger)];
        destination.expect(&destination.showing(&expected, "UTC"));
    }
}

#[test]
fn corrupt_records_in_the_destination_are_replaced() {
    // MySQL is not tested: a table that could hold such records is refused.
    for destination in [&Gdbm::new() as &dyn Side, &Hashes::new(), &Texts::new()] {
        let source = Gdbm::new();
        let damaged = destination.damaged();
        let records: Vec<_> = (0..).zip(&damaged).map(|(at, _)| (digest(at), Record::full(5))).collect();
        let records: Vec<_> = records.iter().map(|(digest, record)| (digest.as_str(), *record)).collect();
        source.plant(&records, "UTC");
        let there: Vec<_> =
            records.iter().zip(damaged).map(|((digest, _), raw)| (digest.as_bytes().to_vec(), raw)).collect();
        destination.put(&there);
        let count = records.len() as u64;
        Place::new().migrate(&source, destination, &[]).expect_plain(destination, count);
        destination.expect(&destination.showing(&records, "UTC"));
    }
}

#[test]
fn foreign_fields_and_time_to_live_are_removed_by_a_copy() {
    let source = Gdbm::new();
    source.plant(&[(&digest(1), Record::reported(1))], "UTC");
    let destination = Hashes::new();
    let key = destination.key(&digest(1));
    destination.redis().cli(&["hset", &key, "wl_count", "7", "wl_entered", "1", "wl_updated", "2"]);
    destination.redis().cli(&["expire", &key, "1000"]);
    Place::new().migrate(&source, &destination, &[]).expect_plain(&destination, 1);
    destination.expect(&destination.showing(&[(&digest(1), Record::reported(1))], "UTC"));
}

#[test]
fn time_to_live_in_the_source_is_not_copied() {
    let source = Hashes::new();
    let records = [(&*digest(1), Record::reported(1)), (&*digest(2), Record::full(5))];
    source.plant(&records, "UTC");
    source.redis().cli(&["expire", &source.key(&digest(1)), "1000"]);
    let before = source.all();
    for destination in [&Hashes::new() as &dyn Side, &Texts::new()] {
        Place::new().migrate(&source, destination, &[]).expect_plain(destination, 2);
        destination.expect(&destination.showing(&records, "UTC"));
        source.expect(&before);
    }
}

#[test]
fn time_to_live_of_a_sum_is_the_rest_of_its_age() {
    let (hashes, texts) = (Hashes::new(), Texts::new());
    for (side, redis) in [(&hashes as &dyn Side, hashes.redis()), (&texts, texts.redis())] {
        let (source, place) = (Gdbm::new(), Place::new());
        let (a, b) = (digest(1), digest(2));
        source.plant(&[(&a, changed(600_000)), (&b, changed(500_000))], "UTC");
        side.plant(&[(&a, changed(500_000)), (&b, changed(600_000))], "UTC");
        for digest in [&a, &b] {
            redis.cli(&["expire", &side.key(digest), "1000"]);
        }
        let merge = ["--merge", "--journal=one", "--cleanup-age", "1000000"];
        let summary = place.migrate(&source, side, &merge).migrated();
        assert_eq!(summary, Summary { complete: Some((2, 0)), ..Summary::default() });
        for digest in [&a, &b] {
            let left = time_to_live(redis, &side.key(digest));
            assert!((499_900..=500_000).contains(&left), "{digest}: {left}");
        }
        place.migrate(&source, side, &["--merge", "--journal=two"]).expect_plain(side, 2);
        for digest in [&a, &b] {
            assert_eq!(time_to_live(redis, &side.key(digest)), -1, "{digest}");
        }
    }
}

#[test]
fn repeated_hour_at_the_end_of_summer_time_is_copied() {
    // In New York both are 01:30 local time.
    let (first, second) = (1_793_511_000, 1_793_514_600);
    for destination in [&Gdbm::new() as &dyn Side, &Texts::new()] {
        let (source, place) = (Hashes::new(), Place::at("America/New_York"));
        let raw = format!("HSET KEY r_count 5 r_entered {first} r_updated {second}");
        source.put(&[(digest(1).into_bytes(), raw.into_bytes())]);
        let finished = place.migrate(&source, destination, &["--verify"]);
        assert!(finished.stdout.contains("1 records compared, 0 differ\n"), "{finished:?}");
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let all: Vec<String> = destination.all().into_values().collect();
        let date = "2026-11-01 01:30:00";
        assert!(all[0].contains(&format!("5,{date},{date},0,")), "{all:?}");
        let summary = place.migrate(&source, &Gdbm::new(), &["--delete", "--verify"]).migrated();
        assert_eq!((summary.complete, summary.deleted), (Some((1, 0)), 1));
        assert_eq!(source.all(), Content::new());
    }
}

#[test]
fn table_with_not_null_times_gets_times() {
    let columns = COLUMNS.replace("datetime default NULL", "datetime NOT NULL");
    let destination = MySql::table(&columns, i32::MAX.into());
    let source = Gdbm::new();
    source.plant(&[(&digest(1), Record::reported(5)), (&digest(2), Record::full(7))], "UTC");
    Place::new().migrate(&source, &destination, &[]).expect_plain(&destination, 2);
    // Times with a count of 0 are ignored.
    let back = Gdbm::new();
    Place::new().migrate(&destination, &back, &[]).expect_plain(&back, 2);
    back.expect(&source.all());
}

#[test]
fn missing_table_is_created() {
    let source = Gdbm::new();
    let digest = digest(1);
    source.plant(&[(&digest, Record::full(5))], "UTC");
    let destination = MySql::absent();
    Place::new().migrate(&source, &destination, &[]).expect_plain(&destination, 1);
    destination.expect(&destination.showing(&[(&digest, Record::full(5))], "UTC"));
}

#[test]
fn upper_case_in_the_usual_table_is_one_digest() {
    let (source, destination) = (MySql::new(), Hashes::new());
    let (a, b) = (digest(1), digest(2));
    source.plant(&[(&a.to_uppercase(), Record::full(5)), (&b, Record::reported(1))], "UTC");
    let place = Place::new();
    let summary = place.migrate(&source, &destination, &["--delete"]).migrated();
    assert_eq!((summary.complete, summary.deleted), (Some((2, 0)), 2));
    let expected = [(a.as_str(), Record::full(5)), (&b, Record::reported(1))];
    destination.expect(&destination.showing(&expected, "UTC"));
    assert_eq!(source.all(), Content::new());
    // As a destination.
    source.plant(&[(&a.to_uppercase(), Record::full(50))], "UTC");
    let summary = place.migrate(&destination, &source, &[]).migrated();
    assert_eq!(summary.complete, Some((2, 0)));
    let folded: Content = source.all().into_iter().map(|(key, row)| (key.to_lowercase(), row)).collect();
    assert_eq!(folded, source.showing(&expected, "UTC"));
}

#[test]
fn keys_of_other_engines_are_not_counted() {
    let (source, destination) = (Hashes::new(), Gdbm::new());
    source.plant(&[(&digest(1), Record::full(5))], "UTC");
    let redis = source.redis();
    redis.cli(&["set", "other", "1"]);
    redis.cli(&["set", &format!("pyzord.digest.{}", digest(2)), "1,,,0,,"]);
    redis.cli(&["-n", "1", "set", "pyzord.digest_v1.other", "1"]);
    let before = source.all();
    Place::new().migrate(&source, &destination, &[]).expect_plain(&destination, 1);
    let dsn = source.dsn();
    let back = Gdbm::new();
    let ends = ["--se=redis_v0", "--sd", &dsn, "--de=gdbm", "--dd", &back.dsn()];
    Place::new().run(&ends).expect_plain(&back, 1);
    back.expect(&Content::from([(digest(2), "1,1,None,None,0,None,None".to_owned())]));
    source.expect(&before);
}

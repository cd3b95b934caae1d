//! Journals of databases whose records change between runs: records are merged in, reported, deleted and reported again,
//! or read in another time zone.

use super::sides::{Gdbm, Hashes, MySql, Texts};
use super::{Place, Record, SECOND, Side, THEN, Tally, digest, tally};
use crate::harness::{Home, unix_time};

fn sources() -> [Box<dyn Side>; 4] {
    [Box::new(Gdbm::new()), Box::new(Hashes::new()), Box::new(Texts::new()), Box::new(MySql::new())]
}

/// Returns the homedir of a server that uses this database.
fn home_of(side: &dyn Side) -> Home {
    let settings = format!("CleanupAge = 0\nEngine = {}\nDigestDB = {}\n", side.engine(), side.dsn());
    Home::open().config(&settings)
}

fn reported(tally: Tally) -> Record {
    Record { reports: tally, ..Record::default() }
}

/// Merges one database into another with a journal of this name.
#[track_caller]
fn add(place: &Place, from: &dyn Side, to: &dyn Side, journal: &str, more: &[&str]) {
    let options = [&["--merge", "--journal", journal][..], more].concat();
    let finished = place.migrate(from, to, &options);
    assert_eq!(finished.code, Some(0), "{} to {}: {finished:?}", from.engine(), to.engine());
}

#[test]
fn two_databases_are_added_up_once_in_every_order() {
    // Earlier, overlapping the start, inside, overlapping the end, and later than the other record; and without times.
    let others = [
        tally(3, THEN - 50 * SECOND, THEN - 20 * SECOND),
        tally(3, THEN - 50 * SECOND, THEN + 5 * SECOND),
        tally(3, THEN + 5 * SECOND, THEN + 6 * SECOND),
        tally(3, THEN + 5 * SECOND, THEN + 60 * SECOND),
        tally(3, THEN + 50 * SECOND, THEN + 60 * SECOND),
        Tally { count: 3, first: None, last: None },
    ];
    let digests: Vec<String> = (0..6).map(digest).collect();
    let own = tally(5, THEN, THEN + 10 * SECOND);
    for orders in [&["AC", "BA", "AC"][..], &["BA", "AC", "AC"], &["AC", "AC", "BA", "BA", "AC", "AC"]] {
        for a in sources() {
            let (b, c, place) = (Gdbm::new(), Gdbm::new(), Place::new());
            let mine: Vec<_> = digests.iter().map(|digest| (digest.as_str(), reported(own))).collect();
            let theirs: Vec<_> = digests.iter().map(String::as_str).zip(others.map(reported)).collect();
            a.plant(&mine, "UTC");
            b.plant(&theirs, "UTC");
            for order in orders {
                match *order {
                    "AC" => add(&place, &*a, &c, "ac", &[]),
                    _ => add(&place, &b, &*a, "ba", &[]),
                }
            }
            let sums = theirs.iter().map(|(digest, theirs)| (*digest, reported(own).and(*theirs)));
            let sums: Vec<_> = sums.collect();
            c.expect_when(&format!("{}, {orders:?}", a.engine()), &c.showing(&sums, "UTC"));
        }
    }
}

#[test]
fn counts_after_a_run_are_added_once() {
    let ahead = (unix_time() + 3600) * SECOND;
    let records = [
        // Without times: the next report sets them.
        Tally { count: 5, first: None, last: None },
        Tally { count: 5, first: None, last: Some(THEN) },
        tally(5, THEN, THEN + SECOND),
        // Reported by a server whose clock is ahead.
        tally(5, THEN, ahead),
        tally(5, ahead, ahead),
    ];
    let digests: Vec<String> = (0..5).map(digest).collect();
    for a in sources() {
        let (c, place) = (Gdbm::new(), Place::new());
        let planted: Vec<_> = digests.iter().map(String::as_str).zip(records.map(reported)).collect();
        a.plant(&planted, "UTC");
        add(&place, &*a, &c, "journal", &[]);
        for expected in [6, 7] {
            let home = home_of(&*a);
            let server = home.start();
            for digest in &digests {
                assert_eq!(server.request("report", &[digest]).code(), 200);
            }
            assert!(server.stop().success());
            add(&place, &*a, &c, "journal", &[]);
            add(&place, &*a, &c, "journal", &[]);
            expect_counts(&*a, &c, &digests, expected);
        }
    }
}

#[track_caller]
fn expect_counts(a: &dyn Side, c: &Gdbm, digests: &[String], expected: i64) {
    let all = c.all();
    for digest in digests {
        let count: i64 = all[digest].split(',').nth(1).unwrap().parse().unwrap();
        assert_eq!(count, expected, "{}: {digest}: {}", a.engine(), all[digest]);
    }
}

/// The records were moved and then reported again, also by servers whose clock is behind the moved times.
#[test]
fn new_record_after_a_move_is_added_whole() {
    let ahead = (unix_time() + 3600) * SECOND;
    let records = [tally(5, THEN, THEN + SECOND), tally(5, THEN, ahead), tally(5, ahead, ahead)];
    let digests: Vec<String> = (0..3).map(digest).collect();
    for a in sources() {
        let (c, place) = (Gdbm::new(), Place::new());
        let planted: Vec<_> = digests.iter().map(String::as_str).zip(records.map(reported)).collect();
        a.plant(&planted, "UTC");
        add(&place, &*a, &c, "journal", &["--delete"]);
        let home = home_of(&*a);
        let server = home.start();
        for digest in &digests {
            assert_eq!(server.request("report", &[digest]).code(), 200);
        }
        assert!(server.stop().success());
        add(&place, &*a, &c, "journal", &["--delete"]);
        expect_counts(&*a, &c, &digests, 6);
    }
}

/// Other names of the same zone are accepted.
#[test]
fn journal_belongs_to_one_time_zone_of_local_dates() {
    let (file, text) = (Gdbm::new(), Texts::new());
    let hashes = Hashes::new();
    for (a, c) in [
        (&file as &dyn Side, &hashes as &dyn Side),
        (&text, &Hashes::new()),
        (&Hashes::new(), &Gdbm::new()),
        (&MySql::new(), &Texts::new()),
    ] {
        let mut place = Place::at("Europe/Berlin");
        a.plant(&[(&digest(1), Record::full(5))], "Europe/Berlin");
        add(&place, a, c, "journal", &[]);
        let before = c.all();
        for other in ["America/New_York", "UTC", "Europe/London"] {
            place.zone = other;
            let refused = place.migrate(a, c, &["--merge", "--journal", "journal"]);
            refused.expect_refusal(&["journal", "time zone", "Europe/Berlin", other]);
            c.expect(&before);
        }
        for same in ["Europe/Berlin", "Europe/Stockholm"] {
            place.zone = same;
            let summary = place.migrate(a, c, &["--merge", "--journal", "journal"]).migrated();
            assert_eq!((summary.complete, summary.before), (Some((0, 0)), 1), "{same}");
            c.expect(&before);
        }
    }
    // Seconds since the epoch do not depend on a zone.
    let (a, c) = (Hashes::new(), MySql::new());
    let mut place = Place::at("Europe/Berlin");
    a.plant(&[(&digest(1), Record::full(5))], "UTC");
    add(&place, &a, &c, "journal", &[]);
    place.zone = "America/New_York";
    let summary = place.migrate(&a, &c, &["--merge", "--journal", "journal"]).migrated();
    assert_eq!((summary.complete, summary.before), (Some((0, 0)), 1));
}

/// After the program has deleted a record, a record under the same key is a new one.
#[test]
fn records_merged_into_an_emptied_source_are_added_whole() {
    let digests: Vec<String> = (0..2).map(digest).collect();
    for a in sources() {
        let (b, c, place) = (Gdbm::new(), Gdbm::new(), Place::new());
        let own = [tally(5, THEN, THEN + SECOND), Tally { count: 5, first: None, last: None }];
        let older =
            [tally(8, THEN - 50 * SECOND, THEN - 40 * SECOND), Tally { count: 5, first: None, last: None }];
        let records = |tallies: [Tally; 2]| -> Vec<(&str, Record)> {
            digests.iter().map(String::as_str).zip(tallies.map(reported)).collect()
        };
        a.plant(&records(own), "UTC");
        add(&place, &*a, &c, "journal", &["--delete"]);
        b.plant(&records(older), "UTC");
        add(&place, &b, &*a, "ba", &[]);
        add(&place, &*a, &c, "journal", &["--delete"]);
        let all = c.all();
        for (digest, expected) in digests.iter().zip([13, 10]) {
            let count: i64 = all[digest].split(',').nth(1).unwrap().parse().unwrap();
            assert_eq!(count, expected, "{}: {}", a.engine(), all[digest]);
        }
    }
}

/// The destination of one merge is the source of a move.
#[test]
fn records_moved_on_from_the_destination_are_not_added_again() {
    let (a, c, d, place) = (Gdbm::new(), Hashes::new(), Gdbm::new(), Place::new());
    for (count, expected) in [(5, 5), (8, 8), (8, 8)] {
        a.plant(&[(&digest(1), Record::reported(count))], "UTC");
        let finished = place.migrate(&a, &c, &["--merge", "--journal", "ac"]);
        // The output reports that the destination no longer has the records.
        let is_gone =
            finished.stdout.contains("1 records were transferred before but are missing in the destination");
        assert_eq!((finished.code, is_gone), (Some(i32::from(is_gone)), d.is_there()), "{finished:?}");
        let finished = place.migrate(&c, &d, &["--delete", "--merge"]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        d.expect(&d.showing(&[(&digest(1), Record::reported(expected))], "UTC"));
    }
}

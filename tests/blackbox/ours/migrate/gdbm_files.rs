//! gdbm files: exact copies, locks, repair, and large values.

use std::fs;

use nix::sys::signal::Signal;

use super::sides::{Gdbm, Hashes};
use super::{Place, Record, Side, ZONES, digest, snapshot};

#[test]
fn copy_between_files_is_byte_for_byte() {
    let texts = [
        // In New York, in the repeated hour in autumn and in the skipped hour in spring.
        "1,5,2026-11-01 01:30:00.123456,2026-11-01 01:30:00.123457,3,2026-11-01 00:59:59,2026-11-01 02:00:00",
        "1,5,2026-03-08 02:30:00,2026-03-08 02:30:00.000001,0,None,None",
        "1,5,2026-03-08 01:59:59.999999,2026-03-08 03:00:00,0,None,None",
        "1,1,1900-01-01 00:00:00,1969-12-31 23:59:59.999999,0,None,None",
        "1,0,None,None,9223372036854775807,2011-03-13 07:06:40,2011-03-13 07:06:40.100000",
        "1,-9,None,2011-03-13 07:06:40,0,2011-03-13 07:06:40,None",
        "1,0,None,None,0,None,None",
    ];
    for zone in ZONES {
        let (source, destination) = (Gdbm::new(), Gdbm::new());
        let records: Vec<_> = (0..)
            .zip(texts)
            .map(|(number, text)| (digest(number).into_bytes(), text.as_bytes().to_vec()))
            .collect();
        source.put(&records);
        let place = Place::at(zone);
        place.migrate(&source, &destination, &[]).expect_plain(&destination, texts.len() as u64);
        destination.expect_when(zone, &source.all());
        let summary = place.migrate(&source, &destination, &["--verify-only"]).verified();
        assert_eq!(summary.complete, Some((texts.len() as u64, 0)), "{zone}");
        // A difference of a microsecond is found.
        let other = texts[0].replace(".123457", ".123458");
        destination.put(&[(digest(0).into_bytes(), other.into_bytes())]);
        let summary = place.migrate(&source, &destination, &["--verify-only"]).verified();
        assert_eq!(summary.named, [digest(0)].into(), "{zone}");
        let (before, elsewhere) = (source.all(), Gdbm::new());
        let moved = place.migrate(&source, &elsewhere, &["--delete", "--verify"]);
        assert_eq!(moved.code, Some(0), "{moved:?}");
        elsewhere.expect_when(zone, &before);
    }
}

#[test]
fn dates_at_the_limits_of_the_calendar_are_copied_byte_for_byte() {
    for zone in ZONES {
        let (source, destination, place) = (Gdbm::new(), Gdbm::new(), Place::at(zone));
        let text = "1,1,0001-01-01 00:00:00,9999-12-31 23:59:59.999999,0,None,None";
        source.put(&[(digest(1).into_bytes(), text.as_bytes().to_vec())]);
        place.migrate(&source, &destination, &["--delete"]);
        destination.expect_when(zone, &[(digest(1), text.to_owned())].into());
        // Nothing was clamped, and nothing is reported as clamped.
        place.migrate(&destination, &source, &[]).expect_plain(&source, 1);
    }
}

#[test]
fn source_file_is_not_changed() {
    let (source, destination) = (Gdbm::new(), Hashes::new());
    let records: Vec<String> = (0..100).map(digest).collect();
    let records: Vec<_> = records.iter().map(|digest| (digest.as_str(), Record::full(5))).collect();
    source.plant(&records, "UTC");
    let place = Place::new();
    let before = snapshot(&source.home().directory());
    for options in [
        &[][..],
        &["--verify"],
        &["--verify-only"],
        &["--dry-run"],
        &["--dry-run", "--delete"],
        &["--merge", "--journal", "journal"],
        &["--cleanup-age", "1000"],
    ] {
        let finished = place.migrate(&source, &destination, options);
        assert!(finished.code.is_some() && finished.stderr.is_empty(), "{finished:?}");
        assert!(snapshot(&source.home().directory()) == before, "{options:?} has changed something");
    }
}

#[test]
fn move_leaves_no_other_files() {
    let (source, destination) = (Gdbm::new(), Gdbm::new());
    source.plant(&[(&digest(1), Record::full(5))], "UTC");
    let names = |side: &Gdbm| {
        let entries = fs::read_dir(side.home().directory()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let before = names(&source);
    Place::new().migrate(&source, &destination, &["--delete"]).migrated();
    assert_eq!(names(&source), before);
    assert_eq!(names(&destination), before);
}

#[test]
fn file_of_a_killed_server_is_migrated() {
    let (source, destination, place) = (Gdbm::new(), Hashes::new(), Place::new());
    let server = source.home().start();
    let digests: Vec<String> = (0..50).map(digest).collect();
    for digest in &digests {
        assert_eq!(server.request("report", &[digest]).code(), 200);
    }
    server.signal(Signal::SIGKILL);
    drop(server);
    // Runs that only read must leave the file unchanged.
    let before = snapshot(&source.home().directory());
    for option in ["--dry-run", "--verify-only"] {
        let finished = place.migrate(&source, &destination, &[option]);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), ""), "{finished:?}");
        assert!(snapshot(&source.home().directory()) == before, "{option} has changed something");
    }
    let finished = place.migrate(&source, &destination, &[]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let closing = "Migration complete, 50 records transferred successfully, 0 records failed\n";
    assert!(finished.stdout.starts_with(closing), "{finished:?}");
    assert_eq!(destination.all().len(), 50);
    let summary = place.migrate(&source, &destination, &["--verify-only"]).verified();
    assert_eq!(summary.complete, Some((50, 0)));
    // A server can use the file again.
    let server = source.home().start();
    assert_eq!(server.request("check", &[&digests[0]]).counts(), (1, 0));
}

#[test]
fn large_value_fails_and_large_foreign_key_is_skipped() {
    let (source, destination) = (Gdbm::new(), Gdbm::new());
    source.put(&[
        (digest(1).into_bytes(), vec![b'1'; 1_000_000]),
        (vec![b'k'; 100_000], b"1,1,None,None,0,None,None".to_vec()),
        (digest(2).into_bytes(), b"1,1,None,None,0,None,None".to_vec()),
    ]);
    let finished = Place::new().migrate(&source, &destination, &[]);
    let summary = finished.migrated();
    assert_eq!((summary.complete, summary.skipped), (Some((1, 1)), 1));
    assert_eq!(summary.named, [digest(1)].into());
    // The value is not in the output.
    assert!(finished.stdout.len() < 1000, "{}", finished.stdout.len());
}

//! Moves with `--delete`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::thread;

use super::sides::{Gdbm, Hashes, MySql, Texts};
use super::{Content, Place, Record, SECOND, Side, Summary, Tally, digest, tally};
use crate::harness::{Home, Server, eventually, unix_time};

#[test]
fn recently_changed_records_are_moved() {
    let sources: [Box<dyn Side + Send>; 4] =
        [Box::new(Gdbm::new()), Box::new(Hashes::new()), Box::new(Texts::new()), Box::new(MySql::new())];
    thread::scope(|scope| {
        for source in sources {
            scope.spawn(move || move_young_records(&*source));
        }
    });
}

fn move_young_records(source: &dyn Side) {
    let (destination, place) = (Gdbm::new(), Place::new());
    let now = unix_time() * SECOND;
    // The third was reported by a server whose clock is ahead.
    let times = [now, now - SECOND, now + 2 * SECOND, now - 5000 * SECOND];
    let digests: Vec<String> = (0..4).map(digest).collect();
    let record = |time| Record { reports: tally(5, time, time), ..Record::default() };
    let records: Vec<_> = digests.iter().map(String::as_str).zip(times.into_iter().map(record)).collect();
    source.plant(&records, "UTC");
    let finished = place.migrate(source, &destination, &["--delete"]);
    let expected = Summary { complete: Some((4, 0)), deleted: 4, ..Summary::default() };
    assert_eq!(finished.migrated(), expected, "{finished:?}");
    assert_eq!(source.all(), Content::new(), "{}", source.engine());
    destination.expect(&destination.showing(&records, "UTC"));
    assert!(place.kept().is_empty(), "{:?}", place.kept());
}

#[test]
fn source_in_use_by_a_server_loses_nothing() {
    let pairs: [(Box<dyn Side + Send>, Box<dyn Side + Send>); 3] = [
        (Box::new(Hashes::new()), Box::new(Gdbm::new())),
        (Box::new(Texts::new()), Box::new(MySql::new())),
        (Box::new(MySql::new()), Box::new(Hashes::new())),
    ];
    thread::scope(|scope| {
        for (source, destination) in pairs {
            scope.spawn(move || move_while_counting(&*source, &*destination, false));
        }
    });
}

/// Moves records while a server counts into the source, and one into the destination as well if that is served.
fn move_while_counting(source: &dyn Side, destination: &dyn Side, is_destination_served: bool) {
    let place = Place::new();
    let digests: Vec<String> = (0..2000).map(digest).collect();
    let records: Vec<_> = digests.iter().map(|digest| (digest.as_str(), Record::reported(1000))).collect();
    source.plant(&records, "UTC");
    let mut options = vec!["--delete", "--journal=journal"];
    let mut served = vec![source];
    if is_destination_served {
        options.push("--merge");
        served.push(destination);
    }
    let serve =
        |side: &&dyn Side| Home::open().config(&format!("CleanupAge = 0\n{}", side.settings())).start();
    let servers: Vec<Server> = served.iter().map(serve).collect();
    let mut counted = vec![1000_i64; 40];
    let mut count = || {
        for (at, (digest, count)) in digests.iter().zip(&mut counted).enumerate() {
            // With two servers, every third report goes to the source.
            let server = if at % 3 == 0 { servers.first() } else { servers.last() };
            if server.unwrap().request("report", &[digest]).code() == 200 {
                *count += 1;
            }
        }
    };
    if is_destination_served {
        count();
    }
    let (from, to) = (source.dsn(), destination.dsn());
    let ends = ["--se", source.engine(), "--sd", &from, "--de", destination.engine(), "--dd", &to];
    let mut migration = place.command(&[&ends[..], &options].concat());
    let mut migration = migration.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Records that keep changing may be left in the source and reported.
    let status = eventually("the end of the migration", || {
        count();
        migration.try_wait().unwrap()
    });
    assert!(status.code().is_some(), "{status}");
    // Counts added to the source afterwards are not lost either.
    count();
    servers.into_iter().for_each(|server| assert!(server.stop().success()));
    let finished = place.migrate(source, destination, &options);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(source.all(), Content::new());
    let back = Gdbm::new();
    place.migrate(destination, &back, &[]).migrated();
    let all = back.all();
    assert_eq!(all.len(), 2000);
    for (at, digest) in digests.iter().enumerate() {
        let count: i64 = all[digest].split(',').nth(1).unwrap().parse().unwrap();
        assert_eq!(count, counted.get(at).copied().unwrap_or(1000), "{} {digest}", source.engine());
    }
}

#[test]
fn named_journal_is_used_and_no_default_one() {
    let (source, destination, place) = (Gdbm::new(), Gdbm::new(), Place::new());
    source.plant(&[(&digest(1), Record::full(5))], "UTC");
    let finished = place.migrate(&source, &destination, &["--delete", "--journal", "journal"]);
    assert_eq!(finished.migrated(), Summary { complete: Some((1, 0)), deleted: 1, ..Summary::default() });
    assert!(place.kept().is_empty(), "{:?}", place.kept());
    destination.expect(&destination.showing(&[(&digest(1), Record::full(5))], "UTC"));
}

#[test]
fn copy_keeps_no_journal() {
    let (source, destination, place) = (Gdbm::new(), Gdbm::new(), Place::new());
    source.plant(&[(&digest(1), Record::full(5))], "UTC");
    let names = || fs::read_dir(place.state()).unwrap().count() + fs::read_dir(place.home()).unwrap().count();
    place.migrate(&source, &destination, &["--verify"]);
    place.migrate(&source, &destination, &["--dry-run", "--delete"]);
    assert_eq!(names(), 0);
}

#[test]
fn default_journal_is_in_the_home_directory() {
    let (source, destination, place) = (Gdbm::new(), Gdbm::new(), Place::new());
    source.plant(&[(&digest(1), Record::full(5))], "UTC");
    // Nothing is moved if the journal cannot be created.
    fs::write(place.home().join(".local"), "no directory").unwrap();
    let (from, to) = (source.dsn(), destination.dsn());
    let arguments = ["--se=gdbm", "--sd", &from, "--de=gdbm", "--dd", &to, "--delete"];
    let run = || {
        let mut command = place.command(&arguments);
        command.env_remove("XDG_STATE_HOME");
        crate::harness::finish(command)
    };
    let before = source.all();
    run().expect_refusal(&[".local"]);
    source.expect(&before);
    fs::remove_file(place.home().join(".local")).unwrap();
    let expected = Summary { complete: Some((1, 0)), deleted: 1, ..Summary::default() };
    assert_eq!(run().migrated(), expected);
    assert_eq!(fs::read_dir(place.home().join(".local/state/pyzor-migrate")).unwrap().count(), 0);
}

#[test]
fn records_that_the_destination_refuses_are_not_deleted() {
    let (source, destination, place) = (Gdbm::new(), Hashes::new(), Place::new());
    let digests: Vec<String> = (0..20).map(digest).collect();
    let records: Vec<_> = digests.iter().map(|digest| (digest.as_str(), Record::full(5))).collect();
    source.plant(&records, "UTC");
    let before = source.all();
    // A full Redis refuses writes.
    destination.redis().cli(&["config", "set", "maxmemory", "1"]);
    let finished = place.migrate(&source, &destination, &["--delete"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(!finished.stdout.contains("deleted from"), "{finished:?}");
    source.expect(&before);
    destination.redis().cli(&["config", "set", "maxmemory", "0"]);
    assert_eq!(destination.all(), Content::new());
    let summary = place.migrate(&source, &destination, &["--delete"]).migrated();
    assert_eq!((summary.complete, summary.deleted), (Some((20, 0)), 20));
    destination.expect(&destination.showing(&records, "UTC"));
}

#[test]
fn record_that_cannot_be_deleted_is_reported() {
    // An account that may read everything and delete nothing.
    let (source, destination, place) = (MySql::new(), Gdbm::new(), Place::new());
    source.plant(&[(&digest(1), Record::full(5))], "UTC");
    let before = source.all();
    let reader = format!("{}_reader", source.name());
    let password = super::PASSWORD;
    source.sql(&format!(
        "CREATE USER {reader} IDENTIFIED BY '{password}'; GRANT SELECT ON {}.digests TO {reader}",
        source.name()
    ));
    let dsn = source.url_of(&reader);
    let to = destination.dsn();
    let finished = place.run(&["--se=mysql", "--sd", &dsn, "--de=gdbm", "--dd", &to, "--delete"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!((finished.stdout.clone() + &finished.stderr).contains("denied"), "{finished:?}");
    source.expect(&before);
}

#[test]
fn empty_records_are_moved() {
    for source in [&Gdbm::new() as &dyn Side, &Hashes::new(), &Texts::new(), &MySql::new()] {
        let (destination, place) = (Texts::new(), Place::new());
        let counts = Record { reports: Tally { count: 3, ..Tally::default() }, ..Record::default() };
        let records = [(&*digest(1), Record::default()), (&*digest(2), counts)];
        source.plant(&records, "UTC");
        let summary = place.migrate(source, &destination, &["--delete"]).migrated();
        assert_eq!((summary.complete, summary.deleted), (Some((2, 0)), 2), "{}", source.engine());
        assert_eq!(source.all(), Content::new());
        destination.expect(&destination.showing(&records, "UTC"));
    }
}

#[test]
fn created_files_are_private() {
    let (source, destination, place) = (Gdbm::new(), Gdbm::new(), Place::new());
    source.plant(&[(&digest(1), Record::full(5))], "UTC");
    place.migrate(&source, &destination, &["--merge", "--journal=journal"]).expect_plain(&destination, 1);
    for path in [destination.path(), place.work().join("journal")] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o022, 0, "{}: {mode:o}", path.display());
    }
}

#[test]
fn move_does_not_replace_existing_records() {
    for destination in [&Gdbm::new() as &dyn Side, &Hashes::new(), &Texts::new(), &MySql::new()] {
        let (source, place) = (Hashes::new(), Place::new());
        let [a, b] = [1, 2].map(digest);
        source.plant(&[(&a, Record::full(10)), (&b, Record::full(4))], "UTC");
        destination.plant(&[(&a, Record::reported(3))], "UTC");
        let finished = place.migrate(&source, destination, &["--delete"]);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stdout.contains(&format!("Record {a} failed: ")), "{finished:?}");
        assert!(finished.stdout.contains("--merge"), "{finished:?}");
        // Records that are no longer there have been moved.
        let moved = |a_is| destination.showing(&[(&a, a_is), (&b, Record::full(4))], "UTC");
        destination.expect(&moved(Record::reported(3)));
        assert_eq!(source.all().len(), 1);
        let summary = place.migrate(&source, destination, &["--delete", "--merge"]).migrated();
        assert_eq!((summary.complete, summary.deleted), (Some((1, 0)), 1), "{}", destination.engine());
        destination.expect(&moved(Record::full(10).and(Record::reported(3))));
        assert_eq!(source.all(), Content::new());
        assert!(place.kept().is_empty(), "{:?}", place.kept());
    }
}

/// The case in docs/migrating.md: servers count into the destination already, and some still into the source.
#[test]
fn move_between_databases_in_use_loses_nothing() {
    let pairs: [(Box<dyn Side + Send>, Box<dyn Side + Send>); 3] = [
        (Box::new(Hashes::new()), Box::new(MySql::new())),
        (Box::new(Texts::new()), Box::new(Hashes::new())),
        (Box::new(MySql::new()), Box::new(Texts::new())),
    ];
    thread::scope(|scope| {
        for (source, destination) in pairs {
            scope.spawn(move || move_while_counting(&*source, &*destination, true));
        }
    });
}

/// Databases are recognised by identity, not by the spelling of their DSN.
#[test]
fn interrupted_move_is_recognised_under_other_dsns() {
    let (file, place) = (Gdbm::new(), Place::new());
    let redis = Hashes::new();
    let table = MySql::new();
    let digests: Vec<String> = (0..30_000).map(digest).collect();
    let records: Vec<_> = digests.iter().map(|digest| (digest.as_str(), Record::reported(5))).collect();
    let beside = place.work().join("link");
    std::os::unix::fs::symlink(file.path(), &beside).unwrap();
    for (side, other) in [
        (&redis as &dyn Side, redis.dsn().replace("127.0.0.1", "localhost")),
        (&table, table.dsn().replace("127.0.0.1", "localhost")),
    ] {
        file.plant(&records, "UTC");
        let (from, to) = (file.dsn(), side.dsn());
        let ends = ["--se=gdbm", "--sd", &from, "--de", side.engine(), "--dd", &to];
        let mut run = place.command(&[&ends[..], &["--delete"]].concat());
        let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("something moved", || {
            assert!(run.try_wait().unwrap().is_none(), "the migration ended too early to be interrupted");
            (!side.all().is_empty()).then_some(())
        });
        run.kill().unwrap();
        run.wait().unwrap();
        let renamed = ["--se=gdbm", "--sd", beside.to_str().unwrap(), "--de", side.engine(), "--dd", &other];
        for options in [&[][..], &["--merge", "--journal=other"]] {
            let refused = place.run(&[&renamed[..], options].concat());
            let is_reported =
                refused.stderr.contains("error: a move between these databases was interrupted");
            assert!(refused.code == Some(1) && is_reported, "{refused:?}");
        }
        let finished = place.run(&[&renamed[..], &["--delete"]].concat());
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(place.kept().is_empty(), "{:?}", place.kept());
        side.expect(&side.showing(&records, "UTC"));
        assert_eq!(file.all(), Content::new());
    }
}

#[test]
fn records_of_a_table_in_wide_characters_are_deleted() {
    for charset in ["ucs2", "utf16", "utf32", "utf8mb4", "latin1"] {
        let columns = super::sides::COLUMNS.replace("char(40)", &format!("char(40) CHARACTER SET {charset}"));
        let (source, destination) = (MySql::table(&columns, i32::MAX.into()), Gdbm::new());
        source.sql(&format!(
            "INSERT INTO digests (digest, r_count, wl_count) VALUES ('{}', 5, 0), ('{}', 6, 0)",
            digest(1),
            digest(2)
        ));
        let summary = Place::new().migrate(&source, &destination, &["--delete"]).migrated();
        assert_eq!((summary.complete, summary.deleted), (Some((2, 0)), 2), "{charset}");
        assert_eq!(source.sql("SELECT COUNT(*) FROM digests").trim(), "0", "{charset}");
    }
}

#[test]
fn a_hard_link_does_not_hide_an_interrupted_move() {
    let (source, redis, place) = (Gdbm::new(), Hashes::new(), Place::new());
    let digests: Vec<String> = (0..30_000).map(digest).collect();
    let records: Vec<_> = digests.iter().map(|digest| (digest.as_str(), Record::reported(5))).collect();
    source.plant(&records, "UTC");
    let (from, to) = (source.dsn(), redis.dsn());
    let ends = ["--se=gdbm", "--sd", &from, "--de=redis", "--dd", &to];
    let mut run = place.command(&[&ends[..], &["--delete"]].concat());
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("something moved", || {
        assert!(run.try_wait().unwrap().is_none(), "the migration ended too early to be interrupted");
        (!redis.all().is_empty()).then_some(())
    });
    run.kill().unwrap();
    run.wait().unwrap();
    let link = place.work().join("link.db");
    fs::hard_link(source.path(), &link).unwrap();
    let renamed = ["--se=gdbm", "--sd", link.to_str().unwrap(), "--de=redis", "--dd", &to];
    let refused = place.run(&[&renamed[..], &["--merge", "--journal=other"]].concat());
    assert!(refused.code == Some(1) && refused.stderr.contains("was interrupted"), "{refused:?}");
    assert_eq!(place.run(&[&renamed[..], &["--delete"]].concat()).code, Some(0));
    redis.expect(&redis.showing(&records, "UTC"));
}

#[test]
fn redis_that_evicts_records_is_refused() {
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let (source, redis, place) = (Gdbm::new(), Hashes::new(), Place::new());
        source.plant(&[(&digest(1), Record::full(5))], "UTC");
        redis.redis().cli(&["config", "set", "maxmemory", "100mb"]);
        redis.redis().cli(&["config", "set", "maxmemory-policy", policy]);
        let refused = place.migrate(&source, &redis, &["--delete"]);
        refused.expect_refusal(&[policy, "noeviction", "--no-durability"]);
        assert_eq!((source.all().len(), redis.all().len()), (1, 0));
        assert!(place.kept().is_empty());
        redis.redis().cli(&["config", "set", "maxmemory-policy", "noeviction"]);
        assert_eq!(place.migrate(&source, &redis, &["--delete"]).code, Some(0));
    }
}

/// Neither run has the other's journal.
#[test]
fn two_runs_do_not_write_to_one_redis_at_a_time() {
    let digests: Vec<String> = (0..20_000).map(digest).collect();
    let records: Vec<_> = digests.iter().map(|digest| (digest.as_str(), Record::reported(3))).collect();
    let (source, target, place) = (Hashes::new(), Hashes::new(), Place::new());
    source.plant(&records, "UTC");
    let local = |side: &Hashes| side.dsn().replace("127.0.0.1", "localhost");
    let spawn = |from: &str, to: &str, options: &[&str]| {
        let ends = ["--se=redis", "--sd", from, "--de=redis", "--dd", to];
        let mut command = place.command(&[&ends[..], options].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let first = spawn(&source.dsn(), &target.dsn(), &["--delete", "--merge"]);
    eventually("the first one", || {
        target.redis().cli(&["client", "list"]).contains("name=pyzor-migrate.").then_some(())
    });
    let second = spawn(&local(&source), &local(&target), &["--delete", "--merge"]);
    let third = spawn(&source.dsn(), &target.dsn(), &["--merge", "--journal=other"]);
    for run in [first, second, third] {
        let output = run.wait_with_output().unwrap();
        // A run that timed out waiting, or found an unfinished move, has written nothing.
        assert!(output.status.code().is_some(), "{output:?}");
    }
    let finished = place.run(&[
        "--se=redis",
        "--sd",
        &source.dsn(),
        "--de=redis",
        "--dd",
        &target.dsn(),
        "--delete",
        "--merge",
    ]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    target.expect(&target.showing(&records, "UTC"));
}

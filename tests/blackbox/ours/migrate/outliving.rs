//! Statements that MySQL still runs after the program that sent them was killed.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::sides::{Gdbm, MySql};
use super::{Place, Record, Side, digest};
use crate::harness::eventually;

const RECORDS: u32 = 3000;

/// A source, and a table that takes 4 ms for each row.
fn slow() -> (Gdbm, MySql, Vec<String>) {
    let (source, table) = (Gdbm::new(), MySql::new());
    let digests: Vec<String> = (0..RECORDS).map(digest).collect();
    let records: Vec<_> = digests.iter().map(|digest| (digest.as_str(), Record::reported(5))).collect();
    source.plant(&records, "UTC");
    table.plant(
        &records[..1500].iter().map(|(digest, _)| (*digest, Record::reported(7))).collect::<Vec<_>>(),
        "UTC",
    );
    for when in ["INSERT", "UPDATE"] {
        table.sql(&format!(
            "CREATE TRIGGER slow_{when} BEFORE {when} ON digests FOR EACH ROW SET @slow = SLEEP(0.004)"
        ));
    }
    (source, table, digests)
}

/// Starts the program and kills it when the server has begun its nth writing statement.
fn kill_in_statement(place: &Place, source: &Gdbm, table: &MySql, options: &[&str], nth: usize) {
    let (from, to) = (source.dsn(), table.dsn());
    let ends = ["--se=gdbm", "--sd", &from, "--de=mysql", "--dd", &to];
    let mut command = place.command(&[&ends[..], options].concat());
    let mut child: Child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut seen: Vec<String> = Vec::new();
    eventually("a statement under way", || {
        let found = table.mariadb().sql(&format!(
            "SELECT CONCAT(QUERY_ID) FROM information_schema.PROCESSLIST WHERE USER = '{}' AND INFO LIKE 'INSERT INTO%'",
            table.name()
        ));
        for id in found.lines().filter(|id| !seen.iter().any(|seen| seen == id)).collect::<Vec<_>>() {
            seen.push(id.to_owned());
        }
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        (seen.len() >= nth).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[track_caller]
fn expect_sums(table: &MySql, digests: &[String], first: i64, rest: i64) {
    let expected = digests
        .iter()
        .enumerate()
        .map(|(at, digest)| (digest.as_str(), Record::reported(if at < 1500 { first } else { rest })));
    table.expect(&table.showing(&expected.collect::<Vec<_>>(), "UTC"));
}

#[test]
fn merge_waits_for_a_statement_of_a_killed_merge() {
    for nth in [1, 2] {
        let (source, table, digests) = slow();
        let place = Place::new();
        kill_in_statement(&place, &source, &table, &["--merge", "--journal", "journal"], nth);
        let finished = place.migrate(&source, &table, &["--merge", "--journal", "journal"]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        expect_sums(&table, &digests, 12, 5);
    }
}

/// A killed copy must not overwrite later reports with its old records.
#[test]
fn copy_waits_for_a_statement_of_a_killed_copy() {
    let (source, table, digests) = slow();
    let place = Place::new();
    kill_in_statement(&place, &source, &table, &[], 1);
    let records: Vec<_> = digests.iter().map(|digest| (digest.as_str(), Record::reported(6))).collect();
    source.plant(&records, "UTC");
    let finished = place.migrate(&source, &table, &[]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    // Every statement has ended by then.
    let quiet =
        format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '{}'", table.name());
    eventually("the end of all statements", || (table.mariadb().sql(&quiet).trim() == "0").then_some(()));
    expect_sums(&table, &digests, 6, 6);
}

#[test]
fn two_runs_do_not_write_to_one_table_at_a_time() {
    let (source, table, _) = slow();
    let place = Place::new();
    let (from, to) = (source.dsn(), table.dsn());
    let ends = ["--se=gdbm", "--sd", &from, "--de=mysql", "--dd", &to];
    let mut first = place.command(&ends);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let writes =
        format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '{}'", table.name());
    eventually("the first one", || (table.mariadb().sql(&writes).trim() != "0").then_some(()));
    let other = Gdbm::new();
    other.plant(&[(&digest(1), Record::reported(1))], "UTC");
    let begun = Instant::now();
    let second = place.migrate(&other, &table, &["--merge", "--journal", "second"]);
    let waited = begun.elapsed() > Duration::from_millis(500);
    let has_ended = first.try_wait().unwrap();
    assert!(has_ended.is_some() || second.code == Some(1), "{second:?}");
    assert!(waited && second.stderr.contains("another pyzor-migrate"), "{second:?}");
    thread::yield_now();
    first.wait().unwrap();
}

use super::*;
use crate::migrate::moved_counts::MovedCounts;
use crate::record::{Record, Tally};
use pyzor_wire::digest::Digest;

fn digest(number: u8) -> Digest {
    Digest::from_bytes([number; 20])
}

fn journal_key(number: u8, key: &str) -> JournalKey {
    let digest = digest(number);
    let key = if key.is_empty() { digest.to_hex().to_vec() } else { key.as_bytes().to_vec() };
    JournalKey { digest, key }
}

fn record(count: i64, first: i64) -> Record {
    let first = Some(Timestamp::from_seconds(first));
    Record { reports: Tally { count, first, last: first }, whitelists: Tally::default() }
}

fn database(name: &str) -> DatabaseIdentity {
    DatabaseIdentity { names: vec![name.to_owned()], zone: None }
}

fn open(directory: &tempfile::TempDir) -> Journal {
    Journal::open(&directory.path().join("j"), &database("a"), &database("b")).unwrap()
}

#[test]
fn moved_counts_survive_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let (regular, odd) = (journal_key(7, ""), journal_key(7, "odd"));
    let moved = MovedCounts::with(None, &record(5, 100));
    let journal = open(&directory);
    journal.finish(&[(odd.clone(), moved.clone())]).unwrap();
    drop(journal);
    let journal = open(&directory);
    assert_eq!(journal.moved(&[regular, odd]).unwrap(), [None, Some(moved)]);
    assert_eq!(journal.has_moved(&[digest(6), digest(7), digest(8)]).unwrap(), [false, true, false]);
}

#[test]
fn confirmed_additions_become_moved_counts() {
    let directory = tempfile::tempdir().unwrap();
    let unconfirmed =
        [1, 2].map(|number| UnconfirmedAddition { digest: digest(number), before: (1, 0), added: (5, 0) });
    let moved = MovedCounts::with(None, &record(5, 100));
    let keys = [journal_key(1, ""), journal_key(1, "odd"), journal_key(2, "")];
    let journal = open(&directory);
    journal.begin(&unconfirmed, &keys.clone().map(|key| (key, moved.clone()))).unwrap();
    drop(journal);
    let journal = open(&directory);
    assert_eq!(journal.unconfirmed().unwrap(), unconfirmed);
    journal.confirm(&[digest(1)]).unwrap();
    assert_eq!(journal.moved(&keys).unwrap(), [Some(moved.clone()), Some(moved), None]);
    assert_eq!(journal.unconfirmed().unwrap(), []);
}

#[test]
fn journal_of_other_databases_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("j");
    drop(open(&directory));
    let refused =
        |source, to| Journal::open(&path, &database(source), &database(to)).err().unwrap().to_string();
    assert!(
        refused("x", "b")
            .ends_with("whose source is a: name another file, or that database if it is the same one")
    );
    assert!(
        refused("a", "x")
            .ends_with("whose destination is b: name another file, or that database if it is the same one")
    );
    let other = directory.path().join("other");
    fs::write(&other, "my precious notes\n".repeat(1000)).unwrap();
    let error = Journal::open(&other, &database("a"), &database("b")).err().unwrap().to_string();
    assert!(error.contains(": not a journal of pyzor-migrate, or damaged: "), "{error}");
    assert_eq!(fs::read_to_string(&other).unwrap(), "my precious notes\n".repeat(1000));
}

//! The trait `Bulk` on every engine, as pyzor-migrate uses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyzor_wire::digest::Digest;
use pyzord::record::{Record, Tally, Timestamp};
use pyzord::storage::EngineOptions;
use pyzord::storage::bulk::{self, Addition, Bulk, BulkPurpose, ChangeOutcome, Item, Put};

use crate::harness::{Home, MariaDb, Redis};
use crate::ours::outages::Store;

const RECORDS: u64 = 2500;

fn digest(number: u64) -> Digest {
    let mut bytes = [0; 20];
    // Spread over the key space like real digests.
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Digest::from_bytes(bytes)
}

fn tally(count: i64, first: i64, last: i64) -> Tally {
    Tally { count, first: Some(Timestamp::from_seconds(first)), last: Some(Timestamp::from_seconds(last)) }
}

/// Returns a record; its kind depends on the number.
fn record(number: u64) -> Record {
    let count = i64::try_from(number).unwrap() + 1;
    let some = tally(count, 1_300_000_000 + count, 1_400_000_000 + count);
    match number % 3 {
        0 => Record { reports: some, whitelists: Tally::default() },
        1 => Record { reports: Tally::default(), whitelists: some },
        _ => Record { reports: some, whitelists: tally(1, 1_500_000_000, 1_500_000_001) },
    }
}

/// Scans a database page by page.
async fn walk(whole: &Arc<dyn Bulk>) -> BTreeMap<Vec<u8>, Item> {
    let mut all = BTreeMap::new();
    let mut from = None;
    loop {
        let page = whole.scan(from, 100).await.unwrap();
        all.extend(page.items.into_iter().map(|item| (item.key.clone(), item)));
        match page.next {
            Some(next) => from = Some(next),
            None => return all,
        }
    }
}

/// Scans a database. Returns the decoded records.
async fn records(whole: &Arc<dyn Bulk>) -> BTreeMap<Vec<u8>, Record> {
    walk(whole).await.into_iter().map(|(key, item)| (key, item.record.unwrap())).collect()
}

fn put(number: u64, record: Record) -> Put {
    Put { digest: digest(number), record, expires: None, held: None }
}

fn addition(number: u64, record: Record, seen: Option<Item>) -> Addition {
    Addition { digest: digest(number), record, seen, expires: None, held: None }
}

fn key(number: u64) -> Vec<u8> {
    digest(number).to_hex().to_vec()
}

fn all_done(outcomes: &[ChangeOutcome]) -> bool {
    outcomes.iter().all(|outcome| *outcome == ChangeOutcome::Done)
}

fn records_are_stored_scanned_and_deleted(name: &str, options: &EngineOptions) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let whole = bulk::open(name, options, BulkPurpose::Fill).await.unwrap();
        assert!(walk(&whole).await.is_empty());
        let former = (0..RECORDS).map(|number| put(number, record(number + 1))).collect();
        assert!(all_done(&whole.store(former).await.unwrap()));
        let puts = (0..RECORDS).map(|number| put(number, record(number))).collect();
        assert!(all_done(&whole.store(puts).await.unwrap()));
        let mut expected: BTreeMap<_, _> = (0..RECORDS).map(|number| (key(number), record(number))).collect();
        assert!(records(&whole).await == expected, "not what was stored");
        let found = whole.read(vec![key(1), key(RECORDS), key(0)]).await.unwrap();
        let found: Vec<Option<Record>> =
            found.into_iter().map(|item| item.map(|item| item.record.unwrap())).collect();
        assert_eq!(found, [Some(record(1)), None, Some(record(0))]);

        let items = walk(&whole).await;
        let even: Vec<Item> = (0..RECORDS).step_by(2).map(|number| items[&key(number)].clone()).collect();
        whole.store(vec![put(0, record(9))]).await.unwrap();
        let outcomes = whole.delete(even.clone()).await.unwrap();
        assert_eq!(outcomes[0], ChangeOutcome::Changed);
        assert!(all_done(&outcomes[1..]));
        expected.retain(|key, _| !even.iter().any(|item| item.key == *key));
        expected.insert(key(0), record(9));
        assert!(records(&whole).await == expected, "not what was left");

        // More than the highest count of some engines.
        let full = Record { reports: tally(i64::MAX, 1, 2), whitelists: Tally::default() };
        whole.store(vec![put(0, full)]).await.unwrap();
        assert_eq!(records(&whole).await[&key(0)], whole.clamp(&full));
        whole.sync().await.unwrap();
        whole.close().await.unwrap();
    });
}

fn records_are_added(name: &str, options: &EngineOptions) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let whole = bulk::open(name, options, BulkPurpose::Fill).await.unwrap();
        let there = [
            Record { reports: tally(5, 1000, 2000), whitelists: Tally::default() },
            Record { reports: Tally::default(), whitelists: tally(7, 1000, 2000) },
            Record { reports: tally(3, 1000, 2000), whitelists: tally(2, 1000, 2000) },
        ];
        whole.store((0..3).map(|at| put(at, there[at as usize])).collect()).await.unwrap();
        let new = Record { reports: tally(10, 500, 1500), whitelists: tally(20, 1500, 2500) };
        let seen = whole.read((0..4).map(key).collect()).await.unwrap();
        let additions: Vec<_> =
            seen.iter().enumerate().map(|(at, seen)| addition(at as u64, new, seen.clone())).collect();
        assert!(all_done(&whole.add(additions.clone()).await.unwrap()));
        let mut expected = BTreeMap::new();
        for (number, there) in there.iter().chain([&Record::default()]).enumerate() {
            expected.insert(key(number as u64), bulk::united(there, &new));
        }
        assert_eq!(records(&whole).await, expected);
        // An engine that compares refuses, because the value has changed. The other engines add again.
        let changed = whole.add(additions[..1].to_vec()).await.unwrap();
        let compares = name.starts_with("redis");
        assert_eq!(changed, [if compares { ChangeOutcome::Changed } else { ChangeOutcome::Done }]);
        let count = if compares { 15 } else { 25 };
        assert_eq!(records(&whole).await[&key(0)].reports.count, count);
        // Counts stop at the limit.
        let full = Record { reports: tally(i64::MAX, 1, 2), whitelists: Tally::default() };
        let seen = whole.read(vec![key(0)]).await.unwrap().remove(0);
        whole.add(vec![addition(0, full, seen)]).await.unwrap();
        assert_eq!(records(&whole).await[&key(0)].reports.count, whole.clamp(&full).reports.count);
        whole.close().await.unwrap();
    });
}

#[test]
fn gdbm_moves_records() {
    let home = Home::new();
    let options = EngineOptions { path: home.path("pyzord.db"), ..EngineOptions::default() };
    records_are_added("gdbm", &options);
    std::fs::remove_file(&options.path).unwrap();
    records_are_stored_scanned_and_deleted("gdbm", &options);
}

fn dsn(settings: &str) -> EngineOptions {
    let dsn = settings.lines().find_map(|line| line.strip_prefix("DigestDB = ")).unwrap().to_owned();
    EngineOptions { dsn, ..EngineOptions::default() }
}

#[test]
fn redis_moves_records() {
    let store = Redis::start();
    records_are_stored_scanned_and_deleted("redis", &dsn(&store.settings()));
    store.cli(&["flushall"]);
    records_are_added("redis", &dsn(&store.settings()));
}

#[test]
fn redis_v0_moves_records() {
    let store = Redis::start();
    records_are_stored_scanned_and_deleted("redis_v0", &dsn(&store.settings()));
    store.cli(&["flushall"]);
    records_are_added("redis_v0", &dsn(&store.settings()));
}

#[test]
fn mysql_moves_records() {
    let store = MariaDb::start();
    records_are_stored_scanned_and_deleted("mysql", &dsn(&store.settings()));
    store.sql("DELETE FROM pyzor.digests");
    records_are_added("mysql", &dsn(&store.settings()));
}

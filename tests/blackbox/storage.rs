//! Engines as a program uses them that moves records: stored, deleted and walked through one by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyzord::digest::Digest;
use pyzord::record::{Kind, Record, Tally, Timestamp};
use pyzord::storage::{self, Batch, Engine, Options, Progress, StorageError};

use crate::harness::{Home, MariaDb, Redis, ours_only};
use crate::outages::Store;

const RECORDS: u64 = 2500;

fn digest(number: u64) -> Digest {
    let mut bytes = [0; 20];
    // All over the key space, as real ones are.
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Digest::from_bytes(bytes)
}

fn tally(count: i64, first: i64, last: i64) -> Tally {
    Tally { count, first: Some(Timestamp::from_seconds(first)), last: Some(Timestamp::from_seconds(last)) }
}

/// A record of some shape.
fn record(number: u64) -> Record {
    let count = i64::try_from(number).unwrap() + 1;
    let some = tally(count, 1_300_000_000 + count, 1_400_000_000 + count);
    match number % 3 {
        0 => Record { reports: some, whitelists: Tally::default() },
        1 => Record { reports: Tally::default(), whitelists: some },
        _ => Record { reports: some, whitelists: tally(1, 1_500_000_000, 1_500_000_001) },
    }
}

/// All records of a database, met page by page.
async fn walk(engine: &Arc<dyn Engine>) -> BTreeMap<Vec<u8>, Record> {
    let mut all = BTreeMap::new();
    let mut from = None;
    loop {
        let page = engine.scan(from, 100).await.unwrap();
        all.extend(page.records.into_iter().map(|(key, record)| (key, record.unwrap())));
        match page.next {
            Some(next) => from = Some(next),
            None => return all,
        }
    }
}

fn records_are_stored_walked_through_and_deleted(name: &str, options: &Options) {
    if !ours_only() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = storage::open(name, options).await.unwrap();
        assert!(walk(&engine).await.is_empty());
        let mut expected = BTreeMap::new();
        for number in 0..RECORDS {
            engine.store(digest(number), record(number + 1)).await.unwrap();
            engine.store(digest(number), record(number)).await.unwrap();
            expected.insert(digest(number).to_hex().to_vec(), record(number));
        }
        assert!(walk(&engine).await == expected, "not what was stored");
        for number in (0..RECORDS).step_by(2) {
            assert_eq!(engine.delete(digest(number)).await, Ok(true));
            assert_eq!(engine.delete(digest(number)).await, Ok(false));
            expected.remove(digest(number).to_hex().as_slice());
        }
        assert!(walk(&engine).await == expected, "not what was left");
        // More than a narrow engine counts to.
        let full = Record { reports: tally(i64::MAX, 1, 2), whitelists: Tally::default() };
        engine.store(digest(0), full).await.unwrap();
        let count = walk(&engine).await[digest(0).to_hex().as_slice()].reports.count;
        assert_eq!(count, engine.count_limit());
        engine.flush().await.unwrap();
        engine.close().await;
    });
}

#[test]
fn of_gdbm() {
    let home = Home::new();
    let options = Options { path: home.path().join("pyzord.db"), ..Options::default() };
    records_are_stored_walked_through_and_deleted("gdbm", &options);
}

fn dsn(settings: &str) -> Options {
    let dsn = settings.lines().find_map(|line| line.strip_prefix("DigestDB = ")).unwrap().to_owned();
    Options { dsn, ..Options::default() }
}

#[test]
fn of_redis() {
    let store = Redis::start();
    records_are_stored_walked_through_and_deleted("redis", &dsn(&store.settings()));
}

#[test]
fn of_redis_v0() {
    let store = Redis::start();
    records_are_stored_walked_through_and_deleted("redis_v0", &dsn(&store.settings()));
}

#[test]
fn of_mysql() {
    let store = MariaDb::start();
    records_are_stored_walked_through_and_deleted("mysql", &dsn(&store.settings()));
}

/// Stores records beside look-ups, each of which must get its own record.
async fn stores_beside_look_ups(engine: &Arc<dyn Engine>) {
    const EACH: u64 = 300;
    for number in 0..EACH {
        engine.store(digest(number), record(number)).await.unwrap();
    }
    let stores = async {
        for number in 0..EACH {
            engine.store(digest(EACH + number), record(number)).await.unwrap();
        }
    };
    let look_ups = async {
        for number in 0..EACH {
            let mut batch = Batch::default();
            batch.restart(Timestamp::now(), Instant::now());
            let look_up = batch.look_up(digest(number));
            let increment = batch.increment(digest(2 * EACH + number), Kind::Report);
            let batch = match engine.run(batch) {
                Progress::Done(batch) => batch,
                Progress::Later(batch) => batch.await,
            };
            assert_eq!(batch.found(look_up, i64::MAX), Ok(record(number)));
            assert_eq!(batch.counted(increment), Ok(()));
        }
    };
    futures_util::future::join(stores, look_ups).await;
    assert_eq!(walk(engine).await.len() as u64, 3 * EACH);
}

#[test]
fn a_store_does_not_disturb_what_goes_on_beside_it() {
    if !ours_only() {
        return;
    }
    let (redis, mariadb) = (Redis::start(), MariaDb::start());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (name, options) in [
            ("redis", dsn(&redis.settings())),
            ("redis_v0", dsn(&redis.settings())),
            ("mysql", dsn(&mariadb.settings())),
        ] {
            let engine = storage::open(name, &options).await.unwrap();
            stores_beside_look_ups(&engine).await;
            engine.close().await;
        }
    });
}

#[test]
fn a_store_that_redis_refuses_has_failed() {
    if !ours_only() {
        return;
    }
    let redis = Redis::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = storage::open("redis", &dsn(&redis.settings())).await.unwrap();
        redis.cli(&["set", &format!("pyzord.digest_v1.{}", digest(1)), "a text in its place"]);
        assert_eq!(engine.store(digest(1), record(1)).await, Ok(()));
        redis.cli(&["config", "set", "maxmemory", "1"]);
        assert_eq!(engine.store(digest(2), record(2)).await, Err(StorageError::Unavailable));
        assert_eq!(walk(&engine).await.len(), 1);
    });
}

#[test]
fn a_record_stored_in_redis_expires_its_age_after_its_last_change() {
    if !ours_only() {
        return;
    }
    let store = Redis::start();
    let options = Options { cleanup_age: Some(Duration::from_secs(1_000_000)), ..dsn(&store.settings()) };
    let now = Timestamp::now().seconds();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = storage::open("redis", &options).await.unwrap();
        let old = Record { reports: tally(1, 1, now - 2_000_000), whitelists: Tally::default() };
        let both = Record { reports: tally(1, 1, now - 2_000_000), whitelists: tally(1, 1, now - 600_000) };
        engine.store(digest(1), old).await.unwrap();
        engine.store(digest(2), both).await.unwrap();
        assert_eq!(walk(&engine).await.len(), 1);
    });
    let key = format!("pyzord.digest_v1.{}", digest(2));
    let left: i64 = store.cli(&["ttl", &key]).trim().parse().unwrap();
    assert!((399_900..=400_000).contains(&left), "{left}");
}

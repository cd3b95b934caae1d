//! Tests of the engine on real files, and the functions that they share.

mod bulk;
mod collisions;
mod engine;
mod expiry;
mod repair;
mod status;
mod tail;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use jiff::tz::TimeZone;

use super::Gdbm;
use super::codec::{DateWriter, StoredRecord};
use super::file::handle::Handle;
use super::file::location::DatabasePath;
use super::file::marker::Marker;
use crate::record::{TallyKind, Timestamp};
use crate::storage::{Batch, BatchProgress, Engine, StorageError};
use pyzor_wire::digest::Digest;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn digest(number: u32) -> Digest {
    // Spread over the file like real digests.
    use sha1::Digest as _;
    Digest::from_bytes(sha1::Sha1::digest(number.to_be_bytes()).into())
}

/// Opens a file without a marker, like another program.
fn handle(path: &Path) -> Handle {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path).unwrap();
    Handle::open(&file, path).unwrap()
}

/// Closes the engine, and drops it, which releases the lock on the file.
fn close(engine: Gdbm) {
    runtime().block_on(engine.close());
}

fn marker(path: &Path) -> Marker {
    Marker::of(&DatabasePath::of(path).unwrap())
}

fn write(path: &Path, records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) {
    let mut handle = handle(path);
    for (key, value) in records {
        handle.store(&key, &value).unwrap();
    }
    handle.close().unwrap();
}

fn read(path: &Path) -> BTreeMap<String, String> {
    let mut handle = handle(path);
    let (mut key, mut value, mut found) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut more = handle.first_key(&mut key).unwrap();
    while more {
        assert!(handle.fetch(&key, &mut value).unwrap());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(found.insert(text(&key), text(&value)), None, "met twice");
        more = handle.next_key(&mut key).unwrap();
    }
    found
}

fn record(days_ago: i64) -> Vec<u8> {
    let mut stored = StoredRecord::default();
    stored.add(TallyKind::Report, 1, Timestamp::from_seconds(Timestamp::now().seconds() - days_ago * 86_400));
    let mut text = Vec::new();
    stored.encode(&mut text, &mut DateWriter::new(TimeZone::UTC));
    text
}

fn report(engine: &Gdbm, digests: impl IntoIterator<Item = Digest>) -> Vec<Result<(), StorageError>> {
    let mut batch = Batch::default();
    batch.restart(Timestamp::now(), Instant::now());
    let increments: Vec<_> =
        digests.into_iter().map(|digest| batch.increment(digest, TallyKind::Report)).collect();
    let BatchProgress::Done(batch) = engine.run(batch) else {
        panic!("the batch is not completed immediately")
    };
    increments.into_iter().map(|increment| batch.counted(increment)).collect()
}

fn counts_of(engine: &Gdbm, digests: impl IntoIterator<Item = u32>) -> Vec<i64> {
    let mut batch = Batch::default();
    batch.restart(Timestamp::now(), Instant::now());
    let look_ups: Vec<_> = digests.into_iter().map(|number| batch.look_up_counts(digest(number))).collect();
    let BatchProgress::Done(batch) = engine.run(batch) else {
        panic!("the batch is not completed immediately")
    };
    look_ups.into_iter().map(|look_up| batch.found(look_up, i64::MAX).unwrap().reports.count).collect()
}

fn report_all(engine: &Gdbm, digests: std::ops::Range<u32>) {
    assert!(report(engine, digests.map(digest)).iter().all(Result::is_ok));
}

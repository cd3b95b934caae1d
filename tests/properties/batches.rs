//! Batches, which merge requests for one digest, compared with the same requests one by one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Instant;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::sample::select;
use pyzor_wire::digest::Digest;
use pyzord::fuzzing::MemoryEngine;
use pyzord::record::{Record, Tally, TallyKind, Timestamp};
use pyzord::storage::batch::{Batch, Increment, LookUp};
use pyzord::storage::gdbm::Gdbm;
use pyzord::storage::{BatchProgress, Engine, StorageError};

use crate::cases;

/// A request for digests, which are identified by small numbers.
#[derive(Clone, Debug)]
enum Request {
    LookUp(u8, bool),
    Count(TallyKind, Vec<u8>),
}

/// The reply to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    Found(Result<Record, StorageError>),
    Counted(Vec<Result<(), StorageError>>),
}

enum Place {
    LookUp(LookUp, bool),
    Count(Vec<Increment>),
}

fn request() -> impl Strategy<Value = Request> {
    let kind = select(vec![TallyKind::Report, TallyKind::Whitelist]);
    prop_oneof![
        (0u8..4, any::<bool>()).prop_map(|(digest, times)| Request::LookUp(digest, times)),
        (kind, prop::collection::vec(0u8..4, 1..5)).prop_map(|(kind, digests)| Request::Count(kind, digests)),
    ]
}

fn tally() -> impl Strategy<Value = Tally> {
    let count = prop_oneof![-3i64..15, Just(i64::MAX - 1), Just(i64::MAX), Just(i64::MIN)];
    let time = || prop::option::of((0i64..50).prop_map(Timestamp::from_seconds));
    (count, time(), time()).prop_map(|(count, first, last)| Tally { count, first, last })
}

fn records() -> impl Strategy<Value = BTreeMap<u8, Record>> {
    let record = (tally(), tally()).prop_map(|(reports, whitelists)| Record { reports, whitelists });
    prop::collection::btree_map(0u8..4, record, 0..4)
}

/// Runs one batch. `digest` converts the small numbers to digests.
fn run(
    engine: &dyn Engine,
    requests: &[Request],
    now: Timestamp,
    digest: &dyn Fn(u8) -> Digest,
) -> Vec<Reply> {
    let mut batch = Batch::default();
    batch.restart(now, Instant::now());
    let place = |request: &Request| match request {
        Request::LookUp(name, true) => Place::LookUp(batch.look_up(digest(*name)), true),
        Request::LookUp(name, false) => Place::LookUp(batch.look_up_counts(digest(*name)), false),
        Request::Count(kind, names) => {
            Place::Count(names.iter().map(|name| batch.increment(digest(*name), *kind)).collect())
        }
    };
    let places: Vec<Place> = requests.iter().map(place).collect();
    let BatchProgress::Done(batch) = engine.run(batch) else { panic!("the engine is synchronous") };
    let limit = engine.count_limit();
    let reply = |place: &Place| match place {
        Place::LookUp(look_up, true) => Reply::Found(batch.found(*look_up, limit)),
        Place::LookUp(look_up, false) => Reply::Found(batch.found(*look_up, limit).map(counts_of)),
        Place::Count(increments) => {
            Reply::Counted(increments.iter().map(|increment| batch.counted(*increment)).collect())
        }
    };
    places.iter().map(reply).collect()
}

/// Returns the record without its times, which a look-up of counts may omit.
fn counts_of(record: Record) -> Record {
    let tally = |tally: Tally| Tally { count: tally.count, first: None, last: None };
    Record { reports: tally(record.reports), whitelists: tally(record.whitelists) }
}

/// Applies the requests one by one to a map.
fn one_by_one(
    records: &mut BTreeMap<u8, Record>,
    broken: &BTreeMap<u8, StorageError>,
    requests: &[Request],
    now: Timestamp,
    limit: i64,
) -> Vec<Reply> {
    let mut serve = |request: &Request| match request {
        Request::LookUp(name, times) => Reply::Found(match broken.get(name) {
            Some(error) => Err(*error),
            None => {
                let found = records.get(name).copied().unwrap_or_default();
                Ok(if *times { found } else { counts_of(found) })
            }
        }),
        Request::Count(kind, names) => Reply::Counted(
            names
                .iter()
                .map(|name| {
                    if let Some(error) = broken.get(name) {
                        return Err(*error);
                    }
                    let record = records.entry(*name).or_default();
                    let tally = match kind {
                        TallyKind::Report => &mut record.reports,
                        TallyKind::Whitelist => &mut record.whitelists,
                    };
                    if tally.count < limit {
                        tally.count += 1;
                    }
                    if tally.first.is_none() {
                        tally.first = Some(now);
                    }
                    tally.last = Some(now);
                    Ok(())
                })
                .collect(),
        ),
    };
    requests.iter().map(&mut serve).collect()
}

fn plain(name: u8) -> Digest {
    Digest::from_bytes([name; 20])
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn batch_has_the_same_effect_as_its_requests_one_by_one(
        batches in prop::collection::vec(prop::collection::vec(request(), 0..12), 1..4),
        records in records(),
        broken in prop::collection::btree_map(0u8..4, select(vec![StorageError::Damaged, StorageError::Unavailable]), 0..2),
        limit in select(vec![i64::MAX, 10, 2, i64::from(i32::MAX)]),
    ) {
        let by_digest = |records: &BTreeMap<u8, Record>| records.iter().map(|(name, record)| (plain(*name), *record)).collect();
        let broken_digests = broken.iter().map(|(name, error)| (plain(*name), *error)).collect();
        let engine = MemoryEngine::new(by_digest(&records), limit, broken_digests);
        let mut expected = records;
        for (at, requests) in batches.iter().enumerate() {
            let now = Timestamp::from_seconds(100 + at as i64);
            let replies = run(&engine, requests, now, &plain);
            prop_assert_eq!(replies, one_by_one(&mut expected, &broken, requests, now, limit));
        }
        prop_assert_eq!(engine.records(), by_digest(&expected));
    }
}

/// Compares batches on an engine with the same requests one by one. Each case has digests of its own.
fn batches_are_as_their_requests_one_by_one(engine: &dyn Engine) {
    let batches = prop::collection::vec(prop::collection::vec(request(), 0..12), 1..4);
    let cases_so_far = Cell::new(0u32);
    let mut runner = proptest::test_runner::TestRunner::new(cases(1000));
    let outcome = runner.run(&batches, |batches| {
        let case = cases_so_far.get() + 1;
        cases_so_far.set(case);
        let digest = |name: u8| {
            let mut bytes = [name; 20];
            bytes[..4].copy_from_slice(&case.to_be_bytes());
            Digest::from_bytes(bytes)
        };
        let mut expected = BTreeMap::new();
        for (at, requests) in batches.iter().enumerate() {
            let now = Timestamp::from_micros(1_795_343_270_000_001 + at as i64);
            let replies = run(engine, requests, now, &digest);
            prop_assert_eq!(replies, one_by_one(&mut expected, &BTreeMap::new(), requests, now, i64::MAX));
        }
        let all: Vec<Request> = (0..4).map(|name| Request::LookUp(name, true)).collect();
        let stored = run(engine, &all, Timestamp::from_seconds(0), &digest);
        let records = (0..4).map(|name| Reply::Found(Ok(expected.get(&name).copied().unwrap_or_default())));
        prop_assert_eq!(stored, records.collect::<Vec<_>>());
        Ok(())
    });
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[test]
fn batch_on_gdbm_has_the_same_effect_as_its_requests_one_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Gdbm::open(&directory.path().join("pyzord.db"), None, TimeZone::UTC).unwrap();
    batches_are_as_their_requests_one_by_one(&engine);
}

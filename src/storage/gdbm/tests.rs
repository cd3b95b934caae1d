use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;

use super::Gdbm;
use super::codec::{Calendar, Stored};
use super::engine::DeathTold;
use super::expiry::Sweep;
use super::file::handle::Handle;
use super::file::location::Place;
use super::file::tail;
use super::repair::marker::Marker;
use crate::record::{Kind, Timestamp};
use crate::storage::bulk::{self, Item, Outcome, Purpose, Put};
use crate::storage::{Batch, Engine, Health, Options, Progress, StorageError};
use pyzor_wire::digest::Digest;

const PATIENCE: Duration = Duration::from_secs(20);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn digest(number: u32) -> Digest {
    // Spread over the whole file, as real digests are.
    use sha1::Digest as _;
    Digest::from_bytes(sha1::Sha1::digest(number.to_be_bytes()).into())
}

/// As another program opens it.
fn handle(path: &Path) -> Handle {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path).unwrap();
    Handle::open(&file, path).unwrap()
}

/// The lock on the file goes with the engine.
fn close(engine: Gdbm) {
    runtime().block_on(engine.close());
}

fn marker(path: &Path) -> Marker {
    Marker::of(&Place::of(path).unwrap())
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
    let mut stored = Stored::default();
    stored.add(Kind::Report, 1, Timestamp::from_seconds(Timestamp::now().seconds() - days_ago * 86_400));
    let mut text = Vec::new();
    stored.encode(&mut text, &mut Calendar::new(TimeZone::UTC));
    text
}

#[test]
fn a_sweep_deletes_every_expired_record_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    let odd = [
        (b"".to_vec(), record(100)),
        (digest(1).to_string().to_uppercase().into_bytes(), record(100)),
        (b"a mail's subject".to_vec(), record(100)),
        (digest(900_000).to_hex().to_vec(), b"damaged".to_vec()),
        (digest(900_001).to_hex().to_vec(), b"1,0,None,None,0,None,None".to_vec()),
        (digest(900_002).to_hex().to_vec(), b"5,1300000000,1400000000".to_vec()),
        (
            digest(900_003).to_hex().to_vec(),
            b"1,1,2011-01-01 00:00:00,2011-01-01 00:00:00,1,2011-01-01 00:00:00,2999-01-01 00:00:00".to_vec(),
        ),
    ];
    let mixed = (0..20_000)
        .map(|number| (digest(number).to_hex().to_vec(), record(if number % 3 == 0 { 1 } else { 100 })));
    write(&path, mixed.chain(odd));

    let month = Duration::from_secs(30 * 86_400);
    let engine = Gdbm::open(&path, Some(month), TimeZone::UTC).unwrap();
    let expected = 20_000_usize.div_ceil(3) + 6;
    let deadline = Instant::now() + PATIENCE;
    let left = loop {
        let left = engine.shared.lock().as_mut().unwrap().handle.count().unwrap();
        if left <= expected as u64 {
            break left as usize;
        }
        assert!(Instant::now() < deadline, "{left} records are left");
        thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(left, expected);
    close(engine);
    let left = read(&path);
    for number in 0..20_000 {
        assert_eq!(left.contains_key(&digest(number).to_string()), number % 3 == 0, "{number}");
    }
    assert!(left.contains_key("") && left.contains_key("a mail's subject"));
    assert_eq!(left[&digest(900_000).to_string()], "damaged");
    assert!(!left.contains_key(&digest(900_002).to_string()), "an expired record of version 0");
    assert!(left.contains_key(&digest(900_003).to_string()), "whitelisted not long ago");
}

#[test]
fn a_record_that_is_reported_while_it_waits_for_its_deletion_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    write(&path, (0..100).map(|number| (digest(number).to_hex().to_vec(), record(100))));
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    let mut guard = engine.shared.lock();
    let open = guard.as_mut().unwrap();
    let horizon = Timestamp::from_seconds(Timestamp::now().seconds() - 86_400);
    let mut sweep = Sweep::new(horizon, 1 << 20);
    // So large a distance that the walk ends before anything is deleted.
    while sweep.walked() < 100 {
        assert!(!sweep.slice(open, &path, Duration::ZERO).unwrap());
    }
    let kept = digest(7).to_hex();
    open.handle.store(&kept, &record(0)).unwrap();
    while !sweep.slice(open, &path, Duration::from_millis(1)).unwrap() {}
    drop(guard);
    assert_eq!((sweep.deleted, sweep.damaged, sweep.foreign), (99, 0, 0));
    close(engine);
    assert_eq!(read(&path).into_keys().collect::<Vec<_>>(), [digest(7).to_string()]);
}

#[test]
fn what_is_deleted_during_a_scan_does_not_hide_anything() {
    const RECORDS: u32 = 5000;
    let folder = tempfile::tempdir().unwrap();
    let options = Options { path: folder.path().join("pyzord.db"), ..Options::default() };
    write(&options.path, (0..RECORDS).map(|number| (digest(number).to_hex().to_vec(), record(1))));
    let runtime = runtime();
    runtime.block_on(async {
        let whole = bulk::open("gdbm", &options, Purpose::Empty).await.unwrap();
        let (mut found, mut cursor) = (BTreeMap::new(), None);
        loop {
            let page = whole.scan(cursor, 7).await.unwrap();
            assert!(page.items.len() <= 7);
            for item in &page.items {
                assert_eq!(found.insert(item.key.clone(), item.clone()), None, "met twice");
            }
            assert!(whole.delete(page.items).await.unwrap().iter().all(|outcome| *outcome == Outcome::Done));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), RECORDS as usize);
        whole.close().await.unwrap();
    });
    assert_eq!(read(&options.path).len(), 0);
}

#[test]
fn only_what_is_still_there_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { path: folder.path().join("pyzord.db"), ..Options::default() };
    write(&options.path, (0..2).map(|number| (digest(number).to_hex().to_vec(), record(1))));
    runtime().block_on(async {
        let whole = bulk::open("gdbm", &options, Purpose::Empty).await.unwrap();
        let items: Vec<Item> = whole.scan(None, 10).await.unwrap().items;
        let changed = items[0].clone();
        let digest = Digest::from_hex(&changed.key).unwrap();
        let put = Put { digest, record: crate::record::Record::default(), expires: None, held: None };
        assert_eq!(whole.store(vec![put]).await.unwrap(), [Outcome::Done]);
        assert_eq!(whole.delete(items).await.unwrap(), [Outcome::Changed, Outcome::Done]);
        assert!(whole.read(vec![changed.key]).await.unwrap()[0].is_some());
        whole.close().await.unwrap();
    });
    assert_eq!(read(&options.path).len(), 1);
}

#[test]
fn a_batch_is_looked_up_before_it_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    write(
        &path,
        [
            (digest(1).to_hex().to_vec(), b"5,1300000000,1400000000".to_vec()),
            (digest(2).to_hex().to_vec(), b"damaged".to_vec()),
        ],
    );
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    let mut batch = Batch::default();
    batch.restart(Timestamp::from_seconds(1_700_000_000), Instant::now());
    let look_up = batch.look_up(digest(1));
    let reports = [1, 1, 2, 3].map(|number| batch.increment(digest(number), Kind::Report));
    let whitelisting = batch.increment(digest(3), Kind::Whitelist);
    let Progress::Done(batch) = engine.run(batch) else { panic!("it is not completed on the spot") };
    assert_eq!(batch.found(look_up, i64::MAX).unwrap().reports.count, 5);
    assert_eq!(
        reports.map(|report| batch.counted(report)),
        [Ok(()), Ok(()), Err(StorageError::Damaged), Ok(())]
    );
    assert_eq!(batch.counted(whitelisting), Ok(()));
    close(engine);
    let found = read(&path);
    assert_eq!(found[&digest(1).to_string()], "1,7,2011-03-13 07:06:40,2023-11-14 22:13:20,0,None,None");
    assert_eq!(found[&digest(2).to_string()], "damaged");
    assert_eq!(
        found[&digest(3).to_string()],
        "1,1,2023-11-14 22:13:20,2023-11-14 22:13:20,1,2023-11-14 22:13:20,2023-11-14 22:13:20"
    );
}

#[test]
fn what_cannot_be_opened_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    let told = |path: &Path| match Gdbm::open(path, None, TimeZone::UTC) {
        Ok(_) => panic!("it was opened"),
        Err(error) => (error.to_string().replace(&path.display().to_string(), "FILE"), error.is_busy()),
    };
    std::fs::write(&path, "this is no database, but long enough for the header of one\n".repeat(100))
        .unwrap();
    let (text, busy) = told(&path);
    assert_eq!(
        text,
        "FILE is not a GNU dbm database (Bad magic number): if it was one, pyzord --recover repairs it and keeps the file as it was; otherwise move it away, or name another file with DigestDB"
    );
    assert!(!busy);
    std::fs::write(&path, "short").unwrap();
    assert!(told(&path).0.starts_with("FILE is not a GNU dbm database ("), "{:?}", told(&path));
    assert!(told(&folder.path().join("missing/pyzord.db")).0.contains("No such file or directory"));

    std::fs::write(&path, "").unwrap();
    let _first = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    let (text, busy) = told(&path);
    // It is this one, which cannot be meant.
    assert_eq!(text, "the database FILE is in use by another process: stop that first");
    assert!(busy);
}

/// Digests whose hashes are equal: the hash adds up characters shifted by a number that repeats
/// every 24, so that two of them can change places.
fn colliding(number: usize) -> impl Iterator<Item = Digest> {
    (0..number).map(|number| {
        let mut text = *b"0123456789abcdef01234567fedcba9876543210";
        for place in (0..16).filter(|place| number >> place & 1 == 1) {
            text.swap(place, place + 24);
        }
        Digest::from_hex(&text).unwrap()
    })
}

fn report(engine: &Gdbm, digests: impl IntoIterator<Item = Digest>) -> Vec<Result<(), StorageError>> {
    let mut batch = Batch::default();
    batch.restart(Timestamp::now(), Instant::now());
    let increments: Vec<_> =
        digests.into_iter().map(|digest| batch.increment(digest, Kind::Report)).collect();
    let Progress::Done(batch) = engine.run(batch) else { panic!("it is not completed on the spot") };
    increments.into_iter().map(|increment| batch.counted(increment)).collect()
}

#[test]
fn digests_that_were_chosen_to_collide_are_refused_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    let outcomes = report(&engine, colliding(300));
    let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!((100..300).contains(&stored), "{stored}");
    assert_eq!(engine.health(), Health::Serving);
    assert!(report(&engine, (0..100).map(digest)).iter().all(Result::is_ok));
    assert!(
        report(&engine, colliding(stored)).iter().all(Result::is_ok),
        "those that are stored are still counted"
    );
    close(engine);
    assert!(std::fs::metadata(&path).unwrap().len() < 4 << 20);
    assert_eq!(read(&path).len(), stored + 100);
}

#[test]
fn digests_that_nobody_chose_are_never_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    for start in (0..30_000).step_by(1000) {
        assert!(report(&engine, (start..start + 1000).map(digest)).iter().all(Result::is_ok));
    }
}

/// A file as a process leaves it that is killed when it has made the file longer and not yet
/// written the header.
fn cut_off(path: &Path, tail: &[u8]) {
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    io::Write::write_all(&mut file, tail).unwrap();
    assert!(handle(path).needs_recovery());
}

#[test]
fn a_file_that_was_cut_off_in_a_change_is_mended_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    write(&path, (0..5000).map(|number| (digest(number).to_hex().to_vec(), record(1))));
    let before = read(&path);
    cut_off(&path, &[0; 4096]);
    let engine = Gdbm::open(&path, Some(Duration::from_secs(30 * 86_400)), TimeZone::UTC).unwrap();
    assert!(report(&engine, [digest(5000)]).iter().all(Result::is_ok));
    close(engine);
    let mut after = read(&path);
    after.remove(&digest(5000).to_string()).unwrap();
    assert_eq!(after, before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the backup is left");
}

#[test]
fn records_that_a_recovery_does_not_find_are_put_back_from_the_remains() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    let old = (digest(2).to_hex().to_vec(), record(100));
    write(&path, [(digest(1).to_hex().to_vec(), record(1))]);
    let mut tail = vec![0; 100];
    for (key, text) in [
        (
            digest(3).to_hex().to_vec(),
            b"1,4,2999-01-01 00:00:00.000001,2999-01-01 00:00:00,0,None,None".to_vec(),
        ),
        (
            digest(3).to_hex().to_vec(),
            b"1,5,2999-01-01 00:00:00.000001,2999-01-01 00:00:00,0,None,None".to_vec(),
        ),
        (
            digest(3).to_hex().to_vec(),
            b"1,3,2999-01-01 00:00:00.000001,2999-01-01 00:00:00,0,None,None".to_vec(),
        ),
        // Known, with another count: this is an older version.
        (digest(1).to_hex().to_vec(), b"1,99,2999-01-01 00:00:00,2999-01-01 00:00:00,0,None,None".to_vec()),
        // Deleted, since it had expired.
        old,
    ] {
        tail.extend(key);
        tail.extend(text);
    }
    tail.resize(8192, b'f');
    cut_off(&path, &tail);
    let before = record(1);
    let engine = Gdbm::open(&path, Some(Duration::from_secs(30 * 86_400)), TimeZone::UTC).unwrap();
    close(engine);
    let after = read(&path);
    assert_eq!(after.len(), 2, "{after:?}");
    assert_eq!(
        after[&digest(3).to_string()],
        "1,5,2999-01-01 00:00:00.000001,2999-01-01 00:00:00,0,None,None"
    );
    assert_eq!(
        after[&digest(1).to_string()].split(',').nth(1),
        std::str::from_utf8(&before).unwrap().split(',').nth(1)
    );
}

#[test]
fn remains_that_lie_across_two_parts_of_a_file_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    write(&path, [(digest(1).to_hex().to_vec(), record(1))]);
    let size = std::fs::metadata(&path).unwrap().len();
    let record =
        [&digest(3).to_hex()[..], b"1,4,2999-01-01 00:00:00.000001,2999-01-01 00:00:00,0,None,None"].concat();
    let boundary = usize::try_from((1 << 20) - size).unwrap();
    for before in [
        boundary - record.len() - 1,
        boundary - record.len(),
        boundary - 41,
        boundary - 40,
        boundary - 20,
        boundary,
    ] {
        let copy = folder.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        cut_off(&copy, &[vec![b' '; before], record.clone(), vec![b' '; 100]].concat());
        let engine = Gdbm::open(&copy, None, TimeZone::UTC).unwrap();
        close(engine);
        assert!(read(&copy).contains_key(&digest(3).to_string()), "{before}");
    }
}

#[test]
fn a_bucket_that_is_damaged_while_it_is_served_ends_the_engine_and_is_mended_by_the_next_start() {
    use std::os::unix::fs::FileExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    write(&path, (0..5000).map(|number| (digest(number).to_hex().to_vec(), record(1))));
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    // The bucket that the directory names last, which nobody has looked at yet.
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let long = |at| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_ne_bytes(bytes)
    };
    let (directory, size) = (long(8), long(16) & 0xffff_ffff);
    file.write_all_at(&[0xff; 112], long(directory + size - 8)).unwrap();

    let outcomes = report(&engine, (0..5000).map(digest));
    assert!(outcomes.iter().any(Result::is_err), "nobody met the damage");
    let why = runtime().block_on(engine.failed());
    assert!(why.contains("its next start repairs the file"), "{why}");
    assert!(matches!(engine.health(), Health::Failed(_)));
    close(engine);

    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    assert_eq!(engine.health(), Health::Serving);
    assert!(report(&engine, (0..5000).map(digest)).iter().all(Result::is_ok));
    close(engine);
    let after = read(&path);
    assert_eq!(after.len(), 5000);
    let counts = |text: &String| text.split(',').nth(1).unwrap().parse::<u32>().unwrap();
    assert!(after.values().all(|text| counts(text) >= 2), "a record was lost and begun anew");
}

#[test]
fn what_has_changed_is_synced_when_it_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Gdbm::open(&folder.path().join("pyzord.db"), None, TimeZone::UTC).unwrap();
    let is_dirty = || engine.shared.lock().as_ref().unwrap().dirty;
    assert!(report(&engine, [digest(1)]).iter().all(Result::is_ok));
    assert!(is_dirty());
    let mut later = Instant::now() + Duration::from_secs(60);
    engine.shared.sync_if_due(&mut later);
    assert!(is_dirty(), "it was not due");
    let mut due = Instant::now();
    engine.shared.sync_if_due(&mut due);
    assert!(!is_dirty());
    assert!(due > Instant::now() + Duration::from_secs(30), "the next one is not planned");
}

#[test]
fn a_database_that_is_no_file_is_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [path.as_path(), folder.path()] {
        let Err(error) = Gdbm::open(path, None, TimeZone::UTC) else { panic!("it was opened") };
        assert!(error.to_string().ends_with("it is not a regular file"), "{error}");
    }
}

fn counts_of(engine: &Gdbm, digests: impl IntoIterator<Item = u32>) -> Vec<i64> {
    let mut batch = Batch::default();
    batch.restart(Timestamp::now(), Instant::now());
    let look_ups: Vec<_> = digests.into_iter().map(|number| batch.look_up_counts(digest(number))).collect();
    let Progress::Done(batch) = engine.run(batch) else { panic!("it is not completed on the spot") };
    look_ups.into_iter().map(|look_up| batch.found(look_up, i64::MAX).unwrap().reports.count).collect()
}

fn report_all(engine: &Gdbm, digests: std::ops::Range<u32>) {
    assert!(report(engine, digests.map(digest)).iter().all(Result::is_ok));
}

#[test]
fn an_expired_record_that_was_looked_at_before_is_gone_and_counted_from_zero() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    write(&path, (0..100).map(|number| (digest(number).to_hex().to_vec(), record(100))));
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    assert_eq!(counts_of(&engine, 0..100), [1; 100]);
    let horizon = Timestamp::from_seconds(Timestamp::now().seconds() - 86_400);
    let mut sweep = Sweep::new(horizon, 1 << 12);
    while !sweep.slice(engine.shared.lock().as_mut().unwrap(), &path, Duration::from_millis(1)).unwrap() {}
    assert_eq!(sweep.deleted, 100);
    assert_eq!(counts_of(&engine, 0..100), [0; 100]);
    report_all(&engine, 0..50);
    assert_eq!(counts_of(&engine, 0..100), [[1; 50], [0; 50]].concat());
    close(engine);
    assert_eq!(read(&path).len(), 50);
}

/// The file has a tail while it is open, and is as any other program wants it afterwards.
#[test]
fn a_file_is_longer_while_it_is_open_and_takes_no_more_of_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    report_all(&engine, 0..20_000);
    let open = std::fs::metadata(&path).unwrap();
    assert!(open.len() > 1 << 30, "{}", open.len());
    assert!(open.blocks() * 512 < 16 << 20, "{}", open.blocks());
    close(engine);
    let closed = std::fs::metadata(&path).unwrap();
    assert!((1 << 20..8 << 20).contains(&closed.len()), "{}", closed.len());
    assert!(closed.blocks() * 512 <= closed.len() + 4096);
    assert!(!handle(&path).needs_recovery());
    assert_eq!(read(&path).len(), 20_000);
}

/// As a process leaves the file that is killed between two changes.
#[test]
fn a_tail_that_a_kill_has_left_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    write(&path, (0..5000).map(|number| (digest(number).to_hex().to_vec(), record(1))));
    let length = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).read(true).open(&path).unwrap();
    file.set_len(length + (1 << 30)).unwrap();
    assert!(handle(&path).needs_recovery());
    tail::cut_unused(&file).unwrap();
    assert_eq!(file.metadata().unwrap().len(), length);
    assert!(!handle(&path).needs_recovery());
    assert_eq!(read(&path).len(), 5000);
}

#[test]
fn data_in_a_tail_is_kept_for_the_repair() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    write(&path, [(digest(1).to_hex().to_vec(), record(1))]);
    let length = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).read(true).open(&path).unwrap();
    file.set_len(length + (64 << 20)).unwrap();
    let mut lost = digest(2).to_hex().to_vec();
    lost.extend(record(1));
    std::os::unix::fs::FileExt::write_all_at(&file, &lost, length + (1 << 20)).unwrap();
    tail::cut_unused(&file).unwrap();
    assert!(file.metadata().unwrap().len() < length + (2 << 20));
    let engine = Gdbm::open(&path, Some(Duration::from_secs(30 * 86_400)), TimeZone::UTC).unwrap();
    assert_eq!(counts_of(&engine, 1..4), [1, 1, 0]);
}

#[test]
fn a_file_with_which_the_library_has_failed_is_looked_at_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    let marker = marker(&path);
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    report_all(&engine, 0..100);
    // Any error will do: no memory, for instance, in the middle of a change.
    let garbage = folder.path().join("garbage");
    std::fs::write(&garbage, [7; 1000]).unwrap();
    let file = File::open(&garbage).unwrap();
    let error = Handle::open(&file, &garbage).err().unwrap();
    engine.shared.complain(engine.shared.lock().as_mut().unwrap(), &error);
    close(engine);
    assert!(marker.is_there());

    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    assert_eq!(counts_of(&engine, 0..100), vec![1; 100]);
    close(engine);
    assert!(!marker.is_there());
}

#[test]
fn a_repair_that_cannot_be_made_leaves_the_file_as_it_was_and_is_owed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyzord.db");
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    report_all(&engine, 0..100);
    engine.shared.marker.flag().owe();
    close(engine);
    let content = || (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap().ino());
    let before = content();
    // What is in the way cannot be removed like a file.
    let obstacle = folder.path().join("pyzord.db.repair");
    std::fs::create_dir(&obstacle).unwrap();
    for _ in 0..2 {
        let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
        assert_eq!(counts_of(&engine, 0..100), vec![1; 100]);
        assert!(marker(&path).is_there());
        close(engine);
        assert_eq!(content().1, before.1);
        assert!(marker(&path).is_there(), "a repair is still to be made");
    }
    std::fs::remove_dir(&obstacle).unwrap();
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    assert_eq!(counts_of(&engine, 0..100), vec![1; 100]);
    close(engine);
    assert_ne!(content().1, before.1);
    assert!(!marker(&path).is_there());
}

#[test]
fn the_death_of_its_thread_ends_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Gdbm::open(&folder.path().join("pyzord.db"), None, TimeZone::UTC).unwrap();
    let shared = Arc::clone(&engine.shared);
    let thread = thread::spawn(move || {
        let _told = DeathTold(&shared);
        panic!("as a thread may");
    });
    thread.join().unwrap_err();
    assert!(matches!(engine.health(), Health::Failed(why) if why.contains("has died")));
}

//! Deletion of expired records.

use std::thread;

use super::*;
use crate::storage::gdbm::expiry::ExpirySweep;

const SWEEP_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn sweep_deletes_every_expired_record_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
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
    let deadline = Instant::now() + SWEEP_LIMIT;
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
fn record_reported_before_its_pending_deletion_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    write(&path, (0..100).map(|number| (digest(number).to_hex().to_vec(), record(100))));
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    let mut guard = engine.shared.lock();
    let open = guard.as_mut().unwrap();
    let horizon = Timestamp::from_seconds(Timestamp::now().seconds() - 86_400);
    let mut sweep = ExpirySweep::new(horizon, 1 << 20);
    // With this block size the walk ends before any deletion.
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
fn cached_record_is_forgotten_when_it_expires() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    write(&path, (0..100).map(|number| (digest(number).to_hex().to_vec(), record(100))));
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    assert_eq!(counts_of(&engine, 0..100), [1; 100]);
    let horizon = Timestamp::from_seconds(Timestamp::now().seconds() - 86_400);
    let mut sweep = ExpirySweep::new(horizon, 1 << 12);
    while !sweep.slice(engine.shared.lock().as_mut().unwrap(), &path, Duration::from_millis(1)).unwrap() {}
    assert_eq!(sweep.deleted, 100);
    assert_eq!(counts_of(&engine, 0..100), [0; 100]);
    report_all(&engine, 0..50);
    assert_eq!(counts_of(&engine, 0..100), [[1; 50], [0; 50]].concat());
    close(engine);
    assert_eq!(read(&path).len(), 50);
}

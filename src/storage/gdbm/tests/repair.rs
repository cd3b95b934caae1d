//! Repairs at the start.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::*;

/// Makes a file look like that of a process killed after it extended the file and before it wrote the header.
fn cut_off(path: &Path, tail: &[u8]) {
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    io::Write::write_all(&mut file, tail).unwrap();
    assert!(handle(path).needs_recovery());
}

#[test]
fn file_left_within_a_change_is_repaired_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    write(&path, (0..5000).map(|number| (digest(number).to_hex().to_vec(), record(1))));
    let before = read(&path);
    cut_off(&path, &[0; 4096]);
    let engine = Gdbm::open(&path, Some(Duration::from_secs(30 * 86_400)), TimeZone::UTC).unwrap();
    assert!(report(&engine, [digest(5000)]).iter().all(Result::is_ok));
    close(engine);
    let mut after = read(&path);
    after.remove(&digest(5000).to_string()).unwrap();
    assert_eq!(after, before);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "the backup is left");
}

#[test]
fn records_that_the_library_does_not_find_are_restored_from_remains() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
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
        // An older version of an existing record.
        (digest(1).to_hex().to_vec(), b"1,99,2999-01-01 00:00:00,2999-01-01 00:00:00,0,None,None".to_vec()),
        // Deleted by expiry.
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
fn remains_across_the_boundary_of_two_parts_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
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
        let copy = directory.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        cut_off(&copy, &[vec![b' '; before], record.clone(), vec![b' '; 100]].concat());
        let engine = Gdbm::open(&copy, None, TimeZone::UTC).unwrap();
        close(engine);
        assert!(read(&copy).contains_key(&digest(3).to_string()), "{before}");
    }
}

#[test]
fn bucket_damaged_while_serving_stops_the_engine_and_is_repaired_by_the_next_start() {
    use std::os::unix::fs::FileExt;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    write(&path, (0..5000).map(|number| (digest(number).to_hex().to_vec(), record(1))));
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    // The last bucket of the directory, which has not been read yet.
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let long = |at| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_ne_bytes(bytes)
    };
    let (hash_directory, size) = (long(8), long(16) & 0xffff_ffff);
    file.write_all_at(&[0xff; 112], long(hash_directory + size - 8)).unwrap();

    let outcomes = report(&engine, (0..5000).map(digest));
    assert!(outcomes.iter().any(Result::is_err), "no request met the damage");
    let why = runtime().block_on(engine.failed());
    assert!(why.contains("its next start repairs the file"), "{why}");
    close(engine);

    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    assert_eq!(engine.failed().now_or_never(), None);
    assert!(report(&engine, (0..5000).map(digest)).iter().all(Result::is_ok));
    close(engine);
    let after = read(&path);
    assert_eq!(after.len(), 5000);
    let counts = |text: &String| text.split(',').nth(1).unwrap().parse::<u32>().unwrap();
    assert!(after.values().all(|text| counts(text) >= 2), "a record was lost and counted from zero");
}

#[test]
fn file_is_repaired_by_the_next_start_after_an_error_of_the_library() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    let marker = marker(&path);
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    report_all(&engine, 0..100);
    // Any error of the library, such as a lack of memory in the middle of a change.
    let garbage = directory.path().join("garbage");
    std::fs::write(&garbage, [7; 1000]).unwrap();
    let file = File::open(&garbage).unwrap();
    let error = Handle::open(&file, &garbage).err().unwrap();
    engine.shared.report_error(engine.shared.lock().as_mut().unwrap(), &error);
    close(engine);
    assert!(marker.exists());

    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    assert_eq!(counts_of(&engine, 0..100), vec![1; 100]);
    close(engine);
    assert!(!marker.exists());
}

#[test]
fn failed_repair_leaves_the_file_unchanged_and_stays_owed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    report_all(&engine, 0..100);
    engine.shared.marker.flag().require_repair();
    close(engine);
    let content = || (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap().ino());
    let before = content();
    // A directory in the place of the leftover cannot be removed like a file.
    let obstacle = directory.path().join("pyzord.db.repair");
    std::fs::create_dir(&obstacle).unwrap();
    for _ in 0..2 {
        let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
        assert_eq!(counts_of(&engine, 0..100), vec![1; 100]);
        assert!(marker(&path).exists());
        close(engine);
        assert_eq!(content().1, before.1);
        assert!(marker(&path).exists(), "the repair is no longer owed");
    }
    std::fs::remove_dir(&obstacle).unwrap();
    let engine = Gdbm::open(&path, None, TimeZone::UTC).unwrap();
    assert_eq!(counts_of(&engine, 0..100), vec![1; 100]);
    close(engine);
    assert_ne!(content().1, before.1);
    assert!(!marker(&path).exists());
}

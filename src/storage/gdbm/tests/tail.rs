//! The tail of an open file, and of a file left by a kill.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::storage::gdbm::file::tail;

/// Tests a file as a process killed between two changes leaves it.
#[test]
fn empty_tail_left_by_a_kill_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    write(&path, (0..5000).map(|number| (digest(number).to_hex().to_vec(), record(1))));
    let length = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).read(true).open(&path).unwrap();
    file.set_len(length + (1 << 30)).unwrap();
    assert!(handle(&path).needs_recovery());
    tail::cut_empty_tail(&file).unwrap();
    assert_eq!(file.metadata().unwrap().len(), length);
    assert!(!handle(&path).needs_recovery());
    assert_eq!(read(&path).len(), 5000);
}

#[test]
fn data_in_a_tail_is_kept_for_the_repair() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
    write(&path, [(digest(1).to_hex().to_vec(), record(1))]);
    let length = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).read(true).open(&path).unwrap();
    file.set_len(length + (64 << 20)).unwrap();
    let mut lost = digest(2).to_hex().to_vec();
    lost.extend(record(1));
    std::os::unix::fs::FileExt::write_all_at(&file, &lost, length + (1 << 20)).unwrap();
    tail::cut_empty_tail(&file).unwrap();
    assert!(file.metadata().unwrap().len() < length + (2 << 20));
    let engine = Gdbm::open(&path, Some(Duration::from_secs(30 * 86_400)), TimeZone::UTC).unwrap();
    assert_eq!(counts_of(&engine, 1..4), [1, 1, 0]);
}

/// Also checks that other programs accept the file once it is closed.
#[test]
fn open_file_is_longer_but_takes_no_more_disk_space() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pyzord.db");
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

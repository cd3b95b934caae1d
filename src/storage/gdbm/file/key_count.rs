//! The number of keys in a file, counted bucket by bucket while keys are added and removed.
//!
//! Each bucket contains the number of its keys (layout of gdbm 1.23, the machine's byte order). Buckets are counted in
//! the order of the hashes of their keys, so that a key added or removed meanwhile changes the count only if its bucket
//! has been counted. A bucket that is split keeps its range of hashes, so the number is exact.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::directory::{HASH_BITS, hash};
use super::header::{Header, long, word};

/// Offset in a bucket of the number of hash bits in which its keys agree. The number of its keys follows.
const BUCKET_BITS: u64 = 104;
/// The hash after the last one.
const END: u32 = 1 << HASH_BITS;

/// The number of keys in a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyCount {
    /// Keys with lower hashes are counted.
    next: u32,
    counted: u64,
}

impl KeyCount {
    /// Returns the number of keys, once all are counted.
    pub(crate) fn total(&self) -> Option<u64> {
        (self.next == END).then_some(self.counted)
    }

    /// Counts the keys of the next bucket. Returns whether all are counted. No change may be under way.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or its directory or a bucket is damaged.
    pub(crate) fn step(&mut self, file: &File) -> io::Result<bool> {
        if self.next == END {
            return Ok(true);
        }
        let damaged = || io::Error::other("its hash directory is damaged");
        let header = Header::read(file)?.filter(|header| header.bits <= HASH_BITS).ok_or_else(damaged)?;
        let entry = u64::from(self.next >> (HASH_BITS - header.bits));
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, header.directory.saturating_add(entry * 8))?;
        let bucket = long(&bytes, 0);
        file.read_exact_at(&mut bytes, bucket.saturating_add(BUCKET_BITS))?;
        let (bits, keys) = (word(&bytes, 0), word(&bytes, 4));
        // The first block is the header.
        if bucket < u64::from(header.bucket_size) || bits > header.bits || keys > header.bucket_capacity {
            return Err(damaged());
        }
        let rest = HASH_BITS - bits;
        self.next = ((self.next >> rest) + 1) << rest;
        self.counted += u64::from(keys);
        Ok(self.next == END)
    }

    /// Records that a new key was added.
    pub(crate) fn added(&mut self, key: &[u8]) {
        self.counted += u64::from(self.has_counted(key));
    }

    /// Records that a key was removed.
    pub(crate) fn removed(&mut self, key: &[u8]) {
        self.counted = self.counted.saturating_sub(u64::from(self.has_counted(key)));
    }

    fn has_counted(&self, key: &[u8]) -> bool {
        self.next == END || hash(key) < self.next
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sha1::Digest as _;

    use super::super::handle::Handle;
    use super::*;

    fn key(number: u32) -> Vec<u8> {
        sha1::Sha1::digest(number.to_be_bytes())
            .iter()
            .flat_map(|byte| format!("{byte:02x}").into_bytes())
            .collect()
    }

    fn file(path: &Path) -> (File, Handle) {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).unwrap();
        let handle = Handle::open(&file, path).unwrap();
        (file, handle)
    }

    #[test]
    fn count_is_exact_while_keys_are_added_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, mut handle) = file(&directory.path().join("db"));
        (0..2000).for_each(|number| handle.store(&key(number), b"x").unwrap());
        let mut count = KeyCount::default();
        let (mut at, mut steps) = (2000, 0);
        while !count.step(&file).unwrap() {
            assert_eq!(count.total(), None);
            // Enough new keys to split buckets and double the directory behind and ahead of the count.
            for number in at..at + 100 {
                handle.store(&key(number), b"x").unwrap();
                count.added(&key(number));
            }
            at += 100;
            if steps % 2 == 0 {
                let gone = key(steps);
                assert!(handle.delete(&gone).unwrap());
                count.removed(&gone);
            }
            steps += 1;
        }
        assert!(steps > 20, "{steps} buckets");
        assert_eq!(count.total(), Some(handle.count().unwrap()));
        handle.store(&key(9_999_999), b"x").unwrap();
        count.added(&key(9_999_999));
        assert_eq!(count.total(), Some(handle.count().unwrap()));
    }

    #[test]
    fn empty_file_has_no_keys() {
        let directory = tempfile::tempdir().unwrap();
        let (file, _handle) = file(&directory.path().join("db"));
        let mut count = KeyCount::default();
        while !count.step(&file).unwrap() {}
        assert_eq!(count.total(), Some(0));
    }

    #[test]
    fn damaged_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let (file, mut handle) = file(&directory.path().join("db"));
        (0..100).for_each(|number| handle.store(&key(number), b"x").unwrap());
        handle.close().unwrap();
        let header = Header::read(&file).unwrap().unwrap();
        for damage in [u64::MAX, 0, u64::MAX - 50, 1 << 40] {
            file.write_all_at(&damage.to_ne_bytes(), header.directory).unwrap();
            let mut count = KeyCount::default();
            assert!(count.step(&file).is_err(), "{damage}");
        }
    }
}

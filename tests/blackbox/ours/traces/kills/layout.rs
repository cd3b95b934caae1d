//! The layout of a gdbm file, and digests that share a bucket.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::harness::digest;

/// Number of bits of a hash.
const HASH_BITS: u32 = 31;

/// The state of a file and of the bucket of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Number of hash bits that index the directory.
    pub(super) directory_bits: u32,
    /// Number of hash bits that all keys of the bucket share.
    pub(super) bucket_bits: u32,
    /// Number of keys in the bucket.
    pub(super) keys: u32,
    /// Number of keys that fit into a bucket.
    pub(super) capacity: u32,
}

impl Layout {
    /// Reads a file, which a server may have open.
    pub(super) fn of(path: &Path, key: &str) -> Self {
        let file = File::open(path).unwrap();
        let word = |at| {
            let mut bytes = [0; 4];
            file.read_exact_at(&mut bytes, at).unwrap();
            u32::from_ne_bytes(bytes)
        };
        let long = |at| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let directory_bits = word(20);
        let bucket = long(long(8) + 8 * u64::from(hash(key) >> (HASH_BITS - directory_bits)));
        Self { directory_bits, bucket_bits: word(bucket + 104), keys: word(bucket + 108), capacity: word(28) }
    }

    /// Returns the length of the used part of a file.
    pub(super) fn in_use(path: &Path) -> usize {
        let mut bytes = [0; 8];
        File::open(path).unwrap().read_exact_at(&mut bytes, 32).unwrap();
        usize::try_from(u64::from_ne_bytes(bytes)).unwrap()
    }

    /// Returns whether one more key splits the bucket.
    pub(super) fn is_full(self) -> bool {
        self.keys == self.capacity
    }
}

/// Returns the numbers of digests whose hashes begin with these bits.
pub(super) fn digests_of(bits: u32, length: u32) -> impl Iterator<Item = u32> {
    (1..).filter(move |number| hash(&digest(*number)) >> (HASH_BITS - length) == bits)
}

/// Returns the hash that the file format gives a key.
fn hash(key: &str) -> u32 {
    const MASK: u32 = 0x7fff_ffff;
    let length = u32::try_from(key.len()).unwrap();
    let sum = key.bytes().enumerate().fold(0x238f_13af_u32.wrapping_mul(length), |sum, (index, byte)| {
        sum.wrapping_add(u32::from(byte) << (index * 5 % 24)) & MASK
    });
    1_103_515_243_u32.wrapping_mul(sum).wrapping_add(12345) & MASK
}

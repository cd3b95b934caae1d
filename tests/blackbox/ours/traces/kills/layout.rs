//! What a gdbm file has where, and digests that come together in it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::harness::digest;

/// The bits of a hash.
const HASH_BITS: u32 = 31;

/// A look at a file and the bucket of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// How many bits of a hash the directory looks at.
    pub(super) directory_bits: u32,
    /// How many bits of their hashes all keys of the bucket have in common.
    pub(super) bucket_bits: u32,
    /// How many keys the bucket has, and how many there is room for.
    pub(super) keys: u32,
    pub(super) capacity: u32,
}

impl Layout {
    /// Looks at a file that may be open elsewhere.
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

    /// How much of a file is in use.
    pub(super) fn in_use(path: &Path) -> usize {
        let mut bytes = [0; 8];
        File::open(path).unwrap().read_exact_at(&mut bytes, 32).unwrap();
        usize::try_from(u64::from_ne_bytes(bytes)).unwrap()
    }

    /// Whether one more key splits the bucket.
    pub(super) fn is_full(self) -> bool {
        self.keys == self.capacity
    }
}

/// So many digests whose hashes begin with these bits.
pub(super) fn digests_of(bits: u32, length: u32) -> impl Iterator<Item = u32> {
    (1..).filter(move |number| hash(&digest(*number)) >> (HASH_BITS - length) == bits)
}

/// The hash of the file format.
fn hash(key: &str) -> u32 {
    const MASK: u32 = 0x7fff_ffff;
    let length = u32::try_from(key.len()).unwrap();
    let sum = key.bytes().enumerate().fold(0x238f_13af_u32.wrapping_mul(length), |sum, (index, byte)| {
        sum.wrapping_add(u32::from(byte) << (index * 5 % 24)) & MASK
    });
    1_103_515_243_u32.wrapping_mul(sum).wrapping_add(12345) & MASK
}

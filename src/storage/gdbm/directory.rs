//! Keys that would blow the file's directory up.
//!
//! The file is an extendible hash: a full bucket is split, and if its keys agree in as many bits of
//! their hashes as the directory looks at, the directory doubles until they differ. The hash is
//! simple, so that anybody can make digests that agree in all 31 bits. Enough of them, and one
//! store doubles the directory up to gigabytes, and then fails for ever. So before a new key is
//! stored in a full bucket, the bucket is looked at, in the file: as gdbm 1.23 lays it out, in the
//! machine's byte order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The first word of a file with 64-bit offsets, without and with the numsync extension.
const MAGIC: [u32; 2] = [0x1357_9acf, 0x1357_9ad1];
/// Bits of a hash.
const HASH_BITS: u32 = 31;
/// Where a bucket has its number of keys and then their places, each with the key's hash first.
const BUCKET_COUNT: u64 = 108;
const BUCKET_ELEMENTS: u64 = 112;
const ELEMENT_SIZE: usize = 24;
/// How large the directory may always become, and what part of the file beyond that. Digests that
/// nobody has chosen need a hundredth of this.
const LIMIT: u64 = 1 << 20;
const LIMIT_FRACTION: u64 = 64;

/// A look at a file's directory.
#[derive(Debug)]
pub(super) struct Directory {
    file: File,
}

impl Directory {
    /// Looks at this file.
    pub(super) fn new(file: File) -> Self {
        Self { file }
    }

    /// Whether storing this new key would make the directory larger than is reasonable.
    pub(super) fn would_burst(&self, key: &[u8]) -> io::Result<bool> {
        let mut header = [0; 40];
        self.file.read_exact_at(&mut header, 0)?;
        if !MAGIC.contains(&word(&header, 0)) {
            return Ok(false);
        }
        let (directory, bits) = (long(&header, 8), word(&header, 20));
        let (bucket_size, capacity) = (word(&header, 24) as usize, word(&header, 28));
        if bits > HASH_BITS || bucket_size > 1 << 24 {
            return Err(io::Error::other("the header is implausible"));
        }
        let hash = hash(key);
        let entry = u64::from(hash.checked_shr(HASH_BITS - bits).unwrap_or_default());
        let mut place = [0; 8];
        self.file.read_exact_at(&mut place, directory + entry * 8)?;
        let bucket = u64::from_ne_bytes(place);
        let mut count = [0; 4];
        self.file.read_exact_at(&mut count, bucket + BUCKET_COUNT)?;
        if u32::from_ne_bytes(count) < capacity {
            return Ok(false);
        }
        let mut elements = vec![0; (capacity as usize * ELEMENT_SIZE).min(bucket_size)];
        self.file.read_exact_at(&mut elements, bucket + BUCKET_ELEMENTS)?;
        let differing = elements
            .chunks_exact(ELEMENT_SIZE)
            .fold(0, |differing, element| differing | (word(element, 0) ^ hash));
        // One bit more than all of them agree in.
        let needed = (differing.leading_zeros() - (u32::BITS - HASH_BITS) + 1).min(HASH_BITS);
        let size = self.file.metadata()?.len();
        Ok(needed > bits && (8 << needed) > LIMIT.max(size / LIMIT_FRACTION))
    }
}

/// The hash of the file format.
pub(super) fn hash(key: &[u8]) -> u32 {
    const MASK: u32 = 0x7fff_ffff;
    let length = u32::try_from(key.len()).unwrap_or_default();
    let sum = key.iter().enumerate().fold(0x238f_13af_u32.wrapping_mul(length), |sum, (index, byte)| {
        // The format's characters are signed.
        let byte = (*byte as i8 as i32 as u32).wrapping_shl((index * 5 % 24) as u32);
        sum.wrapping_add(byte) & MASK
    });
    1_103_515_243_u32.wrapping_mul(sum).wrapping_add(12345) & MASK
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

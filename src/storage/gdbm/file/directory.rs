//! Protection against keys that would make the directory of the file huge.
//!
//! The file is an extendible hash. A full bucket is split; if all its keys agree in the hash bits that index the
//! directory, the directory doubles until they differ. The hash function is simple, so an attacker can choose digests
//! that agree in all 31 bits. Enough of them would make one store double the directory to gigabytes, and then fail for
//! good. So before a new key is stored in a full bucket, the hashes in that bucket are compared, as they are in the
//! file (layout of gdbm 1.23, the machine's byte order).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::header::{Header, word};

/// Number of bits of a hash.
pub(crate) const HASH_BITS: u32 = 31;
/// Offset in a bucket of its number of keys.
const BUCKET_COUNT: u64 = 108;
/// Offset in a bucket of its elements, one a key. The first word of an element is the hash.
pub(crate) const BUCKET_ELEMENTS: u64 = 112;
pub(crate) const ELEMENT_SIZE: usize = 24;
/// Size in bytes that the directory may always have.
const LIMIT: u64 = 1 << 20;
/// Fraction of the file that the directory may take beyond [`LIMIT`]. Ordinary digests need a hundredth of this.
const LIMIT_FRACTION: u64 = 64;

/// Number of bits with which a directory is within [`LIMIT`]. Keys that differ in these bits do no harm.
const HARMLESS_BITS: u32 = LIMIT.ilog2() - 3;

/// Predicts how new keys change the directory of a file.
///
/// A bucket cannot overflow before it gets as many keys as it had room for when it was last read. So one read is valid
/// for that many further keys with the same harmless bits.
#[derive(Debug)]
pub(crate) struct HashDirectory {
    file: File,
    /// Number of keys that can be stored without another read, by harmless bits.
    credit: Box<[u8]>,
}

impl HashDirectory {
    pub(crate) fn new(file: File) -> Self {
        Self { file, credit: vec![0; 1 << HARMLESS_BITS].into() }
    }

    /// Returns whether storing this new key would make the directory larger than its limit.
    pub(crate) fn would_grow_directory(&mut self, key: &[u8]) -> io::Result<bool> {
        let hash = hash(key);
        let credit = &mut self.credit[(hash >> (HASH_BITS - HARMLESS_BITS)) as usize];
        if *credit > 0 {
            *credit -= 1;
            return Ok(false);
        }
        let Some(header) = Header::read(&self.file)? else { return Ok(false) };
        let Header { directory, bits, bucket_capacity: capacity, .. } = header;
        let bucket_size = header.bucket_size as usize;
        if bits > HASH_BITS || bucket_size > 1 << 24 {
            return Err(io::Error::other("the header is implausible"));
        }
        let entry = u64::from(hash.checked_shr(HASH_BITS - bits).unwrap_or_default());
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, directory + entry * 8)?;
        let bucket = u64::from_ne_bytes(bytes);
        let mut count = [0; 4];
        self.file.read_exact_at(&mut count, bucket + BUCKET_COUNT)?;
        let left = capacity.saturating_sub(u32::from_ne_bytes(count));
        if left > 0 {
            self.give_credit(entry, bits, left - 1);
            return Ok(false);
        }
        let mut elements = vec![0; (capacity as usize * ELEMENT_SIZE).min(bucket_size)];
        self.file.read_exact_at(&mut elements, bucket + BUCKET_ELEMENTS)?;
        let differing = elements
            .chunks_exact(ELEMENT_SIZE)
            .fold(0, |differing, element| differing | (word(element, 0) ^ hash));
        // One bit more than the number in which all of them agree.
        let needed = (differing.leading_zeros() - (u32::BITS - HASH_BITS) + 1).min(HASH_BITS);
        let size = header.next_block;
        Ok(needed > bits && (8 << needed) > LIMIT.max(size / LIMIT_FRACTION))
    }

    /// Records that the bucket of a directory entry has room for `left` keys. `bits` is the size of the directory.
    fn give_credit(&mut self, entry: u64, bits: u32, left: u32) {
        // With more bits, the bucket has only some of the keys that agree in the harmless bits.
        let Some(further) = HARMLESS_BITS.checked_sub(bits) else { return };
        let first = (entry << further) as usize;
        if let Some(credit) = self.credit.get_mut(first..first + (1 << further)) {
            credit.fill(u8::try_from(left).unwrap_or(u8::MAX));
        }
    }
}

/// Returns the hash that the file format gives a key.
pub(crate) fn hash(key: &[u8]) -> u32 {
    const MASK: u32 = 0x7fff_ffff;
    let length = u32::try_from(key.len()).unwrap_or_default();
    let sum = key.iter().enumerate().fold(0x238f_13af_u32.wrapping_mul(length), |sum, (index, byte)| {
        // Bytes are signed in the format.
        let byte = (*byte as i8 as i32 as u32).wrapping_shl((index * 5 % 24) as u32);
        sum.wrapping_add(byte) & MASK
    });
    1_103_515_243_u32.wrapping_mul(sum).wrapping_add(12345) & MASK
}

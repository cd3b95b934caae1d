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

use super::header::{Header, word};

/// Bits of a hash.
pub(crate) const HASH_BITS: u32 = 31;
/// Where a bucket has its number of keys and then their places, each with the key's hash first.
const BUCKET_COUNT: u64 = 108;
pub(crate) const BUCKET_ELEMENTS: u64 = 112;
pub(crate) const ELEMENT_SIZE: usize = 24;
/// How large the directory may always become, and what part of the file beyond that. Digests that
/// nobody has chosen need a hundredth of this.
const LIMIT: u64 = 1 << 20;
const LIMIT_FRACTION: u64 = 64;

/// A directory of this many bits is always small enough, so that keys which do not all agree in as many
/// bits of their hashes do no harm.
const HARMLESS_BITS: u32 = LIMIT.ilog2() - 3;

/// A look at a file's directory.
///
/// A bucket that has room cannot burst, nor can one that gets as many keys as it had room for when it
/// was looked at. So a look is good for as many further keys with the same harmless bits.
#[derive(Debug)]
pub(crate) struct HashDirectory {
    file: File,
    /// For all harmless bits how many keys may still come without another look.
    credit: Box<[u8]>,
}

impl HashDirectory {
    /// Looks at this file.
    pub(crate) fn new(file: File) -> Self {
        Self { file, credit: vec![0; 1 << HARMLESS_BITS].into() }
    }

    /// Whether storing this new key would make the directory larger than is reasonable.
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
        let mut place = [0; 8];
        self.file.read_exact_at(&mut place, directory + entry * 8)?;
        let bucket = u64::from_ne_bytes(place);
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
        // One bit more than all of them agree in.
        let needed = (differing.leading_zeros() - (u32::BITS - HASH_BITS) + 1).min(HASH_BITS);
        let size = header.next_block;
        Ok(needed > bits && (8 << needed) > LIMIT.max(size / LIMIT_FRACTION))
    }

    /// Notes that the bucket of this entry of a directory with so many bits has room for so many keys.
    fn give_credit(&mut self, entry: u64, bits: u32, left: u32) {
        // A bucket of a larger directory has only some of the keys that agree in the harmless bits.
        let Some(further) = HARMLESS_BITS.checked_sub(bits) else { return };
        let first = (entry << further) as usize;
        if let Some(credit) = self.credit.get_mut(first..first + (1 << further)) {
            credit.fill(u8::try_from(left).unwrap_or(u8::MAX));
        }
    }
}

/// The hash of the file format.
pub(crate) fn hash(key: &[u8]) -> u32 {
    const MASK: u32 = 0x7fff_ffff;
    let length = u32::try_from(key.len()).unwrap_or_default();
    let sum = key.iter().enumerate().fold(0x238f_13af_u32.wrapping_mul(length), |sum, (index, byte)| {
        // The format's characters are signed.
        let byte = (*byte as i8 as i32 as u32).wrapping_shl((index * 5 % 24) as u32);
        sum.wrapping_add(byte) & MASK
    });
    1_103_515_243_u32.wrapping_mul(sum).wrapping_add(12345) & MASK
}

//! The header of a database file in the layout of gdbm 1.23, in the machine's byte order.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The first word of a file with 64-bit offsets: without and with the numsync extension.
const MAGIC: [u32; 2] = [0x1357_9acf, 0x1357_9ad1];

/// The fields of a header that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Offset of the directory.
    pub(crate) directory: u64,
    /// Number of hash bits that index the directory.
    pub(crate) bits: u32,
    /// Size of a bucket in bytes.
    pub(crate) bucket_size: u32,
    /// Number of keys that fit into a bucket.
    pub(crate) bucket_capacity: u32,
    /// Offset of the next block that the library allocates: the end of the used part of the file.
    pub(crate) next_block: u64,
}

impl Header {
    /// Reads the header of a file. Returns none if the file has another layout or is too short.
    pub(crate) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; 40];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok(MAGIC.contains(&word(&bytes, 0)).then(|| Self {
            directory: long(&bytes, 8),
            bits: word(&bytes, 20),
            bucket_size: word(&bytes, 24),
            bucket_capacity: word(&bytes, 28),
            next_block: long(&bytes, 32),
        }))
    }

    /// Empties the list of free blocks, which only changes need.
    pub(crate) fn forget_free_blocks(file: &File) -> io::Result<()> {
        let mut magic = [0; 4];
        file.read_exact_at(&mut magic, 0)?;
        // The list follows the header and its extension. Its first field, the capacity, never changes.
        let list = if word(&magic, 0) == MAGIC[1] { 72 } else { 40 };
        file.write_all_at(&[0; 12], list + 4)
    }

    /// Returns whether the file is longer than its used part, as after a kill.
    pub(crate) fn has_tail(file: &File) -> bool {
        Self::length_to_used_part(file) == Some(Ordering::Greater)
    }

    /// Returns whether the file is shorter than its used part.
    pub(crate) fn is_cut_off(file: &File) -> bool {
        Self::length_to_used_part(file) == Some(Ordering::Less)
    }

    fn length_to_used_part(file: &File) -> Option<Ordering> {
        Some(file.metadata().ok()?.len().cmp(&Self::read(file).ok()??.next_block))
    }
}

/// Returns the 32-bit number at an offset, or 0 beyond the end.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// Returns the 64-bit number at an offset, or 0 beyond the end.
pub(crate) fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

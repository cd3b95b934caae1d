//! The beginning of a file, as gdbm 1.23 lays it out, in the machine's byte order.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The first word of a file with 64-bit offsets, without and with the numsync extension.
const MAGIC: [u32; 2] = [0x1357_9acf, 0x1357_9ad1];

/// What is read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Where the directory is.
    pub(crate) directory: u64,
    /// How many bits of a hash the directory looks at.
    pub(crate) bits: u32,
    /// The size of a bucket in bytes, and how many keys it has room for.
    pub(crate) bucket_size: u32,
    pub(crate) bucket_capacity: u32,
    /// Where the library will put the next block: the end of what is in use.
    pub(crate) next_block: u64,
}

impl Header {
    /// Reads the header of a file; none if it has another layout, or is too short for one.
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

    /// Empties the file's list of free blocks, which only changes need.
    pub(crate) fn forget_free_blocks(file: &File) -> io::Result<()> {
        let mut magic = [0; 4];
        file.read_exact_at(&mut magic, 0)?;
        // Behind the header, and behind its extension. First the list's capacity, which is always the same.
        let list = if word(&magic, 0) == MAGIC[1] { 72 } else { 40 };
        file.write_all_at(&[0; 12], list + 4)
    }

    /// Whether the file is longer than what is in use, as after a kill.
    pub(crate) fn has_tail(file: &File) -> bool {
        Self::compare(file) == Some(Ordering::Greater)
    }

    /// Whether the file is shorter than what is in use.
    pub(crate) fn is_cut_off(file: &File) -> bool {
        Self::compare(file) == Some(Ordering::Less)
    }

    /// The file's length, compared with what is in use.
    fn compare(file: &File) -> Option<Ordering> {
        Some(file.metadata().ok()?.len().cmp(&Self::read(file).ok()??.next_block))
    }
}

/// The word at this place, or 0 behind the end.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The eight bytes at this place as a number, or 0 behind the end.
pub(crate) fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

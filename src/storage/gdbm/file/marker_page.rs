//! The content of a marker, mapped into memory. Whatever a process stores there is in the file even if it is killed.
#![allow(unsafe_code, reason = "maps a byte that survives a kill into memory")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Size of a marker in bytes: one page, all of it written, because a store into a hole would need a free block.
pub(super) const LENGTH: usize = 4096;

/// A mapped marker.
#[derive(Debug)]
pub(super) struct MarkerPage(NonNull<c_void>);

// SAFETY: the mapping belongs to the whole process, and only two bytes of it are used, as atomics.
unsafe impl Send for MarkerPage {}
// SAFETY: threads use only two bytes of the mapping, as atomics.
unsafe impl Sync for MarkerPage {}

impl MarkerPage {
    /// Maps a file that has [`LENGTH`] bytes.
    pub(super) fn map(file: &File) -> io::Result<Self> {
        const SIZE: NonZeroUsize = NonZeroUsize::new(LENGTH).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses an address where nothing else is mapped.
        let address = unsafe { mmap(None, SIZE, protection, MapFlags::MAP_SHARED, file, 0) };
        Ok(Self(address?))
    }

    /// Returns one of the two bytes that change.
    pub(super) fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: both offsets are within the mapping.
        let byte = unsafe { self.0.cast::<u8>().add(offset) };
        // SAFETY: the byte is mapped as long as `self` lives and is accessed only as an atomic.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }
}

impl Drop for MarkerPage {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping, and no borrow of it is left.
        let unmapped = unsafe { munmap(self.0, LENGTH) };
        debug_assert!(unmapped.is_ok());
    }
}

//! The content of a marker in memory: what a killed process has put there is in the file.
#![allow(unsafe_code, reason = "maps a byte that survives a kill into memory")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// How long the file is: what may be mapped and is not a hole.
pub(super) const LENGTH: usize = 4096;

/// A marker's content, mapped into memory.
#[derive(Debug)]
pub(super) struct MarkerPage(NonNull<c_void>);

// SAFETY: it is memory of the whole process, of which only two bytes are used, as atomic ones.
unsafe impl Send for MarkerPage {}
// SAFETY: threads use only two bytes of it, as atomic ones.
unsafe impl Sync for MarkerPage {}

impl MarkerPage {
    /// Maps a file of this length.
    pub(super) fn map(file: &File) -> io::Result<Self> {
        const SIZE: NonZeroUsize = NonZeroUsize::new(LENGTH).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: maps the file at an address that the system chooses, where nothing else is.
        let address = unsafe { mmap(None, SIZE, protection, MapFlags::MAP_SHARED, file, 0) };
        Ok(Self(address?))
    }

    /// One of the two bytes that change.
    pub(super) fn byte(&self, place: usize) -> &AtomicU8 {
        // SAFETY: both are within what is mapped.
        let byte = unsafe { self.0.cast::<u8>().add(place) };
        // SAFETY: it is mapped as long as this lives, and is used in no other way.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }
}

impl Drop for MarkerPage {
    fn drop(&mut self) {
        // SAFETY: this is what was mapped, and what borrows it has ended.
        let unmapped = unsafe { munmap(self.0, LENGTH) };
        debug_assert!(unmapped.is_ok());
    }
}

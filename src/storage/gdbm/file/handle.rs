//! A safe handle on an open GNU dbm file: the only module that calls the C library.
//!
//! A handle of the library may move between threads but not be shared, so every operation takes `&mut self`. Names in
//! gdbm.h, version 1.23:
//!
//! | here | gdbm.h |
//! | --- | --- |
//! | [`Handle::open`], [`Handle::open_to_read`] | `gdbm_fd_open` |
//! | [`Handle::keep_cached`], [`Handle::unmap`], [`Handle::map_anew`] | `gdbm_setopt` (`GDBM_SETCACHESIZE`, `GDBM_SETMMAP`) |
//! | [`Handle::fetch`], [`Handle::has`] | `gdbm_fetch`, `gdbm_exists` |
//! | [`Handle::store`], [`Handle::insert`], [`Handle::delete`] | `gdbm_store`, `gdbm_delete` |
//! | [`Handle::first_key`], [`Handle::next_key`] | `gdbm_firstkey`, `gdbm_nextkey` |
//! | [`Handle::count`] | `gdbm_count` |
//! | [`Handle::block_size`], [`Handle::needs_recovery`] | `gdbm_setopt` (`GDBM_GETBLOCKSIZE`), `gdbm_needs_recovery` |
//! | [`Handle::recover`] | `gdbm_recover` (`GDBM_RCVR_FORCE`) |
//! | [`Handle::close`] | `gdbm_close` |
#![allow(unsafe_code, reason = "wraps a C library")]

use std::ffi::{CStr, CString, c_int};
use std::fs;
use std::io::{self, Seek};
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use gdbm_sys::{_bindgen_ty_1 as File, GDBM_FILE, datum};
use nix::errno::Errno;
use thiserror::Error;

use super::change_flag::ChangeFlag;

/// Declarations of gdbm.h 1.23 that gdbm-sys lacks or has wrong.
mod c {
    use std::ffi::{c_char, c_int, c_void};

    use gdbm_sys::GDBM_FILE;

    pub(crate) const GDBM_NOLOCK: c_int = 0x0040;
    pub(crate) const GDBM_CLOEXEC: c_int = 0x0100;
    pub(crate) const GDBM_CLOERROR: c_int = 0x0400;
    pub(crate) const GDBM_SETCACHESIZE: c_int = 1;
    pub(crate) const GDBM_SETMMAP: c_int = 7;
    pub(crate) const GDBM_GETBLOCKSIZE: c_int = 16;
    pub(crate) const GDBM_RCVR_FORCE: c_int = 0x20;

    /// `gdbm_recovery`. The library reads the first five fields only with flags that are never set here.
    #[repr(C)]
    pub(crate) struct Recovery {
        pub(crate) errfun: *const c_void,
        pub(crate) data: *mut c_void,
        pub(crate) max_failed_keys: usize,
        pub(crate) max_failed_buckets: usize,
        pub(crate) max_failures: usize,
        pub(crate) recovered_keys: usize,
        pub(crate) recovered_buckets: usize,
        pub(crate) failed_keys: usize,
        pub(crate) failed_buckets: usize,
        pub(crate) duplicate_keys: usize,
        pub(crate) backup_name: *mut c_char,
    }

    unsafe extern "C" {
        pub(crate) fn gdbm_fd_open(
            descriptor: c_int,
            name: *const c_char,
            block_size: c_int,
            flags: c_int,
            fatal: Option<extern "C" fn(*const c_char)>,
        ) -> GDBM_FILE;
        pub(crate) fn gdbm_close(file: GDBM_FILE) -> c_int;
        pub(crate) fn gdbm_last_errno(file: GDBM_FILE) -> c_int;
        pub(crate) fn gdbm_needs_recovery(file: GDBM_FILE) -> c_int;
        pub(crate) fn gdbm_check_syserr(error: c_int) -> c_int;
        pub(crate) fn gdbm_count(file: GDBM_FILE, count: *mut u64) -> c_int;
        pub(crate) fn gdbm_recover(file: GDBM_FILE, recovery: *mut Recovery, flags: c_int) -> c_int;
    }
}

// Error numbers of gdbm.h that gdbm-sys lacks.

/// The file has the other byte order.
pub(crate) const GDBM_BYTE_SWAPPED: u32 = 21;
/// The file has another word size.
pub(crate) const GDBM_BAD_FILE_OFFSET: u32 = 22;
/// The file is too short.
pub(crate) const GDBM_FILE_EOF: u32 = 25;
/// The header is implausible.
pub(crate) const GDBM_BAD_HEADER: u32 = 33;
/// The list of free blocks is implausible.
pub(crate) const GDBM_BAD_AVAIL: u32 = 34;

/// An error of the library, with the system error that caused it, if any.
#[derive(Debug, Error)]
#[error("{text}{}", system.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
pub(crate) struct GdbmError {
    /// The library's error number.
    pub(crate) number: u32,
    /// The system error behind it.
    pub(crate) system: Option<io::Error>,
    text: String,
}

impl GdbmError {
    /// Returns the number of the system error behind it.
    pub(crate) fn system_number(&self) -> Option<Errno> {
        self.system.as_ref()?.raw_os_error().map(Errno::from_raw)
    }
}

/// An open database. The library's own locking is off: the caller must have locked the file.
#[derive(Debug)]
pub(crate) struct Handle {
    file: RawHandle,
    flag: Arc<ChangeFlag>,
}

/// The library's pointer. Closes the file when dropped.
#[derive(Debug)]
struct RawHandle(NonNull<File>);

// SAFETY: the only thread-local state of the library is the error number, which is read right after the failing call
// on the same thread.
unsafe impl Send for RawHandle {}

impl Handle {
    /// Opens a database for reading and writing. An empty file becomes an empty database. `name` must be the path of
    /// the file, for [`Handle::recover`].
    pub(crate) fn open(file: &fs::File, name: &Path) -> Result<Self, GdbmError> {
        Self::open_as(file, name, gdbm_sys::GDBM_WRCREAT)
    }

    /// Opens a database for reading.
    pub(crate) fn open_to_read(file: &fs::File, name: &Path) -> Result<Self, GdbmError> {
        Self::open_as(file, name, gdbm_sys::GDBM_READER)
    }

    fn open_as(file: &fs::File, name: &Path, mode: u32) -> Result<Self, GdbmError> {
        let failed = |system, text: &str| GdbmError {
            number: gdbm_sys::GDBM_FILE_OPEN_ERROR,
            system,
            text: text.to_owned(),
        };
        let name = CString::new(name.as_os_str().as_bytes())
            .map_err(|_| failed(None, "the name contains a zero byte"))?;
        // The library reads from the current offset.
        let descriptor = file.try_clone().and_then(|mut file| file.rewind().map(|()| file));
        let descriptor = descriptor.map_err(|error| failed(Some(error), "cannot use the file"))?;
        let flags = mode as c_int | c::GDBM_NOLOCK | c::GDBM_CLOEXEC | c::GDBM_CLOERROR;
        // SAFETY: the library takes the descriptor over, even on failure; the name is a C string that lives during the
        // call; without a handler for fatal errors the library uses its own.
        let file = unsafe { c::gdbm_fd_open(descriptor.into_raw_fd(), name.as_ptr(), 0, flags, None) };
        let Some(file) = NonNull::new(file) else {
            let system = io::Error::last_os_error();
            return Err(error_of(last_open_error(), system));
        };
        Ok(Self { file: RawHandle(file), flag: Arc::default() })
    }

    /// Makes every later change set and clear this flag.
    pub(crate) fn note_changes(&mut self, flag: &Arc<ChangeFlag>) {
        self.flag = Arc::clone(flag);
    }

    /// Limits the blocks of the file that the library keeps decoded.
    pub(crate) fn keep_cached(&mut self, blocks: usize) -> Result<(), GdbmError> {
        let mut blocks = blocks;
        self.option(c::GDBM_SETCACHESIZE, (&raw mut blocks).cast(), size_of::<usize>())
    }

    /// Makes the library use system calls instead of a memory mapping.
    pub(crate) fn unmap(&mut self) -> Result<(), GdbmError> {
        let mut mapped: c_int = 0;
        self.option(c::GDBM_SETMMAP, &raw mut mapped, size_of::<c_int>())
    }

    /// Maps the file again, in its current length. Waits for an fsync.
    pub(crate) fn map_anew(&mut self) -> Result<(), GdbmError> {
        self.unmap()?;
        let mut mapped: c_int = 1;
        self.option(c::GDBM_SETMMAP, &raw mut mapped, size_of::<c_int>())
    }

    /// Makes the library write all readable records into a new file and rename it to the name that the handle was
    /// opened with. The handle is then on the new file. Unless forced, does nothing if the library finds no damage.
    /// Returns the number of unreadable records and buckets.
    pub(crate) fn recover(&mut self, is_forced: bool) -> Result<usize, GdbmError> {
        let mut recovery = c::Recovery {
            errfun: std::ptr::null(),
            data: std::ptr::null_mut(),
            max_failed_keys: 0,
            max_failed_buckets: 0,
            max_failures: 0,
            recovered_keys: 0,
            recovered_buckets: 0,
            failed_keys: 0,
            failed_buckets: 0,
            duplicate_keys: 0,
            backup_name: std::ptr::null_mut(),
        };
        let flags = if is_forced { c::GDBM_RCVR_FORCE } else { 0 };
        // SAFETY: the handle is open and not used elsewhere; the structure is that of gdbm.h and
        // lives during the call.
        if unsafe { c::gdbm_recover(self.raw(), &raw mut recovery, flags) } != 0 {
            return Err(self.last_error());
        }
        Ok(recovery.failed_keys + recovery.failed_buckets)
    }

    /// Reads the value of a key. Returns false, and leaves `value` alone, if there is none.
    pub(crate) fn fetch(&mut self, key: &[u8], value: &mut Vec<u8>) -> Result<bool, GdbmError> {
        let key = borrowed(key)?;
        // SAFETY: the handle is open and not used elsewhere; the key lives during the call.
        let found = unsafe { gdbm_sys::gdbm_fetch(self.raw(), key) };
        self.take(found, value)
    }

    /// Returns whether a key exists.
    pub(crate) fn has(&mut self, key: &[u8]) -> Result<bool, GdbmError> {
        let key = borrowed(key)?;
        // SAFETY: the handle is open and not used elsewhere; the key lives during the call.
        if unsafe { gdbm_sys::gdbm_exists(self.raw(), key) } != 0 {
            return Ok(true);
        }
        match self.last_error() {
            error if matches!(error.number, gdbm_sys::GDBM_ITEM_NOT_FOUND | gdbm_sys::GDBM_NO_ERROR) => {
                Ok(false)
            }
            error => Err(error),
        }
    }

    /// Stores a value under a key, replacing an old one.
    pub(crate) fn store(&mut self, key: &[u8], value: &[u8]) -> Result<(), GdbmError> {
        self.put(key, value, gdbm_sys::GDBM_REPLACE).map(drop)
    }

    /// Stores a value under a new key. Returns false, and changes nothing, if the key exists.
    pub(crate) fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<bool, GdbmError> {
        self.put(key, value, gdbm_sys::GDBM_INSERT)
    }

    fn put(&mut self, key: &[u8], value: &[u8], mode: u32) -> Result<bool, GdbmError> {
        let (key, value) = (borrowed(key)?, borrowed(value)?);
        self.change(|handle| {
            // SAFETY: the handle is open and not used elsewhere; key and value live during the call.
            match unsafe { gdbm_sys::gdbm_store(handle.raw(), key, value, mode as c_int) } {
                0 => Ok(true),
                1 => Ok(false),
                _ => Err(handle.last_error()),
            }
        })
    }

    /// Deletes a key and its value. Returns false if there was none.
    pub(crate) fn delete(&mut self, key: &[u8]) -> Result<bool, GdbmError> {
        let key = borrowed(key)?;
        self.change(|handle| {
            // SAFETY: the handle is open and not used elsewhere; the key lives during the call.
            if unsafe { gdbm_sys::gdbm_delete(handle.raw(), key) } == 0 {
                return Ok(true);
            }
            match handle.last_error() {
                error if error.number == gdbm_sys::GDBM_ITEM_NOT_FOUND => Ok(false),
                error => Err(error),
            }
        })
    }

    /// Runs a library call that may change the file, with the change flag set. Every such call must go through here.
    /// A call that fails may be half done, so a repair is then required.
    fn change<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T, GdbmError>) -> Result<T, GdbmError> {
        self.flag.begin();
        let outcome = call(self);
        if outcome.is_ok() && !self.needs_recovery() {
            self.flag.end();
        } else {
            self.flag.require_repair();
        }
        outcome
    }

    /// Reads the first key, in the order of the file, into `key`. Returns false if there is none.
    pub(crate) fn first_key(&mut self, key: &mut Vec<u8>) -> Result<bool, GdbmError> {
        // SAFETY: the handle is open and not used elsewhere.
        let found = unsafe { gdbm_sys::gdbm_firstkey(self.raw()) };
        self.take(found, key)
    }

    /// Replaces `key` by the next one. Returns false at the end, and also if `key` itself was deleted.
    pub(crate) fn next_key(&mut self, key: &mut Vec<u8>) -> Result<bool, GdbmError> {
        let before = borrowed(key)?;
        // SAFETY: the handle is open and not used elsewhere; the key lives during the call, and
        // the result is memory of its own.
        let found = unsafe { gdbm_sys::gdbm_nextkey(self.raw(), before) };
        self.take(found, key)
    }

    /// Returns the number of records.
    pub(crate) fn count(&mut self) -> Result<u64, GdbmError> {
        let mut count = 0;
        // SAFETY: the handle is open and not used elsewhere; the number lives during the call.
        match unsafe { c::gdbm_count(self.raw(), &raw mut count) } {
            0 => Ok(count),
            _ => Err(self.last_error()),
        }
    }

    /// Returns the size of the file's blocks in bytes.
    pub(crate) fn block_size(&mut self) -> Result<usize, GdbmError> {
        let mut size: c_int = 0;
        self.option(c::GDBM_GETBLOCKSIZE, (&raw mut size).cast(), size_of::<c_int>())?;
        Ok(usize::try_from(size).unwrap_or_default())
    }

    /// Returns whether the library refuses to use this file before a recovery.
    pub(crate) fn needs_recovery(&mut self) -> bool {
        // SAFETY: the handle is open and not used elsewhere.
        unsafe { c::gdbm_needs_recovery(self.raw()) != 0 }
    }

    /// Writes what the library still buffers and closes the database.
    pub(crate) fn close(self) -> Result<(), GdbmError> {
        let Self { file, flag } = self;
        let file = std::mem::ManuallyDrop::new(file);
        // SAFETY: the handle is open and not used afterwards: `drop` does not run.
        if unsafe { c::gdbm_close(file.0.as_ptr()) } == 0 {
            return Ok(());
        }
        let system = io::Error::last_os_error();
        flag.require_repair();
        Err(error_of(last_open_error(), system))
    }

    fn raw(&mut self) -> GDBM_FILE {
        self.file.0.as_ptr()
    }

    fn option(&mut self, option: c_int, value: *mut c_int, size: usize) -> Result<(), GdbmError> {
        let size = c_int::try_from(size).unwrap_or_default();
        // SAFETY: the handle is open and not used elsewhere; all callers pass a value of the
        // type that the option has, and its size.
        match unsafe { gdbm_sys::gdbm_setopt(self.raw(), option, value, size) } {
            0 => Ok(()),
            _ => Err(self.last_error()),
        }
    }

    /// Copies memory that the library allocated, and frees it.
    fn take(&mut self, found: datum, into: &mut Vec<u8>) -> Result<bool, GdbmError> {
        if found.dptr.is_null() {
            let system = io::Error::last_os_error();
            let number = self.last_number();
            // Looked at first, because the text of an error takes as long as the search for the record.
            let nothing = [gdbm_sys::GDBM_ITEM_NOT_FOUND, gdbm_sys::GDBM_NO_ERROR];
            let is_nothing = u32::try_from(number).is_ok_and(|number| nothing.contains(&number));
            return if is_nothing { Ok(false) } else { Err(error_of(number, system)) };
        }
        into.clear();
        let length = usize::try_from(found.dsize).unwrap_or_default();
        // SAFETY: the library returned this many bytes at this address, and keeps no pointer to it.
        into.extend_from_slice(unsafe { std::slice::from_raw_parts(found.dptr.cast(), length) });
        // SAFETY: the library allocated it with malloc and leaves it to the caller to free.
        unsafe { libc::free(found.dptr.cast()) };
        Ok(true)
    }

    fn last_error(&mut self) -> GdbmError {
        let system = io::Error::last_os_error();
        error_of(self.last_number(), system)
    }

    /// Returns the number of the last error.
    fn last_number(&mut self) -> c_int {
        // SAFETY: the handle is open and not used elsewhere.
        unsafe { c::gdbm_last_errno(self.raw()) }
    }
}

impl Drop for RawHandle {
    fn drop(&mut self) {
        // SAFETY: the handle is open and not used afterwards.
        unsafe { c::gdbm_close(self.0.as_ptr()) };
    }
}

/// Returns a key or value in the form of the library, which does not modify it although the pointer is mutable.
fn borrowed(bytes: &[u8]) -> Result<datum, GdbmError> {
    match c_int::try_from(bytes.len()) {
        Ok(dsize) => Ok(datum { dptr: bytes.as_ptr().cast_mut().cast(), dsize }),
        Err(_) => Err(error_of(gdbm_sys::GDBM_MALLOC_ERROR as c_int, io::Error::other("too long"))),
    }
}

/// Returns the thread's last error number, for errors without a handle.
fn last_open_error() -> c_int {
    // SAFETY: takes nothing and returns the address of a variable of this thread.
    let location = unsafe { gdbm_sys::gdbm_errno_location() };
    // SAFETY: that variable lives as long as the thread.
    unsafe { *location }
}

fn error_of(number: c_int, system: io::Error) -> GdbmError {
    // SAFETY: takes any number and returns the address of a constant C string.
    let text = unsafe { gdbm_sys::gdbm_strerror(number) };
    // SAFETY: the string is constant.
    let text = unsafe { CStr::from_ptr(text) };
    // SAFETY: takes any number.
    let has_system = unsafe { c::gdbm_check_syserr(number) } != 0;
    let number = u32::try_from(number).unwrap_or_default();
    if number == gdbm_sys::GDBM_NO_ERROR {
        // The library sets no error number for some failures.
        return GdbmError { number, system: Some(system), text: "GNU dbm cannot go on".to_owned() };
    }
    GdbmError { number, system: has_system.then_some(system), text: text.to_string_lossy().into_owned() }
}

//! The process's niceness.
#![allow(unsafe_code, reason = "no safe wrapper of nice(2) is among the dependencies")]

use std::io;

use nix::errno::Errno;

/// Raises the niceness by this much, which a negative number lowers. Zero asks the system nothing.
///
/// # Errors
///
/// The system refuses, as it does when somebody without the right lowers it.
pub fn nice(increment: i32) -> io::Result<()> {
    if increment == 0 {
        return Ok(());
    }
    // The new niceness is returned, of which -1 is one: only the error number tells.
    Errno::clear();
    // SAFETY: takes a number and touches no memory.
    let niceness = unsafe { libc::nice(increment) };
    match Errno::last() {
        error if niceness == -1 && error != Errno::UnknownErrno => Err(error.into()),
        _ => Ok(()),
    }
}

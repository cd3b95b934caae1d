//! Giving up what the server never needs, so that whoever takes it over gets no further.
//!
//! What is given up cannot be had again, and counts for the thread that gives it up and for those it
//! makes from then on: so this comes before there are others. It is offered by Linux only, and more or
//! less of it depending on the kernel's age; what is missing is said, and never a reason not to serve.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;

use std::path::PathBuf;

/// The places of the file system that are still to be reached.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Folders in which files are read, written, made and removed.
    pub written: Vec<PathBuf>,
    /// Folders and files that are read.
    pub read: Vec<PathBuf>,
}

/// What became of it, a line for the log, and whether all of it could be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The line.
    pub text: String,
    /// Whether nothing is missing.
    pub is_complete: bool,
}

/// Lets no dump be made of this process's memory, in which keys are.
///
/// # Errors
///
/// The system's.
pub fn forbid_dumps() -> std::io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    // One byte rather than none: where dumps go to a program, Linux looks at no other limit.
    setrlimit(Resource::RLIMIT_CORE, 1, 1)?;
    Ok(())
}

/// Keeps this thread, and those it makes, from all files but these and from what a server never asks
/// the kernel for.
#[cfg(target_os = "linux")]
pub fn confine(places: &Places) -> Outcome {
    let (files, calls) = (files::restrict(places), calls::restrict());
    let is_complete = files == Ok(true) && calls.is_ok();
    let files = match files {
        Ok(true) => "to its files by landlock".to_owned(),
        Ok(false) => "to its files by landlock, as far as this kernel has it".to_owned(),
        Err(error) => format!("to no files ({error})"),
    };
    let calls = match calls {
        Ok(()) => "by a filter of system calls".to_owned(),
        Err(error) => format!("by no filter of system calls ({error})"),
    };
    Outcome { text: format!("Confined {files}, and {calls}."), is_complete }
}

/// Nothing of it is offered here.
#[cfg(not(target_os = "linux"))]
pub fn confine(_: &Places) -> Outcome {
    Outcome { text: "Not confined: this system offers nothing for it.".to_owned(), is_complete: false }
}

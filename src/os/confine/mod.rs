//! Giving up what the server never needs, so that an attacker who takes it over gets no further.
//!
//! What is given up cannot be had again, and counts for the thread that gives it up and for those it
//! makes from then on: so this comes before there are others. It is offered by Linux only, and more or
//! less of it depending on the kernel's age; what is missing is said, and never a reason not to serve.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{AccessFlags, access};

use super::open;

/// The places of the file system that are still to be reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReachablePaths {
    /// Directories in which files are read, written, made and removed.
    pub(crate) written: Vec<PathBuf>,
    /// Directories and files that are read.
    pub(crate) read: Vec<PathBuf>,
}

/// What a process is confined to, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfinementReport {
    /// One line that says all of it.
    pub(crate) text: String,
    /// What the operator should look at, each one line.
    pub(crate) warnings: Vec<String>,
}

/// Why a part of it is not in force.
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq, Eq)]
enum NotConfined {
    /// The kernel does not offer it.
    Unsupported(String),
    /// It does, and refuses it all the same.
    Failed(String),
}

#[cfg(target_os = "linux")]
impl NotConfined {
    /// The reason, with a warning for what should not be.
    fn told(self, what: &str, warnings: &mut Vec<String>) -> String {
        match self {
            Self::Unsupported(why) => why,
            Self::Failed(why) => {
                warnings.push(format!(
                    "Confine: {what} cannot be put in force, though this kernel has it: {why}; the server goes on \
                     without: find out what hinders it, or set Confine = False"
                ));
                why
            }
        }
    }
}

/// Lets no dump be made of this process's memory, in which keys are.
///
/// # Errors
///
/// The system's.
pub(crate) fn forbid_dumps() -> io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    // One byte rather than none: where dumps go to a program, Linux looks at no other limit.
    setrlimit(Resource::RLIMIT_CORE, 1, 1)?;
    Ok(())
}

/// Whether files are kept away from this process.
static FILES_IN_FORCE: AtomicBool = AtomicBool::new(false);

/// Keeps this thread, and those it makes, from all files but these and from what a server never asks
/// the kernel for.
#[cfg(target_os = "linux")]
pub(crate) fn confine(places: &ReachablePaths) -> ConfinementReport {
    let mut warnings = Vec::new();
    let files = match files::restrict(places) {
        Ok(restricted) => {
            FILES_IN_FORCE.store(true, Ordering::Relaxed);
            warnings.extend(restricted.left_out.into_iter().map(|why| {
                format!(
                    "Confine: no rule can be made for {why}; the server cannot open it from now on: name another path, \
                     or set Confine = False"
                )
            }));
            let limit = if restricted.is_complete { "" } else { ", as far as this kernel has it" };
            format!("to its files by landlock{limit}")
        }
        Err(reason) => format!("to no files ({})", reason.told("landlock", &mut warnings)),
    };
    let calls = match calls::restrict() {
        Ok(()) => "by a filter of system calls".to_owned(),
        Err(reason) => {
            let why = reason.told("the filter of system calls", &mut warnings);
            format!("by no filter of system calls ({why})")
        }
    };
    ConfinementReport { text: format!("Confined {files}, and {calls}."), warnings }
}

/// Nothing of it is offered here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn confine(_: &ReachablePaths) -> ConfinementReport {
    ConfinementReport {
        text: "Not confined: this system offers nothing for it.".to_owned(),
        warnings: Vec::new(),
    }
}

/// The file that says which servers the C library asks for names.
const RESOLVER: &str = "/etc/resolv.conf";

/// Why names cannot be looked up any more since this process is confined, if that is so: the resolver's
/// file has become a link to where no file was when rules were made.
pub(crate) fn why_names_are_unknown() -> Option<String> {
    let path = Path::new(RESOLVER);
    let refused = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    // The file's own permissions are no matter of rules, which are not asked here.
    let may_be_read = || access(path, AccessFlags::R_OK).is_ok();
    let is_in_force = FILES_IN_FORCE.load(Ordering::Relaxed);
    if !is_in_force || !open::to_read(path).err().is_some_and(refused) || !may_be_read() {
        return None;
    }
    let target = std::fs::canonicalize(path).ok().filter(|target| target != path);
    let target = target.map(|target| format!(", a link to {},", target.display())).unwrap_or_default();
    Some(format!(
        "{RESOLVER}{target} cannot be read, since Confine allows only what was there when pyzord was started: \
         restart pyzord"
    ))
}

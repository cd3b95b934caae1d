//! Confinement: dropping every privilege that the server does not need, to contain an attacker who takes it over.
//!
//! It is irreversible, and applies to the current thread and the threads that it starts later: it must come before
//! there are others. Only Linux supports it, to an extent that depends on the kernel's age. Missing parts are reported,
//! and do not prevent serving.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;

use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{AccessFlags, access};

use super::open;

/// The paths that stay accessible.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReachablePaths {
    /// Directories in which files are read, written, created and removed.
    pub(crate) written: Vec<PathBuf>,
    /// Directories in which files are removed.
    pub(crate) removed: Vec<PathBuf>,
    /// Directories and files that are read.
    pub(crate) read: Vec<PathBuf>,
}

/// The extent of the confinement, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfinementReport {
    /// A summary in one line.
    pub(crate) text: String,
    /// Problems for the operator, one line each.
    pub(crate) warnings: Vec<String>,
}

/// The reason why a part of the confinement does not apply.
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq, Eq)]
enum NotConfined {
    /// The kernel does not support it.
    Unsupported(String),
    /// The kernel supports it, but applying it failed.
    Failed(String),
}

#[cfg(target_os = "linux")]
impl NotConfined {
    /// Returns the reason. Adds a warning unless the kernel lacks support.
    fn reported(self, what: &str, warnings: &mut Vec<String>) -> String {
        match self {
            Self::Unsupported(why) => why,
            Self::Failed(why) => {
                warnings.push(format!(
                    "Confine: cannot apply {what}, although this kernel supports it: {why}; the server runs without \
                     it: remove the cause, or set Confine = False"
                ));
                why
            }
        }
    }
}

/// Disables core dumps of this process, which would contain keys.
///
/// # Errors
///
/// The system call fails.
pub(crate) fn forbid_dumps() -> io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    // One byte rather than zero: Linux ignores any other limit if core dumps are piped to a program.
    setrlimit(Resource::RLIMIT_CORE, 1, 1)?;
    Ok(())
}

/// Whether access to files is restricted.
static FILES_IN_FORCE: AtomicBool = AtomicBool::new(false);

/// Confines this thread, and the threads that it starts later, to these paths and to the system calls that a server
/// needs. Connections are accepted on these descriptors only.
#[cfg(target_os = "linux")]
pub(crate) fn confine(places: &ReachablePaths, accepting: &[RawFd]) -> ConfinementReport {
    let mut warnings = Vec::new();
    let files = match files::restrict(places) {
        Ok(restricted) => {
            FILES_IN_FORCE.store(true, Ordering::Relaxed);
            warnings.extend(restricted.left_out.into_iter().map(|why| {
                format!(
                    "Confine: cannot create a rule for {why}; the server cannot open this path from now on: configure \
                     another path, or set Confine = False"
                )
            }));
            let limit = if restricted.is_complete { "" } else { ", as far as this kernel supports it" };
            format!("files restricted by landlock{limit}")
        }
        Err(reason) => format!("files not restricted ({})", reason.reported("landlock", &mut warnings)),
    };
    let calls = match calls::restrict(accepting) {
        Ok(()) => "system calls restricted by seccomp".to_owned(),
        Err(reason) => format!("system calls not restricted ({})", reason.reported("seccomp", &mut warnings)),
    };
    ConfinementReport { text: format!("Confinement: {files}; {calls}."), warnings }
}

/// Reports that this system supports no confinement.
#[cfg(not(target_os = "linux"))]
pub(crate) fn confine(_: &ReachablePaths, _: &[RawFd]) -> ConfinementReport {
    ConfinementReport {
        text: "Not confined: this system does not support it.".to_owned(),
        warnings: Vec::new(),
    }
}

/// The configuration of the C library's resolver.
const RESOLVER: &str = "/etc/resolv.conf";

/// Returns the reason if the confinement prevents name resolution: the resolver's file has become a link to a directory
/// that did not exist when the rules were created.
pub(crate) fn why_names_are_unknown() -> Option<String> {
    let path = Path::new(RESOLVER);
    let refused = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    // access(2) checks the permissions of the file and ignores landlock rules.
    let may_be_read = || access(path, AccessFlags::R_OK).is_ok();
    let is_in_force = FILES_IN_FORCE.load(Ordering::Relaxed);
    if !is_in_force || !open::to_read(path).err().is_some_and(refused) || !may_be_read() {
        return None;
    }
    let target = std::fs::canonicalize(path).ok().filter(|target| target != path);
    let target = target.map(|target| format!(", a link to {}", target.display())).unwrap_or_default();
    Some(format!(
        "cannot read {RESOLVER}{target}: Confine allows only directories that existed when pyzord was started: restart \
         pyzord"
    ))
}

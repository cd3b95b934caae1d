//! The journal of systemd as the reader of stderr, and the priorities of its lines.

use std::env;
use std::io::stderr;
use std::os::fd::AsFd;

use nix::sys::stat::fstat;

/// The priority of a line in the journal, as in syslog(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// The server cannot go on.
    Critical = 2,
    /// Something failed.
    Error = 3,
    /// Something needs the operator's attention.
    Warning = 4,
    /// Something happened.
    Info = 6,
    /// For finding faults.
    Debug = 7,
}

impl Priority {
    /// Returns the beginning of a line with this priority, as in sd-daemon(3).
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Critical => "<2>",
            Self::Error => "<3>",
            Self::Warning => "<4>",
            Self::Info => "<6>",
            Self::Debug => "<7>",
        }
    }
}

/// Returns whether stderr leads to the journal, now.
pub(crate) fn has_stderr() -> bool {
    has(&stderr())
}

/// Returns whether this descriptor leads to the journal: the environment names the device and the inode.
pub(crate) fn has(descriptor: &impl AsFd) -> bool {
    let Ok(named) = env::var("JOURNAL_STREAM") else { return false };
    let numbers = named.split_once(':').map(|(device, inode)| (device.parse().ok(), inode.parse().ok()));
    let Some((Some(device), Some(inode))) = numbers else { return false };
    fstat(descriptor).is_ok_and(|status| (status.st_dev, status.st_ino) == (device, inode))
}

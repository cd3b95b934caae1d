//! The process and its operating system: signals, pid file, detach, privileges, confinement, the service manager.

pub(crate) mod activation;
pub(crate) mod boot;
pub(crate) mod confine;
pub(crate) mod detach;
pub(crate) mod inherited;
pub(crate) mod journal;
pub(crate) mod local_socket;
pub(crate) mod notify;
pub(crate) mod open;
pub(crate) mod pidfile;
pub(crate) mod privileges;
pub(crate) mod signals;
pub(crate) mod stream_listener;

use nix::sys::stat::{Mode, umask};

/// Restricts files that are created from now on to this user: accounts, logs and the database are private.
pub(crate) fn restrict_umask() {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
}

/// Runs an action with another umask. The process must have a single thread.
pub(crate) fn with_umask<T>(mode: Mode, action: impl FnOnce() -> T) -> T {
    let former = umask(mode);
    let outcome = action();
    umask(former);
    outcome
}

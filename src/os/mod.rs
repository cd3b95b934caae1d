//! What the program wants of the operating system: signals, the pid file, the background.

pub(crate) mod boot;
pub(crate) mod confine;
pub(crate) mod detach;
pub(crate) mod inherited;
pub(crate) mod open;
pub(crate) mod pidfile;
pub(crate) mod privileges;
pub(crate) mod signals;

use nix::sys::stat::{Mode, umask};

/// From here on, what is created is for this user alone: accounts, logs and the database are
/// private.
pub(crate) fn restrict_umask() {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
}

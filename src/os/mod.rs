//! What the program wants of the operating system: signals, the pid file, the background.

pub mod boot;
pub mod confine;
pub mod detach;
pub mod inherited;
pub mod open;
pub mod pidfile;
pub mod privileges;
pub mod signals;

use nix::sys::stat::{Mode, umask};

/// From here on, what is created is for this user alone: accounts, logs and the database are
/// nobody else's business.
pub fn restrict_umask() {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
}

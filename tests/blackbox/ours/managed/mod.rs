//! Servers that a service manager starts: its messages, its journal, its exit codes and its sockets.

mod activation;
mod exit_codes;
mod journal;
mod messages;
mod scripted;

use std::fs;
use std::os::unix::fs::chown;

use nix::unistd::Uid;

use crate::harness::Home;

/// The number of the user `nobody`.
const NOBODY: u32 = 65534;

/// Returns an open homedir of `nobody`, whom the server becomes.
fn home_of_nobody() -> Home {
    assert!(Uid::effective().is_root(), "changing the user needs root: sudo make test");
    let home = Home::open().config("User = nobody\n").user_from_config();
    let inside = fs::read_dir(home.directory()).unwrap().map(|entry| entry.unwrap().path());
    for path in [home.parent(), home.directory()].into_iter().chain(inside) {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    home
}

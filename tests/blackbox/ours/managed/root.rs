//! Servers that root starts under a service manager, and that change to another user.

use std::fs;
use std::os::unix::fs::chown;

use nix::unistd::Uid;

use super::exit_codes::{CONFIGURATION, expect};
use super::scripted::Manager;
use super::{activation, journal, messages};
use crate::harness::Home;

/// The number of the user `nobody`.
const NOBODY: u32 = 65534;

/// Returns an open homedir of `nobody`, whom the server becomes.
pub(super) fn home_of_nobody() -> Home {
    assert!(Uid::effective().is_root(), "changing the user needs root: sudo make test");
    let home = Home::open().config("User = nobody\n").user_from_config();
    let inside = fs::read_dir(home.directory()).unwrap().map(|entry| entry.unwrap().path());
    for path in [home.parent(), home.directory()].into_iter().chain(inside) {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    home
}

#[test]
fn start_reloads_and_stop_are_reported_to_a_socket_that_the_user_cannot_reach() {
    messages::follow(&home_of_nobody(), &Manager::new());
}

#[test]
fn detached_server_of_another_user_reports_its_own_process() {
    messages::follow_detached(&home_of_nobody());
}

#[test]
fn journal_of_another_user_has_start_stop_and_reloads() {
    journal::follow(&home_of_nobody());
}

#[test]
fn passed_socket_is_served_as_another_user() {
    activation::serve(&home_of_nobody());
    activation::serve_detached(&home_of_nobody());
}

#[test]
fn shared_port_of_root_must_not_be_retried() {
    let home = home_of_nobody().config("User = nobody\nReusePort = True\n");
    expect(
        || {
            let mut command = home.command();
            command.args(["-p", "1023"]);
            command
        },
        CONFIGURATION,
    );
}

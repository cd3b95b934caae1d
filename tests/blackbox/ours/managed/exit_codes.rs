//! Exit codes of a start that fails, with and without a service manager.

use std::fs;
use std::process::Command;

use nix::unistd::Uid;

use super::scripted::Manager;
use crate::harness::{Home, finish};

/// The exit code for mistakes in the configuration, under a service manager.
pub(super) const CONFIGURATION: i32 = 78;

/// Expects that a command fails with 1, and with this code under a service manager.
#[track_caller]
pub(super) fn expect(command: impl Fn() -> Command, code: i32) {
    let plain = finish(command());
    assert_eq!(plain.code, Some(if code == CONFIGURATION { 1 } else { code }), "{plain:?}");
    let manager = Manager::new();
    let mut managed = command();
    managed.env("NOTIFY_SOCKET", &manager.name);
    let managed = finish(managed);
    assert_eq!(managed.code, Some(code), "{managed:?}");
    // An empty variable is none.
    let mut unmanaged = command();
    unmanaged.env("NOTIFY_SOCKET", "");
    assert_eq!(finish(unmanaged).code, plain.code);
}

#[test]
fn mistakes_in_the_configuration_must_not_be_retried() {
    let bad_setting = Home::open().config("CleanupAge = never\n");
    expect(|| bad_setting.command(), CONFIGURATION);
    let both = Home::open().config("User = no such user\nCleanupAge = never\n").user_from_config();
    expect(|| both.command(), CONFIGURATION);
    let root = Home::open().config("User = root\n").user_from_config();
    expect(|| as_nobody(&root, &root.command()), CONFIGURATION);
    for file in ["pyzord.passwd", "pyzord.access", "pyzord.log", "pyzord.db"] {
        let home = Home::new();
        fs::create_dir(home.path(file)).unwrap();
        expect(|| home.command(), CONFIGURATION);
        expect(|| home.detached(), CONFIGURATION);
    }
    let address = Home::open();
    expect(
        || {
            let mut command = address.command();
            command.args(["-a", "fe80::1"]);
            command
        },
        CONFIGURATION,
    );
}

#[test]
fn file_without_permission_must_not_be_retried() {
    use std::os::unix::fs::PermissionsExt;

    for file in ["pyzord.passwd", "pyzord.access", "pyzord.log"] {
        let home = Home::open().file(file, "").unprivileged();
        fs::set_permissions(home.path(file), fs::Permissions::from_mode(0o000)).unwrap();
        expect(|| as_nobody(&home, &home.command()), CONFIGURATION);
    }
}

/// Returns the command of a server as an unprivileged user.
fn as_nobody(home: &Home, server: &Command) -> Command {
    let mut command = home.mark(Command::new("setpriv"));
    if Uid::effective().is_root() {
        // The socket of the test is out of reach, which is a warning.
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    }
    command.arg("--").arg(server.get_program()).args(server.get_args());
    command
}

#[test]
fn what_may_pass_is_retried() {
    let home = Home::open();
    let _port = home.take_port();
    expect(|| home.command(), 1);
    expect(|| home.detached(), 1);
    let home = Home::open();
    std::os::unix::fs::symlink("/no/such/disk/pyzord.db", home.path("pyzord.db")).unwrap();
    expect(|| home.command(), 1);
    // A name service that is not up yet knows no user and no group.
    for settings in ["User = no such user\n", "User = nobody\nGroup = no such group\n", "User = 54321\n"] {
        let home = Home::open().config(settings).user_from_config();
        expect(|| home.command(), 1);
        expect(|| home.detached(), 1);
    }
    // The disk of the homedir is mounted late. A mistake on the command line shows once it is there.
    for port in ["0", "70000"] {
        let home = Home::new();
        let homedir = home.parent().join("disk/pyzord");
        expect(
            || {
                let mut command = home.bare();
                command.arg("--homedir").arg(&homedir).args(["-p", port]);
                command
            },
            1,
        );
    }
}

#[test]
fn wrong_command_line_and_check_keep_their_codes() {
    let home = Home::open();
    expect(
        || {
            let mut command = home.command();
            command.arg("--no-such-option");
            command
        },
        2,
    );
    let home = Home::open().config("CleanupAge = never\n");
    expect(
        || {
            let mut command = home.command();
            command.arg("--check-config");
            command
        },
        1,
    );
}

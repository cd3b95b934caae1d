//! The homedir of a client, read by the user that `User` names and by a confined server.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use super::privileges::{self, NOBODY, require_root};
use crate::harness::{Account, Home, eventually};

/// A homedir of nobody that forwards to the servers of a directory, whose files are elsewhere.
fn home(outside: &Path) -> Home {
    fs::set_permissions(outside, Permissions::from_mode(0o755)).unwrap();
    let home = privileges::home_of(NOBODY, "User = nobody\n").forwarding_to(&["unused:1"]);
    let (servers, accounts) = (outside.join("servers"), outside.join("accounts"));
    let config =
        format!("[client]\nServersFile = {}\nAccountsFile = {}\n", servers.display(), accounts.display());
    home.remotes_file("config", &config);
    fs::write(servers, "127.0.0.1:9\n").unwrap();
    fs::write(&accounts, Account::new("bob").client_line("127.0.0.1:9")).unwrap();
    fs::set_permissions(&accounts, Permissions::from_mode(0o640)).unwrap();
    chown(&accounts, Some(0), Some(0)).unwrap();
    home
}

#[test]
fn keys_that_the_user_cannot_read_fail_the_start_with_the_command_that_fixes_it() {
    require_root();
    let outside = tempfile::tempdir().unwrap();
    let home = home(outside.path());
    assert_eq!(home.try_start().err().and_then(|status| status.code()), Some(1));
    let path = outside.path().join("accounts").display().to_string();
    let fix = format!("chgrp nogroup {path} && chmod g+r {path}");
    let stderr = home.stderr();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains(&format!("nobody cannot read the file of ForwardClientHomeDir {path}: "))
            && stderr.contains(&fix),
        "{stderr}"
    );
    assert!(Command::new("sh").args(["-c", &fix]).status().unwrap().success());
    let server = home.start();
    assert!(home.log().contains("to 127.0.0.1:9 (as bob)"), "{}", home.log());
    assert!(server.stop().success());
}

#[test]
fn confined_server_reads_the_files_again() {
    require_root();
    let outside = tempfile::tempdir().unwrap();
    let home = home(outside.path());
    chown(outside.path().join("accounts"), None, Some(NOBODY)).unwrap();
    let server = home.start();
    for (round, signal) in [Signal::SIGUSR1, Signal::SIGHUP].into_iter().enumerate() {
        // As editors do: a new file under the name.
        let new = outside.path().join("servers.new");
        fs::write(&new, format!("127.0.0.1:9\nlocalhost:{}\n", 10 + round)).unwrap();
        fs::rename(new, outside.path().join("servers")).unwrap();
        server.signal(signal);
        let name = format!("localhost:{}", 10 + round);
        eventually("the new server", || home.find_forwarding(&name).map(drop));
    }
    // Names are resolved by a confined server.
    home.forwarding_with("localhost:11", "an address", |forwarding| !forwarding.text("address").is_empty());
    assert!(server.stop().success(), "{}", home.everything_said());
}

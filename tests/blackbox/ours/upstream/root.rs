//! Second opinions of confined servers, as another user.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{Account, Remote, digest, eventually, lines};
use crate::ours::root::{NOBODY, home_of};

#[test]
fn confined_server_of_another_user_asks_and_reloads() {
    let bob = Account::new("bob");
    let remotes = [Remote::counting(7, 2), Remote::counting(1, 9)];
    // A name, so that the resolver's files are read.
    let names = remotes.each_ref().map(|remote| format!("localhost:{}", remote.port()));
    let home = home_of(NOBODY, NOBODY, "User = nobody\nUpstreamTimeout = 10\n");
    let home = home.asking(&names[..1]).asking_as(&names[0], &bob);
    let daemon = home.detach();
    let status = fs::read_to_string(daemon.proc("status")).unwrap();
    assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nUid:\t65534\t65534"), "{status}");
    let mut caller = home.caller();
    let mut number = 0;
    let mut expect = |counts: (i64, i64)| {
        eventually("an answer", || {
            number += 1;
            (caller.answered("check", &[&digest(number)]).counts() == counts).then_some(())
        });
    };
    expect((7, 2));
    remotes[0].requests()[0].expect_signed(&bob);
    // The directory is read again, as that user and confined.
    home.upstream_file("servers", &lines(&names));
    home.upstream_file("accounts", &bob.client_line(&names[1]));
    daemon.signal(Signal::SIGUSR1);
    home.opinions_with("the new server", |it| it.knows(&names[1]));
    expect((7, 9));
    remotes[1].requests()[0].expect_signed(&bob);
    daemon.stop();
    let log = home.log();
    assert!(!log.contains("ermission denied") && !log.contains("not permitted"), "{log}");
    assert!(!home.everything_said().contains(bob.key()));
}

/// The files are elsewhere, as the directory's config says.
#[test]
fn keys_that_the_user_cannot_read_fail_the_start_with_the_command_that_fixes_it() {
    let outside = tempfile::tempdir().unwrap();
    fs::set_permissions(outside.path(), Permissions::from_mode(0o755)).unwrap();
    let remotes = [Remote::counting(7, 2), Remote::counting(1, 9)];
    let names = remotes.each_ref().map(Remote::name);
    let home = home_of(NOBODY, NOBODY, "User = nobody\nUpstreamTimeout = 10\n").asking(&["unused:1"]);
    let (servers, accounts) = (outside.path().join("servers"), outside.path().join("accounts"));
    let config =
        format!("[client]\nServersFile = {}\nAccountsFile = {}\n", servers.display(), accounts.display());
    home.upstream_file("config", &config);
    fs::write(&servers, lines(&names[..1])).unwrap();
    fs::write(&accounts, Account::new("bob").client_line(&names[0])).unwrap();
    fs::set_permissions(&accounts, Permissions::from_mode(0o640)).unwrap();
    assert_eq!(home.try_start().err().and_then(|status| status.code()), Some(1));
    let path = accounts.display();
    let fix = format!("chgrp nogroup {path} && chmod g+r {path}");
    let stderr = home.stderr();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let problem = format!("nobody cannot read the file of UpstreamHomeDir {path}: ");
    assert!(stderr.contains(&problem) && stderr.contains(&fix), "{stderr}");
    assert!(Command::new("sh").args(["-c", &fix]).status().unwrap().success());
    let server = home.start();
    assert_eq!(server.request("check", &[&digest(1)]).counts(), (7, 2));
    remotes[0].requests()[0].expect_signed(&Account::new("bob"));
    // As editors do: a new file under the name.
    let new = outside.path().join("servers.new");
    fs::write(&new, lines(&names)).unwrap();
    fs::rename(new, servers).unwrap();
    server.signal(Signal::SIGHUP);
    home.opinions_with("the new server", |it| it.knows(&names[1]));
    let mut number = 1;
    eventually("both counts", || {
        number += 1;
        (server.request("check", &[&digest(number)]).counts() == (7, 9)).then_some(())
    });
    // Confinement permits the directories that were named at the start.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::set_permissions(elsewhere.path(), Permissions::from_mode(0o755)).unwrap();
    let moved = elsewhere.path().join("servers");
    fs::write(&moved, lines(&names)).unwrap();
    home.upstream_file("config", &format!("[client]\nServersFile = {}\n", moved.display()));
    fs::write(home.path("pyzord.passwd"), "").unwrap();
    fs::set_permissions(home.path("pyzord.passwd"), Permissions::from_mode(0o600)).unwrap();
    server.signal(Signal::SIGHUP);
    let remedy = "Permission denied (os error 13): let the user of pyzord read it; if it already can, the file is \
                  outside the directories that confinement has permitted since the start: restart pyzord; ";
    for file in [moved, home.path("pyzord.passwd")] {
        let problem = format!("{}: {remedy}", file.display());
        eventually("the remedy", || home.everything_said().contains(&problem).then_some(()));
    }
    assert!(server.stop().success(), "{}", home.everything_said());
}

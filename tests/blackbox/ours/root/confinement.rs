//! Confined servers keep working, as another user or not.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::harness::{Account, DIGEST, Home, Process, Server, eventually, unix_time};

/// The number of the user and group `nobody`.
pub(in crate::ours) const NOBODY: u32 = 65534;
/// Numbers of a user and a group that do not exist.
pub(super) const STRANGER: (u32, u32) = (54_321, 54_322);

/// Fails with advice if the tests do not run as root.
fn require_root() {
    assert!(Uid::effective().is_root(), "changing the user needs root: sudo make test");
}

/// Creates a home whose files belong to this user and group, with these settings.
pub(in crate::ours) fn home_of(user: u32, group: u32, settings: &str) -> Home {
    let home = Home::open().user_from_config().config(settings);
    give(&home.parent(), user, group);
    give(&home.directory(), user, group);
    for entry in fs::read_dir(home.directory()).unwrap() {
        give(&entry.unwrap().path(), user, group);
    }
    home
}

fn give(path: &Path, user: u32, group: u32) {
    chown(path, Some(user), Some(group)).unwrap();
}

/// Returns the value of a status field, which must be the same for all threads.
#[track_caller]
fn of_all_threads(daemon: Process, field: &str) -> String {
    let mut values: Vec<String> = Vec::new();
    for entry in fs::read_dir(daemon.proc("task")).unwrap() {
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(entry.unwrap().path().join("status")) else { continue };
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        values.push(value.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    assert!(values.len() > 1, "the threads of the logs are missing: {values:?}");
    values.dedup();
    assert_eq!(values.len(), 1, "{field}: {values:?}");
    values.remove(0)
}

#[track_caller]
fn expect_user(daemon: Process, user: u32, group: u32, groups: &str) {
    assert_eq!(of_all_threads(daemon, "Uid"), format!("{user} {user} {user} {user}"));
    assert_eq!(of_all_threads(daemon, "Gid"), format!("{group} {group} {group} {group}"));
    assert_eq!(of_all_threads(daemon, "Groups"), groups);
    for capabilities in ["CapEff", "CapPrm", "CapAmb"] {
        assert_eq!(of_all_threads(daemon, capabilities), "0000000000000000");
    }
}

#[track_caller]
fn expect_confined(daemon: Process) {
    assert_eq!(of_all_threads(daemon, "Seccomp"), "2");
    assert_eq!(of_all_threads(daemon, "NoNewPrivs"), "1");
}

/// Adds an account by SIGUSR1 and rotates the logs by SIGHUP.
#[track_caller]
fn expect_reload_and_rotation(home: &Home, daemon: Process, round: u32) {
    let account = Account::new(&format!("bob{round}"));
    let allowed = || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", home.port())).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
        let datagram = account.sign("Op: ping\nThread: 3000\nPV: 2.1\n", unix_time());
        let mut reply = [0; 1024];
        let length = socket.send(&datagram).and_then(|_| socket.recv(&mut reply)).ok()?;
        reply[..length].starts_with(b"Code: 200\n").then_some(())
    };
    assert_eq!(allowed(), None, "the account exists already");
    home.rewrite("pyzord.passwd", account.passwd());
    home.rewrite("pyzord.access", "all : all : allow\nall : anonymous : allow\n");
    daemon.signal(Signal::SIGUSR1);
    eventually("the new account", allowed);

    for log in ["pyzord.log", "usage.log"] {
        fs::rename(home.path(log), home.path(format!("{log}.{round}"))).unwrap();
    }
    daemon.signal(Signal::SIGHUP);
    expect_new_logs(home, daemon, &home.directory(), ["pyzord.log", "usage.log"]);
}

/// Expects that both logs exist again and are written to.
#[track_caller]
fn expect_new_logs(home: &Home, daemon: Process, directory: &Path, logs: [&str; 2]) {
    eventually("new logs", || logs.iter().all(|log| directory.join(log).exists()).then_some(()));
    // A queued line may still go to the old file.
    eventually("lines in the new logs", || {
        daemon.signal(Signal::SIGUSR1);
        let _ = home.caller().answered("ping", &[]);
        let is_written = |log: &&str| fs::metadata(directory.join(log)).is_ok_and(|found| found.len() > 0);
        logs.iter().all(is_written).then_some(())
    });
}

#[test]
fn root_changes_to_the_configured_user_and_is_confined() {
    require_root();
    let (user, group) = STRANGER;
    let settings = [
        (format!("User = {user}\nGroup = {group}\n"), user, group),
        (format!("User = {NOBODY}\n"), NOBODY, NOBODY),
        ("User = nobody\n".to_owned(), NOBODY, NOBODY),
    ];
    for (settings, user, group) in settings {
        let home = home_of(user, group, &settings);
        let daemon = home.detach();
        assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
        expect_user(daemon, user, group, &group.to_string());
        expect_confined(daemon);
        for name in ["pyzord.db", "pyzord.log", "usage.log", "pyzord.pid"] {
            let found = fs::metadata(home.path(name)).unwrap();
            assert_eq!((found.uid(), found.gid()), (user, group), "{name}");
        }
        expect_reload_and_rotation(&home, daemon, 0);
        expect_reload_and_rotation(&home, daemon, 1);
        assert_eq!(home.caller().count(DIGEST), 1);
        daemon.stop();
        assert!(!home.path("pyzord.pid").exists());
        let left: Vec<_> =
            fs::read_dir(home.directory()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().contains("trial")), "{left:?}");
        let log = home.read("pyzord.log");
        assert!(!log.contains(" WARNING ") && !log.contains(" ERROR "), "{log}");
    }
}

#[test]
fn killed_server_of_another_user_is_repaired_by_the_next_start() {
    require_root();
    let home = home_of(NOBODY, NOBODY, "User = nobody\n");
    let daemon = home.detach();
    for number in 0..500 {
        assert_eq!(home.caller().answered("report", &[&crate::harness::digest(number)]).code(), 200);
    }
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    let daemon = home.detach_after_kill();
    assert!(home.log().contains("was not closed (its last process was killed"), "{}", home.log());
    for number in 0..500 {
        assert_eq!(home.caller().count(&crate::harness::digest(number)), 1);
    }
    expect_user(daemon, NOBODY, NOBODY, &NOBODY.to_string());
    daemon.stop();
}

#[test]
fn unprivileged_server_is_confined() {
    require_root();
    let home = Home::open().unprivileged();
    let server = home.start();
    assert_eq!(server.request("report", &[DIGEST]).code(), 200);
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nUid:\t65534\t65534"), "{status}");
    fs::rename(home.path("pyzord.log"), home.path("old")).unwrap();
    server.signal(Signal::SIGHUP);
    eventually("a new log", || home.path("pyzord.log").exists().then_some(()));
    assert!(server.stop().success());
}

#[test]
fn links_and_files_outside_the_homedir_work_confined() {
    require_root();
    let home = Home::open();
    let elsewhere = home.parent().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    // Links to logs and a database that do not exist yet.
    symlink(elsewhere.join("log"), home.path("pyzord.log")).unwrap();
    symlink("../elsewhere/usage", home.path("usage.log")).unwrap();
    symlink(&elsewhere, home.path("data")).unwrap();
    home.rewrite("config", "[server]\nLogFile=pyzord.log\nUsageLogFile=usage.log\nDigestDB=data/my.db\n");
    let daemon = home.detach();
    assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
    for name in ["log", "usage"] {
        fs::rename(elsewhere.join(name), elsewhere.join(format!("{name}.1"))).unwrap();
    }
    daemon.signal(Signal::SIGHUP);
    expect_new_logs(&home, daemon, &elsewhere, ["log", "usage"]);
    daemon.stop();
    assert!(elsewhere.join("my.db").exists());
}

#[test]
fn logs_on_pipes_and_own_output_are_reopened_confined() {
    require_root();
    for log in ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2", "/dev/null"] {
        let home = Home::open();
        home.rewrite("config", format!("[server]\nLogFile = {log}\nUsageLogFile = {log}\n"));
        let mut running = Server::start(&home, home.command());
        running.serves(&mut home.caller());
        running.process().signal(Signal::SIGHUP);
        let said = || fs::read_to_string(home.parent().join("stderr")).unwrap();
        if log != "/dev/null" {
            eventually("the end of the reload", || {
                said().contains("The accounts and the access rules have been reloaded").then_some(())
            });
        }
        running.process().signal(Signal::SIGTERM);
        assert!(running.ended().success());
        assert!(!said().contains("cannot"), "{log}: {}", said());
    }
}

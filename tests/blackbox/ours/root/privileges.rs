//! Changing the user, and confinement. Root starts the servers.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::harness::{Account, DIGEST, Home, MariaDb, Redis, Server, eventually, finish};

pub(super) const NOBODY: u32 = 65534;
/// The number of a user and group that do not exist.
const STRANGER: u32 = 54_321;

/// Fails with advice if the tests do not run as root.
pub(super) fn require_root() {
    assert!(Uid::effective().is_root(), "changing the user needs root: sudo make test");
}

/// Creates a homedir of this user, with open access rules and these settings.
pub(super) fn home_of(user: u32, settings: &str) -> Home {
    let home = Home::open().user_from_config().config(settings);
    give(&home, user);
    home
}

/// Changes the owner of a homedir and its files, and makes it reachable.
fn give(home: &Home, user: u32) {
    let path = home.directory();
    fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    let inside = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    for path in std::iter::once(path).chain(inside) {
        chown(path, Some(user), Some(user)).unwrap();
    }
}

/// Returns the status of every thread.
fn threads(server: &Server) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect()
}

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Asserts that every thread runs irreversibly as this user, and is confined.
#[track_caller]
fn assert_is(server: &Server, user: u32) {
    let threads = threads(server);
    assert!(threads.len() > 1, "the logs have threads of their own");
    for status in threads {
        for name in ["Uid", "Gid"] {
            assert_eq!(field(&status, name), format!("{user} {user} {user} {user}"), "{name}");
        }
        assert!(["", &user.to_string()].contains(&field(&status, "Groups").as_str()), "{status}");
        assert_eq!(field(&status, "CapEff"), "0000000000000000");
        assert_confined(&status);
    }
}

fn assert_confined(status: &str) {
    assert_eq!((field(status, "NoNewPrivs"), field(status, "Seccomp")), ("1".to_owned(), "2".to_owned()));
}

#[test]
fn all_threads_change_user_irreversibly() {
    require_root();
    for (settings, user) in [
        ("User = nobody\n".to_owned(), NOBODY),
        (format!("User = {STRANGER}\nGroup = {STRANGER}\n"), STRANGER),
    ] {
        let home = home_of(user, &settings);
        let server = home.start();
        assert_is(&server, user);
        assert_eq!(server.request("report", &[DIGEST]).code(), 200);
        for name in ["pyzord.db", "pyzord.log", "usage.log"] {
            assert_eq!(fs::metadata(home.path(name)).unwrap().uid(), user, "{name}");
        }
        assert!(server.stop().success());
        assert!(!home.everything_said().contains("root"), "{}", home.everything_said());
        assert!(home.database().record(DIGEST).contains('1'));
    }
}

#[test]
fn privileged_port_is_bound_before_the_user_changes() {
    require_root();
    let home = home_of(NOBODY, "User = nobody\n");
    let mut command = home.bare();
    let port =
        (500..1000).rev().find(|port| std::net::UdpSocket::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    command.arg("--homedir").arg(home.directory()).args(["-a", "127.0.0.1", "-p", &port.to_string()]);
    command.args(["--detach", "/dev/null"]);
    let finished = finish(command);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{}", home.everything_said());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    crate::harness::ask_on(&socket, "Op: ping\nPV: 2.1\nThread: 3000\n\n");
    home.daemon().stop();
    assert!(!home.path("pyzord.pid").exists());
}

#[test]
fn homedir_created_by_root_belongs_to_the_user() {
    require_root();
    let home = Home::open();
    fs::set_permissions(home.parent(), Permissions::from_mode(0o777)).unwrap();
    let homedir = home.parent().join("made");
    let mut command = home.bare();
    command.arg("--homedir").arg(&homedir).args(["-a", "127.0.0.1", "-p", &home.port().to_string()]);
    command.args(["--user", "nobody", "--detach", "/dev/null"]);
    let finished = finish(command);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    assert_eq!(fs::metadata(&homedir).unwrap().uid(), NOBODY);
    let pid = fs::read_to_string(homedir.join("pyzord.pid")).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGTERM).unwrap();
    eventually("the end", || (!homedir.join("pyzord.pid").exists()).then_some(()));
}

#[test]
fn inaccessible_file_fails_the_start_with_the_command_that_fixes_it() {
    require_root();
    let deny = |home: &Home, name: &str| {
        let path = home.path(name);
        if !path.exists() {
            fs::write(&path, "").unwrap();
        }
        chown(&path, Some(0), Some(0)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    for (name, what, fix) in [
        ("pyzord.passwd", "cannot read the passwd file", "chgrp nogroup PATH && chmod g+r PATH"),
        ("pyzord.access", "cannot read the access file", "chgrp nogroup PATH && chmod g+r PATH"),
        ("pyzord.log", "cannot write the log file", "chown nobody PATH"),
        ("usage.log", "cannot write the usage log file", "chown nobody PATH"),
        ("pyzord.db", "cannot write the database", "chown nobody PATH"),
    ] {
        let home = home_of(NOBODY, "User = nobody\n");
        let path = deny(&home, name);
        assert_eq!(home.try_start().err().and_then(|status| status.code()), Some(1), "{name}");
        let stderr = home.stderr();
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(what) && stderr.contains(&fix.replace("PATH", &path)), "{stderr}");
        // The command in the message fixes it.
        let command = fix.replace("PATH", &path);
        assert!(std::process::Command::new("sh").args(["-c", &command]).status().unwrap().success());
        assert!(home.start().stop().success());
    }
}

#[test]
fn unusable_directories_are_reported() {
    require_root();
    // The homedir and its files belong to root.
    let home = Home::open().user_from_config().config("User = nobody\n");
    fs::set_permissions(home.directory().parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    let directory = home.directory().display().to_string();
    assert!(home.try_start().is_err());
    let stderr = home.stderr();
    assert!(stderr.lines().count() >= 3, "{stderr}");
    fs::set_permissions(home.directory(), Permissions::from_mode(0o755)).unwrap();
    let home = home.config("User = nobody\nPidFile = /var/run/pyzord-test-there-is-none/pid\n");
    assert!(home.try_start().is_err());
    let said = home.stderr();
    let fix = format!("chown nobody {directory}");
    assert!(said.contains(&fix), "{said}");
    assert_eq!(fs::read_dir(home.directory()).unwrap().count(), 2, "files were left behind");
}

#[test]
fn unknown_users_are_reported_with_file_and_line() {
    require_root();
    for (settings, text) in [
        ("User = no-such-user\n", "config:4: User: no user has the name 'no-such-user'"),
        ("User = nobody\nGroup = no-such-group\n", "config:4: User: no group has the name 'no-such-group'"),
        ("User = 54321\n", "config:4: User: no user has the number 54321: set Group as well"),
        ("Confine = maybe\n", "config:4: Confine: 'maybe' is neither True nor False"),
        ("Group = nogroup\n", "config:4: Group: User is not set: set User as well, or remove Group"),
    ] {
        let home = Home::new().user_from_config().config(settings);
        assert_eq!(home.try_start().err().and_then(|status| status.code()), Some(1));
        assert!(home.stderr().contains(text), "{}", home.stderr());
    }
    // Only root can change the user.
    let home = Home::open().config("User = root\n").unprivileged();
    assert!(home.try_start().is_err());
    assert!(home.stderr().contains("only root can become root"), "{}", home.stderr());
    // No change is needed if the process runs as that user already.
    let home = Home::open().config("User = nobody\n").unprivileged();
    assert_is(&home.start(), NOBODY);
}

#[test]
fn running_as_root_is_one_warning() {
    require_root();
    let home = Home::open().user_from_config();
    let server = home.start();
    assert_eq!(server.request("report", &[DIGEST]).code(), 200);
    threads(&server).iter().for_each(|status| assert_confined(status));
    assert!(server.stop().success());
    for said in [home.log(), home.stderr()] {
        assert_eq!(said.to_lowercase().matches("warning").count(), 1, "{said}");
        assert!(said.contains("running as root"), "{said}");
    }
}

/// Runs a server through reloads, log rotation and an outage of its store.
fn reload_rotate_and_reconnect(home: &Home, stop_store: impl FnOnce(), start_store: impl FnOnce()) {
    let bob = Account::new("bob");
    let server = home.start();
    threads(&server).iter().for_each(|status| assert_confined(status));
    assert_eq!(server.request("report", &[DIGEST]).code(), 200);
    // Replaced by another file, as editors do.
    home.rewrite("pyzord.passwd", bob.passwd());
    home.rewrite("pyzord.access", "all : anonymous : allow\nping : bob : allow\n");
    server.signal(Signal::SIGUSR1);
    eventually("the new account", || (server.request_as(&bob, "ping", &[]).code() == 200).then_some(()));
    fs::rename(home.path("pyzord.log"), home.path("pyzord.log.1")).unwrap();
    server.signal(Signal::SIGHUP);
    eventually("a new log", || home.log().contains("have been reloaded").then_some(()));
    stop_store();
    eventually("a refusal", || (server.request("check", &[DIGEST]).code() != 200).then_some(()));
    start_store();
    eventually("the database", || (server.request("check", &[DIGEST]).code() == 200).then_some(()));
    assert!(server.request("check", &[DIGEST]).counts().0 >= 1);
    assert!(server.stop().success(), "{}", home.everything_said());
}

#[test]
fn confined_server_of_another_user_reloads_rotates_reconnects_and_stops() {
    require_root();
    let redis = std::cell::RefCell::new(Redis::start());
    let port = redis.borrow().port();
    let home = home_of(NOBODY, &format!("User = nobody\nEngine = redis\nDigestDB = localhost,{port},,0\n"));
    reload_rotate_and_reconnect(
        &home,
        || redis.borrow_mut().service().kill(),
        || redis.borrow_mut().restart(),
    );

    let mariadb = std::cell::RefCell::new(MariaDb::start());
    let port = mariadb.borrow().port();
    let dsn = format!("localhost:{port},pyzor,secret,pyzor,digests");
    let home = home_of(NOBODY, &format!("User = nobody\nEngine = mysql\nDigestDB = {dsn}\n"));
    reload_rotate_and_reconnect(
        &home,
        || mariadb.borrow_mut().service().kill(),
        || mariadb.borrow_mut().restart(),
    );
}

#[test]
fn daemon_of_another_user_removes_its_pid_file() {
    require_root();
    let home = home_of(NOBODY, "User = nobody\n");
    let mut command = home.bare();
    command.arg("--homedir").arg(home.directory()).args(["-a", "127.0.0.1", "-p", &home.port().to_string()]);
    command.args(["--detach", "/dev/null"]);
    let finished = finish(command);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{}", home.everything_said());
    assert_eq!(fs::metadata(home.path("pyzord.pid")).unwrap().uid(), NOBODY);
    assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
    home.daemon().stop();
    assert!(!home.path("pyzord.pid").exists());
}

#[test]
fn confined_server_cannot_read_other_files() {
    require_root();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("access"), "all : anonymous : deny\n").unwrap();
    let replace_access_file_by_link = |home: &Home| {
        let access = home.path("pyzord.access");
        fs::remove_file(&access).unwrap();
        symlink(outside.path().join("access"), access).unwrap();
    };
    for (settings, code) in [("", 200), ("Confine = False\n", 403)] {
        let home = Home::open().config(settings);
        let server = home.start();
        let is_confined = threads(&server).iter().all(|status| field(status, "Seccomp") == "2");
        assert_eq!(is_confined, code == 200);
        replace_access_file_by_link(&home);
        server.signal(Signal::SIGUSR1);
        eventually("a reload", || {
            let log = home.log();
            (log.contains("stay unchanged") || log.contains("have been reloaded")).then_some(())
        });
        assert_eq!(server.request("check", &[DIGEST]).code(), code, "{}", home.log());
        assert_eq!(home.log().contains("cannot read the access file"), code == 200);
        assert!(server.stop().success());
    }
    // The target of a link that exists at the start is accessible.
    let home = Home::open();
    replace_access_file_by_link(&home);
    assert_eq!(home.start().request("check", &[DIGEST]).code(), 403);
}

#[test]
fn logs_outside_the_homedir_can_be_rotated() {
    require_root();
    let logs = tempfile::tempdir().unwrap();
    let home = Home::open();
    // One configured by its path, one behind a link.
    symlink(logs.path().join("usage.log"), home.path("usage.log")).unwrap();
    let log = logs.path().join("elsewhere.log");
    home.rewrite("config", format!("[server]\nLogFile = {}\nUsageLogFile = usage.log\n", log.display()));
    let server = home.start();
    let moved = |path: &Path| path.with_extension("1");
    for path in [&log, &logs.path().join("usage.log")] {
        fs::rename(path, moved(path)).unwrap();
    }
    server.signal(Signal::SIGHUP);
    eventually("new logs", || (log.exists() && logs.path().join("usage.log").exists()).then_some(()));
    assert!(server.stop().success());
    assert!(fs::read_to_string(&log).unwrap().contains("Server shutdown."));
}

#[test]
fn core_dumps_are_disabled_and_only_root_can_read_the_memory() {
    require_root();
    let home = home_of(NOBODY, "User = nobody\n");
    let server = home.start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().collect::<Vec<_>>()[4..6], ["1", "1"], "{cores}");
    // If the memory of a process is protected, its files in /proc belong to root.
    let environment = fs::metadata(format!("/proc/{}/environ", server.pid())).unwrap();
    assert_eq!(environment.uid(), 0);
}

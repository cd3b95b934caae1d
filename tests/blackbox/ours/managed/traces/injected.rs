//! Starts and stops under a service manager in which a system call fails or is slow.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{DIGEST, Home, Server, eventually};
use crate::ours::managed::exit_codes::{CONFIGURATION, expect};
use crate::ours::managed::scripted::Manager;

/// The time that a slow sync takes, in seconds. It is longer than the time between two attempts to send a message.
const SLOW: u32 = 5;

/// Returns the command of a server under strace with these options.
fn traced(home: &Home, server: &Command, options: &[&str]) -> Command {
    let mut command = home.mark(Command::new("strace"));
    command.args(["-f", "-qq", "-o"]).arg(home.parent().join("trace")).args(options).arg("--");
    command.arg(server.get_program()).args(server.get_args());
    command
}

/// Returns the command of a server whose syncs are slow.
fn with_slow_syncs(home: &Home, manager: &Manager) -> Command {
    let injection = format!("inject=fsync,fdatasync:delay_enter={SLOW}000000");
    let mut command = traced(home, &home.command(), &["-e", "trace=fsync,fdatasync", "-e", &injection]);
    command.env("NOTIFY_SOCKET", &manager.name);
    command
}

#[test]
fn config_file_that_cannot_be_read_now_is_read_by_a_later_start() {
    for (error, code) in [
        ("EIO", 1),
        ("EMFILE", 1),
        ("ENFILE", 1),
        ("ESTALE", 1),
        ("ETIMEDOUT", 1),
        ("ENOMEM", 1),
        ("EACCES", CONFIGURATION),
        ("ELOOP", CONFIGURATION),
    ] {
        let home = Home::open();
        let config = home.path("config").display().to_string();
        // A port that only the config file of a later start could correct.
        for arguments in [&[][..], &["-p", "70000"]] {
            let mut server = home.command();
            server.args(arguments);
            let injection = format!("inject=openat:error={error}");
            expect(|| traced(&home, &server, &["-P", &config, "-e", &injection]), code);
        }
    }
    let home = Home::open();
    let config = home.path("config").display().to_string();
    expect(|| traced(&home, &home.command(), &["-P", &config, "-e", "inject=read:error=EIO"]), 1);
}

#[test]
fn stop_is_reported_once_the_service_manager_has_room() {
    let (home, manager) = (Home::open(), Manager::new());
    // A database that exists already: the start then syncs nothing.
    assert_eq!(home.start().stop().code(), Some(0));
    let mut tracer = Server::start(&home, with_slow_syncs(&home, &manager));
    assert_eq!(manager.change(), "READY=1\n");
    assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
    manager.fill();
    tracer.process().child().signal(Signal::SIGTERM);
    // It goes before the database is closed.
    eventually("the end of the control socket", || (!home.path("pyzord.sock").exists()).then_some(()));
    assert_eq!(manager.change(), "STOPPING=1\n");
    assert_eq!(manager.next_but(&["STATUS="]), "EXTEND_TIMEOUT_USEC=30000000\n");
    assert_eq!(tracer.ended().code(), Some(0));
}

#[test]
fn stop_while_the_database_is_opened_asks_for_more_time() {
    let (home, manager) = (Home::open(), Manager::new());
    let mut tracer = Server::start(&home, with_slow_syncs(&home, &manager));
    assert_eq!(manager.next_but(&[]), "EXTEND_TIMEOUT_USEC=30000000\n");
    eventually("a new database", || fs::exists(home.path("pyzord.db")).unwrap().then_some(()));
    tracer.process().child().signal(Signal::SIGTERM);
    assert_eq!(manager.change(), "STOPPING=1\n");
    assert_eq!(manager.next_but(&[]), "EXTEND_TIMEOUT_USEC=30000000\n");
    assert_eq!(tracer.ended().code(), Some(0));
}

/// Starts as root that become another user.
mod root {
    use super::traced;
    use crate::ours::managed::exit_codes::expect;
    use crate::ours::managed::root::home_of_nobody;

    #[test]
    fn user_that_cannot_be_assumed_now_is_assumed_by_a_later_start() {
        for call in ["setgroups", "setresgid", "setresuid"] {
            for error in ["EAGAIN", "ENOMEM"] {
                let home = home_of_nobody();
                let injection = format!("inject={call}:error={error}");
                let command = || traced(&home, &home.command(), &["-e", &injection]);
                expect(command, 1);
            }
        }
    }

    #[test]
    fn user_database_that_cannot_be_read_leaves_no_homedir_of_root() {
        let home = home_of_nobody();
        let homedir = home.parent().join("made");
        let mut server = home.bare();
        server.arg("--homedir").arg(&homedir).args(["-a", "127.0.0.1", "-p", "0", "--user", "daemon"]);
        let options = ["-P", "/etc/passwd", "-e", "inject=openat:error=EIO"];
        expect(|| traced(&home, &server, &options), 1);
        assert!(!homedir.exists());
        expect(|| traced(&home, &server, &["-e", "inject=?chown,fchownat:error=EIO"]), 1);
        assert!(!homedir.exists());
    }
}

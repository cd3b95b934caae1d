//! Messages of a server to its service manager.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sd_notify::NotifyState;

use super::scripted::Manager;
use crate::harness::{DIGEST, Home, PATIENCE, Redis, Server, eventually, finish, free_port};

fn managed(mut command: Command, manager: &Manager) -> Command {
    command.env("NOTIFY_SOCKET", &manager.name);
    command
}

/// Returns the monotonic time in microseconds.
fn monotonic() -> i128 {
    match NotifyState::monotonic_usec_now() {
        Ok(NotifyState::MonotonicUsec(time)) => time,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn expect_reload(manager: &Manager, since: i128) {
    let message = manager.change();
    let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.strip_suffix('\n'));
    let time: i128 = time.unwrap_or_else(|| panic!("{message}")).parse().unwrap();
    assert!((since..=monotonic()).contains(&time), "{since} {time} {}", monotonic());
    assert_eq!(manager.change(), "READY=1\n");
}

/// Follows a server from its first message to its last.
#[track_caller]
pub(super) fn follow(home: &Home, manager: &Manager) {
    let mut server = Server::start(home, managed(home.command(), manager));
    assert_eq!(manager.change(), "READY=1\n");
    // It serves: the port is bound, and no request is lost.
    assert_eq!(home.caller().answered("ping", &[]).code(), 200);
    for signal in [Signal::SIGUSR1, Signal::SIGHUP] {
        let since = monotonic();
        server.signal(signal);
        expect_reload(manager, since);
    }
    let log = home.log();
    assert!(log.contains("Confinement: files restricted by landlock"), "{log}");
    // A reload that fails ends as well.
    let access = home.path("pyzord.access");
    fs::remove_file(&access).unwrap();
    fs::create_dir(&access).unwrap();
    let since = monotonic();
    server.signal(Signal::SIGUSR1);
    expect_reload(manager, since);
    assert_eq!(home.caller().answered("ping", &[]).code(), 200);
    server.signal(Signal::SIGTERM);
    assert_eq!(manager.change(), "STOPPING=1\n");
    assert_eq!(server.ended().code(), Some(0));
    while let Some(message) = manager.next_within(Duration::ZERO) {
        assert!(message.starts_with("EXTEND_TIMEOUT_USEC="), "after the last change of state: {message}");
    }
}

#[test]
fn start_reloads_and_stop_are_reported_in_order() {
    follow(&Home::open(), &Manager::new());
    follow(&Home::open(), &Manager::with_abstract_name());
}

/// Follows a server in the background.
#[track_caller]
pub(super) fn follow_detached(home: &Home) {
    let manager = Manager::new();
    let finished = finish(managed(home.detached(), &manager));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let daemon = home.daemon();
    assert_eq!(manager.change(), format!("MAINPID={}\nREADY=1\n", daemon.pid()));
    daemon.stop();
    assert_eq!(manager.change(), "STOPPING=1\n");
}

#[test]
fn detached_server_reports_its_own_process() {
    follow_detached(&Home::open());
}

#[test]
fn status_follows_the_availability_of_the_database() {
    let mut redis = Redis::start();
    let home = Home::open().config(&format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port()));
    let manager = Manager::new();
    let mut server = Server::start(&home, managed(home.command(), &manager));
    assert_eq!(manager.change(), "READY=1\n");
    let status = manager.wait_for("STATUS=well: ");
    assert!(status.contains(" requests/s, redis available, up "), "{status}");
    assert!(status.matches('\n').count() == 1, "{status}");
    redis.service().kill();
    // Noticed by the next request.
    assert_ne!(home.caller().answered("check", &[DIGEST]).code(), 200);
    let status = manager.wait_for("STATUS=critical: the database is unavailable");
    assert!(status.contains(", redis unavailable, up "), "{status}");
    redis.restart();
    manager.wait_for("STATUS=well: ");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}

/// Returns the messages of a server with these variables for the watchdog, up to the stop after a few seconds.
fn messages_with(variables: &str) -> Vec<String> {
    let (home, manager) = (Home::open(), Manager::new());
    let command = home.under(&format!("export {variables}; exec \"$@\""), false);
    let mut server = Server::start(&home, managed(command, &manager));
    assert_eq!(manager.change(), "READY=1\n");
    let end = Instant::now() + Duration::from_secs(4);
    let mut messages = Vec::new();
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        messages.extend(manager.next_within(left));
    }
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    messages
}

#[test]
fn watchdog_of_this_process_gets_signs_of_life() {
    for variables in ["WATCHDOG_USEC=2000000 WATCHDOG_PID=$$", "WATCHDOG_USEC=2000000"] {
        let messages = messages_with(variables);
        let signs = messages.iter().filter(|message| *message == "WATCHDOG=1\n").count();
        assert!(signs >= 2, "{variables}: {messages:?}");
    }
    for variables in
        ["WATCHDOG_USEC=2000000 WATCHDOG_PID=1", "WATCHDOG_USEC=0", "WATCHDOG_USEC=x", "WATCHDOG_PID=$$"]
    {
        let messages = messages_with(variables);
        assert!(!messages.iter().any(|message| message.starts_with("WATCHDOG")), "{variables}: {messages:?}");
    }
}

#[test]
fn watchdog_that_is_too_fast_is_a_warning() {
    let home = Home::open();
    let mut command = home.command();
    let manager = Manager::new();
    command.env("WATCHDOG_USEC", "1500000");
    let server = Server::start(&home, managed(command, &manager));
    assert_eq!(manager.change(), "READY=1\n");
    assert!(home.stderr().contains("a sign of life every 1500 ms"), "{}", home.stderr());
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn start_that_waits_for_its_database_asks_for_more_time() {
    let home = Home::open().config(&format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", free_port()));
    let manager = Manager::new();
    let mut server = Server::start(&home, managed(home.command(), &manager));
    assert_eq!(manager.next_but(&[]), "EXTEND_TIMEOUT_USEC=30000000\n");
    server.signal(Signal::SIGTERM);
    assert_eq!(manager.change(), "STOPPING=1\n");
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn server_outlives_its_service_manager_and_finds_the_next() {
    let home = Home::open();
    let path = home.parent().join("notify");
    let bind = || std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let first = bind();
    let mut command = home.command();
    // A confined server reaches the new socket: landlock does not restrict connections.
    let server = Server::start(&home, {
        command.env("NOTIFY_SOCKET", &path);
        command
    });
    let read = |socket: &std::os::unix::net::UnixDatagram| {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    while read(&first) != "READY=1\n" {}
    drop(first);
    fs::remove_file(&path).unwrap();
    server.signal(Signal::SIGUSR1);
    eventually("the reload", || home.log().contains("have been reloaded").then_some(()));
    let second = bind();
    assert_eq!(server.stop().code(), Some(0));
    while read(&second) != "STOPPING=1\n" {}
}

#[test]
fn service_manager_that_does_not_read_delays_nothing_and_learns_the_last_state() {
    let (home, manager) = (Home::open(), Manager::new());
    let mut server = Server::start(&home, managed(home.command(), &manager));
    let mut caller = home.caller();
    server.serves(&mut caller);
    // More messages than the queue of a socket holds.
    let limit: usize =
        fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap().trim().parse().unwrap();
    for round in 1..=limit {
        server.signal(Signal::SIGUSR1);
        eventually("a reload", || (home.log().matches("have been reloaded").count() == round).then_some(()));
    }
    assert_eq!(caller.answered("ping", &[]).code(), 200);
    let mut states = Vec::new();
    // What had no room follows within seconds.
    while let Some(message) = manager.next_within(Duration::from_secs(5)) {
        states.extend((!message.starts_with("STATUS=")).then_some(message));
    }
    assert_eq!(states.last().map(String::as_str), Some("READY=1\n"), "{states:?}");
    assert!(states.len() > limit, "the queue was never full: {}", states.len());
    server.signal(Signal::SIGTERM);
    assert_eq!(manager.change(), "STOPPING=1\n");
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn useless_notify_socket_is_a_warning() {
    for name in ["relative", "vsock:2:1", "/no/such/socket"] {
        let home = Home::open();
        let mut command = home.command();
        command.env("NOTIFY_SOCKET", name);
        let mut server = Server::start(&home, command);
        server.serves(&mut home.caller());
        let stderr = home.stderr();
        assert!(
            stderr.contains(&format!("cannot reach the service manager: NOTIFY_SOCKET = {name}: ")),
            "{stderr}"
        );
        assert_eq!(server.stop().code(), Some(0));
    }
}

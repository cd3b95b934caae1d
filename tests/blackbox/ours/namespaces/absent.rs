//! Addresses and interfaces that do not exist yet.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{End, Home, Namespace, Server, eventually, finish};

/// Creates a host with one interface, and the host at the other end.
fn host() -> (Namespace, Namespace) {
    let (here, there) = (Namespace::new(), Namespace::new());
    Namespace::join(
        &End { namespace: &here, interface: "inner", addresses: &["10.99.0.1/16"] },
        &End { namespace: &there, interface: "outer", addresses: &["10.99.0.9/16"] },
    );
    (here, there)
}

/// Returns the command of a server in the foreground at this address of the host.
fn server(home: &Home, host: &Namespace, address: &str, user: Option<&str>) -> Command {
    let mut command = home.command();
    command.args(["-a", address]);
    if let Some(user) = user {
        command.args(["--user", user]);
    }
    host.inside(&command)
}

/// Creates a homedir of `nobody`.
fn home() -> Home {
    let home = Home::open();
    let status = Command::new("chown").args(["-R", "nobody"]).arg(home.parent()).status();
    assert!(status.unwrap().success());
    home
}

/// Returns stderr and the log.
fn output(home: &Home) -> String {
    let stderr = std::fs::read_to_string(home.parent().join("stderr")).unwrap_or_default();
    format!("{stderr}{}", home.log())
}

#[test]
fn start_waits_for_an_address() {
    let (here, _there) = host();
    for (address, user) in
        [("10.99.0.2", None), ("10.99.0.3", Some("nobody")), ("fd99::2", None), ("fd99::3", Some("nobody"))]
    {
        let home = home();
        let mut running = Server::start(&home, server(&home, &here, address, user));
        let line = format!("waiting for the address {address}");
        eventually("a line about the address", || output(&home).contains(&line).then_some(()));
        let length = if address.contains(':') { "64 nodad" } else { "16" };
        here.ip(&format!("address add {address}/{length} dev inner"));
        eventually("service", || {
            assert!(running.is_running(), "{}", output(&home));
            home.log().contains("Listening on").then_some(())
        });
    }
}

#[test]
fn missing_address_fails_the_start_with_advice() {
    let (here, _there) = host();
    for (address, advice) in
        [("10.99.0.2", "net.ipv4.ip_nonlocal_bind=1"), ("fd99::2", "net.ipv6.ip_nonlocal_bind=1")]
    {
        let home = home();
        let finished = finish(server(&home, &here, address, None));
        let waiting = finished.stderr.lines().filter(|line| line.contains("waiting for the address")).count();
        assert!(waiting >= 5, "{finished:?}");
        let last = finished.stderr.lines().last().unwrap();
        assert!(finished.code == Some(1) && last.contains(address) && last.contains(advice), "{finished:?}");
        // The advice works.
        let setting = advice.replace('.', "/").replace("=1", "");
        here.run(|| std::fs::write(format!("/proc/sys/{setting}"), "1")).unwrap();
        let mut running = Server::start(&home, server(&home, &here, address, None));
        eventually("service", || {
            assert!(running.is_running(), "{}", output(&home));
            output(&home).contains("Listening on").then_some(())
        });
    }
}

#[test]
fn server_that_waits_for_an_address_can_be_stopped() {
    let (here, _there) = host();
    for user in [None, Some("nobody")] {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let home = home();
            let mut running = Server::start(&home, server(&home, &here, "10.99.0.2", user));
            eventually("a line", || output(&home).contains("waiting for the address").then_some(()));
            running.process().signal(signal);
            assert!(running.ended().success());
            let lines = output(&home);
            assert!(!lines.contains("ip_nonlocal_bind"), "the stop did not end the wait: {lines}");
            assert!(lines.contains(signal.as_str()), "{lines}");
        }
    }
}

#[test]
fn start_waits_for_an_interface() {
    let (here, _there) = host();
    for (interface, user) in [("late", None), ("later", Some("nobody"))] {
        let home = home();
        let address = format!("fe80::7%{interface}");
        let mut running = Server::start(&home, server(&home, &here, &address, user));
        let line = format!("waiting for the address {address}");
        eventually("a line about the interface", || output(&home).contains(&line).then_some(()));
        here.ip(&format!("link add {interface} type veth peer name {interface}-end"));
        here.ip(&format!("link set {interface}-end up"));
        here.ip(&format!("link set {interface} addrgenmode none up"));
        here.ip(&format!("address add fe80::7/64 dev {interface} nodad"));
        eventually("service", || {
            assert!(running.is_running(), "{}", output(&home));
            home.log().contains("Listening on").then_some(())
        });
    }
    let home = home();
    let finished = finish(server(&home, &here, "fe80::7%missing", None));
    let last = finished.stderr.lines().last().unwrap();
    assert!(finished.code == Some(1) && last.contains("fe80::7%missing: this host has no such interface"));
}

/// The command in the foreground reports failure when a signal ends the wait.
#[test]
fn detach_fails_if_the_daemon_is_stopped_while_starting() {
    let (here, _there) = host();
    for user in [None, Some("nobody")] {
        let home = home();
        let mut command = server(&home, &here, "10.99.0.2", user);
        command.args(["--detach", "/dev/null"]);
        let mut running = Server::start(&home, command);
        eventually("a line", || output(&home).contains("waiting for the address").then_some(()));
        // With `--user` the command in the foreground waits, otherwise the daemon.
        match user {
            None => home.processes().into_iter().for_each(|pid| {
                let _ = nix::sys::signal::kill(pid, Signal::SIGTERM);
            }),
            Some(_) => running.process().signal(Signal::SIGTERM),
        }
        let status = running.ended();
        assert!(!status.success(), "{user:?}: {status}");
        assert!(output(&home).contains("stopped by SIGTERM while starting") || user.is_none());
        home.expect_no_process();
    }
}

#[test]
fn early_reload_request_does_not_end_the_start() {
    let (here, _there) = host();
    for (address, signal) in [("10.99.0.2", Signal::SIGHUP), ("10.99.0.3", Signal::SIGUSR1)] {
        let home = home();
        let mut command = server(&home, &here, address, Some("nobody"));
        command.args(["--detach", "/dev/null"]);
        let mut running = Server::start(&home, command);
        eventually("a line", || output(&home).contains("waiting for the address").then_some(()));
        running.process().signal(signal);
        here.ip(&format!("address add {address}/16 dev inner"));
        assert!(running.ended().success(), "{signal}: {}", output(&home));
        home.daemon().stop();
    }
}

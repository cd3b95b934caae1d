//! Addresses of servers to forward to: IPv6, and those of the server itself.

use crate::harness::{Account, Home, Remote, Server, accept, digest, eventually, free_port_at};
use crate::ours::forwarding::report;

#[test]
fn ipv6_address_is_forwarded_to() {
    let remote = Remote::start_at("::1", free_port_at("::1"), accept);
    let home = Home::open().forwarding_to(&[remote.name()]);
    let server = home.start();
    report(server.port(), 0..10);
    assert_eq!(home.forwarding_settled(&remote.name(), 10).count("accepted"), 10);
    assert_eq!(remote.counts("report"), (0..10).map(|number| (digest(number), 1)).collect());
    assert_eq!(home.forwarding(&remote.name()).text("address"), remote.name());
}

#[test]
fn account_of_an_ipv6_address_is_used() {
    let bob = Account::new("bob");
    let remote = Home::new().passwd(bob.passwd()).access("all : bob : allow\n").address("::1").start();
    let name = format!("[::1]:{}", remote.port());
    let home = Home::open().forwarding_to(&[&name]).forwarding_as(&name, &bob);
    let server = home.start();
    report(server.port(), 0..10);
    assert_eq!(home.forwarding_settled(&name, 10).count("accepted"), 10);
}

/// Starts a server that listens on this address and forwards to itself by this name.
#[track_caller]
fn expect_left_out(listening: &'static str, target: &str) {
    let other = Remote::accepting();
    let home = Home::open().config("ForwardDelay = 0\n").address(listening);
    let name = format!("{target}:{}", home.port());
    let home = home.forwarding_to(&[&name, &other.name()]);
    // On the port of the homedir.
    let mut server = Server::start(&home, home.command());
    let socket = eventually("the server", || {
        assert!(server.is_running(), "{}", home.everything_said());
        let socket =
            std::net::UdpSocket::bind(if listening == "::1" { "[::1]:0" } else { "127.0.0.1:0" }).ok()?;
        socket.connect((if listening == "::1" { "::1" } else { "127.0.0.1" }, home.port())).ok()?;
        socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).ok()?;
        socket.send(b"Op: ping\nPV: 2.1\nThread: 1024\n\n").ok()?;
        socket.recv(&mut [0; 1024]).ok().map(|_| socket)
    });
    let mut reply = [0; 1024];
    for number in 0..5 {
        let request = format!("Op: report\nOp-Digest: {}\nPV: 2.1\nThread: 2000\n\n", digest(number));
        socket.send(request.as_bytes()).unwrap();
        let length = socket.recv(&mut reply).unwrap();
        assert!(reply[..length].starts_with(b"Code: 200\n"));
    }
    home.forwarding_settled(&other.name(), 5);
    let own = home.forwarding_with(&name, "the outage", |it| it.state() == "unavailable");
    assert!(own.text("reason").contains("this server"), "{own:?}");
    assert_eq!(own.count("requests"), 0, "{own:?}");
    let log = home.log();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(&name), "{log}");
    server.process().stop();
    assert!(home.stored().values().all(|count| *count == 1));
}

#[test]
fn server_does_not_forward_to_itself() {
    for (listening, target) in [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.9"),
        ("0.0.0.0", "0.0.0.0"),
        ("::", "[::1]"),
        ("::", "127.0.0.1"),
        ("::1", "[::1]"),
    ] {
        println!("{listening} {target}");
        expect_left_out(listening, target);
    }
}

//! Addresses of servers to ask: IPv6, names, and those of the server itself.

use crate::harness::{DIGEST, Home, Remote, Server, counting, digest, eventually, free_port_at};
use crate::ours::upstream::{PATIENT, checked, found};

#[test]
fn ipv6_address_is_asked() {
    let remote = Remote::start_at("::1", free_port_at("::1"), |datagram| counting(datagram, (7, 2)));
    let home = Home::open().config(PATIENT).asking(&[remote.name()]);
    let server = home.start();
    assert_eq!(server.request("check", &[DIGEST]).counts(), (7, 2));
    assert_eq!(home.opinions().text(&remote.name(), "address"), remote.name());
    assert!(remote.requests().iter().all(|question| question.from.is_ipv6()));
}

/// The name has an address of each family, and nothing replies at one of them.
#[test]
fn name_is_resolved_and_asked() {
    let remote = Remote::counting(7, 2);
    let name = format!("localhost:{}", remote.port());
    let home = Home::open().config(PATIENT).asking(&[&name]);
    let server = home.start();
    let mut number = 0;
    eventually("an answer", || {
        number += 1;
        (server.request("check", &[&digest(number)]).counts() == (7, 2)).then_some(())
    });
    assert_eq!(home.opinions_while(&name, "available").text(&name, "address"), remote.name());
}

/// A host has several addresses, and clients take replies from the one that they asked alone.
#[test]
fn late_reply_comes_from_the_address_that_was_asked() {
    let remote = Remote::holding(7, 2);
    for (listening, asked) in [("0.0.0.0", "127.0.0.5"), ("::", "127.0.0.6"), ("::", "::1")] {
        let server = Home::open().config(PATIENT).address(listening).asking(&[remote.name()]).start();
        let before = remote.received();
        // Connected: the kernel drops replies from other addresses.
        let socket = server.socket_to(asked.parse().unwrap());
        socket.send(format!("Op: check\nOp-Digest: {DIGEST}\nPV: 2.1\nThread: 2000\n\n").as_bytes()).unwrap();
        eventually("the question", || (remote.received() > before).then_some(()));
        remote.release();
        let mut reply = [0; 1024];
        let length = socket.recv(&mut reply).unwrap();
        assert_eq!(String::from_utf8_lossy(&reply[..length]), found(2000, (7, 2)));
    }
}

/// The address of the listening server itself, in several ways.
#[test]
fn server_does_not_ask_itself() {
    for (listening, target) in
        [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.9"), ("0.0.0.0", "0.0.0.0"), ("::", "127.0.0.1")]
    {
        println!("{listening} {target}");
        let other = Remote::counting(7, 2);
        let home = Home::open().config(PATIENT).address(listening);
        let own = format!("{target}:{}", home.port());
        let home = home.asking(&[&own, &other.name()]);
        let (code, lines) = checked(&home);
        let is_reported = |line: &String| {
            line.starts_with("warning: ") && line.contains(&format!("{own} is this server itself"))
        };
        assert!(code == Some(0) && lines.iter().any(is_reported), "{lines:#?}");
        // On the port of the homedir.
        let mut server = Server::start(&home, home.command());
        let mut caller = home.caller();
        server.serves(&mut caller);
        for number in 0..5 {
            assert_eq!(caller.answered("check", &[&digest(number)]).counts(), (7, 2));
        }
        let opinions = home.opinions_while(&own, "unavailable");
        assert!(opinions.text(&own, "reason").contains("this server"), "{opinions:?}");
        assert_eq!(opinions.count_of(&own, "sent"), 0, "{opinions:?}");
        assert_eq!(opinions.declined("local_only"), 0);
        let log = home.log();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(&own), "{log}");
    }
}

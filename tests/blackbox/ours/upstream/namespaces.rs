//! Other servers on other hosts: networks without a route, and forged senders.

use std::net::{SocketAddr, SocketAddrV4};

use crate::harness::{
    Answer, Caller, Datagram, End, Forger, Home, Namespace, Remote, Server, counting, digest, eventually,
    free_port_at,
};
use crate::ours::upstream::{HASTY, PATIENT};

/// Creates the host of the server that asks, and that of the one that is asked.
fn hosts() -> (Namespace, Namespace) {
    let (here, there) = (Namespace::new(), Namespace::new());
    Namespace::join(
        &End { namespace: &here, interface: "inner", addresses: &["10.99.0.1/16"] },
        &End { namespace: &there, interface: "outer", addresses: &["10.99.0.9/16", "10.98.0.9/16"] },
    );
    (here, there)
}

/// Starts a scripted server at this address of a host.
fn remote(
    host: &Namespace,
    address: &str,
    script: impl FnMut(&Datagram) -> Answer + Send + 'static,
) -> Remote {
    host.run(|| Remote::start_at(address, free_port_at(address), script))
}

/// Starts a server on a host.
fn serve(host: &Namespace, home: &Home) -> (Server, Caller) {
    let mut server = Server::start(home, host.inside(&home.command()));
    let mut caller = host.run(|| home.caller());
    server.serves(&mut caller);
    (server, caller)
}

/// The counters show that no timeout ended.
#[test]
fn network_without_a_route_is_noticed_at_once() {
    let (here, there) = hosts();
    let remote = remote(&there, "10.98.0.9", |datagram| counting(datagram, (7, 2)));
    let name = remote.name();
    let home = Home::open().config(PATIENT).asking(&[&name]);
    let (_server, mut caller) = serve(&here, &home);
    for number in 0..50 {
        assert_eq!(caller.answered("check", &[&digest(number)]).counts(), (0, 0));
    }
    let away = home.opinions_while(&name, "unavailable");
    assert!(away.text(&name, "reason").contains("unreachable"), "{away:?}");
    assert!(away.count("asked") <= 1 && remote.datagrams().is_empty(), "{away:?}");
    here.ip("route add 10.98.0.0/16 dev inner");
    let mut number = 100;
    eventually("an answer", || {
        number += 1;
        (caller.answered("check", &[&digest(number)]).counts() == (7, 2)).then_some(())
    });
    home.opinions_while(&name, "available");
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => panic!("{address}"),
    }
}

/// A stranger who can send from any address, and knows the port from which the question came. Only the right `Thread`
/// protects then.
#[test]
fn forged_answers_are_not_used_without_the_right_source_and_thread() {
    let (here, there) = hosts();
    let forger = there.run(Forger::new);
    let remote = remote(&there, "10.99.0.9", |_| Answer::Silence);
    let name = remote.name();
    let port = remote.port();
    remote.follow(move |datagram| {
        let (to, forged) = (v4(datagram.from), datagram.counted((9, 9)));
        let own: u32 = datagram.header("Thread").unwrap().parse().unwrap();
        let text = String::from_utf8(forged.clone()).unwrap();
        let wrong = |thread: u32| text.replace(&format!("Thread: {own}\n"), &format!("Thread: {thread}\n"));
        let from = |address: [u8; 4], port: u16| SocketAddrV4::new(address.into(), port);
        // Delivered, with wrong threads.
        for thread in (1024..1034).filter(|thread| *thread != own) {
            forger.send(from([10, 99, 0, 9], port), to, wrong(thread).as_bytes());
        }
        // Not delivered, with the right one.
        forger.send(from([10, 99, 0, 9], port ^ 1), to, &forged);
        forger.send(from([10, 99, 0, 8], port), to, &forged);
        forger.send(from([10, 98, 0, 9], port), to, &forged);
        Answer::Silence
    });
    let home = Home::open().config(HASTY).asking(&[&name]);
    let (_server, mut caller) = serve(&here, &home);
    assert_eq!(caller.answered("check", &[&digest(1)]).counts(), (0, 0));
    let opinions = home.opinions();
    let counts = ["answered", "silent"].map(|it| opinions.count_of(&name, it));
    assert_eq!(counts, [0, 1], "{opinions:?}");
    assert!((9..=10).contains(&opinions.count_of(&name, "unmatched")), "{opinions:?}");
    remote.follow(|datagram| counting(datagram, (7, 2)));
    assert_eq!(caller.answered("check", &[&digest(1)]).counts(), (7, 2));
}

//! The source address of replies is the requested address.

use std::net::UdpSocket;
use std::time::Duration;

use nix::net::if_::if_nametoindex;

use crate::harness::{DIGEST, End, Home, Namespace, Reply, Server, eventually};

/// Addresses of the server's host: two of each family on the link, and one of each on its loopback device.
const OWN: [&str; 7] = ["10.99.0.1", "10.99.0.2", "10.98.0.1", "fd99::1", "fd99::2", "fd98::1", "fe80::1"];

/// Creates the host of a server with several addresses, and the host of a client.
fn hosts() -> (Namespace, Namespace) {
    let (here, there) = (Namespace::new(), Namespace::new());
    Namespace::join(
        &End {
            namespace: &here,
            interface: "inner",
            addresses: &["10.99.0.1/16", "10.99.0.2/16", "fd99::1/64", "fd99::2/64", "fe80::1/64"],
        },
        &End {
            namespace: &there,
            interface: "outer",
            addresses: &["10.99.0.9/16", "fd99::9/64", "fe80::9/64"],
        },
    );
    for address in ["10.98.0.1/32", "fd98::1/128"] {
        here.ip(&format!("address add {address} dev lo"));
    }
    there.ip("route add 10.98.0.0/16 via 10.99.0.1");
    there.ip("route add fd98::/64 via fd99::1");
    (here, there)
}

/// Opens a socket of this host that accepts replies only from this address.
fn connected(host: &Namespace, address: &str, port: u16) -> UdpSocket {
    host.run(|| {
        let is_v6 = address.contains(':');
        let scope = if address.starts_with("fe80") { "%outer" } else { "" };
        let socket = UdpSocket::bind(if is_v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
        socket.connect((format!("{address}{scope}"), port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        socket
    })
}

fn request(op: &str, thread: u32) -> String {
    format!("Op: {op}\nOp-Digest: {DIGEST}\nThread: {thread}\nPV: 2.1\n\n")
}

/// Returns the sorted thread numbers of the next replies on this socket.
fn threads(socket: &UdpSocket, count: usize, asked: &str) -> Vec<i64> {
    let mut buffer = [0; 2000];
    let mut next = || match socket.recv(&mut buffer) {
        Ok(length) => Reply(buffer[..length].to_vec()).number("Thread"),
        Err(error) => panic!("no reply from the requested address {asked}: {error}"),
    };
    let mut threads: Vec<i64> = (0..count).map(|_| next()).collect();
    threads.sort_unstable();
    threads
}

#[test]
fn reply_comes_from_the_requested_address() {
    let (here, there) = hosts();
    for any in ["0.0.0.0", "::"] {
        here.run(|| {
            let server = Home::open().address(any).start();
            for asked in OWN.iter().filter(|own| any == "::" || !own.contains(':')) {
                let socket = connected(&there, asked, server.port());
                for op in ["ping", "nothing", "check", "info", "report"] {
                    socket.send(request(op, 3000).as_bytes()).unwrap();
                    assert_eq!(threads(&socket, 1, asked), [3000]);
                }
                // Many at once, which are answered in bursts.
                let expected: Vec<i64> = (2000..2100).collect();
                for thread in 2000..2100 {
                    let op = if thread % 2 == 0 { "ping" } else { "check" };
                    socket.send(request(op, thread).as_bytes()).unwrap();
                }
                assert_eq!(threads(&socket, 100, asked), expected);
            }
        });
    }
}

/// The client has a global address and no link-local one.
#[test]
fn link_local_address_answers_global_clients() {
    let (here, there) = hosts();
    here.run(|| {
        let server = Home::open().address("::").start();
        let socket = there.run(|| UdpSocket::bind("[fd99::9]:0").unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let outer = there.run(|| if_nametoindex("outer").unwrap());
        let asked = format!("fe80::1%{outer}");
        socket.connect((asked.as_str(), server.port())).unwrap();
        socket.send(request("check", 3000).as_bytes()).unwrap();
        assert_eq!(threads(&socket, 1, &asked), [3000]);
    });
}

/// Requests of one socket to several addresses arrive in one batch.
#[test]
fn replies_from_several_addresses_to_one_client_are_not_mixed() {
    let (here, there) = hosts();
    here.run(|| {
        let server = Home::open().address("0.0.0.0").start();
        let socket = there.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let asked = |thread: u32| OWN[thread as usize % 3];
        for thread in 2000..2090 {
            socket.send_to(request("check", thread).as_bytes(), (asked(thread), server.port())).unwrap();
        }
        let mut buffer = [0; 2000];
        for _ in 2000..2090 {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            let thread = Reply(buffer[..length].to_vec()).number("Thread");
            assert_eq!(from.ip().to_string(), asked(u32::try_from(thread).unwrap()));
        }
    });
}

#[test]
fn broadcast_and_multicast_requests_are_answered_from_a_host_address() {
    let (here, there) = hosts();
    // Multicast needs a route.
    there.ip("route add 224.0.0.0/4 dev outer");
    let outer = there.run(|| if_nametoindex("outer").unwrap());
    let all_nodes = format!("ff02::1%{outer}");
    // With this setting the kernel accepts any source address.
    here.run(|| std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1")).unwrap();
    here.run(|| std::fs::write("/proc/sys/net/ipv4/ip_nonlocal_bind", "1")).unwrap();
    for (any, asked) in [
        ("0.0.0.0", "10.99.255.255"),
        ("0.0.0.0", "224.0.0.1"),
        ("::", "10.99.255.255"),
        ("::", all_nodes.as_str()),
    ] {
        here.run(|| {
            let server = Home::open().address(any).start();
            let socket = there.run(|| {
                let is_v6 = asked.contains(':');
                let socket = UdpSocket::bind(if is_v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
                socket.set_broadcast(true).unwrap();
                socket
            });
            socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
            for thread in 2000..2010 {
                socket.send_to(request("check", thread).as_bytes(), (asked, server.port())).unwrap();
            }
            let expected: Vec<i64> = (2000..2010).collect();
            assert_eq!(threads(&socket, 10, asked), expected, "{any} {asked}");
        });
    }
}

/// Spare sockets do not bind the port on other addresses.
#[test]
fn servers_on_different_addresses_of_one_host_share_a_port() {
    let (here, there) = hosts();
    let addresses = ["fd99::1", "0.0.0.0", "fd99::2", "::1"];
    for order in [[0, 1, 2, 3], [1, 3, 2, 0]] {
        let sites: Vec<Home> = order.iter().map(|_| Home::open()).collect();
        let port = sites[0].port().to_string();
        let mut servers = Vec::new();
        for (which, home) in order.iter().zip(&sites) {
            let mut command = home.command();
            command.args(["-a", addresses[*which], "-p", &port]);
            servers.push(Server::start(home, here.inside(&command)));
            eventually("service", || home.log().contains("Listening on").then_some(()));
            assert!(!home.log().contains("spare"), "{}", home.log());
        }
        for asked in ["fd99::1", "10.99.0.1", "fd99::2"] {
            let socket = connected(&there, asked, sites[0].port());
            socket.send(request("ping", 3000).as_bytes()).unwrap();
            assert_eq!(threads(&socket, 1, asked), [3000]);
        }
    }
}

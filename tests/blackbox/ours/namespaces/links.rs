//! Network namespaces and links, on which the other tests rely.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use nix::net::if_::if_nametoindex;

use crate::harness::{End, Home, Namespace, Server, eventually};

#[test]
fn server_answers_over_its_link_only() {
    let (here, there, apart) = (Namespace::new(), Namespace::new(), Namespace::new());
    Namespace::join(
        &End {
            namespace: &here,
            interface: "inner",
            addresses: &["10.99.0.1/16", "fd99::1/64", "fe80::1/64"],
        },
        &End {
            namespace: &there,
            interface: "outer",
            addresses: &["10.99.0.2/16", "fd99::2/64", "fe80::2/64"],
        },
    );
    let outer = there.run(|| if_nametoindex("outer").unwrap());
    for (address, asked) in [
        ("10.99.0.1", "10.99.0.1"),
        ("fd99::1", "fd99::1"),
        ("fe80::1%inner", format!("fe80::1%{outer}").as_str()),
    ] {
        let home = Home::open();
        let mut command = home.command();
        // The last address takes effect.
        command.args(["-a", address]);
        let mut server = Server::start(&home, here.inside(&command));
        there.run(|| {
            let socket = connected(asked, home.port()).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut reply = [0; 8192];
            eventually("a reply", || {
                assert!(server.is_running(), "the server has ended");
                socket.send(b"Op: ping\nPV: 2.1\nThread: 1024\n\n").ok()?;
                socket.recv(&mut reply).ok()
            });
        });
        let unreachable = apart.run(|| connected(asked, home.port()).is_err());
        assert!(unreachable, "{asked} is reachable from a namespace without a link");
    }
}

fn connected(address: &str, port: u16) -> io::Result<UdpSocket> {
    let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect((address, port))?;
    Ok(socket)
}

#[test]
fn namespace_disappears_with_its_last_process() {
    let namespace = Namespace::new();
    let other = Namespace::new();
    Namespace::join(
        &End { namespace: &namespace, interface: "one", addresses: &[] },
        &End { namespace: &other, interface: "two", addresses: &[] },
    );
    assert!(other.ip("link").contains("two"));
    drop(namespace);
    // The kernel removes the other end of a link with the namespace.
    eventually("the end of a link", || (!other.ip("link").contains("two")).then_some(()));
}

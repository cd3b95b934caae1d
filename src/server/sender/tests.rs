use std::time::Duration;

use super::super::socket::bind;
use super::*;

/// A sender listening on this address, and its socket.
fn server(address: &str) -> (ReplySender, UdpSocket) {
    let listener = bind(address, 0, 1 << 20, false).unwrap();
    assert!(listener.warnings.is_empty(), "{:?}", listener.warnings);
    ReplySender::new(listener)
}

fn client(server: &UdpSocket) -> (UdpSocket, ReplyTo) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", server.local_addr().unwrap().port())).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let peer = client.local_addr().unwrap();
    (client, ReplyTo { peer, source: None })
}

fn received(client: &UdpSocket) -> Vec<String> {
    let mut buffer = [0; 3000];
    let mut received = Vec::new();
    while let Ok(length) = client.recv(&mut buffer) {
        received.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    received
}

fn from(address: std::net::IpAddr) -> SourceAddress {
    SourceAddress { address, interface: 0 }
}

/// The replies that could not be sent: how many to which peer, and why.
type Unsent = Vec<(SocketAddr, usize, Errno)>;

fn flush(sender: &mut ReplySender, socket: &UdpSocket, outbox: &mut ReplyOutbox) -> Unsent {
    let mut unsent = Vec::new();
    sender.flush(socket, outbox, |peer, count, error| unsent.push((peer, count, error)));
    unsent
}

/// Sends replies of all lengths to several peers, two of which have equal ports.
#[test]
fn every_reply_reaches_its_peer_unchanged() {
    let (mut sender, server) = server("127.0.0.1");
    let clients: Vec<_> = (0..3).map(|_| client(&server)).collect();
    let same_port = UdpSocket::bind(("127.0.0.2", clients[0].1.peer.port())).unwrap();
    same_port.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let peer = ReplyTo { peer: same_port.local_addr().unwrap(), source: None };
    let peers: Vec<ReplyTo> = clients.iter().map(|(_, peer)| *peer).chain([peer]).collect();
    let sockets: Vec<&UdpSocket> = clients.iter().map(|(client, _)| client).chain([&same_port]).collect();
    for has_bursts in [true, false] {
        sender.has_bursts = has_bursts;
        for round in 0..10 {
            let mut outbox = ReplyOutbox::default();
            let mut expected = vec![Vec::new(); peers.len()];
            for number in 0..200_usize {
                let which = (number * 7 + round) % 11 % peers.len();
                let length = [50, 51, 51, 60, 1200, 1201, 2000, 5][(number / 3 + round) % 8];
                let text = format!("{number:>length$}");
                outbox.push(peers[which], |out| out.extend_from_slice(text.as_bytes()));
                expected[which].push(text);
            }
            assert_eq!(flush(&mut sender, &server, &mut outbox), []);
            for (socket, mut expected) in sockets.iter().zip(expected) {
                let mut received = received(socket);
                received.sort();
                expected.sort();
                assert_eq!(received, expected);
            }
        }
    }
}

#[test]
fn only_replies_to_one_peer_from_one_address_share_a_burst() {
    let bursts = |replies: &[(u16, u8, usize)]| {
        let mut outbox = ReplyOutbox::default();
        for (port, source, length) in replies {
            let peer = SocketAddr::from(([127, 0, 0, 1], *port));
            let source = (*source > 0).then(|| from([127, 0, 0, *source].into()));
            outbox.push(ReplyTo { peer, source }, |out| out.resize(out.len() + length, b'x'));
        }
        outbox.sort();
        let mut rest = outbox.order.as_slice();
        let mut bursts = Vec::new();
        while !rest.is_empty() {
            let (burst, behind) = rest.split_at(outbox.burst(rest));
            bursts.push(burst.iter().map(|place| place & 0xffff_ffff).collect::<Vec<_>>());
            rest = behind;
        }
        bursts
    };
    let lengths = |replies: &[_]| bursts(replies).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(bursts(&[(1, 0, 50), (2, 0, 50), (1, 0, 50), (2, 0, 50)]), [[0, 2], [1, 3]]);
    let mixed = [(1, 0, 50), (1, 0, 60), (1, 0, 50), (1, 0, 40), (1, 0, 50)];
    assert_eq!(bursts(&mixed), [vec![1, 0], vec![2, 4, 3]]);
    assert_eq!(bursts(&[(1, 0, 1201), (1, 0, 1201), (1, 0, 50)]), [[0], [1], [2]]);
    assert_eq!(bursts(&[(1, 1, 50), (1, 1, 50), (1, 2, 50), (1, 0, 50)]), [vec![0, 1], vec![2], vec![3]]);
    assert_eq!(lengths(&[(1, 0, 50); 130]), [64, 64, 2]);
    assert_eq!(lengths(&[(1, 0, 1200); 64]), [54, 10]);
}

#[test]
fn burst_of_the_longest_replies_is_sent() {
    let (mut sender, server) = server("127.0.0.1");
    let (client, peer) = client(&server);
    let mut outbox = ReplyOutbox::default();
    for _ in 0..64 {
        outbox.push(peer, |out| out.resize(out.len() + LONGEST_IN_BURST, b'x'));
    }
    assert_eq!(flush(&mut sender, &server, &mut outbox), []);
    assert_eq!(received(&client), vec!["x".repeat(LONGEST_IN_BURST); 64]);
}

#[test]
fn refused_burst_is_sent_one_by_one_and_does_not_affect_others() {
    let (mut sender, server) = server("127.0.0.1");
    let (client, good) = client(&server);
    let bad = ReplyTo { peer: SocketAddr::from(([127, 0, 0, 1], 0)), source: None };
    let mut outbox = ReplyOutbox::default();
    for (peer, text) in [(bad, "a"), (good, "b"), (bad, "c"), (bad, "d"), (good, "e"), (bad, "f")] {
        outbox.push(peer, |out| out.extend_from_slice(text.as_bytes()));
    }
    assert_eq!(flush(&mut sender, &server, &mut outbox), [(bad.peer, 1, Errno::EINVAL); 4]);
    assert!(outbox.replies.is_empty() && outbox.order.is_empty());
    assert_eq!(received(&client), ["b", "e"]);
}

#[test]
fn replies_leave_from_the_requested_address_unless_the_system_refuses_it() {
    for any in ["0.0.0.0", "::"] {
        let (mut sender, server) = server(any);
        let port = server.local_addr().unwrap().port();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mapped = |ip: std::net::Ipv4Addr| match any {
            "::" => ip.to_ipv6_mapped().into(),
            _ => std::net::IpAddr::from(ip),
        };
        let peer = SocketAddr::new(mapped([127, 0, 0, 1].into()), client.local_addr().unwrap().port());
        let sources = [[127, 0, 0, 2], [127, 0, 0, 3], [192, 0, 2, 1], [255, 255, 255, 255]];
        let mut outbox = ReplyOutbox::default();
        for source in sources.iter().flat_map(|source| [source; 2]) {
            let source = Some(from(mapped((*source).into())));
            outbox.push(ReplyTo { peer, source }, |out| out.extend_from_slice(b"x"));
        }
        assert_eq!(flush(&mut sender, &server, &mut outbox), []);
        let mut buffer = [0; 10];
        let mut froms: Vec<_> = (0..8).map(|_| client.recv_from(&mut buffer).unwrap().1).collect();
        froms.sort();
        let expected = [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]];
        let expected = [0, 0, 0, 0, 1, 1, 2, 2].map(|which| SocketAddr::from((expected[which], port)));
        assert_eq!(froms, expected);
    }
}

#[test]
fn spare_sockets_send_from_the_listening_port_and_the_requested_address() {
    for (any, own) in [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::", "::1")] {
        let (mut sender, server) = server(any);
        let own: std::net::IpAddr = own.parse().unwrap();
        let client = UdpSocket::bind((own, 0)).unwrap();
        client.connect((own, server.local_addr().unwrap().port())).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mapped = |ip| match (any, ip) {
            ("::", std::net::IpAddr::V4(ip)) => ip.to_ipv6_mapped().into(),
            _ => ip,
        };
        let peer = SocketAddr::new(mapped(own), client.local_addr().unwrap().port());
        let datagrams = [IoSlice::new(b"one"), IoSlice::new(b"two")];
        let to = ReplyTo { peer, source: Some(from(mapped(own))) };
        for _ in 0..sender.spares.len() {
            assert_eq!(sender.send_by_spare(OutgoingDatagrams { to, datagrams: &datagrams }), Ok(()));
            let spare = sender.spares.remove(0);
            sender.spares.push(spare);
        }
        // A connected client receives only datagrams from the address it is connected to.
        let mut buffer = [0; 10];
        for _ in 0..sender.spares.len() {
            for text in [b"one", b"two"] {
                let length = client.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], text);
            }
        }
        let unknown = OutgoingDatagrams { to: ReplyTo { peer, source: None }, datagrams: &datagrams };
        assert_eq!(sender.send_by_spare(unknown), Err(Errno::EAGAIN));
    }
}

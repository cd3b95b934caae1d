use std::net::UdpSocket;
use std::os::fd::BorrowedFd;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::SocketAddrUnix;
use tokio::net::UnixDatagram;

use super::super::socket::bind;
use super::*;

const LONG_PATIENCE: Duration = Duration::from_secs(10);

fn server() -> AsyncUdpSocket {
    AsyncUdpSocket::from_std(bind("127.0.0.1", 0).unwrap()).unwrap()
}

fn client(server: &AsyncUdpSocket) -> (UdpSocket, SocketAddr) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let address = client.local_addr().unwrap();
    (client, address)
}

fn received(client: &UdpSocket) -> Vec<String> {
    let mut buffer = [0; 3000];
    let mut received = Vec::new();
    while let Ok(length) = client.recv(&mut buffer) {
        received.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    received
}

/// Replies of all lengths to several peers, some of which share a port.
#[tokio::test]
async fn every_reply_reaches_its_peer_as_it_is() {
    let server = server();
    let clients: Vec<_> = (0..3).map(|_| client(&server)).collect();
    let (_, shared) = &clients[0];
    let neighbour = UdpSocket::bind(("127.0.0.2", shared.port())).unwrap();
    neighbour.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let peers: Vec<SocketAddr> =
        clients.iter().map(|(_, address)| *address).chain([neighbour.local_addr().unwrap()]).collect();
    let sockets: Vec<&UdpSocket> = clients.iter().map(|(client, _)| client).chain([&neighbour]).collect();
    let mut sender = Sender::default();
    for round in 0..20 {
        let mut outbox = Outbox::default();
        let mut expected = vec![Vec::new(); peers.len()];
        for number in 0..200_usize {
            let which = (number * 7 + round) % 11 % peers.len();
            let length = [50, 51, 51, 60, 1200, 1201, 2000, 5][(number / 3 + round) % 8];
            let text = format!("{number:>length$}");
            outbox.push(peers[which], |out| out.extend_from_slice(text.as_bytes()));
            expected[which].push(text);
        }
        assert!(sender.flush(&server, &mut outbox).await.is_empty());
        assert!(sender.single_until.is_none(), "a burst was refused");
        for (socket, mut expected) in sockets.iter().zip(expected) {
            let mut received = received(socket);
            received.sort();
            expected.sort();
            assert_eq!(received, expected);
        }
    }
}

#[test]
fn replies_to_one_peer_are_sent_as_one_burst_and_others_are_not() {
    let peer = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let bursts = |replies: &[(u16, usize)]| {
        let mut outbox = Outbox::default();
        for (port, length) in replies {
            outbox.push(peer(*port), |out| out.resize(out.len() + length, b'x'));
        }
        let order = outbox.by_peer();
        let mut rest = order.as_slice();
        let mut bursts = Vec::new();
        while !rest.is_empty() {
            let (burst, behind) = rest.split_at(outbox.burst(rest));
            bursts.push(burst.to_vec());
            rest = behind;
        }
        bursts
    };
    assert_eq!(bursts(&[(1, 50), (2, 50), (1, 50), (2, 50)]), [[0, 2], [1, 3]]);
    assert_eq!(bursts(&[(1, 50), (1, 60), (1, 50), (1, 40), (1, 50)]), [vec![1, 0], vec![2, 4, 3]]);
    assert_eq!(bursts(&[(1, 1201), (1, 1201), (1, 50)]), [[0], [1], [2]]);
    assert_eq!(bursts(&[(1, 50); 130]).iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 2]);
}

#[tokio::test]
async fn a_burst_that_is_refused_is_sent_one_by_one_and_no_other_is_tried_for_a_while() {
    let server = server();
    let (client, good) = client(&server);
    let bad = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut outbox = Outbox::default();
    for peer in [bad, good, bad, good] {
        outbox.push(peer, |out| out.extend_from_slice(b"x"));
    }
    let mut sender = Sender::default();
    assert_eq!(sender.flush(&server, &mut outbox).await, [(bad, Errno::EINVAL); 2]);
    assert!(sender.single_until.is_some_and(|until| until > Instant::now()));
    assert_eq!(received(&client), ["x", "x"]);
}

#[tokio::test]
async fn a_reply_that_cannot_be_sent_does_not_hide_those_behind_it() {
    let server = server();
    let (client, good) = client(&server);
    let bad = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut outbox = Outbox::default();
    for (peer, text) in [(bad, "a"), (good, "b"), (bad, "c"), (bad, "d"), (good, "e"), (bad, "f")] {
        outbox.push(peer, |out| out.extend_from_slice(text.as_bytes()));
    }
    let unsent = Sender::default().flush(&server, &mut outbox).await;
    assert_eq!(unsent, [(bad, Errno::EINVAL); 4]);
    assert!(outbox.is_empty());
    client.set_nonblocking(true).unwrap();
    let mut buffer = [0; 10];
    let mut received = Vec::new();
    while let Ok(length) = client.recv(&mut buffer) {
        received.push(buffer[..length].to_vec());
    }
    assert_eq!(received, [b"b", b"e"]);
}

/// A socket whose buffer stays full until the other end reads, unlike that of UDP on loopback.
struct Local(UnixDatagram);

impl AsFd for Local {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Writable for Local {
    async fn writable(&self) -> io::Result<()> {
        self.0.writable().await
    }

    fn try_write<R>(&self, write: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.0.try_io(Interest::WRITABLE, write)
    }
}

#[tokio::test]
async fn a_full_send_buffer_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let reader = UnixDatagram::bind(&path).unwrap();
    let address = SocketAddrAny::from(SocketAddrUnix::new(&path).unwrap());
    let writer = UnixDatagram::unbound().unwrap();
    setsockopt(&writer, sockopt::SndBuf, &4096).unwrap();
    let texts: Vec<String> = (0..500).map(|number| format!("{number:>500}")).collect();
    let messages: Vec<(&[u8], SocketAddrAny)> =
        texts.iter().map(|text| (text.as_bytes(), address.clone())).collect();
    let sender = Sender::default();
    let local = Local(writer);
    let read = async {
        let mut received = Vec::new();
        let mut buffer = [0; 1000];
        while received.len() < texts.len() {
            // Let the writer run into the full buffer first.
            tokio::task::yield_now().await;
            let length =
                timeout(LONG_PATIENCE, reader.recv(&mut buffer)).await.expect("nothing comes").unwrap();
            received.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        received
    };
    let (unsent, received) = tokio::join!(sender.send_all(&local, &messages), read);
    assert!(unsent.is_empty(), "{} unsent", unsent.len());
    assert_eq!(received, texts);
}

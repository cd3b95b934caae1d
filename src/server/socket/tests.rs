use std::os::fd::{AsRawFd, RawFd};

use nix::sys::socket::UnixAddr;
use tokio::net::UnixDatagram;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn pair() -> (UdpSocket, UdpSocket) {
    let server = bind("127.0.0.1", 0).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(local_address(&server).unwrap()).unwrap();
    (server, client)
}

fn texts(inbox: &Inbox) -> Vec<String> {
    inbox.datagrams().map(|(datagram, _)| String::from_utf8(datagram.to_vec()).unwrap()).collect()
}

#[test]
fn a_batch_is_received_in_order_with_its_senders() {
    let (server, client) = pair();
    for text in ["one", "", "three"] {
        client.send(text.as_bytes()).unwrap();
    }
    let mut inbox = Inbox::default();
    inbox.receive(&server).unwrap();
    assert_eq!(texts(&inbox), ["one", "", "three"]);
    assert!(inbox.datagrams().all(|(_, peer)| peer == client.local_addr().unwrap()));
    assert_eq!(inbox.receive(&server), Err(Errno::EAGAIN));
    assert!(inbox.is_empty());
}

#[test]
fn a_datagram_is_cut_at_the_limit() {
    let (server, client) = pair();
    client.send(&vec![b'x'; MAX_DATAGRAM + 1000]).unwrap();
    let mut inbox = Inbox::default();
    inbox.receive(&server).unwrap();
    assert_eq!(inbox.datagrams().map(|(datagram, _)| datagram.len()).collect::<Vec<_>>(), [MAX_DATAGRAM]);
}

/// Headers that are used again come back without room for the kernel's count.
#[test]
fn drops_are_still_counted_after_many_batches() {
    let (server, client) = pair();
    setsockopt(&server, sockopt::RcvBuf, &4096).unwrap();
    let mut inbox = Inbox::default();
    let mut counts = Vec::new();
    for _ in 0..3 {
        for _ in 0..50 {
            client.send(&[b'x'; 1000]).unwrap();
        }
        // The kernel says with a datagram how many were dropped before that one.
        while inbox.receive(&server).is_ok() {}
        client.send(b"after the drops").unwrap();
        inbox.next_look = Some(Instant::now());
        inbox.receive(&server).unwrap();
        counts.push(inbox.kernel_drops());
        while inbox.receive(&server).is_ok() {}
    }
    assert!(counts[0] > 0 && counts[1] > counts[0] && counts[2] > counts[1], "{counts:?}");
}

#[tokio::test]
async fn a_reply_that_cannot_be_sent_does_not_hide_those_behind_it() {
    let (server, client) = pair();
    let server = AsyncUdpSocket::from_std(server).unwrap();
    let good = client.local_addr().unwrap();
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

impl AsRawFd for Local {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
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
    let address = UnixAddr::new(&path).unwrap();
    let writer = UnixDatagram::unbound().unwrap();
    setsockopt(&writer, sockopt::SndBuf, &4096).unwrap();
    let texts: Vec<String> = (0..500).map(|number| format!("{number:>500}")).collect();
    let messages: Vec<(&[u8], UnixAddr)> = texts.iter().map(|text| (text.as_bytes(), address)).collect();
    let mut sender = Sender::default();
    let local = Local(writer);
    let read = async {
        let mut received = Vec::new();
        let mut buffer = [0; 1000];
        while received.len() < texts.len() {
            // Let the writer run into the full buffer first.
            tokio::task::yield_now().await;
            let length = timeout(PATIENCE, reader.recv(&mut buffer)).await.expect("nothing comes").unwrap();
            received.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        received
    };
    let (unsent, received) = tokio::join!(sender.send_all(&local, &messages), read);
    assert!(unsent.is_empty(), "{} unsent", unsent.len());
    assert_eq!(received, texts);
}

#[test]
fn addresses_are_bound_as_the_settings_name_them() {
    let local = |address| local_address(&bind(address, 0).unwrap()).unwrap().ip().to_string();
    assert_eq!(local(""), "0.0.0.0");
    assert_eq!(local("localhost"), "127.0.0.1");
    assert_eq!(local("::1"), "::1");
    assert_eq!(local("[::1]"), "::1");
    assert_eq!(local("::"), "::");
}

#[test]
fn a_taken_port_and_an_unknown_host_are_told_in_one_line() {
    let first = bind("127.0.0.1", 0).unwrap();
    let address = local_address(&first).unwrap();
    let error = bind("127.0.0.1", address.port()).unwrap_err();
    assert!(matches!(error, BindError::InUse { address: taken } if taken == address), "{error}");
    let error = bind("no such host", 1).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot resolve the address no such host: ") && !error.contains('\n'),
        "{error}"
    );
    let error = bind("192.0.2.1", 1).unwrap_err().to_string();
    assert!(error.starts_with("cannot listen on 192.0.2.1:1: "), "{error}");
}

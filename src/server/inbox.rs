//! Batched reception of requests: many datagrams per system call.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use pyzor_udp::{DatagramReceiver, ReceivedDatagram, ReplyTo};
use pyzor_wire::MAX_DATAGRAM;

/// The datagrams received by one system call.
pub(crate) struct RequestInbox {
    receiver: DatagramReceiver,
    received: Vec<(usize, ReplyTo)>,
    drops: u32,
}

impl Default for RequestInbox {
    fn default() -> Self {
        Self { receiver: DatagramReceiver::new(MAX_DATAGRAM), received: Vec::new(), drops: 0 }
    }
}

impl RequestInbox {
    /// Receives up to one batch from the socket, which replaces the previous one.
    ///
    /// # Errors
    ///
    /// The error of the system call; `EAGAIN` if the socket is empty.
    pub(crate) fn receive(&mut self, socket: &impl AsRawFd) -> nix::Result<()> {
        self.received.clear();
        self.receiver.receive(socket, |ReceivedDatagram { length, reply_to, drops }| {
            self.received.push((length, reply_to.unwrap_or_else(no_peer)));
            self.drops = drops.unwrap_or(self.drops);
        })
    }

    /// The datagrams with their reply addresses, in the order of arrival.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = (&[u8], ReplyTo)> {
        let received = self.received.iter().zip(self.receiver.buffers());
        received.map(|((length, reply_to), buffer)| (&buffer[..*length], *reply_to))
    }

    /// The number of datagrams in the current batch.
    pub(crate) fn len(&self) -> usize {
        self.received.len()
    }

    /// The number of datagrams the kernel has dropped because the receive buffer was full, as of the last received
    /// datagram. Wraps around at 2^32.
    pub(crate) fn kernel_drops(&self) -> u32 {
        self.drops
    }
}

/// A peer with port 0, whose datagrams are ignored because nothing can be sent there.
fn no_peer() -> ReplyTo {
    ReplyTo { peer: SocketAddr::from(([0, 0, 0, 0], 0)), source: None }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use nix::errno::Errno;
    use nix::sys::socket::{setsockopt, sockopt};

    use super::super::socket::{Listener, bind};
    use super::*;

    fn pair() -> (Listener, UdpSocket) {
        let server = bind("127.0.0.1", 0, 100_000, false).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.address()).unwrap();
        (server, client)
    }

    fn texts(inbox: &RequestInbox) -> Vec<String> {
        inbox.datagrams().map(|(datagram, _)| String::from_utf8(datagram.to_vec()).unwrap()).collect()
    }

    #[test]
    fn batch_is_received_in_order_with_its_senders() {
        let (server, client) = pair();
        for text in ["one", "", "three"] {
            client.send(text.as_bytes()).unwrap();
        }
        let mut inbox = RequestInbox::default();
        inbox.receive(&server.socket).unwrap();
        assert_eq!(texts(&inbox), ["one", "", "three"]);
        assert!(inbox.datagrams().all(|(_, reply_to)| reply_to.peer == client.local_addr().unwrap()));
        assert_eq!(inbox.receive(&server.socket), Err(Errno::EAGAIN));
        assert_eq!(inbox.len(), 0);
    }

    #[test]
    fn oversized_datagram_is_truncated() {
        let (server, client) = pair();
        client.send(&vec![b'x'; MAX_DATAGRAM + 1000]).unwrap();
        let mut inbox = RequestInbox::default();
        inbox.receive(&server.socket).unwrap();
        let lengths: Vec<_> = inbox.datagrams().map(|(datagram, _)| datagram.len()).collect();
        assert_eq!(lengths, [MAX_DATAGRAM]);
    }

    #[test]
    fn wildcard_socket_reports_the_destination_address_of_every_datagram() {
        for (any, asked) in [("0.0.0.0", "127.0.0.2"), ("::", "::1"), ("::", "127.0.0.3")] {
            let server = bind(any, 0, 100_000, false).unwrap();
            let asked: std::net::IpAddr = asked.parse().unwrap();
            let client = UdpSocket::bind((asked, 0)).unwrap();
            client.connect((asked, server.address().port())).unwrap();
            let mut inbox = RequestInbox::default();
            // The buffers for control messages must be reset before each call.
            for _ in 0..3 {
                for _ in 0..70 {
                    client.send(b"x").unwrap();
                }
                let mut count = 0;
                while inbox.receive(&server.socket).is_ok() {
                    for (_, reply_to) in inbox.datagrams() {
                        assert_eq!(reply_to.source.map(|source| source.address.to_canonical()), Some(asked));
                        count += 1;
                    }
                }
                assert_eq!(count, 70);
            }
        }
    }

    #[test]
    fn kernel_drops_are_counted_after_many_batches() {
        let (server, client) = pair();
        setsockopt(&server.socket, sockopt::RcvBuf, &4096).unwrap();
        let mut inbox = RequestInbox::default();
        let mut counts = Vec::new();
        for _ in 0..3 {
            for _ in 0..50 {
                client.send(&[b'x'; 1000]).unwrap();
            }
            while inbox.receive(&server.socket).is_ok() {}
            // Each datagram carries the number of drops before it.
            client.send(b"after the drops").unwrap();
            inbox.receive(&server.socket).unwrap();
            counts.push(inbox.kernel_drops());
        }
        assert!(counts[0] > 0 && counts[1] > counts[0] && counts[2] > counts[1], "{counts:?}");
    }
}

//! Batched sending of replies: many per system call, never blocking.
//!
//! Replies to one peer are sent as a burst (`UDP_SEGMENT`): the network stack carries one large packet and splits it
//! into datagrams at the end, which halves the cost. A mail host under load, with many requests in flight, gets its
//! replies in bursts.
//!
//! A reply that does not fit the send buffer goes out by a spare socket, and is dropped if that is full, too. Waiting
//! for space would let any client stop the server: replies to addresses that do not exist occupy the buffer for
//! seconds.

use std::hash::{BuildHasher, RandomState};
use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::socket::Listener;
use pyzor_udp::{DatagramSender, OutgoingDatagrams, ReplyTo, SourceAddress};

/// The most replies in one burst: the limit of the oldest kernels with `UDP_SEGMENT`.
const BURST: usize = 64;
/// The longest reply in a burst, in bytes: fits the MTU of practically every path.
const LONGEST_IN_BURST: usize = 1200;
/// The longest burst, in bytes. A UDP packet over IPv4 holds 65,507.
const LONGEST_BURST: usize = 65_000;

/// Replies that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct ReplyOutbox {
    bytes: Vec<u8>,
    replies: Vec<(Range<usize>, ReplyTo)>,
    /// The sending order; filled by [`Self::sort`].
    order: Vec<SendPosition>,
}

/// The sort key of a reply, with its index in the lower 32 bits.
type SendPosition = u64;

impl ReplyOutbox {
    /// Adds the reply that `encode` appends to the buffer.
    pub(super) fn push(&mut self, to: ReplyTo, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        encode(&mut self.bytes);
        self.replies.push((start..self.bytes.len(), to));
    }

    /// The number of replies.
    pub(super) fn len(&self) -> usize {
        self.replies.len()
    }

    /// The replies with their receivers.
    pub(super) fn replies(&self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        self.replies.iter().map(|(range, to)| (&self.bytes[range.clone()], to.peer))
    }

    /// Sorts the replies by port and descending length. Ports stand for peers: peers with equal ports may be mixed,
    /// which only makes bursts shorter.
    fn sort(&mut self) {
        let key = |(range, to): &(Range<usize>, ReplyTo)| {
            u64::from(to.peer.port()) << 16 | u64::from(u16::MAX.saturating_sub(range.len() as u16))
        };
        self.order.extend(self.replies.iter().zip(0..).map(|(reply, index)| key(reply) << 32 | index));
        self.order.sort_unstable();
    }

    fn reply(&self, position: SendPosition) -> (&[u8], ReplyTo) {
        let (range, to) = &self.replies[(position & u64::from(u32::MAX)) as usize];
        (&self.bytes[range.clone()], *to)
    }

    /// The number of replies at the start of `order` that can be sent as one burst: same peer and source address, and
    /// equal lengths except for the last, which may be shorter.
    fn burst(&self, order: &[SendPosition]) -> usize {
        let mut replies = order.iter().map(|position| self.reply(*position));
        let Some((first, to)) = replies.next() else { return 0 };
        if first.is_empty() || first.len() > LONGEST_IN_BURST {
            return 1;
        }
        let most = BURST.min(LONGEST_BURST / first.len());
        let mut count = 1;
        for (reply, other) in replies.take(most - 1) {
            if other != to || reply.is_empty() {
                break;
            }
            count += 1;
            if reply.len() != first.len() {
                break;
            }
        }
        count
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.replies.clear();
        self.order.clear();
    }
}

/// Sends replies by the listening socket, and by spare sockets when its send buffer is full.
pub(super) struct ReplySender {
    spares: Vec<UdpSocket>,
    /// The source address for spare sockets if a reply names none.
    source: Option<SourceAddress>,
    has_bursts: bool,
    /// Random per process, so that an attacker cannot choose addresses that share a spare socket.
    random: RandomState,
    transmitter: DatagramSender,
}

impl ReplySender {
    /// Splits a listener into a sender with its spare sockets, and the listening socket.
    pub(super) fn new(listener: Listener) -> (Self, UdpSocket) {
        let sender = Self {
            source: listener.source,
            spares: listener.spares,
            has_bursts: listener.has_bursts,
            random: RandomState::new(),
            transmitter: DatagramSender::default(),
        };
        (sender, listener.socket)
    }

    /// Sends all replies that the system accepts at once, and empties the outbox. Calls `unsent` for the others with
    /// the peer, the number of replies, and the error: `EAGAIN` if the send buffers are full.
    pub(super) fn flush(
        &mut self,
        socket: &impl AsRawFd,
        outbox: &mut ReplyOutbox,
        mut unsent: impl FnMut(SocketAddr, usize, Errno),
    ) {
        if outbox.replies.is_empty() {
            return;
        }
        outbox.sort();
        let slices: Vec<IoSlice<'_>> =
            outbox.order.iter().map(|position| IoSlice::new(outbox.reply(*position).0)).collect();
        let mut messages = Vec::with_capacity(slices.len());
        let mut at = 0;
        while let Some(position) = outbox.order.get(at) {
            let count = if self.has_bursts { outbox.burst(&outbox.order[at..]) } else { 1 };
            messages.push(OutgoingDatagrams {
                to: outbox.reply(*position).1,
                datagrams: &slices[at..at + count],
            });
            at += count;
        }
        let mut rest = messages.as_slice();
        while let Some(first) = rest.first() {
            match self.transmitter.send(socket, rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::EINTR) => {}
                Err(error) => {
                    self.send_otherwise(socket, *first, error, &mut unsent);
                    rest = &rest[1..];
                }
            }
        }
        outbox.clear();
    }

    /// Sends a message that the listening socket has refused.
    fn send_otherwise(
        &mut self,
        socket: &impl AsRawFd,
        message: OutgoingDatagrams<'_>,
        error: Errno,
        unsent: &mut impl FnMut(SocketAddr, usize, Errno),
    ) {
        let error = match error {
            Errno::EAGAIN => match self.send_by_spare(message) {
                Ok(()) => return,
                Err(error) => error,
            },
            error => error,
        };
        match error {
            Errno::EAGAIN => unsent(message.to.peer, message.datagrams.len(), error),
            // The interface cannot send bursts, or the MTU of the path is too small for this one.
            _ if message.datagrams.len() > 1 => {
                for datagram in message.datagrams.chunks(1) {
                    self.send_alone(socket, OutgoingDatagrams { datagrams: datagram, ..message }, unsent);
                }
            }
            // The request was sent to a broadcast address, or to one that no longer exists: the kernel chooses another.
            Errno::EINVAL | Errno::EADDRNOTAVAIL | Errno::ENODEV | Errno::ENETUNREACH
                if message.to.source.is_some() =>
            {
                let to = ReplyTo { source: None, ..message.to };
                self.send_alone(socket, OutgoingDatagrams { to, ..message }, unsent);
            }
            error => unsent(message.to.peer, 1, error),
        }
    }

    fn send_alone(
        &mut self,
        socket: &impl AsRawFd,
        message: OutgoingDatagrams<'_>,
        unsent: &mut impl FnMut(SocketAddr, usize, Errno),
    ) {
        loop {
            match self.transmitter.send(socket, &[message]) {
                Ok(_) => return,
                Err(Errno::EINTR) => {}
                Err(error) => return self.send_otherwise(socket, message, error, unsent),
            }
        }
    }

    fn send_by_spare(&mut self, message: OutgoingDatagrams<'_>) -> nix::Result<()> {
        let source = message.to.source.or(self.source);
        let number = self.random.hash_one(message.to.peer.ip()) as usize;
        let Some(spare) = number.checked_rem(self.spares.len()).map(|number| &self.spares[number]) else {
            return Err(Errno::EAGAIN);
        };
        let to = ReplyTo { source: Some(source.ok_or(Errno::EAGAIN)?), ..message.to };
        loop {
            match self.transmitter.send(spare, &[OutgoingDatagrams { to, ..message }]) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests;

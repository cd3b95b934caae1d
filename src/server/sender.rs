//! Sending replies, many a system call.
//!
//! What goes to one peer at once is sent as a burst (`UDP_SEGMENT`): the network stack carries one
//! large packet and cuts it into datagrams at the end, which costs half as much. A peer that has
//! several requests under way, as a mail host under load has, gets its replies in bursts.

use std::cmp::Reverse;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket as AsyncUdpSocket;
use tokio::time::timeout;
use tracing::debug;

use super::socket::BATCH;

/// How long replies may wait for room in the socket's buffer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many replies are sent as one burst at most: what every kernel that can do it takes.
const BURST: usize = 64;
/// How long a reply of a burst may be: so many bytes are in one packet everywhere.
const LONGEST_IN_BURST: usize = 1200;
/// How long nothing is sent in bursts after the system has refused one: a route's interface may be
/// unable to, or the route to one peer too narrow.
const SINGLE: Duration = Duration::from_secs(1);

/// Replies that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    replies: Vec<(Range<usize>, SocketAddr)>,
}

impl Outbox {
    /// Adds the reply that `encode` appends to the buffer.
    pub(super) fn push(&mut self, peer: SocketAddr, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        encode(&mut self.bytes);
        self.replies.push((start..self.bytes.len(), peer));
    }

    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// The replies with their receivers.
    pub(super) fn replies(&self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        self.replies.iter().map(|(range, peer)| (&self.bytes[range.clone()], *peer))
    }

    fn reply(&self, index: usize) -> Option<(&[u8], SocketAddr)> {
        self.replies.get(index).map(|(range, peer)| (&self.bytes[range.clone()], *peer))
    }

    /// The places of all replies, those to one peer together and the longer ones first. Peers that only
    /// differ in their addresses may be mixed.
    fn by_peer(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.replies.len()).collect();
        // Most bring one reply a peer, which a stable sort of what is nearly in order makes cheap.
        order.sort_by_key(|index| {
            let (range, peer) = &self.replies[*index];
            (peer.port(), Reverse(range.len()))
        });
        order
    }

    /// How many of these replies can be sent as one burst: to one peer and of one length, but for the
    /// last, which may be shorter.
    fn burst(&self, order: &[usize]) -> usize {
        let mut replies = order.iter().map(|index| &self.replies[*index]);
        let Some((first, peer)) = replies.next() else { return 0 };
        if first.len() > LONGEST_IN_BURST {
            return 1;
        }
        let same = replies
            .clone()
            .take(BURST - 1)
            .take_while(|(range, other)| range.len() == first.len() && other == peer)
            .count();
        let has_shorter = same + 1 < BURST
            && replies.nth(same).is_some_and(|(range, other)| other == peer && !range.is_empty());
        1 + same + usize::from(has_shorter)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.replies.clear();
    }
}

/// A datagram socket whose writability can be waited for; besides the UDP socket, one that a test
/// can fill.
pub(crate) trait Writable: AsFd {
    /// Waits until there seems to be room.
    fn writable(&self) -> impl Future<Output = io::Result<()>>;
    /// Tries to write, and remembers it if there is no room.
    fn try_write<R>(&self, write: impl FnOnce() -> io::Result<R>) -> io::Result<R>;
}

impl Writable for AsyncUdpSocket {
    fn writable(&self) -> impl Future<Output = io::Result<()>> {
        Self::writable(self)
    }

    fn try_write<R>(&self, write: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.try_io(Interest::WRITABLE, write)
    }
}

/// Sends datagrams, many a system call.
#[derive(Default)]
pub(super) struct Sender {
    /// Until when nothing is sent in bursts, after the system has refused one.
    single_until: Option<Instant>,
}

/// A reply that could not be sent.
#[derive(Debug)]
pub(super) struct Unsent {
    /// Its place among the replies.
    pub(super) index: usize,
    /// Why.
    pub(super) error: Errno,
}

impl Sender {
    /// Sends every message, in order. One that the system refuses is passed over, so that it does
    /// not take those behind it along; a full buffer is waited for.
    pub(crate) async fn send_all(
        &self,
        socket: &impl Writable,
        messages: &[(&[u8], SocketAddrAny)],
    ) -> Vec<Unsent> {
        let mut unsent = Vec::new();
        let mut next = 0;
        while next < messages.len() {
            let attempt = socket.try_write(|| Ok(send_some(socket, &messages[next..])?));
            match attempt {
                Ok(sent) => next += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !matches!(timeout(PATIENCE, socket.writable()).await, Ok(Ok(()))) {
                        unsent.extend(
                            (next..messages.len()).map(|index| Unsent { index, error: Errno::EAGAIN }),
                        );
                        break;
                    }
                }
                Err(error) => {
                    let error = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
                    unsent.push(Unsent { index: next, error });
                    next += 1;
                }
            }
        }
        unsent
    }

    /// Sends all replies and empties the outbox.
    pub(super) async fn flush(
        &mut self,
        socket: &AsyncUdpSocket,
        outbox: &mut Outbox,
    ) -> Vec<(SocketAddr, Errno)> {
        if outbox.is_empty() {
            return Vec::new();
        }
        let left = self.send_bursts(socket, outbox).await;
        let messages: Vec<_> = left
            .iter()
            .filter_map(|index| outbox.reply(*index))
            .map(|(bytes, peer)| (bytes, SocketAddrAny::from(peer)))
            .collect();
        let unsent = self.send_all(socket, &messages).await;
        let unsent =
            unsent.into_iter().map(|unsent| (outbox.replies[left[unsent.index]].1, unsent.error)).collect();
        outbox.clear();
        unsent
    }

    /// Sends what goes to one peer together. Says which replies are left, by their places.
    async fn send_bursts(&mut self, socket: &AsyncUdpSocket, outbox: &Outbox) -> Vec<usize> {
        let now = Instant::now();
        if self.single_until.is_some_and(|until| now < until) {
            return (0..outbox.replies.len()).collect();
        }
        self.single_until = None;
        let mut left = Vec::with_capacity(outbox.replies.len());
        let order = outbox.by_peer();
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let (burst, behind) = rest.split_at(outbox.burst(rest));
            rest = behind;
            if burst.len() > 1 && self.single_until.is_none() {
                match send_burst(socket, outbox, burst).await {
                    Ok(()) => continue,
                    Err(error) => {
                        debug!("{} replies could not be sent at once: {error}", burst.len());
                        self.single_until = Some(now + SINGLE);
                    }
                }
            }
            left.extend_from_slice(burst);
        }
        // Those who came first are answered first.
        left.sort_unstable();
        left
    }
}

/// One system call's worth of messages. How many were sent; an error is that of the first.
///
/// Not with nix: its results of `sendmmsg` look at addresses that only `recvmmsg` fills, even to be counted.
fn send_some(socket: &impl AsFd, messages: &[(&[u8], SocketAddrAny)]) -> rustix::io::Result<usize> {
    let batch = &messages[..messages.len().min(BATCH)];
    let slices: Vec<[IoSlice<'_>; 1]> = batch.iter().map(|(bytes, _)| [IoSlice::new(bytes)]).collect();
    let mut nothing: Vec<_> = batch.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let parts = batch.iter().zip(&slices).zip(&mut nothing);
    let mut headers: Vec<_> =
        parts.map(|(((_, peer), slice), nothing)| MMsgHdr::new_with_addr(peer, slice, nothing)).collect();
    sendmmsg(socket, &mut headers, SendFlags::DONTWAIT)
}

async fn send_burst(socket: &AsyncUdpSocket, outbox: &Outbox, burst: &[usize]) -> io::Result<()> {
    let replies = || burst.iter().filter_map(|index| outbox.reply(*index));
    let slices: Vec<IoSlice<'_>> = replies().map(|(bytes, _)| IoSlice::new(bytes)).collect();
    let Some((first, peer)) = replies().next() else { return Ok(()) };
    let size = u16::try_from(first.len()).map_err(io::Error::other)?;
    let peer = SockaddrStorage::from(peer);
    let segments = [ControlMessage::UdpGsoSegments(&size)];
    loop {
        let attempt = socket.try_write(|| {
            Ok(sendmsg(socket.as_raw_fd(), &slices, &segments, MsgFlags::MSG_DONTWAIT, Some(&peer))?)
        });
        match attempt {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                timeout(PATIENCE, socket.writable()).await.map_err(io::Error::from)??;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;

//! The generator's sockets, with many requests or replies per system call.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, recvmmsg, sendmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use pyzor_udp::{DATAGRAMS_PER_CALL, DatagramSender, OutgoingDatagrams, ReplyTo};

/// The most bytes of all segments of one call.
const MOST_SEGMENT_BYTES: usize = 65_000;
/// The size of a receive buffer, more than any reply about one digest needs.
const REPLY_BYTES: usize = 1024;
/// The requested size of a socket's receive buffer in bytes; the system may grant less.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Sockets connected to one server.
pub(super) struct Sockets {
    sockets: Vec<UdpSocket>,
    /// Whether the system can split one large datagram into requests (UDP GSO).
    segments: bool,
    server: ReplyTo,
    transmitter: DatagramSender,
    replies: ReplyBuffers,
}

struct ReplyBuffers {
    buffers: Box<[u8]>,
    headers: MultiHeaders<()>,
}

impl Sockets {
    /// Opens `count` sockets to this server.
    ///
    /// # Errors
    ///
    /// Fails if a socket cannot be opened or connected.
    pub(super) fn open(server: SocketAddr, count: usize) -> io::Result<Self> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let open = || {
            let socket = UdpSocket::bind(any)?;
            socket.connect(server)?;
            socket.set_nonblocking(true)?;
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
            Ok(socket)
        };
        Ok(Self {
            sockets: (0..count).map(|_| open()).collect::<io::Result<_>>()?,
            segments: true,
            server: ReplyTo { peer: server, source: None },
            transmitter: DatagramSender::default(),
            replies: ReplyBuffers {
                buffers: vec![0; DATAGRAMS_PER_CALL * REPLY_BYTES].into_boxed_slice(),
                headers: MultiHeaders::preallocate(DATAGRAMS_PER_CALL, None),
            },
        })
    }

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Sends consecutive requests of this length. Returns how many were sent, and the error of the next one.
    pub(super) fn send(&mut self, which: usize, bytes: &[u8], length: usize) -> (usize, Result<(), Errno>) {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent * length..).filter(|rest| !rest.is_empty()) {
            match self.send_some(which, rest, length) {
                Ok(count) => sent += count,
                Err(Errno::EINTR) => {}
                Err(error) => return (sent, Err(error)),
            }
        }
        (sent, Ok(()))
    }

    fn send_some(&mut self, which: usize, bytes: &[u8], length: usize) -> nix::Result<usize> {
        let socket = self.sockets[which].as_raw_fd();
        let count = (bytes.len() / length).min(DATAGRAMS_PER_CALL);
        let fitting = count.min(MOST_SEGMENT_BYTES / length);
        if let (true, 2.., Ok(segment)) = (self.segments, fitting, u16::try_from(length)) {
            let slices = [IoSlice::new(&bytes[..fitting * length])];
            let control = [ControlMessage::UdpGsoSegments(&segment)];
            match sendmsg::<()>(socket, &slices, &control, MsgFlags::MSG_DONTWAIT, None) {
                Ok(_) => return Ok(fitting),
                // The kernel or the network card does not support segments.
                Err(
                    Errno::EINVAL | Errno::EIO | Errno::EMSGSIZE | Errno::ENOPROTOOPT | Errno::EOPNOTSUPP,
                ) => self.segments = false,
                Err(error) => return Err(error),
            }
        }
        let mut requests = bytes.chunks_exact(length);
        let slices: [[IoSlice<'_>; 1]; DATAGRAMS_PER_CALL] =
            std::array::from_fn(|_| [IoSlice::new(requests.next().unwrap_or_default())]);
        let messages: [OutgoingDatagrams<'_>; DATAGRAMS_PER_CALL] =
            std::array::from_fn(|at| OutgoingDatagrams { to: self.server, datagrams: &slices[at] });
        self.transmitter.send(&self.sockets[which], &messages[..count])
    }

    /// Takes up to a batch of replies from this socket. Returns whether there may be more.
    ///
    /// # Errors
    ///
    /// Fails with `EAGAIN` if there is no reply, and with other errors of the system.
    pub(super) fn receive(&mut self, which: usize, mut each: impl FnMut(&[u8])) -> nix::Result<bool> {
        let ReplyBuffers { buffers, headers } = &mut self.replies;
        let mut chunks = buffers.chunks_exact_mut(REPLY_BYTES);
        let mut slices: [[IoSliceMut<'_>; 1]; DATAGRAMS_PER_CALL] =
            std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
        let mut lengths = [0; DATAGRAMS_PER_CALL];
        let mut count = 0;
        let socket = self.sockets[which].as_raw_fd();
        let received = recvmmsg(socket, headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        for (length, message) in lengths.iter_mut().zip(received) {
            *length = message.bytes.min(REPLY_BYTES);
            count += 1;
        }
        for (buffer, length) in self.replies.buffers.chunks_exact(REPLY_BYTES).zip(&lengths[..count]) {
            each(&buffer[..*length]);
        }
        Ok(count == DATAGRAMS_PER_CALL)
    }

    /// Waits for replies for at most this many nanoseconds. Sets `ready` to the sockets that have some.
    ///
    /// # Errors
    ///
    /// Fails if the system cannot poll the sockets.
    pub(super) fn wait(&self, nanoseconds: u64, ready: &mut Vec<usize>) -> nix::Result<()> {
        ready.clear();
        let mut polled: Vec<PollFd<'_>> =
            self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        match ppoll(&mut polled, Some(timespec(nanoseconds)), None) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(()),
            Err(error) => return Err(error),
        }
        let any = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        ready.extend(polled.iter().enumerate().filter(|(_, fd)| any(fd)).map(|(at, _)| at));
        Ok(())
    }

    /// Waits for room in a socket's send buffer for at most this many nanoseconds. Returns whether to try again.
    pub(super) fn wait_for_room(&self, which: usize, nanoseconds: u64) -> bool {
        let mut polled = [PollFd::new(self.sockets[which].as_fd(), PollFlags::POLLOUT)];
        matches!(ppoll(&mut polled, Some(timespec(nanoseconds)), None), Ok(1..) | Err(Errno::EINTR))
    }
}

fn timespec(nanoseconds: u64) -> TimeSpec {
    TimeSpec::from_duration(std::time::Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `count` requests of this length with one call, and returns the datagrams that arrive.
    fn arrived(segments: bool, count: usize, length: usize) -> Vec<Vec<u8>> {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let mut sockets = Sockets::open(server.local_addr().unwrap(), 2).unwrap();
        sockets.segments = segments;
        let bytes: Vec<u8> = (0..count * length).map(|at| (at / length) as u8).collect();
        assert_eq!(sockets.send(1, &bytes, length), (count, Ok(())));
        assert_eq!(sockets.segments, segments, "this system cannot send segments");
        let mut buffer = [0; 8192];
        let mut receive = || server.recv(&mut buffer).map(|length| buffer[..length].to_vec());
        (0..count).map(|_| receive().unwrap()).collect()
    }

    #[test]
    fn every_request_arrives_as_a_separate_datagram_with_and_without_segments() {
        for segments in [true, false] {
            for (count, length) in [(1, 100), (2, 100), (64, 200), (150, 190), (70, 1400)] {
                let expected: Vec<Vec<u8>> = (0..count).map(|number| vec![number as u8; length]).collect();
                assert!(arrived(segments, count, length) == expected, "{segments} {count} {length}");
            }
        }
    }

    #[test]
    fn replies_are_taken_in_batches_from_the_socket_that_has_them() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sockets = Sockets::open(server.local_addr().unwrap(), 3).unwrap();
        let mut ready = vec![7];
        sockets.wait(0, &mut ready).unwrap();
        assert!(ready.is_empty());
        let peer = sockets.sockets[2].local_addr().unwrap();
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, peer.port()));
        for number in 0..DATAGRAMS_PER_CALL + 5 {
            server.send_to(&[number as u8; 30], peer).unwrap();
        }
        sockets.wait(10_000_000_000, &mut ready).unwrap();
        assert_eq!(ready, [2]);
        let mut numbers = Vec::new();
        let mut take = |sockets: &mut Sockets| {
            sockets.receive(2, |reply| {
                assert_eq!(reply.len(), 30);
                numbers.push(usize::from(reply[0]));
            })
        };
        assert_eq!(take(&mut sockets), Ok(true));
        assert_eq!(take(&mut sockets), Ok(false));
        assert_eq!(take(&mut sockets), Err(Errno::EAGAIN));
        assert_eq!(numbers, (0..DATAGRAMS_PER_CALL + 5).collect::<Vec<_>>());
    }
}

//! `pyzor-bench echo`: what a server could do at best on this machine. It sends each datagram back without
//! looking at it, by the same system calls as the server.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

use super::stop;
use crate::protocol::MAX_DATAGRAM;

/// How many datagrams are received or sent by one system call at most, as in the server.
const BATCH: usize = 64;

/// Listens on this address until it is stopped, which ends the process.
///
/// # Errors
///
/// The system's.
pub(super) fn run(address: SocketAddr) -> io::Result<()> {
    stop::on_signals(|| process::exit(0))?;
    let socket = UdpSocket::bind(address)?;
    writeln!(io::stdout(), "listening on {}", socket.local_addr()?)?;
    let mut buffers = vec![0; BATCH * MAX_DATAGRAM].into_boxed_slice();
    let mut incoming: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(BATCH, None);
    let mut outgoing: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(BATCH, None);
    let mut peers = [None; BATCH];
    let mut lengths = [0; BATCH];
    loop {
        let count = match receive(&socket, &mut incoming, &mut buffers, &mut peers, &mut lengths) {
            Ok(count) => count,
            // Somebody does not want replies any more.
            Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
            Err(error) => return Err(error.into()),
        };
        let slices: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(|at| {
            let start = at * MAX_DATAGRAM;
            [IoSlice::new(&buffers[start..start + lengths[at]])]
        });
        let mut next = 0;
        while next < count {
            let flags = MsgFlags::empty();
            match sendmmsg(
                socket.as_raw_fd(),
                &mut outgoing,
                &slices[next..count],
                &peers[next..count],
                [],
                flags,
            ) {
                Ok(sent) => next += sent.count(),
                Err(Errno::EINTR) => {}
                // Like the server, passes over what cannot be sent.
                Err(_) => next += 1,
            }
        }
    }
}

fn receive(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    buffers: &mut [u8],
    peers: &mut [Option<SockaddrStorage>; BATCH],
    lengths: &mut [usize; BATCH],
) -> nix::Result<usize> {
    let mut chunks = buffers.chunks_exact_mut(MAX_DATAGRAM);
    let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
        std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
    let received = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None)?;
    let mut count = 0;
    for message in received {
        peers[count] = message.address;
        lengths[count] = message.bytes;
        count += 1;
    }
    Ok(count)
}

//! `pyzor-bench echo`: a minimal server that sends every datagram back, with the same system calls as pyzord. It shows
//! what a server on this machine can do at best.

use std::io::{self, IoSlice, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process;

use nix::errno::Errno;

use super::stop;
use pyzor_udp::{DATAGRAMS_PER_CALL, DatagramReceiver, DatagramSender, OutgoingDatagrams};
use pyzor_wire::MAX_DATAGRAM;

/// Serves on this address until a signal ends the process.
///
/// # Errors
///
/// Fails if the socket cannot be bound or used.
pub(super) fn run(address: SocketAddr) -> io::Result<()> {
    stop::on_signals(|| process::exit(0))?;
    let socket = UdpSocket::bind(address)?;
    writeln!(io::stdout(), "listening on {}", socket.local_addr()?)?;
    let (mut receiver, mut transmitter) = (DatagramReceiver::new(MAX_DATAGRAM), DatagramSender::default());
    let mut received = Vec::with_capacity(DATAGRAMS_PER_CALL);
    loop {
        received.clear();
        match receiver.wait_and_receive(&socket, |datagram| received.push(datagram)) {
            Ok(()) => {}
            // A client has closed its socket.
            Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
            Err(error) => return Err(error.into()),
        }
        let datagrams = received.iter().zip(receiver.buffers());
        let slices: Vec<IoSlice<'_>> =
            datagrams.map(|(datagram, buffer)| IoSlice::new(&buffer[..datagram.length])).collect();
        let replies = received.iter().zip(slices.chunks(1));
        let messages: Vec<OutgoingDatagrams<'_>> = replies
            .filter_map(|(datagram, slice)| {
                Some(OutgoingDatagrams { to: datagram.reply_to?, datagrams: slice })
            })
            .collect();
        let mut rest = messages.as_slice();
        while !rest.is_empty() {
            match transmitter.send(&socket, rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::EINTR) => {}
                // Like pyzord, drop replies that cannot be sent.
                Err(_) => rest = &rest[1..],
            }
        }
    }
}

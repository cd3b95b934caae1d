//! A UDP socket that is connected to one address.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::own_address::any_port;

/// What a socket waits for. An ICMP error is an error of the socket without anything to read.
const ARRIVALS: Interest = Interest::READABLE.add(Interest::ERROR);

/// A socket that is connected to the address of a server: the kernel drops datagrams from elsewhere, and reports ICMP
/// errors. Its port was chosen at random by the kernel.
#[derive(Debug)]
pub(crate) struct ConnectedSocket(UdpSocket);

impl ConnectedSocket {
    /// Opens a socket, in the context of a runtime.
    ///
    /// # Errors
    ///
    /// The system has no socket or no route to the address.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = StdSocket::bind(any_port(address))?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        Ok(Self(UdpSocket::from_std(socket)?))
    }

    /// The address that the socket is connected to.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.0.peer_addr().ok()
    }

    /// Sends a datagram, without waiting.
    ///
    /// # Errors
    ///
    /// An earlier datagram has met an ICMP error, or this one cannot be sent. In both cases it has not left.
    pub(crate) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        // The runtime would ask to wait for the first time of a new socket, which has room.
        Ok(rustix::net::send(&self.0, datagram, SendFlags::empty()).map(drop)?)
    }

    /// Waits until something arrives. Never returns after the end of the runtime.
    pub(crate) async fn arrival(&self) {
        if self.0.ready(ARRIVALS).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Receives a datagram, without waiting. Returns its length.
    ///
    /// # Errors
    ///
    /// Nothing has arrived as far as the runtime knows, or an earlier datagram has met an ICMP error.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut receive = |interest| self.0.try_io(interest, || self.receive_now(buffer));
        // Each is forgotten by itself: tokio takes no combination of the two here.
        match receive(Interest::READABLE) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => receive(Interest::ERROR),
            received => received,
        }
    }

    /// Receives a datagram, without waiting, also if the runtime has not noticed its arrival yet. Returns its length.
    ///
    /// # Errors
    ///
    /// Nothing has arrived, or an earlier datagram has met an ICMP error.
    pub(crate) fn receive_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (length, _) = rustix::net::recv(&self.0, buffer, RecvFlags::empty())?;
        Ok(length)
    }
}

/// Whether a datagram was not sent for lack of room in this machine, which says nothing about the server.
pub(crate) fn is_congestion(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Returns what an error of a socket means for an operator.
pub(crate) fn socket_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "no process uses its port".to_owned(),
        _ => format!("cannot send to it: {error}"),
    }
}

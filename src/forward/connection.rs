//! The socket to one server, and the server's addresses.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::own_address::any_port;

/// What a socket waits for. An ICMP error is an error of the socket without anything to read.
const ARRIVALS: Interest = Interest::READABLE.add(Interest::ERROR);

/// The addresses of a server, and a socket that is connected to one of them: the kernel then drops datagrams from
/// elsewhere, and reports ICMP errors.
#[derive(Debug, Default)]
pub(super) struct Connection {
    addresses: Vec<SocketAddr>,
    /// The position of the address in use.
    index: usize,
    socket: Option<UdpSocket>,
}

impl Connection {
    /// Sets the addresses. The socket is kept; the next one is connected to the first of them if its address is not among
    /// them. Returns whether there are others than before.
    pub(super) fn set_addresses(&mut self, addresses: Vec<SocketAddr>) -> bool {
        if self.addresses == addresses {
            return false;
        }
        let is_changed = addresses.len() != self.addresses.len()
            || addresses.iter().any(|new| !self.addresses.contains(new));
        let position = self.address().and_then(|used| addresses.iter().position(|other| *other == used));
        self.index = position.unwrap_or(addresses.len().saturating_sub(1));
        self.addresses = addresses;
        is_changed
    }

    /// The number of addresses.
    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }

    /// The address that the socket is connected to.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.socket.as_ref()?.peer_addr().ok()
    }

    /// Whether there is a socket.
    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// Whether the address in use is the last one.
    pub(super) fn is_at_last(&self) -> bool {
        self.index + 1 >= self.addresses.len()
    }

    /// Closes the socket.
    pub(super) fn close(&mut self) {
        self.socket = None;
    }

    /// Connects a new socket to the next address, from a port that is chosen anew.
    ///
    /// # Errors
    ///
    /// There is no address, or the system has no socket or no route to it.
    pub(super) fn connect_to_next(&mut self) -> io::Result<()> {
        self.socket = None;
        if self.addresses.is_empty() {
            return Err(io::Error::other("it has no address"));
        }
        self.index = (self.index + 1) % self.addresses.len();
        let address = self.addresses[self.index];
        let socket = StdSocket::bind(any_port(address))?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        self.socket = Some(UdpSocket::from_std(socket)?);
        Ok(())
    }

    /// Sends a datagram, without waiting.
    ///
    /// # Errors
    ///
    /// An earlier datagram has met an ICMP error, or this one cannot be sent. In both cases it has not left.
    pub(super) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Err(io::Error::other("not connected")) };
        // The runtime would ask to wait for the first time of a new socket, which has room.
        Ok(rustix::net::send(socket, datagram, SendFlags::empty()).map(drop)?)
    }

    /// Waits until something arrives. Never returns without a socket.
    pub(super) async fn arrival(&self) {
        if let Some(socket) = &self.socket
            && socket.ready(ARRIVALS).await.is_ok()
        {
            return;
        }
        // The second case is the end of the runtime.
        std::future::pending::<()>().await;
    }

    /// Receives a datagram, without waiting. Returns its length.
    ///
    /// # Errors
    ///
    /// Nothing has arrived, or an earlier datagram has met an ICMP error.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::WouldBlock.into()) };
        let mut receive = |interest| {
            socket.try_io(interest, || {
                let (length, _) = rustix::net::recv(socket, &mut *buffer, RecvFlags::empty())?;
                Ok(length)
            })
        };
        // Each is forgotten by itself: tokio takes no combination of the two here.
        match receive(Interest::READABLE) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => receive(Interest::ERROR),
            received => received,
        }
    }
}

//! The socket to one server, and the server's addresses.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::remotes::any_port;

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
    /// The socket before it, to which replies may still come.
    previous: Option<UdpSocket>,
    /// The time at which `socket` was opened.
    opened: Option<Instant>,
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

    /// Closes the sockets.
    pub(super) fn close(&mut self) {
        (self.socket, self.previous) = (None, None);
    }

    /// Connects to the next address if the one in use has had its time: `timeout`, or less if the outage began later and
    /// there are other addresses. A new socket for each ping would miss the replies of a slow server.
    ///
    /// # Errors
    ///
    /// As for [`Connection::connect_to_next`].
    pub(super) fn renew(&mut self, now: Instant, timeout: Duration, outage: Instant) -> io::Result<()> {
        let opened = self.opened.filter(|_| self.socket.is_some());
        let is_current = opened.is_some_and(|opened| {
            now.saturating_duration_since(opened) < timeout && (self.addresses.len() < 2 || opened >= outage)
        });
        if is_current { Ok(()) } else { self.connect_to_next() }
    }

    /// Connects a new socket to the next address, from a port that is chosen anew.
    ///
    /// # Errors
    ///
    /// There is no address, or the system has no socket or no route to it.
    pub(super) fn connect_to_next(&mut self) -> io::Result<()> {
        if let Some(socket) = self.socket.take() {
            self.previous = Some(socket);
        }
        if self.addresses.is_empty() {
            return Err(io::Error::other("it has no address"));
        }
        self.index = (self.index + 1) % self.addresses.len();
        let address = self.addresses[self.index];
        let socket = StdSocket::bind(any_port(address))?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        self.socket = Some(UdpSocket::from_std(socket)?);
        self.opened = Some(Instant::now());
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
        tokio::select! {
            () = arrival_at(self.socket.as_ref()) => {}
            () = arrival_at(self.previous.as_ref()) => {}
        }
    }

    /// Receives a datagram, without waiting. Returns its length.
    ///
    /// # Errors
    ///
    /// Nothing has arrived, or an earlier datagram has met an ICMP error.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let nothing = || Err(io::ErrorKind::WouldBlock.into());
        if let Some(previous) = &self.previous {
            match receive_from(previous, buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The address is not in use any more.
                Err(_) => self.previous = None,
                received => return received,
            }
        }
        self.socket.as_ref().map_or_else(nothing, |socket| receive_from(socket, buffer))
    }
}

/// Waits until something arrives at a socket. Never returns without one.
async fn arrival_at(socket: Option<&UdpSocket>) {
    if let Some(socket) = socket
        && socket.ready(ARRIVALS).await.is_ok()
    {
        return;
    }
    // The second case is the end of the runtime.
    std::future::pending::<()>().await;
}

fn receive_from(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
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

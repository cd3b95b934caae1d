//! The socket to one server, and the server's addresses.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::remotes::{AddressList, ConnectedSocket};

/// The addresses of a server, and a socket that is connected to one of them.
#[derive(Debug, Default)]
pub(super) struct Connection {
    addresses: AddressList,
    socket: Option<ConnectedSocket>,
    /// The socket before it, to which replies may still come.
    previous: Option<ConnectedSocket>,
    /// The time at which `socket` was opened.
    opened: Option<Instant>,
}

impl Connection {
    /// Sets the addresses. The socket is kept; the next one is connected to the first of them if its address is not among
    /// them. Returns whether there are others than before.
    pub(super) fn set_addresses(&mut self, addresses: Vec<SocketAddr>) -> bool {
        let used = self.address();
        self.addresses.replace(addresses, used)
    }

    /// The number of addresses.
    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }

    /// The address that the socket is connected to.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.socket.as_ref()?.address()
    }

    /// Whether the address that the socket is connected to is one of the addresses of the server.
    pub(super) fn is_listed(&self) -> bool {
        self.address().is_some_and(|address| self.addresses.contains(address))
    }

    /// Whether there is a socket.
    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// Whether the address in use is the last one.
    pub(super) fn is_at_last(&self) -> bool {
        self.addresses.is_at_last()
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
        let Some(address) = self.addresses.advance() else {
            return Err(io::Error::other("it has no address"));
        };
        self.socket = Some(ConnectedSocket::open(address)?);
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
        socket.send(datagram)
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
            match previous.receive(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The address is not in use any more.
                Err(_) => self.previous = None,
                received => return received,
            }
        }
        self.socket.as_ref().map_or_else(nothing, |socket| socket.receive(buffer))
    }
}

/// Waits until something arrives at a socket. Never returns without one.
async fn arrival_at(socket: Option<&ConnectedSocket>) {
    match socket {
        Some(socket) => socket.arrival().await,
        None => std::future::pending().await,
    }
}

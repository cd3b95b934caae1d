//! Ports that are free.

use std::net::{TcpListener, UdpSocket};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

/// How far above its port a node of a Redis Cluster talks to the others.
pub(crate) const CLUSTER_BUS: u16 = 10_000;

/// A port of 127.0.0.1 that is free now. See [`free_port_at`].
pub(crate) fn free_port() -> u16 {
    free_port_at("127.0.0.1")
}

/// A port that is free now: for UDP at this address, and on 127.0.0.1 for TCP, there also [`CLUSTER_BUS`] above it.
///
/// Each call of this process returns another one. All are below the range from which the kernel takes ports for
/// sockets that ask for any.
pub(crate) fn free_port_at(address: &str) -> u16 {
    const FIRST: u16 = 14_000;
    const RANGE: u16 = 8_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // Runs of the tests at the same time begin at different places.
        let start = u16::try_from(process::id() * 97 % u32::from(RANGE)).unwrap();
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % RANGE;
        let port = FIRST + (start + step) % RANGE;
        let is_free_for_tcp = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if UdpSocket::bind((address, port)).is_ok()
            && is_free_for_tcp(port)
            && is_free_for_tcp(port + CLUSTER_BUS)
        {
            return port;
        }
    }
}

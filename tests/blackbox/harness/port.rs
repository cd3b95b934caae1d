//! Free ports.

use std::net::{TcpListener, UdpSocket};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

/// Offset of the port that a node of a Redis Cluster uses for the other nodes.
pub(crate) const CLUSTER_BUS: u16 = 10_000;

/// Returns a free port of 127.0.0.1. See [`free_port_at`].
pub(crate) fn free_port() -> u16 {
    free_port_at("127.0.0.1")
}

/// Returns a port that is free for UDP at this address and, on 127.0.0.1, for TCP, where the port [`CLUSTER_BUS`] above
/// it is free, too.
///
/// Each call in this process returns a different port. All are below the kernel's range of ephemeral ports.
pub(crate) fn free_port_at(address: &str) -> u16 {
    const FIRST: u16 = 14_000;
    const RANGE: u16 = 8_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // Concurrent runs of the tests start at different ports.
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

//! Recognizes the addresses of this server itself, to which it must send no requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Whether a datagram to `target` arrives at a server on this machine that listens on `listening`.
///
/// The system tells by the local address that it chooses for a connected socket: an address of this machine is reached from
/// itself or from a loopback address. A socket could also be bound to `target`, but some systems permit that for any
/// address (`net.ipv4.ip_nonlocal_bind`).
pub(crate) fn is_own(target: SocketAddr, listening: SocketAddr) -> bool {
    if target.port() != listening.port() {
        return false;
    }
    let ip = target.ip().to_canonical();
    let Some(local) = local_address(target) else { return false };
    // An unspecified address stands for the machine itself.
    let is_here = local.is_loopback() || local == ip || ip.is_unspecified();
    let listens_there = match listening.ip() {
        IpAddr::V4(own) if own.is_unspecified() => ip.is_ipv4(),
        // Such a socket also receives IPv4.
        IpAddr::V6(own) if own.is_unspecified() => true,
        own if ip.is_unspecified() => own.is_loopback(),
        own => own.to_canonical() == ip,
    };
    is_here && listens_there
}

/// Whether the system knows a way to this address.
pub(crate) fn has_route(target: SocketAddr) -> bool {
    local_address(target).is_some()
}

/// Returns the local address from which `target` is reached; none if there is no way to it.
fn local_address(target: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(any_port(target)).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|address| address.ip().to_canonical())
}

/// Returns the address to which a socket is bound that will be connected to `target`.
pub(super) fn any_port(target: SocketAddr) -> SocketAddr {
    match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(target: &str, listening: &str) -> bool {
        is_own(target.parse().unwrap(), listening.parse().unwrap())
    }

    #[test]
    fn addresses_of_this_machine_are_own_if_the_server_listens_there() {
        assert!(own("127.0.0.1:24441", "127.0.0.1:24441"));
        assert!(own("127.0.0.1:24441", "0.0.0.0:24441"));
        assert!(own("127.9.8.7:24441", "0.0.0.0:24441"));
        assert!(own("127.0.0.1:24441", "[::]:24441"));
        assert!(own("0.0.0.0:24441", "127.0.0.1:24441"));
        assert!(own("[::ffff:127.0.0.1]:24441", "0.0.0.0:24441"));
    }

    #[test]
    fn other_ports_and_addresses_are_not_own() {
        assert!(!own("127.0.0.1:24442", "0.0.0.0:24441"));
        assert!(!own("127.0.0.2:24441", "127.0.0.1:24441"));
        assert!(!own("127.0.0.1:24441", "192.0.2.1:24441"));
        assert!(!own("192.0.2.1:24441", "0.0.0.0:24441"));
    }
}

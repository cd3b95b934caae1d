//! The memory that message headers point to: socket addresses and buffers for ancillary data.
#![allow(unsafe_code, reason = "sockets have addresses of several formats in one place")]

use std::ffi::c_int;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// A buffer for the ancillary data of one datagram, in words so that headers are aligned. Receiving needs 64 bytes (an
/// IPv6 packet info and a drop counter), and so does sending (a packet info and a segment size).
pub(crate) type AncillaryBuffer = [u64; ANCILLARY_WORDS];
pub(crate) const ANCILLARY_WORDS: usize = 8;

/// An IPv4 or IPv6 socket address as the kernel reads and writes it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union SocketName {
    pub(crate) v4: libc::sockaddr_in,
    pub(crate) v6: libc::sockaddr_in6,
}

pub(crate) fn empty_name() -> SocketName {
    // SAFETY: integers, for which zero is a valid value.
    unsafe { mem::zeroed() }
}

pub(crate) fn empty_header() -> libc::mmsghdr {
    // SAFETY: integers and pointers, for which zero is a valid value.
    unsafe { mem::zeroed() }
}

/// Returns the address in a name; none if the kernel has not written one.
pub(crate) fn address(name: &SocketName) -> Option<SocketAddr> {
    // SAFETY: the family has the same position in both, and is zero if the kernel has not written a name.
    let family = unsafe { name.v4.sin_family };
    match c_int::from(family) {
        libc::AF_INET => {
            // SAFETY: the family identifies this member of the union.
            let name = unsafe { name.v4 };
            let address = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddrV4::new(address, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family identifies this member of the union.
            let name = unsafe { name.v6 };
            let address = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(SocketAddrV6::new(address, port, name.sin6_flowinfo, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Writes an address and returns its length.
pub(crate) fn write_name(name: &mut SocketName, address: &SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            name.v4.sin_family = libc::AF_INET as libc::sa_family_t;
            name.v4.sin_port = address.port().to_be();
            name.v4.sin_addr.s_addr = u32::from(*address.ip()).to_be();
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(address) => {
            name.v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.v6.sin6_port = address.port().to_be();
            name.v6.sin6_flowinfo = address.flowinfo();
            name.v6.sin6_addr.s6_addr = address.ip().octets();
            name.v6.sin6_scope_id = address.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

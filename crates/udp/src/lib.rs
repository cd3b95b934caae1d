//! Many datagrams a system call, each with its ancillary data: `recvmmsg` and `sendmmsg`.
//!
//! The wrappers of nix do not serve here: its receive headers lose their ancillary room with the first
//! call, and the results of its `sendmmsg` read addresses that only `recvmmsg` fills. The formats are
//! those of cmsg(3), ip(7), ipv6(7) and udp(7).
#![allow(unsafe_code, reason = "the headers of both calls hold pointers")]

use std::ffi::c_int;
use std::io::IoSlice;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::ptr;

use nix::errno::Errno;

/// How many datagrams one system call receives or sends at most.
pub const BATCH: usize = 64;

/// Where a reply goes: to the sender of the request, and from the address that the request was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The sender of the request.
    pub peer: SocketAddr,
    /// The address of this host that the request was sent to, where the socket is bound to a wildcard
    /// address. None: the kernel chooses.
    pub source: Option<Source>,
}

/// An address of this host to send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The address.
    pub address: IpAddr,
    /// The index of the interface of a link-local address, which is one only together with that; or 0.
    pub interface: u32,
}

impl Source {
    /// The address that a socket is bound to, unless that is a wildcard.
    pub fn bound(address: SocketAddr) -> Option<Self> {
        let interface = match address {
            SocketAddr::V6(address) => address.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        (!address.ip().is_unspecified()).then_some(Self { address: address.ip(), interface })
    }
}

/// Room for the ancillary data of one datagram, in words so that headers are aligned. Receiving needs 64
/// bytes (an IPv6 packet info and a count of drops), and so does sending (a packet info and a segment size).
type Control = [u64; CONTROL];
const CONTROL: usize = 8;

/// An IPv4 or IPv6 socket address as the kernel reads and writes it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// A received datagram, but for its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// How many bytes of it are in the buffer.
    pub length: usize,
    /// Where its reply goes; none if the kernel names no Internet address as its sender.
    pub reply_to: Option<ReplyTo>,
    /// How many datagrams the kernel had dropped on this socket before this one, if it says so.
    pub drops: Option<u32>,
}

/// One datagram to send, or several of one length (but for the last) that leave as one packet.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Where it goes.
    pub to: ReplyTo,
    /// The bytes of each datagram.
    pub datagrams: &'a [IoSlice<'a>],
}

/// Receives datagrams. Owns all memory that the kernel writes to.
pub struct Receiver {
    /// How many bytes of a datagram are kept, in bytes.
    longest: usize,
    buffers: Vec<u8>,
    vectors: Vec<libc::iovec>,
    names: Vec<Name>,
    controls: Vec<Control>,
    headers: Vec<libc::mmsghdr>,
    /// How many headers are to be written before the next call: those that the last one has changed.
    changed: usize,
}

impl Receiver {
    /// Receives datagrams of up to this many bytes; what is longer is cut there.
    pub fn new(longest: usize) -> Self {
        Self {
            longest,
            buffers: vec![0; BATCH * longest],
            vectors: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH],
            names: vec![no_name(); BATCH],
            controls: vec![[0; CONTROL]; BATCH],
            headers: vec![no_header(); BATCH],
            changed: BATCH,
        }
    }

    /// Receives what the socket holds without waiting, up to a batch, and calls `each` for every datagram in
    /// the order of arrival.
    ///
    /// # Errors
    ///
    /// The system's, `EAGAIN` if there is nothing.
    pub fn receive(&mut self, socket: &impl AsRawFd, each: impl FnMut(Received)) -> nix::Result<()> {
        self.receive_with(libc::MSG_DONTWAIT, socket, each)
    }

    /// Waits for a datagram on a blocking socket, and receives what else that holds as [`receive`] does.
    ///
    /// # Errors
    ///
    /// The system's, `EINTR` if a signal ends the wait.
    ///
    /// [`receive`]: Self::receive
    pub fn wait_and_receive(&mut self, socket: &impl AsRawFd, each: impl FnMut(Received)) -> nix::Result<()> {
        self.receive_with(libc::MSG_WAITFORONE, socket, each)
    }

    fn receive_with(
        &mut self,
        flags: c_int,
        socket: &impl AsRawFd,
        mut each: impl FnMut(Received),
    ) -> nix::Result<()> {
        self.restore();
        let (socket, headers) = (socket.as_raw_fd(), self.headers.as_mut_ptr());
        // SAFETY: each header points to a name, a vector with its buffer, and ancillary room of the lengths it
        // says, all of which belong to `self`.
        let count = unsafe { libc::recvmmsg(socket, headers, BATCH as _, flags as _, ptr::null_mut()) };
        self.changed = usize::try_from(Errno::result(count)?).unwrap_or(BATCH);
        for (header, name) in self.headers.iter().zip(&self.names).take(self.changed) {
            let (source, drops) = ancillary(&header.msg_hdr);
            let reply_to = address(name).map(|peer| ReplyTo { peer, source });
            each(Received { length: (header.msg_len as usize).min(self.longest), reply_to, drops });
        }
        Ok(())
    }

    /// The buffers of the datagrams that were received last, in the order of arrival.
    pub fn buffers(&self) -> impl Iterator<Item = &[u8]> {
        self.buffers.chunks_exact(self.longest)
    }

    /// Gives back to the headers what the last call has taken: the kernel replaces the room for a name and
    /// for ancillary data by what it has used of it.
    fn restore(&mut self) {
        let longest = self.longest;
        let buffers = self.buffers.chunks_exact_mut(longest).zip(&mut self.vectors);
        let rooms = self.names.iter_mut().zip(&mut self.controls).zip(buffers);
        for (header, ((name, control), (buffer, vector))) in
            self.headers.iter_mut().zip(rooms).take(self.changed)
        {
            *vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: longest };
            *name = no_name();
            let header = &mut header.msg_hdr;
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_iov = ptr::from_mut(vector);
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        self.changed = 0;
    }
}

fn no_name() -> Name {
    // SAFETY: plain numbers, for which zero is a value.
    unsafe { mem::zeroed() }
}

fn no_header() -> libc::mmsghdr {
    // SAFETY: plain numbers and pointers, for which zero is a value.
    unsafe { mem::zeroed() }
}

/// The address that a datagram was sent to, as one to reply from, and the count of drops, as far as the
/// ancillary data has them.
fn ancillary(header: &libc::msghdr) -> (Option<Source>, Option<u32>) {
    let (mut source, mut drops) = (None, None);
    // SAFETY: the kernel has filled the ancillary room of this header.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: `next` is null or points to a message inside of that room.
    while let Some(message) = unsafe { next.as_ref() } {
        match (message.cmsg_level, message.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let info: libc::in_pktinfo = content(message);
                // Not the address in the packet's header, which may be that of a broadcast.
                let address = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
                source = Some(Source { address: address.into(), interface: 0 });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let info: libc::in6_pktinfo = content(message);
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                let is_link_local = address.is_unicast_link_local();
                let interface = if is_link_local { info.ipi6_ifindex } else { 0 };
                source = Some(Source { address: address.into(), interface });
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => drops = Some(content(message)),
            _ => {}
        }
        // SAFETY: `message` is inside of the ancillary room of this header.
        next = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    // A multicast address is none to send from, though some settings of the kernel allow it.
    let can_send = |source: &Source| {
        let address = source.address.to_canonical();
        !address.is_unspecified() && !address.is_multicast()
    };
    (source.filter(can_send), drops)
}

/// What an ancillary message of a type that has a `T` contains.
fn content<T: Copy>(message: &libc::cmsghdr) -> T {
    // SAFETY: points behind the header, where the content is.
    let data = unsafe { libc::CMSG_DATA(message) };
    // SAFETY: the kernel has written a `T` there, not necessarily aligned.
    unsafe { ptr::read_unaligned(data.cast()) }
}

fn address(name: &Name) -> Option<SocketAddr> {
    // SAFETY: the family is at the same place in both, and zero where the kernel has written nothing.
    let family = unsafe { name.v4.sin_family };
    match c_int::from(family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is this one.
            let name = unsafe { name.v4 };
            let address = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddrV4::new(address, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is this one.
            let name = unsafe { name.v6 };
            let address = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(SocketAddrV6::new(address, port, name.sin6_flowinfo, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Sends datagrams. Owns the headers that the system call takes.
pub struct Transmitter {
    names: Vec<Name>,
    controls: Vec<Control>,
    headers: Vec<libc::mmsghdr>,
}

impl Default for Transmitter {
    fn default() -> Self {
        Self {
            names: vec![no_name(); BATCH],
            controls: vec![[0; CONTROL]; BATCH],
            headers: vec![no_header(); BATCH],
        }
    }
}

impl Transmitter {
    /// Sends up to a batch of messages without waiting, in order, and returns how many were sent.
    ///
    /// # Errors
    ///
    /// The system's, of the first message.
    pub fn send(&mut self, socket: &impl AsRawFd, messages: &[Message<'_>]) -> nix::Result<usize> {
        let messages = &messages[..messages.len().min(BATCH)];
        let rooms = self.names.iter_mut().zip(&mut self.controls).zip(messages);
        for (header, ((name, control), message)) in self.headers.iter_mut().zip(rooms) {
            let header = &mut header.msg_hdr;
            header.msg_namelen = write_name(name, &message.to.peer);
            header.msg_name = ptr::from_mut(name).cast();
            // An `IoSlice` has the layout of an `iovec`, as its documentation promises.
            header.msg_iov = message.datagrams.as_ptr().cast_mut().cast();
            header.msg_iovlen = message.datagrams.len() as _;
            *control = [0; CONTROL];
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>() as _;
            header.msg_controllen = write_control(header, message) as _;
        }
        let (socket, headers) = (socket.as_raw_fd(), self.headers.as_mut_ptr());
        // SAFETY: each header points to a name, buffers and ancillary data of the lengths it says, which the
        // kernel reads only; the buffers live as long as `messages`, and the rest belongs to `self`.
        let count = unsafe { libc::sendmmsg(socket, headers, messages.len() as _, libc::MSG_DONTWAIT as _) };
        Ok(usize::try_from(Errno::result(count)?).unwrap_or_default())
    }
}

/// Writes an address and returns its length.
fn write_name(name: &mut Name, address: &SocketAddr) -> libc::socklen_t {
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

/// Writes the source and the segment size of a message into its header's ancillary room, as far as it has
/// any, and returns how many bytes that takes.
fn write_control(header: &libc::msghdr, message: &Message<'_>) -> usize {
    // SAFETY: the ancillary room of this header is zeroed, aligned and large enough for one message.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    let mut length = 0;
    match message.to.source {
        None => {}
        Some(Source { address: IpAddr::V4(address), .. }) => {
            let ipi_spec_dst = libc::in_addr { s_addr: u32::from(address).to_be() };
            let ipi_addr = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr };
            length += write_message(next, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        Some(Source { address: IpAddr::V6(address), interface }) => {
            let ipi6_addr = libc::in6_addr { s6_addr: address.octets() };
            let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: interface };
            length += write_message(next, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }
    if message.datagrams.len() > 1
        && let Some(first) = message.datagrams.first()
    {
        if length > 0 {
            // SAFETY: the message before this one is complete, and there is room for another one.
            next = unsafe { libc::CMSG_NXTHDR(header, next) };
        }
        length += write_message(next, libc::SOL_UDP, libc::UDP_SEGMENT, first.len() as u16);
    }
    length
}

/// Writes one ancillary message and returns how many bytes it takes.
fn write_message<T: Copy>(message: *mut libc::cmsghdr, level: c_int, kind: c_int, content: T) -> usize {
    let size = size_of::<T>() as u32;
    // SAFETY: computes a length.
    let length = unsafe { libc::CMSG_LEN(size) };
    // SAFETY: null, or a place inside of a zeroed, aligned room that is large enough.
    let Some(header) = (unsafe { message.as_mut() }) else { return 0 };
    header.cmsg_level = level;
    header.cmsg_type = kind;
    header.cmsg_len = length as _;
    // SAFETY: points behind the header, where the content goes.
    let data = unsafe { libc::CMSG_DATA(message) };
    // SAFETY: the room is large enough for the content, which need not be aligned.
    unsafe { ptr::write_unaligned(data.cast(), content) };
    // SAFETY: computes a length.
    (unsafe { libc::CMSG_SPACE(size) }) as usize
}

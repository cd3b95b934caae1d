//! Reception: `recvmmsg` and its ancillary data.
#![allow(unsafe_code, reason = "the headers of the system call hold pointers")]

use std::ffi::c_int;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::ptr;

use nix::errno::Errno;

use crate::header::{ANCILLARY_WORDS, AncillaryBuffer, SocketName, address, empty_header, empty_name};
use crate::{DATAGRAMS_PER_CALL, ReceivedDatagram, ReplyTo, SourceAddress};

/// Receives datagrams. Owns all memory the kernel writes to.
pub struct DatagramReceiver {
    /// The most bytes kept of a datagram.
    longest: usize,
    buffers: Vec<u8>,
    vectors: Vec<libc::iovec>,
    names: Vec<SocketName>,
    controls: Vec<AncillaryBuffer>,
    headers: Vec<libc::mmsghdr>,
    /// The number of headers the last call has changed, which must be restored before the next.
    changed: usize,
}

impl DatagramReceiver {
    /// Returns a receiver that truncates datagrams to `longest` bytes.
    pub fn new(longest: usize) -> Self {
        Self {
            longest,
            buffers: vec![0; DATAGRAMS_PER_CALL * longest],
            vectors: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; DATAGRAMS_PER_CALL],
            names: vec![empty_name(); DATAGRAMS_PER_CALL],
            controls: vec![[0; ANCILLARY_WORDS]; DATAGRAMS_PER_CALL],
            headers: vec![empty_header(); DATAGRAMS_PER_CALL],
            changed: DATAGRAMS_PER_CALL,
        }
    }

    /// Receives up to one batch without waiting, and calls `each` for every datagram in the order of arrival.
    ///
    /// # Errors
    ///
    /// The error of the system call; `EAGAIN` if the socket is empty.
    pub fn receive(&mut self, socket: &impl AsRawFd, each: impl FnMut(ReceivedDatagram)) -> nix::Result<()> {
        self.receive_with(libc::MSG_DONTWAIT, socket, each)
    }

    /// Waits for a datagram on a blocking socket. Receives up to one batch, and calls `each` for every datagram in the
    /// order of arrival.
    ///
    /// # Errors
    ///
    /// The error of the system call; `EINTR` if a signal ends the wait.
    pub fn wait_and_receive(
        &mut self,
        socket: &impl AsRawFd,
        each: impl FnMut(ReceivedDatagram),
    ) -> nix::Result<()> {
        self.receive_with(libc::MSG_WAITFORONE, socket, each)
    }

    fn receive_with(
        &mut self,
        flags: c_int,
        socket: &impl AsRawFd,
        mut each: impl FnMut(ReceivedDatagram),
    ) -> nix::Result<()> {
        self.restore();
        let (socket, headers) = (socket.as_raw_fd(), self.headers.as_mut_ptr());
        // SAFETY: each header points to a name, a vector with its buffer, and an ancillary buffer, all of the
        // lengths in the header and owned by `self`.
        let count =
            unsafe { libc::recvmmsg(socket, headers, DATAGRAMS_PER_CALL as _, flags as _, ptr::null_mut()) };
        self.changed = usize::try_from(Errno::result(count)?).unwrap_or(DATAGRAMS_PER_CALL);
        for (header, name) in self.headers.iter().zip(&self.names).take(self.changed) {
            let (source, drops) = ancillary(&header.msg_hdr);
            let reply_to = address(name).map(|peer| ReplyTo { peer, source });
            each(ReceivedDatagram { length: (header.msg_len as usize).min(self.longest), reply_to, drops });
        }
        Ok(())
    }

    /// The buffers of the last batch, in the order of arrival.
    pub fn buffers(&self) -> impl Iterator<Item = &[u8]> {
        self.buffers.chunks_exact(self.longest)
    }

    /// Restores the headers after a call: the kernel replaces the lengths of the name and the ancillary buffer with the
    /// lengths it has used.
    fn restore(&mut self) {
        let longest = self.longest;
        let buffers = self.buffers.chunks_exact_mut(longest).zip(&mut self.vectors);
        let memory = self.names.iter_mut().zip(&mut self.controls).zip(buffers);
        for (header, ((name, control), (buffer, vector))) in
            self.headers.iter_mut().zip(memory).take(self.changed)
        {
            *vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: longest };
            *name = empty_name();
            let header = &mut header.msg_hdr;
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_namelen = size_of::<SocketName>() as libc::socklen_t;
            header.msg_iov = ptr::from_mut(vector);
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = size_of::<AncillaryBuffer>() as _;
        }
        self.changed = 0;
    }
}

/// Returns the address a datagram was sent to, if a reply can be sent from it, and the drop counter, as far as the
/// ancillary data contains them.
fn ancillary(header: &libc::msghdr) -> (Option<SourceAddress>, Option<u32>) {
    let (mut source, mut drops) = (None, None);
    // SAFETY: the kernel has filled the ancillary buffer of this header.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: `next` is null or points to a message in that buffer.
    while let Some(message) = unsafe { next.as_ref() } {
        match (message.cmsg_level, message.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let info: libc::in_pktinfo = content(message);
                // Not `ipi_addr`, the destination of the packet, which may be a broadcast address.
                let address = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
                source = Some(SourceAddress { address: address.into(), interface: 0 });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let info: libc::in6_pktinfo = content(message);
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                let is_link_local = address.is_unicast_link_local();
                let interface = if is_link_local { info.ipi6_ifindex } else { 0 };
                source = Some(SourceAddress { address: address.into(), interface });
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => drops = Some(content(message)),
            _ => {}
        }
        // SAFETY: `message` is in the ancillary buffer of this header.
        next = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    // A multicast address must not be a source, although some kernel settings allow it.
    let can_send = |source: &SourceAddress| {
        let address = source.address.to_canonical();
        !address.is_unspecified() && !address.is_multicast()
    };
    (source.filter(can_send), drops)
}

/// Returns the content of an ancillary message, whose type must be one with a `T`.
fn content<T: Copy>(message: &libc::cmsghdr) -> T {
    // SAFETY: computes a pointer to the content after the header.
    let data = unsafe { libc::CMSG_DATA(message) };
    // SAFETY: the kernel has written a `T` there, possibly unaligned.
    unsafe { ptr::read_unaligned(data.cast()) }
}

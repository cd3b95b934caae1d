//! Sending: `sendmmsg` and its ancillary data.
#![allow(unsafe_code, reason = "the headers of the system call hold pointers")]

use std::ffi::c_int;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::ptr;

use nix::errno::Errno;

use crate::header::{ANCILLARY_WORDS, AncillaryBuffer, SocketName, empty_header, empty_name, write_name};
use crate::{DATAGRAMS_PER_CALL, OutgoingDatagrams, SourceAddress};

/// Sends datagrams. Owns the headers for the system call.
pub struct DatagramSender {
    names: Vec<SocketName>,
    controls: Vec<AncillaryBuffer>,
    headers: Vec<libc::mmsghdr>,
}

impl Default for DatagramSender {
    fn default() -> Self {
        Self {
            names: vec![empty_name(); DATAGRAMS_PER_CALL],
            controls: vec![[0; ANCILLARY_WORDS]; DATAGRAMS_PER_CALL],
            headers: vec![empty_header(); DATAGRAMS_PER_CALL],
        }
    }
}

impl DatagramSender {
    /// Sends up to one batch of messages in order without waiting, and returns the number of messages sent.
    ///
    /// # Errors
    ///
    /// The error of the system call for the first message.
    pub fn send(&mut self, socket: &impl AsRawFd, messages: &[OutgoingDatagrams<'_>]) -> nix::Result<usize> {
        let messages = &messages[..messages.len().min(DATAGRAMS_PER_CALL)];
        let memory = self.names.iter_mut().zip(&mut self.controls).zip(messages);
        for (header, ((name, control), message)) in self.headers.iter_mut().zip(memory) {
            let header = &mut header.msg_hdr;
            header.msg_namelen = write_name(name, &message.to.peer);
            header.msg_name = ptr::from_mut(name).cast();
            // The documentation of `IoSlice` guarantees the layout of `iovec`.
            header.msg_iov = message.datagrams.as_ptr().cast_mut().cast();
            header.msg_iovlen = message.datagrams.len() as _;
            *control = [0; ANCILLARY_WORDS];
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = size_of::<AncillaryBuffer>() as _;
            header.msg_controllen = write_control(header, message) as _;
        }
        let (socket, headers) = (socket.as_raw_fd(), self.headers.as_mut_ptr());
        // SAFETY: each header points to a name, buffers and ancillary data of the lengths in the header. The kernel
        // only reads them. The buffers live as long as `messages`, and `self` owns the rest.
        let count = unsafe { libc::sendmmsg(socket, headers, messages.len() as _, libc::MSG_DONTWAIT as _) };
        Ok(usize::try_from(Errno::result(count)?).unwrap_or_default())
    }
}

/// Writes the source and the segment size of a message, if any, into the ancillary buffer of its header. Returns the
/// number of bytes written.
fn write_control(header: &libc::msghdr, message: &OutgoingDatagrams<'_>) -> usize {
    // SAFETY: the ancillary buffer of this header is zeroed, aligned and large enough for one message.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    let mut length = 0;
    match message.to.source {
        None => {}
        Some(SourceAddress { address: IpAddr::V4(address), .. }) => {
            let ipi_spec_dst = libc::in_addr { s_addr: u32::from(address).to_be() };
            let ipi_addr = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr };
            length += write_message(next, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        Some(SourceAddress { address: IpAddr::V6(address), interface }) => {
            let ipi6_addr = libc::in6_addr { s6_addr: address.octets() };
            let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: interface };
            length += write_message(next, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }
    if message.datagrams.len() > 1
        && let Some(first) = message.datagrams.first()
    {
        if length > 0 {
            // SAFETY: the previous message is complete, and the buffer has space for another message.
            next = unsafe { libc::CMSG_NXTHDR(header, next) };
        }
        length += write_message(next, libc::SOL_UDP, libc::UDP_SEGMENT, first.len() as u16);
    }
    length
}

/// Writes one ancillary message and returns the number of bytes written.
fn write_message<T: Copy>(message: *mut libc::cmsghdr, level: c_int, kind: c_int, content: T) -> usize {
    let size = size_of::<T>() as u32;
    // SAFETY: computes a length.
    let length = unsafe { libc::CMSG_LEN(size) };
    // SAFETY: null, or in a zeroed, aligned buffer that is large enough.
    let Some(header) = (unsafe { message.as_mut() }) else { return 0 };
    header.cmsg_level = level;
    header.cmsg_type = kind;
    header.cmsg_len = length as _;
    // SAFETY: computes a pointer to the content after the header.
    let data = unsafe { libc::CMSG_DATA(message) };
    // SAFETY: the buffer is large enough for the content, and the write may be unaligned.
    unsafe { ptr::write_unaligned(data.cast(), content) };
    // SAFETY: computes a length.
    (unsafe { libc::CMSG_SPACE(size) }) as usize
}

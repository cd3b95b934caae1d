//! Socket options, none of which is required for the server to run.

use std::os::fd::BorrowedFd;

use nix::sys::socket::{GetSockOpt, SetSockOpt, getsockopt, setsockopt, sockopt};

/// The requested receive buffer in bytes, which the kernel doubles: room for about 5000 requests, or a pause of 20 ms
/// under full load. A larger one would only delay replies under overload.
const RECEIVE_BUFFER: usize = 2 << 20;

/// Sets socket options and collects the failures.
pub(super) struct SocketOptions<'a> {
    descriptor: BorrowedFd<'a>,
    /// Options that could not be set, one line each.
    pub(super) warnings: Vec<String>,
    /// Buffers that are smaller than requested, one line each.
    pub(super) notices: Vec<String>,
}

impl<'a> SocketOptions<'a> {
    pub(super) fn of(descriptor: BorrowedFd<'a>) -> Self {
        Self { descriptor, warnings: Vec::new(), notices: Vec::new() }
    }

    /// Sets an option and returns whether that succeeded. `missing` is the consequence of a failure, for the warning.
    pub(super) fn set<O: SetSockOpt>(
        &mut self,
        option: O,
        value: &O::Val,
        name: &str,
        missing: &str,
    ) -> bool {
        let outcome = setsockopt(&self.descriptor, option, value);
        if let Err(error) = outcome {
            self.warnings.push(format!("cannot set the socket option {name}: {error}; {missing}"));
        }
        outcome.is_ok()
    }

    pub(super) fn count_drops(&mut self) {
        self.set(sockopt::RxqOvfl, &1, "SO_RXQ_OVFL", "datagrams dropped by the kernel are not counted");
    }

    pub(super) fn receive_buffer(&mut self) {
        let size = RECEIVE_BUFFER;
        // Without CAP_NET_ADMIN, net.core.rmem_max is the limit.
        if setsockopt(&self.descriptor, sockopt::RcvBufForce, &size).is_err()
            && self.set(sockopt::RcvBuf, &size, "SO_RCVBUF", "requests may be dropped during bursts")
        {
            self.note_smaller_buffer(sockopt::RcvBuf, size, "receive buffer", "net.core.rmem_max");
        }
    }

    pub(super) fn send_buffer(&mut self, size: usize) {
        if setsockopt(&self.descriptor, sockopt::SndBufForce, &size).is_err()
            && self.set(sockopt::SndBuf, &size, "SO_SNDBUF", "replies may be dropped")
        {
            self.note_smaller_buffer(sockopt::SndBuf, size, "send buffer", "net.core.wmem_max");
        }
    }

    /// Sets the sizes of both buffers, except for a buffer that is larger already: a service manager may have set more
    /// than this process is allowed to.
    pub(super) fn raise_buffers(&mut self, send_buffer: usize) {
        if !self.has(sockopt::RcvBuf, RECEIVE_BUFFER) {
            self.receive_buffer();
        }
        if !self.has(sockopt::SndBuf, send_buffer) {
            self.send_buffer(send_buffer);
        }
    }

    /// Whether a buffer has this size at least. The kernel doubles the requested size, and returns the doubled size.
    fn has<O: GetSockOpt<Val = usize>>(&self, option: O, size: usize) -> bool {
        getsockopt(&self.descriptor, option).is_ok_and(|granted| granted / 2 >= size)
    }

    fn note_smaller_buffer<O: GetSockOpt<Val = usize>>(
        &mut self,
        option: O,
        asked: usize,
        name: &str,
        limit: &str,
    ) {
        match getsockopt(&self.descriptor, option) {
            Ok(granted) if granted / 2 < asked => self.notices.push(format!(
                "The {name} of the socket is {} bytes instead of {asked}: raise {limit}",
                granted / 2
            )),
            _ => {}
        }
    }
}

//! Socket options, none of which keeps the server from serving.

use std::os::fd::BorrowedFd;

use nix::sys::socket::{GetSockOpt, SetSockOpt, getsockopt, setsockopt, sockopt};

/// How many bytes of received datagrams the kernel is asked to hold, which it then doubles: some 5000
/// requests, which a pause of 20 ms fills under a full load. More would make answers old under overload.
const RECEIVE_BUFFER: usize = 2 << 20;

/// Sets the options of a socket that is being made.
pub(super) struct SocketOptions<'a> {
    descriptor: BorrowedFd<'a>,
    /// What the system refuses, a line each.
    pub(super) warnings: Vec<String>,
    /// What the system grants less of, a line each.
    pub(super) notices: Vec<String>,
}

impl<'a> SocketOptions<'a> {
    pub(super) fn of(descriptor: BorrowedFd<'a>) -> Self {
        Self { descriptor, warnings: Vec::new(), notices: Vec::new() }
    }

    /// Sets an option and returns whether that worked; if not, `missing` says what that means.
    pub(super) fn set<O: SetSockOpt>(
        &mut self,
        option: O,
        value: &O::Val,
        name: &str,
        missing: &str,
    ) -> bool {
        let outcome = setsockopt(&self.descriptor, option, value);
        if let Err(error) = outcome {
            self.warnings.push(format!("the system refuses the socket option {name}: {error}; {missing}"));
        }
        outcome.is_ok()
    }

    pub(super) fn receive_buffer(&mut self) {
        let size = RECEIVE_BUFFER;
        // Beyond net.core.rmem_max with the right to, up to that without.
        if setsockopt(&self.descriptor, sockopt::RcvBufForce, &size).is_err()
            && self.set(sockopt::RcvBuf, &size, "SO_RCVBUF", "bursts of requests may be dropped")
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

    fn note_smaller_buffer<O: GetSockOpt<Val = usize>>(
        &mut self,
        option: O,
        asked: usize,
        name: &str,
        limit: &str,
    ) {
        // The kernel doubles what it is asked for, and returns the double.
        match getsockopt(&self.descriptor, option) {
            Ok(granted) if granted / 2 < asked => self.notices.push(format!(
                "The {name} of the socket has {} bytes instead of {asked}; {limit} limits it.",
                granted / 2
            )),
            // Not knowing changes nothing.
            _ => {}
        }
    }
}

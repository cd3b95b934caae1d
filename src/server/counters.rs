//! What was not answered, and the line of the log that says so.

use tracing::info;

/// What was received and not answered, and why. A reply that gets lost on its way is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnansweredCounters {
    /// Datagrams that get no reply by the rules of the protocol.
    pub(crate) ignored: u64,
    /// Requests that waited too long for the engine.
    pub(crate) shed: u64,
    /// Replies that the system refused to send.
    pub(crate) unsent: u64,
    /// Replies that were dropped because the send buffers were full.
    pub(crate) without_room: u64,
    /// Datagrams that the kernel dropped for lack of room in the socket.
    pub(crate) dropped_by_kernel: u64,
    /// Datagrams from networks that are not allowed.
    pub(crate) denied: u64,
    /// Datagrams and replies beyond a rate limit. In the mode that only reports, these were answered.
    pub(crate) exceeding: u64,
}

impl UnansweredCounters {
    /// Says in the log what has been added to what was there before, if anything. `only_reports`: whether
    /// what exceeds a rate limit is only reported.
    pub(super) fn report_since(&self, before: &Self, only_reports: bool) {
        if self == before {
            return;
        }
        let Self { ignored, shed, unsent, without_room, dropped_by_kernel, denied, exceeding } = before;
        let without_room = match self.without_room - without_room {
            0 => String::new(),
            dropped => format!(", {dropped} replies dropped because the send buffer was full"),
        };
        let denied = match self.denied - denied {
            0 => String::new(),
            denied => format!(", {denied} datagrams from networks that are not allowed"),
        };
        let exceeding = match self.exceeding - exceeding {
            0 => String::new(),
            exceeding if only_reports => format!("; {exceeding} would have been dropped beyond a rate limit"),
            exceeding => format!(", {exceeding} dropped beyond a rate limit"),
        };
        info!(
            "Not answered since the last such line: {} datagrams dropped by the kernel for want of room, {} requests \
             shed since the database was too slow, {} replies refused by the system, {} datagrams that get no \
             reply{without_room}{denied}{exceeding}",
            self.dropped_by_kernel - dropped_by_kernel,
            self.shed - shed,
            self.unsent - unsent,
            self.ignored - ignored,
        );
    }
}

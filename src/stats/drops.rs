//! Datagrams and replies that were dropped, by cause.

use std::collections::BTreeMap;

use super::Counter;

/// The cause of a drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropCause {
    /// The kernel dropped datagrams because the receive buffer was full.
    ReceiveBuffer,
    /// The send buffers were full.
    SendBuffer,
    /// The system refused to send the reply.
    SendError,
    /// The request waited too long for the engine.
    Shed,
    /// The network is not allowed.
    DeniedNetwork,
    /// Beyond `RateLimit`.
    RateLimit,
    /// Beyond `RateLimitErrors`.
    RateLimitErrors,
    /// Beyond `RateLimitWrites`.
    RateLimitWrites,
    /// The datagram is a reply, which is never answered.
    Reply,
    /// The datagram is empty, or comes from port 0.
    Empty,
}

impl DropCause {
    /// All causes.
    pub(crate) const ALL: [Self; 10] = [
        Self::ReceiveBuffer,
        Self::SendBuffer,
        Self::SendError,
        Self::Shed,
        Self::DeniedNetwork,
        Self::RateLimit,
        Self::RateLimitErrors,
        Self::RateLimitWrites,
        Self::Reply,
        Self::Empty,
    ];

    /// The name in reports and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ReceiveBuffer => "receive_buffer",
            Self::SendBuffer => "send_buffer",
            Self::SendError => "send_error",
            Self::Shed => "shed",
            Self::DeniedNetwork => "denied_network",
            Self::RateLimit => "rate_limit",
            Self::RateLimitErrors => "rate_limit_errors",
            Self::RateLimitWrites => "rate_limit_writes",
            Self::Reply => "reply",
            Self::Empty => "empty",
        }
    }

    /// Whether the server or its machine lacked the capacity to answer. The other drops are intended.
    pub(crate) const fn is_loss(self) -> bool {
        matches!(self, Self::ReceiveBuffer | Self::SendBuffer | Self::Shed)
    }
}

/// The number of drops by cause.
#[derive(Debug, Default)]
pub(crate) struct DropCounts([Counter; DropCause::ALL.len()]);

impl DropCounts {
    /// Counts drops.
    pub(crate) fn add(&self, cause: DropCause, amount: u64) {
        self.0[cause as usize].add(amount);
    }

    /// Returns the number of drops of a cause.
    pub(crate) fn get(&self, cause: DropCause) -> u64 {
        self.0[cause as usize].get()
    }

    /// Returns the number of all drops.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }

    /// Returns the number of drops for lack of capacity.
    pub(crate) fn lost(&self) -> u64 {
        DropCause::ALL.into_iter().filter(|cause| cause.is_loss()).map(|cause| self.get(cause)).sum()
    }

    /// Returns all numbers by name.
    pub(crate) fn report(&self) -> BTreeMap<String, u64> {
        DropCause::ALL.into_iter().map(|cause| (cause.name().to_owned(), self.get(cause))).collect()
    }
}

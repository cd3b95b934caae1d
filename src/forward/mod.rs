//! Forwarding: passes reports and whitelistings that the engine has accepted on to other servers.
//!
//! The server loop hands accepted digests over and never waits. Everything else happens in a thread of its own: each server
//! has a queue, a state and timers of its own.

mod batcher;
mod channel;
mod connection;
mod delivery;
mod forwarder;
mod intake;
mod lines;
pub(crate) mod origin;
mod report;
mod senders;
mod shortfall;
mod task;
mod tasks;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod unit_queue;

use std::time::Duration;

pub(crate) use self::forwarder::Forwarder;
pub(crate) use self::report::{ForwardState, ForwardStatus};
pub(crate) use self::senders::ForwardFrom;
use crate::record::TallyKind;
use crate::remotes::DirectorySource;
pub(crate) use crate::stats::ForwardCounts;
use pyzor_wire::digest::Digest;
use pyzor_wire::forward_id::{ForwardId, ForwardOrigin};

/// The most digests in one request of ours. Servers limit requests in ways that are not known; this is what the
/// established server sends.
pub(crate) const DIGESTS_PER_REQUEST: usize = 10;

/// The settings of forwarding.
#[derive(Clone, Debug)]
pub(crate) struct ForwardSettings {
    /// The homedir of a client that names the servers.
    pub(crate) source: DirectorySource,
    /// Whether reports are forwarded.
    pub(crate) reports: bool,
    /// Whether whitelistings are forwarded.
    pub(crate) whitelists: bool,
    /// The longest time that a digest waits for a request to be filled.
    pub(crate) delay: Duration,
    /// How often an unanswered request is sent again.
    pub(crate) retries: u32,
    /// The most digests that wait for one server.
    pub(crate) queue: usize,
    /// The most requests per second to a server that has come back, until its queue is empty.
    pub(crate) rate: u32,
    /// The origin that several processes share; none: the one in the homedir.
    pub(crate) origin: Option<ForwardOrigin>,
}

/// A forwarded request that is passed on as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForwardUnit {
    /// The id for the next server: the hops include this server.
    pub(crate) id: ForwardId,
    pub(crate) kind: TallyKind,
    /// The digests, in the order received. At most [`DIGESTS_PER_REQUEST`].
    pub(crate) digests: Vec<Digest>,
}

/// Accepted digests that the loop gathers before it hands them over.
#[derive(Debug, Default)]
pub(crate) struct ForwardBuffer {
    pub(crate) reports: Vec<Digest>,
    pub(crate) whitelists: Vec<Digest>,
    pub(crate) units: Vec<ForwardUnit>,
}

impl ForwardBuffer {
    /// Whether there is nothing to forward.
    pub(crate) fn is_empty(&self) -> bool {
        self.reports.is_empty() && self.whitelists.is_empty() && self.units.is_empty()
    }
}

/// Takes accepted digests from the server loop.
pub(crate) trait ForwardSink: Send + Sync {
    /// The origin of the requests of this server. A request of this origin has been counted here.
    fn origin(&self) -> ForwardOrigin;

    /// Whether this process has sent a request of its own origin with this number.
    fn has_sent(&self, number: u64) -> bool;

    /// Whether this kind is forwarded.
    fn wants(&self, kind: TallyKind) -> bool;

    /// Takes everything out of the buffer, which keeps its capacity. Never waits: what the queues cannot hold is dropped
    /// and counted.
    fn hand_over(&self, buffer: &mut ForwardBuffer);
}

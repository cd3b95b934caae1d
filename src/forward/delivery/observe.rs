//! What operators and the task see of delivery.

use std::time::{Duration, Instant};

use super::Delivery;
use crate::forward::ForwardState;
use crate::stats::ForwardCounts;

impl Delivery {
    /// Whether nothing is expected of the server any more.
    pub(in crate::forward) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.again.is_empty()
    }

    /// The state of the server.
    pub(in crate::forward) fn state(&self) -> ForwardState {
        self.state
    }

    /// The time since when the server is in its state.
    pub(in crate::forward) fn since(&self) -> Instant {
        self.since
    }

    /// The longest wait for a reply.
    pub(in crate::forward) fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// The name of the account.
    pub(in crate::forward) fn user(&self) -> &str {
        self.settings.signer.user()
    }

    /// The number of requests that wait for a reply.
    pub(in crate::forward) fn in_flight(&self) -> usize {
        self.flights().count()
    }

    /// The reason why the server is unavailable.
    pub(in crate::forward) fn outage_reason(&self) -> Option<&str> {
        (self.state == ForwardState::Unavailable).then_some(&*self.reason)
    }

    /// The code of the last refusal, if it was in the last minute.
    pub(in crate::forward) fn last_refusal(&self, now: Instant) -> Option<u16> {
        self.tally.last_refusal(now)
    }

    /// Digests refused in the last minute.
    pub(in crate::forward) fn refused_recently(&self, now: Instant) -> u64 {
        self.tally.refused_recently(now)
    }

    /// The counters, without dropped digests.
    pub(in crate::forward) fn counts(&self) -> &ForwardCounts {
        self.tally.counts()
    }
}

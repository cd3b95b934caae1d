//! What operators and the task see of delivery.

use std::time::{Duration, Instant};

use pyzor_wire::request_writer::Signer;

use super::{Delivery, WINDOW};
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

    /// The time since when the server is in its state, for operators: an outage goes on if pings alone are answered.
    pub(in crate::forward) fn shown_since(&self) -> Instant {
        self.outage.filter(|_| self.state == ForwardState::Unavailable).unwrap_or(self.since)
    }

    /// The longest wait for a reply.
    pub(in crate::forward) fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// The account.
    pub(in crate::forward) fn signer(&self) -> &Signer {
        &self.settings.signer
    }

    /// Whether replies and further requests may wait a moment, because something is under way, and the window has room.
    pub(in crate::forward) fn may_pause(&self) -> bool {
        self.state == ForwardState::Available && (1..WINDOW / 2).contains(&self.in_flight.len())
    }

    /// The number of requests that wait for a reply.
    pub(in crate::forward) fn in_flight(&self) -> usize {
        self.flights().count()
    }

    /// The reason why the server is unavailable.
    pub(in crate::forward) fn outage_reason(&self) -> Option<&str> {
        (self.state == ForwardState::Unavailable).then_some(&*self.reason)
    }

    /// The code and the account of the last refusal, if it was in the last minute.
    pub(in crate::forward) fn last_refusal(&self, now: Instant) -> Option<(u16, &Signer)> {
        self.tally.last_refusal(now)
    }

    /// Digests refused in the last minute.
    pub(in crate::forward) fn refused_recently(&self, now: Instant) -> u64 {
        self.tally.refused_recently(now)
    }

    /// Digests accepted in the last minute.
    pub(in crate::forward) fn accepted_recently(&self, now: Instant) -> u64 {
        self.tally.accepted_recently(now)
    }

    /// Digests without a reply in the last minute.
    pub(in crate::forward) fn silent_recently(&self, now: Instant) -> u64 {
        self.tally.silent_recently(now)
    }

    /// The counters, without dropped digests.
    pub(in crate::forward) fn counts(&self) -> &ForwardCounts {
        self.tally.counts()
    }
}

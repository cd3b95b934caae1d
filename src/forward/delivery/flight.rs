//! A request under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyzor_wire::request_writer::Signer;

use crate::forward::ForwardUnit;

/// The pause before the first repetition; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The age from which on a request is not repeated: receivers refuse what was signed 300 s ago.
const OLDEST: Duration = Duration::from_secs(240);

/// A request that was sent, or is about to be.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) thread: u16,
    pub(super) unit: Arc<ForwardUnit>,
    /// The account that has signed it.
    pub(super) signer: Arc<Signer>,
    /// The bytes, which are the same in repetitions unless the account has changed.
    pub(super) datagram: Vec<u8>,
    pub(super) first_sent: Instant,
    pub(super) last_sent: Instant,
    /// Whether it was sent at all.
    pub(super) has_left: bool,
    /// How often it was sent since it was new, or since the last outage.
    pub(super) sendings: u32,
}

impl Flight {
    /// The number of digests.
    pub(super) fn digests(&self) -> u64 {
        self.unit.digests.len() as u64
    }

    /// Returns the time of the next repetition; none if there is none.
    pub(super) fn repetition(&self, retries: u32) -> Option<Instant> {
        let made = self.sendings.saturating_sub(1);
        (made < retries).then(|| self.last_sent + FIRST_PAUSE * (1 << made.min(16)))
    }

    /// Returns the time from which on the request is silent: `timeout` after it was sent for the last time.
    pub(super) fn deadline(&self, timeout: Duration) -> Instant {
        self.last_sent + timeout
    }

    /// Returns the time at which an outage has lasted too long for this request: it is silent then.
    pub(super) fn expiry(&self, retries: u32, timeout: Duration) -> Instant {
        if retries == 0 { self.deadline(timeout) } else { self.first_sent + OLDEST }
    }
}

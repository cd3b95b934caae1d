//! The pause before a server that replies to pings is sent a request again.

use std::time::{Duration, Instant};

/// The pause after the first failed trial. It doubles with each.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);
/// A server that took requests for this time begins without a pause.
pub(crate) const STEADY: Duration = Duration::from_secs(60);

/// Keeps the requests few to a server that replies to pings in time, but not to requests. Errors of the network cause no
/// pause: they end requests at once.
#[derive(Debug, Default)]
pub(crate) struct TrialPause {
    pause: Duration,
    /// The pause before the outage.
    earlier: Duration,
    not_before: Option<Instant>,
}

impl TrialPause {
    /// The server becomes unavailable by silence. `is_first`: after it has replied for a while, or was never tried.
    pub(crate) fn begin(&mut self, is_first: bool, now: Instant) {
        self.earlier = self.pause;
        self.pause = if is_first { Duration::ZERO } else { (self.pause * 2).clamp(FIRST, LONGEST) };
        self.not_before = Some(now + self.pause);
    }

    /// The server has replied to a request that was under way: requests may be sent, and the outage does not count.
    pub(crate) fn forgive(&mut self) {
        (self.pause, self.not_before) = (self.earlier, None);
    }

    /// Whether a request may be sent on trial.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|time| now >= time)
    }
}

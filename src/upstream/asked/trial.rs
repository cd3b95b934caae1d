//! The pause before a server that replies to pings is asked a question again.

use std::time::{Duration, Instant};

use crate::upstream::UpstreamState;

/// The pause after the first failed trial. It doubles with each.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);
/// A server that was available for this time begins with the first pause.
const STEADY: Duration = Duration::from_secs(60);

/// Keeps the questions few to a server that replies to pings in time, but not to questions. Errors of the network cause no
/// pause: they end questions at once.
#[derive(Debug, Default)]
pub(super) struct TrialPause {
    pause: Duration,
    not_before: Option<Instant>,
}

impl TrialPause {
    /// The server becomes unavailable by silence, after it was in this state since a time.
    pub(super) fn fall(&mut self, state: UpstreamState, since: Instant, now: Instant) {
        let is_steady = match state {
            UpstreamState::Untried => true,
            UpstreamState::Available => now.saturating_duration_since(since) >= STEADY,
            UpstreamState::OnTrial | UpstreamState::Unavailable => false,
        };
        self.pause = if is_steady { Duration::ZERO } else { (self.pause * 2).clamp(FIRST, LONGEST) };
        self.not_before = Some(now + self.pause);
    }

    /// Whether a question may be sent on trial.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|time| now >= time)
    }
}

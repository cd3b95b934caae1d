//! What became of the questions to one server.

use std::time::{Duration, Instant};

use crate::stats::{LastMinute, UpstreamServerCounts};

/// How long a refusal is shown as the state of a server.
const SHOWN: Duration = Duration::from_secs(60);

/// Counters of one server. Each question that was sent becomes answered, refused or silent once.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counts: UpstreamServerCounts,
    pub(super) answered_recently: LastMinute,
    pub(super) refused_recently: LastMinute,
    pub(super) silent_recently: LastMinute,
    /// The code and the time of the last refusal.
    last_refusal: Option<(u16, Instant)>,
}

impl Tally {
    /// Counts a question.
    pub(super) fn sent(&mut self) {
        self.counts.sent += 1;
    }

    /// Counts a question that was answered with counts.
    pub(super) fn answered(&mut self, now: Instant) {
        self.counts.answered += 1;
        self.answered_recently.add(1, now);
    }

    /// Counts a question that was refused.
    pub(super) fn refused(&mut self, code: u16, now: Instant) {
        self.counts.refuse(code);
        self.refused_recently.add(1, now);
        self.last_refusal = Some((code, now));
    }

    /// Counts a question without a reply.
    pub(super) fn silent(&mut self, now: Instant) {
        self.counts.silent += 1;
        self.silent_recently.add(1, now);
    }

    /// Counts a datagram that is no reply to anything under way.
    pub(super) fn unmatched(&mut self) {
        self.counts.unmatched += 1;
    }

    /// Forgets the refusals of the last minute, but does not change the counters.
    pub(super) fn forget_refusals(&mut self) {
        (self.refused_recently, self.last_refusal) = (LastMinute::default(), None);
    }

    /// The code of the last refusal, if it was in the last minute.
    pub(super) fn last_refusal(&self, now: Instant) -> Option<u16> {
        self.last_refusal.filter(|(_, at)| now.saturating_duration_since(*at) < SHOWN).map(|(code, _)| code)
    }
}

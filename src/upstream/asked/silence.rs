//! Questions without a reply in a row.

use std::time::{Duration, Instant};

/// The number of silent bursts in a row after which a server is unavailable.
pub(super) const SILENT_IN_ROW: u32 = 3;
/// Questions that were sent this soon after the first of a burst belong to it: one lost burst says little.
const BURST: Duration = Duration::from_millis(250);

/// Bursts of questions without a reply, of those that were sent after the last one with a reply.
///
/// The order is that of sending: a reply comes sooner than silence is certain, so that questions lost here and there in a
/// stream of answered ones would otherwise seem to be in a row at its end.
#[derive(Debug, Default)]
pub(super) struct SilentBursts {
    /// The time at which the last question with a reply was sent.
    answered: Option<Instant>,
    number: u32,
    /// The time at which the first question of the last burst was sent.
    first: Option<Instant>,
}

impl SilentBursts {
    /// Adds a question that was sent at this time. Returns whether there are too many now.
    pub(super) fn add(&mut self, sent: Instant) -> bool {
        if self.answered.is_some_and(|answered| sent <= answered) {
            return false;
        }
        if self.first.is_none_or(|first| sent.saturating_duration_since(first) >= BURST) {
            self.first = Some(sent);
            self.number += 1;
        }
        self.number >= SILENT_IN_ROW
    }

    /// The server has replied in time to a question that was sent at this time.
    pub(super) fn end(&mut self, sent: Instant) {
        *self = Self { answered: self.answered.max(Some(sent)), ..Self::default() };
    }

    /// Begins again with the next question.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

//! Decides which checks get a second opinion, and keeps those that wait for one.

use std::time::Instant;

use pyzor_wire::digest::Digest;
use pyzor_wire::reply::RecordCounts;

use super::{UpstreamAnswer, UpstreamSettings};
use crate::stats::DeclineCause;

/// What a check that found nothing in the database gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consultation {
    /// These counts, from the cache. They may be 0.
    Known(RecordCounts),
    /// The answer to a question, which must be sent.
    Ask,
    /// The answer to a question under way.
    Join,
    /// The plain miss, at once.
    Declined(DeclineCause),
}

/// The cache, the questions under way and the checks `W` that wait for their answers.
pub(crate) struct Desk<W> {
    waiting: Vec<W>,
}

impl<W> Desk<W> {
    pub(crate) fn new(_settings: &UpstreamSettings, _now: Instant) -> Self {
        Self { waiting: Vec::new() }
    }

    /// Decides on a check. Unless it is declined or known, [`Desk::wait`] must follow.
    pub(crate) fn consult(&mut self, _digest: Digest, _is_available: bool, _now: Instant) -> Consultation {
        Consultation::Declined(DeclineCause::Unavailable)
    }

    /// Keeps a check until the answer to the question about its digest.
    pub(crate) fn wait(&mut self, _digest: Digest, check: W) {
        self.waiting.push(check);
    }

    /// Takes an answer. Returns the checks that waited for it.
    pub(crate) fn take(&mut self, _answer: UpstreamAnswer, _now: Instant) -> Vec<W> {
        std::mem::take(&mut self.waiting)
    }
}

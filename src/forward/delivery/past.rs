//! Threads of earlier requests, to which replies may still come.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a thread is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The most threads that are remembered. The oldest are forgotten.
const MOST: usize = 256;

/// The last threads, each with a time.
#[derive(Debug, Default)]
pub(super) struct PastThreads(VecDeque<(u16, Instant)>);

impl PastThreads {
    /// Adds a thread, and forgets those that are too old.
    pub(super) fn add(&mut self, thread: u16, now: Instant) {
        let is_old = |time: &Instant| now.saturating_duration_since(*time) >= REMEMBERED;
        while self.0.len() >= MOST || self.0.front().is_some_and(|(_, time)| is_old(time)) {
            self.0.pop_front();
        }
        self.0.push_back((thread, now));
    }

    /// Whether the thread is remembered.
    pub(super) fn has(&self, thread: u16) -> bool {
        self.0.iter().any(|(other, _)| *other == thread)
    }

    /// Forgets a thread. Returns its time.
    pub(super) fn take(&mut self, thread: u16) -> Option<Instant> {
        let index = self.0.iter().position(|(other, _)| *other == thread)?;
        self.0.remove(index).map(|(_, time)| time)
    }
}

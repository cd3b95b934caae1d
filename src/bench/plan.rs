//! What is to be measured.

use super::choice::Source;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pace {
    /// One for each reply, with so many outstanding.
    Closed {
        /// How many.
        window: usize,
    },
    /// So many a second, whatever the replies.
    Open {
        /// How many.
        rate: f64,
    },
}

/// When it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// After so many nanoseconds.
    After(u64),
    /// With so many requests, and their replies.
    Count(u64),
}

/// What is to be measured. Times are in nanoseconds.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) source: Source,
    pub(super) pace: Pace,
    pub(super) warm_up: u64,
    pub(super) end: End,
    /// How often to tell how it goes.
    pub(super) interval: Option<u64>,
}

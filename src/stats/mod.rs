//! Counters of the server's work since its start.
//!
//! The server loop writes them, and other tasks read them at the same time. Each number stands alone, so relaxed atomic
//! loads and stores are enough, and an addition needs no locked instruction.

mod drops;
mod forwarding;
mod histogram;
mod last_minute;
mod report;
mod upstream;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

pub(crate) use self::drops::{DropCause, DropCounts};
pub(crate) use self::forwarding::{ForwardCounts, OTHER_CODE};
pub(crate) use self::histogram::{Histogram, HistogramReport};
pub(crate) use self::last_minute::LastMinute;
pub(crate) use self::report::StatsReport;
pub(crate) use self::upstream::{DeclineCause, UpstreamCounters, UpstreamCounts, UpstreamServerCounts};
use pyzor_wire::op::Op;

/// The codes of replies, in ascending order.
pub(crate) const CODES: [u16; 7] = [200, 400, 401, 403, 500, 501, 505];
/// The number of operations, with one for all unknown names.
const OPS: usize = Op::ALL.len() + 1;
/// The name of all unknown operations in reports.
pub(crate) const OTHER_OP: &str = "other";
/// The number of samples that are kept, one per second.
const SAMPLES: usize = 60;

/// A number that only the server loop changes.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds an amount. Must be called by a single thread: with two, additions are lost.
    pub(crate) fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Replaces the number.
    pub(crate) fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// Returns the number.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of a server.
#[derive(Debug)]
pub(crate) struct ServerStats {
    started: Instant,
    /// Replies by operation and code.
    requests: [[Counter; CODES.len()]; OPS],
    /// Answered checks that found a report or a whitelisting.
    pub(crate) check_hits: Counter,
    /// Answered checks that found neither.
    pub(crate) check_misses: Counter,
    /// Requests of the anonymous user, refused ones included.
    pub(crate) anonymous: Counter,
    /// Requests of accounts, refused ones included.
    pub(crate) accounts: Counter,
    /// Copies of signed requests that were recognized, and not counted again.
    pub(crate) replays: Counter,
    /// Copies of forwarded requests that were recognized by their ids, and not counted again.
    pub(crate) forward_copies: Counter,
    /// Second opinions on checks that found nothing.
    pub(crate) upstream: UpstreamCounters,
    /// Datagrams and replies that were dropped.
    pub(crate) drops: DropCounts,
    /// The number of times each rate limit was exceeded, in the order of `RateLimit`.
    pub(crate) exceeded: [Counter; 3],
    /// Batches of the engine that panicked.
    pub(crate) engine_panics: Counter,
    /// The number of datagrams in each received batch.
    pub(crate) received: Histogram,
    /// The number of requests in each batch for the engine.
    pub(crate) batches: Histogram,
    /// The duration of each batch in the engine, in microseconds.
    pub(crate) engine_time: Histogram,
    /// The time from the receipt of a request to its reply, in microseconds, without checks that waited for other servers.
    pub(crate) latency: Histogram,
    /// The totals of the last minute, one sample per second.
    history: Mutex<VecDeque<Totals>>,
}

/// The totals at one moment.
#[derive(Clone, Copy, Debug)]
struct Totals {
    at: Instant,
    requests: u64,
    lost: u64,
}

/// The recent work of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RecentWork {
    /// Replies per second, in the last ten seconds.
    pub(crate) requests_per_second: f64,
    /// Requests and replies lost for lack of capacity in the last minute: see [`DropCause::is_loss`].
    pub(crate) lost: u64,
    /// Replies in the last minute.
    pub(crate) replies: u64,
}

impl Default for ServerStats {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            requests: Default::default(),
            check_hits: Counter::default(),
            check_misses: Counter::default(),
            anonymous: Counter::default(),
            accounts: Counter::default(),
            replays: Counter::default(),
            forward_copies: Counter::default(),
            upstream: UpstreamCounters::default(),
            drops: DropCounts::default(),
            exceeded: Default::default(),
            engine_panics: Counter::default(),
            received: Histogram::default(),
            batches: Histogram::default(),
            engine_time: Histogram::default(),
            latency: Histogram::default(),
            history: Mutex::default(),
        }
    }
}

impl ServerStats {
    /// Counts a reply. An operation that does not exist is none.
    pub(crate) fn replied(&self, op: Option<Op>, code: u16) {
        let op = op.map_or(OPS - 1, |op| op as usize);
        // Every code that a reply can have is in the table.
        if let Some(code) = CODES.iter().position(|known| *known == code) {
            self.requests[op][code].add(1);
        }
    }

    /// The number of replies.
    pub(crate) fn replies(&self) -> u64 {
        self.requests.iter().flatten().map(Counter::get).sum()
    }

    fn totals(&self) -> Totals {
        Totals { at: Instant::now(), requests: self.replies(), lost: self.drops.lost() }
    }

    /// Records the current totals, for [`ServerStats::recent`]. Must be called once per second.
    pub(crate) fn sample(&self) {
        let sample = self.totals();
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.truncate(SAMPLES - 1);
        history.push_front(sample);
    }

    /// Returns the recent work: since the start in the first minute, and of the last minute later.
    pub(crate) fn recent(&self) -> RecentWork {
        let now = self.totals();
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Totals { at: self.started, requests: 0, lost: 0 };
        let sample = |seconds: usize| history.get(seconds - 1).copied().unwrap_or(start);
        let (before, first) = (sample(10), sample(SAMPLES));
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
        let requests = now.requests.saturating_sub(before.requests) as f64;
        RecentWork {
            requests_per_second: if seconds > 0.0 { requests / seconds } else { 0.0 },
            lost: now.lost.saturating_sub(first.lost),
            replies: now.requests.saturating_sub(first.requests),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_and_codes_have_their_own_counters() {
        let stats = ServerStats::default();
        stats.replied(Some(Op::Check), 200);
        stats.replied(Some(Op::Check), 200);
        stats.replied(Some(Op::Whitelist), 505);
        stats.replied(None, 403);
        let report = stats.report();
        let count = |op: &str, code: u16| report.requests[op][&code];
        assert_eq!((count("check", 200), count("whitelist", 505), count(OTHER_OP, 403)), (2, 1, 1));
        assert_eq!(stats.replies(), 4);
    }

    #[test]
    fn every_code_of_a_reply_is_counted() {
        use pyzor_wire::reply::Refusal::*;
        for refusal in [
            MissingVersion,
            MalformedVersion,
            InvalidDigest,
            UnknownUser,
            InvalidTime,
            TimeOutOfRange,
            InvalidSignature,
            Forbidden,
            Unavailable,
            DamagedRecord,
            NotImplemented,
            UnsupportedVersion,
        ] {
            assert!(CODES.contains(&refusal.code()), "{refusal:?}");
        }
    }

    #[test]
    fn recent_work_begins_with_the_start_and_later_covers_a_minute() {
        let stats = ServerStats::default();
        assert_eq!((stats.recent().lost, stats.recent().replies), (0, 0));
        stats.drops.add(DropCause::Shed, 2);
        stats.drops.add(DropCause::DeniedNetwork, 1);
        stats.replied(Some(Op::Ping), 200);
        let recent = stats.recent();
        assert_eq!((recent.lost, recent.replies), (2, 1));
        assert!(recent.requests_per_second > 0.0);
        for _ in 0..SAMPLES - 1 {
            stats.sample();
        }
        assert_eq!(stats.recent().lost, 2);
        for _ in 0..SAMPLES {
            stats.sample();
        }
        assert_eq!((stats.recent().lost, stats.history.lock().unwrap().len()), (0, SAMPLES));
    }
}

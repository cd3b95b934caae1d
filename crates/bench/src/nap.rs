//! Short pauses ("naps") of a closed loop with many requests outstanding.
//!
//! A wake-up for each reply costs the generator, and the server that causes it, as much time as the reply itself. A nap
//! must be short enough that the server never runs out of requests.

/// The interval at which the rate of replies is measured, in nanoseconds.
const PERIOD: u64 = 1_000_000;
/// The share of the window that may be answered during a nap.
const PART: f64 = 1.0 / 8.0;
/// The shortest nap, in nanoseconds.
const SHORTEST: f64 = 10_000.0;
/// The longest nap, in nanoseconds. Latencies are wrong by at most this much.
const LONGEST: f64 = 50_000.0;
/// The fewest replies per nap.
const LEAST: f64 = 4.0;

/// Chooses the length of naps by the rate of replies.
#[derive(Debug)]
pub(super) struct NapPlanner {
    window: f64,
    since: u64,
    replies: u64,
    nap: Option<u64>,
}

impl NapPlanner {
    /// Starts for a loop with this window. An open loop has the window 0 and never naps.
    pub(super) fn new(window: usize, now: u64) -> Self {
        Self { window: window as f64, since: now, replies: 0, nap: None }
    }

    /// Returns the length of the next nap in nanoseconds; `None` to wait for each reply. `replies` is the total so far.
    pub(super) fn nap(&mut self, replies: u64, now: u64) -> Option<u64> {
        let passed = now.saturating_sub(self.since);
        if passed >= PERIOD {
            let rate = (replies - self.replies) as f64 / passed as f64;
            let nap = (self.window * PART / rate).min(LONGEST);
            self.nap = (nap >= SHORTEST && nap * rate >= LEAST).then_some(nap as u64);
            (self.since, self.replies) = (now, replies);
        }
        self.nap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nap with this window at `rate` replies per second.
    fn nap(window: usize, rate: u64) -> Option<u64> {
        let mut naps = NapPlanner::new(window, 7);
        assert_eq!(naps.nap(0, 7), None);
        naps.nap(rate / 100, 7 + 10_000_000)
    }

    #[test]
    fn naps_need_many_outstanding_requests_and_a_fast_server() {
        assert_eq!(nap(64, 400_000), Some(20_000));
        assert_eq!(nap(1000, 400_000), Some(50_000));
        for (window, rate) in [(1, 20_000), (16, 400_000), (64, 50_000), (64, 0), (1000, 4000), (0, 200_000)]
        {
            assert_eq!(nap(window, rate), None, "{window} {rate}");
        }
    }

    #[test]
    fn naps_end_when_the_server_becomes_slow() {
        let mut naps = NapPlanner::new(64, 0);
        assert!(naps.nap(400, 1_000_000).is_some());
        assert!(naps.nap(400, 1_999_999).is_some());
        assert!(naps.nap(410, 2_000_000).is_none());
    }
}

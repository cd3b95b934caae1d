//! How long a closed loop with many requests outstanding may look away. Being woken for each reply costs the
//! generator, and the server that wakes it, as much as the reply itself; but the server must always have
//! requests at hand.

/// How long replies are counted before their rate is known anew, in nanoseconds.
const PERIOD: u64 = 1_000_000;
/// Which part of the window may be answered meanwhile.
const PART: f64 = 1.0 / 8.0;
/// The shortest and the longest nap, in nanoseconds. Latencies are wrong by no more than the latter.
const SHORTEST: f64 = 10_000.0;
const LONGEST: f64 = 50_000.0;
/// A nap is for so many replies at least.
const LEAST: f64 = 4.0;

/// Knows how fast replies come.
#[derive(Debug)]
pub(super) struct NapPlanner {
    window: f64,
    since: u64,
    replies: u64,
    nap: Option<u64>,
}

impl NapPlanner {
    /// The naps of a loop with this window, that begins now; an open loop has none.
    pub(super) fn new(window: usize, now: u64) -> Self {
        Self { window: window as f64, since: now, replies: 0, nap: None }
    }

    /// How many nanoseconds replies need not be looked for, when so many have come so far; none if each is to be
    /// waited for.
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

    /// The nap of this window after a while at so many replies a second.
    fn nap(window: usize, rate: u64) -> Option<u64> {
        let mut naps = NapPlanner::new(window, 7);
        assert_eq!(naps.nap(0, 7), None);
        naps.nap(rate / 100, 7 + 10_000_000)
    }

    #[test]
    fn naps_are_for_many_outstanding_requests_and_fast_servers_only() {
        assert_eq!(nap(64, 400_000), Some(20_000));
        assert_eq!(nap(1000, 400_000), Some(50_000));
        for (window, rate) in [(1, 20_000), (16, 400_000), (64, 50_000), (64, 0), (1000, 4000), (0, 200_000)]
        {
            assert_eq!(nap(window, rate), None, "{window} {rate}");
        }
    }

    #[test]
    fn a_server_that_becomes_slow_ends_the_naps() {
        let mut naps = NapPlanner::new(64, 0);
        assert!(naps.nap(400, 1_000_000).is_some());
        assert!(naps.nap(400, 1_999_999).is_some());
        assert!(naps.nap(410, 2_000_000).is_none());
    }
}

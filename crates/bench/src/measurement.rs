//! What is counted and timed.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hdrhistogram::Histogram;

use super::choice::op_index;
use super::outstanding::SentRequest;
use pyzor_wire::op::Op;
use pyzor_wire::reply_reader::{Code, ReceivedReply};

/// The longest time that is told from longer ones, in nanoseconds.
const LONGEST: u64 = 120_000_000_000;

/// The shortest time of which the share of a processor says anything, in nanoseconds.
const SHORTEST: u64 = 1_000_000;

/// The outcome of a measurement: of the requests that were sent in it, unless said otherwise.
#[derive(Clone, Debug)]
pub(super) struct Measurement {
    /// When the measurement began; none if it never did.
    pub(super) started: Option<SystemTime>,
    /// Requests that had to be sent: each was sent, or is unsent. Known at the end.
    pub(super) scheduled: u64,
    /// Requests that left: each was answered, or is lost.
    pub(super) sent: u64,
    pub(super) succeeded: u64,
    /// Replies that are no success, by code.
    pub(super) failed: BTreeMap<Code, u64>,
    /// Requests that were sent and not answered in time.
    pub(super) lost: u64,
    /// Replies to requests that had been given up, whenever they were sent.
    pub(super) late: u64,
    /// What came and was no reply to any request.
    pub(super) unknown: u64,
    /// Checks that were answered with a count above 0.
    pub(super) found: u64,
    /// All replies that came during the measurement, including those to requests of the warm-up.
    pub(super) arrived: u64,
    /// How long replies took, by operation in the order of [`Op::ALL`].
    latencies: [TimeHistogram; Op::ALL.len()],
    /// How long the measurement took, in nanoseconds.
    pub(super) nanoseconds: u64,
    /// How late requests of an open loop were sent.
    pub(super) lag: TimeHistogram,
    /// How much processor time this process used, in seconds, from the beginning of the measurement until all was
    /// answered or lost, or the time was over.
    pub(super) cpu_seconds: f64,
    /// How long that was, in nanoseconds.
    pub(super) cpu_nanoseconds: u64,
    /// Whether the user ended it before its time.
    pub(super) is_interrupted: bool,
}

/// TimeHistogram in nanoseconds.
pub(super) type TimeHistogram = Histogram<u64>;

/// An empty histogram of times, exact to a thousandth.
pub(super) fn time_histogram() -> TimeHistogram {
    // The bounds are fine, so the other arm is never taken.
    Histogram::new_with_bounds(1, LONGEST, 3).unwrap_or_else(|_| Histogram::new_from(&time_histogram()))
}

impl Default for Measurement {
    fn default() -> Self {
        Self {
            started: None,
            scheduled: 0,
            sent: 0,
            succeeded: 0,
            failed: BTreeMap::new(),
            lost: 0,
            late: 0,
            unknown: 0,
            found: 0,
            arrived: 0,
            latencies: std::array::from_fn(|_| time_histogram()),
            nanoseconds: 0,
            lag: time_histogram(),
            cpu_seconds: 0.0,
            cpu_nanoseconds: 0,
            is_interrupted: false,
        }
    }
}

impl Measurement {
    /// Counts a reply that came so many nanoseconds after its request.
    pub(super) fn answer(&mut self, sent: SentRequest, reply: ReceivedReply, latency: u64) {
        let code = reply.code_for(sent.op);
        match code.is_success() {
            true => self.succeeded += 1,
            false => *self.failed.entry(code).or_default() += 1,
        }
        self.found += u64::from(sent.op == Op::Check && reply.is_found);
        self.latencies[op_index(sent.op)].saturating_record(latency);
    }

    /// How many requests were not sent.
    pub(super) fn unsent(&self) -> u64 {
        self.scheduled.saturating_sub(self.sent)
    }

    /// How many requests were answered, whatever with.
    pub(super) fn answered(&self) -> u64 {
        self.succeeded + self.failed.values().sum::<u64>()
    }

    /// How long the measurement took.
    pub(super) fn seconds(&self) -> f64 {
        self.nanoseconds as f64 / 1e9
    }

    /// Replies a second.
    pub(super) fn throughput(&self) -> f64 {
        if self.nanoseconds == 0 { 0.0 } else { self.arrived as f64 / self.seconds() }
    }

    /// Which share of a processor this process used; none of too short a time.
    pub(super) fn cpu_share(&self) -> Option<f64> {
        let seconds = self.cpu_nanoseconds as f64 / 1e9;
        (self.cpu_nanoseconds >= SHORTEST).then(|| self.cpu_seconds / seconds)
    }

    /// How long replies took.
    pub(super) fn latency(&self) -> TimeHistogram {
        let mut all = time_histogram();
        for latency in &self.latencies {
            // They have the same bounds.
            let _ = all.add(latency);
        }
        all
    }

    /// How long replies to this operation took.
    pub(super) fn latency_of(&self, op: Op) -> &TimeHistogram {
        &self.latencies[op_index(op)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_processor_is_that_of_a_time_that_says_something() {
        let share = |cpu_seconds, cpu_nanoseconds| {
            Measurement { cpu_seconds, cpu_nanoseconds, nanoseconds: 20, ..Measurement::default() }
                .cpu_share()
        };
        assert_eq!(share(0.5, 2_000_000_000), Some(0.25));
        assert_eq!(share(0.0005, SHORTEST), Some(0.5));
        assert_eq!([share(0.0005, SHORTEST - 1), share(0.1, 0)], [None, None]);
    }
}

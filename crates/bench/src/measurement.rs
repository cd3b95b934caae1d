//! The counts and times of a measurement.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hdrhistogram::Histogram;

use super::choice::op_index;
use super::outstanding::SentRequest;
use pyzor_wire::op::Op;
use pyzor_wire::reply_reader::{Code, ReceivedReply};

/// The longest time that a histogram distinguishes, in nanoseconds. Longer ones count as this.
const LONGEST: u64 = 120_000_000_000;

/// The shortest time for which the share of a processor is meaningful, in nanoseconds.
const SHORTEST: u64 = 1_000_000;

/// The outcome of a measurement. Unless stated otherwise, counts are of requests sent during the measurement.
#[derive(Clone, Debug)]
pub(super) struct Measurement {
    /// The start of the measurement; `None` if it never started.
    pub(super) started: Option<SystemTime>,
    /// Requests that were due; each was sent or is unsent. Set at the end.
    pub(super) scheduled: u64,
    /// Requests that were sent; each was answered or is lost.
    pub(super) sent: u64,
    pub(super) succeeded: u64,
    /// Unsuccessful replies, by code.
    pub(super) failed: BTreeMap<Code, u64>,
    /// Requests that were not answered in time.
    pub(super) lost: u64,
    /// Replies to requests that had timed out, whenever those were sent.
    pub(super) late: u64,
    /// Datagrams that answered no outstanding request.
    pub(super) unknown: u64,
    /// Checks that were answered with a count above 0.
    pub(super) found: u64,
    /// All replies that arrived during the measurement, including those to requests of the warm-up.
    pub(super) arrived: u64,
    /// Latencies by operation, in the order of [`Op::ALL`].
    latencies: [TimeHistogram; Op::ALL.len()],
    /// The length of the measurement in nanoseconds.
    pub(super) nanoseconds: u64,
    /// Delays between the time when a request of an open loop was due and when it was sent.
    pub(super) lag: TimeHistogram,
    /// The processor time of this process in seconds, from the start of the measurement until its end; with a count,
    /// until the last request was answered or lost.
    pub(super) cpu_seconds: f64,
    /// The elapsed time for `cpu_seconds`, in nanoseconds.
    pub(super) cpu_nanoseconds: u64,
    /// Whether a signal ended the measurement early.
    pub(super) is_interrupted: bool,
}

/// A histogram of times in nanoseconds.
pub(super) type TimeHistogram = Histogram<u64>;

/// Creates an empty histogram of times, exact to a thousandth.
pub(super) fn time_histogram() -> TimeHistogram {
    // Never fails: the bounds are valid constants.
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
    /// Counts a reply. The latency is in nanoseconds.
    pub(super) fn answer(&mut self, sent: SentRequest, reply: ReceivedReply, latency: u64) {
        let code = reply.code_for(sent.op);
        match code.is_success() {
            true => self.succeeded += 1,
            false => *self.failed.entry(code).or_default() += 1,
        }
        self.found += u64::from(sent.op == Op::Check && reply.is_found);
        self.latencies[op_index(sent.op)].saturating_record(latency);
    }

    /// The number of scheduled requests that were not sent.
    pub(super) fn unsent(&self) -> u64 {
        self.scheduled.saturating_sub(self.sent)
    }

    /// The number of requests that were answered, with success or not.
    pub(super) fn answered(&self) -> u64 {
        self.succeeded + self.failed.values().sum::<u64>()
    }

    /// The length of the measurement in seconds.
    pub(super) fn seconds(&self) -> f64 {
        self.nanoseconds as f64 / 1e9
    }

    /// Replies per second.
    pub(super) fn throughput(&self) -> f64 {
        if self.nanoseconds == 0 { 0.0 } else { self.arrived as f64 / self.seconds() }
    }

    /// The share of a processor that this process used; `None` if the time is too short to tell.
    pub(super) fn cpu_share(&self) -> Option<f64> {
        let seconds = self.cpu_nanoseconds as f64 / 1e9;
        (self.cpu_nanoseconds >= SHORTEST).then(|| self.cpu_seconds / seconds)
    }

    /// The latencies of all operations together.
    pub(super) fn latency(&self) -> TimeHistogram {
        let mut all = time_histogram();
        for latency in &self.latencies {
            // Never fails: all histograms have the same bounds.
            let _ = all.add(latency);
        }
        all
    }

    /// The latencies of this operation.
    pub(super) fn latency_of(&self, op: Op) -> &TimeHistogram {
        &self.latencies[op_index(op)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_share_needs_a_minimum_time() {
        let share = |cpu_seconds, cpu_nanoseconds| {
            Measurement { cpu_seconds, cpu_nanoseconds, nanoseconds: 20, ..Measurement::default() }
                .cpu_share()
        };
        assert_eq!(share(0.5, 2_000_000_000), Some(0.25));
        assert_eq!(share(0.0005, SHORTEST), Some(0.5));
        assert_eq!([share(0.0005, SHORTEST - 1), share(0.1, 0)], [None, None]);
    }
}

//! The counters as they are reported: the JSON of `pyzorctl stats --json`, and the source of the metrics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CODES, Counter, ForwardCounts, HistogramReport, OTHER_OP, ServerStats, UpstreamCounts};
use pyzor_wire::op::Op;

/// All counters at one moment, or of a period.
///
/// Numbers are counted one after the other while the server works, so related ones can differ by the requests of that
/// moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatsReport {
    /// The length of the counted period, in seconds: since the start, unless two reports were subtracted.
    pub(crate) seconds: f64,
    /// Replies by operation and code. Operations that do not exist count as `other`.
    pub(crate) requests: BTreeMap<String, BTreeMap<u16, u64>>,
    /// Answered checks that found a report or a whitelisting.
    pub(crate) check_hits: u64,
    /// Answered checks that found neither.
    pub(crate) check_misses: u64,
    /// Requests of the anonymous user, refused ones included.
    pub(crate) anonymous: u64,
    /// Requests of accounts, refused ones included.
    pub(crate) accounts: u64,
    /// Copies of signed requests that were recognized, and not counted again.
    pub(crate) replays: u64,
    /// Copies of forwarded requests that were recognized, and neither counted nor passed on again.
    pub(crate) forward_copies: u64,
    /// Dropped datagrams and replies by cause.
    pub(crate) drops: BTreeMap<String, u64>,
    /// The number of times that each rate limit was exceeded. With `RateLimitLogOnly` these are not dropped.
    pub(crate) exceeded: BTreeMap<String, u64>,
    /// Batches of the engine that panicked.
    pub(crate) engine_panics: u64,
    /// The number of datagrams in each received batch.
    pub(crate) received: HistogramReport,
    /// The number of requests in each batch for the engine.
    pub(crate) batches: HistogramReport,
    /// The duration of each batch in the engine, in microseconds.
    pub(crate) engine_micros: HistogramReport,
    /// The time from the receipt of a request to its reply, in microseconds. Checks that waited for other servers are
    /// not among them.
    pub(crate) latency_micros: HistogramReport,
    /// What was forwarded to each server, by its host and port in the servers file. Empty if nothing is forwarded.
    pub(crate) forwarding: BTreeMap<String, ForwardCounts>,
    /// Second opinions on checks that found nothing; none if no server is asked for them.
    pub(crate) upstream: Option<UpstreamCounts>,
}

/// The options of the rate limits, in the order of `RateLimit`.
const LIMITS: [&str; 3] = ["RateLimit", "RateLimitErrors", "RateLimitWrites"];

impl ServerStats {
    /// Returns all counters but those of forwarding and of second opinions.
    pub(crate) fn report(&self) -> StatsReport {
        let names = Op::ALL.into_iter().map(Op::name).chain([OTHER_OP]);
        let codes = |counters: &[Counter; CODES.len()]| {
            CODES.into_iter().zip(counters.each_ref().map(Counter::get)).collect::<BTreeMap<_, _>>()
        };
        StatsReport {
            seconds: self.started.elapsed().as_secs_f64(),
            requests: names.zip(&self.requests).map(|(op, row)| (op.to_owned(), codes(row))).collect(),
            check_hits: self.check_hits.get(),
            check_misses: self.check_misses.get(),
            anonymous: self.anonymous.get(),
            accounts: self.accounts.get(),
            replays: self.replays.get(),
            forward_copies: self.forward_copies.get(),
            drops: self.drops.report(),
            exceeded: LIMITS
                .map(str::to_owned)
                .into_iter()
                .zip(self.exceeded.each_ref().map(Counter::get))
                .collect(),
            engine_panics: self.engine_panics.get(),
            received: self.received.report(),
            batches: self.batches.report(),
            engine_micros: self.engine_time.report(),
            latency_micros: self.latency.report(),
            // Counted elsewhere: one loop does not write these.
            forwarding: BTreeMap::new(),
            upstream: None,
        }
    }
}

impl StatsReport {
    /// Returns the number of replies.
    pub(crate) fn replies(&self) -> u64 {
        self.requests.values().flat_map(BTreeMap::values).fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns the number of dropped datagrams and replies.
    pub(crate) fn dropped(&self) -> u64 {
        self.drops.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns what was counted since an earlier report of the same server. All zero if `earlier` is later.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let names = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let since = |(name, count): (&String, &u64)| {
                (name.clone(), count.saturating_sub(before.get(name).copied().unwrap_or(0)))
            };
            now.iter().map(since).collect()
        };
        let requests = self.requests.iter().map(|(op, codes)| {
            let before =
                |code: &u16| earlier.requests.get(op).and_then(|codes| codes.get(code)).copied().unwrap_or(0);
            let codes = codes.iter().map(|(code, count)| (*code, count.saturating_sub(before(code))));
            (op.clone(), codes.collect())
        });
        let forwarding = self.forwarding.iter().map(|(server, counts)| {
            let since = earlier.forwarding.get(server).map(|before| counts.since(before));
            (server.clone(), since.unwrap_or_else(|| counts.clone()))
        });
        Self {
            seconds: (self.seconds - earlier.seconds).max(0.0),
            requests: requests.collect(),
            check_hits: self.check_hits.saturating_sub(earlier.check_hits),
            check_misses: self.check_misses.saturating_sub(earlier.check_misses),
            anonymous: self.anonymous.saturating_sub(earlier.anonymous),
            accounts: self.accounts.saturating_sub(earlier.accounts),
            replays: self.replays.saturating_sub(earlier.replays),
            forward_copies: self.forward_copies.saturating_sub(earlier.forward_copies),
            drops: names(&self.drops, &earlier.drops),
            exceeded: names(&self.exceeded, &earlier.exceeded),
            engine_panics: self.engine_panics.saturating_sub(earlier.engine_panics),
            received: self.received.since(&earlier.received),
            batches: self.batches.since(&earlier.batches),
            engine_micros: self.engine_micros.since(&earlier.engine_micros),
            latency_micros: self.latency_micros.since(&earlier.latency_micros),
            forwarding: forwarding.collect(),
            upstream: self.upstream.as_ref().map(|counts| {
                earlier.upstream.as_ref().map_or_else(|| counts.clone(), |before| counts.since(before))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::DropCause;

    #[test]
    fn difference_of_two_reports_is_what_was_counted_between() {
        let stats = ServerStats::default();
        stats.replied(Some(Op::Check), 200);
        stats.check_misses.add(1);
        stats.drops.add(DropCause::Reply, 3);
        let before = stats.report();
        stats.replied(Some(Op::Check), 200);
        stats.replied(Some(Op::Report), 403);
        stats.exceeded[1].add(4);
        stats.latency.add(70, 2);
        let between = stats.report().since(&before);
        assert_eq!((between.replies(), between.dropped(), between.check_misses), (2, 0, 0));
        assert_eq!((between.requests["check"][&200], between.requests["report"][&403]), (1, 1));
        assert_eq!((between.exceeded["RateLimitErrors"], between.latency_micros.count), (4, 2));
    }

    #[test]
    fn report_survives_json() {
        let stats = ServerStats::default();
        stats.replied(None, 501);
        stats.received.add(u64::MAX, 1);
        let report = stats.report();
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<StatsReport>(&text).unwrap(), report);
    }
}

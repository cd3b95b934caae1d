//! The counters of a server, for operators.

use std::collections::{BTreeMap, BTreeSet};

use super::forwarding;
use super::layout::{labelled, table};
use super::upstream;
use crate::control::figures::{grouped, long_period, micros, printable, rate};
use crate::stats::{HistogramReport, StatsReport};

/// Returns all counters as tables. Counters that are zero are left out where many of them can be.
pub(super) fn render(stats: &StatsReport) -> String {
    let replies = stats.replies();
    let mut text = format!(
        "{} replies in {} ({} per second)\n\n",
        grouped(replies),
        long_period(stats.seconds.max(0.0) as u64),
        rate(replies as f64 / stats.seconds)
    );
    text += &requests(&stats.requests);
    if replies > 0 {
        text.push('\n');
    }
    let limits = counts(&stats.exceeded);
    let mut lines = vec![
        ("checks", hits(stats)),
        ("users", format!("anonymous {}, accounts {}", grouped(stats.anonymous), grouped(stats.accounts))),
        ("drops", counts(&stats.drops)),
        ("limits", if limits == "none" { "none exceeded".to_owned() } else { format!("exceeded: {limits}") }),
        ("latency", durations(&stats.latency_micros)),
        ("engine time", durations(&stats.engine_micros)),
        ("batches", sizes(&stats.batches, "requests for the engine")),
        ("received", sizes(&stats.received, "datagrams")),
    ];
    if stats.replays > 0 {
        lines.push(("replays", format!("{} not counted again", grouped(stats.replays))));
    }
    if stats.forward_copies > 0 {
        let copies = grouped(stats.forward_copies);
        lines.push(("copies", format!("{copies} forwarded requests not counted again")));
    }
    if stats.engine_panics > 0 {
        lines.push((
            "panics",
            format!("{} batches failed by a fault of the engine", grouped(stats.engine_panics)),
        ));
    }
    text += &labelled(&lines);
    let forwarded = forwarding::counters(&stats.forwarding);
    let asked = stats.upstream.as_ref().map(upstream::counters).unwrap_or_default();
    for table in [forwarded, asked].into_iter().filter(|table| !table.is_empty()) {
        text.push('\n');
        text += &table;
    }
    text
}

/// The replies by operation and code, without rows and columns that are all zero.
fn requests(requests: &BTreeMap<String, BTreeMap<u16, u64>>) -> String {
    let present = |(code, count): (&u16, &u64)| (*count > 0).then_some(*code);
    let codes: BTreeSet<u16> = requests.values().flatten().filter_map(present).collect();
    let mut rows = vec![
        [String::new()]
            .into_iter()
            .chain(codes.iter().map(u16::to_string))
            .chain(["total".to_owned()])
            .collect(),
    ];
    for (op, counts) in requests {
        let sum = total(counts.values().copied());
        if sum > 0 {
            let cells = codes.iter().map(|code| grouped(counts.get(code).copied().unwrap_or(0)));
            rows.push([printable(op)].into_iter().chain(cells).chain([grouped(sum)]).collect());
        }
    }
    if codes.is_empty() { String::new() } else { table(&rows) }
}

/// Adds counts that may be those of a faulty server.
pub(super) fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

fn hits(stats: &StatsReport) -> String {
    let (hits, misses) = (stats.check_hits, stats.check_misses);
    match share(hits, misses) {
        Some(share) => format!("hits {} ({share}), misses {}", grouped(hits), grouped(misses)),
        None => "none".to_owned(),
    }
}

/// The share of hits in percent; none without checks.
pub(super) fn share(hits: u64, misses: u64) -> Option<String> {
    let checks = hits as f64 + misses as f64;
    (checks > 0.0).then(|| format!("{:.1} %", hits as f64 / checks * 100.0))
}

/// The counts above zero by name: `shed 3, send buffer 1`.
pub(super) fn counts(counts: &BTreeMap<String, u64>) -> String {
    let present = counts.iter().filter(|(_, count)| **count > 0);
    let texts: Vec<String> = present
        .map(|(name, count)| format!("{} {}", printable(&name.replace('_', " ")), grouped(*count)))
        .collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

/// Formats a percentile: the last bucket has no upper bound.
pub(super) fn percentile(value: u64) -> String {
    if value == u64::MAX { "over a minute".to_owned() } else { micros(value) }
}

/// The percentiles and the mean of durations.
pub(super) fn durations(report: &HistogramReport) -> String {
    if report.count == 0 {
        return "none".to_owned();
    }
    let [p50, p90, p99, p999] = [report.p50, report.p90, report.p99, report.p999].map(percentile);
    format!("p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, mean {}", micros(report.mean().round() as u64))
}

fn sizes(report: &HistogramReport, unit: &str) -> String {
    match report.count {
        0 => "none".to_owned(),
        count => format!("{}, mean {:.1} {unit}, p99 {}", grouped(count), report.mean(), grouped(report.p99)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{DropCause, ForwardCounts, ServerStats, UpstreamCounts};
    use pyzor_wire::op::Op;

    #[test]
    fn tables_leave_out_what_is_zero() {
        let stats = ServerStats::default();
        for _ in 0..1500 {
            stats.replied(Some(Op::Check), 200);
        }
        stats.replied(Some(Op::Ping), 200);
        stats.replied(Some(Op::Check), 500);
        stats.replied(None, 501);
        stats.check_hits.add(500);
        stats.check_misses.add(1000);
        stats.anonymous.add(1503);
        stats.drops.add(DropCause::SendBuffer, 2);
        stats.drops.add(DropCause::Shed, 3000);
        stats.exceeded[2].add(4);
        stats.latency.add(100, 99);
        stats.latency.add(100_000_000, 1);
        stats.engine_time.add(3, 10);
        stats.batches.add(64, 10);
        let report = StatsReport { seconds: 150.4, ..stats.report() };
        let expected = "\
1,503 replies in 2 minutes 30 seconds (10 per second)

           200  500  501  total
  check  1,500    1    0  1,501
  other      0    0    1      1
  ping       1    0    0      1

  checks       hits 500 (33.3 %), misses 1,000
  users        anonymous 1,503, accounts 0
  drops        send buffer 2, shed 3,000
  limits       exceeded: RateLimitWrites 4
  latency      p50 111 µs, p90 111 µs, p99 111 µs, p99.9 over a minute, mean 1.0 s
  engine time  p50 3 µs, p90 3 µs, p99 3 µs, p99.9 3 µs, mean 3 µs
  batches      10, mean 64.0 requests for the engine, p99 79
  received     none
";
        assert_eq!(render(&report), expected);
    }

    #[test]
    fn server_that_has_answered_nothing_has_no_table() {
        let text = render(&ServerStats::default().report());
        assert!(text.starts_with("0 replies in 0 seconds (0 per second)\n\n  checks       none\n"), "{text}");
        assert!(text.contains("\n  drops        none\n  limits       none exceeded\n"), "{text}");
    }

    #[test]
    fn tables_of_other_servers_follow_in_their_order() {
        let mut report = ServerStats::default().report();
        report.forwarding.insert("a:1".to_owned(), ForwardCounts::default());
        report.upstream = Some(UpstreamCounts::default());
        let text = render(&report);
        let last = text.split("\n\n").skip(2).collect::<Vec<_>>();
        let [forwarded, asked] = last[..] else { panic!("{text}") };
        assert!(forwarded.starts_with("  digests forwarded to ") && !forwarded.ends_with('\n'), "{text}");
        assert!(asked.starts_with("  checks that missed here ") && asked.ends_with(" 0\n"), "{text}");
    }
}

//! `stats --interval`: what a server counts in each period, across its restarts.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Zoned;
use serde_json::{Value, json};

use super::EXIT_UNKNOWN;
use super::connection;
use super::error::NoAnswer;
use super::forwarding;
use super::output::{self, Outcome};
use super::stats::{counts, percentile, share, total};
use super::upstream;
use crate::control::figures::{printable, rate};
use crate::control::reply::ControlReply;
use crate::control::request::ControlRequest;
use crate::stats::StatsReport;

/// The number of rows between two headings.
const ROWS: u64 = 20;
/// The error of comparing a period measured here with one measured by the server, in seconds.
const CLOCK_ERROR: f64 = 0.05;

/// A report, and the time when it arrived.
struct StatsSample {
    report: StatsReport,
    asked: Instant,
    arrived: Instant,
}

impl StatsSample {
    fn take(path: &Path) -> Result<Self, NoAnswer> {
        let asked = Instant::now();
        let received = connection::ask(path, ControlRequest::Stats {})?;
        let ControlReply::Stats(report) = received.reply else {
            return Err(NoAnswer::Malformed {
                path: path.to_owned(),
                reason: "it answers another request".to_owned(),
            });
        };
        Ok(Self { report: *report, asked, arrived: Instant::now() })
    }

    /// Whether the server was restarted after an earlier report: it has been running for less time than has passed.
    fn is_of_another_start(&self, earlier: &Self) -> bool {
        let passed = self.asked.saturating_duration_since(earlier.arrived).as_secs_f64();
        self.report.seconds < earlier.report.seconds + passed - CLOCK_ERROR
    }
}

/// Prints what was counted in each period, until the process is interrupted. Returns only if the output cannot be
/// written.
///
/// # Errors
///
/// The server cannot be reached at first. Later it is tried again after each period.
pub(super) fn run(path: &Path, interval: Duration, json: bool) -> Result<Outcome, NoAnswer> {
    let mut before = StatsSample::take(path)?;
    let mut rows = 0;
    let mut is_reported = false;
    loop {
        thread::sleep(interval);
        let now = match StatsSample::take(path) {
            Ok(now) => now,
            Err(error) => {
                if !std::mem::replace(&mut is_reported, true) {
                    output::complain(&format!("pyzorctl: {}; trying again\n", printable(&error.to_string())));
                }
                continue;
            }
        };
        is_reported = false;
        let restarted = now.is_of_another_start(&before);
        let period = if restarted { now.report.clone() } else { now.report.since(&before.report) };
        let text = if json {
            output::json_line(&object(&period, restarted))
        } else {
            let heading = if rows % ROWS == 0 { heading() } else { String::new() };
            let notice = if restarted {
                "the server was restarted: the next line counts from its start\n"
            } else {
                ""
            };
            let time = Zoned::now().strftime("%H:%M:%S").to_string();
            format!("{notice}{heading}{}", row(&time, &period))
        };
        rows += 1;
        if output::print(&text).is_err() {
            return Ok(Outcome { text: String::new(), code: EXIT_UNKNOWN });
        }
        before = now;
    }
}

/// The counters of a period, and whether it begins with a start of the server.
fn object(period: &StatsReport, restarted: bool) -> Value {
    let mut object = json!(period);
    object["restarted"] = restarted.into();
    object
}

const COLUMNS: [(&str, usize); 10] = [
    ("time", 8),
    ("replies/s", 10),
    ("checks/s", 9),
    ("hits", 8),
    ("reports/s", 10),
    ("errors/s", 9),
    ("drops/s", 8),
    ("p50", 9),
    ("p99", 9),
    ("engine", 7),
];

fn line(cells: [String; COLUMNS.len()]) -> String {
    COLUMNS.iter().zip(cells).map(|((_, width), cell)| format!("{cell:>width$}")).collect()
}

fn heading() -> String {
    line(COLUMNS.map(|(name, _)| name.to_owned())) + "\n"
}

/// The rates of a period, the causes of its drops, what was forwarded, and what became of checks that missed.
pub(super) fn row(time: &str, period: &StatsReport) -> String {
    let per_second =
        |count: u64| if period.seconds > 0.0 { rate(count as f64 / period.seconds) } else { rate(0.0) };
    let replies = |op: &str, wanted: fn(u16) -> bool| -> u64 {
        let codes = period.requests.get(op).into_iter().flatten();
        total(codes.filter(|(code, _)| wanted(**code)).map(|(_, count)| *count))
    };
    let errors = total(period.requests.keys().map(|op| replies(op, |code| code != 200)));
    let busy = period.engine_micros.sum as f64 / 1e4 / period.seconds.max(0.001);
    let latency = |value| if period.latency_micros.count == 0 { "-".to_owned() } else { percentile(value) };
    let row = line([
        time.to_owned(),
        per_second(period.replies()),
        per_second(replies("check", |_| true)),
        share(period.check_hits, period.check_misses).unwrap_or_else(|| "-".to_owned()),
        per_second(total(["report", "whitelist"].map(|op| replies(op, |code| code == 200)).into_iter())),
        per_second(errors),
        per_second(period.dropped()),
        latency(period.latency_micros.p50),
        latency(period.latency_micros.p99),
        format!("{busy:.1} %"),
    ]);
    let dropped = (period.dropped() > 0).then(|| format!("dropped: {}", counts(&period.drops)));
    let forwarded = forwarding::outcomes(&period.forwarding).map(|text| format!("forwarded: {text}"));
    let asked = period.upstream.as_ref().and_then(upstream::outcomes).map(|text| format!("upstream: {text}"));
    let notes = [dropped, forwarded, asked].into_iter().flatten();
    let notes: String = notes.map(|note| format!("  {note}")).collect();
    row + &notes + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{DropCause, ForwardCounts, ServerStats, UpstreamCounts};
    use pyzor_wire::op::Op;

    #[test]
    fn rows_have_rates_under_their_headings() {
        let stats = ServerStats::default();
        for _ in 0..30 {
            stats.replied(Some(Op::Check), 200);
        }
        stats.replied(Some(Op::Report), 200);
        stats.replied(Some(Op::Report), 403);
        stats.check_hits.add(10);
        stats.check_misses.add(20);
        stats.drops.add(DropCause::Shed, 5);
        stats.latency.add(70, 32);
        stats.engine_time.add(10_000, 2);
        let period = StatsReport { seconds: 2.0, ..stats.report() };
        assert_eq!(
            format!("{}{}", heading(), row("12:34:56", &period)),
            "    time replies/s checks/s    hits reports/s errors/s drops/s      p50      p99 engine\n\
             12:34:56        16       15  33.3 %       0.5      0.5     2.5    79 µs    79 µs  1.0 %  dropped: shed 5\n"
        );
        let counts = ForwardCounts { accepted: 20, dropped: 3, ..ForwardCounts::default() };
        let forwarding = ["a:1", "b:1"].map(|server| (server.to_owned(), counts.clone())).into();
        let forwarded = row("12:34:56", &StatsReport { forwarding, ..period.clone() });
        assert!(forwarded.ends_with("  dropped: shed 5  forwarded: accepted 40, dropped 6\n"), "{forwarded}");
        let upstream =
            Some(UpstreamCounts { cached_hits: 30, asked: 4, found: 3, ..UpstreamCounts::default() });
        let asked = row("12:34:56", &StatsReport { upstream, ..period.clone() });
        assert!(asked.ends_with("  dropped: shed 5  upstream: cached 30, asked 4; found 3\n"), "{asked}");
        let idle = row("00:00:00", &ServerStats::default().report());
        assert!(idle.ends_with("  0        -        -  0.0 %\n"), "{idle}");
        assert_eq!(object(&period, true)["restarted"], true);
    }

    #[test]
    fn restart_is_recognized_by_the_uptime() {
        let start = Instant::now();
        let sample = |seconds, at| StatsSample {
            report: StatsReport { seconds, ..StatsReport::default() },
            asked: start + Duration::from_secs(at),
            arrived: start + Duration::from_secs(at),
        };
        let first = sample(5.0, 0);
        assert!(!sample(65.0, 60).is_of_another_start(&first));
        assert!(
            sample(50.0, 60).is_of_another_start(&first),
            "longer than the first ran, but shorter than the period"
        );
        assert!(sample(1.0, 60).is_of_another_start(&first));
    }
}

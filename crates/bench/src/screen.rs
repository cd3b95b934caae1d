//! The outcome as text that fits a terminal.

use std::cmp::Reverse;
use std::fmt::Write as _;

use super::figures::{decimal, grouped, rate, wrapped};
use super::histogram::{LatencyRange, merged, ranges};
use super::measurement::{Measurement, TimeHistogram};
use super::options::LoadOptions;
use super::plan::LoadPace;
use pyzor_wire::op::Op;
use pyzor_wire::reply_reader::Code;

/// The usual size of a terminal.
const COLUMNS: usize = 80;
const LINES: usize = 24;
/// The most rows of the histogram.
const MOST_ROWS: usize = 12;
/// The fewest rows; with less room the histogram is left out.
const FEWEST_ROWS: usize = 3;
/// The widest bar of the histogram, in characters.
const WIDEST: u64 = 50;
/// The most characters of a server's name that are shown.
const LONGEST_NAME: usize = 60;
/// The most codes of failures that are shown.
const MOST_CODES: usize = 4;
/// The share of a processor above which the generator itself may limit the load.
const BUSY: f64 = 0.9;
/// The mean lag of an open loop, in nanoseconds, above which the measurement is doubtful.
const MOST_LAG: f64 = 1e6;

/// Formats the outcome in at most 24 lines of 80 columns. The lines that matter most come last.
pub(super) fn render(options: &LoadOptions, measurement: &Measurement) -> String {
    let title = title(options);
    let latencies = measurement.latency();
    let table = if latencies.is_empty() { Vec::new() } else { table(options, measurement, &latencies) };
    let summary = summary(options, measurement);
    // Two empty lines separate the parts.
    let rows = LINES.saturating_sub(title.len() + table.len() + summary.len() + 2).min(MOST_ROWS);
    let chart = if rows < FEWEST_ROWS { Vec::new() } else { chart(&latencies, rows) };
    let mut parts = vec![title, chart, table];
    parts.retain(|part| !part.is_empty());
    // No empty line between the chart and the table.
    let upper = parts.split_off(1).concat();
    let parts: Vec<Vec<String>> =
        parts.into_iter().chain([upper, summary]).filter(|part| !part.is_empty()).collect();
    let mut out = parts.iter().map(|part| part.join("\n")).collect::<Vec<_>>().join("\n\n");
    out.push('\n');
    out
}

/// Describes the server and the load.
pub(super) fn title(options: &LoadOptions) -> Vec<String> {
    let mut server: String = options.server.chars().take(LONGEST_NAME).collect();
    if server.len() < options.server.len() {
        server.push('…');
    }
    let pace = match (&options.sweep, options.pace) {
        (Some(sweep), _) => {
            format!("{} to {} requests a second", rate(sweep.from), rate(sweep.to))
        }
        (None, LoadPace::Closed { window }) => format!("{} requests outstanding", grouped(window as u64)),
        (None, LoadPace::Open { rate: number }) => format!("{} requests a second", rate(number)),
    };
    let mix: Vec<String> =
        options.mix.shares().map(|(op, share)| format!("{op} {:.0} %", share * 100.0)).collect();
    let choice = options.zipf.map_or("uniformly".to_owned(), |exponent| format!("by Zipf's law, {exponent}"));
    let mut lines = wrapped(&format!("{server}: {pace}, {} sockets", options.sockets), COLUMNS);
    let digests = grouped(options.digests);
    lines.extend(wrapped(&format!("{}; {digests} digests chosen {choice}", mix.join(", ")), COLUMNS));
    lines
}

/// A bar for each range of latencies.
fn chart(times: &TimeHistogram, rows: usize) -> Vec<String> {
    let ranges = merged(&ranges(times), rows);
    let most = ranges.iter().map(|range| range.count).max().unwrap_or(0).max(1);
    let row = |range: &LatencyRange| {
        let bar = "#".repeat((range.count * WIDEST).div_ceil(most) as usize);
        let share = range.count as f64 * 100.0 / times.len().max(1) as f64;
        let below = rate(range.below as f64 / 1e3);
        format!("{:>15} {share:>7.3} % {bar}", format!("< {below} µs")).trim_end().to_owned()
    };
    ranges.iter().map(row).collect()
}

/// Percentiles of latencies in total, and by operation if there are several.
fn table(options: &LoadOptions, measurement: &Measurement, all: &TimeHistogram) -> Vec<String> {
    // The longest times are minutes, which fit their columns only in milliseconds.
    let (unit, name) = if all.max() < 1_000_000_000 { (1e3, "µs") } else { (1e6, "ms") };
    let row = |name: &str, times: &TimeHistogram| {
        let mut line = format!("{name:<9}");
        for share in [0.5, 0.9, 0.95, 0.99, 0.999] {
            let _ = write!(line, " {:>9}", known(times, times.value_at_quantile(share) as f64 / unit));
        }
        for value in [times.max() as f64, times.mean()] {
            let _ = write!(line, " {:>9}", known(times, value / unit));
        }
        line
    };
    let mut headings = format!("{:<9}", "latency");
    for head in ["p50", "p90", "p95", "p99", "p99.9", "max", "mean"] {
        let _ = write!(headings, " {:>9}", format!("{head} {name}"));
    }
    let mut lines = vec![headings];
    let operations: Vec<Op> = options.mix.shares().map(|(op, _)| op).collect();
    if operations.len() > 1 {
        lines.extend(operations.iter().map(|op| row(op.name(), measurement.latency_of(*op))));
    }
    lines.push(row("all", all));
    lines
}

/// Formats a figure of these times, `-` if there are none.
fn known(times: &TimeHistogram, value: f64) -> String {
    if times.is_empty() { "-".to_owned() } else { decimal(value, 1) }
}

fn name(code: Code) -> String {
    match code {
        Code::Number(0) | Code::Echo => "no code".to_owned(),
        Code::Number(code) => format!("code {code}"),
        Code::WithoutCount => "code 200 without Count".to_owned(),
    }
}

/// The outcome of the requests. The lines that matter most come last.
fn summary(options: &LoadOptions, measurement: &Measurement) -> Vec<String> {
    let texts = [
        unsent(measurement),
        Some(answered(measurement)),
        failures(measurement),
        irregular(measurement),
        lag(measurement),
        Some(throughput(measurement)),
        doubt(options, measurement).map(str::to_owned),
    ];
    texts.into_iter().flatten().flat_map(|text| wrapped(&text, COLUMNS)).collect()
}

fn unsent(measurement: &Measurement) -> Option<String> {
    let [scheduled, sent, unsent] =
        [measurement.scheduled, measurement.sent, measurement.unsent()].map(grouped);
    (measurement.unsent() > 0).then(|| format!("{scheduled} scheduled: {sent} sent, {unsent} unsent"))
}

fn answered(measurement: &Measurement) -> String {
    let lost = match measurement.lost {
        0 => String::new(),
        lost => format!(", {} lost", grouped(lost)),
    };
    format!("{} sent: {} answered{lost}", grouped(measurement.sent), grouped(measurement.answered()))
}

/// The most frequent codes of unsuccessful replies.
fn failures(measurement: &Measurement) -> Option<String> {
    let mut failures: Vec<(Code, u64)> =
        measurement.failed.iter().map(|(code, count)| (*code, *count)).collect();
    if failures.is_empty() {
        return None;
    }
    failures.sort_by_key(|(_, count)| Reverse(*count));
    let others: u64 = failures.iter().skip(MOST_CODES).map(|(_, count)| count).sum();
    failures.truncate(MOST_CODES);
    let mut parts: Vec<String> = failures
        .into_iter()
        .map(|(code, count)| format!("{} failed with {}", grouped(count), name(code)))
        .collect();
    if others > 0 {
        parts.push(format!("{} with other codes", grouped(others)));
    }
    let [answered, succeeded] = [measurement.answered(), measurement.succeeded].map(grouped);
    Some(format!("{answered} answered: {succeeded} succeeded, {}", parts.join(", ")))
}

fn irregular(measurement: &Measurement) -> Option<String> {
    let parts: Vec<String> = [
        (measurement.found, "checks had a count above 0"),
        (measurement.late, "replies came too late"),
        (measurement.unknown, "datagrams matched no request"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{} {what}", grouped(count)))
    .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn lag(measurement: &Measurement) -> Option<String> {
    let lag = |share| decimal(measurement.lag.value_at_quantile(share) as f64 / 1e3, 1);
    (!measurement.lag.is_empty())
        .then(|| format!("sent late by: p50 {} µs, p99 {} µs, max {} µs", lag(0.5), lag(0.99), lag(1.0)))
}

fn throughput(measurement: &Measurement) -> String {
    let share = measurement.cpu_share();
    let cost = share.map(|share| format!("; pyzor-bench used {:.0} % of a processor", share * 100.0));
    format!(
        "{} replies a second for {} s{}",
        decimal(measurement.throughput(), 1),
        decimal(measurement.seconds(), 3),
        cost.unwrap_or_default()
    )
}

/// Returns the reason why the figures may describe the generator rather than the server.
fn doubt(options: &LoadOptions, measurement: &Measurement) -> Option<&'static str> {
    match options.pace {
        LoadPace::Closed { .. } if measurement.cpu_share().is_some_and(|share| share > BUSY) => {
            Some("pyzor-bench was busy nearly all the time: the server may be able to answer more.")
        }
        // An open loop polls for the next due time, so its processor time is meaningless.
        LoadPace::Open { .. } if measurement.unsent() > 0 || measurement.lag.mean() > MOST_LAG => Some(
            "pyzor-bench could not keep up with the rate: the figures partly measure pyzor-bench itself.",
        ),
        _ => None,
    }
}

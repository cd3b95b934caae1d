//! The outcome for people, on one screen.

use std::cmp::Reverse;
use std::fmt::Write as _;

use super::figures::{decimal, grouped, rate, wrapped};
use super::histogram::{LatencyRange, merged, ranges};
use super::measurement::{Measurement, TimeHistogram};
use super::options::LoadOptions;
use super::plan::LoadPace;
use pyzor_wire::op::Op;
use pyzor_wire::reply_reader::Code;

/// A terminal of the usual size.
const COLUMNS: usize = 80;
const LINES: usize = 24;
/// The most rows of the histogram, and the fewest that say anything.
const MOST_ROWS: usize = 12;
const FEWEST_ROWS: usize = 3;
/// The widest bar of the histogram, in characters.
const WIDEST: u64 = 50;
/// How much of a server's name is shown.
const LONGEST_NAME: usize = 60;
/// How many codes of failures are shown.
const MOST_CODES: usize = 4;
/// From which share of a processor on the generator may be what limits the load.
const BUSY: f64 = 0.9;
/// From how late on requests of an open loop are too late, in nanoseconds on average.
const MOST_LAG: f64 = 1e6;

/// At most 24 lines of 80 columns; those that matter most are the last ones.
pub(super) fn render(options: &LoadOptions, measurement: &Measurement) -> String {
    let title = title(options);
    let latencies = measurement.latency();
    let table = if latencies.is_empty() { Vec::new() } else { table(options, measurement, &latencies) };
    let summary = summary(options, measurement);
    // Two empty lines are between the parts.
    let rows = LINES.saturating_sub(title.len() + table.len() + summary.len() + 2).min(MOST_ROWS);
    let chart = if rows < FEWEST_ROWS { Vec::new() } else { chart(&latencies, rows) };
    let mut parts = vec![title, chart, table];
    parts.retain(|part| !part.is_empty());
    // The bars and the table need no line between them.
    let upper = parts.split_off(1).concat();
    let parts: Vec<Vec<String>> =
        parts.into_iter().chain([upper, summary]).filter(|part| !part.is_empty()).collect();
    let mut out = parts.iter().map(|part| part.join("\n")).collect::<Vec<_>>().join("\n\n");
    out.push('\n');
    out
}

/// What was measured, over one line or more.
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

/// Percentiles of latencies, by operation if there are several.
fn table(options: &LoadOptions, measurement: &Measurement, all: &TimeHistogram) -> Vec<String> {
    // So that the longest ones, some minutes, fit into their columns.
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

/// What became of the requests, and how fast; first the counts, at the end what decides.
fn summary(options: &LoadOptions, measurement: &Measurement) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |text: &str| lines.extend(wrapped(text, COLUMNS));
    let (sent, answered) = (grouped(measurement.sent), grouped(measurement.answered()));
    if measurement.unsent() > 0 {
        say(&format!(
            "{} scheduled: {sent} sent, {} unsent",
            grouped(measurement.scheduled),
            grouped(measurement.unsent())
        ));
    }
    let lost =
        if measurement.lost > 0 { format!(", {} lost", grouped(measurement.lost)) } else { String::new() };
    say(&format!("{sent} sent: {answered} answered{lost}"));
    if !measurement.failed.is_empty() {
        let mut failures: Vec<(Code, u64)> =
            measurement.failed.iter().map(|(code, count)| (*code, *count)).collect();
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
        say(&format!(
            "{answered} answered: {} succeeded, {}",
            grouped(measurement.succeeded),
            parts.join(", ")
        ));
    }
    let others: Vec<String> = [
        (measurement.found, "checks found something"),
        (measurement.late, "replies came too late"),
        (measurement.unknown, "datagrams answered nothing"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{} {what}", grouped(count)))
    .collect();
    if !others.is_empty() {
        say(&others.join(", "));
    }
    if !measurement.lag.is_empty() {
        let lag = |share| decimal(measurement.lag.value_at_quantile(share) as f64 / 1e3, 1);
        say(&format!("sent late by: p50 {} µs, p99 {} µs, max {} µs", lag(0.5), lag(0.99), lag(1.0)));
    }
    let share = measurement.cpu_share();
    let cost = share.map(|share| format!("; pyzor-bench took {:.0} % of a processor", share * 100.0));
    say(&format!(
        "{} replies a second for {} s{}",
        decimal(measurement.throughput(), 1),
        decimal(measurement.seconds(), 3),
        cost.unwrap_or_default()
    ));
    match options.pace {
        LoadPace::Closed { .. } if share.is_some_and(|share| share > BUSY) => {
            say("pyzor-bench was busy nearly all the time: the server may be able to answer more.");
        }
        // An open loop is busy with waiting for the right moment.
        LoadPace::Open { .. } if measurement.unsent() > 0 || measurement.lag.mean() > MOST_LAG => {
            say("pyzor-bench could not keep up with the rate: what it measured is in part itself.");
        }
        _ => {}
    }
    lines
}

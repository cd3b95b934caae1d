//! The outcome as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::options::Options;
use super::plan::Pace;
use super::reply::Code;
use super::tally::{Tally, Times};

/// From which share of a processor on the generator may be what limits the load.
const BUSY: f64 = 0.9;
/// From how late on requests of an open loop are too late, in nanoseconds on average.
const MOST_LAG: u64 = 1_000_000;
/// The widest bar of the histogram, in characters.
const WIDEST: u64 = 50;

/// Percentiles in microseconds; none of nothing.
#[derive(Debug, Serialize)]
struct Latency {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p99_9: Option<f64>,
    max: Option<f64>,
    mean: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Operation {
    answered: u64,
    latency: Latency,
}

#[derive(Debug, Serialize)]
struct Outcome<'a> {
    target: &'a str,
    r#loop: &'static str,
    window: Option<usize>,
    rate: Option<f64>,
    sockets: usize,
    mix: BTreeMap<&'static str, f64>,
    digests: u64,
    zipf: Option<f64>,
    hit_ratio: f64,
    signed: bool,
    seconds: f64,
    sent: u64,
    answered: u64,
    succeeded: u64,
    failed: BTreeMap<String, u64>,
    lost: u64,
    late: u64,
    unknown: u64,
    unsent: u64,
    throughput: f64,
    latency: Latency,
    operations: BTreeMap<&'static str, Operation>,
    found: u64,
    cpu_seconds: f64,
}

fn microseconds(nanoseconds: f64) -> f64 {
    (nanoseconds / 100.0).round() / 10.0
}

impl Latency {
    fn of(times: &Times) -> Self {
        let known = |nanoseconds: f64| (!times.is_empty()).then(|| microseconds(nanoseconds));
        let quantile = |share| known(times.value_at_quantile(share) as f64);
        Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: known(times.max() as f64),
            mean: known(times.mean()),
        }
    }

    fn columns(&self) -> String {
        let mut line = String::new();
        for value in [self.p50, self.p90, self.p99, self.p99_9, self.max, self.mean] {
            let text = value.map_or("-".to_owned(), |value| format!("{value:.1}"));
            let _ = write!(line, " {text:>11}");
        }
        line
    }
}

fn failed(tally: &Tally) -> BTreeMap<String, u64> {
    let name = |code: &Code| match code {
        Code::Number(0) | Code::Echo => "none".to_owned(),
        Code::Number(code) => code.to_string(),
    };
    tally.failed.iter().map(|(code, count)| (name(code), *count)).collect()
}

/// One JSON object, with a line end.
pub(super) fn json(options: &Options, tally: &Tally) -> serde_json::Result<String> {
    let (window, rate) = match options.pace {
        Pace::Closed { window } => (Some(window), None),
        Pace::Open { rate } => (None, Some(rate)),
    };
    let operation = |op| {
        let times = tally.latency_of(op);
        Operation { answered: times.len(), latency: Latency::of(times) }
    };
    let outcome = Outcome {
        target: &options.server,
        r#loop: if window.is_some() { "closed" } else { "open" },
        window,
        rate,
        sockets: options.sockets,
        mix: options.mix.shares().map(|(op, share)| (op.name(), share)).collect(),
        digests: options.digests,
        zipf: options.zipf,
        hit_ratio: options.hit_ratio,
        signed: options.account.is_some(),
        seconds: tally.seconds(),
        sent: tally.sent,
        answered: tally.answered(),
        succeeded: tally.succeeded,
        failed: failed(tally),
        lost: tally.lost,
        late: tally.late,
        unknown: tally.unknown,
        unsent: tally.unsent,
        throughput: tally.throughput(),
        latency: Latency::of(&tally.latency()),
        operations: options.mix.shares().map(|(op, _)| (op.name(), operation(op))).collect(),
        found: tally.found,
        cpu_seconds: tally.cpu_seconds,
    };
    serde_json::to_string_pretty(&outcome).map(|text| text + "\n")
}

/// Lines for people.
pub(super) fn text(options: &Options, tally: &Tally) -> String {
    let mut out = String::new();
    let mix: Vec<String> =
        options.mix.shares().map(|(op, share)| format!("{op} {:.0} %", share * 100.0)).collect();
    let pace = match options.pace {
        Pace::Closed { window } => format!("{window} requests outstanding"),
        Pace::Open { rate } => format!("{rate} requests a second"),
    };
    let choice = options.zipf.map_or("uniformly".to_owned(), |exponent| format!("by Zipf's law, {exponent}"));
    let seconds = tally.seconds();
    let share = tally.cpu_seconds / seconds.max(1e-9);
    let _ = writeln!(
        out,
        "{}: {}; {pace}, {} sockets, {} digests chosen {choice}",
        options.server,
        mix.join(", "),
        options.sockets,
        options.digests
    );
    let _ = writeln!(
        out,
        "{:.1} replies a second for {seconds:.3} s; pyzor-bench itself took {:.0} % of a processor",
        tally.throughput(),
        share * 100.0
    );
    // An open loop is busy with waiting for the right moment.
    let lag = tally.lag / (tally.sent + tally.unsent).max(1);
    match options.pace {
        Pace::Closed { .. } if share > BUSY => {
            let _ = writeln!(out, "It was busy nearly all the time: the server may be able to answer more.");
        }
        Pace::Open { .. } if lag > MOST_LAG => {
            let lag = lag as f64 / 1e6;
            let _ = writeln!(out, "It could not keep up: requests were sent {lag:.1} ms late on average.");
        }
        _ => {}
    }
    let _ = writeln!(out, "\n{:>12} sent", tally.sent);
    for (count, what) in [
        (tally.answered(), "answered"),
        (tally.lost, "lost: not answered in time"),
        (tally.late, "answered late"),
        (tally.unknown, "replies to nothing that was asked"),
        (tally.unsent, "not sent: the system had no room"),
        (tally.found, "checks that found something"),
    ] {
        if count > 0 {
            let _ = writeln!(out, "{count:>12} {what}");
        }
    }
    for (code, count) in failed(tally) {
        let _ = writeln!(out, "{count:>12} failed with code {code}");
    }
    let all = tally.latency();
    if all.is_empty() {
        return out;
    }
    let _ = write!(out, "\n{:<12}", "latency, µs");
    for name in ["p50", "p90", "p99", "p99.9", "max", "mean"] {
        let _ = write!(out, " {name:>11}");
    }
    let _ = writeln!(out);
    let operations: Vec<_> = options.mix.shares().collect();
    if operations.len() > 1 {
        for (op, _) in operations {
            let _ = writeln!(out, "{:<12}{}", op.name(), Latency::of(tally.latency_of(op)).columns());
        }
    }
    let _ = writeln!(out, "{:<12}{}\n", "all", Latency::of(&all).columns());
    chart(&mut out, &all);
    out
}

/// A bar for each range of times that occur; each range is about a quarter wider than the one before.
fn chart(out: &mut String, times: &Times) {
    const BOUNDS: [u64; 10] = [100, 125, 160, 200, 250, 315, 400, 500, 630, 800];
    let bounds = (0..9).flat_map(|power| BOUNDS.map(|bound| bound * 10u64.pow(power)));
    let mut bars: Vec<(u64, u64)> = Vec::new();
    let mut below = 0;
    for bound in bounds.chain([u64::MAX]) {
        let count = times.count_between(below, bound - 1);
        // Nothing before the first, and nothing behind the last.
        if count > 0 || (!bars.is_empty() && below <= times.max()) {
            bars.push((bound, count));
        }
        below = bound;
    }
    let most = bars.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    for (bound, count) in bars {
        let bar = "#".repeat((count * WIDEST).div_ceil(most) as usize);
        let share = count as f64 * 100.0 / times.len() as f64;
        let bound = match bound {
            u64::MAX => "more".to_owned(),
            bound => format!("< {}", bound as f64 / 1e3),
        };
        let _ = writeln!(out, "{bound:>12} {share:>7.3} % {bar}");
    }
}

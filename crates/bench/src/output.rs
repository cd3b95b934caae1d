//! The outcome as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::histogram::ranges;
use super::options::Options;
use super::plan::{self, Pace};
use super::sweep::{Limit, Step, is_complete, knee};
use super::tally::{Tally, Times};
use pyzor_wire::reply_reader::Code;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Percentiles in microseconds; none of nothing.
#[derive(Clone, Copy, Debug, Serialize)]
struct Percentiles {
    p50: Option<f64>,
    p90: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
    p99_9: Option<f64>,
    max: Option<f64>,
    mean: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Operation {
    answered: u64,
    latency: Percentiles,
    latency_us: Percentiles,
}

#[derive(Debug, Serialize)]
struct Range {
    from_us: f64,
    below_us: f64,
    count: u64,
}

/// A measurement. Keys without a unit in their name, where there is one, are older than that rule.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    version: &'static str,
    started_rfc3339: Option<String>,
    target: &'a str,
    r#loop: &'static str,
    window: Option<usize>,
    rate: Option<f64>,
    rate_per_second: Option<f64>,
    sockets: usize,
    mix: BTreeMap<&'static str, f64>,
    digests: u64,
    seed: u64,
    zipf: Option<f64>,
    hit_ratio: f64,
    signed: bool,
    timeout_seconds: f64,
    warm_up_seconds: f64,
    seconds: f64,
    scheduled: u64,
    sent: u64,
    answered: u64,
    succeeded: u64,
    failed: BTreeMap<String, u64>,
    lost: u64,
    late: u64,
    unknown: u64,
    unsent: u64,
    throughput: f64,
    throughput_per_second: f64,
    latency: Percentiles,
    latency_us: Percentiles,
    latency_histogram: Vec<Range>,
    lag_us: Option<Percentiles>,
    operations: BTreeMap<&'static str, Operation>,
    found: u64,
    cpu_seconds: f64,
}

/// A rate of a sweep.
#[derive(Debug, Serialize)]
struct Rate<'a> {
    keeps_up: bool,
    limited_by: Option<&'static str>,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

#[derive(Debug, Serialize)]
struct Sweep<'a> {
    version: &'static str,
    target: &'a str,
    seed: u64,
    rate_from_per_second: f64,
    rate_to_per_second: f64,
    step_per_second: f64,
    knee_per_second: Option<f64>,
    complete: bool,
    rates: Vec<Rate<'a>>,
}

fn microseconds(nanoseconds: f64) -> f64 {
    (nanoseconds / 100.0).round() / 10.0
}

impl Percentiles {
    fn of(times: &Times) -> Self {
        let known = |nanoseconds: f64| (!times.is_empty()).then(|| microseconds(nanoseconds));
        let quantile = |share| known(times.value_at_quantile(share) as f64);
        Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p95: quantile(0.95),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: known(times.max() as f64),
            mean: known(times.mean()),
        }
    }
}

fn failed(tally: &Tally) -> BTreeMap<String, u64> {
    let name = |code: &Code| match code {
        Code::Number(0) | Code::Echo => "none".to_owned(),
        Code::Number(code) => code.to_string(),
        Code::WithoutCount => "200_without_count".to_owned(),
    };
    tally.failed.iter().map(|(code, count)| (name(code), *count)).collect()
}

fn started(tally: &Tally) -> Option<String> {
    let since = tally.started?.duration_since(std::time::UNIX_EPOCH).ok()?;
    let moment = jiff::Timestamp::from_millisecond(i64::try_from(since.as_millis()).ok()?).ok()?;
    Some(moment.to_string())
}

fn outcome<'a>(options: &'a Options, tally: &Tally) -> Outcome<'a> {
    let (window, rate) = match options.pace {
        Pace::Closed { window } => (Some(window), None),
        Pace::Open { rate } => (None, Some(rate)),
    };
    let operation = |op| {
        let times = tally.latency_of(op);
        let latency = Percentiles::of(times);
        Operation { answered: times.len(), latency, latency_us: latency }
    };
    let latencies = tally.latency();
    let latency = Percentiles::of(&latencies);
    let histogram = ranges(&latencies).into_iter().map(|range| Range {
        from_us: range.from as f64 / 1e3,
        below_us: range.below as f64 / 1e3,
        count: range.count,
    });
    Outcome {
        version: VERSION,
        started_rfc3339: started(tally),
        target: &options.server,
        r#loop: if window.is_some() { "closed" } else { "open" },
        window,
        rate,
        rate_per_second: rate,
        sockets: options.sockets,
        mix: options.mix.shares().map(|(op, share)| (op.name(), share)).collect(),
        digests: options.digests,
        seed: options.seed,
        zipf: options.zipf,
        hit_ratio: options.hit_ratio,
        signed: options.account.is_some(),
        timeout_seconds: options.timeout.as_secs_f64(),
        warm_up_seconds: options.warm_up.as_secs_f64(),
        seconds: tally.seconds(),
        scheduled: tally.scheduled,
        sent: tally.sent,
        answered: tally.answered(),
        succeeded: tally.succeeded,
        failed: failed(tally),
        lost: tally.lost,
        late: tally.late,
        unknown: tally.unknown,
        unsent: tally.unsent(),
        throughput: tally.throughput(),
        throughput_per_second: tally.throughput(),
        latency,
        latency_us: latency,
        latency_histogram: histogram.collect(),
        lag_us: rate.map(|_| Percentiles::of(&tally.lag)),
        operations: options.mix.shares().map(|(op, _)| (op.name(), operation(op))).collect(),
        found: tally.found,
        cpu_seconds: tally.cpu_seconds,
    }
}

/// One JSON object, with a line end.
pub(super) fn json(options: &Options, tally: &Tally) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&outcome(options, tally)).map(|text| text + "\n")
}

/// One JSON object for all rates of a sweep, with a line end.
pub(super) fn sweep_json(
    options: &Options,
    sweep: plan::Sweep,
    steps: &[Step],
) -> serde_json::Result<String> {
    let rate = |step: &Step| {
        let options = Options { pace: Pace::Open { rate: step.rate }, ..options.clone() };
        (options, step.limit())
    };
    let rates: Vec<_> = steps.iter().map(rate).collect();
    let rates = rates.iter().zip(steps).map(|((options, limit), step)| Rate {
        keeps_up: limit.is_none(),
        limited_by: limit.map(Limit::name),
        outcome: outcome(options, &step.tally),
    });
    let object = Sweep {
        version: VERSION,
        target: &options.server,
        seed: options.seed,
        rate_from_per_second: sweep.from,
        rate_to_per_second: sweep.to,
        step_per_second: sweep.step,
        knee_per_second: knee(steps).map(|step| step.rate),
        complete: is_complete(sweep, steps),
        rates: rates.collect(),
    };
    serde_json::to_string_pretty(&object).map(|text| text + "\n")
}

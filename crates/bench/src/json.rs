//! The outcome as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::histogram::ranges;
use super::measurement::{Measurement, TimeHistogram};
use super::options::LoadOptions;
use super::plan::{LoadPace, RateSweep};
use super::sweep::{Bottleneck, MeasuredRate, is_complete, knee};
use pyzor_wire::reply_reader::Code;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Percentiles of times in microseconds; null if there are no times.
#[derive(Clone, Copy, Debug, Serialize)]
struct JsonPercentiles {
    p50: Option<f64>,
    p90: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
    p99_9: Option<f64>,
    max: Option<f64>,
    mean: Option<f64>,
}

#[derive(Debug, Serialize)]
struct JsonOperation {
    answered: u64,
    latency: JsonPercentiles,
    latency_us: JsonPercentiles,
}

#[derive(Debug, Serialize)]
struct JsonLatencyRange {
    from_us: f64,
    below_us: f64,
    count: u64,
}

/// A measurement. Newer keys have their unit in the name. Older keys without it stay for compatibility.
#[derive(Debug, Serialize)]
struct JsonMeasurement<'a> {
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
    latency: JsonPercentiles,
    latency_us: JsonPercentiles,
    latency_histogram: Vec<JsonLatencyRange>,
    lag_us: Option<JsonPercentiles>,
    operations: BTreeMap<&'static str, JsonOperation>,
    found: u64,
    cpu_seconds: f64,
}

/// A rate of a sweep and its measurement.
#[derive(Debug, Serialize)]
struct JsonRate<'a> {
    keeps_up: bool,
    limited_by: Option<&'static str>,
    #[serde(flatten)]
    outcome: JsonMeasurement<'a>,
}

#[derive(Debug, Serialize)]
struct JsonSweep<'a> {
    version: &'static str,
    target: &'a str,
    seed: u64,
    rate_from_per_second: f64,
    rate_to_per_second: f64,
    step_per_second: f64,
    knee_per_second: Option<f64>,
    complete: bool,
    rates: Vec<JsonRate<'a>>,
}

fn microseconds(nanoseconds: f64) -> f64 {
    (nanoseconds / 100.0).round() / 10.0
}

impl JsonPercentiles {
    fn of(times: &TimeHistogram) -> Self {
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

fn failed(measurement: &Measurement) -> BTreeMap<String, u64> {
    let name = |code: &Code| match code {
        Code::Number(0) | Code::Echo => "none".to_owned(),
        Code::Number(code) => code.to_string(),
        Code::WithoutCount => "200_without_count".to_owned(),
    };
    measurement.failed.iter().map(|(code, count)| (name(code), *count)).collect()
}

fn started(measurement: &Measurement) -> Option<String> {
    let since = measurement.started?.duration_since(std::time::UNIX_EPOCH).ok()?;
    let moment = jiff::Timestamp::from_millisecond(i64::try_from(since.as_millis()).ok()?).ok()?;
    Some(moment.to_string())
}

fn json_measurement<'a>(options: &'a LoadOptions, measurement: &Measurement) -> JsonMeasurement<'a> {
    let (window, rate) = match options.pace {
        LoadPace::Closed { window } => (Some(window), None),
        LoadPace::Open { rate } => (None, Some(rate)),
    };
    let operation = |op| {
        let times = measurement.latency_of(op);
        let latency = JsonPercentiles::of(times);
        JsonOperation { answered: times.len(), latency, latency_us: latency }
    };
    let latencies = measurement.latency();
    let latency = JsonPercentiles::of(&latencies);
    let histogram = ranges(&latencies).into_iter().map(|range| JsonLatencyRange {
        from_us: range.from as f64 / 1e3,
        below_us: range.below as f64 / 1e3,
        count: range.count,
    });
    JsonMeasurement {
        version: VERSION,
        started_rfc3339: started(measurement),
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
        seconds: measurement.seconds(),
        scheduled: measurement.scheduled,
        sent: measurement.sent,
        answered: measurement.answered(),
        succeeded: measurement.succeeded,
        failed: failed(measurement),
        lost: measurement.lost,
        late: measurement.late,
        unknown: measurement.unknown,
        unsent: measurement.unsent(),
        throughput: measurement.throughput(),
        throughput_per_second: measurement.throughput(),
        latency,
        latency_us: latency,
        latency_histogram: histogram.collect(),
        lag_us: rate.map(|_| JsonPercentiles::of(&measurement.lag)),
        operations: options.mix.shares().map(|(op, _)| (op.name(), operation(op))).collect(),
        found: measurement.found,
        cpu_seconds: measurement.cpu_seconds,
    }
}

/// Formats a measurement as one JSON object and a newline.
pub(super) fn measurement(options: &LoadOptions, measurement: &Measurement) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&json_measurement(options, measurement)).map(|text| text + "\n")
}

/// Formats a sweep as one JSON object and a newline.
pub(super) fn sweep(
    options: &LoadOptions,
    sweep: RateSweep,
    steps: &[MeasuredRate],
) -> serde_json::Result<String> {
    let rate = |step: &MeasuredRate| {
        let options = LoadOptions { pace: LoadPace::Open { rate: step.rate }, ..options.clone() };
        (options, step.limit())
    };
    let rates: Vec<_> = steps.iter().map(rate).collect();
    let rates = rates.iter().zip(steps).map(|((options, limit), step)| JsonRate {
        keeps_up: limit.is_none(),
        limited_by: limit.map(Bottleneck::name),
        outcome: json_measurement(options, &step.measurement),
    });
    let object = JsonSweep {
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

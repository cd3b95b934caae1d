//! The command line for clap: one field per option, with its help, default and bounds.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Parser, value_parser};

use super::choice::Mix;
use pyzor_wire::op::Op;

const PROGRAM: &str = "pyzor-bench";

/// The arguments of `pyzor-bench`.
#[derive(Debug, Parser)]
#[command(
    name = PROGRAM,
    version,
    about = "Put load on a Pyzor server, and measure how many requests it answers and how fast.",
    override_usage = "pyzor-bench [OPTIONS] HOST:PORT\n       pyzor-bench echo [ADDRESS:PORT]",
    after_help = "pyzor-bench echo is a minimal server that sends every datagram back: no server on this\nmachine can be faster.",
    no_binary_name = true,
    infer_long_args = true,
    args_override_self = true
)]
pub(super) struct LoadArguments {
    /// the server
    #[arg(value_name = "HOST:PORT", value_parser = server)]
    pub(super) server: String,
    /// operations and their relative frequencies
    #[arg(long, value_name = "OP=WEIGHT,...", default_value = "check=1", value_parser = mix)]
    pub(super) mix: Mix,
    /// number of different digests
    #[arg(
        long,
        value_name = "N",
        default_value = "100000",
        value_parser = value_parser!(u64).range(1..=1_000_000_000)
    )]
    pub(super) digests: u64,
    /// seed that determines the digests and their order
    #[arg(long, value_name = "N", default_value = "1")]
    pub(super) seed: u64,
    /// choose digests by Zipf's law with this exponent, instead of uniformly
    #[arg(long, value_name = "S", value_parser = |text: &str| decimal(text, 0.0..=10.0))]
    pub(super) zipf: Option<f64>,
    /// share of checks and infos for these digests; the rest is for unknown digests
    #[arg(long, value_name = "R", default_value = "1", value_parser = |text: &str| decimal(text, 0.0..=1.0))]
    pub(super) hit_ratio: f64,
    /// report each digest once before the measurement
    #[arg(long)]
    pub(super) preload: bool,
    /// account to sign requests with
    #[arg(long, value_name = "NAME", requires = "key", value_parser = user)]
    pub(super) user: Option<String>,
    /// the account's key, 40 hexadecimal digits, or @FILE with the key in its first line
    #[arg(long, value_name = "KEY", requires = "user")]
    pub(super) key: Option<String>,
    /// number of requests outstanding at any time
    #[arg(
        long,
        value_name = "N",
        default_value = "64",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000)
    )]
    pub(super) window: usize,
    /// requests to send per second, independent of replies, instead of a window
    #[arg(long, value_name = "R", conflicts_with = "window", value_parser = requests_per_second)]
    pub(super) rate: Option<f64>,
    /// find the highest rate at which the server keeps up, starting at this rate
    #[arg(
        long,
        value_name = "R",
        conflicts_with_all = ["rate", "window", "count"],
        requires = "rate_to",
        requires = "step",
        value_parser = requests_per_second
    )]
    pub(super) rate_from: Option<f64>,
    /// highest rate to try; each rate has its own warm-up and duration
    #[arg(long, value_name = "R", requires = "rate_from", value_parser = requests_per_second)]
    pub(super) rate_to: Option<f64>,
    /// difference between two rates
    #[arg(long, value_name = "R", requires = "rate_from", value_parser = requests_per_second)]
    pub(super) step: Option<f64>,
    /// number of sockets to send from
    #[arg(
        long,
        value_name = "N",
        default_value = "4",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=256)
    )]
    pub(super) sockets: usize,
    /// length of the measurement
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = |text: &str| seconds(text, 0.001..=1e7)
    )]
    pub(super) duration: Duration,
    /// length of the load before the measurement; default 1, with --count 0
    #[arg(long, value_name = "SECONDS", value_parser = |text: &str| seconds(text, 0.0..=1e7))]
    pub(super) warm_up: Option<Duration>,
    /// time after which a request without a reply is lost
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "2",
        value_parser = |text: &str| seconds(text, 0.001..=100.0)
    )]
    pub(super) timeout: Duration,
    /// number of requests to measure, instead of a duration
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// time between progress lines; default 1 on a terminal
    #[arg(long, value_name = "SECONDS", value_parser = |text: &str| seconds(text, 0.01..=1e7))]
    pub(super) interval: Option<Duration>,
    /// print one JSON object instead of text
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments of `pyzor-bench echo`.
#[derive(Debug, Parser)]
#[command(
    name = PROGRAM,
    version,
    about = "Send every datagram back: no server on this machine can be faster.",
    override_usage = "pyzor-bench echo [ADDRESS:PORT]",
    no_binary_name = true
)]
pub(super) struct EchoArguments {
    /// address to listen on; with port 0 the system chooses one
    #[arg(value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub(super) address: SocketAddr,
}

fn server(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').and_then(|(host, port)| {
        let is_host =
            !host.is_empty() && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'));
        port.parse::<u16>().ok().filter(|port| is_host && *port > 0)
    });
    port.map(|_| text.to_owned())
        .ok_or_else(|| "expected HOST:PORT, such as 127.0.0.1:24441 or [::1]:24441".to_owned())
}

fn mix(text: &str) -> Result<Mix, String> {
    let names = || Op::ALL.map(Op::name).join(", ");
    let mut weights: Vec<(Op, f64)> = Vec::new();
    for part in text.split(',') {
        let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
        let op = Op::from_name(name.trim().as_bytes())
            .ok_or_else(|| format!("unknown operation {:?}: expected one of {}", name.trim(), names()))?;
        if weights.iter().any(|(other, _)| *other == op) {
            return Err(format!("{op} is given twice"));
        }
        let weight = weight.trim().parse().map_err(|_| format!("the weight of {op} is not a number"))?;
        weights.push((op, weight));
    }
    Mix::new(weights).ok_or_else(|| "weights must not be negative, and one must be above 0".to_owned())
}

fn user(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text != "anonymous" && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_name.then(|| text.to_owned()).ok_or_else(|| "expected the name of an account".to_owned())
}

fn decimal(text: &str, range: RangeInclusive<f64>) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| range.contains(number));
    number.ok_or_else(|| format!("expected a number from {} to {}", range.start(), range.end()))
}

fn requests_per_second(text: &str) -> Result<f64, String> {
    decimal(text, 0.1..=1e7)
}

fn seconds(text: &str, range: RangeInclusive<f64>) -> Result<Duration, String> {
    decimal(text, range).map(Duration::from_secs_f64)
}

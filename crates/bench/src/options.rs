//! The command line of `pyzor-bench`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::choice::Mix;
use super::figures;
use super::plan::{End, Pace, Sweep};
use super::schedule::Schedule;
use pyzor_wire::digest::HEX_LEN;
use pyzor_wire::op::Op;

/// The most rates of a sweep.
const MOST_RATES: u64 = 100;

const PROGRAM: &str = "pyzor-bench";
const USAGE: &str = "pyzor-bench [OPTIONS] HOST:PORT\n       pyzor-bench echo [ADDRESS:PORT]";
const ABOUT: &str = "Put load on a Pyzor server, and say how many requests it answers and how fast.";
const ECHO_ABOUT: &str = "Send every datagram back: what a server could do at best on this machine.";

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// The server, as it was given.
    pub(super) server: String,
    pub(super) mix: Mix,
    pub(super) digests: u64,
    pub(super) seed: u64,
    pub(super) zipf: Option<f64>,
    pub(super) hit_ratio: f64,
    pub(super) preload: bool,
    /// User and key.
    pub(super) account: Option<(String, String)>,
    /// With a sweep, the highest of its rates.
    pub(super) pace: Pace,
    /// Rates to measure one after the other.
    pub(super) sweep: Option<Sweep>,
    pub(super) sockets: usize,
    pub(super) warm_up: Duration,
    pub(super) end: End,
    pub(super) timeout: Duration,
    /// How often to tell how it goes; by default that depends on the terminal.
    pub(super) interval: Option<Duration>,
    pub(super) json: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub(super) enum Invocation {
    /// To print this and end.
    Print(String),
    /// To put load on a server.
    Load(Box<Options>),
    /// To be a bare server.
    Echo(SocketAddr),
}

/// Reads the arguments behind the program's name. What is wrong with them is told in a text for the standard
/// error.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, String> {
    let mut arguments = arguments.into_iter().peekable();
    let is_echo = arguments.next_if(|first| first == "echo").is_some();
    let command = if is_echo { echo_command() } else { command() };
    let given = match command.try_get_matches_from(arguments) {
        Ok(given) => given,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Invocation::Print(format!("{}\n", error.to_string().trim_end())));
        }
        Err(error) => return Err(error.to_string()),
    };
    if is_echo {
        return Ok(Invocation::Echo(take(&given, "address")?));
    }
    options(&given).map(Box::new).map(Invocation::Load)
}

/// An option that has a default.
fn take<T: Clone + Send + Sync + 'static>(given: &ArgMatches, name: &str) -> Result<T, String> {
    given.get_one::<T>(name).cloned().ok_or_else(|| format!("error: {name} is missing\n"))
}

fn options(given: &ArgMatches) -> Result<Options, String> {
    let sweep = sweep(given)?;
    let highest = sweep.and_then(|sweep| sweep.rates().last());
    let pace = match highest.or(given.get_one("rate").copied()) {
        Some(rate) => Pace::Open { rate },
        None => Pace::Closed { window: number(given, "window")? },
    };
    let count = given.get_one::<u64>("count").copied();
    let end = match count {
        Some(count) => End::Count(count),
        None => End::After(nanoseconds(take(given, "duration")?)),
    };
    // With a count, no more than that is sent.
    let warm_up = given.get_one::<Duration>("warm-up").copied();
    let warm_up = warm_up.unwrap_or(Duration::from_secs(u64::from(count.is_none())));
    for rate in given.get_one("rate").copied().into_iter().chain(sweep.iter().flat_map(|sweep| sweep.rates()))
    {
        expect_any_due(sweep, rate, warm_up, end)?;
    }
    let account = match (given.get_one::<String>("user"), given.get_one::<String>("key")) {
        (Some(user), Some(text)) => Some((user.clone(), key(text)?)),
        _ => None,
    };
    Ok(Options {
        server: take(given, "server")?,
        mix: take(given, "mix")?,
        digests: take(given, "digests")?,
        seed: take(given, "seed")?,
        zipf: given.get_one("zipf").copied(),
        hit_ratio: take(given, "hit-ratio")?,
        preload: given.get_flag("preload"),
        account,
        pace,
        sweep,
        sockets: number(given, "sockets")?,
        warm_up,
        end,
        timeout: take(given, "timeout")?,
        interval: given.get_one("interval").copied(),
        json: given.get_flag("json"),
    })
}

/// The rates of `--rate-from`, `--rate-to` and `--step`, which are all there or none.
fn sweep(given: &ArgMatches) -> Result<Option<Sweep>, String> {
    let [Some(from), Some(to), Some(step)] =
        ["rate-from", "rate-to", "step"].map(|name| given.get_one::<f64>(name).copied())
    else {
        return Ok(None);
    };
    let sweep = Sweep { from, to, step };
    if from > to {
        return Err(format!("error: --rate-from {from} is above --rate-to {to}\n"));
    }
    match sweep.count() {
        1..=MOST_RATES => Ok(Some(sweep)),
        count => Err(format!("error: these are {count} rates; {MOST_RATES} are possible: increase --step\n")),
    }
}

/// Refuses a rate, of the sweep if there is one, at which the measurement would have no requests.
fn expect_any_due(sweep: Option<Sweep>, rate: f64, warm_up: Duration, end: End) -> Result<(), String> {
    let End::After(duration) = end else { return Ok(()) };
    if Schedule::new(rate, 0, nanoseconds(warm_up), end).count() > 0 {
        return Ok(());
    }
    let name = match sweep {
        None => format!("--rate {rate}"),
        Some(sweep) if rate <= sweep.from => format!("--rate-from {rate}"),
        Some(_) => format!("rate {} of the sweep", figures::rate(rate)),
    };
    let seconds = Duration::from_nanos(duration).as_secs_f64();
    Err(format!("error: {name}: nothing is due within --duration {seconds}\n"))
}

fn number(given: &ArgMatches, name: &str) -> Result<usize, String> {
    let number: u64 = take(given, name)?;
    usize::try_from(number).map_err(|error| format!("error: --{name}: {error}\n"))
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A key as it is given, or the one in the first line of a file.
fn key(text: &str) -> Result<String, String> {
    let key = match text.strip_prefix('@') {
        Some(file) => first_line(file).map_err(|why| format!("error: --key: cannot read {file}: {why}\n"))?,
        None => text.to_owned(),
    };
    // It is a secret, so the message does not show it.
    let is_key = key.len() == HEX_LEN && key.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_key
        .then_some(key)
        .ok_or_else(|| "error: --key: 40 hexadecimal digits are wanted, or @FILE\n".to_owned())
}

fn first_line(path: &str) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(File::open(path)?.take(4096)).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

fn mix(text: &str) -> Result<Mix, String> {
    let names = || Op::ALL.map(Op::name).join(", ");
    let mut weights: Vec<(Op, f64)> = Vec::new();
    for part in text.split(',') {
        let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
        let op = Op::from_name(name.trim().as_bytes())
            .ok_or_else(|| format!("{:?} is no operation; there are {}", name.trim(), names()))?;
        if weights.iter().any(|(other, _)| *other == op) {
            return Err(format!("{op} is there twice"));
        }
        let weight = weight.trim().parse().map_err(|_| format!("the weight of {op} is no number"))?;
        weights.push((op, weight));
    }
    Mix::new(weights).ok_or_else(|| "weights are numbers from 0 on, and one must be above 0".to_owned())
}

/// A decimal number in this range.
fn decimal(text: &str, range: std::ops::RangeInclusive<f64>) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| range.contains(number));
    number.ok_or_else(|| format!("a number from {} to {} is wanted", range.start(), range.end()))
}

fn seconds(text: &str, range: std::ops::RangeInclusive<f64>) -> Result<Duration, String> {
    decimal(text, range).map(Duration::from_secs_f64)
}

fn server(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').and_then(|(host, port)| {
        let is_host =
            !host.is_empty() && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'));
        port.parse::<u16>().ok().filter(|port| is_host && *port > 0)
    });
    port.map(|_| text.to_owned())
        .ok_or_else(|| "HOST:PORT is wanted, as 127.0.0.1:24441 or [::1]:24441".to_owned())
}

fn command() -> Command {
    let option = |name: &'static str, placeholder: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(placeholder).help(help)
    };
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    Command::new(PROGRAM)
        .about(ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .override_usage(USAGE)
        .no_binary_name(true)
        .infer_long_args(true)
        .args_override_self(true)
        .after_help("pyzor-bench echo is a bare server: it sends every datagram back, which shows what a server could do at best\non this machine.")
        .arg(
            Arg::new("server").value_name("HOST:PORT").help("the server").required(true).value_parser(server),
        )
        .arg(
            option("mix", "OP=WEIGHT,...", "how often each operation is asked for")
                .default_value("check=1")
                .value_parser(mix),
        )
        .arg(
            option("digests", "N", "how many digests are asked for")
                .default_value("100000")
                .value_parser(value_parser!(u64).range(1..=1_000_000_000)),
        )
        .arg(
            option("seed", "N", "which digests, and in which order")
                .default_value("1")
                .value_parser(value_parser!(u64)),
        )
        .arg(
            option("zipf", "S", "choose digests by Zipf's law with this exponent instead of uniformly")
                .value_parser(|text: &str| decimal(text, 0.0..=10.0)),
        )
        .arg(
            option(
                "hit-ratio",
                "R",
                "share of checks and infos for one of the digests; others are for unknown ones",
            )
            .default_value("1")
            .value_parser(|text: &str| decimal(text, 0.0..=1.0)),
        )
        .arg(switch("preload", "first report each of the digests once"))
        .arg(option("user", "NAME", "sign as this account").requires("key").value_parser(user))
        .arg(
            option("key", "KEY", "its key, 40 hexadecimal digits, or @FILE with that in its first line")
                .requires("user"),
        )
        .arg(
            option("window", "N", "how many requests are outstanding at any time")
                .default_value("64")
                .value_parser(value_parser!(u64).range(1..=1_000_000)),
        )
        .arg(
            option("rate", "R", "send so many requests a second, whatever the replies, instead of a window")
                .conflicts_with("window")
                .value_parser(|text: &str| decimal(text, 0.1..=1e7)),
        )
        .arg(
            option("rate-from", "R", "find the highest rate at which the server keeps up, from this one on")
                .conflicts_with_all(["rate", "window", "count"])
                .requires("rate-to")
                .requires("step")
                .value_parser(|text: &str| decimal(text, 0.1..=1e7)),
        )
        .arg(
            option("rate-to", "R", "the highest rate to try; each has warm-up and duration of its own")
                .requires("rate-from")
                .value_parser(|text: &str| decimal(text, 0.1..=1e7)),
        )
        .arg(
            option("step", "R", "by how much each rate is above the one before")
                .requires("rate-from")
                .value_parser(|text: &str| decimal(text, 0.1..=1e7)),
        )
        .arg(
            option("sockets", "N", "how many sockets to send from")
                .default_value("4")
                .value_parser(value_parser!(u64).range(1..=256)),
        )
        .arg(
            option("duration", "SECONDS", "how long to measure")
                .default_value("10")
                .value_parser(|text: &str| seconds(text, 0.001..=1e7)),
        )
        .arg(
            option("warm-up", "SECONDS", "how long to put load on it before that; default 1, with --count 0")
                .value_parser(|text: &str| seconds(text, 0.0..=1e7)),
        )
        .arg(
            option("timeout", "SECONDS", "a request that is not answered by then is lost")
                .default_value("2")
                .value_parser(|text: &str| seconds(text, 0.001..=100.0)),
        )
        .arg(
            option("count", "N", "send so many requests, instead of a duration")
                .conflicts_with("duration")
                .value_parser(value_parser!(u64).range(1..)),
        )
        .arg(
            option("interval", "SECONDS", "how often to say how it goes; default 1 on a terminal")
                .value_parser(|text: &str| seconds(text, 0.01..=1e7)),
        )
        .arg(switch("json", "print one JSON object instead of text"))
}

fn echo_command() -> Command {
    Command::new(PROGRAM)
        .about(ECHO_ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .override_usage("pyzor-bench echo [ADDRESS:PORT]")
        .no_binary_name(true)
        .arg(
            Arg::new("address")
                .value_name("ADDRESS:PORT")
                .help("where to listen; with port 0 the system chooses one")
                .default_value("127.0.0.1:0")
                .value_parser(value_parser!(SocketAddr)),
        )
}

fn user(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text != "anonymous" && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_name.then(|| text.to_owned()).ok_or_else(|| "the name of an account is wanted".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn load(line: &str) -> Options {
        match parsed(line) {
            Ok(Invocation::Load(options)) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let options = load("localhost:24441");
        assert_eq!(options.server, "localhost:24441");
        assert_eq!(Some(options.mix), Mix::new([(Op::Check, 1.0)]));
        assert_eq!((options.digests, options.seed, options.zipf), (100_000, 1, None));
        assert_eq!((options.hit_ratio, options.preload, options.account), (1.0, false, None));
        assert_eq!((options.pace, options.sockets), (Pace::Closed { window: 64 }, 4));
        assert_eq!((options.warm_up, options.end), (Duration::from_secs(1), End::After(10_000_000_000)));
        assert_eq!((options.timeout, options.interval), (Duration::from_secs(2), None));
        assert!(!options.json);
    }

    #[test]
    fn options_may_stand_anywhere_and_be_abbreviated() {
        let options = load(
            "--mix check=90,report=10 [::1]:1 --rate=0.5 --zip 0.99 --dur 1.5 --warm 0 --digests 7 --seed 0 --json",
        );
        assert_eq!(Some(options.mix), Mix::new([(Op::Check, 0.9), (Op::Report, 0.1)]));
        assert_eq!((options.pace, options.zipf), (Pace::Open { rate: 0.5 }, Some(0.99)));
        assert_eq!((options.warm_up, options.end), (Duration::ZERO, End::After(1_500_000_000)));
        assert_eq!(
            (options.server.as_str(), options.digests, options.seed, options.json),
            ("[::1]:1", 7, 0, true)
        );
        // A weight may be left out, and the last of repeated options counts.
        let options = load("--mix ping=9 --mix check,info a:1");
        assert_eq!(Some(options.mix), Mix::new([(Op::Check, 1.0), (Op::Info, 1.0)]));
    }

    #[test]
    fn the_pace_of_a_sweep_is_its_highest_rate() {
        let options = load("--rate-from 10 --rate-to 35 --step 10 a:1");
        assert_eq!(options.sweep, Some(Sweep { from: 10.0, to: 35.0, step: 10.0 }));
        assert_eq!(options.pace, Pace::Open { rate: 30.0 });
        assert_eq!((load("--rate 10 a:1").sweep, load("a:1").sweep), (None, None));
    }

    #[test]
    fn who_counts_wants_no_warm_up_unless_he_says_so() {
        assert_eq!(load("--count 5 a:1").warm_up, Duration::ZERO);
        assert_eq!(load("--count 5 a:1").end, End::Count(5));
        assert_eq!(load("--count 5 --warm-up 0.5 a:1").warm_up, Duration::from_millis(500));
    }

    #[test]
    fn the_bare_server_listens_where_it_is_told() {
        for (line, expected) in [("echo", "127.0.0.1:0"), ("echo [::]:24441", "[::]:24441")] {
            match parsed(line) {
                Ok(Invocation::Echo(address)) => assert_eq!(address.to_string(), expected),
                other => panic!("{other:?}"),
            }
        }
        // A server of this name has a port.
        assert_eq!(load("echo:24441").server, "echo:24441");
    }

    #[test]
    fn a_key_is_never_repeated_in_a_message() {
        let key = "0123456789abcdef0123456789abcdef0123456x";
        let told = parsed(&format!("--user alice --key {key} a:1")).unwrap_err();
        assert!(told.contains("40 hexadecimal digits") && !told.contains("0123"), "{told}");
    }
}

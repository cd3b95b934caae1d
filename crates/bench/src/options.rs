//! The checked command line.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

use super::arguments::{EchoArguments, LoadArguments};
use super::choice::Mix;
use super::figures;
use super::plan::{LoadPace, MeasurementEnd, RateSweep};
use super::schedule::Schedule;
use pyzor_wire::digest::HEX_LEN;

/// The most rates of a sweep.
const MOST_RATES: u64 = 100;

/// The options of a measurement.
#[derive(Clone, Debug)]
pub(super) struct LoadOptions {
    /// `HOST:PORT` as given.
    pub(super) server: String,
    pub(super) mix: Mix,
    pub(super) digests: u64,
    pub(super) seed: u64,
    pub(super) zipf: Option<f64>,
    pub(super) hit_ratio: f64,
    pub(super) preload: bool,
    /// The user and the key.
    pub(super) account: Option<(String, String)>,
    /// In a sweep, the pace of its highest rate.
    pub(super) pace: LoadPace,
    pub(super) sweep: Option<RateSweep>,
    pub(super) sockets: usize,
    pub(super) warm_up: Duration,
    pub(super) end: MeasurementEnd,
    pub(super) timeout: Duration,
    /// The time between progress lines. The default depends on whether standard error is a terminal.
    pub(super) interval: Option<Duration>,
    pub(super) json: bool,
}

/// The action that the command line requests.
#[derive(Debug)]
pub(super) enum BenchCommand {
    /// Print the help or the version.
    Print(String),
    /// Measure a server.
    Load(Box<LoadOptions>),
    /// Run the echo server.
    Echo(SocketAddr),
}

/// Parses the arguments after the program's name.
///
/// # Errors
///
/// Returns the message for standard error.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<BenchCommand, String> {
    let mut arguments = arguments.into_iter().peekable();
    let parsed = if arguments.next_if(|first| first == "echo").is_some() {
        EchoArguments::try_parse_from(arguments).map(|echo| Ok(BenchCommand::Echo(echo.address)))
    } else {
        LoadArguments::try_parse_from(arguments)
            .map(|load| LoadOptions::of(load).map(Box::new).map(BenchCommand::Load))
    };
    match parsed {
        Ok(invocation) => invocation,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(BenchCommand::Print(format!("{}\n", error.to_string().trim_end())))
        }
        Err(error) => Err(error.to_string()),
    }
}

impl LoadOptions {
    /// Checks what clap cannot: combinations of options, and the key.
    fn of(given: LoadArguments) -> Result<Self, String> {
        let sweep = sweep(&given)?;
        let highest = sweep.and_then(|sweep| sweep.rates().last());
        let pace = match highest.or(given.rate) {
            Some(rate) => LoadPace::Open { rate },
            None => LoadPace::Closed { window: given.window },
        };
        let end = match given.count {
            Some(count) => MeasurementEnd::Count(count),
            None => MeasurementEnd::After(nanoseconds(given.duration)),
        };
        // By default, `--count` is exactly the number of requests sent.
        let warm_up = given.warm_up.unwrap_or(Duration::from_secs(u64::from(given.count.is_none())));
        for rate in given.rate.into_iter().chain(sweep.iter().flat_map(|sweep| sweep.rates())) {
            check_rate(sweep, rate, warm_up, end)?;
        }
        let account = match (given.user, given.key) {
            (Some(user), Some(text)) => Some((user, key(&text)?)),
            _ => None,
        };
        Ok(Self {
            server: given.server,
            mix: given.mix,
            digests: given.digests,
            seed: given.seed,
            zipf: given.zipf,
            hit_ratio: given.hit_ratio,
            preload: given.preload,
            account,
            pace,
            sweep,
            sockets: given.sockets,
            warm_up,
            end,
            timeout: given.timeout,
            interval: given.interval,
            json: given.json,
        })
    }
}

/// The sweep of `--rate-from`, `--rate-to` and `--step`. Clap ensures that all or none of them are given.
fn sweep(given: &LoadArguments) -> Result<Option<RateSweep>, String> {
    let (Some(from), Some(to), Some(step)) = (given.rate_from, given.rate_to, given.step) else {
        return Ok(None);
    };
    let sweep = RateSweep { from, to, step };
    if from > to {
        return Err(format!("error: --rate-from {from} is above --rate-to {to}\n"));
    }
    match sweep.count() {
        1..=MOST_RATES => Ok(Some(sweep)),
        count => {
            Err(format!("error: the sweep has {count} rates, more than {MOST_RATES}: increase --step\n"))
        }
    }
}

/// Refuses a rate at which no request would be due during the measurement.
fn check_rate(
    sweep: Option<RateSweep>,
    rate: f64,
    warm_up: Duration,
    end: MeasurementEnd,
) -> Result<(), String> {
    let MeasurementEnd::After(duration) = end else { return Ok(()) };
    if Schedule::new(rate, 0, nanoseconds(warm_up), end).count() > 0 {
        return Ok(());
    }
    let name = match sweep {
        None => format!("--rate {rate}"),
        Some(sweep) if rate <= sweep.from => format!("--rate-from {rate}"),
        Some(_) => format!("rate {} of the sweep", figures::rate(rate)),
    };
    let seconds = Duration::from_nanos(duration).as_secs_f64();
    Err(format!(
        "error: {name}: no request is due within --duration {seconds}: increase the rate or the duration\n"
    ))
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the key as given, or the first line of `@FILE`.
fn key(text: &str) -> Result<String, String> {
    let key = match text.strip_prefix('@') {
        Some(file) => first_line(file).map_err(|why| format!("error: --key: cannot read {file}: {why}\n"))?,
        None => text.to_owned(),
    };
    // The message must not show the key, which is a secret.
    let is_key = key.len() == HEX_LEN && key.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_key.then_some(key).ok_or_else(|| "error: --key: expected 40 hexadecimal digits or @FILE\n".to_owned())
}

fn first_line(path: &str) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(File::open(path)?.take(4096)).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pyzor_wire::op::Op;

    fn parsed(line: &str) -> Result<BenchCommand, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn load(line: &str) -> LoadOptions {
        match parsed(line) {
            Ok(BenchCommand::Load(options)) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_match_the_help() {
        let options = load("localhost:24441");
        assert_eq!(options.server, "localhost:24441");
        assert_eq!(Some(options.mix), Mix::new([(Op::Check, 1.0)]));
        assert_eq!((options.digests, options.seed, options.zipf), (100_000, 1, None));
        assert_eq!((options.hit_ratio, options.preload, options.account), (1.0, false, None));
        assert_eq!((options.pace, options.sockets), (LoadPace::Closed { window: 64 }, 4));
        assert_eq!(
            (options.warm_up, options.end),
            (Duration::from_secs(1), MeasurementEnd::After(10_000_000_000))
        );
        assert_eq!((options.timeout, options.interval), (Duration::from_secs(2), None));
        assert!(!options.json);
    }

    #[test]
    fn options_may_be_anywhere_and_abbreviated() {
        let options = load(
            "--mix check=90,report=10 [::1]:1 --rate=0.5 --zip 0.99 --dur 1.5 --warm 0 --digests 7 --seed 0 --json",
        );
        assert_eq!(Some(options.mix), Mix::new([(Op::Check, 0.9), (Op::Report, 0.1)]));
        assert_eq!((options.pace, options.zipf), (LoadPace::Open { rate: 0.5 }, Some(0.99)));
        assert_eq!((options.warm_up, options.end), (Duration::ZERO, MeasurementEnd::After(1_500_000_000)));
        assert_eq!(
            (options.server.as_str(), options.digests, options.seed, options.json),
            ("[::1]:1", 7, 0, true)
        );
        // The weight is optional, and the last of repeated options wins.
        let options = load("--mix ping=9 --mix check,info a:1");
        assert_eq!(Some(options.mix), Mix::new([(Op::Check, 1.0), (Op::Info, 1.0)]));
    }

    #[test]
    fn pace_of_a_sweep_is_its_highest_rate() {
        let options = load("--rate-from 10 --rate-to 35 --step 10 a:1");
        assert_eq!(options.sweep, Some(RateSweep { from: 10.0, to: 35.0, step: 10.0 }));
        assert_eq!(options.pace, LoadPace::Open { rate: 30.0 });
        assert_eq!((load("--rate 10 a:1").sweep, load("a:1").sweep), (None, None));
    }

    #[test]
    fn count_option_implies_no_warm_up() {
        assert_eq!(load("--count 5 a:1").warm_up, Duration::ZERO);
        assert_eq!(load("--count 5 a:1").end, MeasurementEnd::Count(5));
        assert_eq!(load("--count 5 --warm-up 0.5 a:1").warm_up, Duration::from_millis(500));
    }

    #[test]
    fn echo_address_is_parsed() {
        for (line, expected) in [("echo", "127.0.0.1:0"), ("echo [::]:24441", "[::]:24441")] {
            match parsed(line) {
                Ok(BenchCommand::Echo(address)) => assert_eq!(address.to_string(), expected),
                other => panic!("{other:?}"),
            }
        }
        // A host named "echo" is not the command, because it has a port.
        assert_eq!(load("echo:24441").server, "echo:24441");
    }

    #[test]
    fn messages_do_not_contain_the_key() {
        let key = "0123456789abcdef0123456789abcdef0123456x";
        let message = parsed(&format!("--user alice --key {key} a:1")).unwrap_err();
        assert!(message.contains("40 hexadecimal digits") && !message.contains("0123"), "{message}");
    }
}

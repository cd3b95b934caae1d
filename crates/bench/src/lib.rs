//! `pyzor-bench`: puts load on a Pyzor server and measures how many requests it answers, and how fast.
//!
//! One thread sends and receives on several sockets, with many datagrams per system call, so that it needs less time
//! per request than any server. It uses nothing but the protocol, so it works with every Pyzor server.

mod arguments;
mod choice;
mod echo;
mod figures;
mod histogram;
mod json;
mod load;
mod measurement;
mod nap;
mod options;
mod outbox;
mod outstanding;
mod plan;
mod progress;
mod request;
mod schedule;
mod screen;
mod sockets;
mod stop;
mod sweep;
mod zipf;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal};

use self::choice::{Choice, Digests, Random, RequestSource};
use self::load::Generator;
use self::measurement::Measurement;
use self::options::{BenchCommand, LoadOptions, nanoseconds};
use self::outstanding::Outstanding;
use self::plan::{LoadPace, LoadPlan, MeasurementEnd, RateSweep};
use self::progress::ProgressOutput;
use self::request::Encoder;
use self::sockets::Sockets;
use self::stop::StopFlag;
use self::sweep::MeasuredRate;
use self::zipf::Zipf;

/// The exit code for a wrong command line.
const EXIT_USAGE: u8 = 2;

/// The window of the preload before an open loop.
const PRELOAD_WINDOW: usize = 64;
/// The most requests that may be outstanding.
const MOST_OUTSTANDING: usize = 1 << 22;

/// Runs the program `pyzor-bench`.
pub fn main() -> ExitCode {
    // Without SIGXFSZ, output beyond the limit of file sizes is an error that can be reported.
    let limit: SigSet = [Signal::SIGXFSZ].into_iter().collect();
    if let Err(error) = limit.thread_block() {
        return failure(&format_args!("cannot block SIGXFSZ: {error}"));
    }
    let outcome = match options::parse(std::env::args_os().skip(1)) {
        Ok(BenchCommand::Print(text)) => {
            let _ = io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            let _ = io::stderr().write_all(text.as_bytes());
            return ExitCode::from(EXIT_USAGE);
        }
        Ok(BenchCommand::Echo(address)) => {
            echo::run(address).map_err(|error| format!("cannot serve {address}: {error}"))
        }
        Ok(BenchCommand::Load(options)) => load(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

/// Prints an error and returns its exit code.
fn failure(error: &dyn Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "pyzor-bench: error: {error}");
    ExitCode::FAILURE
}

fn load(options: &LoadOptions) -> Result<(), String> {
    let message = |what: &str, error: &dyn Display| format!("{what} {}: {error}", options.server);
    let stop = StopFlag::on_signals().map_err(|error| format!("cannot handle signals: {error}"))?;
    // The default timer slack of 50 µs is longer than the pauses of an open loop.
    let _ = nix::sys::prctl::set_timerslack(1);
    let address = options
        .server
        .to_socket_addrs()
        .and_then(|mut found| found.next().ok_or_else(|| io::Error::other("it has no address")))
        .map_err(|error| message("cannot resolve", &error))?;
    let sockets =
        Sockets::open(address, options.sockets).map_err(|error| message("cannot open sockets to", &error))?;
    let limit = match options.pace {
        LoadPace::Closed { window } => window.max(PRELOAD_WINDOW),
        LoadPace::Open { rate } => (rate * options.timeout.as_secs_f64() * 1.5) as usize + 1024,
    };
    // Makes the `Thread` numbers differ from those of a run shortly before.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut generator = Generator {
        sockets,
        outstanding: Outstanding::new(limit.min(MOST_OUTSTANDING), now.as_micros() as u64),
        encoder: Encoder::new(options.account.as_ref().map(|(user, key)| (user.as_str(), key.as_str()))),
        stop,
        timeout: nanoseconds(options.timeout),
        epoch: Instant::now(),
        refusals: 0,
    };
    let style = ProgressOutput::new(options);
    if options.preload {
        preload(options, &mut generator, style)?;
    }
    let answered = match options.sweep {
        Some(sweep) => sweep_over(options, sweep, &mut generator, style)?,
        None => {
            let measurement = measure(options, &mut generator, style, "load".to_owned())?;
            let text = match options.json {
                true => json::measurement(options, &measurement).map_err(|error| error.to_string())?,
                false => screen::render(options, &measurement),
            };
            print(&text)?;
            measurement.answered()
        }
    };
    if answered == 0 {
        let why = match () {
            () if generator.refusals > 0 => ": its port is closed",
            () if generator.stop.is_requested() => ", which was interrupted",
            () => "",
        };
        return Err(format!("{} did not answer during the measurement{why}", options.server));
    }
    Ok(())
}

fn print(text: &str) -> Result<(), String> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
}

/// Makes one measurement.
fn measure(
    options: &LoadOptions,
    generator: &mut Generator,
    style: ProgressOutput,
    name: String,
) -> Result<Measurement, String> {
    let plan = LoadPlan {
        source: RequestSource::Chosen(Box::new(Choice {
            random: Random::new(options.seed),
            mix: options.mix,
            digests: Digests::new(options.seed),
            count: options.digests,
            zipf: options.zipf.map(|exponent| Zipf::new(options.digests, exponent)),
            hit_ratio: options.hit_ratio,
        })),
        pace: options.pace,
        warm_up: nanoseconds(options.warm_up),
        end: options.end,
        interval: style.interval,
    };
    let mut line = style.line(name);
    generator
        .run(plan, &mut |now, measurement| line.show(now, measurement))
        .map_err(|error| format!("the measurement of {} failed: {error}", options.server))
}

/// Measures each rate of a sweep and prints the results, even if a later rate fails. Returns how many requests were
/// answered in total.
fn sweep_over(
    options: &LoadOptions,
    sweep: RateSweep,
    generator: &mut Generator,
    style: ProgressOutput,
) -> Result<u64, String> {
    if !options.json {
        print(&format!("{}\n\n{}\n", screen::title(options).join("\n"), sweep::column_headings()))?;
    }
    let mut steps = Vec::new();
    let mut failure = None;
    for rate in sweep.rates() {
        let options = LoadOptions { pace: LoadPace::Open { rate }, ..options.clone() };
        let name = format!("{} requests/s", figures::rate(rate));
        let measurement = match measure(&options, generator, style, name) {
            Ok(measurement) => measurement,
            Err(error) => {
                failure = Some(error);
                break;
            }
        };
        if measurement.is_interrupted && measurement.sent == 0 {
            break;
        }
        let step = MeasuredRate { rate, measurement };
        if !options.json {
            print(&format!("{}\n", step.row()))?;
        }
        steps.push(step);
        if generator.stop.is_requested() {
            break;
        }
    }
    let text = match options.json {
        true => json::sweep(options, sweep, &steps).map_err(|error| error.to_string()),
        false => Ok(format!("\n{}\n", sweep::conclusion(sweep, &steps).join("\n"))),
    };
    let printed = text.and_then(|text| print(&text));
    let errors: Vec<String> = failure.into_iter().chain(printed.err()).collect();
    if !errors.is_empty() {
        return Err(errors.join("; "));
    }
    Ok(steps.iter().map(|step| step.measurement.answered()).sum())
}

/// Reports every digest once.
fn preload(options: &LoadOptions, generator: &mut Generator, style: ProgressOutput) -> Result<(), String> {
    let window = match options.pace {
        LoadPace::Closed { window } => window,
        LoadPace::Open { .. } => PRELOAD_WINDOW,
    };
    let plan = LoadPlan {
        source: RequestSource::Each { digests: Digests::new(options.seed), next: 0, count: options.digests },
        pace: LoadPace::Closed { window },
        warm_up: 0,
        end: MeasurementEnd::Count(options.digests),
        interval: style.interval,
    };
    let mut line = style.line("preload".to_owned());
    let measurement = generator
        .run(plan, &mut |now, measurement| line.show(now, measurement))
        .map_err(|error| format!("the preload to {} failed: {error}", options.server))?;
    if measurement.succeeded == options.digests {
        return Ok(());
    }
    let Measurement { succeeded, lost, .. } = measurement;
    let failed = measurement.answered() - succeeded;
    Err(format!(
        "the preload to {} failed: of {} digests {succeeded} were reported, {failed} failed, {lost} were not answered",
        options.server, options.digests
    ))
}

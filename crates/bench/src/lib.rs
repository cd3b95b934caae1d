//! `pyzor-bench`: puts load on a Pyzor server, and says how many requests it answers and how fast.
//!
//! One thread sends and receives on several sockets, many datagrams a system call, so that it needs less time
//! for a request than any server. It knows of servers only what goes over the wire.

mod arguments;
mod choice;
mod echo;
mod figures;
mod histogram;
mod load;
mod options;
mod outbox;
mod output;
mod outstanding;
mod plan;
mod progress;
mod request;
mod rhythm;
mod schedule;
mod sockets;
mod stop;
mod sweep;
mod tally;
mod text;
mod zipf;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal};

use self::choice::{Choice, Digests, Random, Source};
use self::load::Generator;
use self::options::{Invocation, Options, nanoseconds};
use self::outstanding::Outstanding;
use self::plan::{End, Pace, Plan, Sweep};
use self::progress::Style;
use self::request::Encoder;
use self::sockets::Sockets;
use self::stop::Stop;
use self::sweep::Step;
use self::tally::Tally;
use self::zipf::Zipf;

/// The command line was misused.
const EXIT_USAGE: u8 = 2;

/// How many requests are outstanding while digests are reported for an open loop.
const PRELOAD_WINDOW: usize = 64;
/// The most requests that may wait for replies.
const MOST_OUTSTANDING: usize = 1 << 22;

/// Runs the program `pyzor-bench`.
pub fn main() -> ExitCode {
    // A write beyond a limit of file sizes then fails with an error, rather than end the process.
    let limit: SigSet = [Signal::SIGXFSZ].into_iter().collect();
    if let Err(error) = limit.thread_block() {
        let _ = writeln!(io::stderr(), "pyzor-bench: error: cannot block SIGXFSZ: {error}");
        return ExitCode::FAILURE;
    }
    let outcome = match options::parse(std::env::args_os().skip(1)) {
        Ok(Invocation::Print(text)) => {
            let _ = io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            let _ = io::stderr().write_all(text.as_bytes());
            return ExitCode::from(EXIT_USAGE);
        }
        Ok(Invocation::Echo(address)) => {
            echo::run(address).map_err(|error| format!("cannot serve {address}: {error}"))
        }
        Ok(Invocation::Load(options)) => load(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "pyzor-bench: error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn load(options: &Options) -> Result<(), String> {
    let told = |what: &str, error: &dyn Display| format!("{what} {}: {error}", options.server);
    let stop = Stop::on_signals().map_err(|error| error.to_string())?;
    // Waits for the next request of an open loop are shorter than what the system may make of them.
    let _ = nix::sys::prctl::set_timerslack(1);
    let address = options
        .server
        .to_socket_addrs()
        .and_then(|mut found| found.next().ok_or_else(|| io::Error::other("it has no address")))
        .map_err(|error| told("cannot resolve", &error))?;
    let sockets = Sockets::open(address, options.sockets).map_err(|error| told("cannot talk to", &error))?;
    let limit = match options.pace {
        Pace::Closed { window } => window.max(PRELOAD_WINDOW),
        Pace::Open { rate } => (rate * options.timeout.as_secs_f64() * 1.5) as usize + 1024,
    };
    // So that a run soon after this one does not send the same.
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
    let style = Style::new(options);
    if options.preload {
        preload(options, &mut generator, style)?;
    }
    let answered = match options.sweep {
        Some(sweep) => sweep_over(options, sweep, &mut generator, style)?,
        None => {
            let tally = measure(options, &mut generator, style, "load".to_owned())?;
            let text = match options.json {
                true => output::json(options, &tally).map_err(|error| error.to_string())?,
                false => text::text(options, &tally),
            };
            print(&text)?;
            tally.answered()
        }
    };
    if answered == 0 {
        let why = match () {
            () if generator.refusals > 0 => ": its port is closed",
            () if generator.stop.is_wanted() => ", which was interrupted",
            () => "",
        };
        return Err(format!("{} did not answer in the time of the measurement{why}", options.server));
    }
    Ok(())
}

fn print(text: &str) -> Result<(), String> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
}

/// One measurement at the pace of these options.
fn measure(
    options: &Options,
    generator: &mut Generator,
    style: Style,
    name: String,
) -> Result<Tally, String> {
    let plan = Plan {
        source: Source::Chosen(Box::new(Choice {
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
    let mut teller = style.teller(name);
    generator
        .run(plan, &mut |now, tally| teller.tell(now, tally))
        .map_err(|error| format!("load on {}: {error}", options.server))
}

/// Measures each rate of a sweep and prints what was measured, also if a rate fails; returns how many requests were
/// answered in all.
fn sweep_over(
    options: &Options,
    sweep: Sweep,
    generator: &mut Generator,
    style: Style,
) -> Result<u64, String> {
    if !options.json {
        print(&format!("{}\n\n{}\n", text::title(options).join("\n"), sweep::heads()))?;
    }
    let mut steps = Vec::new();
    let mut failure = None;
    for rate in sweep.rates() {
        let options = Options { pace: Pace::Open { rate }, ..options.clone() };
        let name = format!("{} requests/s", figures::rate(rate));
        let tally = match measure(&options, generator, style, name) {
            Ok(tally) => tally,
            Err(error) => {
                failure = Some(error);
                break;
            }
        };
        if tally.is_interrupted && tally.sent == 0 {
            break;
        }
        let step = Step { rate, tally };
        if !options.json {
            print(&format!("{}\n", step.row()))?;
        }
        steps.push(step);
        if generator.stop.is_wanted() {
            break;
        }
    }
    let text = match options.json {
        true => output::sweep_json(options, sweep, &steps).map_err(|error| error.to_string()),
        false => Ok(format!("\n{}\n", sweep::conclusion(sweep, &steps).join("\n"))),
    };
    let printed = text.and_then(|text| print(&text));
    let errors: Vec<String> = failure.into_iter().chain(printed.err()).collect();
    if !errors.is_empty() {
        return Err(errors.join("; "));
    }
    Ok(steps.iter().map(|step| step.tally.answered()).sum())
}

/// Reports every digest once.
fn preload(options: &Options, generator: &mut Generator, style: Style) -> Result<(), String> {
    let window = match options.pace {
        Pace::Closed { window } => window,
        Pace::Open { .. } => PRELOAD_WINDOW,
    };
    let plan = Plan {
        source: Source::Each { digests: Digests::new(options.seed), next: 0, count: options.digests },
        pace: Pace::Closed { window },
        warm_up: 0,
        end: End::Count(options.digests),
        interval: style.interval,
    };
    let mut teller = style.teller("preload".to_owned());
    let tally = generator
        .run(plan, &mut |now, tally| teller.tell(now, tally))
        .map_err(|error| format!("preload to {}: {error}", options.server))?;
    if tally.succeeded == options.digests {
        return Ok(());
    }
    let Tally { succeeded, lost, .. } = tally;
    let failed = tally.answered() - succeeded;
    Err(format!(
        "preload: of {} digests {succeeded} were reported, {failed} failed, {lost} were not answered",
        options.digests
    ))
}

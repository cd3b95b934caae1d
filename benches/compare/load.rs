//! Runs of `pyzor-bench`, and their outcomes.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{cpu_seconds, pinned, processors};
use crate::subject::Subject;

/// The arguments and conditions of a run.
pub(crate) struct Load {
    arguments: Vec<String>,
    seconds: f64,
    processor: &'static str,
    /// The required counts of all checks: above 0 (`true`) or 0 (`false`); `None` if they are unknown.
    found: Option<bool>,
    /// Whether the load is a closed loop, which cannot overload the server.
    is_closed: bool,
}

/// The outcome of a run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Replies per second.
    pub(crate) throughput: f64,
    /// The median latency in microseconds.
    pub(crate) p50: f64,
    /// The 99th percentile in microseconds.
    pub(crate) p99: f64,
    /// The 99.9th percentile in microseconds.
    pub(crate) p99_9: f64,
    /// Requests sent per second.
    pub(crate) offered: f64,
    /// The share of the requests that were not answered.
    pub(crate) lost: f64,
    /// The share of the requests that were answered with an error.
    pub(crate) failed: f64,
    /// The server's processor time per reply, in microseconds.
    pub(crate) server: f64,
    /// The database's processor time per reply, in microseconds.
    pub(crate) database: f64,
    /// The share of a processor that the load generator used.
    pub(crate) generator: f64,
}

const WARM_UP: f64 = 0.5;
/// The highest share of lost requests in a closed loop. A lost request occupies the window until it times out, so more
/// of them would measure a smaller window.
const MOST_LOST: f64 = 0.001;

impl Load {
    /// A closed loop with this window.
    pub(crate) fn closed(arguments: &[&str], window: u32, found: Option<bool>, seconds: f64) -> Self {
        let mut all: Vec<String> = Vec::new();
        if !arguments.contains(&"--window") {
            all.extend(["--window".to_owned(), window.to_string()]);
        }
        all.extend(arguments.iter().map(ToString::to_string));
        Self { arguments: all, seconds, processor: &processors().others, found, is_closed: true }
    }

    /// An open loop with this rate.
    pub(crate) fn open(arguments: &[&str], rate: f64, seconds: f64) -> Self {
        let mut all: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        all.extend(["--rate".to_owned(), format!("{rate:.0}")]);
        Self { arguments: all, seconds, processor: &processors().others, found: None, is_closed: false }
    }

    /// An open loop that overloads the server, sent from a separate processor if there is one.
    pub(crate) fn overload(arguments: &[&str], rate: f64, seconds: f64) -> Self {
        Self { processor: &processors().apart, ..Self::open(arguments, rate, seconds) }
    }

    /// Reports all digests once.
    pub(crate) fn preload(subject: &Subject) {
        let digests = subject.digests().to_string();
        let arguments = ["--digests", &digests, "--preload", "--count", "1", "--window", "64"];
        run(&arguments, subject.port()).unwrap_or_else(|error| panic!("{}: {error}", subject.name()));
    }

    /// Runs the load on a server.
    pub(crate) fn put_on(&self, subject: &Subject) -> Outcome {
        let (digests, seconds) = (subject.digests().to_string(), format!("{:.1}", self.seconds));
        let warm_up = format!("{WARM_UP}");
        let mut arguments = vec!["--digests", &digests, "--duration", &seconds, "--warm-up", &warm_up];
        arguments.extend(self.arguments.iter().map(String::as_str));
        let (server, database) = (subject.pids(), subject.database_pids());
        let length = self.seconds;
        let watch = thread::spawn(move || {
            // From 20 % to 90 % of the measurement, without its start and end.
            thread::sleep(Duration::from_secs_f64(WARM_UP + 0.2 * length));
            let (start, before) = (Instant::now(), [cpu_seconds(&server), cpu_seconds(&database)]);
            thread::sleep(Duration::from_secs_f64(0.7 * length));
            let (elapsed, after) = (start.elapsed(), [cpu_seconds(&server), cpu_seconds(&database)]);
            [0, 1].map(|which| (after[which] - before[which]) / elapsed.as_secs_f64() * 1e6)
        });
        let value = pinned(self.processor, || run(&arguments, subject.port()))
            .unwrap_or_else(|error| panic!("{}: {error}", subject.name()));
        let [server, database] = watch.join().unwrap();
        let number = |name: &str| value.pointer(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let throughput = number("/throughput");
        let failed = value["failed"].as_object().into_iter().flatten();
        let failed = failed.filter_map(|(_, count)| count.as_f64()).fold(0.0, |sum, count| sum + count);
        let outcome = Outcome {
            throughput,
            p50: number("/latency/p50"),
            p99: number("/latency/p99"),
            p99_9: number("/latency/p99_9"),
            offered: number("/sent") / number("/seconds"),
            lost: number("/lost") / number("/sent"),
            failed: failed / number("/sent"),
            server: server / throughput,
            database: database / throughput,
            generator: number("/cpu_seconds") / number("/seconds"),
        };
        eprintln!(
            "  {:<26} {:<44} {throughput:>9.0}/s {:>7.2} us {:>7.2} us, generator {:>3.0} %, lost {:.2} %",
            subject.name(),
            self.arguments.join(" "),
            outcome.server,
            outcome.database,
            outcome.generator * 100.0,
            outcome.lost * 100.0,
        );
        self.check(subject, &outcome, number("/found") / number("/answered"));
        outcome
    }

    /// Checks that a closed loop got the expected replies. Refusals and wrong replies are quick, too, so a throughput
    /// with them would mean nothing.
    fn check(&self, subject: &Subject, outcome: &Outcome, found: f64) {
        if !self.is_closed {
            return;
        }
        let (name, asked) = (subject.name(), self.arguments.join(" "));
        assert!(outcome.failed == 0.0, "{name}: {asked}: {} of the requests failed", outcome.failed);
        assert!(outcome.lost <= MOST_LOST, "{name}: {asked}: {} of the requests were lost", outcome.lost);
        let has_counts = !subject.is_echo();
        if let Some(expected) = self.found.filter(|_| has_counts).map(|found| if found { 1.0 } else { 0.0 }) {
            assert!(found == expected, "{name}: {asked}: {found} of the checks found something");
        }
    }
}

/// Runs the load generator and returns its JSON.
pub(crate) fn run(arguments: &[&str], port: u16) -> Result<Value, String> {
    let mut bench = Command::new(crate::harness::generator());
    bench.arg("--json").args(arguments).arg(format!("127.0.0.1:{port}")).stdin(Stdio::null());
    let output = bench.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("pyzor-bench {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

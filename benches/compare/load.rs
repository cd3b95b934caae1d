//! Load from `pyzor-bench`, and what became of it.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{cpu_seconds, family, pinned};
use crate::subject::Subject;
use crate::{APART, OTHERS};

/// What is asked, and how much.
pub(crate) struct Load {
    arguments: Vec<String>,
    seconds: f64,
    processor: &'static str,
}

/// What became of a load.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Replies per second.
    pub(crate) throughput: f64,
    /// Times in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    /// How many of the requests were answered with an error.
    pub(crate) failed: u64,
    /// Processor time for a reply, in microseconds.
    pub(crate) server: f64,
    pub(crate) database: f64,
}

const WARM_UP: f64 = 0.5;

impl Load {
    /// So many requests outstanding at any time.
    pub(crate) fn closed(arguments: &[&str], window: u32, seconds: f64) -> Self {
        let mut all: Vec<String> = Vec::new();
        if !arguments.contains(&"--window") {
            all.extend(["--window".to_owned(), window.to_string()]);
        }
        all.extend(arguments.iter().map(ToString::to_string));
        Self { arguments: all, seconds, processor: OTHERS }
    }

    /// So many requests per second, whatever becomes of them.
    pub(crate) fn open(arguments: &[&str], rate: f64, seconds: f64) -> Self {
        let mut all: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        all.extend(["--rate".to_owned(), format!("{rate:.0}")]);
        Self { arguments: all, seconds, processor: OTHERS }
    }

    /// The same from a processor of its own, where there is one.
    pub(crate) fn apart(self) -> Self {
        let is_there = fs::metadata(format!("/sys/devices/system/cpu/cpu{APART}")).is_ok();
        Self { processor: if is_there { APART } else { OTHERS }, ..self }
    }

    /// Reports all digests once.
    pub(crate) fn preload(subject: &Subject) {
        let digests = subject.digests().to_string();
        let arguments = ["--digests", &digests, "--preload", "--count", "1", "--window", "64"];
        run(&arguments, subject.port()).unwrap_or_else(|error| panic!("{}: {error}", subject.name()));
    }

    /// Asks the server.
    pub(crate) fn put_on(&self, subject: &Subject) -> Outcome {
        let (digests, seconds) = (subject.digests().to_string(), format!("{:.1}", self.seconds));
        let warm_up = format!("{WARM_UP}");
        let mut arguments = vec!["--digests", &digests, "--duration", &seconds, "--warm-up", &warm_up];
        arguments.extend(self.arguments.iter().map(String::as_str));
        let (server, database) = (family(subject.pid()), subject.database_pids());
        let length = self.seconds;
        let watch = thread::spawn(move || {
            // Only what lies within the measurement.
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
        let outcome = Outcome {
            throughput,
            p50: number("/latency/p50"),
            p99: number("/latency/p99"),
            p99_9: number("/latency/p99_9"),
            failed: failed.filter_map(|(_, count)| count.as_u64()).sum(),
            server: server / throughput,
            database: database / throughput,
        };
        eprintln!(
            "  {:<28} {:<56} {throughput:>9.0}/s {:>7.2} us {:>7.2} us",
            subject.name(),
            self.arguments.join(" "),
            outcome.server,
            outcome.database
        );
        outcome
    }
}

/// Runs the load generator; returns what it measured.
pub(crate) fn run(arguments: &[&str], port: u16) -> Result<Value, String> {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_pyzor-bench"));
    bench.arg("--json").args(arguments).arg(format!("127.0.0.1:{port}")).stdin(Stdio::null());
    let output = bench.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("pyzor-bench {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

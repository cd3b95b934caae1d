//! Sweeps over several rates, and the highest one at which a server keeps up.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Echo, Outcome, Recorder, program, said};
use crate::harness::Finished;

/// The requests per second that the limited server answers.
const CAPACITY: f64 = 250.0;
/// The requests that the limited server answers at once.
const BURST: f64 = 10.0;
const RATES: [f64; 3] = [100.0, 400.0, 700.0];
const SWEEP: &str =
    "--rate-from 100 --rate-to 900 --step 300 --duration 0.8 --warm-up 0.2 --timeout 0.3 --mix report=1";

/// A server that drops requests that arrive too fast.
fn limited() -> Recorder<(Instant, f64)> {
    Recorder::start((Instant::now(), BURST), |(since, room), _, replies| {
        *room = (*room + since.elapsed().as_secs_f64() * CAPACITY).min(BURST);
        *since = Instant::now();
        if *room >= 1.0 {
            *room -= 1.0;
            replies.now();
        }
    })
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// Whether a server keeps up with a rate, computed from its JSON by the criteria of the documentation.
fn keeps_up(rate: &Value) -> bool {
    let failed: f64 = rate["failed"].as_object().unwrap().values().filter_map(Value::as_f64).sum();
    let lag = rate.pointer("/lag_us/p99").unwrap().as_f64().unwrap_or(0.0);
    let due = number(rate, "rate_per_second") * number(rate, "seconds");
    let arrived = number(rate, "throughput_per_second") * number(rate, "seconds");
    number(rate, "unsent") <= number(rate, "scheduled") * 0.001
        && lag <= 10_000.0
        && number(rate, "lost") <= number(rate, "sent") * 0.001
        && failed <= number(rate, "sent") * 0.001
        && arrived.round() + 1.0 >= due * 0.99
}

fn signal_to(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

fn swept(more: &str, server: SocketAddr) -> Outcome {
    let finished = said(&format!("{SWEEP} {more} --json"), server);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{finished:?}");
    Outcome::read(&finished)
}

#[test]
fn knee_is_the_highest_rate_that_a_limited_server_sustains() {
    let recorder = limited();
    let outcome = swept("--rate-to 700", recorder.address);
    recorder.stop();
    let rates = outcome.value("/rates").as_array().unwrap();
    assert_eq!(rates.iter().map(|rate| number(rate, "rate_per_second")).collect::<Vec<_>>(), RATES);
    for rate in rates {
        Outcome(rate.clone()).expect_complete();
        assert_eq!(rate["keeps_up"].as_bool(), Some(keeps_up(rate)), "{rate}");
        assert_eq!(rate["limited_by"].is_null(), keeps_up(rate), "{rate}");
        // The server cannot keep up with rates above its capacity.
        let is_sustained = number(rate, "rate_per_second") < CAPACITY;
        assert!(is_sustained || !keeps_up(rate), "{rate}");
    }
    // Computed from the rates, because a slow machine may not be able to send all of them.
    let expected = rates.iter().rev().find(|rate| keeps_up(rate)).map(|rate| number(rate, "rate"));
    assert_eq!(outcome.value("/knee_per_second").as_f64(), expected);
    for (key, expected) in [("rate_from", 100.0), ("rate_to", 700.0), ("step", 300.0)] {
        assert_eq!(outcome.number(&format!("/{key}_per_second")), expected);
    }
    assert_eq!(outcome.value("/version").as_str(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(outcome.count("/seed"), 1);
    assert_eq!(*outcome.value("/complete"), true);
}

#[test]
fn table_has_a_row_for_each_rate_and_ends_with_the_knee() {
    let recorder = limited();
    let finished = said(SWEEP, recorder.address);
    recorder.stop();
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{finished:?}");
    let text = &finished.stdout;
    assert!(text.lines().count() <= 24 && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let rows: Vec<&str> = text.lines().skip_while(|line| !line.ends_with("keeps up")).skip(1).collect();
    for (row, rate) in rows.iter().zip(RATES) {
        let mut words = row.split_whitespace();
        assert_eq!(words.next(), Some(rate.to_string().as_str()), "{row}");
        let verdict = words.next_back().unwrap();
        assert!(["yes", "unsent", "lag", "lost", "replies"].contains(&verdict), "{row}");
        assert!(rate < CAPACITY || verdict != "yes", "{row}");
    }
    let conclusion = rows[RATES.len()..].join(" ");
    assert!(conclusion.contains("The server keeps up with "), "{text}");
    let is_sustained = rows[0].ends_with("yes");
    assert_eq!(conclusion.contains("with 100 requests a second; "), is_sustained, "{text}");
    assert_eq!(conclusion.contains("with none of these rates"), !is_sustained, "{text}");
}

#[test]
fn sweep_preloads_once_and_ends_at_a_signal() {
    let recorder = Recorder::start((), |(), _, replies| replies.now());
    let outcome = swept("--rate-to 400 --preload --digests 30 --mix check=1", recorder.address);
    let (requests, ()) = recorder.stop();
    assert_eq!(outcome.value("/rates").as_array().unwrap().len(), 2);
    let reports = requests.iter().filter(|request| request.starts_with(b"Op: report\n")).count();
    assert_eq!(reports, 30);
    let echo = Echo::start(&[]);
    let mut command = program(&format!("{SWEEP} --duration 600 --interval 0.05 --json"), echo.address);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    BufReader::new(child.stderr.take().unwrap()).lines().nth(8).unwrap().unwrap();
    signal_to(&child, Signal::SIGTERM);
    let outcome = Outcome(serde_json::from_reader(child.stdout.take().unwrap()).unwrap());
    assert!(child.wait().unwrap().success());
    assert_eq!(outcome.value("/rates").as_array().unwrap().len(), 1);
    assert_eq!(*outcome.value("/complete"), false);
    Outcome(outcome.value("/rates/0").clone()).expect_complete();
}

/// Runs a sweep, calls `interrupt` at the given line of progress of a rate, and waits until the program exits.
fn interrupted_at(
    (rate, number): (&str, usize),
    more: &str,
    server: SocketAddr,
    interrupt: impl FnOnce(&Child),
) -> Finished {
    let mut command = program(&format!("{SWEEP} --rate-to 1000 --interval 0.05 {more}"), server);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let is_of_rate = |line: &String| line.starts_with(&format!("{rate} requests/s "));
    lines.by_ref().filter(is_of_rate).nth(number - 1).expect("progress of that rate");
    interrupt(&child);
    let stderr = lines.filter(|line| !line.contains("replies/s")).collect();
    let stdout = io::read_to_string(child.stdout.take().unwrap()).unwrap();
    Finished { code: child.wait().unwrap().code(), stdout, stderr }
}

/// Returns the rows of the table, and the text after it.
fn rows(text: &str) -> (Vec<&str>, String) {
    let mut lines = text.lines().skip_while(|line| !line.ends_with("keeps up")).skip(1);
    let rows = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    (rows, lines.map(str::trim).collect::<Vec<_>>().join(" "))
}

#[test]
fn rates_measured_before_the_server_exited_are_printed() {
    for more in ["--json", ""] {
        let recorder = Recorder::start((), |(), _, replies| replies.now());
        let server = recorder.address;
        let finished = interrupted_at(("400", 1), more, server, |_| drop(recorder.stop()));
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.starts_with("pyzor-bench: error: the measurement of "), "{finished:?}");
        if more.is_empty() {
            let (rows, conclusion) = rows(&finished.stdout);
            assert!((2..4).contains(&rows.len()), "{finished:?}");
            assert!(conclusion.contains("Not all rates were measured in full."), "{finished:?}");
            continue;
        }
        let outcome = Outcome::read(&finished);
        let rates = outcome.value("/rates").as_array().unwrap();
        assert!((2..4).contains(&rates.len()), "{}", outcome.0);
        assert!(number(&rates[0], "answered") > 0.0, "{}", outcome.0);
        assert_eq!(*outcome.value("/complete"), false);
    }
}

#[test]
fn interrupted_sweep_is_reported_as_incomplete() {
    let recorder = Recorder::start((), |(), _, replies| replies.now());
    for (more, signal) in [("--json", Signal::SIGTERM), ("", Signal::SIGINT)] {
        let finished = interrupted_at(("400", 8), more, recorder.address, |child| signal_to(child, signal));
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{finished:?}");
        if more.is_empty() {
            let (rows, conclusion) = rows(&finished.stdout);
            assert!((2..4).contains(&rows.len()), "{finished:?}");
            assert!(conclusion.contains("Not all rates were measured in full."), "{finished:?}");
            continue;
        }
        let outcome = Outcome::read(&finished);
        assert!((2..4).contains(&outcome.value("/rates").as_array().unwrap().len()), "{}", outcome.0);
        assert_eq!(*outcome.value("/complete"), false);
    }
    recorder.stop();
}

#[test]
fn rate_interrupted_in_its_warm_up_has_no_row() {
    let recorder = Recorder::start((), |(), _, replies| replies.now());
    for more in ["--json", ""] {
        let arguments = format!("--warm-up 600 {more}");
        let finished = interrupted_at(("100", 1), &arguments, recorder.address, |child| {
            signal_to(child, Signal::SIGTERM);
        });
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains("which was interrupted"), "{finished:?}");
        if more.is_empty() {
            let (rows, conclusion) = rows(&finished.stdout);
            assert_eq!((rows.len(), conclusion.as_str()), (0, "No rate was measured."), "{finished:?}");
            continue;
        }
        let outcome = Outcome::read(&finished);
        assert_eq!(*outcome.value("/rates"), serde_json::json!([]));
        assert_eq!(*outcome.value("/complete"), false);
        assert!(outcome.value("/knee_per_second").is_null(), "{}", outcome.0);
    }
    recorder.stop();
}

#[test]
fn sweep_without_replies_is_exit_code_1() {
    let recorder = Recorder::start((), |(), _, _| {});
    let finished = said(SWEEP, recorder.address);
    recorder.stop();
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stdout.contains("with none of these rates"), "{finished:?}");
    assert!(finished.stderr.contains("did not answer"), "{finished:?}");
}

/// Collects all keys of a value, except those that are names of operations.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            let is_by_operation = object.contains_key("check");
            found.extend(object.keys().filter(|_| !is_by_operation).cloned());
            object.values().for_each(|value| keys(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn every_key_is_documented() {
    let echo = Echo::start(&[]);
    let outcome = swept("--rate-to 100 --mix check=1", echo.address);
    let mut found = BTreeSet::new();
    keys(&outcome.0, &mut found);
    assert!(found.len() > 50, "{found:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("docs/benchmark.md")).unwrap();
    let manual = fs::read_to_string(root.join("docs/man/pyzor-bench.1")).unwrap();
    // In the manual, keys are arguments of macros.
    let macros: Vec<&str> = manual.lines().filter(|line| line.starts_with('.')).collect();
    for key in found {
        assert!(guide.contains(&format!("`{key}`")), "{key} is not in docs/benchmark.md");
        let has_key = |line: &&str| line.split([' ', ',']).any(|word| word == key);
        assert!(macros.iter().any(has_key), "{key} is not in the manual");
    }
}

//! Compares servers: `pyzor-bench echo`, pyzord with each engine, and the Python server with each engine.
//!
//! Run it by `make bench` or `cargo bench --bench compare`. Each round makes every measurement with all servers in
//! turn. The tables have the medians of the rounds. They are printed and written into docs/performance.md, between two
//! marker lines. The server has one processor for itself, and the load generator shares another with the database. They
//! are the first two processors that this process may use; `taskset` selects others.
//!
//! Environment variables: `PYZORD_BENCH_ROUNDS` is the number of rounds (default 3), `PYZORD_BENCH_SECONDS` the length
//! of a measurement (default 3). With `PYZORD_BENCH_LONG=1` only the long measurement is made: two minutes of half load
//! on a million records, during a sync and an expiry run.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a measurement that cannot be made panics with its position"
)]

#[path = "../../tests/blackbox/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "some items are used only by tests")]
mod harness;
mod load;
mod long;
mod machine;
mod process;
mod start;
mod subject;
mod table;
mod target;

use std::env;

use crate::load::Load;
use crate::subject::Subject;
use crate::table::{Overload, Tables};

/// A row of the tables: a load, and the servers under it.
struct Measurement {
    name: &'static str,
    arguments: &'static [&'static str],
    /// Whether the servers with a million digests are measured, otherwise those with 100,000.
    million: bool,
    /// Whether all servers are measured, otherwise only the echo and pyzord with GNU dbm.
    everywhere: bool,
    /// The required counts of all checks: above 0 (`true`) or 0 (`false`); `None` if they are unknown.
    found: Option<bool>,
}

const fn everywhere(
    name: &'static str,
    arguments: &'static [&'static str],
    found: Option<bool>,
) -> Measurement {
    Measurement { name, arguments, million: false, everywhere: true, found }
}

const fn near(name: &'static str, arguments: &'static [&'static str], million: bool) -> Measurement {
    Measurement { name, arguments, million, everywhere: false, found: Some(true) }
}

const FOUND: &str = "check, found";
const REPORT: &str = "report";
const REPORT_ZIPF: &str = "report, Zipf";
const SIGNED: &str = "signed check";
const MILLION: &str = "check of a million";
const MILLION_ZIPF: &str = "check of a million, Zipf";
/// Measurements with a separate table.
const LATENCY: &str = "latency";
const HALF_LOAD: &str = "half load";

const MEASUREMENTS: [Measurement; 10] = [
    everywhere("ping", &["--mix", "ping=1"], None),
    everywhere(FOUND, &[], Some(true)),
    everywhere("check, not found", &["--hit-ratio", "0"], Some(false)),
    everywhere("9 checks, 1 report", &["--mix", "check=9,report=1"], None),
    everywhere(REPORT, &["--mix", "report=1"], None),
    everywhere(REPORT_ZIPF, &["--mix", "report=1", "--zipf", "1"], None),
    everywhere(SIGNED, subject::SIGNED, Some(true)),
    near("check, 64 sockets with one request each", &["--sockets", "64", "--window", "64"], false),
    near(MILLION, &[], true),
    near(MILLION_ZIPF, &["--zipf", "1"], true),
];

/// The environment variable with the length of a measurement.
const SECONDS: &str = "PYZORD_BENCH_SECONDS";

fn main() {
    process::pin(&process::processors().others);
    if env::var_os("PYZORD_BENCH_LONG").is_some() {
        let text = long::measure(number(SECONDS, 120.0));
        println!("{text}");
        table::publish(table::LONG, &text);
        return;
    }
    let rounds = number("PYZORD_BENCH_ROUNDS", 3.0).ceil() as usize;
    let seconds = number(SECONDS, 3.0);
    let subjects = subject::all();
    let mut tables = Tables::new(rounds, seconds, &subjects);
    let mut turn: Vec<&Subject> = subjects.iter().collect();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        measure(&mut tables, &turn, &subjects, seconds);
        // Changes the order, so that no server always follows the same one.
        turn.rotate_left(subjects.len() / rounds.max(2));
    }
    tables.add_starts(&start::measure(&subjects));
    let text = tables.text();
    println!("{text}");
    table::publish(table::USUAL, &text);
}

/// Makes one round: all measurements, each with all its servers.
fn measure(tables: &mut Tables, turn: &[&Subject], all: &[Subject], seconds: f64) {
    for measurement in &MEASUREMENTS {
        for subject in turn.iter().filter(|subject| subject.is_asked(measurement)) {
            let load = Load::closed(measurement.arguments, subject.window(), measurement.found, seconds);
            subject::settle(all);
            tables.add(measurement.name, subject, load.put_on(subject));
        }
    }
    for subject in turn.iter().filter(|subject| subject.is_first()) {
        subject::settle(all);
        let load = Load::closed(&["--sockets", "1"], 1, Some(true), seconds);
        tables.add(LATENCY, subject, load.put_on(subject));
        let half = tables.last(FOUND, subject).throughput / 2.0;
        tables.add(HALF_LOAD, subject, Load::open(&[], half, seconds).put_on(subject));
    }
    for subject in turn.iter().filter(|subject| subject.is_ours() && subject.is_first()) {
        subject::settle(all);
        // A window of 64 does not reach the capacity for reports.
        let more = Load::closed(&["--mix", "report=1"], 256, None, seconds).put_on(subject);
        let capacity = tables.last(REPORT, subject).throughput.max(more.throughput);
        subject::settle(all);
        let before = subject.memory();
        let outcome = Load::overload(&["--mix", "report=1"], capacity * 3.0, seconds).put_on(subject);
        tables.add_overload(subject, Overload { capacity, outcome, before, after: subject.memory() });
    }
}

/// Returns the number in an environment variable, or the default.
fn number(name: &str, default: f64) -> f64 {
    let Ok(text) = env::var(name) else { return default };
    match text.parse() {
        Ok(number) if number > 0.0 => number,
        _ => panic!("{name}: expected a number above 0, found {text}"),
    }
}

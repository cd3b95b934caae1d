//! All servers side by side: a bare echo, this server on each engine, and the Python server on each engine.
//!
//! `make bench`, or `cargo bench --bench compare`. Each measurement is made with every server in turn, several
//! times; the tables have medians. They go to standard output and into docs/performance.md, between its two
//! marks. A server has one processor for itself, and the load generator and the database share another.
//!
//! `PYZORD_BENCH_ROUNDS` says how often (3), `PYZORD_BENCH_SECONDS` how long a measurement takes (3).
//! With `PYZORD_BENCH_LONG=1` only the long measurement is made: two minutes of half load, with a sync and
//! a sweep of a million records meanwhile.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a measurement that cannot be made ends, and says where"
)]

#[path = "../../tests/blackbox/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "what only tests need")]
mod harness;
mod load;
mod long;
mod process;
mod subject;
mod table;

use std::env;

use crate::load::Load;
use crate::table::Tables;

/// Processors: one for the server, one for whoever asks it and for the database.
const SERVER: &str = "0";
const OTHERS: &str = "1";
/// Where more load comes from than can be served, if there is a third one: it takes a whole processor.
const APART: &str = "2";
/// What the Python server may use: its best mode has two processes.
const BOTH: &str = "0,1";

/// One line of the tables: what is asked, and who is asked it.
struct Measurement {
    name: &'static str,
    arguments: &'static [&'static str],
    /// Whether the servers with a million digests are asked, or those with 100,000.
    million: bool,
    /// Whether the engines on other servers, and the Python server, are asked as well.
    everywhere: bool,
}

const fn everywhere(name: &'static str, arguments: &'static [&'static str]) -> Measurement {
    Measurement { name, arguments, million: false, everywhere: true }
}

const MEASUREMENTS: [Measurement; 10] = [
    everywhere("ping", &["--mix", "ping=1"]),
    everywhere("check, found", &[]),
    everywhere("check, not found", &["--hit-ratio", "0"]),
    everywhere("9 checks, 1 report", &["--mix", "check=9,report=1"]),
    everywhere("report", &["--mix", "report=1"]),
    everywhere("report, Zipf", &["--mix", "report=1", "--zipf", "1"]),
    everywhere("signed check", subject::SIGNED),
    Measurement {
        name: "check, 64 sockets with one request each",
        arguments: &["--sockets", "64", "--window", "64"],
        million: false,
        everywhere: false,
    },
    Measurement { name: "check of a million", arguments: &[], million: true, everywhere: false },
    Measurement {
        name: "check of a million, Zipf",
        arguments: &["--zipf", "1"],
        million: true,
        everywhere: false,
    },
];

fn main() {
    let number = |name, default: f64| env::var(name).map_or(default, |number| number.parse().unwrap());
    let (rounds, seconds) =
        (number("PYZORD_BENCH_ROUNDS", 3.0) as usize, number("PYZORD_BENCH_SECONDS", 3.0));
    process::pin(OTHERS);
    if env::var_os("PYZORD_BENCH_LONG").is_some() {
        println!("{}", long::measure());
        return;
    }
    let subjects = subject::all();
    let mut tables = Tables::new(rounds, seconds, &subjects);
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for measurement in &MEASUREMENTS {
            for subject in subjects.iter().filter(|subject| subject.is_asked(measurement)) {
                let load = Load::closed(measurement.arguments, subject.window(), seconds);
                tables.add(measurement.name, subject, load.put_on(subject));
            }
        }
        for subject in subjects.iter().filter(|subject| !subject.has_million()) {
            let load = Load::closed(&["--sockets", "1"], 1, seconds);
            tables.add("latency", subject, load.put_on(subject));
        }
        for subject in subjects.iter().filter(|subject| subject.is_ours() && !subject.has_million()) {
            let half = tables.throughput("check, found", subject) / 2.0;
            tables.add("half load", subject, Load::open(&[], half, seconds).put_on(subject));
            let capacity = tables.throughput("report", subject);
            let before = subject.memory();
            let load = Load::open(&["--mix", "report=1"], capacity * 3.0, seconds).apart();
            let outcome = load.put_on(subject);
            tables.add_overload(subject, capacity, before, outcome);
        }
    }
    tables.add_memory_and_start(&subjects);
    tables.publish();
}

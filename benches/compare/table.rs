//! The tables, and where they go.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::load::Outcome;
use crate::process::{memory, pinned};
use crate::subject::{self, Kind, Subject};
use crate::{MEASUREMENTS, SERVER};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
const MARKS: (&str, &str) = ("<!-- measured by make bench -->\n", "<!-- end of what was measured -->");

/// Everything that has been measured.
pub(crate) struct Tables {
    rounds: usize,
    seconds: f64,
    names: Vec<(String, Kind, &'static str)>,
    outcomes: BTreeMap<(&'static str, String), Vec<Outcome>>,
    overloads: BTreeMap<String, Vec<(f64, Outcome, i64)>>,
    rest: String,
}

impl Tables {
    pub(crate) fn new(rounds: usize, seconds: f64, subjects: &[Subject]) -> Self {
        let names =
            subjects.iter().map(|subject| (subject.name(), subject.kind(), subject.engine())).collect();
        let (outcomes, overloads) = (BTreeMap::new(), BTreeMap::new());
        Self { rounds, seconds, names, outcomes, overloads, rest: String::new() }
    }

    pub(crate) fn add(&mut self, measurement: &'static str, subject: &Subject, outcome: Outcome) {
        self.outcomes.entry((measurement, subject.name())).or_default().push(outcome);
    }

    /// Notes what became of three times as many reports as it can count; memory in KiB.
    pub(crate) fn add_overload(&mut self, subject: &Subject, capacity: f64, before: u64, outcome: Outcome) {
        let grown = subject.memory() as i64 - before as i64;
        self.overloads.entry(subject.name()).or_default().push((capacity, outcome, grown));
    }

    /// The median so far, in replies per second.
    pub(crate) fn throughput(&self, measurement: &'static str, subject: &Subject) -> f64 {
        self.median(measurement, &subject.name(), |outcome| outcome.throughput).unwrap()
    }

    fn median(&self, measurement: &'static str, name: &str, of: impl Fn(&Outcome) -> f64) -> Option<f64> {
        let outcomes = self.outcomes.get(&(measurement, name.to_owned()))?;
        Some(median(outcomes.iter().map(of).collect()))
    }

    /// Measures memory and starts, which need no turns.
    pub(crate) fn add_memory_and_start(&mut self, subjects: &[Subject]) {
        let million = subjects.iter().find(|subject| subject.is_ours() && subject.has_million()).unwrap();
        let (under_load, mapped) = memory(million.pid(), &million.file());
        let idle = {
            let server = pinned(SERVER, || subject::home("").start());
            memory(server.pid(), Path::new("/")).0
        };
        // The copy of a file in use has a tail, which the first start cuts off.
        let home = subject::home("");
        let copied = Command::new("cp").arg(million.file()).arg(home.path().join("pyzord.db")).status();
        assert!(copied.unwrap().success());
        home.start().stop();
        let starts: Vec<f64> = (0..5)
            .map(|_| {
                let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
                let mut server = Command::new(env!("CARGO_BIN_EXE_pyzord"));
                server.arg("--homedir").arg(home.path()).args(["-a", "127.0.0.1", "-p", &port.to_string()]);
                server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.connect(("127.0.0.1", port)).unwrap();
                client.set_read_timeout(Some(Duration::from_micros(500))).unwrap();
                let start = Instant::now();
                let mut server = pinned(SERVER, || server.spawn().unwrap());
                let mut reply = [0; 100];
                while client
                    .send(b"Op: ping\nPV: 2.1\nThread: 1024\n\n")
                    .and_then(|_| client.recv(&mut reply))
                    .is_err()
                {
                    assert!(start.elapsed() < Duration::from_secs(30), "it does not start");
                }
                let elapsed = start.elapsed();
                let pid = nix::unistd::Pid::from_raw(server.id().try_into().unwrap());
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
                server.wait().unwrap();
                elapsed.as_secs_f64() * 1000.0
            })
            .collect();
        let _ = write!(
            self.rest,
            "\n### Memory and start\n\nResident memory on gdbm, without the pages of the database's file: idle {:.1} MiB; \
             after load on a million digests {:.1} MiB (and {:.0} MiB of the file). From the start of the process on a \
             million records to the first ping answered: {:.0} ms.\n",
            idle as f64 / 1024.0,
            under_load as f64 / 1024.0,
            mapped as f64 / 1024.0,
            median(starts),
        );
    }

    /// Prints the tables, and puts them on their page.
    pub(crate) fn publish(&self) {
        let text = self.text();
        println!("{text}");
        let page = fs::read_to_string(PAGE).unwrap();
        let (head, rest) = page.split_once(MARKS.0).expect("the page has lost its marks");
        let (_, tail) = rest.split_once(MARKS.1).expect("the page has lost its marks");
        fs::write(PAGE, format!("{head}{}\n{text}\n{}{tail}", MARKS.0, MARKS.1)).unwrap();
    }

    fn text(&self) -> String {
        let mut text =
            format!("Medians of {} rounds of {} s each. {}\n", self.rounds, self.seconds, machine());
        let name = |kind, engine: &str| {
            self.names
                .iter()
                .find(|(_, other, its)| *other == kind && *its == engine)
                .map_or_else(String::new, |(name, ..)| name.clone())
        };
        let (echo, gdbm) = (name(Kind::Echo, ""), name(Kind::Ours, "gdbm"));
        text.push_str("\n### GNU dbm, against the bare echo and the Python server\n\n");
        text.push_str(
            "| | echo /s | ours /s | ratio | CPU us/reply, echo | ours | ratio | Python /s | ours against Python |\n\
             | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n",
        );
        for measurement in &MEASUREMENTS {
            let million = if measurement.million { ", a million" } else { "" };
            let (echo, gdbm) = (format!("{echo}{million}"), format!("{gdbm}{million}"));
            let throughput = |name: &str| self.median(measurement.name, name, |outcome| outcome.throughput);
            let cpu = |name: &str| self.median(measurement.name, name, |outcome| outcome.server);
            let (Some(limit), Some(ours)) = (throughput(&echo), throughput(&gdbm)) else { continue };
            let (Some(limit_cpu), Some(ours_cpu)) = (cpu(&echo), cpu(&gdbm)) else { continue };
            let python = throughput(&name(Kind::Python, "gdbm"));
            let _ = writeln!(
                text,
                "| {} | {limit:.0} | {ours:.0} | {:.2} | {limit_cpu:.2} | {ours_cpu:.2} | {:.2} | {} | {} |",
                measurement.name,
                ours / limit,
                ours_cpu / limit_cpu,
                python.map_or_else(String::new, |python| format!("{python:.0}")),
                python.map_or_else(String::new, |python| format!("{:.0} x", ours / python)),
            );
        }
        if let (Some(with), Some(without)) = (
            self.median("check, found", "gdbm, usage log", |outcome| outcome.throughput),
            self.median("check, found", &gdbm, |outcome| outcome.throughput),
        ) {
            let _ = writeln!(
                text,
                "\nWith the usage log {with:.0} checks per second, {:.2} of those without.",
                with / without
            );
        }
        for engine in ["redis", "mysql"] {
            self.push_remote(&mut text, engine, &name(Kind::Ours, engine), &name(Kind::Python, engine));
        }
        self.push_latencies(&mut text, &echo);
        self.push_overloads(&mut text);
        text.push_str(&self.rest);
        text
    }

    fn push_remote(&self, text: &mut String, engine: &str, ours: &str, python: &str) {
        let _ = write!(
            text,
            "\n### {engine}, against the Python server on it\n\n| | Python /s | ours /s | ratio | CPU us/reply, Python | \
             ours | database, Python | database, ours |\n| --- | --: | --: | --: | --: | --: | --: | --: |\n"
        );
        for measurement in MEASUREMENTS.iter().filter(|measurement| measurement.everywhere) {
            let of = |name: &str, what: fn(&Outcome) -> f64| {
                self.median(measurement.name, name, what).unwrap_or(f64::NAN)
            };
            let throughput = [python, ours].map(|name| of(name, |outcome| outcome.throughput));
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
                measurement.name,
                throughput[0],
                throughput[1],
                throughput[1] / throughput[0],
                of(python, |outcome| outcome.server),
                of(ours, |outcome| outcome.server),
                of(python, |outcome| outcome.database),
                of(ours, |outcome| outcome.database),
            );
        }
    }

    fn push_latencies(&self, text: &mut String, echo: &str) {
        text.push_str(
            "\n### How long a check waits for its answer, in microseconds\n\n| | one at a time, 50 % | against the \
             echo | 99 % | at half load, 50 % | 99 % | 99.9 % |\n| --- | --: | --: | --: | --: | --: | --: |\n",
        );
        let of = |measurement, name: &str, what: fn(&Outcome) -> f64| self.median(measurement, name, what);
        let limit = of("latency", echo, |outcome| outcome.p50).unwrap_or(f64::NAN);
        for (name, ..) in &self.names {
            let Some(p50) = of("latency", name, |outcome| outcome.p50) else { continue };
            let half =
                |what| of("half load", name, what).map_or_else(String::new, |value| format!("{value:.0}"));
            let _ = writeln!(
                text,
                "| {name} | {p50:.0} | {:.2} | {:.0} | {} | {} | {} |",
                p50 / limit,
                of("latency", name, |outcome| outcome.p99).unwrap_or(f64::NAN),
                half(|outcome| outcome.p50),
                half(|outcome| outcome.p99),
                half(|outcome| outcome.p99_9),
            );
        }
    }

    fn push_overloads(&self, text: &mut String) {
        text.push_str(
            "\n### Three times as many reports as can be counted\n\n| | capacity /s | answered /s | ratio | waited, 99 %, \
             ms | refused | memory grew by, KiB |\n| --- | --: | --: | --: | --: | --: | --: |\n",
        );
        for (name, overloads) in &self.overloads {
            let of = |what: fn(&(f64, Outcome, i64)) -> f64| median(overloads.iter().map(what).collect());
            let _ = writeln!(
                text,
                "| {name} | {:.0} | {:.0} | {:.2} | {:.1} | {:.0} | {:.0} |",
                of(|(capacity, ..)| *capacity),
                of(|(_, outcome, _)| outcome.throughput),
                of(|(capacity, outcome, _)| outcome.throughput / capacity),
                of(|(_, outcome, _)| outcome.p99 / 1000.0),
                of(|(_, outcome, _)| outcome.failed as f64),
                of(|(_, _, grown)| *grown as f64),
            );
        }
    }
}

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {count} processors, two of which were used, Linux {}.", kernel.trim())
}

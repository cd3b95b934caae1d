//! The results as tables, and writing them into docs/performance.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use crate::load::Outcome;
use crate::process::Memory;
use crate::start::Starts;
use crate::subject::{Kind, Subject};
use crate::{HALF_LOAD, LATENCY, MEASUREMENTS, machine, target};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
/// The lines of the page between which the usual measurements are written.
pub(crate) const USUAL: [&str; 2] =
    ["<!-- measured by make bench -->\n", "<!-- end of what was measured -->"];
/// The lines of the page between which the long measurement is written.
pub(crate) const LONG: [&str; 2] =
    ["<!-- measured by make bench-long -->\n", "<!-- end of what make bench-long measured -->"];

/// The share of its processor above which the load generator may limit the throughput.
const BUSY: f64 = 0.9;
const MARKED: &str = "\n\\* Here the load generator was busy all the time: servers differ by more, or by something \
     else, and the CPU time of a reply is what tells them apart.\n";

/// Selects a figure of an outcome.
pub(crate) type Figure = fn(&Outcome) -> f64;

/// The outcome of three times as many reports as the server can count.
pub(crate) struct Overload {
    /// Replies per second without overload.
    pub(crate) capacity: f64,
    pub(crate) outcome: Outcome,
    pub(crate) before: Memory,
    pub(crate) after: Memory,
}

/// All results. The index in each list is the round.
pub(crate) struct Tables {
    rounds: usize,
    seconds: f64,
    names: Vec<(String, Kind, &'static str)>,
    outcomes: BTreeMap<(&'static str, String), Vec<Outcome>>,
    overloads: BTreeMap<String, Vec<Overload>>,
    starts: String,
    targets: Vec<target::Row>,
}

impl Tables {
    pub(crate) fn new(rounds: usize, seconds: f64, subjects: &[Subject]) -> Self {
        let names =
            subjects.iter().map(|subject| (subject.name(), subject.kind(), subject.engine())).collect();
        let (outcomes, overloads) = (BTreeMap::new(), BTreeMap::new());
        Self { rounds, seconds, names, outcomes, overloads, starts: String::new(), targets: Vec::new() }
    }

    pub(crate) fn add(&mut self, measurement: &'static str, subject: &Subject, outcome: Outcome) {
        self.outcomes.entry((measurement, subject.name())).or_default().push(outcome);
    }

    pub(crate) fn add_overload(&mut self, subject: &Subject, overload: Overload) {
        self.overloads.entry(subject.name()).or_default().push(overload);
    }

    /// The outcome in the present round.
    pub(crate) fn last(&self, measurement: &'static str, subject: &Subject) -> &Outcome {
        self.outcomes[&(measurement, subject.name())].last().unwrap()
    }

    /// The median of all rounds; `None` without results.
    pub(crate) fn median(&self, measurement: &'static str, name: &str, figure: Figure) -> Option<f64> {
        let outcomes = self.outcomes.get(&(measurement, name.to_owned()))?;
        Some(median(outcomes.iter().map(figure).collect()))
    }

    /// The median of the ratios within each round, because the machine may be slower in one round than in another.
    pub(crate) fn ratio(
        &self,
        measurement: &'static str,
        [name, other]: [&str; 2],
        figure: Figure,
    ) -> Option<f64> {
        let of = |name: &str| self.outcomes.get(&(measurement, name.to_owned()));
        let pairs = of(name)?.iter().zip(of(other)?);
        Some(median(pairs.map(|(one, other)| figure(one) / figure(other)).collect()))
    }

    /// The name of the Python server with this engine in its fastest mode for this measurement.
    pub(crate) fn best_python(&self, measurement: &'static str, engine: &str) -> &str {
        let throughput = |name: &str| self.median(measurement, name, |outcome| outcome.throughput);
        let of_engine =
            |(_, kind, its): &&(String, Kind, &'static str)| *kind == Kind::Python && *its == engine;
        let all = self.names.iter().filter(of_engine).map(|(name, ..)| name.as_str());
        let best = all
            .max_by(|one, other| throughput(one).unwrap_or(0.0).total_cmp(&throughput(other).unwrap_or(0.0)));
        best.unwrap()
    }

    /// The mark of a ratio of throughputs that the load generator may have limited.
    fn mark(&self, measurement: &'static str, pair: [&str; 2]) -> &'static str {
        let is_busy = |name| self.median(measurement, name, |outcome| outcome.generator) > Some(BUSY);
        if pair.into_iter().any(is_busy) { " \\*" } else { "" }
    }

    /// The medians of a server under overload: throughput relative to capacity, and the 99th percentile in
    /// microseconds.
    pub(crate) fn overload(&self, name: &str) -> (f64, f64) {
        let of = |figure: fn(&Overload) -> f64| median(self.overloads[name].iter().map(figure).collect());
        (of(|all| all.outcome.throughput / all.capacity), of(|all| all.outcome.p99))
    }

    pub(crate) fn add_starts(&mut self, starts: &Starts) {
        let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
        let mut text = String::from(
            "\n### Memory and start\n\nResident memory in MiB; pages that processes of one server share count once. \
             The last column is the database's file, which the kernel takes back when it needs room.\n\n| | anonymous \
             | of programs and libraries | together | database's file |\n| --- | --: | --: | --: | --: |\n",
        );
        let mut push = |name: &str, memory: Memory| {
            let [own, files, both, database] =
                [memory.anonymous, memory.files, memory.own(), memory.database].map(mib);
            let _ = writeln!(text, "| {name} | {own} | {files} | {both} | {database} |");
        };
        push("gdbm, idle, empty", starts.idle);
        push("gdbm, a million digests, after the load", starts.loaded);
        for (name, memory) in &starts.others {
            push(&format!("{name}, after the load"), *memory);
        }
        let _ = writeln!(
            text,
            "\nFrom the start of the process on a million records on gdbm, which are in the page cache, to the first \
             ping answered: {:.1} ms.",
            starts.milliseconds
        );
        self.starts = text;
        self.targets = target::rows(self, starts);
    }

    /// Formats all tables.
    pub(crate) fn text(&self) -> String {
        let (rounds, seconds) = (self.rounds, self.seconds);
        let mut text = format!(
            "Medians of {rounds} rounds, {seconds} s each; ratios are medians of those of each round. {}\n",
            machine::text()
        );
        text.push_str("\n### Aims\n\n| | aim | reached | |\n| --- | --- | --- | --- |\n");
        for row in &self.targets {
            let _ = writeln!(text, "{row}");
        }
        self.push_gdbm(&mut text);
        for engine in ["redis", "mysql"] {
            self.push_remote(&mut text, engine);
        }
        self.push_latencies(&mut text);
        self.push_overloads(&mut text);
        text.push_str(&self.starts);
        text
    }

    fn push_gdbm(&self, text: &mut String) {
        text.push_str(
            "\n### GNU dbm, against the bare echo and the Python server\n\n64 requests at a time.\n\n| | echo /s | \
             ours /s | ratio | CPU us/reply, echo | ours | ratio | Python /s | ours against Python |\n| --- | --: | \
             --: | --: | --: | --: | --: | --: | --: |\n",
        );
        for measurement in &MEASUREMENTS {
            let million = if measurement.million { ", a million" } else { "" };
            let (name, ours) = (measurement.name, format!("gdbm{million}"));
            let pair = [ours.as_str(), &format!("echo{million}")];
            let of = |name: &str, figure| self.median(measurement.name, name, figure).unwrap_or(f64::NAN);
            let python = self.best_python(name, "gdbm");
            let against = self.ratio(name, [&ours, python], |outcome| outcome.throughput);
            let _ = writeln!(
                text,
                "| {name} | {:.0} | {:.0} | {:.2}{} | {:.2} | {:.2} | {:.2} | {} | {} |",
                of(pair[1], |outcome| outcome.throughput),
                of(pair[0], |outcome| outcome.throughput),
                self.ratio(name, pair, |outcome| outcome.throughput).unwrap_or(f64::NAN),
                self.mark(name, pair),
                of(pair[1], |outcome| outcome.server),
                of(pair[0], |outcome| outcome.server),
                self.ratio(name, pair, |outcome| outcome.server).unwrap_or(f64::NAN),
                cell(self.median(name, python, |outcome| outcome.throughput), |value| format!("{value:.0}")),
                cell(against, |ratio| format!("{ratio:.0} x")),
            );
        }
        text.push_str(MARKED);
    }

    fn push_remote(&self, text: &mut String, engine: &str) {
        let _ = write!(
            text,
            "\n### {engine}, against the Python server on it\n\n256 requests at a time for ours, 64 for the Python \
             server.\n\n| | Python, mode | /s | ours /s | ratio | CPU us/reply, Python | ours | database, Python | \
             database, ours |\n| --- | --- | --: | --: | --: | --: | --: | --: | --: |\n"
        );
        for measurement in MEASUREMENTS.iter().filter(|measurement| measurement.everywhere) {
            let name = measurement.name;
            let python = self.best_python(name, engine);
            let of = |who: &str, figure| self.median(name, who, figure).unwrap_or(f64::NAN);
            let _ = writeln!(
                text,
                "| {name} | {} | {:.0} | {:.0} | {:.1} x | {:.1} | {:.1} | {:.1} | {:.1} |",
                python.rsplit(", ").next().unwrap_or_default(),
                of(python, |outcome| outcome.throughput),
                of(engine, |outcome| outcome.throughput),
                self.ratio(name, [engine, python], |outcome| outcome.throughput).unwrap_or(f64::NAN),
                of(python, |outcome| outcome.server),
                of(engine, |outcome| outcome.server),
                of(python, |outcome| outcome.database),
                of(engine, |outcome| outcome.database),
            );
        }
    }

    fn push_latencies(&self, text: &mut String) {
        text.push_str(
            "\n### How long a check waits for its answer, in microseconds\n\n| | one at a time, 50 % | against the \
             echo | 99 % | at half load, 50 % | 99 % | 99.9 % | lost, % |\n| --- | --: | --: | --: | --: | --: | --: | \
             --: |\n",
        );
        for (name, ..) in &self.names {
            let Some(p50) = self.median(LATENCY, name, |outcome| outcome.p50) else { continue };
            let half = |figure| cell(self.median(HALF_LOAD, name, figure), |value| format!("{value:.0}"));
            let _ = writeln!(
                text,
                "| {name} | {p50:.0} | {:.2} | {:.0} | {} | {} | {} | {} |",
                self.ratio(LATENCY, [name, "echo"], |outcome| outcome.p50).unwrap_or(f64::NAN),
                self.median(LATENCY, name, |outcome| outcome.p99).unwrap_or(f64::NAN),
                half(|outcome| outcome.p50),
                half(|outcome| outcome.p99),
                half(|outcome| outcome.p99_9),
                cell(self.median(HALF_LOAD, name, |outcome| outcome.lost), |lost| format!(
                    "{:.3}",
                    lost * 100.0
                )),
            );
        }
    }

    fn push_overloads(&self, text: &mut String) {
        text.push_str(
            "\n### More reports than can be counted\n\nThree times the capacity was to be sent; what was sent is in \
             the table. Memory is that without the database's file.\n\n| | capacity /s | sent /s | answered /s | \
             against capacity | waited, 99 %, ms | refused, % | generator's processor, % | memory before, MiB | after \
             |\n| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n",
        );
        for (name, overloads) in &self.overloads {
            let of = |figure: fn(&Overload) -> f64| median(overloads.iter().map(figure).collect());
            let _ = writeln!(
                text,
                "| {name} | {:.0} | {:.0} | {:.0} | {:.2} | {:.1} | {:.1} | {:.0} | {:.1} | {:.1} |",
                of(|all| all.capacity),
                of(|all| all.outcome.offered),
                of(|all| all.outcome.throughput),
                self.overload(name).0,
                self.overload(name).1 / 1000.0,
                of(|all| all.outcome.failed * 100.0),
                of(|all| all.outcome.generator * 100.0),
                of(|all| all.before.own() as f64 / 1024.0),
                of(|all| all.after.own() as f64 / 1024.0),
            );
        }
    }
}

/// Formats a cell; empty without a value.
fn cell(value: Option<f64>, format: impl Fn(f64) -> String) -> String {
    value.map_or_else(String::new, format)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 0 => f64::midpoint(values[half - 1], values[half]),
        _ => values[half],
    }
}

/// Replaces the text between two lines of the page.
pub(crate) fn publish(marks: [&str; 2], text: &str) {
    let page = fs::read_to_string(PAGE).unwrap();
    let (head, rest) = page.split_once(marks[0]).expect("docs/performance.md lacks a marker line");
    let (_, tail) = rest.split_once(marks[1]).expect("docs/performance.md lacks a marker line");
    fs::write(PAGE, format!("{head}{}\n{text}\n{}{tail}", marks[0], marks[1])).unwrap();
}

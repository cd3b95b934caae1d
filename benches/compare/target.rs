//! The performance goals, compared with the results.

use std::fmt;

use crate::start::Starts;
use crate::table::{Figure, Tables};
use crate::{FOUND, LATENCY, MILLION, MILLION_ZIPF, REPORT, REPORT_ZIPF, SIGNED};

/// A performance goal and the result.
pub(crate) struct Row {
    what: String,
    aim: Aim,
    reached: f64,
    unit: &'static str,
}

enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, bound, is_reached) = match self.aim {
            Aim::AtLeast(bound) => ("≥", bound, self.reached >= bound),
            Aim::AtMost(bound) => ("≤", bound, self.reached <= bound),
        };
        let digits = if bound >= 10.0 { 1 } else { 2 };
        let verdict = if is_reached { "reached" } else { "**missed**" };
        let Self { what, reached, unit, .. } = self;
        write!(out, "| {what} | {sign} {bound}{unit} | {reached:.digits$}{unit} | {verdict} |")
    }
}

/// Returns all goals except the one of the long measurement, which is run separately.
pub(crate) fn rows(tables: &Tables, starts: &Starts) -> Vec<Row> {
    let throughput: Figure = |outcome| outcome.throughput;
    let ratio = |measurement, pair, figure| tables.ratio(measurement, pair, figure).unwrap_or(f64::NAN);
    let near = ["gdbm", "echo"];
    let million = ["gdbm, a million", "echo, a million"];
    let mut rows = Vec::new();
    let mut push = |what: &str, aim, reached, unit| {
        rows.push(Row { what: what.to_owned(), aim, reached, unit });
    };
    let least = Aim::AtLeast;
    push("gdbm: check, against the echo", least(0.8), ratio(FOUND, near, throughput), "");
    push(
        "gdbm: check, CPU per reply against the echo",
        Aim::AtMost(1.25),
        ratio(FOUND, near, |outcome| outcome.server),
        "",
    );
    push("gdbm: check of a million digests", least(0.7), ratio(MILLION, million, throughput), "");
    push("gdbm: check of a million, Zipf", least(0.75), ratio(MILLION_ZIPF, million, throughput), "");
    push("gdbm: report", least(0.45), ratio(REPORT, near, throughput), "");
    push("gdbm: report, Zipf", least(0.6), ratio(REPORT_ZIPF, near, throughput), "");
    push("gdbm: signed check", least(0.6), ratio(SIGNED, near, throughput), "");
    for (engine, measurement, bound) in
        [("redis", FOUND, 50.0), ("redis", REPORT, 50.0), ("mysql", FOUND, 25.0), ("mysql", REPORT, 15.0)]
    {
        let what = format!(
            "{engine}: {}, against the Python server at its best",
            measurement.trim_end_matches(", found")
        );
        let python = tables.best_python(measurement, engine);
        push(&what, least(bound), ratio(measurement, [engine, python], throughput), " x");
    }
    push(
        "gdbm: waiting time of one request at a time, 50 %, against the echo",
        Aim::AtMost(1.25),
        ratio(LATENCY, near, |outcome| outcome.p50),
        "",
    );
    push(
        "gdbm: check with the usage log, against without",
        least(0.8),
        ratio(FOUND, ["gdbm, usage log", "gdbm"], throughput),
        "",
    );
    let mib = |memory: u64| memory as f64 / 1024.0;
    push("gdbm: memory, idle", Aim::AtMost(8.0), mib(starts.idle.own()), " MiB");
    push("gdbm: memory, a million digests", Aim::AtMost(32.0), mib(starts.loaded.own()), " MiB");
    push("gdbm: start on a million records", Aim::AtMost(30.0), starts.milliseconds, " ms");
    for engine in ["gdbm", "redis", "mysql"] {
        let (kept, p99) = tables.overload(engine);
        push(&format!("{engine}: answered under overload, against capacity"), least(0.9), kept, "");
        push(&format!("{engine}: waiting time then, 99 %"), Aim::AtMost(100.0), p99 / 1000.0, " ms");
    }
    rows
}

//! The long measurement: two minutes of half load on a million records, during a sync and an expiry run.

use std::path::Path;

use pyzor_wire::digest::Digest;
use pyzord::record::{Record, Tally, Timestamp};
use pyzord::storage::EngineOptions;
use pyzord::storage::bulk::{self, BulkPurpose, Put};
use sha1::Digest as _;

use crate::harness::Server;
use crate::load::run;
use crate::process::{pinned, processors};
use crate::subject;

const RECORDS: u32 = 1_000_000;
const DAY: i64 = 86_400;
/// The goal for the 99.9th percentile of the latency, in milliseconds.
const AIM: f64 = 10.0;

/// Makes the measurement and returns its text for the page.
pub(crate) fn measure(seconds: f64) -> String {
    const LOAD: [&str; 2] = ["--mix", "check=9,report=1"];
    let home = subject::home("CleanupAge = 2592000\n");
    fill(&home.path("pyzord.db"));
    let quiet = home.clone().arguments(&["--cleanup-age", "0"]);
    let server = pinned(&processors().server, || quiet.start());
    ask(&server, &["--preload", "--count", "1"]);
    let full = ask(&server, &[&LOAD[..], &["--duration", "5"]].concat());
    server.stop();
    let half = format!("{:.0}", full["throughput"].as_f64().unwrap() / 2.0);

    let server = pinned(&processors().server, || home.start());
    // The expiry run begins when the server starts, so the warm-up is only a tenth of a second.
    let arguments = ["--rate", &half, "--duration", &seconds.to_string(), "--warm-up", "0.1"];
    let measured = ask(&server, &[&LOAD[..], &arguments[..]].concat());
    let log = home.log();
    server.stop();
    // The expiry run must have ended during the load.
    let swept = log
        .lines()
        .rfind(|line| line.contains("Expiry: removed "))
        .expect("the expiry run did not end in time");
    let (_, swept) = swept.split_once("INFO ").expect("no line of the log");
    assert!(
        swept.starts_with(&format!("Expiry: removed {} of ", RECORDS / 2)),
        "not the expected expiry: {swept}"
    );
    let number = |name: &str| measured[name].as_f64().unwrap();
    let latency = |name: &str| measured["latency"][name].as_f64().unwrap() / 1000.0;
    let p99_9 = latency("p99_9");
    // The latency of lost requests is unknown, so the percentile means something only without them.
    let is_known = number("lost") <= 0.001 * number("sent");
    let verdict = if is_known && p99_9 <= AIM { "reached" } else { "**missed**" };
    format!(
        "{seconds} s at {half} requests per second, 9 checks for 1 report, of 100,000 digests among \
         {RECORDS} other records, a half of which expires meanwhile. The file is written to the disk once a \
         minute.\n\n| | |\n| --- | --: |\n| waited, 50 % | {:.3} ms |\n| 99 % | {:.3} ms |\n| 99.9 % (aim: ≤ {AIM} ms, \
         {verdict}) | {p99_9:.3} ms |\n| longest | {:.1} ms |\n| sent | {:.0} |\n| lost | {:.0} |\n\nThe log said: \
         {swept}\n",
        latency("p50"),
        latency("p99"),
        latency("max"),
        number("sent"),
        number("lost"),
    )
}

fn ask(server: &Server, arguments: &[&str]) -> serde_json::Value {
    run(arguments, server.port()).unwrap_or_else(|error| panic!("{error}"))
}

/// Stores records, half of which are old enough to expire. The load generator requests none of them.
fn fill(path: &Path) {
    let options = EngineOptions { path: path.to_owned(), ..EngineOptions::default() };
    let now = Timestamp::now();
    let old = Timestamp::from_seconds(now.seconds() - 100 * DAY);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let whole = bulk::open("gdbm", &options, BulkPurpose::Fill).await.unwrap();
        let put = |number: u32| {
            let time = Some(if number.is_multiple_of(2) { now } else { old });
            let reports = Tally { count: 1, first: time, last: time };
            let digest = Digest::from_bytes(sha1::Sha1::digest(format!("expiring {number}")).into());
            Put {
                digest,
                record: Record { reports, whitelists: Tally::default() },
                expires: None,
                held: None,
            }
        };
        whole.store((0..RECORDS).map(put).collect()).await.unwrap();
        whole.close().await.unwrap();
    });
}

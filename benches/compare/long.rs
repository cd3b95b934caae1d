//! Two minutes of half load on a million records, with a sync and a sweep of all of them meanwhile.

use std::path::Path;

use pyzord::digest::Digest;
use pyzord::record::{Record, Tally, Timestamp};
use pyzord::storage::Options;
use pyzord::storage::bulk::{self, Purpose, Put};
use sha1::Digest as _;

use crate::harness::Server;
use crate::load::run;
use crate::process::pinned;
use crate::{SERVER, subject};

const RECORDS: u32 = 1_000_000;
const SECONDS: u32 = 120;
const DAY: i64 = 86_400;

/// Measures it; returns what to say of it.
pub(crate) fn measure() -> String {
    let home = subject::home("CleanupAge = 2592000\n");
    fill(&home.path().join("pyzord.db"));
    let quiet = home.clone().arguments(&["--cleanup-age", "0"]);
    let server = pinned(SERVER, || quiet.start());
    ask(&server, &["--preload", "--count", "1"]);
    let full = ask(&server, &["--mix", "check=9,report=1", "--duration", "5"]);
    server.stop();
    let half = format!("{:.0}", full["throughput"].as_f64().unwrap() / 2.0);

    let server = pinned(SERVER, || home.start());
    let measured =
        ask(&server, &["--mix", "check=9,report=1", "--rate", &half, "--duration", &SECONDS.to_string()]);
    server.stop();
    let log = home.log();
    let swept = log.lines().find(|line| line.contains("Expired ")).unwrap_or("no sweep was finished");
    let latency = |name: &str| measured["latency"][name].as_f64().unwrap() / 1000.0;
    format!(
        "{SECONDS} s at {half} requests per second, 9 checks for 1 report, of 100,000 digests among {RECORDS} other \
         records, a half of which expires meanwhile, with two syncs: 50 % were answered within {:.2} ms, 99 % within \
         {:.2} ms, 99.9 % within {:.2} ms, all within {:.1} ms; {} of {} were lost.\n\nThe log: {swept}",
        latency("p50"),
        latency("p99"),
        latency("p99_9"),
        latency("max"),
        measured["lost"],
        measured["sent"],
    )
}

fn ask(server: &Server, arguments: &[&str]) -> serde_json::Value {
    run(arguments, server.port()).unwrap_or_else(|error| panic!("{error}"))
}

/// Stores records, half of which are old enough to expire. The load generator asks for none of them.
fn fill(path: &Path) {
    let options = Options { path: path.to_owned(), ..Options::default() };
    let now = Timestamp::now();
    let old = Timestamp::from_seconds(now.seconds() - 100 * DAY);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let whole = bulk::open("gdbm", &options, Purpose::Fill).await.unwrap();
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

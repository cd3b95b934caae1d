//! Second opinions of other servers: scripted ones, established ones, and others of ours.

mod addresses;
mod cache;
mod directory;
mod established;
mod forged;
mod guesses;
mod joined;
mod killed;
mod limits;
mod mounts;
mod mutual;
mod namespaces;
mod observed;
mod outages;
mod questions;
mod reloads;
mod root;
mod several;
mod stops;
mod storms;

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::harness::{Caller, Home, Remote, Reply, digest, finish};

/// The longest timeout: no answer of the tests takes so long.
const PATIENT: &str = "UpstreamTimeout = 10\n";
/// The shortest timeout.
const HASTY: &str = "UpstreamTimeout = 1\n";

/// Returns a homedir whose servers ask one server, with these settings.
fn asking(remote: &Remote, settings: &str) -> Home {
    Home::open().config(settings).asking(&[remote.name()])
}

/// Sends a check for each number, which is its `Thread` as well less 10,000, without waiting for replies.
fn send_checks(caller: &Caller, numbers: Range<u32>) {
    for number in numbers {
        caller.send("check", &[&digest(number)], 10_000 + number);
    }
}

/// Returns the number that [`send_checks`] gave to the check that was answered.
#[track_caller]
fn number_of(reply: &Reply) -> u32 {
    u32::try_from(reply.number("Thread") - 10_000).unwrap()
}

/// Returns the reply to a check with this `Thread`.
fn found(thread: u32, (reports, whitelistings): (i64, i64)) -> String {
    format!("Code: 200\nDiag: OK\nPV: 2.1\nThread: {thread}\nCount: {reports}\nWL-Count: {whitelistings}\n\n")
}

/// Asserts that the [`PATIENT`] timeout of a question that was asked then has not ended, so that something else ended it.
#[track_caller]
fn expect_before_timeout(asked: Instant) {
    assert!(asked.elapsed() < Duration::from_secs(9), "{:?}", asked.elapsed());
}

/// Returns the text, in which DIR stands for the client's directory.
fn clean(home: &Home, text: &str) -> String {
    text.replace(home.upstream_directory().to_str().unwrap(), "DIR")
}

/// Returns what `--check-config` prints, and its exit code.
fn checked(home: &Home) -> (Option<i32>, Vec<String>) {
    let mut command = home.command();
    command.arg("--check-config");
    let finished = finish(command);
    let text = clean(home, &finished.stderr);
    (finished.code, text.lines().map(|line| line.strip_prefix("pyzord: ").unwrap().to_owned()).collect())
}

//! Servers, clients and databases for the tests: each in a directory of its own, on a free port, and stopped when the
//! test is over.

mod account;
mod caller;
mod command;
mod commands;
mod database;
mod directory;
mod established;
mod forger;
mod home;
mod ledger;
mod namespace;
mod port;
mod process;
mod reply;
mod server;
mod services;
mod stop_flag;
pub(crate) mod tracer;

use std::env;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) use account::Account;
pub(crate) use caller::Caller;
pub(crate) use command::{Finished, finish, generator, interop, is_ours, run};
pub(crate) use database::Database;
pub(crate) use established::Client;
pub(crate) use forger::Forger;
pub(crate) use home::Home;
pub(crate) use ledger::{Ledger, digest};
pub(crate) use namespace::{End, Namespace};
pub(crate) use port::{CLUSTER_BUS, free_port, free_port_at};
pub(crate) use process::Process;
pub(crate) use reply::Reply;
pub(crate) use server::{Server, ask_on};
pub(crate) use services::{Certificate, MariaDb, Redis, RedisCluster, Sentinel, Service, mysql8};
pub(crate) use stop_flag::StopFlag;

/// How long anything may take before a test gives up; far beyond what a busy machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether stores wait for the disk with each change, for measurements. Otherwise they write each change to a file
/// before they acknowledge it, so that a kill loses nothing, and the disk may be as slow as it is.
pub(crate) fn stores_sync() -> bool {
    env::var_os("PYZORD_SYNC").is_some()
}

/// A digest to count, for tests that need only one.
pub(crate) const DIGEST: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

/// Polls until there is an answer; panics with `what` when it takes too long.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whole seconds since the epoch.
pub(crate) fn unix_time() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that hexadecimal digits are.
pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

//! Servers, clients and databases for the tests: each in its own directory, on a free port, and stopped at the end of
//! the test.

mod account;
mod caller;
mod command;
mod commands;
mod control;
mod database;
mod directory;
mod established;
mod fifo;
mod forger;
mod forwarding;
mod home;
mod http;
mod ledger;
mod namespace;
mod operator;
mod port;
mod process;
mod remote;
mod reply;
mod server;
mod services;
mod stop_flag;
pub(crate) mod tracer;
mod upstream;

use std::env;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) use account::Account;
pub(crate) use caller::Caller;
pub(crate) use command::{Finished, controller, finish, generator, interop, is_ours, run};
pub(crate) use control::{StorageStatus, storage_status};
pub(crate) use database::Database;
pub(crate) use established::Client;
pub(crate) use fifo::fifo;
pub(crate) use forger::Forger;
pub(crate) use forwarding::lines;
pub(crate) use home::Home;
pub(crate) use http::{HttpResponse, exchange, http_connect, http_get, http_get_local};
pub(crate) use ledger::{Ledger, digest};
pub(crate) use namespace::{End, Namespace};
pub(crate) use operator::{Operator, ask_operator};
pub(crate) use port::{CLUSTER_BUS, free_port, free_port_at};
pub(crate) use process::Process;
pub(crate) use remote::{Answer, Datagram, Remote, accept, counting};
pub(crate) use reply::Reply;
pub(crate) use server::{Server, ask_on};
pub(crate) use services::{Certificate, MariaDb, Prometheus, Redis, RedisCluster, Sentinel, Service, mysql8};
pub(crate) use stop_flag::StopFlag;

/// Time after which a test gives up waiting; far more than a busy machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether database servers fsync each change, for measurements. Otherwise they only write it to a file before they
/// acknowledge it, which survives a kill and does not depend on the speed of the disk.
pub(crate) fn stores_sync() -> bool {
    env::var_os("PYZORD_SYNC").is_some()
}

/// A digest for tests that need only one.
pub(crate) const DIGEST: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

/// Polls until there is an answer; panics after [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the current time in whole seconds since the epoch.
pub(crate) fn unix_time() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// Encodes bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Decodes hexadecimal digits.
pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

//! Servers, clients and databases for the tests: each in a folder of its own, on a free port, and gone
//! when the test is over.

mod account;
mod certificate;
mod client;
mod database;
mod forger;
mod home;
mod mariadb;
pub(crate) mod mysql8;
mod namespace;
mod redis;
mod redis_cluster;
mod server;
mod service;
pub(crate) mod tracer;

use std::env;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) use account::Account;
pub(crate) use certificate::Certificate;
pub(crate) use client::Client;
pub(crate) use database::Database;
pub(crate) use forger::Forger;
pub(crate) use home::Home;
pub(crate) use mariadb::MariaDb;
pub(crate) use namespace::{End, Namespace};
pub(crate) use redis::{Redis, Sentinel};
pub(crate) use redis_cluster::RedisCluster;
pub(crate) use server::{Reply, Server, ask_on};
pub(crate) use service::{Service, free_tcp_port};

/// How long anything may take before a test gives up; far beyond what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether stores wait for the disk with each change, for measurements. Otherwise they write each change to a file
/// before they acknowledge it, so that a kill loses nothing, and the disk may be as slow as it is.
pub(crate) fn stores_sync() -> bool {
    env::var_os("PYZORD_SYNC").is_some()
}

/// A digest to count, for tests that need only one.
pub(crate) const DIGEST: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

/// The load generator, which another package of the workspace builds into the same directory.
pub(crate) fn generator() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_pyzord")).with_file_name("pyzor-bench");
    assert!(
        path.exists(),
        "{} is missing: run cargo build -p pyzor-bench, with --release for releases",
        path.display()
    );
    path
}

/// Whether the tests run against the server of this package.
pub(crate) fn ours() -> bool {
    env::var_os("PYZORD").is_none()
}

/// Like [`ours`], for a test that another server is not expected to pass: says so when it is left out.
pub(crate) fn ours_only() -> bool {
    if !ours() {
        println!("left out: not what the established server does");
    }
    ours()
}

/// Polls until there is an answer; panics with `what` when it takes too long.
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

/// A program that `tests/setup.sh` puts into the virtual environment.
pub(crate) fn interop(program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop/bin").join(program);
    assert!(path.exists(), "{} is missing: run tests/setup.sh", path.display());
    path
}

/// Runs a program of the system with this input to its end; panics with advice when there is none.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("{} is missing: run tests/setup.sh", command.get_program().display())
        }
        spawned => spawned.unwrap(),
    };
    // The program may end without having read everything.
    let mut stdin = child.stdin.take().unwrap();
    if let Err(error) = stdin.write_all(input) {
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
    }
    drop(stdin);
    child.wait_with_output().unwrap()
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

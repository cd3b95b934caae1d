//! Black-box tests: each runs a server in its own process, and uses its files, signals and datagrams.
//!
//! The environment variable `PYZORD` names another server to test. With `PYZORD=target/interop/bin/pyzord`, which
//! `tests/setup.sh` installs, the tests run against the Python server, which proves that they expect its behaviour.
//! Tests that only this package's server passes are in modules named `ours`, anywhere in the path of a test.
//! `tests/run.sh` skips them for another server and prints their number; without it, use `-- --skip ours::`.
//!
//! Tests that need a privilege are in modules named after it: `mounts`, `namespaces`, `raw_sockets`, `root` or
//! `traces`, anywhere in the path. `tests/run.sh` tries each privilege once, skips the modules that lack theirs, and
//! prints the number of skipped tests.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not cover the functions that tests call"
)]

mod accounts;
mod engines;
mod harness;
mod interop;
mod lifecycle;
mod logs;
mod options;
mod ours;
mod replays;
mod wire;

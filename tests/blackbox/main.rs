//! Tests through the front door: a server in a process of its own, its files, signals and datagrams.
//!
//! The environment variable `PYZORD` names another server to test instead of the one just built. With
//! `PYZORD=target/interop/bin/pyzord` (made by `tests/setup.sh`) the same tests examine the
//! established server, which is how we know that they tell the truth. What holds for our server alone is in a
//! module named `ours`, anywhere in the path of a test, and is then to be skipped: `tests/run.sh` does so and says how
//! many tests those are, and without it `-- --skip ours::` does.
//!
//! A test that needs what not every machine permits is in a module that is named after that: `mounts`,
//! `namespaces`, `raw_sockets`, `root` or `traces`, anywhere in its path. `tests/run.sh` tries once what the
//! machine permits and skips the other modules; it says how many tests those are.

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

//! Tests through the front door: a server in a process of its own, its files, signals and datagrams.
//!
//! The environment variable `PYZORD` names another server to test instead of the one just built. With
//! `PYZORD=target/interop/bin/pyzord` (made by `tests/setup.sh`) the same tests examine the
//! established server, which is how we know that they tell the truth. What only ours does asks
//! [`harness::ours_only`] first.
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
mod bench;
mod deployed;
mod descriptors;
mod engines;
mod faults;
mod faults_machine;
mod harness;
mod hostile;
mod interop;
mod lifecycle;
mod limits;
mod logs;
mod loops;
mod machine;
mod machine_logs;
mod machine_memory;
mod memory;
mod migrate;
mod mounts;
mod mysql8;
mod namespaces;
mod options;
mod outages;
mod pauses;
mod pipes;
mod recover;
mod repairs;
mod replays;
mod root;
mod shared_port;
mod signals;
mod storage;
mod storms;
mod traces;
mod wire;

//! pyzord: the counting end of Pyzor, a collaborative spam filter.
//!
//! A mail host turns each message into a digest and asks, with one UDP datagram, how often others
//! reported or whitelisted it. This is the map of what happens then.
//!
//! # A datagram's way
//!
//! `server` owns the socket and receives datagrams in batches. `limits` says which of them are accepted, and how
//! often. For each of these, [`handler`] says what is to become of it: `pyzor_wire` makes header fields and a request
//! of the bytes, [`access`] knows the accounts and who may do what. What needs no database is answered at once; the
//! rest is merged by digest into a [`storage::Batch`], for which the engine finds or counts [`record`]s by their
//! digests. The outcomes become replies, which leave in batches, too.
//!
//! # Start and stop
//!
//! `daemon` puts the modules together: `settings` from command line and config file, `logging`, and what the
//! operating system has to do with it, in `os`. The syntax of config and accounts files is in `pyzor_home`.
//!
//! `migrate` is the second program: it moves records between databases as a whole. The load generator
//! `pyzor-bench` is a package of its own. Both it and `server` receive and send batches of datagrams by `pyzor_udp`.
//!
//! Modules know those below them only: `daemon`, `server`, `handler`, or `migrate`, then `access` and `storage`,
//! then `record`; what clients and servers share is in `pyzor_wire` and `pyzor_home`. The body of a fuzz target is in
//! a module `fuzzing` beside what it tests, what these share is in `fuzz_models`, and the table of all targets in
//! `fuzzing`.
//!
//! Exported are the `main` functions of both programs, and what tests and benchmarks need.

pub mod access;
mod daemon;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz_models;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod handler;
mod limits;
mod logging;
mod migrate;
mod optparse;
mod os;
pub mod record;
mod server;
mod settings;
pub mod storage;

pub use self::daemon::main as pyzord_main;
pub use self::migrate::main as pyzor_migrate_main;

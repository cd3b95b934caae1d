//! pyzord: a server for Pyzor, a collaborative spam filter.
//!
//! A mail host computes a digest of each message and asks the server, with one UDP datagram, how often others have
//! reported or whitelisted it.
//!
//! # The path of a datagram
//!
//! `server` owns the socket and receives datagrams in batches. `limits` decides which of them are accepted, and how
//! often. [`handler`] decides what to do with each accepted datagram: `pyzor_wire` parses the header fields and the
//! request, and [`access`] has the accounts and the access rules. Requests that need no database are answered at once.
//! The others are merged by digest into a [`storage::Batch`], for which the engine reads or updates [`record`]s. The
//! outcomes become replies, which are sent in batches.
//!
//! `forward` passes what the engine has accepted on to other servers, which `remotes` reads from the homedir of a client.
//! `upstream` asks others for a second opinion on checks that find nothing.
//!
//! # Start and stop
//!
//! `daemon` starts and stops the server, with `settings` (command line and configuration file), `logging`, and `os`
//! (signals, pid file, detach, privileges, confinement). The syntax of configuration and accounts files is in
//! `pyzor_home`.
//!
//! # Operators
//!
//! `control` answers `pyzorctl` on a Unix socket, and `metrics` answers Prometheus by HTTP. Both show the counters of
//! `stats` and the state of the engine.
//!
//! # Other programs
//!
//! `migrate` copies all records from one database to another. `pyzorctl` asks the running server for its state and its
//! counters, with the messages of `control`, and tests servers over UDP. The load generator `pyzor-bench` is a package
//! of its own. It shares `pyzor_udp`, which receives and sends batches of datagrams, with `server`.
//!
//! # Dependencies
//!
//! Modules depend only on those further down: `daemon`, `migrate` and `pyzorctl`, then `server`, then `control`, then
//! `handler`, then `forward` and `upstream`, then `access` and `storage`, then `record`. Clients and servers share `pyzor_wire` and `pyzor_home`. Each
//! fuzz target is in a module `fuzzing` beside the code under test; shared models are in `fuzz_models`, the table of all
//! targets in `fuzzing`.
//!
//! The crate exports the `main` functions of its programs, and items for tests and benchmarks.

pub mod access;
mod control;
mod daemon;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz_models;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod handler;
mod limits;
mod logging;
mod metrics;
mod migrate;
mod optparse;
mod os;
mod pyzorctl;
pub mod record;
mod remotes;
mod server;
mod settings;
mod stats;
pub mod storage;
mod upstream;

pub use self::daemon::main as pyzord_main;
pub use self::migrate::main as pyzor_migrate_main;
pub use self::pyzorctl::main as pyzorctl_main;

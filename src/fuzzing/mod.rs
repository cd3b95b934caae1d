//! Bodies of fuzz targets: functions of bytes that panic when something does not hold.
//!
//! `fuzz/` runs them under libFuzzer, and `tests/fuzz` with the kept corpus and seeded mutations in every run of
//! the tests. What needs a room's private parts is a `fuzzing` of that room; what they share is here: how bytes
//! become choices, an engine in memory, and slow models that were written without a look at the real thing.
//!
//! No part of the library's interface, and of no use to the programs.

mod dsn;
mod input;
mod memory;
mod model;
mod reply;
mod request;
mod texts;
mod verdict;

pub(crate) use self::input::Input;
pub use self::memory::Memory;
pub(crate) use self::model::Message;
pub(crate) use self::reply::{check as check_reply, record};
pub(crate) use self::request::model_integer;
pub(crate) use self::texts::{check_lines, check_no_secret};
pub(crate) use self::verdict::{Verdict, signature, verdict};
pub use crate::access::fuzzing::model_grants;
pub use crate::storage::gdbm::fuzzing::through_text as through_gdbm;
pub use crate::storage::mysql::fuzzing::through_rows as through_mysql;
pub use crate::storage::redis::fuzzing::{through_hash as through_redis, through_text as through_redis_v0};

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its corpus, too.
    pub name: &'static str,
    /// Panics when bytes break what the target holds.
    pub body: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 11] = [
    Target { name: "request", body: request::target },
    Target { name: "handler", body: crate::server::fuzzing::handler },
    Target { name: "signed", body: crate::server::fuzzing::signed },
    Target { name: "reply", body: reply::target },
    Target { name: "config", body: crate::settings::fuzzing::target },
    Target { name: "passwd", body: crate::access::fuzzing::passwd },
    Target { name: "access", body: crate::access::fuzzing::access },
    Target { name: "gdbm_record", body: crate::storage::gdbm::fuzzing::target },
    Target { name: "redis_record", body: crate::storage::redis::fuzzing::target },
    Target { name: "mysql_record", body: crate::storage::mysql::fuzzing::target },
    Target { name: "dsn", body: dsn::target },
];

/// Runs the target of this name.
///
/// # Panics
///
/// If there is none, or if the bytes break what it holds.
pub fn run(name: &str, bytes: &[u8]) {
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        panic!("there is no target {name}");
    };
    (target.body)(bytes);
}

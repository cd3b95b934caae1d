//! The table of fuzz targets: functions of bytes that panic if a property does not hold.
//!
//! `fuzz/` runs them under libFuzzer. `tests/fuzz` runs them on the stored corpus and on seeded mutations of it, in
//! every test run. The body of a target is in a module `fuzzing` next to the code it tests; the targets of the protocol
//! crate are here. Code shared by the bodies is in `fuzz_models`.
//!
//! Compiled for tests and fuzzing only.

mod forward_id;
mod reply;
mod request;

pub use crate::access::fuzzing::model_grants;
pub use crate::storage::gdbm::fuzzing::through_text as through_gdbm;
pub use crate::storage::memory::MemoryEngine;
pub use crate::storage::mysql::fuzzing::through_rows as through_mysql;
pub use crate::storage::redis::fuzzing::{through_hash as through_redis, through_text as through_redis_v0};

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct FuzzTarget {
    /// The name of the target and of its corpus directory.
    pub name: &'static str,
    /// Panics if the bytes violate a property.
    pub body: fn(&[u8]),
}

/// All fuzz targets.
pub const TARGETS: [FuzzTarget; 19] = [
    FuzzTarget { name: "request", body: request::target },
    FuzzTarget { name: "forward_id", body: forward_id::target },
    FuzzTarget { name: "forwarded", body: crate::server::fuzzing::forwarded },
    FuzzTarget { name: "handler", body: crate::server::fuzzing::handler },
    FuzzTarget { name: "signed", body: crate::server::fuzzing::signed },
    FuzzTarget { name: "reply", body: reply::target },
    FuzzTarget { name: "config", body: crate::settings::fuzzing::target },
    FuzzTarget { name: "passwd", body: crate::access::fuzzing::passwd },
    FuzzTarget { name: "access", body: crate::access::fuzzing::access },
    FuzzTarget { name: "servers", body: crate::remotes::fuzzing::servers },
    FuzzTarget { name: "accounts", body: crate::remotes::fuzzing::accounts },
    FuzzTarget { name: "upstream", body: crate::upstream::fuzzing::target },
    FuzzTarget { name: "gdbm_record", body: crate::storage::gdbm::fuzzing::target },
    FuzzTarget { name: "redis_record", body: crate::storage::redis::fuzzing::target },
    FuzzTarget { name: "mysql_record", body: crate::storage::mysql::fuzzing::target },
    FuzzTarget { name: "dsn", body: crate::storage::fuzzing::target },
    FuzzTarget { name: "metrics", body: crate::metrics::fuzzing::target },
    FuzzTarget { name: "control", body: crate::control::fuzzing::target },
    FuzzTarget { name: "control_reply", body: crate::pyzorctl::fuzzing::target },
];

/// Runs the target with this name.
///
/// # Panics
///
/// There is no such target, or the bytes violate a property.
pub fn run(name: &str, bytes: &[u8]) {
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        panic!("there is no target {name}");
    };
    (target.body)(bytes);
}

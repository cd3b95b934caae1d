//! The table of engines, and opening a database with one of them by its name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::bulk::{Bulk, BulkPurpose};
use super::{BoxFuture, Cancel, Engine, gdbm, mysql, redis, remote};

/// Where an engine's database is, and how to use it.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// The database as the settings name it, in the engine's own form. May hold a password.
    pub dsn: String,
    /// The database as the absolute path of a file, for engines that use one.
    pub path: PathBuf,
    /// The homedir, for a server that has one.
    pub homedir: Option<PathBuf>,
    /// After how long without a change a record expires; none: never.
    pub cleanup_age: Option<Duration>,
    /// How many connections an engine with a pool has at most; none: as many as it thinks fit.
    pub connections: Option<usize>,
}

/// Why a database could not be opened: one line that says what to do.
#[derive(Debug, Error)]
#[error("{text}")]
pub struct EngineOpenError {
    text: String,
    cause: OpenErrorKind,
}

#[derive(Debug, PartialEq, Eq)]
enum OpenErrorKind {
    Any,
    Busy,
    Absent,
}

impl EngineOpenError {
    /// An error that nothing more is known of.
    pub(super) fn new(text: String) -> Self {
        Self { text, cause: OpenErrorKind::Any }
    }

    /// The database is in use.
    pub(super) fn busy(text: String) -> Self {
        Self { text, cause: OpenErrorKind::Busy }
    }

    /// There is no database.
    pub(super) fn absent(text: String) -> Self {
        Self { text, cause: OpenErrorKind::Absent }
    }

    /// Whether the database is in use by a process that may be about to end.
    pub fn is_busy(&self) -> bool {
        self.cause == OpenErrorKind::Busy
    }

    /// Whether there is no such database where one could be.
    pub fn is_absent(&self) -> bool {
        self.cause == OpenErrorKind::Absent
    }
}

/// What opening an engine gives.
pub(super) type EngineOpening<'a> = BoxFuture<'a, Result<Arc<dyn Engine>, EngineOpenError>>;

/// An opened database for work on all of its records.
pub(super) type BulkOpening<'a> = BoxFuture<'a, Result<Arc<dyn Bulk>, EngineOpenError>>;

/// Repairs a damaged database, and says in one line what became of it.
pub(crate) type RecoverFunction = fn(&Path, Option<Duration>, &Cancel) -> Result<String, EngineOpenError>;

/// One engine: what the rest of the program must know of it, and how it is opened.
struct Driver {
    name: &'static str,
    /// What the help says beside its name.
    remark: &'static str,
    properties: Properties,
    /// Whether the database's name makes sense, without looking for the database.
    check: fn(&EngineOptions) -> Result<(), String>,
    open: fn(&EngineOptions) -> EngineOpening<'_>,
    open_bulk: fn(&EngineOptions, BulkPurpose) -> BulkOpening<'_>,
    /// How a damaged database is repaired on the operator's demand, where that is possible.
    recover: Option<RecoverFunction>,
}

/// What the rest of the program must know of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    /// Whether its database is a file, which belongs to one process alone, and whose name is no secret.
    pub(crate) is_file: bool,
    /// Whether the store itself lets a record expire, at a moment that is set with each change.
    pub(crate) expires_by_itself: bool,
    /// Whether it connects to a server, whose name may have to be looked up and whose certificate to be verified.
    pub(crate) needs_network: bool,
}

/// Every engine there is. To add one is to add its directory and its line here.
const DRIVERS: [Driver; 4] = [
    Driver {
        name: "gdbm",
        remark: "",
        properties: Properties { is_file: true, expires_by_itself: false, needs_network: false },
        check: |_| Ok(()),
        open: gdbm::open,
        open_bulk: gdbm::open_bulk,
        recover: Some(gdbm::recover),
    },
    Driver {
        name: "mysql",
        remark: "",
        properties: Properties { is_file: false, expires_by_itself: false, needs_network: true },
        check: mysql::check,
        open: mysql::open,
        open_bulk: mysql::open_bulk,
        recover: None,
    },
    Driver {
        name: "redis",
        remark: "",
        properties: Properties { is_file: false, expires_by_itself: true, needs_network: true },
        check: redis::check,
        open: redis::open,
        open_bulk: redis::open_bulk,
        recover: None,
    },
    Driver {
        name: "redis_v0",
        remark: ", a former form of redis",
        properties: Properties { is_file: false, expires_by_itself: true, needs_network: true },
        check: redis::check,
        open: redis::open_v0,
        open_bulk: redis::open_bulk_v0,
        recover: None,
    },
];

/// The names of all engines, as the option `Engine` may have them.
pub(crate) const NAMES: [&str; DRIVERS.len()] = {
    let mut names = [""; DRIVERS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = DRIVERS[at].name;
        at += 1;
    }
    names
};

/// The names of all engines for people: `one, two, or three`.
pub(crate) fn listed() -> String {
    let named = DRIVERS.iter().enumerate().map(|(at, Driver { name, remark, .. })| {
        let or = if at + 1 == DRIVERS.len() { "or " } else { "" };
        format!("{or}{name}{remark}")
    });
    named.collect::<Vec<_>>().join(", ")
}

fn driver(engine: &str) -> Result<&'static Driver, String> {
    let known = DRIVERS.iter().find(|driver| driver.name == engine);
    known.ok_or_else(|| format!("there is no engine named {engine}"))
}

/// What must be known of an engine; nothing holds of one that there is not.
pub(crate) fn properties(engine: &str) -> Properties {
    driver(engine).map_or_else(|_| Properties::default(), |driver| driver.properties)
}

/// Whether an engine is there and the database's name makes sense for it.
///
/// # Errors
///
/// What is wrong, without repeating the name, which may hold a password.
pub(crate) fn check(engine: &str, options: &EngineOptions) -> Result<(), String> {
    (driver(engine)?.check)(options)
}

/// The file of trusted certificates that a database's name asks for, if any.
pub(crate) fn authorities(dsn: &str) -> Option<PathBuf> {
    remote::dsn::scheme(dsn)?;
    remote::dsn::DsnUrl::parse(dsn).ok()?.take("ca").map(PathBuf::from)
}

/// Opens a database with the engine of this name. One on another machine is waited for.
///
/// # Errors
///
/// One line that names the database and says what to do.
pub(crate) async fn open(engine: &str, options: &EngineOptions) -> Result<Arc<dyn Engine>, EngineOpenError> {
    (driver(engine).map_err(EngineOpenError::new)?.open)(options).await
}

/// Opens a database with the engine of this name for work on all of it.
///
/// # Errors
///
/// One line that names the database and says what to do.
pub async fn open_bulk(
    engine: &str,
    options: &EngineOptions,
    purpose: BulkPurpose,
) -> Result<Arc<dyn Bulk>, EngineOpenError> {
    (driver(engine).map_err(EngineOpenError::new)?.open_bulk)(options, purpose).await
}

/// How an engine of this name repairs a damaged database on the operator's demand; none if it cannot.
pub(crate) fn recovery(engine: &str) -> Option<RecoverFunction> {
    driver(engine).ok()?.recover
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_listed_with_what_is_to_be_said_of_them() {
        let (listed, last) = (listed(), DRIVERS.last().unwrap());
        assert!(listed.starts_with("gdbm, mysql, redis, "), "{listed}");
        assert!(listed.contains("redis_v0, a former form of redis"), "{listed}");
        assert!(listed.ends_with(&format!(", or {}{}", last.name, last.remark)), "{listed}");
    }

    #[test]
    fn nothing_holds_of_an_engine_that_there_is_not() {
        assert_eq!(properties("dbm"), Properties::default());
        assert!(recovery("dbm").is_none() && recovery("gdbm").is_some());
    }
}

//! The table of engines, and opening a database with the engine of a name.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::bulk::{Bulk, BulkPurpose};
use super::{BoxFuture, Cancel, Engine, gdbm, mysql, redis, remote};
use crate::os::open as open_file;

/// Options for opening a database.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// The name of the database in the settings, in the engine's own form. May contain a password.
    pub dsn: String,
    /// The absolute path of the database file, for engines that use a file.
    pub path: PathBuf,
    /// The homedir, if the program has one.
    pub homedir: Option<PathBuf>,
    /// The time without a change after which a record expires; none: never.
    pub cleanup_age: Option<Duration>,
    /// The maximum number of connections of an engine with a pool; none: the engine's default.
    pub connections: Option<usize>,
}

/// The reason why a database could not be opened: one line that says what to do.
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
    Lasting,
}

impl EngineOpenError {
    /// Returns an error without a kind.
    pub(super) fn new(text: String) -> Self {
        Self { text, cause: OpenErrorKind::Any }
    }

    /// Returns the error for a database that is in use.
    pub(super) fn busy(text: String) -> Self {
        Self { text, cause: OpenErrorKind::Busy }
    }

    /// Returns the error for a file that cannot be used for this reason.
    pub(super) fn of_file(text: String, error: &io::Error) -> Self {
        let cause = if open_file::is_lasting(error) { OpenErrorKind::Lasting } else { OpenErrorKind::Any };
        Self { text, cause }
    }

    /// Returns the error for a missing database.
    pub(super) fn absent(text: String) -> Self {
        Self { text, cause: OpenErrorKind::Absent }
    }

    /// Returns whether the database is in use by another process, so that a retry can succeed.
    pub fn is_busy(&self) -> bool {
        self.cause == OpenErrorKind::Busy
    }

    /// Returns whether the error stays until an operator changes the name, the kind or the permissions of the file.
    pub(crate) fn is_lasting(&self) -> bool {
        self.cause == OpenErrorKind::Lasting
    }

    /// Returns whether the database does not exist.
    pub fn is_absent(&self) -> bool {
        self.cause == OpenErrorKind::Absent
    }
}

/// The future of an engine that is being opened.
pub(super) type EngineOpening<'a> = BoxFuture<'a, Result<Arc<dyn Engine>, EngineOpenError>>;

/// The future of a database that is being opened for work on all of its records.
pub(super) type BulkOpening<'a> = BoxFuture<'a, Result<Arc<dyn Bulk>, EngineOpenError>>;

/// Repairs a damaged database. Returns one line that says what was done.
pub(crate) type RecoverFunction = fn(&Path, Option<Duration>, &Cancel) -> Result<String, EngineOpenError>;

/// One engine of the table.
struct Driver {
    name: &'static str,
    /// The text that follows the name in the help.
    remark: &'static str,
    properties: Properties,
    /// Checks the name of the database, without opening it.
    check: fn(&EngineOptions) -> Result<(), String>,
    open: fn(&EngineOptions) -> EngineOpening<'_>,
    open_bulk: fn(&EngineOptions, BulkPurpose) -> BulkOpening<'_>,
    /// Repairs a damaged database on demand; none if the engine cannot.
    recover: Option<RecoverFunction>,
}

/// The properties of an engine that the rest of the program depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    /// Whether the database is a file, which only one process can open and whose name is not secret.
    pub(crate) is_file: bool,
    /// Whether the store itself deletes a record, at a time set with each change.
    pub(crate) expires_by_itself: bool,
    /// Whether it connects to a server, which can need name resolution and trusted certificates.
    pub(crate) needs_network: bool,
}

/// All engines. A new one needs a directory and an entry here.
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

/// The names of all engines: the values of the option `Engine`.
pub(crate) const NAMES: [&str; DRIVERS.len()] = {
    let mut names = [""; DRIVERS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = DRIVERS[at].name;
        at += 1;
    }
    names
};

/// Returns the names of all engines as text: `one, two, or three`.
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

/// Returns the properties of an engine. Those of an unknown one are all false.
pub(crate) fn properties(engine: &str) -> Properties {
    driver(engine).map_or_else(|_| Properties::default(), |driver| driver.properties)
}

/// Checks that an engine exists and that the name of the database is valid for it.
///
/// # Errors
///
/// The reason, without the name, which may contain a password.
pub(crate) fn check(engine: &str, options: &EngineOptions) -> Result<(), String> {
    (driver(engine)?.check)(options)
}

/// Returns the file of trusted certificates that the name of a database contains, if any.
pub(crate) fn authorities(dsn: &str) -> Option<PathBuf> {
    remote::dsn::scheme(dsn)?;
    remote::dsn::DsnUrl::parse(dsn).ok()?.take("ca").map(PathBuf::from)
}

/// Opens a database with the engine of this name. Waits for a server that is unavailable.
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

/// Returns the function with which an engine repairs a damaged database on demand; none if it cannot.
pub(crate) fn recovery(engine: &str) -> Option<RecoverFunction> {
    driver(engine).ok()?.recover
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_listed_with_their_remarks() {
        let (listed, last) = (listed(), DRIVERS.last().unwrap());
        assert!(listed.starts_with("gdbm, mysql, redis, "), "{listed}");
        assert!(listed.contains("redis_v0, a former form of redis"), "{listed}");
        assert!(listed.ends_with(&format!(", or {}{}", last.name, last.remark)), "{listed}");
    }

    #[test]
    fn unknown_engine_has_no_properties() {
        assert_eq!(properties("dbm"), Properties::default());
        assert!(recovery("dbm").is_none() && recovery("gdbm").is_some());
    }
}

//! Storage engines: where records are kept. Speaks of digests and records, never of requests.

pub mod batch;
pub mod bulk;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod gdbm;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod memory;
pub mod mysql;
pub mod redis;
mod remote;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use batch::{Batch, Entry};
use bulk::{Bulk, Purpose};
pub use gdbm::{Cancel, recover};

/// A future that an engine returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why something could not be done for one digest. What the operator must know of it has been
/// logged by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StorageError {
    /// The database cannot be reached, or does not accept the change.
    #[error("the database is temporarily unavailable")]
    Unavailable,
    /// The stored record cannot be decoded.
    #[error("the stored record is damaged")]
    Damaged,
}

/// How an engine deals with a batch.
pub enum Progress {
    /// It is done.
    Done(Batch),
    /// It will be done; the batch comes back with its outcomes.
    Later(BoxFuture<'static, Batch>),
}

/// A place in the middle of a database from which a scan goes on; each engine has its own form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Vec<u8>);

/// A store of records.
///
/// All engines behave alike: counters stop at [`Engine::count_limit`] instead of failing; a
/// record expires when neither tally changed for the age given when the engine was opened; a
/// change that was reported as done has been counted exactly once, and one that was not at most
/// once.
pub trait Engine: Send + Sync {
    /// The engine's name and its database, for people. Never contains a password.
    fn describe(&self) -> String;

    /// Looks up and counts all that the batch asks for: each entry's look-up first, then its
    /// increments. What fails for one digest fails for that digest only.
    fn run(&self, batch: Batch) -> Progress;

    /// How many batches it is given at a time, as long as it has not answered them.
    fn batches_at_a_time(&self) -> usize {
        4
    }

    /// How much later than another one under way a batch is to be given, so that batches that take long are not
    /// all under way at once and requests wait for a part of that time only.
    fn spacing(&self) -> Duration {
        Duration::ZERO
    }

    /// The highest count that the engine can hold.
    fn count_limit(&self) -> i64;

    /// Whether the database can be reached, so that a batch takes its time. Otherwise batches are refused at once.
    fn is_available(&self) -> bool;

    /// Waits until the engine cannot go on in this process, and says why in one line. Never
    /// returns while it can.
    fn failed(&self) -> BoxFuture<'_, String>;

    /// Makes everything durable and ends all background work.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Where an engine's database is, and how to use it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The database as the settings name it, in the engine's own form. May hold a password.
    pub dsn: String,
    /// The same as the absolute path of a file, for engines that use one.
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
pub struct OpenError {
    text: String,
    cause: Cause,
}

#[derive(Debug, PartialEq, Eq)]
enum Cause {
    Any,
    Busy,
    Absent,
}

impl OpenError {
    fn new(text: String) -> Self {
        Self { text, cause: Cause::Any }
    }

    fn busy(text: String) -> Self {
        Self { text, cause: Cause::Busy }
    }

    fn absent(text: String) -> Self {
        Self { text, cause: Cause::Absent }
    }

    /// Whether the database is in use by a process that may be about to end.
    pub fn is_busy(&self) -> bool {
        self.cause == Cause::Busy
    }

    /// Whether there is no such database where one could be.
    pub fn is_absent(&self) -> bool {
        self.cause == Cause::Absent
    }
}

/// What opening an engine gives.
type Opened<'a> = BoxFuture<'a, Result<Arc<dyn Engine>, OpenError>>;

/// The same for work on all of it.
type OpenedBulk<'a> = BoxFuture<'a, Result<Arc<dyn Bulk>, OpenError>>;

/// How one engine is opened.
struct Driver {
    name: &'static str,
    /// Whether the database's name makes sense, without looking for the database.
    check: fn(&Options) -> Result<(), String>,
    open: fn(&Options) -> Opened<'_>,
    open_bulk: fn(&Options, Purpose) -> OpenedBulk<'_>,
}

/// Every engine there is. To add one is to add its file and its line here.
const DRIVERS: [Driver; 4] = [
    Driver { name: "gdbm", check: |_| Ok(()), open: gdbm::open, open_bulk: gdbm::open_bulk },
    Driver { name: "mysql", check: mysql::check, open: mysql::open, open_bulk: mysql::open_bulk },
    Driver { name: "redis", check: redis::check, open: redis::open, open_bulk: redis::open_bulk },
    Driver { name: "redis_v0", check: redis::check, open: redis::open_v0, open_bulk: redis::open_bulk_v0 },
];

fn driver(engine: &str) -> Result<&'static Driver, String> {
    let known = DRIVERS.iter().find(|driver| driver.name == engine);
    known.ok_or_else(|| format!("there is no engine named {engine}"))
}

/// Whether an engine is there and the database's name makes sense for it.
///
/// # Errors
///
/// What is wrong, without repeating the name, which may hold a password.
pub fn check(engine: &str, options: &Options) -> Result<(), String> {
    (driver(engine)?.check)(options)
}

/// The file of trusted certificates that a database's name asks for, if any.
pub fn authorities(dsn: &str) -> Option<PathBuf> {
    remote::dsn::scheme(dsn)?;
    remote::dsn::Url::parse(dsn).ok()?.take("ca").map(PathBuf::from)
}

/// Opens a database with the engine of this name. One on another machine is waited for.
///
/// # Errors
///
/// One line that names the database and says what to do.
pub async fn open(engine: &str, options: &Options) -> Result<Arc<dyn Engine>, OpenError> {
    (driver(engine).map_err(OpenError::new)?.open)(options).await
}

//! The engine that stores records in a table of MySQL or MariaDB.
//!
//! A batch becomes one query for all its look-ups and one statement per kind for all its increments; large batches are
//! split by rows. An increment is retried only if the server has confirmed that its statement changed nothing.

mod bulk;
mod connect;
mod core;
mod counting;
mod errors;
mod expiry;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hung_rows;
mod measurement;
mod pool;
mod rows;
mod schema;
mod shape;
mod statement_size;
mod table;
mod target;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use tokio::time::timeout;

use self::core::MySqlCore;
use self::pool::ConnectionPool;
use self::schema::TableUse;
use self::table::MySqlTable;
use self::target::MySqlTarget;
use super::remote::condition::{self, ServerCondition};
use super::remote::presence::{RemoteStore, keep, time_left};
use super::remote::start::{ConnectError, connect_when_ready};
use super::{
    Batch, BatchProgress, BoxFuture, Engine, EngineOpenError, EngineOpening, EngineOptions, EngineStatus,
};

/// The default of `DBConnections`.
const CONNECTIONS: usize = 4;
/// Time of the quickest statement from which on the starts of batches are spread over time.
const LONG: Duration = Duration::from_millis(100);

/// The MySQL engine.
pub(crate) struct MySql {
    shared: Arc<MySqlCore>,
    connections: usize,
    /// The time without a change after which a record expires; `None`: never.
    age: Option<Duration>,
    tasks: Mutex<Vec<AbortHandle>>,
}

pub(super) use self::bulk::open_bulk;

/// Opens the database for [`super::open`].
pub(super) fn open(options: &EngineOptions) -> EngineOpening<'_> {
    Box::pin(async { Ok(Arc::new(MySql::open(options).await?) as Arc<dyn Engine>) })
}

/// Checks the syntax of `DigestDB`, without a connection.
pub(super) fn check(options: &EngineOptions) -> Result<(), String> {
    MySqlTarget::parse(&options.dsn).map(|_| ()).map_err(|error| error.0)
}

impl MySql {
    async fn open(options: &EngineOptions) -> Result<Self, EngineOpenError> {
        let target = MySqlTarget::parse(&options.dsn)
            .map_err(|error| EngineOpenError::new(format!("DigestDB: {error}")))?;
        let name = format!("the MySQL server {}", target.describe());
        let (connection, table) = connect_when_ready(&name, || async {
            let mut connection = target.connect().await?;
            let table = MySqlTable::inspect(&mut connection, &target, TableUse::Creating).await?;
            let table = table
                .ok_or_else(|| ConnectError::temporary("the table was dropped during its inspection"))?;
            Ok((connection, table))
        })
        .await?;
        let connections = options.connections.unwrap_or(CONNECTIONS);
        // One more for the prober and for expiry.
        let pool = Arc::new(ConnectionPool::new(target, connection, table, connections + 1));
        let shared = Arc::new(MySqlCore::new(pool, name));
        let tasks = vec![
            tokio::spawn(keep(Arc::downgrade(&shared.pool))).abort_handle(),
            tokio::spawn(pool::keep_inspected(Arc::downgrade(&shared.pool))).abort_handle(),
            tokio::spawn(measurement::keep(Arc::clone(&shared))).abort_handle(),
        ];
        Ok(Self { shared, connections, age: options.cleanup_age, tasks: Mutex::new(tasks) })
    }

    fn stop(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

impl Drop for MySql {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Engine for MySql {
    fn describe(&self) -> String {
        format!("mysql, {}", self.shared.pool.target.describe())
    }

    fn run(&self, mut batch: Batch) -> BatchProgress {
        let Some(epoch) = self.shared.pool.presence().epoch() else { return BatchProgress::Done(batch) };
        let shared = Arc::clone(&self.shared);
        BatchProgress::Later(Box::pin(async move {
            let presence = shared.pool.presence();
            let mut in_flight = Vec::new();
            let given = time_left(batch.since());
            let end = Instant::now() + given;
            match timeout(given, shared.serve(&mut batch, epoch, end, &mut in_flight)).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => presence.lost(epoch, &why),
                Err(_) if presence.timed_out(epoch, given) => shared.note_timeout(&in_flight),
                Err(_) => {}
            }
            for digest in &in_flight {
                if let Some(entry) = batch.entry_mut(digest) {
                    entry.doubt();
                }
            }
            batch
        }))
    }

    fn batches_at_a_time(&self) -> usize {
        self.connections
    }

    fn spacing(&self) -> Duration {
        // Quick statements gain nothing from larger batches.
        let least = self.shared.least();
        let connections = u32::try_from(self.connections.max(1)).unwrap_or(u32::MAX);
        if least < LONG { Duration::ZERO } else { least / connections }
    }

    fn count_limit(&self) -> i64 {
        self.shared.pool.table().limit()
    }

    fn is_available(&self) -> bool {
        self.shared.pool.presence().epoch().is_some()
    }

    fn status(&self) -> EngineStatus {
        let (mut status, now) = (EngineStatus::default(), Instant::now());
        let server = ServerCondition::of(String::new(), self.shared.pool.presence(), &self.shared.changes);
        condition::describe(&[server], &mut status, now);
        self.shared.findings.describe(&mut status, now);
        status
    }

    /// Never resolves, because an unavailable server can always become available again.
    fn failed(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }

    fn begin_expiry(&self) {
        let sweeping = tokio::spawn(expiry::keep(Arc::clone(&self.shared), self.age));
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(sweeping.abort_handle());
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.stop();
            self.shared.pool.close().await;
        })
    }
}

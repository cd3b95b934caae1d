//! The pool of connections to a server, and the description of its table.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use super::connect::MySqlConnectError;
use super::schema::TableUse;
use super::table::MySqlTable;
use super::target::MySqlTarget;
use crate::storage::BoxFuture;
use crate::storage::remote::presence::{LIMIT, Presence, RemoteStore, with_lookup_hint};
use crate::storage::remote::start::ConnectError;

/// The idle time after which a connection is pinged; servers close idle connections.
const FRESH: Duration = Duration::from_millis(400);
/// The most time that a ping may take.
const PING_LIMIT: Duration = Duration::from_millis(500);
/// The most time that closing one connection may take.
const CLOSE_LIMIT: Duration = Duration::from_millis(300);
/// The interval at which the table is inspected and the limit of connections is raised by one.
const INSPECTION: Duration = Duration::from_secs(10);

/// Idle connections, the limit of connections, and the table.
pub(super) struct ConnectionPool {
    pub(super) target: MySqlTarget,
    presence: Presence,
    table: ArcSwap<MySqlTable>,
    idle: Mutex<Vec<IdleConnection>>,
    /// The most connections that may be open: `wanted`, or fewer if the server has refused more.
    limit: AtomicUsize,
    wanted: usize,
    /// One permit per connection in use; together with the acquired ones as many as `limit`.
    permits: Semaphore,
}

struct IdleConnection {
    connection: Conn,
    used: Instant,
}

/// A connection in use. Dropping it closes the connection, so that one with an unfinished statement is never reused;
/// [`Lease::put_back`] returns it to the pool.
pub(super) struct Lease<'a> {
    pub(super) connection: Conn,
    pool: &'a ConnectionPool,
    _permit: SemaphorePermit<'a>,
}

impl ConnectionPool {
    /// A pool of at most `wanted` connections that begins with one.
    pub(super) fn new(target: MySqlTarget, first: Conn, table: MySqlTable, wanted: usize) -> Self {
        Self {
            presence: Presence::new(format!("the MySQL server {}", target.describe())),
            target,
            table: ArcSwap::from_pointee(table),
            idle: Mutex::new(vec![IdleConnection { connection: first, used: Instant::now() }]),
            limit: AtomicUsize::new(wanted),
            wanted,
            permits: Semaphore::new(wanted),
        }
    }

    /// The table as last inspected.
    pub(super) fn table(&self) -> Arc<MySqlTable> {
        self.table.load_full()
    }

    /// Waits for an idle connection or opens a new one. Has no time limit of its own.
    pub(super) async fn take(&self) -> Result<Lease<'_>, ConnectError> {
        loop {
            let permit = self.permits.acquire().await;
            let permit = permit.map_err(|_| ConnectError::permanent("the engine has been closed"))?;
            match self.connection().await {
                Ok(connection) => return Ok(Lease { connection, pool: self, _permit: permit }),
                Err(MySqlConnectError::Limit(_)) if self.lower() => permit.forget(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn connection(&self) -> Result<Conn, MySqlConnectError> {
        match self.pop() {
            Some(connection) => Ok(connection),
            None => self.target.connect().await,
        }
    }

    /// Lowers the limit by one, unless it is 1. Returns whether it did; if so, the caller must forget a permit.
    fn lower(&self) -> bool {
        let lowered = |limit: usize| limit.checked_sub(1).filter(|limit| *limit > 0);
        self.limit.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lowered).is_ok()
    }

    /// Raises the limit, to `wanted` at most.
    fn raise(&self, by: usize) {
        let raised = |limit: usize| Some((limit + by).min(self.wanted));
        // Never fails: `raised` never returns None.
        let before = self.limit.fetch_update(Ordering::SeqCst, Ordering::SeqCst, raised);
        let before = before.unwrap_or(self.wanted);
        self.permits.add_permits((before + by).min(self.wanted) - before);
    }

    /// Inspects the table and replaces its description.
    async fn inspect(&self, connection: &mut Conn) -> Result<(), ConnectError> {
        let table = MySqlTable::inspect(connection, &self.target, TableUse::Changing).await?;
        let missing =
            || ConnectError::permanent(format!("the table {} does not exist", self.target.quoted_table()));
        self.table.store(Arc::new(table.ok_or_else(missing)?));
        Ok(())
    }

    /// Inspects the table, then raises the limit of connections by one. Queues for a connection like a batch, because
    /// batches may use all of them.
    async fn inspect_again(&self) {
        let Some(epoch) = self.presence.epoch() else { return };
        // Batches ahead in the queue wait for less than LIMIT. If they hang, they mark the server as unavailable.
        let Ok(lease) = timeout(2 * LIMIT, self.take()).await else { return };
        let inspection = timeout(LIMIT, async {
            let mut lease = lease?;
            self.inspect(&mut lease.connection).await?;
            lease.put_back();
            Ok::<(), ConnectError>(())
        });
        match inspection.await {
            Ok(Ok(())) => {
                self.presence.seen();
                self.raise(1);
            }
            Ok(Err(failure)) => self.presence.lost(epoch, &with_lookup_hint(failure.why)),
            Err(_) => {
                self.presence.timed_out(epoch, LIMIT);
            }
        }
    }

    /// Closes all idle connections properly (`COM_QUIT`), and refuses new ones.
    pub(super) async fn close(&self) {
        self.permits.close();
        while let Some(connection) = self.pop() {
            // The server may have closed it already.
            let _ = timeout(CLOSE_LIMIT, connection.disconnect()).await;
        }
    }

    /// Drops all idle connections.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn pop(&self) -> Option<Conn> {
        self.lock().pop().map(|idle| idle.connection)
    }

    fn push(&self, connection: Conn) {
        self.lock().push(IdleConnection { connection, used: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<IdleConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the connections that have been idle for [`FRESH`] or longer.
    fn stale(&self) -> Vec<Lease<'_>> {
        let mut idle = self.lock();
        let mut stale = Vec::new();
        while let Some(at) = idle.iter().position(|idle| idle.used.elapsed() >= FRESH)
            && let Ok(permit) = self.permits.try_acquire()
        {
            stale.push(Lease { connection: idle.swap_remove(at).connection, pool: self, _permit: permit });
        }
        stale
    }
}

/// Inspects the table every [`INSPECTION`] until the pool is dropped.
pub(super) async fn keep_inspected(pool: Weak<ConnectionPool>) {
    loop {
        sleep(INSPECTION).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.inspect_again().await;
    }
}

impl Lease<'_> {
    /// Returns the connection to the pool. All its statements must be finished.
    pub(super) fn put_back(self) {
        self.pool.push(self.connection);
    }

    /// Pings the server; returns the connection to the pool if it answers.
    async fn ping(mut self) -> bool {
        let answers = matches!(timeout(PING_LIMIT, self.connection.ping()).await, Ok(Ok(())));
        if answers {
            self.put_back();
        }
        answers
    }
}

impl RemoteStore for ConnectionPool {
    fn presence(&self) -> &Presence {
        &self.presence
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let pings = self.stale().into_iter().map(Lease::ping);
            if futures_util::future::join_all(pings).await.contains(&true) {
                self.presence.seen();
            }
            // Without idle connections, either the server has closed them or it is unavailable: a new one will tell.
            if !self.lock().is_empty() {
                return Ok(());
            }
            // If all permits are taken, the batches that hold them will notice an unavailable server.
            let Ok(permit) = self.permits.try_acquire() else { return Ok(()) };
            let mut connection = match self.connection().await {
                Ok(connection) => connection,
                Err(MySqlConnectError::Limit(_)) if self.lower() => {
                    permit.forget();
                    return Ok(());
                }
                Err(error) => return Err(ConnectError::from(error).why),
            };
            self.inspect(&mut connection).await.map_err(|failure| failure.why)?;
            self.presence.seen();
            self.push(connection);
            Ok(())
        })
    }

    fn connect(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            // Idle connections may use up the limit of this account.
            self.forget();
            let mut connection =
                self.target.connect().await.map_err(|error| ConnectError::from(error).why)?;
            self.inspect(&mut connection).await.map_err(|failure| failure.why)?;
            self.forget();
            self.push(connection);
            self.raise(self.wanted);
            Ok(())
        })
    }
}

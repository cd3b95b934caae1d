//! Connections to one server, and what its table looks like.

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

/// How long a connection may be idle before it is pinged; servers close those that stay idle.
const FRESH: Duration = Duration::from_millis(400);
/// How long one connection may take to answer a ping.
const PING_LIMIT: Duration = Duration::from_millis(500);
/// How long one connection may take to be closed.
const FAREWELL: Duration = Duration::from_millis(300);
/// How often the table is inspected, and how often one connection more is tried.
const INSPECTION: Duration = Duration::from_secs(10);

/// Connections that wait for work, how many there may be, and the table.
pub(super) struct ConnectionPool {
    pub(super) target: MySqlTarget,
    presence: Presence,
    table: ArcSwap<MySqlTable>,
    idle: Mutex<Vec<IdleConnection>>,
    /// How many connections there may be: as many as are wanted, or as the server has had room for.
    limit: AtomicUsize,
    wanted: usize,
    /// As many as the limit. Who holds one may use a connection.
    permits: Semaphore,
}

struct IdleConnection {
    connection: Conn,
    used: Instant,
}

/// A connection in use. Unless it is put back it is closed, so that one with an unfinished statement is
/// never used again.
pub(super) struct Lease<'a> {
    pub(super) connection: Conn,
    pool: &'a ConnectionPool,
    _permit: SemaphorePermit<'a>,
}

impl ConnectionPool {
    /// A pool of at most this many connections, one of which is there already.
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

    /// The table as it was when it was inspected last.
    pub(super) fn table(&self) -> Arc<MySqlTable> {
        self.table.load_full()
    }

    /// Takes a connection, as soon as one may be used. Takes as long as it takes.
    pub(super) async fn take(&self) -> Result<Lease<'_>, ConnectError> {
        loop {
            let permit = self.permits.acquire().await;
            let permit = permit.map_err(|_| ConnectError::permanent("the engine has been closed"))?;
            match self.connection().await {
                Ok(connection) => return Ok(Lease { connection, pool: self, _permit: permit }),
                Err(MySqlConnectError::NoRoom(_)) if self.lower() => permit.forget(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// An idle connection, or a new one.
    async fn connection(&self) -> Result<Conn, MySqlConnectError> {
        match self.pop() {
            Some(connection) => Ok(connection),
            None => self.target.connect().await,
        }
    }

    /// Lowers the limit by one, unless it is 1; the caller forgets a permit then.
    fn lower(&self) -> bool {
        let lowered = |limit: usize| limit.checked_sub(1).filter(|limit| *limit > 0);
        self.limit.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lowered).is_ok()
    }

    /// Raises the limit by as many as this, up to what is wanted.
    fn raise(&self, by: usize) {
        let raised = |limit: usize| Some((limit + by).min(self.wanted));
        // It always returns something.
        let before = self.limit.fetch_update(Ordering::SeqCst, Ordering::SeqCst, raised);
        let before = before.unwrap_or(self.wanted);
        self.permits.add_permits((before + by).min(self.wanted) - before);
    }

    /// Inspects the table, whose description is replaced.
    async fn inspect(&self, connection: &mut Conn) -> Result<(), ConnectError> {
        let table = MySqlTable::inspect(connection, &self.target, TableUse::Changing).await?;
        let gone =
            || ConnectError::permanent(format!("the table {} is not there", self.target.quoted_table()));
        self.table.store(Arc::new(table.ok_or_else(gone)?));
        Ok(())
    }

    /// Inspects the table on a connection for which it waits its turn among the service, which may always use all that
    /// there may be. There may be one more then.
    async fn look_again(&self) {
        let Some(epoch) = self.presence.epoch() else { return };
        // Those that are before it in the queue wait for less than the limit. What hangs is found out by others.
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

    /// Closes all connections in order.
    pub(super) async fn close(&self) {
        self.permits.close();
        while let Some(connection) = self.pop() {
            // It may have gone.
            let _ = timeout(FAREWELL, connection.disconnect()).await;
        }
    }

    /// Closes the connections that wait for work.
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

    /// The connections that have not been used lately, as if they were in use.
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

/// Looks at the table again and again, for as long as anything uses the pool.
pub(super) async fn keep_inspected(pool: Weak<ConnectionPool>) {
    loop {
        sleep(INSPECTION).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.look_again().await;
    }
}

impl Lease<'_> {
    /// Gives the connection back when all its statements are finished.
    pub(super) fn put_back(self) {
        self.pool.push(self.connection);
    }

    /// Gives the connection back if it answers.
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
            // Without any, the server has closed them, or it has gone: a new one tells which.
            if !self.lock().is_empty() {
                return Ok(());
            }
            // If all that there may be are in use, those will tell.
            let Ok(permit) = self.permits.try_acquire() else { return Ok(()) };
            let mut connection = match self.connection().await {
                Ok(connection) => connection,
                Err(MySqlConnectError::NoRoom(_)) if self.lower() => {
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
            // Those that there are may take up all the room that the server has for this account.
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

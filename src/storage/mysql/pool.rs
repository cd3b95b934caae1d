//! Connections to one server, as many as are used at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::place::Place;
use super::table::Table;
use crate::storage::BoxFuture;
use crate::storage::presence::{Link, Presence};
use crate::storage::start::Failure;

/// What may be used without having been looked at; the server may close what nobody uses.
const FRESH: Duration = Duration::from_millis(400);
/// How long one connection may take to say that it lives.
const PING_LIMIT: Duration = Duration::from_millis(500);
/// How long a server may take to take leave.
const FAREWELL: Duration = Duration::from_millis(300);

/// Connections that wait for work, and how many there may be.
pub(super) struct Pool {
    pub(super) place: Place,
    presence: Presence,
    idle: Mutex<Vec<Idle>>,
    limit: usize,
    permits: Semaphore,
    /// How many idle ones are being looked at.
    looked_at: AtomicUsize,
    /// Tells that somebody does not use his connection any more.
    returned: Notify,
}

struct Idle {
    connection: Conn,
    used: Instant,
}

/// A connection in use. Unless it is put back it is closed, as one is that somebody gave up in the
/// middle of a statement.
pub(super) struct Lease<'a> {
    pub(super) connection: Conn,
    pool: &'a Pool,
    _permit: SemaphorePermit<'a>,
    _returned: Returned<'a>,
}

/// Tells others when it goes.
struct Returned<'a>(&'a Notify);

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// Idle connections that are being looked at; tells others when that is over.
struct LookedAt<'a>(&'a Pool, usize);

impl<'a> LookedAt<'a> {
    fn new(pool: &'a Pool, count: usize) -> Self {
        pool.looked_at.fetch_add(count, Ordering::SeqCst);
        Self(pool, count)
    }
}

impl Drop for LookedAt<'_> {
    fn drop(&mut self) {
        self.0.looked_at.fetch_sub(self.1, Ordering::SeqCst);
        self.0.returned.notify_waiters();
    }
}

impl Pool {
    /// A pool of at most this many connections, one of which is there already.
    pub(super) fn new(place: Place, first: Conn, limit: usize) -> Self {
        let presence = Presence::new(format!("the MySQL server {}", place.describe()));
        let idle = Mutex::new(vec![Idle { connection: first, used: Instant::now() }]);
        Self {
            place,
            presence,
            idle,
            limit,
            permits: Semaphore::new(limit),
            looked_at: AtomicUsize::new(0),
            returned: Notify::new(),
        }
    }

    /// A connection for oneself. Takes as long as it takes.
    pub(super) async fn take(&self) -> Result<Lease<'_>, Failure> {
        let closed = |_| Failure::fatal("the engine has been closed");
        let permit = self.permits.acquire().await.map_err(closed)?;
        loop {
            let returned = self.returned.notified();
            let connection = match self.pop() {
                Some(idle) => idle.connection,
                None => match self.place.connect().await {
                    Ok(connection) => connection,
                    // A server may have no room for one more, and serve those that there are.
                    Err(_) if self.has_others() => {
                        returned.await;
                        continue;
                    }
                    // Somebody may have put one back meanwhile.
                    Err(failure) => match self.pop() {
                        Some(idle) => idle.connection,
                        None => return Err(failure),
                    },
                },
            };
            let _returned = Returned(&self.returned);
            return Ok(Lease { connection, pool: self, _permit: permit, _returned });
        }
    }

    /// Whether there are connections that may be put back.
    fn has_others(&self) -> bool {
        self.permits.available_permits() + 1 < self.limit || self.looked_at.load(Ordering::SeqCst) > 0
    }

    /// Takes leave of the server.
    pub(super) async fn close(&self) {
        self.permits.close();
        while let Some(idle) = self.pop() {
            // It may have gone.
            let _ = timeout(FAREWELL, idle.connection.disconnect()).await;
        }
    }

    /// Closes the connections that wait for work.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn pop(&self) -> Option<Idle> {
        self.lock().pop()
    }

    fn push(&self, connection: Conn) {
        self.lock().push(Idle { connection, used: Instant::now() });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connections that have not been used lately.
    fn stale(&self) -> Vec<Conn> {
        let mut idle = self.lock();
        let stale = idle.extract_if(.., |idle| idle.used.elapsed() >= FRESH);
        stale.map(|idle| idle.connection).collect()
    }
}

impl Lease<'_> {
    /// Gives the connection back when all its statements are finished.
    pub(super) fn put_back(self) {
        self.pool.push(self.connection);
    }
}

impl Link for Pool {
    fn presence(&self) -> &Presence {
        &self.presence
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let stale = self.stale();
            if stale.is_empty() && !self.lock().is_empty() {
                return Ok(());
            }
            // Whatever becomes of them, those who wait for one are told.
            let _looked_at = LookedAt::new(self, stale.len());
            let pings = stale.into_iter().map(|mut connection| async move {
                matches!(timeout(PING_LIMIT, connection.ping()).await, Ok(Ok(()))).then_some(connection)
            });
            let alive: Vec<Conn> =
                futures_util::future::join_all(pings).await.into_iter().flatten().collect();
            if !alive.is_empty() {
                self.presence.seen();
            } else if self.lock().is_empty() {
                // The server has closed them, or it has gone: a new one tells which.
                return match self.connect().await {
                    Ok(()) => {
                        self.presence.seen();
                        Ok(())
                    }
                    // It may have no room for one more; those in use will tell.
                    Err(_) if self.permits.available_permits() < self.limit => Ok(()),
                    lost => lost,
                };
            }
            alive.into_iter().for_each(|connection| self.push(connection));
            Ok(())
        })
    }

    fn connect(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            // Those that there are may take up all the room that the server has for this account.
            self.forget();
            let mut connection = self.place.connect().await.map_err(|failure| failure.why)?;
            Table::probe(&mut connection, &self.place).await.map_err(|failure| failure.why)?;
            let mut idle = self.lock();
            idle.clear();
            idle.push(Idle { connection, used: Instant::now() });
            Ok(())
        })
    }
}

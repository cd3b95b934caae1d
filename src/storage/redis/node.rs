//! One Redis server and the connection to it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::select_ok;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::place::{Access, Address, Place, Servers, failure_of, refusal};
use crate::storage::BoxFuture;
use crate::storage::presence::{Link, Presence, keep};
use crate::storage::start::Failure;

/// A key under which nothing is ever stored: taking the time to live from it is a change that changes
/// nothing, and needs no right that counting does not need.
const NO_KEY: &str = "pyzord.probe";
/// How long one sentinel may take to answer.
const SENTINEL_LIMIT: Duration = Duration::from_millis(300);

/// A server, by itself or of a cluster.
pub(super) struct Node {
    route: Route,
    role: Role,
    is_of_cluster: bool,
    presence: Presence,
    connection: Mutex<Option<(MultiplexedConnection, Address)>>,
    keeper: Mutex<Option<AbortHandle>>,
}

/// What a server is wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// To be read.
    Read,
    /// To be changed, with this script, too.
    Change(String),
}

/// How the server is found.
enum Route {
    To(Address, Access),
    /// Whom the sentinels name.
    Master {
        sentinels: Vec<Address>,
        service: String,
        sentinel_access: Access,
        access: Access,
    },
}

impl Node {
    /// The one server of a place; none for a cluster, which has many.
    pub(super) fn of_place(place: &Place, role: &Role) -> Option<Arc<Self>> {
        let access = place.access.clone();
        let route = match &place.servers {
            Servers::One(address) => Route::To(address.clone(), access),
            Servers::Sentinels { sentinels, service, access: sentinel_access } => Route::Master {
                sentinels: sentinels.clone(),
                service: service.clone(),
                sentinel_access: sentinel_access.clone(),
                access,
            },
            Servers::Cluster(_) => return None,
        };
        Some(Self::new(route, format!("the Redis server {}", place.describe()), role, false))
    }

    /// One server of a cluster.
    pub(super) fn of_cluster(address: Address, access: &Access, role: &Role) -> Arc<Self> {
        let name = format!("the Redis Cluster's node {address}");
        Self::new(Route::To(address, access.clone()), name, role, true)
    }

    fn new(route: Route, name: String, role: &Role, is_of_cluster: bool) -> Arc<Self> {
        Arc::new(Self {
            route,
            role: role.clone(),
            is_of_cluster,
            presence: Presence::new(name),
            connection: Mutex::new(None),
            keeper: Mutex::new(None),
        })
    }

    /// Makes the first connection.
    pub(super) async fn open(&self) -> Result<(), Failure> {
        let connection = self.attempt().await?;
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(())
    }

    /// From here on a task sees to it that there is a connection. A node that could not be reached
    /// counts as away.
    pub(super) fn keep(self: &Arc<Self>, unreachable: Option<&str>) {
        if let Some(why) = unreachable
            && let Some(epoch) = self.presence.epoch()
        {
            self.presence.lost(epoch, why);
        }
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.get_or_insert_with(|| tokio::spawn(keep(Arc::downgrade(self))).abort_handle());
    }

    /// Nothing is done for the connection any more.
    pub(super) fn stop(&self) {
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            keeper.abort();
        }
    }

    /// What is known of the server.
    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Where it is; none where sentinels know it.
    pub(super) fn address(&self) -> Option<&Address> {
        match &self.route {
            Route::To(address, _) => Some(address),
            Route::Master { .. } => None,
        }
    }

    /// Sends all commands at once and returns as many replies, some of which may be errors. Returns
    /// nothing when it is not known what became of them, which has been logged.
    pub(super) async fn run(&self, pipeline: &Pipeline, deadline: Instant) -> Option<Vec<Value>> {
        // A transaction has other replies than commands, and the next one would get those left over.
        debug_assert!(!pipeline.is_transaction());
        let given = deadline.saturating_duration_since(Instant::now());
        let epoch = self.presence.epoch()?;
        let Some((mut connection, _)) = self.connection() else {
            self.presence.lost(epoch, "there is no connection");
            return None;
        };
        let replies = connection.send_packed_commands(pipeline, 0, pipeline.len());
        match timeout_at(deadline, replies).await {
            Ok(Ok(replies)) => {
                self.presence.seen();
                Some(replies)
            }
            Ok(Err(error)) => {
                self.presence.lost(epoch, &error.to_string());
                None
            }
            Err(_) => {
                self.presence.timed_out(epoch, given);
                None
            }
        }
    }

    /// The same without a thought for who else is served: who asks decides what to do when there are no
    /// replies.
    pub(super) async fn exchange(&self, pipeline: &Pipeline, limit: Duration) -> Result<Vec<Value>, Failure> {
        debug_assert!(!pipeline.is_transaction());
        let (mut connection, _) =
            self.connection().ok_or_else(|| Failure::passing("there is no connection"))?;
        let replies = connection.send_packed_commands(pipeline, 0, pipeline.len());
        match timeout(limit, replies).await {
            Ok(replies) => replies.map_err(|error| failure_of(&error)),
            Err(_) => Err(Failure::passing(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// Fails if the sentinels name another master. One that was replaced goes on as if nothing had happened,
    /// and what it is told is lost.
    pub(super) async fn check_master(&self) -> Result<(), String> {
        if let Route::Master { sentinels, service, sentinel_access, .. } = &self.route
            && let Some((_, address)) = self.connection()
            && let Ok(master) = ask_sentinels(sentinels, service, sentinel_access).await
            && master != address
        {
            return Err(format!("the sentinels name another master, {master}"));
        }
        Ok(())
    }

    /// Whether there has been a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.connection().is_some()
    }

    fn connection(&self) -> Option<(MultiplexedConnection, Address)> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection that has been seen to work, and to whom it is.
    async fn attempt(&self) -> Result<(MultiplexedConnection, Address), Failure> {
        let (address, access) = match &self.route {
            Route::To(address, access) => (address.clone(), access),
            Route::Master { sentinels, service, sentinel_access, access } => {
                let known = self.connection().map(|(_, address)| address);
                match (ask_sentinels(sentinels, service, sentinel_access).await, known) {
                    (Ok(master), _) => (master, access),
                    // The sentinels may have gone and the master not; that it takes changes shows that it is one.
                    (Err(_), Some(known)) => (known, access),
                    (Err(failure), None) => return Err(failure),
                }
            }
        };
        let mut connection = access.connect(&address).await?;
        if self.role != Role::Read {
            check_rights(&mut connection).await?;
        }
        if !self.is_of_cluster && has_others(&mut connection, &self.role).await? {
            let why = format!("it is a node of a cluster: write DigestDB = redis+cluster://{address}");
            return Err(Failure::fatal(why));
        }
        if let Role::Change(script) = &self.role {
            let loaded: Result<(), RedisError> =
                redis::cmd("SCRIPT").arg("LOAD").arg(script).query_async(&mut connection).await;
            loaded.map_err(|error| failure_of(&error))?;
        }
        Ok((connection, address))
    }
}

impl Link for Node {
    fn presence(&self) -> &Presence {
        &self.presence
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let (mut connection, _) = self.connection().ok_or_else(|| "there is no connection".to_owned())?;
            probe(&mut connection).await.map_err(|failure| failure.why)?;
            self.presence.seen();
            self.check_master().await
        })
    }

    fn connect(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { self.open().await.map_err(|failure| failure.why) })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Finds out whether a server accepts changes.
async fn probe(connection: &mut MultiplexedConnection) -> Result<(), Failure> {
    let reply = connection.send_packed_command(redis::cmd("PERSIST").arg(NO_KEY)).await;
    match reply.map_err(|error| failure_of(&error))? {
        Value::ServerError(error) => {
            match error.code() {
                // Another node of the cluster has that key, or none of a cluster that serves what it has.
                "MOVED" | "ASK" => Ok(()),
                "CLUSTERDOWN" if is_of_no_slot(error.details()) => Ok(()),
                // It reads; what it refuses is told with each refusal.
                "MISCONF" | "NOREPLICAS" | "OOM" => Ok(()),
                _ => Err(refusal(&Value::ServerError(error))
                    .unwrap_or_else(|| Failure::passing("the server refuses"))),
            }
        }
        _ => Ok(()),
    }
}

/// Whether a node says that nobody has a key's slot, rather than that the cluster does not serve.
pub(super) fn is_of_no_slot(details: Option<&str>) -> bool {
    details.is_some_and(|details| details.contains("slot not served"))
}

/// Finds out, besides, whether the account has a right without which a record would be changed by half.
async fn check_rights(connection: &mut MultiplexedConnection) -> Result<(), Failure> {
    probe(connection).await?;
    let reply = connection.send_packed_command(redis::cmd("EXPIRE").arg(NO_KEY).arg(1)).await;
    match reply.map_err(|error| failure_of(&error))? {
        Value::ServerError(error) if error.code() == "NOPERM" => Err(failure_of(&RedisError::from(error))),
        _ => Ok(()),
    }
}

/// Whether other servers have some of the keys, as in a cluster.
async fn has_others(connection: &mut MultiplexedConnection, role: &Role) -> Result<bool, Failure> {
    // Those of one slot say nothing of the others; so many are of as many slots all over the range.
    const KEYS: usize = 24;
    // The second needs a right that reading does not need, but does not change anything either.
    let command = if *role == Role::Read { "EXISTS" } else { "PERSIST" };
    let mut probes = Pipeline::with_capacity(KEYS);
    for number in 0..KEYS {
        probes.cmd(command).arg(format!("{NO_KEY}.{number}"));
    }
    let replies = connection.send_packed_commands(&probes, 0, KEYS).await;
    let refused = |reply: &Value| match reply {
        // Who may not ask may still read.
        Value::ServerError(error) => !matches!(error.code(), "MOVED" | "ASK" | "NOPERM" | "CLUSTERDOWN"),
        _ => false,
    };
    if *role == Role::Read
        && let Ok(replies) = &replies
        && let Some(reply) = replies.iter().find(|reply| refused(reply))
    {
        return Err(refusal(reply).unwrap_or_else(|| Failure::passing("the server refuses")));
    }
    let is_elsewhere =
        |reply: &Value| matches!(reply, Value::ServerError(error) if matches!(error.code(), "MOVED" | "ASK"));
    Ok(replies.map_err(|error| failure_of(&error))?.iter().any(is_elsewhere))
}

/// Asks all sentinels at once, and takes the first answer of one that knows the service's master.
async fn ask_sentinels(sentinels: &[Address], service: &str, access: &Access) -> Result<Address, Failure> {
    let ask = |sentinel| async move {
        match timeout(SENTINEL_LIMIT, ask_sentinel(sentinel, service, access)).await {
            Ok(Ok(master)) => Ok(master),
            Ok(Err(failure)) => {
                Err(Failure { why: format!("the sentinel {sentinel}: {}", failure.why), ..failure })
            }
            Err(_) => Err(Failure::passing(format!("the sentinel {sentinel} does not answer"))),
        }
    };
    let asked = sentinels.iter().map(|sentinel| Box::pin(ask(sentinel)));
    select_ok(asked).await.map(|(master, _)| master)
}

async fn ask_sentinel(sentinel: &Address, service: &str, access: &Access) -> Result<Address, Failure> {
    let mut connection = access.connect(sentinel).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
    let answer: Option<(String, u16)> =
        question.query_async(&mut connection).await.map_err(|error| failure_of(&error))?;
    let unknown = || Failure::passing(format!("it knows no master of {service}"));
    answer.map(|(host, port)| Address::Tcp(host, port)).ok_or_else(unknown)
}

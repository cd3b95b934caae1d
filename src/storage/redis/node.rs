//! One Redis server and the connection to it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join;
use redis::{Cmd, Pipeline, Value};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::{RedisConnection, failure_of};
use super::node_trial::{is_in_cluster, try_commands};
use super::record_form::probe_write;
use super::sentinels::Sentinels;
use super::target::{RedisAddress, RedisLogin, RedisServers, RedisTarget};
use crate::storage::remote::changes::ChangeAcceptance;
use crate::storage::remote::condition::ServerCondition;
use crate::storage::remote::presence::{Presence, RemoteStore, keep};
use crate::storage::remote::start::{ConnectError, NO_ANSWER};
use crate::storage::{BoxFuture, StorageError};

/// Reason for a failure before the first connection.
const NO_CONNECTION: &str = "there is no connection";

/// A single server, or a node of a cluster.
pub(super) struct RedisNode {
    route: NodeRoute,
    role: NodeRole,
    is_of_cluster: bool,
    presence: Presence,
    changes: ChangeAcceptance,
    connection: Mutex<Option<(RedisConnection, RedisAddress)>>,
    keeper: Mutex<Option<AbortHandle>>,
}

/// The use of a server.
#[derive(Clone)]
pub(super) enum NodeRole {
    Read,
    /// Reading and changing. A new connection must accept these groups of commands, in order.
    Change(Vec<Vec<Cmd>>),
}

/// The way to find the server's address.
enum NodeRoute {
    To(RedisAddress, RedisLogin),
    /// The master that the sentinels name.
    Master(Sentinels, RedisLogin),
}

impl RedisNode {
    /// The single server of a target, or none for a cluster.
    pub(super) fn of_target(target: &RedisTarget, role: &NodeRole) -> Option<Arc<Self>> {
        let access = target.access.clone();
        let route = match &target.servers {
            RedisServers::One(address) => NodeRoute::To(address.clone(), access),
            RedisServers::Sentinels { sentinels, service, access: theirs } => {
                let (addresses, service) = (sentinels.clone(), service.clone());
                NodeRoute::Master(Sentinels::new(addresses, service, theirs.clone()), access)
            }
            RedisServers::Cluster(_) => return None,
        };
        Some(Self::new(route, format!("the Redis server {}", target.describe()), role, false))
    }

    /// A node of a cluster.
    pub(super) fn of_cluster(address: RedisAddress, access: &RedisLogin, role: &NodeRole) -> Arc<Self> {
        let name = format!("the Redis Cluster's node {address}");
        Self::new(NodeRoute::To(address, access.clone()), name, role, true)
    }

    fn new(route: NodeRoute, name: String, role: &NodeRole, is_of_cluster: bool) -> Arc<Self> {
        Arc::new(Self {
            route,
            role: role.clone(),
            is_of_cluster,
            presence: Presence::new(name),
            changes: ChangeAcceptance::default(),
            connection: Mutex::new(None),
            keeper: Mutex::new(None),
        })
    }

    /// Makes the first connection.
    pub(super) async fn open(&self) -> Result<(), ConnectError> {
        let connection = self.attempt().await?;
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(())
    }

    /// Starts the task that checks and reconnects the server, if it does not run yet. `unreachable` is the reason why
    /// the first connection failed, if it did.
    pub(super) fn keep(self: &Arc<Self>, unreachable: Option<&str>) {
        if let Some(why) = unreachable
            && let Some(epoch) = self.presence.epoch()
        {
            self.presence.lost(epoch, why);
        }
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.get_or_insert_with(|| tokio::spawn(keep(Arc::downgrade(self))).abort_handle());
    }

    /// Stops the task that checks and reconnects the server.
    pub(super) fn stop(&self) {
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            keeper.abort();
        }
    }

    /// Whether the server is a node of a cluster, which has only some of the keys.
    pub(super) fn is_of_cluster(&self) -> bool {
        self.is_of_cluster
    }

    /// Returns the server's availability.
    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Returns whether the server accepts changes.
    pub(super) fn changes(&self) -> &ChangeAcceptance {
        &self.changes
    }

    /// Returns the server's condition, for operators.
    pub(super) fn condition(&self) -> ServerCondition {
        let name = match &self.route {
            NodeRoute::To(address, _) if self.is_of_cluster => address.to_string(),
            _ => String::new(),
        };
        ServerCondition::of(name, &self.presence, &self.changes)
    }

    /// Returns the server's address, or none if sentinels name it.
    pub(super) fn address(&self) -> Option<&RedisAddress> {
        match &self.route {
            NodeRoute::To(address, _) => Some(address),
            NodeRoute::Master(..) => None,
        }
    }

    /// Sends all commands at once and returns a reply for each, some of which may be errors.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unavailable`] if nothing was sent, and [`StorageError::InDoubt`] if it is unknown whether the
    /// commands were executed. The reason has been logged.
    pub(super) async fn run(
        &self,
        pipeline: &Pipeline,
        deadline: Instant,
    ) -> Result<Vec<Value>, StorageError> {
        // The number of replies of a transaction differs, and the next pipeline would get those left over.
        debug_assert!(!pipeline.is_transaction());
        let given = deadline.saturating_duration_since(Instant::now());
        let epoch = self.presence.epoch().ok_or(StorageError::Unavailable)?;
        let Some((mut connection, _)) = self.connection() else {
            self.presence.lost(epoch, NO_CONNECTION);
            return Err(StorageError::Unavailable);
        };
        let replies = connection.send_packed_commands(pipeline, 0, pipeline.len());
        match timeout_at(deadline, replies).await {
            Ok(Ok(replies)) => {
                self.presence.seen();
                Ok(replies)
            }
            Ok(Err(error)) => {
                self.presence.lost(epoch, &error.to_string());
                Err(StorageError::InDoubt)
            }
            Err(_) => {
                self.presence.timed_out(epoch, given);
                Err(StorageError::InDoubt)
            }
        }
    }

    /// Sends all commands at once and returns a reply for each, some of which may be errors. Unlike [`Self::run`], a
    /// failure is returned and does not make the server unavailable.
    pub(super) async fn exchange(
        &self,
        pipeline: &Pipeline,
        limit: Duration,
    ) -> Result<Vec<Value>, ConnectError> {
        debug_assert!(!pipeline.is_transaction());
        let (mut connection, _) = self.connection().ok_or_else(|| ConnectError::temporary(NO_CONNECTION))?;
        let replies = connection.send_packed_commands(pipeline, 0, pipeline.len());
        match timeout(limit, replies).await {
            Ok(replies) => replies.map_err(|error| failure_of(&error)),
            Err(_) => Err(ConnectError::temporary(format!("{NO_ANSWER} within {} s", limit.as_secs()))),
        }
    }

    /// Returns an error if the sentinels name another master. A master that was replaced may still accept changes,
    /// which are lost.
    pub(super) async fn check_master(&self) -> Result<(), String> {
        if let NodeRoute::Master(sentinels, _) = &self.route
            && let Some((_, address)) = self.connection()
            && let Some(master) = sentinels.successor(&address).await
        {
            return Err(format!("the sentinels name another master, {master}"));
        }
        Ok(())
    }

    /// Whether the server has been connected to.
    pub(super) fn is_connected(&self) -> bool {
        self.connection().is_some()
    }

    fn connection(&self) -> Option<(RedisConnection, RedisAddress)> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a connection that has proved to work, and returns it with the server's address.
    async fn attempt(&self) -> Result<(RedisConnection, RedisAddress), ConnectError> {
        let (sentinels, access) = match &self.route {
            NodeRoute::To(address, access) => return self.connect_to(address.clone(), access).await,
            NodeRoute::Master(sentinels, access) => (sentinels, access),
        };
        let known = self.connection().map(|(_, address)| address);
        let votes = sentinels.votes(known.as_ref()).await;
        let connected = match (votes.majority().cloned(), known) {
            (Some(master), _) => self.connect_to(master, access).await,
            // No majority: the sentinels may be unavailable, but not the master. Accepting changes proves that it is
            // one.
            (None, Some(known)) => match self.connect_to(known, access).await {
                Ok(connected) => Ok(connected),
                Err(failure) => match sentinels.plurality(votes) {
                    Ok(master) => self.connect_to(master, access).await,
                    Err(_) => Err(failure),
                },
            },
            (None, None) => self.connect_to(sentinels.plurality(votes)?, access).await,
        };
        if connected.is_ok() {
            sentinels.found_master();
        }
        connected
    }

    async fn connect_to(
        &self,
        address: RedisAddress,
        access: &RedisLogin,
    ) -> Result<(RedisConnection, RedisAddress), ConnectError> {
        let mut connection = access.connect(&address).await?;
        if let NodeRole::Change(trial) = &self.role {
            // Without cluster support the error comes from CLUSTER SLOTS, which names the right URL.
            if self.is_of_cluster
                && let Err(failure) = try_commands(&mut connection, &[redis::cmd("ASKING")]).await
                && !failure.why.contains("cluster support disabled")
            {
                return Err(failure);
            }
            for commands in trial {
                try_commands(&mut connection, commands).await?;
            }
        }
        if !self.is_of_cluster && is_in_cluster(&mut connection, &self.role).await? {
            let why = format!("it is a node of a cluster: write DigestDB = redis+cluster://{address}");
            return Err(ConnectError::permanent(why));
        }
        Ok((connection, address))
    }
}

impl RemoteStore for RedisNode {
    fn presence(&self) -> &Presence {
        &self.presence
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let (mut connection, _) = self.connection().ok_or_else(|| NO_CONNECTION.to_owned())?;
            let renew = [probe_write()];
            // Concurrently, because slow sentinels must not make the server unavailable.
            let answer = async {
                let refused = try_commands(&mut connection, &renew).await.map_err(|failure| failure.why)?;
                self.presence.seen();
                match refused {
                    Some(why) => self.changes.trial_refused(&why),
                    None => self.changes.trial_accepted(),
                }
                Ok(())
            };
            let (answered, is_master) = join(answer, self.check_master()).await;
            answered.and(is_master)
        })
    }

    fn connect(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { self.open().await.map_err(|failure| failure.why) })
    }
}

impl Drop for RedisNode {
    fn drop(&mut self) {
        self.stop();
    }
}

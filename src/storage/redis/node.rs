//! One Redis server and the connection to it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join;
use redis::{Arg, Cmd, Pipeline, RedisError, Value};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::{RedisConnection, failure_of, in_words, refusal};
use super::record_form::{PROBE, renewal};
use super::refusal::RedisRefusal;
use super::sentinels::Sentinels;
use super::target::{RedisAddress, RedisLogin, RedisServers, RedisTarget};
use crate::storage::BoxFuture;
use crate::storage::remote::presence::{Presence, RemoteStore, keep};
use crate::storage::remote::start::ConnectError;

/// A server, by itself or of a cluster.
pub(super) struct RedisNode {
    route: NodeRoute,
    role: NodeRole,
    is_of_cluster: bool,
    presence: Presence,
    connection: Mutex<Option<(RedisConnection, RedisAddress)>>,
    keeper: Mutex<Option<AbortHandle>>,
}

/// What a server is wanted for.
#[derive(Clone)]
pub(super) enum NodeRole {
    /// To be read.
    Read,
    /// To be changed, for which it must accept these commands, some after others.
    Change(Vec<Vec<Cmd>>),
}

/// How the server is found.
enum NodeRoute {
    To(RedisAddress, RedisLogin),
    /// Whom the sentinels name.
    Master(Sentinels, RedisLogin),
}

impl RedisNode {
    /// The one server of a target; none for a cluster, which has many.
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

    /// One server of a cluster.
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

    /// Whether there are others, which have other keys.
    pub(super) fn is_of_cluster(&self) -> bool {
        self.is_of_cluster
    }

    /// What is known of the server.
    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Where it is; none where sentinels know it.
    pub(super) fn address(&self) -> Option<&RedisAddress> {
        match &self.route {
            NodeRoute::To(address, _) => Some(address),
            NodeRoute::Master(..) => None,
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
    pub(super) async fn exchange(
        &self,
        pipeline: &Pipeline,
        limit: Duration,
    ) -> Result<Vec<Value>, ConnectError> {
        debug_assert!(!pipeline.is_transaction());
        let (mut connection, _) =
            self.connection().ok_or_else(|| ConnectError::temporary("there is no connection"))?;
        let replies = connection.send_packed_commands(pipeline, 0, pipeline.len());
        match timeout(limit, replies).await {
            Ok(replies) => replies.map_err(|error| failure_of(&error)),
            Err(_) => Err(ConnectError::temporary(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// Fails if the sentinels name another master. One that was replaced goes on as if nothing had happened,
    /// and what it is told is lost.
    pub(super) async fn check_master(&self) -> Result<(), String> {
        if let NodeRoute::Master(sentinels, _) = &self.route
            && let Some((_, address)) = self.connection()
            && let Some(master) = sentinels.successor(&address).await
        {
            return Err(format!("the sentinels name another master, {master}"));
        }
        Ok(())
    }

    /// Whether there has been a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.connection().is_some()
    }

    fn connection(&self) -> Option<(RedisConnection, RedisAddress)> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection that has been seen to work, and to whom it is.
    async fn attempt(&self) -> Result<(RedisConnection, RedisAddress), ConnectError> {
        let (sentinels, access) = match &self.route {
            NodeRoute::To(address, access) => return self.connect_to(address.clone(), access).await,
            NodeRoute::Master(sentinels, access) => (sentinels, access),
        };
        let known = self.connection().map(|(_, address)| address);
        let votes = sentinels.votes(known.as_ref()).await;
        let connected = match (votes.majority().cloned(), known) {
            (Some(master), _) => self.connect_to(master, access).await,
            // The sentinels may have gone and the master not; that it takes changes shows that it is one.
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
            // A server that is in no cluster is told so when it is asked for its slots.
            if self.is_of_cluster
                && let Err(failure) = try_out(&mut connection, &[redis::cmd("ASKING")]).await
                && !failure.why.contains("cluster support disabled")
            {
                return Err(failure);
            }
            for commands in trial {
                try_out(&mut connection, commands).await?;
            }
        }
        if !self.is_of_cluster && has_others(&mut connection, &self.role).await? {
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
            let (mut connection, _) = self.connection().ok_or_else(|| "there is no connection".to_owned())?;
            let renew = [renewal()];
            // At the same time, since sentinels that take long say nothing of the server.
            let answer = async {
                try_out(&mut connection, &renew).await.map_err(|failure| failure.why)?;
                self.presence.seen();
                Ok(())
            };
            let (answered, followed) = join(answer, self.check_master()).await;
            answered.and(followed)
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

/// Tries commands. A refusal that is about the command, rather than about its key or about the moment, is
/// final and names it.
async fn try_out(connection: &mut RedisConnection, commands: &[Cmd]) -> Result<(), ConnectError> {
    let mut trial = Pipeline::with_capacity(commands.len());
    for command in commands {
        trial.add_command(command.clone());
    }
    let replies = connection.send_packed_commands(&trial, 0, commands.len()).await;
    for (command, reply) in commands.iter().zip(replies.map_err(|error| failure_of(&error))?) {
        let Value::ServerError(error) = reply else { continue };
        let meaning = RedisRefusal::of(&error);
        let is_stranger = error.code() == "NOAUTH";
        let why = in_words(&RedisError::from(error));
        match meaning {
            RedisRefusal::Forbidden if is_stranger => return Err(ConnectError::permanent(why)),
            RedisRefusal::Passing => return Err(ConnectError::temporary(why)),
            RedisRefusal::Forbidden | RedisRefusal::Other => {
                return Err(ConnectError::permanent(format!("{} is refused: {why}", name(command))));
            }
            RedisRefusal::ForbiddenKey => {
                let key = String::from_utf8_lossy(PROBE);
                return Err(ConnectError::permanent(format!(
                    "{} is refused for the key {key}: permit the account the keys pyzord.*",
                    name(command)
                )));
            }
            // The account may run it. What a server that looks up refuses is told with each refusal.
            _ => {}
        }
    }
    Ok(())
}

/// A command's name.
fn name(command: &Cmd) -> String {
    let is_name = |word: &&[u8]| word.iter().all(u8::is_ascii_uppercase);
    let words = command.args_iter().map_while(|argument| match argument {
        Arg::Simple(word) => Some(word),
        _ => None,
    });
    let words: Vec<_> = words.take(2).take_while(is_name).map(String::from_utf8_lossy).collect();
    words.join(" ")
}

/// Whether other servers have some of the keys, as in a cluster.
async fn has_others(connection: &mut RedisConnection, role: &NodeRole) -> Result<bool, ConnectError> {
    // Those of one slot say nothing of the others; so many are of as many slots all over the range.
    const KEYS: usize = 24;
    // The second needs a right that reading does not need, but does not change anything either.
    let is_read = matches!(role, NodeRole::Read);
    let command = if is_read { "EXISTS" } else { "PERSIST" };
    let mut probes = Pipeline::with_capacity(KEYS);
    for number in 0..KEYS {
        probes.cmd(command).arg([PROBE, format!(".{number}").as_bytes()].concat());
    }
    let replies = connection.send_packed_commands(&probes, 0, KEYS).await;
    let refused = |reply: &Value| match reply {
        // Who may not ask may still read.
        Value::ServerError(error) => !matches!(error.code(), "MOVED" | "ASK" | "NOPERM" | "CLUSTERDOWN"),
        _ => false,
    };
    if is_read
        && let Ok(replies) = &replies
        && let Some(reply) = replies.iter().find(|reply| refused(reply))
    {
        return Err(refusal(reply).unwrap_or_else(|| ConnectError::temporary("the server refuses")));
    }
    let is_elsewhere =
        |reply: &Value| matches!(reply, Value::ServerError(error) if matches!(error.code(), "MOVED" | "ASK"));
    Ok(replies.map_err(|error| failure_of(&error))?.iter().any(is_elsewhere))
}

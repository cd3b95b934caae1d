//! The vote of sentinels on the master of a service.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use redis::{Pipeline, Value, from_redis_value};
use tokio::net::lookup_host;
use tokio::time::timeout;
use tracing::warn;

use super::connection::failure_of;
use super::target::{RedisAddress, RedisLogin};
use crate::storage::remote::start::{ConnectError, NO_ANSWER};

/// Time limit for the answer of one sentinel, and for one name lookup.
const LIMIT: Duration = Duration::from_millis(300);
/// Maximum wait for a majority if no known master can be used.
const MAJORITY_LIMIT: Duration = Duration::from_secs(5);
/// Time for which the result of a name lookup is cached.
const NAMES_PERIOD: Duration = Duration::from_secs(5);

/// The sentinels of a service, and the results of earlier votes and name lookups.
pub(super) struct Sentinels {
    addresses: Vec<RedisAddress>,
    service: String,
    access: RedisLogin,
    /// The time since which no majority has named a master and no known one could be used.
    masterless_since: Mutex<Option<Instant>>,
    /// Whether two addresses of one sentinel have been logged.
    is_duplicate_logged: AtomicBool,
    /// Cache of name lookups, with their times.
    names: Mutex<HashMap<RedisAddress, (Instant, Vec<SocketAddr>)>>,
}

/// The votes of the sentinels.
pub(super) struct SentinelVotes {
    /// Each named master, with its number of votes.
    masters: Vec<(RedisAddress, usize)>,
    /// Number of sentinels, without addresses of a sentinel that has answered already.
    sentinels: usize,
    /// The reason why a sentinel does not vote.
    failure: Option<ConnectError>,
}

/// The answer of one sentinel.
struct SentinelAnswer {
    master: RedisAddress,
    /// The sentinel's id, the same under all its addresses; none before Redis 6.2 or if the account may not run
    /// `SENTINEL MYID`.
    id: Option<String>,
}

impl Sentinels {
    /// The sentinels of a service, not connected to yet.
    pub(super) fn new(addresses: Vec<RedisAddress>, service: String, access: RedisLogin) -> Self {
        Self {
            addresses,
            service,
            access,
            masterless_since: Mutex::default(),
            is_duplicate_logged: AtomicBool::new(false),
            names: Mutex::default(),
        }
    }

    /// Returns a master other than the present one, if more than half of all sentinels name it. A failover needs as
    /// many; fewer may be the smaller part of a split network.
    pub(super) async fn successor(&self, present: &RedisAddress) -> Option<RedisAddress> {
        let votes = self.votes(Some(present)).await;
        votes.majority().filter(|chosen| *chosen != present).cloned()
    }

    /// Returns the master with the most votes, after [`MAJORITY_LIMIT`] without a majority and without a known master
    /// that can be used.
    ///
    /// # Errors
    ///
    /// No master or several masters have the most votes, or [`MAJORITY_LIMIT`] has not passed.
    pub(super) fn plurality(&self, votes: SentinelVotes) -> Result<RedisAddress, ConnectError> {
        let waited = self.masterless_since().get_or_insert_with(Instant::now).elapsed();
        let most = votes.masters.iter().map(|(_, count)| *count).max();
        let named: Vec<_> = votes.masters.iter().filter(|(_, count)| Some(*count) == most).collect();
        let all = votes.sentinels;
        match (named.as_slice(), votes.failure) {
            ([], failure) => {
                Err(failure.unwrap_or_else(|| ConnectError::temporary("no sentinel names a master")))
            }
            ([(master, count)], _) if waited >= MAJORITY_LIMIT => {
                warn!(
                    "no majority of the sentinels names a master: trying {master}, which {count} of {all} name; repair \
                     the other sentinels, or remove them from DigestDB"
                );
                Ok(master.clone())
            }
            ([(master, count)], failure) => {
                let why = failure.map(|failure| format!("; {}", failure.why)).unwrap_or_default();
                Err(ConnectError::temporary(format!(
                    "only {count} of {all} sentinels name the master {master}{why}"
                )))
            }
            (several, _) => {
                let names: Vec<String> = several.iter().map(|(master, _)| master.to_string()).collect();
                Err(ConnectError::temporary(format!(
                    "the sentinels disagree: they name {}",
                    names.join(" and ")
                )))
            }
        }
    }

    /// Records that a master is in use, which ends the wait for a majority.
    pub(super) fn found_master(&self) {
        *self.masterless_since() = None;
    }

    fn masterless_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.masterless_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queries all sentinels at once, without waiting for those that cannot change the result. A sentinel with several
    /// addresses has one vote.
    pub(super) async fn votes(&self, present: Option<&RedisAddress>) -> SentinelVotes {
        let mut asked: FuturesUnordered<_> =
            self.addresses.iter().map(|sentinel| self.ask_in_time(sentinel)).collect();
        let mut votes = SentinelVotes { masters: Vec::new(), sentinels: self.addresses.len(), failure: None };
        let mut ids = HashSet::new();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(SentinelAnswer { id: Some(id), .. }) if !ids.insert(id.clone()) => {
                    votes.sentinels -= 1;
                    if !self.is_duplicate_logged.swap(true, Ordering::Relaxed) {
                        warn!(
                            "two sentinels of DigestDB have the same id {id} and only one vote: name each sentinel \
                             once, and give each its own id (sentinel myid)"
                        );
                    }
                }
                Ok(SentinelAnswer { master, .. }) => {
                    votes.add(&master, 1);
                    if votes.majority() == Some(&master) && present.is_none_or(|present| *present == master) {
                        return votes;
                    }
                }
                Err(why) => votes.failure = Some(why),
            }
        }
        self.merge_addresses(votes, present).await
    }

    /// Adds up the votes for one server under several addresses, because one sentinel may use a host name and another
    /// one the IP address. The present master keeps its address.
    async fn merge_addresses(&self, votes: SentinelVotes, present: Option<&RedisAddress>) -> SentinelVotes {
        let addresses: Vec<&RedisAddress> =
            present.into_iter().chain(votes.masters.iter().map(|(one, _)| one)).collect();
        if addresses.iter().all(|one| *one == addresses[0]) {
            return votes;
        }
        let resolved = join_all(addresses.iter().map(|address| self.resolved(address))).await;
        let known: Vec<(&RedisAddress, Vec<SocketAddr>)> = addresses.into_iter().zip(resolved).collect();
        let mut servers = SentinelVotes { masters: Vec::new(), ..votes };
        for (named, count) in &votes.masters {
            let of_named = known.iter().find(|(address, _)| *address == named).map(|(_, found)| found);
            let same = known.iter().find(|(address, found)| {
                *address == named || found.iter().any(|one| of_named.is_some_and(|named| named.contains(one)))
            });
            servers.add(same.map_or(named, |(address, _)| *address), *count);
        }
        // A name without an address cannot be connected to, and may be one of the present master: its votes are
        // ignored.
        let is_found = |named: &RedisAddress| {
            known.iter().any(|(address, found)| *address == named && !found.is_empty())
        };
        while let Some(place) =
            servers.masters.iter().position(|(named, _)| Some(named) != present && !is_found(named))
        {
            let (unknown, _) = servers.masters.swap_remove(place);
            servers.failure = Some(ConnectError::temporary(format!(
                "sentinels name {unknown}, which has no known address"
            )));
        }
        servers
    }

    async fn resolved(&self, address: &RedisAddress) -> Vec<SocketAddr> {
        let RedisAddress::Tcp(host, port) = address else { return Vec::new() };
        if let Ok(host) = host.parse::<IpAddr>() {
            return vec![SocketAddr::new(host, *port)];
        }
        if let Some((since, found)) = self.names().get(address)
            && since.elapsed() < NAMES_PERIOD
        {
            return found.clone();
        }
        let found = timeout(LIMIT, lookup_host((host.as_str(), *port))).await;
        let found: Vec<SocketAddr> =
            found.map_or_else(|_| Vec::new(), |found| found.into_iter().flatten().collect());
        self.names().insert(address.clone(), (Instant::now(), found.clone()));
        found
    }

    fn names(&self) -> MutexGuard<'_, HashMap<RedisAddress, (Instant, Vec<SocketAddr>)>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_in_time(&self, sentinel: &RedisAddress) -> Result<SentinelAnswer, ConnectError> {
        match timeout(LIMIT, self.ask(sentinel)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(failure)) => {
                Err(ConnectError { why: format!("the sentinel {sentinel}: {}", failure.why), ..failure })
            }
            Err(_) => Err(ConnectError::temporary(format!("the sentinel {sentinel}: {NO_ANSWER}"))),
        }
    }

    async fn ask(&self, sentinel: &RedisAddress) -> Result<SentinelAnswer, ConnectError> {
        let mut connection = self.access.connect(sentinel).await?;
        let mut questions = Pipeline::with_capacity(2);
        questions.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        questions.cmd("SENTINEL").arg("MYID");
        let answers = connection.send_packed_commands(&questions, 0, 2).await;
        let mut answers = answers.map_err(|error| failure_of(&error))?.into_iter();
        let mut next = || answers.next().unwrap_or(Value::Nil).extract_error();
        let master = next().and_then(|answer| Ok(from_redis_value::<Option<(String, u16)>>(answer)?));
        let id = next().and_then(|answer| Ok(from_redis_value::<String>(answer)?)).ok();
        let unknown = || ConnectError::temporary(format!("it does not know the service {}", self.service));
        let (host, port) = master.map_err(|error| failure_of(&error))?.ok_or_else(unknown)?;
        Ok(SentinelAnswer { master: RedisAddress::Tcp(host, port), id })
    }
}

impl SentinelVotes {
    /// Returns the master that more than half of all sentinels name. Those that do not answer count as sentinels.
    pub(super) fn majority(&self) -> Option<&RedisAddress> {
        self.masters.iter().find(|(_, count)| count * 2 > self.sentinels).map(|(master, _)| master)
    }

    fn add(&mut self, named: &RedisAddress, count: usize) {
        match self.masters.iter_mut().find(|(master, _)| master == named) {
            Some((_, known)) => *known += count,
            None => self.masters.push((named.clone(), count)),
        }
    }
}

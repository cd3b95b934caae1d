//! Which server is the master of a service, according to its sentinels.

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
use crate::storage::remote::start::ConnectError;

/// How long one sentinel may take to answer, and a name to be looked up.
const LIMIT: Duration = Duration::from_millis(300);
/// How long a majority is waited for where no known master can be used.
const MAJORITY_LIMIT: Duration = Duration::from_secs(5);
/// How long it is known which addresses a name has, or that it has none.
const KNOWN: Duration = Duration::from_secs(5);

/// Sentinels of a service.
pub(super) struct Sentinels {
    addresses: Vec<RedisAddress>,
    service: String,
    access: RedisLogin,
    /// Since when no majority has named a master and no known one could be used.
    masterless_since: Mutex<Option<Instant>>,
    /// Whether it has been logged that two addresses are those of one sentinel.
    is_duplicate_logged: AtomicBool,
    names: Mutex<HashMap<RedisAddress, (Instant, Vec<SocketAddr>)>>,
}

/// The answers of the sentinels.
pub(super) struct SentinelVotes {
    /// Each master that is named, and how many sentinels name it.
    masters: Vec<(RedisAddress, usize)>,
    /// How many sentinels there are, as far as is known.
    sentinels: usize,
    /// Why one of them names none.
    failure: Option<ConnectError>,
}

/// The answer of one sentinel.
struct SentinelAnswer {
    master: RedisAddress,
    /// The sentinel's own name, which is the same under all of its addresses; none before Redis 6.2 or where the
    /// account may not ask.
    id: Option<String>,
}

impl Sentinels {
    /// Sentinels at these addresses, which are to know this service.
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

    /// Another master than the present one, if more than half of all sentinels name it. Redis itself needs as many
    /// to replace a master; fewer may be what is left of a network that is cut.
    pub(super) async fn successor(&self, present: &RedisAddress) -> Option<RedisAddress> {
        let votes = self.votes(Some(present)).await;
        votes.majority().filter(|chosen| *chosen != present).cloned()
    }

    /// The master that most of the sentinels that answer name, once [`MAJORITY_LIMIT`] has passed without a majority
    /// and without a known master that can be used.
    ///
    /// # Errors
    ///
    /// They name none or several, or it has not been so long.
    pub(super) fn plurality(&self, votes: SentinelVotes) -> Result<RedisAddress, ConnectError> {
        let waited = self.masterless_since().get_or_insert_with(Instant::now).elapsed();
        let most = votes.masters.iter().map(|(_, count)| *count).max();
        let named: Vec<_> = votes.masters.iter().filter(|(_, count)| Some(*count) == most).collect();
        let all = votes.sentinels;
        match (named.as_slice(), votes.failure) {
            ([], failure) => Err(failure.unwrap_or_else(|| ConnectError::temporary("there is no sentinel"))),
            ([(master, count)], _) if waited >= MAJORITY_LIMIT => {
                warn!(
                    "{count} of {all} sentinels name the master {master}, and no majority any: it is tried; see to \
                     the other sentinels, or take them out of DigestDB"
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

    /// Takes note that a master is in use, so that the wait for a majority begins anew without one.
    pub(super) fn found_master(&self) {
        *self.masterless_since() = None;
    }

    fn masterless_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.masterless_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks all sentinels at once. Those that hang are not waited for where they cannot change anything. A sentinel
    /// with several addresses has one vote.
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
                            "two sentinels of DigestDB have the id {id}, and one vote: name each sentinel once, and let each \
                             have an id of its own (sentinel myid)"
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
        self.one_for_each_server(votes, present).await
    }

    /// Adds up what is said of one server under several addresses: a sentinel may tell its name and another one its
    /// IP address. The present master stays what it is called.
    async fn one_for_each_server(
        &self,
        votes: SentinelVotes,
        present: Option<&RedisAddress>,
    ) -> SentinelVotes {
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
        // What cannot be looked up cannot be connected to either, and may be a name of the present master.
        let is_found = |named: &RedisAddress| {
            known.iter().any(|(address, found)| *address == named && !found.is_empty())
        };
        while let Some(place) =
            servers.masters.iter().position(|(named, _)| Some(named) != present && !is_found(named))
        {
            let (unknown, _) = servers.masters.swap_remove(place);
            servers.failure =
                Some(ConnectError::temporary(format!("they name {unknown}, which has no known address")));
        }
        servers
    }

    async fn resolved(&self, address: &RedisAddress) -> Vec<SocketAddr> {
        let RedisAddress::Tcp(host, port) = address else { return Vec::new() };
        if let Ok(host) = host.parse::<IpAddr>() {
            return vec![SocketAddr::new(host, *port)];
        }
        if let Some((since, found)) = self.names().get(address)
            && since.elapsed() < KNOWN
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
            Err(_) => Err(ConnectError::temporary(format!("the sentinel {sentinel} does not answer"))),
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
        let unknown = || ConnectError::temporary(format!("it knows no master of {}", self.service));
        let (host, port) = master.map_err(|error| failure_of(&error))?.ok_or_else(unknown)?;
        Ok(SentinelAnswer { master: RedisAddress::Tcp(host, port), id })
    }
}

impl SentinelVotes {
    /// The master that more than half of all sentinels name, those that do not answer included.
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

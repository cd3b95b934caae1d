//! Which server is the master of a service, according to its sentinels.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::lookup_host;
use tokio::time::timeout;
use tracing::warn;

use super::connection::failure_of;
use super::target::{RedisAddress, RedisLogin};
use crate::storage::remote::start::ConnectError;

/// How long one sentinel may take to answer, and a name to be looked up.
const LIMIT: Duration = Duration::from_millis(300);
/// How long a majority is waited for where no master is in use.
const MAJORITY_LIMIT: Duration = Duration::from_secs(5);
/// How long it is known which addresses a name has, or that it has none.
const KNOWN: Duration = Duration::from_secs(5);

/// Sentinels of a service.
pub(super) struct Sentinels {
    addresses: Vec<RedisAddress>,
    service: String,
    access: RedisLogin,
    /// Since when they have been asked for a master without a majority for any.
    undecided: Mutex<Option<Instant>>,
    names: Mutex<HashMap<RedisAddress, (Instant, Vec<SocketAddr>)>>,
}

/// What the sentinels say.
struct SentinelVotes {
    /// Each master that is named, and how often.
    masters: Vec<(RedisAddress, usize)>,
    /// Why one of them names none.
    failure: Option<ConnectError>,
}

impl Sentinels {
    /// Sentinels at these addresses, which are to know this service.
    pub(super) fn new(addresses: Vec<RedisAddress>, service: String, access: RedisLogin) -> Self {
        Self { addresses, service, access, undecided: Mutex::default(), names: Mutex::default() }
    }

    /// Another master than the present one, if more than half of all sentinels name it. Redis itself needs as many
    /// to replace a master; fewer may be what is left of a network that is cut.
    pub(super) async fn successor(&self, present: &RedisAddress) -> Option<RedisAddress> {
        let votes = self.votes(Some(present)).await;
        self.chosen(&votes).filter(|chosen| *chosen != present).cloned()
    }

    /// The master to connect to: the one that more than half of all sentinels name. Where there has been none for
    /// a while, and no master is known, the one that most of those that answer name.
    pub(super) async fn master(&self, present: Option<&RedisAddress>) -> Result<RedisAddress, ConnectError> {
        let votes = self.votes(present).await;
        let chosen = self.chosen(&votes).cloned();
        let waited = self.undecided_for(chosen.is_some());
        if let Some(chosen) = chosen {
            return Ok(chosen);
        }
        let most = votes.masters.iter().map(|(_, count)| *count).max();
        let named: Vec<_> = votes.masters.iter().filter(|(_, count)| Some(*count) == most).collect();
        let all = self.addresses.len();
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

    /// The one with a majority. A name that nothing is known of is that of no other server.
    fn chosen<'a>(&self, votes: &'a SentinelVotes) -> Option<&'a RedisAddress> {
        votes.masters.iter().find(|(_, count)| self.is_majority(*count)).map(|(master, _)| master)
    }

    fn is_majority(&self, count: usize) -> bool {
        count * 2 > self.addresses.len()
    }

    /// How long there has been no majority.
    fn undecided_for(&self, is_decided: bool) -> Duration {
        let mut undecided = self.undecided.lock().unwrap_or_else(PoisonError::into_inner);
        if is_decided {
            *undecided = None;
            return Duration::ZERO;
        }
        undecided.get_or_insert_with(Instant::now).elapsed()
    }

    /// Asks all sentinels at once. Those that hang are not waited for where they cannot change anything.
    async fn votes(&self, present: Option<&RedisAddress>) -> SentinelVotes {
        let mut asked: FuturesUnordered<_> =
            self.addresses.iter().map(|sentinel| self.ask_in_time(sentinel)).collect();
        let mut votes = SentinelVotes { masters: Vec::new(), failure: None };
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(named) => {
                    let count = votes.add(&named, 1);
                    if self.is_majority(count) && present.is_none_or(|present| *present == named) {
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
        let mut servers = SentinelVotes { masters: Vec::new(), failure: votes.failure };
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

    async fn ask_in_time(&self, sentinel: &RedisAddress) -> Result<RedisAddress, ConnectError> {
        match timeout(LIMIT, self.ask(sentinel)).await {
            Ok(Ok(master)) => Ok(master),
            Ok(Err(failure)) => {
                Err(ConnectError { why: format!("the sentinel {sentinel}: {}", failure.why), ..failure })
            }
            Err(_) => Err(ConnectError::temporary(format!("the sentinel {sentinel} does not answer"))),
        }
    }

    async fn ask(&self, sentinel: &RedisAddress) -> Result<RedisAddress, ConnectError> {
        let mut connection = self.access.connect(sentinel).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        let answer: Option<(String, u16)> =
            question.query_async(&mut *connection).await.map_err(|error| failure_of(&error))?;
        let unknown = || ConnectError::temporary(format!("it knows no master of {}", self.service));
        answer.map(|(host, port)| RedisAddress::Tcp(host, port)).ok_or_else(unknown)
    }
}

impl SentinelVotes {
    /// Counts for a master, and says how many name it now.
    fn add(&mut self, named: &RedisAddress, count: usize) -> usize {
        if let Some((_, known)) = self.masters.iter_mut().find(|(master, _)| master == named) {
            *known += count;
            return *known;
        }
        self.masters.push((named.clone(), count));
        count
    }
}

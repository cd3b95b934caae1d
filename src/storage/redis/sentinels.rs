//! Which server is the master of a service, according to its sentinels.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::connection::failure_of;
use super::place::{Access, Address};
use crate::storage::start::Failure;

/// How long one sentinel may take to answer, and a name to be looked up.
const LIMIT: Duration = Duration::from_millis(300);

/// Sentinels of a service.
pub(super) struct Sentinels {
    pub(super) addresses: Vec<Address>,
    pub(super) service: String,
    pub(super) access: Access,
}

impl Sentinels {
    /// The master that most of those that answer name; the present one where several are named equally often,
    /// since any of the sentinels may be cut off from the others.
    pub(super) async fn master(&self, present: Option<&Address>) -> Result<Address, Failure> {
        let mut asked: FuturesUnordered<_> =
            self.addresses.iter().map(|sentinel| self.ask_in_time(sentinel)).collect();
        let mut votes: Vec<(Address, usize)> = Vec::new();
        let mut failure = Failure::passing("there is no sentinel");
        while let Some(answer) = asked.next().await {
            let named = match answer {
                Ok(named) => named,
                Err(why) => {
                    failure = why;
                    continue;
                }
            };
            let mut count = 1;
            match find(&mut votes, &named).await {
                Some(known) => {
                    *known += 1;
                    count = *known;
                }
                None => votes.push((named.clone(), 1)),
            }
            // Those that hang are not waited for where they cannot change anything.
            if count * 2 > self.addresses.len() {
                return Ok(named);
            }
        }
        let most = votes.iter().map(|(_, count)| *count).max();
        votes.retain(|(_, count)| Some(*count) == most);
        match (votes.as_slice(), present) {
            ([], _) => Err(failure),
            ([(master, _)], _) => Ok(master.clone()),
            (_, Some(present)) => Ok(present.clone()),
            (several, None) => {
                let names: Vec<String> = several.iter().map(|(master, _)| master.to_string()).collect();
                Err(Failure::passing(format!("the sentinels disagree: they name {}", names.join(" and "))))
            }
        }
    }

    async fn ask_in_time(&self, sentinel: &Address) -> Result<Address, Failure> {
        match timeout(LIMIT, self.ask(sentinel)).await {
            Ok(Ok(master)) => Ok(master),
            Ok(Err(failure)) => {
                Err(Failure { why: format!("the sentinel {sentinel}: {}", failure.why), ..failure })
            }
            Err(_) => Err(Failure::passing(format!("the sentinel {sentinel} does not answer"))),
        }
    }

    async fn ask(&self, sentinel: &Address) -> Result<Address, Failure> {
        let mut connection = self.access.connect(sentinel).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        let answer: Option<(String, u16)> =
            question.query_async(&mut *connection).await.map_err(|error| failure_of(&error))?;
        let unknown = || Failure::passing(format!("it knows no master of {}", self.service));
        answer.map(|(host, port)| Address::Tcp(host, port)).ok_or_else(unknown)
    }
}

/// How often a server has been named, under whatever address.
async fn find<'a>(votes: &'a mut [(Address, usize)], named: &Address) -> Option<&'a mut usize> {
    for (known, count) in votes {
        if is_same(known, named).await {
            return Some(count);
        }
    }
    None
}

/// Whether two addresses are of one server: a sentinel may tell its name and another one its IP address.
pub(super) async fn is_same(one: &Address, other: &Address) -> bool {
    one == other || {
        let (one, other) = (resolved(one).await, resolved(other).await);
        one.iter().any(|address| other.contains(address))
    }
}

async fn resolved(address: &Address) -> Vec<SocketAddr> {
    let Address::Tcp(host, port) = address else { return Vec::new() };
    // What cannot be looked up is only what it is called.
    let found = timeout(LIMIT, lookup_host((host.as_str(), *port))).await;
    found.map_or_else(|_| Vec::new(), |found| found.into_iter().flatten().collect())
}

//! Discovery of the servers at startup, surveys of a cluster, and a check for keys that the engine does not serve.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use super::core::RedisCore;
use super::node::{NodeRole, RedisNode};
use super::target::{RedisAddress, RedisLogin, RedisServers, RedisTarget};
use super::topology::{SlotShares, Topology, shares};
use crate::storage::EngineOpenError;
use crate::storage::remote::presence::LIMIT;
use crate::storage::remote::start::{ConnectError, NO_ANSWER, connect_when_ready};

/// Interval of surveys of a cluster.
const SURVEY_PERIOD: Duration = Duration::from_secs(60);
/// Interval of checks for a reason to survey earlier.
const SURVEY_STEP: Duration = Duration::from_millis(250);
/// Number of nodes that are queried in a survey.
const ASKED_NODES: usize = 5;
/// Time limit for the answer of one node.
const SEED_LIMIT: Duration = Duration::from_millis(800);
/// Number of pages of keys that are checked at startup.
const SAMPLE_PAGES: usize = 100;
/// Number of keys in a page.
const SAMPLE_PAGE: usize = 1000;
/// Pause after a page, so that the server can execute other commands.
const SAMPLE_PAUSE: Duration = Duration::from_millis(5);
/// Prefix of the keys of the engine `redis_v0`.
const DEPRECATED_PREFIX: &str = "pyzord.digest.";

/// Finds all servers of a target, and waits for them if necessary. Also returns whether they are a cluster.
pub(super) async fn open(target: &RedisTarget, role: &NodeRole) -> Result<(Topology, bool), EngineOpenError> {
    let name = format!("the Redis of {}", target.describe());
    match RedisNode::of_target(target, role) {
        Some(node) => {
            connect_when_ready(&name, || node.open()).await?;
            node.keep(None);
            Ok((Topology::one(node), false))
        }
        None => {
            let topology = connect_when_ready(&name, || first_survey(target, role)).await?;
            Ok((topology, true))
        }
    }
}

/// Queries a configured node, and connects to all nodes that it lists.
async fn first_survey(target: &RedisTarget, role: &NodeRole) -> Result<Topology, ConnectError> {
    let (node, shares) = ask_seeds(target, role).await?;
    let known = |address: &RedisAddress| known_or_new(address, Some(&node), &target.access, role);
    let topology = Topology::cluster(&shares, known);
    connect(topology.nodes()).await;
    Ok(topology)
}

/// Returns the first configured node that answers, and the owners of slots that it lists.
pub(super) async fn ask_seeds(
    target: &RedisTarget,
    role: &NodeRole,
) -> Result<(Arc<RedisNode>, SlotShares), ConnectError> {
    let RedisServers::Cluster(seeds) = &target.servers else {
        return Err(ConnectError::permanent("it is not a cluster"));
    };
    let ask = |seed: RedisAddress| {
        let node = RedisNode::of_cluster(seed.clone(), &target.access, role);
        async move {
            let asked = async {
                node.open().await?;
                shares(&node, Instant::now() + SEED_LIMIT).await
            };
            let failure = match timeout(SEED_LIMIT, asked).await {
                Ok(Ok(shares)) => return Ok((Arc::clone(&node), shares)),
                Ok(Err(failure)) => failure,
                Err(_) => ConnectError::temporary(NO_ANSWER),
            };
            Err(ConnectError { why: format!("{seed}: {}", failure.why), ..failure })
        }
    };
    select_ok(seeds.iter().map(|seed| Box::pin(ask(seed.clone())))).await.map(|(answer, _)| answer)
}

/// Connects to all nodes that are not connected yet, and starts the tasks that keep them connected.
async fn connect(nodes: &[Arc<RedisNode>]) {
    let attempts = nodes.iter().map(|node| async move {
        let unreachable = match timeout(LIMIT, async {
            if node.is_connected() { Ok(()) } else { node.open().await }
        })
        .await
        {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure.why),
            Err(_) => Some(NO_ANSWER.to_owned()),
        };
        node.keep(unreachable.as_deref());
    });
    join_all(attempts).await;
}

fn known_or_new(
    address: &RedisAddress,
    known: Option<&Arc<RedisNode>>,
    access: &RedisLogin,
    role: &NodeRole,
) -> Arc<RedisNode> {
    match known {
        Some(node) if node.address() == Some(address) => Arc::clone(node),
        _ => RedisNode::of_cluster(address.clone(), access, role),
    }
}

/// Surveys a cluster regularly, and soon if a node is unavailable or has referred to another one.
pub(super) async fn keep(shared: Arc<RedisCore>) {
    let mut next = Instant::now() + SURVEY_PERIOD;
    let mut logged: Option<String> = None;
    loop {
        let asked = timeout(SURVEY_STEP, shared.stale.notified()).await.is_ok();
        let topology = shared.topology.load_full();
        let missing = topology.nodes().iter().any(|node| node.presence().epoch().is_none());
        if !asked && !missing && Instant::now() < next {
            continue;
        }
        let refused = survey(&shared, &topology).await.err().filter(|failure| failure.is_permanent);
        let why = refused.map(|failure| failure.why);
        if let Some(why) = &why
            && logged.as_ref() != Some(why)
        {
            error!(
                "the Redis Cluster does not list the owners of its slots: {why}; until it does, moved slots are found \
                 only by referral"
            );
        }
        logged = why;
        next = Instant::now() + SURVEY_PERIOD;
        // One survey serves all requests that were referred meanwhile.
        tokio::time::sleep(SURVEY_STEP / 5).await;
    }
}

async fn survey(shared: &RedisCore, topology: &Topology) -> Result<(), ConnectError> {
    let shares = ask_some(shared, topology).await?;
    let known = |address: &RedisAddress| {
        let known = shared.node_at(address);
        known_or_new(address, known.as_ref(), &shared.target.access, &shared.role())
    };
    let found = Topology::cluster(&shares, known);
    if !found.is_like(topology) {
        let is_new = |node: &&Arc<RedisNode>| !topology.nodes().iter().any(|known| Arc::ptr_eq(known, node));
        let new: Vec<Arc<RedisNode>> = found.nodes().iter().filter(is_new).cloned().collect();
        connect(&new).await;
        let names = |topology: &Topology| {
            topology.nodes().iter().filter_map(|node| node.address()).map(ToString::to_string).collect()
        };
        let (before, now): (BTreeSet<String>, BTreeSet<String>) = (names(topology), names(&found));
        if before != now {
            info!("The Redis Cluster's nodes are now {}", now.into_iter().collect::<Vec<_>>().join(", "));
        }
        shared.topology.store(Arc::new(found));
    }
    // Nodes that own slots are in the topology now; any other is found again by the next referral.
    shared.referred_nodes().clear();
    shared.unnamed().clear();
    Ok(())
}

/// Queries some available nodes, and returns the owners of slots that most of them list, because a node that is cut off
/// from the cluster lists former owners. If no node answers, queries a configured node: the whole cluster may have
/// moved.
async fn ask_some(shared: &RedisCore, topology: &Topology) -> Result<SlotShares, ConnectError> {
    let present = topology.nodes().iter().filter(|node| node.presence().epoch().is_some());
    let asked = present.take(ASKED_NODES).map(|node| shares(node, Instant::now() + SEED_LIMIT));
    let mut views: Vec<(SlotShares, usize)> = Vec::new();
    let mut refused = None;
    for answer in join_all(asked).await {
        match answer {
            Ok(mut shares) => {
                shares.sort_unstable();
                match views.iter_mut().find(|(known, _)| *known == shares) {
                    Some((_, count)) => *count += 1,
                    None => views.push((shares, 1)),
                }
            }
            Err(failure) => refused = refused.or(Some(failure).filter(|failure| failure.is_permanent)),
        }
    }
    // On a tie, the first answer counts.
    if let Some((shares, _)) = views.into_iter().rev().max_by_key(|(_, count)| *count) {
        return Ok(shares);
    }
    match (ask_seeds(&shared.target, &shared.role()).await, refused) {
        (Ok((_, shares)), _) => Ok(shares),
        (Err(_), Some(refused)) => Err(refused),
        (Err(failure), None) => Err(failure),
    }
}

/// Checks a sample of the keys, and logs if there are some that this engine does not serve.
pub(super) async fn look_for_foreign_keys(shared: Arc<RedisCore>) {
    let place = shared.target.describe();
    let deprecated = match shared.form.prefix() == DEPRECATED_PREFIX {
        true => 0,
        false => sample(&shared, DEPRECATED_PREFIX, |_| true).await,
    };
    if deprecated > 0 {
        let problem = format!("You have {deprecated} records in the deprecated version of the redis engine.");
        error!(critical = true, "{problem}");
        error!(
            critical = true,
            "Please migrate the records with: 'pyzor-migrate --delete --se=redis_v0 --sd=<dsn> --de=redis --dd=<dsn>', \
             both being the DigestDB of this server"
        );
        shared.findings.problem(&problem);
    }
    let foreign =
        sample(&shared, shared.form.prefix(), |key| !is_digest(shared.form.without_prefix(key))).await;
    if foreign > 0 {
        let problem = format!(
            "the database {place} has keys that are not lower-case digests, {foreign} of those checked, which are \
             ignored: migrate to another database with pyzor-migrate to repair, merge or skip them"
        );
        warn!("{problem}");
        shared.findings.problem(&problem);
    }
}

fn is_digest(key: &[u8]) -> bool {
    pyzor_wire::digest::Digest::from_hex(key).is_some_and(|digest| digest.to_hex() == key)
}

/// Counts the keys that match, among the first ones with a prefix.
async fn sample(shared: &RedisCore, prefix: &str, is_match: impl Fn(&[u8]) -> bool) -> usize {
    let topology = shared.topology.load_full();
    let mut count = 0;
    for node in topology.nodes() {
        let mut cursor = "0".to_owned();
        for _ in 0..SAMPLE_PAGES / topology.nodes().len().max(1) {
            let page = shared.scan_keys(node, prefix, &cursor, SAMPLE_PAGE, Instant::now() + LIMIT).await;
            let Ok((next, keys)) = page else { return count };
            count += keys.iter().filter(|key| is_match(key)).count();
            if next == "0" {
                break;
            }
            cursor = next;
            tokio::time::sleep(SAMPLE_PAUSE).await;
        }
    }
    count
}

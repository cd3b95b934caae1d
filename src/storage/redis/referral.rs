//! Referrals of cluster nodes to other nodes (`MOVED` and `ASK`).

use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::core::RedisCore;
use super::node::RedisNode;
use super::target::RedisAddress;
use crate::storage::remote::start::NO_ANSWER;

/// Time to connect to a node that another one refers to.
const REFERRED_NODE_LIMIT: Duration = Duration::from_millis(300);
/// Time for which the address of a node without a name is cached.
const UNNAMED_PERIOD: Duration = Duration::from_secs(1);

/// The node to which a `MOVED` or `ASK` error refers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Referral {
    To(RedisAddress),
    /// The owner of this slot, whose host name is not configured (`?`).
    Unnamed(usize),
}

/// Parses the `slot host:port` of an error from `node`. An empty host is the host of `node`; `?` is a node that should
/// have a host name (`cluster-preferred-endpoint-type`) and has none.
pub(super) fn parse_referral(text: &str, node: &RedisNode) -> Option<Referral> {
    let (slot, address) = text.split_once(' ')?;
    let (host, port) = address.rsplit_once(':')?;
    let host = match (host, node.address()?) {
        ("?", _) => return Some(Referral::Unnamed(slot.parse().ok()?)),
        ("", RedisAddress::Tcp(own, _)) => own.clone(),
        (host, _) => host.to_owned(),
    };
    Some(Referral::To(RedisAddress::Tcp(host, port.parse().ok()?)))
}

/// The command that lists all nodes and their slots.
pub(super) fn ask_nodes() -> Pipeline {
    let mut question = redis::pipe();
    question.cmd("CLUSTER").arg("NODES");
    question
}

/// Returns the address of a node without a host name, to which `slot` is moving (`asking`) or belongs, according to the
/// reply of the referring node to [`ask_nodes`].
pub(super) fn unnamed_address(replies: &[Value], slot: usize, asking: bool) -> Option<RedisAddress> {
    match replies {
        [Value::BulkString(nodes)] => owner_of_slot(std::str::from_utf8(nodes).ok()?, slot, asking),
        _ => None,
    }
}

/// Finds the owner of a slot in the lines of `CLUSTER NODES`, which are
/// `id ip:port@bus,host flags master ping pong epoch link slots…`.
fn owner_of_slot(nodes: &str, slot: usize, asking: bool) -> Option<RedisAddress> {
    let lines: Vec<Vec<&str>> = nodes.lines().map(|line| line.split(' ').collect()).collect();
    let is_own =
        |line: &&Vec<&str>| line.get(2).is_some_and(|flags| flags.split(',').any(|flag| flag == "myself"));
    let slots = |line: &Vec<&str>| line.iter().skip(8).map(|slots| (*slots).to_owned()).collect::<Vec<_>>();
    let found = if asking {
        let prefix = format!("[{slot}->-");
        let own = slots(lines.iter().find(is_own)?);
        let id = own.iter().find_map(|entry| entry.strip_prefix(&prefix)?.strip_suffix(']'))?;
        lines.iter().find(|line| line[0] == id)
    } else {
        let has = |entry: &String| {
            let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
            let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else { return false };
            (first..=last).contains(&slot)
        };
        lines.iter().filter(|line| !is_own(line)).find(|line| slots(line).iter().any(has))
    };
    let (host, port) = found?.get(1)?.split('@').next()?.rsplit_once(':')?;
    Some(RedisAddress::Tcp(host.to_owned(), port.parse().ok()?))
}

impl RedisCore {
    /// Returns a connected node for a referral of `from`. With `asking` the referral is an `ASK`, otherwise a `MOVED`,
    /// which also triggers a survey.
    pub(super) async fn follow(
        &self,
        from: &RedisNode,
        details: Option<&str>,
        asking: bool,
        deadline: Instant,
    ) -> Option<Arc<RedisNode>> {
        if !asking {
            self.stale.notify_one();
        }
        let address = match parse_referral(details?, from)? {
            Referral::To(address) => address,
            Referral::Unnamed(slot) => self.unnamed_address(from, slot, asking, deadline).await?,
        };
        match self.node_at(&address) {
            Some(node) => Some(node),
            None => self.connect_referred(address, deadline).await,
        }
    }

    /// Asks `from` for the address of a node without a host name, or takes it from the cache.
    async fn unnamed_address(
        &self,
        from: &RedisNode,
        slot: usize,
        asking: bool,
        deadline: Instant,
    ) -> Option<RedisAddress> {
        let question = (from.address()?.clone(), slot, asking);
        if let Some((since, known)) = self.unnamed().get(&question)
            && since.elapsed() < UNNAMED_PERIOD
        {
            return Some(known.clone());
        }
        let replies = from.run(&ask_nodes(), deadline).await.ok()?;
        let found = unnamed_address(&replies, slot, asking);
        if found.is_none() {
            self.refusals.refused(
                "a node refers to one without a host name, and CLUSTER NODES does not list its address",
            );
        }
        self.unnamed().insert(question, (Instant::now(), found.clone()?));
        found
    }

    /// Connects to a node that has just joined the cluster. If that fails, the node is kept as unavailable, so that not
    /// every digest tries it. The next survey takes over.
    async fn connect_referred(&self, address: RedisAddress, deadline: Instant) -> Option<Arc<RedisNode>> {
        let node = RedisNode::of_cluster(address, &self.target.access, &self.role());
        let limit = deadline.min(Instant::now() + REFERRED_NODE_LIMIT);
        let unreachable = match tokio::time::timeout_at(limit, node.open()).await {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure.why),
            Err(_) => Some(NO_ANSWER.to_owned()),
        };
        node.keep(unreachable.as_deref());
        self.referred_nodes().push(Arc::clone(&node));
        unreachable.is_none().then_some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::NodeRole;
    use super::super::target::RedisLogin;
    use super::*;

    #[test]
    fn referral_is_parsed() {
        let node = RedisNode::of_cluster(
            RedisAddress::Tcp("own".to_owned(), 1),
            &RedisLogin::default(),
            &NodeRole::Read,
        );
        assert_eq!(
            parse_referral("3999 h:7", &node),
            Some(Referral::To(RedisAddress::Tcp("h".to_owned(), 7)))
        );
        assert_eq!(
            parse_referral("3999 :7", &node),
            Some(Referral::To(RedisAddress::Tcp("own".to_owned(), 7)))
        );
        assert_eq!(parse_referral("3999 ?:7", &node), Some(Referral::Unnamed(3999)));
        assert_eq!(
            parse_referral("3999 ::1:7", &node),
            Some(Referral::To(RedisAddress::Tcp("::1".to_owned(), 7)))
        );
        assert_eq!(parse_referral("rubbish", &node), None);
    }

    #[test]
    fn node_without_a_host_name_is_found_by_its_slot() {
        let nodes = "a 10.0.0.1:7@17,h myself,master - 0 0 1 connected 0-4 9 [3->-c] [5-<-b]\n\
                     b 10.0.0.2:7@17 master - 0 0 2 connected 5-8\n\
                     c ::1:8@18 master - 0 0 3 connected\n";
        let at = |host: &str, port| Some(RedisAddress::Tcp(host.to_owned(), port));
        assert_eq!(owner_of_slot(nodes, 3, true), at("::1", 8));
        assert_eq!(owner_of_slot(nodes, 5, true), None);
        assert_eq!(owner_of_slot(nodes, 5, false), at("10.0.0.2", 7));
        assert_eq!(owner_of_slot(nodes, 9, false), None);
        assert_eq!(owner_of_slot("rubbish", 9, true), None);
    }
}

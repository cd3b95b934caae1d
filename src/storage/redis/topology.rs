//! Which server has which keys.

use std::sync::Arc;

use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::connection::refusal;
use super::node::RedisNode;
use super::target::RedisAddress;
use crate::storage::remote::start::ConnectError;

/// Into so many slots a cluster divides its keys.
pub(super) const SLOTS: usize = 16_384;

/// All servers, and what each of them has.
pub(super) struct Topology {
    nodes: Vec<Arc<RedisNode>>,
    /// For each slot the place in `nodes`; empty where one server has everything.
    slots: Vec<Option<u16>>,
}

/// Ranges of slots and who has them, as a node tells them.
pub(super) type SlotShares = Vec<(usize, usize, RedisAddress)>;

impl Topology {
    /// One server, which has everything.
    pub(super) fn one(node: Arc<RedisNode>) -> Self {
        Self { nodes: vec![node], slots: Vec::new() }
    }

    /// A cluster of those who have a share. Nodes that are known already are used further.
    pub(super) fn cluster(shares: &SlotShares, known: impl Fn(&RedisAddress) -> Arc<RedisNode>) -> Self {
        let mut topology = Self { nodes: Vec::new(), slots: vec![None; SLOTS] };
        for (first, last, address) in shares {
            let has = |node: &Arc<RedisNode>| node.address() == Some(address);
            let place = topology.nodes.iter().position(has).unwrap_or_else(|| {
                topology.nodes.push(known(address));
                topology.nodes.len() - 1
            });
            // No cluster has more nodes than slots.
            let place = u16::try_from(place).ok();
            if let Some(range) = topology.slots.get_mut(*first..=*last) {
                range.fill(place);
            }
        }
        topology
    }

    /// All servers.
    pub(super) fn nodes(&self) -> &[Arc<RedisNode>] {
        &self.nodes
    }

    /// The server of this address.
    pub(super) fn node(&self, address: &RedisAddress) -> Option<&Arc<RedisNode>> {
        self.nodes.iter().find(|node| node.address() == Some(address))
    }

    /// The server that has a key; none where nobody has its slot.
    pub(super) fn route(&self, key: &[u8]) -> Option<&Arc<RedisNode>> {
        if self.slots.is_empty() {
            return self.nodes.first();
        }
        let place = self.slots[usize::from(crc16(key)) % SLOTS]?;
        self.nodes.get(usize::from(place))
    }

    /// Whether any server has a slot.
    pub(super) fn has(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(Option::is_some)
    }

    /// Whether the same servers have the same slots.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.slots == other.slots
            && self.nodes.len() == other.nodes.len()
            && self.nodes.iter().zip(&other.nodes).all(|(one, another)| Arc::ptr_eq(one, another))
    }
}

/// Asks a node who has which slots.
pub(super) async fn shares(node: &RedisNode, deadline: Instant) -> Result<SlotShares, ConnectError> {
    let replies = node.run(&ask_slots(), deadline).await;
    parse_slots(node, &replies.ok_or_else(|| ConnectError::temporary("it does not answer"))?)
}

/// Asks a node who has which slots.
pub(super) fn ask_slots() -> Pipeline {
    let mut question = redis::pipe();
    question.cmd("CLUSTER").arg("SLOTS");
    question
}

/// What a node has told of that.
pub(super) fn parse_slots(node: &RedisNode, replies: &[Value]) -> Result<SlotShares, ConnectError> {
    let Some(RedisAddress::Tcp(asked, port)) = node.address() else {
        return Err(ConnectError::permanent("it is no node of a cluster"));
    };
    let unknown = || ConnectError::temporary("it tells its slots in an unknown way");
    match replies {
        [Value::ServerError(error)]
            if error.details().is_some_and(|text| text.contains("support disabled")) =>
        {
            Err(ConnectError::permanent(format!("it is no node of a cluster: write redis://{asked}:{port}")))
        }
        [reply @ Value::ServerError(_)] => Err(refusal(reply).unwrap_or_else(unknown)),
        [Value::Array(ranges)] if ranges.is_empty() => {
            Err(ConnectError::temporary("the cluster has no slots yet"))
        }
        [Value::Array(ranges)] => {
            ranges.iter().map(|range| share(range, asked)).collect::<Option<_>>().ok_or_else(unknown)
        }
        _ => Err(unknown()),
    }
}

/// `[first, last, [host, port, id, [name, value, …]], replicas …]`; a node that does not know its own address
/// leaves the host out, and one that should have a name and has none is `?`.
fn share(range: &Value, asked: &str) -> Option<(usize, usize, RedisAddress)> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = parts.as_slice() else {
        return None;
    };
    let [host, Value::Int(port), ..] = master.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) if host == b"?" => ip(master),
        Value::BulkString(host) => Some(String::from_utf8(host.clone()).ok()?),
        _ => None,
    };
    let host = host.filter(|host| !host.is_empty()).unwrap_or_else(|| asked.to_owned());
    let address = RedisAddress::Tcp(host, u16::try_from(*port).ok()?);
    Some((usize::try_from(*first).ok()?, usize::try_from(*last).ok()?, address))
}

/// The IP address of a node, which its metadata give where its host is something else.
fn ip(node: &[Value]) -> Option<String> {
    let [_, _, _, Value::Array(facts), ..] = node else { return None };
    let mut pairs = facts.chunks_exact(2);
    let is_ip = |pair: &&[Value]| matches!(&pair[0], Value::BulkString(name) if name == b"ip");
    redis::from_redis_value(pairs.find(is_ip)?[1].clone()).ok()
}

/// CRC-16/XMODEM, by which the cluster's specification assigns slots. Our keys have no braces, so all
/// of a key counts.
fn crc16(key: &[u8]) -> u16 {
    key.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

/// Where a node refers to for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Referral {
    /// The node of this address.
    To(RedisAddress),
    /// A node that has no name to be told, for a key of this slot.
    Unnamed(usize),
}

/// Reads the `slot host:port` of a referral. A host that is left out is the node's own; `?` is that of a node that
/// should have a name and has none, which says nothing.
pub(super) fn referred(text: &str, node: &RedisNode) -> Option<Referral> {
    let (slot, address) = text.split_once(' ')?;
    let (host, port) = address.rsplit_once(':')?;
    let host = match (host, node.address()?) {
        ("?", _) => return Some(Referral::Unnamed(slot.parse().ok()?)),
        ("", RedisAddress::Tcp(own, _)) => own.clone(),
        (host, _) => host.to_owned(),
    };
    Some(Referral::To(RedisAddress::Tcp(host, port.parse().ok()?)))
}

/// Asks a node for all nodes and what they have.
pub(super) fn ask_nodes() -> Pipeline {
    let mut question = redis::pipe();
    question.cmd("CLUSTER").arg("NODES");
    question
}

/// The node that a referral without a name means, for a key of this slot, by what the node that refers there replies
/// to [`ask_nodes`].
pub(super) fn unnamed(replies: &[Value], slot: usize, asking: bool) -> Option<RedisAddress> {
    match replies {
        [Value::BulkString(nodes)] => owner_of_slot(std::str::from_utf8(nodes).ok()?, slot, asking),
        _ => None,
    }
}

/// The address of the node to which a slot is on its way from the one that was asked, or that has it. The lines are
/// `id ip:port@bus,host flags master ping pong epoch link slots…`, as the commands' documentation has them.
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
            matches!((first.parse::<usize>(), last.parse::<usize>()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
        };
        lines.iter().filter(|line| !is_own(line)).find(|line| slots(line).iter().any(has))
    };
    let (host, port) = found?.get(1)?.split('@').next()?.rsplit_once(':')?;
    Some(RedisAddress::Tcp(host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::node::NodeRole;
    use super::super::target::RedisLogin;
    use super::*;

    #[test]
    fn keys_are_assigned_as_the_specification_says() {
        // Its own example.
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn a_cluster_routes_by_slot() {
        let address = |port| RedisAddress::Tcp("h".to_owned(), port);
        let node = |address: &RedisAddress| {
            RedisNode::of_cluster(address.clone(), &RedisLogin::default(), &NodeRole::Read)
        };
        let shares = vec![(0, 5000, address(1)), (5001, 16_383, address(2))];
        let topology = Topology::cluster(&shares, node);
        assert_eq!(topology.nodes().len(), 2);
        // The slot of this key is 12739.
        assert_eq!(topology.route(b"123456789").unwrap().address(), Some(&address(2)));
        let partial = Topology::cluster(&vec![(0, 10, address(1))], node);
        assert!(partial.route(b"123456789").is_none());
    }

    #[test]
    fn a_referral_names_an_address() {
        let node = RedisNode::of_cluster(
            RedisAddress::Tcp("own".to_owned(), 1),
            &RedisLogin::default(),
            &NodeRole::Read,
        );
        assert_eq!(referred("3999 h:7", &node), Some(Referral::To(RedisAddress::Tcp("h".to_owned(), 7))));
        assert_eq!(referred("3999 :7", &node), Some(Referral::To(RedisAddress::Tcp("own".to_owned(), 7))));
        assert_eq!(referred("3999 ?:7", &node), Some(Referral::Unnamed(3999)));
        assert_eq!(referred("3999 ::1:7", &node), Some(Referral::To(RedisAddress::Tcp("::1".to_owned(), 7))));
        assert_eq!(referred("rubbish", &node), None);
    }

    #[test]
    fn a_node_without_a_name_is_found_by_its_slot() {
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

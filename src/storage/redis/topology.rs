//! The servers, and the keys that each of them has.

use std::sync::Arc;

use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::connection::refusal;
use super::node::RedisNode;
use super::target::RedisAddress;
use crate::storage::remote::start::{ConnectError, NO_ANSWER};

/// Number of slots into which a cluster divides its keys.
pub(super) const SLOTS: usize = 16_384;

/// All servers, and the slots of each.
pub(super) struct Topology {
    nodes: Vec<Arc<RedisNode>>,
    /// The index in `nodes` of each slot's owner; empty for a single server.
    slots: Vec<Option<u16>>,
}

/// Ranges of slots (first, last) and their owners, as a node reports them.
pub(super) type SlotShares = Vec<(usize, usize, RedisAddress)>;

impl Topology {
    /// A single server, which has all keys.
    pub(super) fn one(node: Arc<RedisNode>) -> Self {
        Self { nodes: vec![node], slots: Vec::new() }
    }

    /// A cluster of the nodes that own slots. `node_at` returns the node of an address.
    pub(super) fn cluster(shares: &SlotShares, node_at: impl Fn(&RedisAddress) -> Arc<RedisNode>) -> Self {
        let mut topology = Self { nodes: Vec::new(), slots: vec![None; SLOTS] };
        for (first, last, address) in shares {
            let is_owner = |node: &Arc<RedisNode>| node.address() == Some(address);
            let index = topology.nodes.iter().position(is_owner).unwrap_or_else(|| {
                topology.nodes.push(node_at(address));
                topology.nodes.len() - 1
            });
            // No cluster has more nodes than slots.
            let index = u16::try_from(index).ok();
            if let Some(range) = topology.slots.get_mut(*first..=*last) {
                range.fill(index);
            }
        }
        topology
    }

    /// Returns all servers.
    pub(super) fn nodes(&self) -> &[Arc<RedisNode>] {
        &self.nodes
    }

    /// Returns the server with this address.
    pub(super) fn node(&self, address: &RedisAddress) -> Option<&Arc<RedisNode>> {
        self.nodes.iter().find(|node| node.address() == Some(address))
    }

    /// Returns the server that has a key, or none if no node owns its slot.
    pub(super) fn route(&self, key: &[u8]) -> Option<&Arc<RedisNode>> {
        if self.slots.is_empty() {
            return self.nodes.first();
        }
        let index = self.slots[usize::from(crc16(key)) % SLOTS]?;
        self.nodes.get(usize::from(index))
    }

    /// Returns the number of slots that no server owns.
    pub(super) fn slots_without_owner(&self) -> usize {
        self.slots.iter().filter(|owner| owner.is_none()).count()
    }

    /// Whether a server owns this slot.
    pub(super) fn has(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(Option::is_some)
    }

    /// Whether the same servers own the same slots.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.slots == other.slots
            && self.nodes.len() == other.nodes.len()
            && self.nodes.iter().zip(&other.nodes).all(|(one, another)| Arc::ptr_eq(one, another))
    }
}

/// Queries a node for the owners of all slots.
pub(super) async fn shares(node: &RedisNode, deadline: Instant) -> Result<SlotShares, ConnectError> {
    let replies = node.run(&ask_slots(), deadline).await;
    parse_slots(node, &replies.map_err(|_| ConnectError::temporary(NO_ANSWER))?)
}

/// The command that lists the owners of all slots.
pub(super) fn ask_slots() -> Pipeline {
    let mut question = redis::pipe();
    question.cmd("CLUSTER").arg("SLOTS");
    question
}

/// Parses the reply of `node` to [`ask_slots`].
pub(super) fn parse_slots(node: &RedisNode, replies: &[Value]) -> Result<SlotShares, ConnectError> {
    let Some(RedisAddress::Tcp(asked, port)) = node.address() else {
        return Err(ConnectError::permanent("it is not a node of a cluster"));
    };
    let unknown = || ConnectError::temporary("its reply to CLUSTER SLOTS has an unknown format");
    match replies {
        [Value::ServerError(error)]
            if error.details().is_some_and(|text| text.contains("support disabled")) =>
        {
            Err(ConnectError::permanent(format!(
                "it is not a node of a cluster: write redis://{asked}:{port}"
            )))
        }
        [reply @ Value::ServerError(_)] => Err(refusal(reply).unwrap_or_else(unknown)),
        [Value::Array(ranges)] if ranges.is_empty() => {
            Err(ConnectError::temporary("the cluster has not assigned any slots yet"))
        }
        [Value::Array(ranges)] => {
            ranges.iter().map(|range| share(range, asked)).collect::<Option<_>>().ok_or_else(unknown)
        }
        _ => Err(unknown()),
    }
}

/// Parses `[first, last, [host, port, id, [name, value, …]], replicas …]`. The host is empty or nil if the node does
/// not know its own address, and `?` if it should have a host name (`cluster-preferred-endpoint-type`) and has none.
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

/// Returns the IP address in the metadata of a node.
fn ip(node: &[Value]) -> Option<String> {
    let [_, _, _, Value::Array(metadata), ..] = node else { return None };
    let mut pairs = metadata.chunks_exact(2);
    let is_ip = |pair: &&[Value]| matches!(&pair[0], Value::BulkString(name) if name == b"ip");
    redis::from_redis_value(pairs.find(is_ip)?[1].clone()).ok()
}

/// CRC-16/XMODEM of a key, which the cluster specification uses to assign slots. Keys of records have no braces (hash
/// tags), so the whole key is hashed.
fn crc16(key: &[u8]) -> u16 {
    key.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::node::NodeRole;
    use super::super::target::RedisLogin;
    use super::*;

    #[test]
    fn crc16_matches_the_cluster_specification() {
        // The example in the specification.
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn cluster_routes_by_slot() {
        let address = |port| RedisAddress::Tcp("h".to_owned(), port);
        let node = |address: &RedisAddress| {
            RedisNode::of_cluster(address.clone(), &RedisLogin::default(), &NodeRole::Read)
        };
        let shares = vec![(0, 5000, address(1)), (5001, 16_383, address(2))];
        let topology = Topology::cluster(&shares, node);
        assert_eq!(topology.nodes().len(), 2);
        // The slot of this key is 12739.
        assert_eq!(topology.route(b"123456789").unwrap().address(), Some(&address(2)));
        assert_eq!(topology.slots_without_owner(), 0);
        let partial = Topology::cluster(&vec![(0, 10, address(1))], node);
        assert_eq!(partial.slots_without_owner(), SLOTS - 11);
        assert!(partial.route(b"123456789").is_none());
    }
}

//! Scanning all keys of all servers while a cluster may move them.
//!
//! `SCAN` finds what a server has from its beginning to its end. In a cluster, keys may have moved from a node
//! that had not been scanned yet to one that had been. So each server is looked at before the scan and after it;
//! to whom keys may have come in between is scanned again, until there is no such server. A key that is in the
//! cluster all the time is then met, since at the end it is on a server to which nothing has come since before
//! that one's last scan.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::future::try_join_all;
use redis::Value;

use super::bulk::{LIMIT, PAUSE, ROUNDS, RedisBulk};
use super::connection::refusal;
use super::node::RedisNode;
use super::node_standing::NodeStanding;
use super::scan;
use super::target::RedisServers;
use super::topology::SLOTS;
use crate::storage::bulk::BulkError;
use crate::storage::bulk::Cursor;

/// How many keys a server is asked for at once, during which it does nothing else.
const SCANNED: usize = 1000;
/// How often servers are scanned again.
pub(super) const REPETITIONS: usize = 20;
/// Why not more often.
pub(super) const SLOTS_MOVE: &str = "its slots move all the time: run this again when they do not";

/// A scan under way.
pub(super) struct KeyScan {
    /// What all servers were when this round began.
    before: Vec<NodeStanding>,
    /// The servers that are left to be scanned in this round; the first one has been begun.
    left: VecDeque<Arc<RedisNode>>,
    /// Where the first one goes on.
    cursor: String,
    repetitions: usize,
    pages: u64,
}

impl KeyScan {
    /// What the caller knows of it.
    fn place(&self) -> Cursor {
        Cursor(self.pages.to_string().into_bytes())
    }
}

impl RedisBulk {
    /// Some keys, without what all begin with, and where to go on. There is one scan at a time.
    pub(super) async fn next_keys(
        &self,
        from: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<Vec<u8>>, Option<Cursor>), BulkError> {
        let mut current = self.walk.lock().await;
        let mut walk = match (from, current.take()) {
            (None, _) => self.begin().await?,
            (Some(from), Some(walk)) if walk.place() == from => walk,
            _ => return Err(self.failed("a scan cannot go on there")),
        };
        let Some(node) = walk.left.front() else { return Ok((Vec::new(), None)) };
        let mut scanning = redis::pipe();
        scanning.add_command(scan::command(self.form.prefix(), &walk.cursor, limit.min(SCANNED)));
        let mut replies =
            node.exchange(&scanning, LIMIT).await.map_err(|failure| self.failed(&failure.why))?;
        let reply = replies.pop().unwrap_or(Value::Nil);
        if let Some(failure) = refusal(&reply) {
            return Err(self.failed(&failure.why));
        }
        let (next, keys): (String, Vec<Vec<u8>>) =
            redis::from_redis_value(reply).map_err(|error| self.failed(&error.to_string()))?;
        let keys = keys.iter().map(|key| self.form.rest(key).to_vec()).collect();
        if next == "0" {
            walk.left.pop_front();
        }
        walk.cursor = next;
        walk.pages += 1;
        if walk.left.is_empty() {
            self.look_again(&mut walk).await?;
        }
        let next = (!walk.left.is_empty()).then(|| walk.place());
        *current = Some(walk);
        Ok((keys, next))
    }

    async fn begin(&self) -> Result<KeyScan, BulkError> {
        let mut before = Vec::new();
        let left = self.look_for_others(&mut before).await?.into();
        Ok(KeyScan { before, left, cursor: "0".to_owned(), repetitions: 0, pages: 0 })
    }

    /// Leaves those servers to be scanned once more to which keys may have come in this round.
    async fn look_again(&self, walk: &mut KeyScan) -> Result<(), BulkError> {
        walk.left = self.look_for_others(&mut walk.before).await?.into();
        walk.repetitions += 1;
        match walk.repetitions > REPETITIONS && !walk.left.is_empty() {
            true => Err(self.failed(SLOTS_MOVE)),
            false => Ok(()),
        }
    }

    /// Those servers that are not what they were: keys may have come to them. Notes what they all are by now.
    pub(super) async fn look_for_others(
        &self,
        before: &mut Vec<NodeStanding>,
    ) -> Result<Vec<Arc<RedisNode>>, BulkError> {
        let (nodes, now) = self.look().await?;
        let is_other =
            |(node, standing): (Arc<RedisNode>, &NodeStanding)| (!before.contains(standing)).then_some(node);
        let others = nodes.into_iter().zip(&now).filter_map(is_other).collect();
        *before = now;
        Ok(others)
    }

    /// All servers, and what they are. Those of a cluster agree about who has which slot.
    async fn look(&self) -> Result<(Vec<Arc<RedisNode>>, Vec<NodeStanding>), BulkError> {
        let is_cluster = matches!(self.target.servers, RedisServers::Cluster(_));
        for _ in 0..ROUNDS {
            if is_cluster {
                self.survey().await?;
            }
            let topology = self.topology();
            let standings =
                try_join_all(topology.nodes().iter().map(|node| NodeStanding::of(node, is_cluster)));
            let standings = standings.await.map_err(|failure| self.failed(&failure.why))?;
            // A node that has just given a slot away names one that others may not know yet.
            let has_one_owner = |slot| {
                let owners = standings.iter().filter(|standing| standing.has(slot)).count();
                owners == usize::from(topology.has(slot))
            };
            if !is_cluster || (0..SLOTS).all(has_one_owner) {
                return Ok((topology.nodes().to_vec(), standings));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(self.failed("its nodes do not agree about who has which slots"))
    }
}

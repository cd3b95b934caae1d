//! Scan of all keys of all servers while a cluster may move them.
//!
//! `SCAN` returns every key that a server has from the beginning to the end of the scan. In a cluster, a key may move
//! from a node that has not been scanned yet to one that has. So the standing of each server is taken before and after
//! the scan, and servers that may have received keys in between are scanned again, until there are none. Then every key
//! that was in the cluster all the time has been returned: it is on a server that has received no key since before its
//! last scan.

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

/// Maximum `COUNT` of a `SCAN`, during which the server does nothing else.
const KEYS_PER_SCAN: usize = 1000;
/// Maximum number of times that servers that have received keys are scanned again.
pub(super) const REPETITIONS: usize = 20;
/// The error if servers still receive keys after [`REPETITIONS`].
pub(super) const SLOTS_MOVE: &str = "its slots keep moving: run this again when resharding has finished";

/// A scan in progress.
pub(super) struct KeyScan {
    /// Standing of all servers at the beginning of this round.
    before: Vec<NodeStanding>,
    /// The servers still to scan in this round, beginning with the current one.
    left: VecDeque<Arc<RedisNode>>,
    /// The `SCAN` cursor of the current server.
    cursor: String,
    repetitions: usize,
    pages: u64,
}

impl KeyScan {
    /// Returns the caller's cursor, which only proves that it continues this scan.
    fn position(&self) -> Cursor {
        Cursor(self.pages.to_string().into_bytes())
    }
}

impl RedisBulk {
    /// Returns some keys, without their prefix, and the cursor for the next ones. Only one scan can be in progress.
    pub(super) async fn next_keys(
        &self,
        from: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<Vec<u8>>, Option<Cursor>), BulkError> {
        let mut current = self.key_scan.lock().await;
        let mut scan = match (from, current.take()) {
            (None, _) => self.begin().await?,
            (Some(from), Some(scan)) if scan.position() == from => scan,
            _ => return Err(self.failed("the scan to continue no longer exists")),
        };
        let Some(node) = scan.left.front() else { return Ok((Vec::new(), None)) };
        let mut scanning = redis::pipe();
        scanning.add_command(scan::command(self.form.prefix(), &scan.cursor, limit.min(KEYS_PER_SCAN)));
        let mut replies =
            node.exchange(&scanning, LIMIT).await.map_err(|failure| self.failed(&failure.why))?;
        let reply = replies.pop().unwrap_or(Value::Nil);
        if let Some(failure) = refusal(&reply) {
            return Err(self.failed(&failure.why));
        }
        let (next, keys): (String, Vec<Vec<u8>>) =
            redis::from_redis_value(reply).map_err(|error| self.failed(&error.to_string()))?;
        let keys = keys.iter().map(|key| self.form.without_prefix(key).to_vec()).collect();
        if next == "0" {
            scan.left.pop_front();
        }
        scan.cursor = next;
        scan.pages += 1;
        if scan.left.is_empty() {
            self.look_again(&mut scan).await?;
        }
        let next = (!scan.left.is_empty()).then(|| scan.position());
        *current = Some(scan);
        Ok((keys, next))
    }

    async fn begin(&self) -> Result<KeyScan, BulkError> {
        let mut before = Vec::new();
        let left = self.changed_servers(&mut before).await?.into();
        Ok(KeyScan { before, left, cursor: "0".to_owned(), repetitions: 0, pages: 0 })
    }

    /// Begins another round with the servers that may have received keys in this one.
    async fn look_again(&self, scan: &mut KeyScan) -> Result<(), BulkError> {
        scan.left = self.changed_servers(&mut scan.before).await?.into();
        scan.repetitions += 1;
        match scan.repetitions > REPETITIONS && !scan.left.is_empty() {
            true => Err(self.failed(SLOTS_MOVE)),
            false => Ok(()),
        }
    }

    /// Returns the servers whose standing is not among `before`: they may have received keys. Replaces `before` by the
    /// standing of all servers now.
    pub(super) async fn changed_servers(
        &self,
        before: &mut Vec<NodeStanding>,
    ) -> Result<Vec<Arc<RedisNode>>, BulkError> {
        let (nodes, now) = self.standings().await?;
        let if_changed =
            |(node, standing): (Arc<RedisNode>, &NodeStanding)| (!before.contains(standing)).then_some(node);
        let changed = nodes.into_iter().zip(&now).filter_map(if_changed).collect();
        *before = now;
        Ok(changed)
    }

    /// Returns all servers and their standings. In a cluster, waits until each slot has exactly one owner.
    async fn standings(&self) -> Result<(Vec<Arc<RedisNode>>, Vec<NodeStanding>), BulkError> {
        let is_cluster = matches!(self.target.servers, RedisServers::Cluster(_));
        for _ in 0..ROUNDS {
            if is_cluster {
                self.survey().await?;
            }
            let topology = self.topology();
            let standings =
                try_join_all(topology.nodes().iter().map(|node| NodeStanding::of(node, is_cluster)));
            let standings = standings.await.map_err(|failure| self.failed(&failure.why))?;
            // The new owner of a slot may be unknown to some nodes yet.
            let has_one_owner = |slot| {
                let owners = standings.iter().filter(|standing| standing.has(slot)).count();
                owners == usize::from(topology.has(slot))
            };
            if !is_cluster || (0..SLOTS).all(has_one_owner) {
                return Ok((topology.nodes().to_vec(), standings));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(self.failed("its nodes disagree about the owners of slots: run this again later"))
    }
}

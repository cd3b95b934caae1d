//! The servers of a whole database: finding them, following referrals, and noticing failovers.

use std::sync::{Arc, PoisonError};

use futures_util::future::try_join_all;

use super::bulk::{LIMIT, RedisBulk};
use super::node::{NodeRole, RedisNode};
use super::node_standing::NodeStanding;
use super::referral::{Referral, ask_nodes, parse_referral, unnamed_address};
use super::survey::ask_seeds;
use super::target::{RedisServers, RedisTarget};
use super::topology::{Topology, ask_slots, parse_slots};
use crate::storage::bulk::BulkError;
use crate::storage::remote::start::ConnectError;

impl RedisBulk {
    /// Returns the servers as of the last survey.
    pub(super) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Queries the cluster for its nodes and their slots, and connects to all nodes.
    pub(super) async fn survey(&self) -> Result<(), BulkError> {
        if !matches!(self.target.servers, RedisServers::Cluster(_)) {
            return Err(self.failed("it is a node of a cluster: write redis+cluster:// and its address"));
        }
        let found = cluster(&self.target, &self.role).await.map_err(|failure| self.failed(&failure.why))?;
        *self.topology.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        self.name_new_connections().await?;
        self.note_masters().await
    }

    /// Records the standing of servers that may be written to from now on.
    pub(super) async fn note_masters(&self) -> Result<(), BulkError> {
        let Some(masters) = &self.masters else { return Ok(()) };
        let mut masters = masters.lock().await;
        for node in self.topology().nodes() {
            let standing = self.standing(node).await?;
            if !masters.iter().any(|(_, known)| standing.is_still(known)) {
                masters.push((Arc::clone(node), standing));
            }
        }
        Ok(())
    }

    /// Returns an error if a server that may have been written to is no longer the same master: its replacement may
    /// lack the last changes.
    pub(super) async fn check_masters(&self) -> Result<(), BulkError> {
        let Some(masters) = &self.masters else { return Ok(()) };
        for (node, known) in masters.lock().await.iter() {
            if !self.standing(node).await?.is_still(known) {
                return Err(self.failed(&format!(
                    "{} is no longer the master that was written to, and the last records may be lost: run this again",
                    self.name(node)
                )));
            }
        }
        Ok(())
    }

    async fn standing(&self, node: &RedisNode) -> Result<NodeStanding, BulkError> {
        let is_cluster = matches!(self.target.servers, RedisServers::Cluster(_));
        NodeStanding::of(node, is_cluster).await.map_err(|failure| self.failed(&failure.why))
    }

    /// Surveys a cluster, or reconnects to a single server.
    pub(super) async fn survey_or_reopen(&self) -> Result<(), BulkError> {
        match RedisNode::of_target(&self.target, &self.role) {
            None => self.survey().await,
            Some(node) => {
                node.open().await.map_err(|failure| self.failed(&failure.why))?;
                *self.topology.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Topology::one(node));
                self.name_new_connections().await
            }
        }
    }

    /// Returns a connected node for an `ASK` error of `from`.
    pub(super) async fn connect_referred(
        &self,
        details: &str,
        from: &RedisNode,
    ) -> Result<Arc<RedisNode>, BulkError> {
        let unknown = || self.failed("a node refers to another one without its address");
        let address = match parse_referral(details, from).ok_or_else(unknown)? {
            Referral::To(address) => address,
            Referral::Unnamed(slot) => {
                let replies = from.exchange(&ask_nodes(), LIMIT).await;
                let replies = replies.map_err(|failure| self.failed(&failure.why))?;
                unnamed_address(&replies, slot, true).ok_or_else(unknown)?
            }
        };
        if let Some(node) = self.topology().node(&address) {
            return Ok(Arc::clone(node));
        }
        let node = RedisNode::of_cluster(address, &self.target.access, &self.role);
        node.open().await.map_err(|failure| self.failed(&failure.why))?;
        Ok(node)
    }
}

/// Queries a cluster for its nodes and their slots, and connects to all nodes.
pub(super) async fn cluster(target: &RedisTarget, role: &NodeRole) -> Result<Topology, ConnectError> {
    let (seed, _) = ask_seeds(target, role).await?;
    let shares = parse_slots(&seed, &seed.exchange(&ask_slots(), LIMIT).await?)?;
    let topology = Topology::cluster(&shares, |address| match seed.address() == Some(address) {
        true => Arc::clone(&seed),
        false => RedisNode::of_cluster(address.clone(), &target.access, role),
    });
    let connect = |node: &Arc<RedisNode>| {
        let node = Arc::clone(node);
        async move { if node.is_connected() { Ok(()) } else { node.open().await } }
    };
    try_join_all(topology.nodes().iter().map(connect)).await?;
    Ok(topology)
}

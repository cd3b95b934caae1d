//! The engines on Redis: one server, a master that sentinels name, or a cluster.
//!
//! The commands of a batch for one server are one pipeline on one connection. A look-up is one command. A call of a
//! script counts many digests, or one digest in a cluster, and returns the outcome of each: a record is changed whole
//! or not at all. An increment is repeated only if the server has said that it did not do it.

mod bulk;
mod bulk_servers;
mod connection;
mod core;
mod durable;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod key_jobs;
mod key_scan;
mod measurement;
mod node;
mod node_standing;
mod node_trial;
mod record_form;
mod record_values;
mod referral;
mod refusal;
mod scan;
mod sentinels;
mod single_writer;
mod survey;
mod target;
mod topology;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use jiff::tz::TimeZone;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use self::core::RedisCore;
use self::node::NodeRole;
use self::record_form::RecordForm;
use self::target::RedisTarget;
use self::topology::SLOTS;
use super::bulk::BulkPurpose;
use super::remote::condition;
use super::remote::findings::StoreFindings;
use super::remote::refusals::Refusals;
use super::{
    Availability, Batch, BatchProgress, BoxFuture, BulkOpening, Engine, EngineOpenError, EngineOpening,
    EngineOptions, EngineStatus,
};

/// The engine on Redis.
pub(crate) struct Redis {
    shared: Arc<RedisCore>,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// Opens the database for [`super::open`], with records as hashes.
pub(super) fn open(options: &EngineOptions) -> EngineOpening<'_> {
    Box::pin(Redis::open(options, RecordForm::hash()))
}

/// Opens the database for [`super::open`], with records as texts.
pub(super) fn open_v0(options: &EngineOptions) -> EngineOpening<'_> {
    Box::pin(Redis::open(options, RecordForm::text(TimeZone::system())))
}

/// Opens the database for [`super::bulk::open`], with records as hashes.
pub(super) fn open_bulk(options: &EngineOptions, purpose: BulkPurpose) -> BulkOpening<'_> {
    Box::pin(bulk::RedisBulk::open(options, purpose, RecordForm::hash()))
}

/// Opens the database for [`super::bulk::open`], with records as texts.
pub(super) fn open_bulk_v0(options: &EngineOptions, purpose: BulkPurpose) -> BulkOpening<'_> {
    Box::pin(bulk::RedisBulk::open(options, purpose, RecordForm::text(TimeZone::system())))
}

/// Checks the syntax of `DigestDB`.
pub(super) fn check(options: &EngineOptions) -> Result<(), String> {
    RedisTarget::parse(&options.dsn).map(|_| ()).map_err(|error| error.0)
}

impl Redis {
    async fn open(options: &EngineOptions, form: RecordForm) -> Result<Arc<dyn Engine>, EngineOpenError> {
        let target = RedisTarget::parse(&options.dsn)
            .map_err(|error| EngineOpenError::new(format!("DigestDB: {error}")))?;
        let age = options.cleanup_age.map(|age| age.as_secs());
        let (topology, cluster) = survey::open(&target, &NodeRole::Change(form.trial(age))).await?;
        let refusals = Refusals::new(format!("the Redis of {}", target.describe()));
        let shared = Arc::new(RedisCore {
            target,
            form,
            age,
            topology: ArcSwap::from_pointee(topology),
            stale: Notify::new(),
            referred_nodes: Mutex::new(Vec::new()),
            unnamed: Mutex::default(),
            refusals,
            findings: StoreFindings::default(),
        });
        let mut tasks = vec![
            tokio::spawn(survey::look_for_foreign_keys(Arc::clone(&shared))).abort_handle(),
            tokio::spawn(measurement::keep(Arc::clone(&shared))).abort_handle(),
        ];
        if cluster {
            tasks.push(tokio::spawn(survey::keep(Arc::clone(&shared))).abort_handle());
        }
        Ok(Arc::new(Self { shared, tasks: Mutex::new(tasks) }))
    }

    fn stop(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        self.shared.topology.load().nodes().iter().for_each(|node| node.stop());
        self.shared.referred_nodes().drain(..).for_each(|node| node.stop());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Engine for Redis {
    fn describe(&self) -> String {
        format!("{}, {}", self.shared.form.engine(), self.shared.target.describe())
    }

    fn run(&self, batch: Batch) -> BatchProgress {
        let tasks = self.shared.plan(&batch);
        if tasks.is_empty() {
            return BatchProgress::Done(batch);
        }
        let shared = Arc::clone(&self.shared);
        BatchProgress::Later(Box::pin(async move { shared.serve(batch, tasks).await }))
    }

    fn count_limit(&self) -> i64 {
        i64::MAX
    }

    /// Returns whether any server is available: a cluster can work with some of its nodes.
    fn is_available(&self) -> bool {
        let topology = self.shared.topology.load();
        let nodes = topology.nodes();
        nodes.is_empty() || nodes.iter().any(|node| node.presence().epoch().is_some())
    }

    fn status(&self) -> EngineStatus {
        let (mut status, now) = (EngineStatus::default(), Instant::now());
        let topology = self.shared.topology.load();
        let servers: Vec<_> = topology.nodes().iter().map(|node| node.condition()).collect();
        condition::describe(&servers, &mut status, now);
        let unowned = topology.slots_without_owner();
        if unowned > 0 && status.availability == Availability::Available {
            status.availability = Availability::Partial;
            status.since_seconds = None;
            status.reason = Some(format!("no node of the cluster owns {unowned} of its {SLOTS} slots"));
        }
        self.shared.findings.describe(&mut status, now);
        status
    }

    /// Never resolves, because an unavailable server can always become available again.
    fn failed(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.stop() })
    }
}

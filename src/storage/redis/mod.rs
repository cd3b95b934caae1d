//! The engines on Redis: one server, a master that sentinels know, or a cluster.
//!
//! What a batch wants of one server is one pipeline on one connection. A look-up is one command, and
//! all that is to be counted for a digest is one run of a script, which changes all of a record or
//! nothing. No increment is ever repeated unless the server said that it did not do it.

mod form;
mod node;
mod place;
mod survey;
mod topology;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use jiff::tz::TimeZone;
use redis::Value;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::form::Form;
use self::node::{Node, is_of_no_slot};
use self::place::{Address, Place};
use self::topology::{Topology, referred};
use super::presence::{LIMIT, time_left};
use super::refusals::Refusals;
use super::{
    Batch, BoxFuture, Cursor, Engine, Entry, Health, OpenError, Opened, Options, Page, Progress, StorageError,
};
use crate::digest::Digest;
use crate::record::Record;

/// How long a node that another one referred to may take to be connected to.
const ACQUAINTANCE_LIMIT: Duration = Duration::from_millis(300);
/// How often a command is sent at most: referred from node to node, and once more when a server did
/// not know the script.
const ROUNDS: usize = 5;

/// The engine on a Redis.
pub struct Redis {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<AbortHandle>>,
}

struct Shared {
    place: Place,
    form: Form,
    age: Option<u64>,
    topology: ArcSwap<Topology>,
    /// Asks for a look at who has which slots.
    stale: Notify,
    /// Nodes that others have referred to since the last such look.
    acquaintances: Mutex<Vec<Arc<Node>>>,
    refusals: Refusals,
}

/// One command for one digest of a batch.
struct Task {
    entry: usize,
    step: Step,
    node: Arc<Node>,
    /// Whether the node was told by another one to take it.
    asking: bool,
    /// Whether the node did not know the script.
    unscripted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    LookUp,
    Count,
}

/// Opens the database for [`super::open`], with records as hashes.
pub(super) fn open(options: &Options) -> Opened<'_> {
    Box::pin(Redis::open(options, Form::hash()))
}

/// The same with records as texts.
pub(super) fn open_v0(options: &Options) -> Opened<'_> {
    Box::pin(Redis::open(options, Form::text(TimeZone::system())))
}

/// Whether `DigestDB` names a place.
pub(super) fn check(options: &Options) -> Result<(), String> {
    Place::parse(&options.dsn).map(|_| ()).map_err(|error| error.0)
}

impl Redis {
    async fn open(options: &Options, form: Form) -> Result<Arc<dyn Engine>, OpenError> {
        let place =
            Place::parse(&options.dsn).map_err(|error| OpenError::new(format!("DigestDB: {error}")))?;
        let (topology, cluster) = survey::open(&place, form.script()).await?;
        let refusals = Refusals::new(format!("the Redis of {}", place.describe()));
        let shared = Arc::new(Shared {
            place,
            form,
            age: options.cleanup_age.map(|age| age.as_secs()),
            topology: ArcSwap::from_pointee(topology),
            stale: Notify::new(),
            acquaintances: Mutex::new(Vec::new()),
            refusals,
        });
        let mut tasks = vec![tokio::spawn(survey::look_for_foreign_keys(Arc::clone(&shared))).abort_handle()];
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
        self.shared.acquaintances().drain(..).for_each(|node| node.stop());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Engine for Redis {
    fn describe(&self) -> String {
        format!("{}, {}", self.shared.form.engine(), self.shared.place.describe())
    }

    fn run(&self, batch: Batch) -> Progress {
        let tasks = self.shared.plan(&batch);
        if tasks.is_empty() {
            return Progress::Done(batch);
        }
        let shared = Arc::clone(&self.shared);
        Progress::Later(Box::pin(async move { shared.serve(batch, tasks).await }))
    }

    fn count_limit(&self) -> i64 {
        i64::MAX
    }

    fn store(&self, digest: Digest, record: Record) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            let key = self.shared.form.key(digest);
            let mut pipeline = redis::pipe();
            pipeline.add_command(self.shared.form.store(&key, &record, self.shared.age));
            let topology = self.shared.topology.load_full();
            let node = topology.route(&key).ok_or(StorageError::Unavailable)?;
            let replies =
                node.run(&pipeline, Instant::now() + LIMIT).await.ok_or(StorageError::Unavailable)?;
            match replies.iter().find_map(place::refusal) {
                None => Ok(()),
                Some(failure) => {
                    self.shared.stale.notify_one();
                    Err(self.shared.refusals.refused(&failure.why))
                }
            }
        })
    }

    fn delete(&self, digest: Digest) -> BoxFuture<'_, Result<bool, StorageError>> {
        Box::pin(async move {
            let key = self.shared.form.key(digest);
            let mut pipeline = redis::pipe();
            pipeline.cmd("DEL").arg(&key);
            let topology = self.shared.topology.load_full();
            let node = topology.route(&key).ok_or(StorageError::Unavailable)?;
            let replies =
                node.run(&pipeline, Instant::now() + LIMIT).await.ok_or(StorageError::Unavailable)?;
            match replies.as_slice() {
                [Value::Int(deleted)] => Ok(*deleted > 0),
                replies => {
                    let why = replies.iter().find_map(place::refusal).map(|failure| failure.why);
                    self.shared.stale.notify_one();
                    Err(self.shared.refusals.refused(&why.unwrap_or_else(|| "an unknown reply".to_owned())))
                }
            }
        })
    }

    fn scan(&self, from: Option<Cursor>, limit: usize) -> BoxFuture<'_, Result<Page, StorageError>> {
        Box::pin(async move { self.shared.scan(from, limit).await })
    }

    /// Redis alone knows when it writes to its disk.
    fn flush(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async { Ok(()) })
    }

    fn health(&self) -> Health {
        let topology = self.shared.topology.load();
        let mut away = topology.nodes().iter().map(|node| node.presence().why_away());
        match away.next().flatten() {
            Some(why) if away.all(|why| why.is_some()) => return Health::Away(why),
            _ => {}
        }
        match self.shared.refusals.last() {
            Some(why) => Health::ReadOnly(why),
            None => Health::Serving,
        }
    }

    /// A store elsewhere may always come back.
    fn failed(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.stop() })
    }
}

impl Shared {
    /// What to send for a batch; nothing for what cannot be had now.
    fn plan(&self, batch: &Batch) -> Vec<Task> {
        let topology = self.topology.load();
        let mut tasks = Vec::new();
        for (at, entry) in batch.entries().iter().enumerate() {
            let Some(node) = topology.route(&self.form.key(entry.digest)) else {
                self.stale.notify_one();
                continue;
            };
            if node.presence().epoch().is_none() {
                continue;
            }
            let steps = [(Step::LookUp, entry.look_up), (Step::Count, entry.changes())];
            for (step, _) in steps.into_iter().filter(|(_, wanted)| *wanted) {
                tasks.push(Task {
                    entry: at,
                    step,
                    node: Arc::clone(node),
                    asking: false,
                    unscripted: false,
                });
            }
        }
        tasks
    }

    async fn serve(&self, mut batch: Batch, mut tasks: Vec<Task>) -> Batch {
        let deadline = Instant::now() + time_left(batch.since());
        let moment = self.form.moment(batch.now());
        for _ in 0..ROUNDS {
            let groups = by_node(std::mem::take(&mut tasks));
            let entries = batch.entries();
            let runs = groups.iter().map(|group| self.run_group(group, entries, &moment, deadline));
            let replies = join_all(runs).await;
            for (group, replies) in groups.into_iter().zip(replies) {
                for (task, reply) in group.into_iter().zip(replies.unwrap_or_default()) {
                    tasks
                        .extend(self.take(&mut batch.entries_mut()[task.entry], task, reply, deadline).await);
                }
            }
            if tasks.is_empty() {
                break;
            }
        }
        batch
    }

    /// Sends the commands for one server; the replies are in the order of the tasks.
    async fn run_group(
        &self,
        group: &[Task],
        entries: &[Entry],
        moment: &str,
        deadline: Instant,
    ) -> Option<Vec<Value>> {
        let mut pipeline = redis::Pipeline::with_capacity(group.len());
        let mut wanted = Vec::with_capacity(group.len());
        if group.iter().any(|task| task.unscripted) {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(self.form.script());
        }
        for task in group {
            if task.asking {
                pipeline.cmd("ASKING");
            }
            let entry = &entries[task.entry];
            let key = self.form.key(entry.digest);
            wanted.push(pipeline.len());
            pipeline.add_command(match task.step {
                Step::LookUp => self.form.look_up(&key),
                Step::Count => self.form.count(&key, [entry.reports, entry.whitelists], moment, self.age),
            });
        }
        let mut replies = group.first()?.node.run(&pipeline, deadline).await?;
        Some(wanted.into_iter().filter_map(|at| Some(std::mem::take(replies.get_mut(at)?))).collect())
    }

    /// Takes one reply; returns what is to be sent again, since it was not done.
    async fn take(&self, entry: &mut Entry, task: Task, reply: Value, deadline: Instant) -> Option<Task> {
        let outcome = match (task.step, reply) {
            (_, Value::ServerError(error)) => match error.code() {
                "NOSCRIPT" => return Some(Task { unscripted: true, ..task }),
                "MOVED" | "ASK" => {
                    let asking = error.code() == "ASK";
                    let node = self.refer(&task.node, error.details(), asking, deadline).await?;
                    return Some(Task { node, asking, ..task });
                }
                "WRONGTYPE" => Err(StorageError::Damaged),
                code => {
                    let why = redis::RedisError::from(error.clone()).to_string();
                    if is_of_no_slot(error.details()) {
                        self.stale.notify_one();
                    } else if is_absence(code)
                        && let Some(epoch) = task.node.presence().epoch()
                    {
                        task.node.presence().lost(epoch, &why);
                        self.stale.notify_one();
                    }
                    Err(self.refusals.refused(&why))
                }
            },
            (Step::LookUp, reply) => {
                entry.found = self.form.decode(&reply).map(Option::unwrap_or_default);
                entry.found.map(|_| ())
            }
            (Step::Count, Value::Int(1)) => {
                self.refusals.accepted();
                Ok(())
            }
            (Step::Count, Value::Int(0)) => Err(StorageError::Damaged),
            (Step::Count, _) => Err(self.refusals.refused("an unknown reply of the script")),
        };
        match task.step {
            Step::LookUp => entry.found = outcome.and(entry.found),
            Step::Count => (entry.reported, entry.whitelisted) = (outcome, outcome),
        }
        if outcome == Err(StorageError::Damaged) {
            self.refusals.damaged(entry.digest);
        }
        None
    }

    /// The node to which another one refers for a key.
    async fn refer(
        &self,
        from: &Node,
        details: Option<&str>,
        asking: bool,
        deadline: Instant,
    ) -> Option<Arc<Node>> {
        if !asking {
            self.stale.notify_one();
        }
        let address = referred(details?, from)?;
        match self.known(&address) {
            Some(node) => Some(node),
            None => self.acquaint(address, deadline).await,
        }
    }

    /// The node of this address, if there is a connection to it.
    fn known(&self, address: &Address) -> Option<Arc<Node>> {
        if let Some(node) = self.topology.load().node(address) {
            return Some(Arc::clone(node));
        }
        self.acquaintances().iter().find(|node| node.address() == Some(address)).cloned()
    }

    /// A connection to a node that has just joined; the next survey will find it, too. One that cannot be
    /// reached is away, so that it is not tried for each digest.
    async fn acquaint(&self, address: Address, deadline: Instant) -> Option<Arc<Node>> {
        let node = Node::of_cluster(address, &self.place.access, self.form.script());
        let limit = deadline.min(Instant::now() + ACQUAINTANCE_LIMIT);
        let unreachable = match tokio::time::timeout_at(limit, node.open()).await {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure.why),
            Err(_) => Some("it does not answer in time".to_owned()),
        };
        node.keep(unreachable.as_deref());
        self.acquaintances().push(Arc::clone(&node));
        unreachable.is_none().then_some(node)
    }

    fn acquaintances(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Node>>> {
        self.acquaintances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some keys of one server after the other, and what is under them.
    async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Page, StorageError> {
        let topology = self.topology.load_full();
        let (place, cursor) = match &from {
            None => (0, "0".to_owned()),
            Some(cursor) => parse_cursor(cursor).ok_or(StorageError::Unavailable)?,
        };
        let node = topology.nodes().get(place).ok_or(StorageError::Unavailable)?;
        let deadline = Instant::now() + LIMIT;
        let (next, keys) = self.scan_keys(node, self.form.prefix(), &cursor, limit, deadline).await?;
        let mut page = Page::default();
        if !keys.is_empty() {
            let mut pipeline = redis::Pipeline::with_capacity(keys.len());
            for key in &keys {
                pipeline.add_command(self.form.look_up(key));
            }
            let replies = node.run(&pipeline, deadline).await.ok_or(StorageError::Unavailable)?;
            for (key, reply) in keys.iter().zip(replies) {
                let record = match reply {
                    Value::ServerError(error) if error.code() == "WRONGTYPE" => Err(StorageError::Damaged),
                    Value::ServerError(error) => {
                        return Err(self.refusals.refused(&redis::RedisError::from(error).to_string()));
                    }
                    reply => match self.form.decode(&reply) {
                        // It has expired in the meantime.
                        Ok(None) => continue,
                        Ok(Some(record)) => Ok(record),
                        Err(error) => Err(error),
                    },
                };
                page.records.push((self.form.rest(key).to_vec(), record));
            }
        }
        page.next = match (next.as_str(), place + 1 < topology.nodes().len()) {
            ("0", false) => None,
            ("0", true) => Some(cursor_of(place + 1, "0")),
            (next, _) => Some(cursor_of(place, next)),
        };
        Ok(page)
    }

    /// Some keys with this prefix, and where to go on.
    async fn scan_keys(
        &self,
        node: &Node,
        prefix: &str,
        cursor: &str,
        limit: usize,
        deadline: Instant,
    ) -> Result<(String, Vec<Vec<u8>>), StorageError> {
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{prefix}*"))
            .arg("COUNT")
            .arg(limit.max(1));
        let mut replies = node.run(&pipeline, deadline).await.ok_or(StorageError::Unavailable)?;
        let reply = replies.pop().unwrap_or(Value::Nil);
        if let Some(failure) = place::refusal(&reply) {
            return Err(self.refusals.refused(&failure.why));
        }
        redis::from_redis_value(reply).map_err(|error| self.refusals.refused(&error.to_string()))
    }
}

/// The tasks of each server together.
fn by_node(tasks: Vec<Task>) -> Vec<Vec<Task>> {
    let mut groups: Vec<Vec<Task>> = Vec::new();
    for task in tasks {
        match groups.iter_mut().find(|group| Arc::ptr_eq(&group[0].node, &task.node)) {
            Some(group) => group.push(task),
            None => groups.push(vec![task]),
        }
    }
    groups
}

/// Whether a refusal means that the server does not serve at all.
fn is_absence(code: &str) -> bool {
    matches!(code, "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "READONLY" | "BUSY")
}

fn cursor_of(place: usize, cursor: &str) -> Cursor {
    Cursor(format!("{place} {cursor}").into_bytes())
}

fn parse_cursor(cursor: &Cursor) -> Option<(usize, String)> {
    let (place, cursor) = std::str::from_utf8(&cursor.0).ok()?.split_once(' ')?;
    Some((place.parse().ok()?, cursor.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Timestamp;

    #[test]
    fn a_cursor_survives() {
        assert_eq!(parse_cursor(&cursor_of(3, "17")), Some((3, "17".to_owned())));
        assert_eq!(parse_cursor(&Cursor(b"x".to_vec())), None);
    }

    #[test]
    fn now_is_seconds() {
        assert_eq!(Form::hash().moment(Timestamp::from_micros(1_999_999)), "1");
    }
}

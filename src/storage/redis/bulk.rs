//! A Redis database as a whole.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use jiff::tz::TimeZone;
use redis::Value;

use super::connection::refusal;
use super::key_jobs::KeyJob;
use super::key_scan::KeyScan;
use super::node::{NodeRole, RedisNode};
use super::node_standing::NodeStanding;
use super::record_form::RecordForm;
use super::survey::ask_seeds;
use super::target::{RedisServers, RedisTarget};
use super::topology::{self, Referral, Topology, ask_nodes, ask_slots, parse_slots, referred};
use crate::record::Record;
use crate::storage::bulk::Cursor;
use crate::storage::bulk::{
    Addition, Bulk, BulkError, BulkFuture, BulkPurpose, ChangeOutcome, Item, Items, Put, map_tallies,
    map_times, united,
};
use crate::storage::remote::start::{ConnectError, connect_once};
use crate::storage::{EngineOpenError, EngineOptions};

/// How long a server may take to answer before it counts as gone.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// How long a server that is busy with itself is waited for, and how often.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
pub(super) const ROUNDS: usize = 60;

/// Servers, and what they were.
type Masters = Vec<(Arc<RedisNode>, NodeStanding)>;

/// A whole database.
pub(super) struct RedisBulk {
    pub(super) target: RedisTarget,
    pub(super) form: RecordForm,
    role: NodeRole,
    topology: Mutex<Arc<Topology>>,
    pub(super) walk: tokio::sync::Mutex<Option<KeyScan>>,
    /// The servers that records may have been written to, as they were when they were met.
    masters: Option<tokio::sync::Mutex<Masters>>,
    /// The name of the connections that write.
    pub(super) turn: OnceLock<String>,
}

impl RedisBulk {
    /// Opens a database whose records have this form.
    pub(super) async fn open(
        options: &EngineOptions,
        purpose: BulkPurpose,
        form: RecordForm,
    ) -> Result<Arc<dyn Bulk>, EngineOpenError> {
        let target =
            RedisTarget::parse(&options.dsn).map_err(|error| EngineOpenError::new(error.to_string()))?;
        let role = match purpose {
            BulkPurpose::Look | BulkPurpose::Read => NodeRole::Read,
            BulkPurpose::Empty | BulkPurpose::Fill => NodeRole::Change(form.swapping_trial()),
        };
        let name = format!("the Redis of {}", target.describe());
        let topology = match RedisNode::of_target(&target, &role) {
            Some(node) => {
                connect_once(&name, node.open()).await?;
                Topology::one(node)
            }
            None => connect_once(&name, cluster(&target, &role)).await?,
        };
        let whole = Self {
            target,
            form,
            role,
            topology: Mutex::new(Arc::new(topology)),
            walk: tokio::sync::Mutex::default(),
            masters: (purpose == BulkPurpose::Fill).then(tokio::sync::Mutex::default),
            turn: OnceLock::new(),
        };
        whole.meet().await.map_err(|error| EngineOpenError::new(error.0))?;
        if purpose == BulkPurpose::Fill {
            whole.take_turn().await.map_err(|error| EngineOpenError::new(error.0))?;
        }
        Ok(Arc::new(whole))
    }

    /// Who has which slots, as far as it is known.
    pub(super) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An error of this database.
    pub(super) fn failed(&self, why: &str) -> BulkError {
        BulkError(format!("the Redis of {}: {why}", self.target.describe()))
    }

    /// Looks who has which slots by now.
    pub(super) async fn survey(&self) -> Result<(), BulkError> {
        if !matches!(self.target.servers, RedisServers::Cluster(_)) {
            return Err(self.failed("it is a node of a cluster: write redis+cluster:// and its address"));
        }
        let found = cluster(&self.target, &self.role).await.map_err(|failure| self.failed(&failure.why))?;
        *self.topology.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        self.call_again().await?;
        self.meet().await
    }

    /// Notes what servers records may be written to.
    async fn meet(&self) -> Result<(), BulkError> {
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

    /// Fails if one of them is not the same master any more: what it had not passed on is lost.
    pub(super) async fn check_masters(&self) -> Result<(), BulkError> {
        let Some(masters) = &self.masters else { return Ok(()) };
        for (node, known) in masters.lock().await.iter() {
            if !self.standing(node).await?.is_still(known) {
                return Err(self.failed(&format!(
                    "{} is no longer the master that was written to, and may have lost some of that: run this again",
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

    /// Finds all servers anew, or opens the one there is once more.
    pub(super) async fn survey_or_reopen(&self) -> Result<(), BulkError> {
        match RedisNode::of_target(&self.target, &self.role) {
            None => self.survey().await,
            Some(node) => {
                node.open().await.map_err(|failure| self.failed(&failure.why))?;
                *self.topology.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Topology::one(node));
                self.call_again().await
            }
        }
    }

    pub(super) async fn connect_referred(
        &self,
        details: &str,
        from: &RedisNode,
    ) -> Result<Arc<RedisNode>, BulkError> {
        let unknown = || self.failed("a node refers to nobody");
        let address = match referred(details, from).ok_or_else(unknown)? {
            Referral::To(address) => address,
            // Those that have a slot are surveyed, so that this one is on its way.
            Referral::Unnamed(slot) => {
                let replies = from.exchange(&ask_nodes(), LIMIT).await;
                let replies = replies.map_err(|failure| self.failed(&failure.why))?;
                topology::unnamed(&replies, slot, true).ok_or_else(unknown)?
            }
        };
        if let Some(node) = self.topology().node(&address) {
            return Ok(Arc::clone(node));
        }
        let node = RedisNode::of_cluster(address, &self.target.access, &self.role);
        node.open().await.map_err(|failure| self.failed(&failure.why))?;
        Ok(node)
    }

    fn full_key(&self, rest: &[u8]) -> Vec<u8> {
        [self.form.prefix().as_bytes(), rest].concat()
    }

    /// What is under these keys, of which each is told without what all begin with.
    async fn look_up(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Item>>, BulkError> {
        let job = |rest: &Vec<u8>| {
            let key = self.full_key(rest);
            let command = self.form.look_up(&key);
            KeyJob::new(key, vec![command])
        };
        let jobs = self.run(keys.iter().map(job).collect()).await?;
        Ok(keys.into_iter().zip(&jobs).map(|(key, job)| self.item(key, job)).collect())
    }

    fn item(&self, key: Vec<u8>, job: &KeyJob) -> Option<Item> {
        if job.has_wrong_type() {
            let record = Err("the key holds another type of value".to_owned());
            return Some(Item { key, held: Vec::new(), record });
        }
        let reply = job.replies.first()?;
        let held = self.form.held(reply)?;
        let record = match self.form.decode(reply) {
            Ok(record) => Ok(record?),
            Err(_) => Err(format!("cannot decode '{}'", held.escape_ascii())),
        };
        Some(Item { key, held, record })
    }

    async fn page(&self, from: Option<Cursor>, limit: usize) -> Result<Items, BulkError> {
        let (keys, next) = self.next_keys(from, limit).await?;
        Ok(Items { items: self.look_up(keys).await?.into_iter().flatten().collect(), next })
    }

    /// Does what the script has decided.
    fn swapped(&self, job: &KeyJob) -> Result<ChangeOutcome, BulkError> {
        match job.replies.as_slice() {
            [Value::Int(1)] => Ok(ChangeOutcome::Done),
            [Value::Int(0)] => Ok(ChangeOutcome::Changed),
            _ => Err(self.failed("an unknown reply of the script")),
        }
    }
}

/// All servers of a cluster, connected to.
async fn cluster(target: &RedisTarget, role: &NodeRole) -> Result<Topology, ConnectError> {
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

impl Bulk for RedisBulk {
    fn engine(&self) -> &'static str {
        self.form.engine()
    }

    fn describe(&self) -> String {
        format!("{}, {}", self.form.engine(), self.target.describe())
    }

    fn identity(&self, _token: &str, _first: bool) -> BulkFuture<'_, Vec<String>> {
        Box::pin(async {
            let mut names = Vec::new();
            for node in self.topology().nodes() {
                let mut question = redis::pipe();
                question.cmd("INFO").arg("server").cmd("INFO").arg("replication");
                let replies =
                    node.exchange(&question, LIMIT).await.map_err(|failure| self.failed(&failure.why))?;
                if let Some(failure) = replies.iter().find_map(refusal) {
                    return Err(self.failed(&format!(
                        "the account must be allowed to run INFO, to tell whether source and destination are the \
                         same ({})",
                        failure.why
                    )));
                }
                let texts = replies.into_iter().filter_map(|reply| redis::from_redis_value(reply).ok());
                let text: String = texts.collect::<Vec<String>>().join("\n");
                // A replica has what its master has.
                let known = text.lines().filter_map(|line| {
                    line.strip_prefix("run_id:").or_else(|| line.strip_prefix("master_replid:"))
                });
                let (engine, database) = (self.form.engine(), self.target.access.database());
                names.extend(known.map(|name| format!("{engine} {} {database}", name.trim())));
            }
            Ok(names)
        })
    }

    fn names(&self) -> BulkFuture<'_, Vec<String>> {
        Box::pin(async {
            let mut names = self.identity("", false).await?;
            let (engine, database) = (self.form.engine(), self.target.access.database());
            let addresses = self.target.resolved().await;
            names.extend(addresses.into_iter().map(|address| format!("{engine} {address} {database}")));
            Ok(names)
        })
    }

    fn zone(&self) -> Option<TimeZone> {
        self.form.zone().cloned()
    }

    fn has_stragglers(&self) -> bool {
        true
    }

    fn estimate(&self) -> BulkFuture<'_, Option<u64>> {
        Box::pin(async {
            let mut total = 0;
            for node in self.topology().nodes() {
                let mut question = redis::pipe();
                question.cmd("DBSIZE");
                match node.exchange(&question, LIMIT).await.as_deref() {
                    Ok([Value::Int(size)]) => total += u64::try_from(*size).unwrap_or_default(),
                    Ok(_) => return Ok(None),
                    Err(failure) => return Err(self.failed(&failure.why)),
                }
            }
            Ok(Some(total))
        })
    }

    fn has_whole_seconds(&self) -> bool {
        true
    }

    fn clamp(&self, record: &Record) -> Record {
        map_tallies(record, |_, tally| map_times(tally, |time| Some(self.form.clamp(time))))
    }

    fn read_back(&self, records: Vec<Record>) -> BulkFuture<'_, Vec<Record>> {
        let back = |record: &Record| {
            map_tallies(&self.clamp(record), |_, tally| map_times(tally, |time| self.form.read_back(time)))
        };
        let records = records.iter().map(back).collect();
        Box::pin(async { Ok(records) })
    }

    fn scan(&self, from: Option<Cursor>, limit: usize) -> BulkFuture<'_, Items> {
        Box::pin(self.page(from, limit))
    }

    fn read(&self, keys: Vec<Vec<u8>>) -> BulkFuture<'_, Vec<Option<Item>>> {
        Box::pin(self.look_up(keys))
    }

    fn store(&self, records: Vec<Put>) -> BulkFuture<'_, Vec<ChangeOutcome>> {
        Box::pin(async move {
            let job = |put: &Put| {
                let key = self.form.key(put.digest);
                let commands = self.form.store(&key, &self.clamp(&put.record), put.expires);
                KeyJob::new(key, commands)
            };
            let count = records.len();
            let jobs = self.run(records.iter().map(job).collect()).await?;
            let in_the_way: Vec<KeyJob> = jobs
                .into_iter()
                .filter(KeyJob::has_wrong_type)
                .map(|job| {
                    let delete = redis::cmd("DEL").arg(&job.key).take();
                    KeyJob::new(job.key, [vec![delete], job.commands].concat())
                })
                .collect();
            self.run(in_the_way).await?;
            Ok(vec![ChangeOutcome::Done; count])
        })
    }

    fn add(&self, additions: Vec<Addition>) -> BulkFuture<'_, Vec<ChangeOutcome>> {
        Box::pin(async move {
            let mut outcomes = vec![ChangeOutcome::Changed; additions.len()];
            let mut places = Vec::new();
            let mut jobs = Vec::new();
            for (at, addition) in additions.iter().enumerate() {
                let (held, there) = match &addition.seen {
                    None => (self.form.held_of_nothing(), Record::default()),
                    Some(Item { held, record: Ok(record), .. }) => (held.clone(), *record),
                    Some(Item { record: Err(why), .. }) => {
                        outcomes[at] = ChangeOutcome::Refused(format!("in the destination: {why}"));
                        continue;
                    }
                };
                let key = self.form.key(addition.digest);
                let sum = self.clamp(&united(&there, &addition.record));
                let command = self.form.replace(&key, &held, &sum, addition.expires);
                places.push(at);
                jobs.push(KeyJob::new(key, vec![command]));
            }
            for (at, job) in places.into_iter().zip(self.run(jobs).await?) {
                outcomes[at] = self.swapped(&job)?;
            }
            Ok(outcomes)
        })
    }

    fn delete(&self, items: Vec<Item>) -> BulkFuture<'_, Vec<ChangeOutcome>> {
        Box::pin(async move {
            let job = |item: Item| {
                let key = self.full_key(&item.key);
                let command = self.form.delete(&key, &item.held);
                KeyJob::new(key, vec![command])
            };
            let jobs = self.run(items.into_iter().map(job).collect()).await?;
            jobs.iter().map(|job| self.swapped(job)).collect()
        })
    }

    /// Redis alone knows when it writes to its disk. But a master that was replaced goes on as if nothing
    /// had happened, and what it is told is lost.
    fn sync(&self) -> BulkFuture<'_, ()> {
        Box::pin(self.check_masters())
    }

    fn is_lazy(&self) -> bool {
        true
    }

    fn repeats(&self) -> bool {
        true
    }

    fn refuse_volatile(&self) -> BulkFuture<'_, ()> {
        Box::pin(self.refuse_volatile())
    }

    fn bring_to_disk(&self) -> BulkFuture<'_, ()> {
        Box::pin(self.bring_to_disk())
    }

    fn close(&self) -> BulkFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

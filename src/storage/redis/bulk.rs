//! A Redis database as a source or destination of `pyzor-migrate`.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use jiff::tz::TimeZone;
use redis::Value;

use super::bulk_servers::cluster;
use super::connection::refusal;
use super::key_jobs::KeyJob;
use super::key_scan::KeyScan;
use super::node::{NodeRole, RedisNode};
use super::node_standing::NodeStanding;
use super::record_form::RecordForm;
use super::target::RedisTarget;
use super::topology::Topology;
use crate::record::Record;
use crate::storage::bulk::Cursor;
use crate::storage::bulk::{
    Addition, Bulk, BulkError, BulkFuture, BulkPurpose, ChangeOutcome, Item, Items, Put, map_tallies,
    map_times, united,
};
use crate::storage::remote::start::connect_once;
use crate::storage::{EngineOpenError, EngineOptions};

/// Maximum time for the reply to a pipeline.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// Pause between two attempts while a server is loading, busy or failing over.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// Maximum number of attempts while a server is loading, busy or failing over.
pub(super) const ROUNDS: usize = 60;

/// Servers, with their standing when they were first connected to.
type Masters = Vec<(Arc<RedisNode>, NodeStanding)>;

/// A whole database.
pub(super) struct RedisBulk {
    pub(super) target: RedisTarget,
    pub(super) form: RecordForm,
    pub(super) role: NodeRole,
    pub(super) topology: Mutex<Arc<Topology>>,
    pub(super) key_scan: tokio::sync::Mutex<Option<KeyScan>>,
    /// The servers that may have been written to; none unless the database is filled.
    pub(super) masters: Option<tokio::sync::Mutex<Masters>>,
    /// The connection name that marks this run as the only writer.
    pub(super) writer_name: OnceLock<String>,
}

impl RedisBulk {
    /// Opens a database for one of the purposes.
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
            key_scan: tokio::sync::Mutex::default(),
            masters: (purpose == BulkPurpose::Fill).then(tokio::sync::Mutex::default),
            writer_name: OnceLock::new(),
        };
        whole.note_masters().await.map_err(|error| EngineOpenError::new(error.0))?;
        if purpose == BulkPurpose::Fill {
            whole.become_only_writer().await.map_err(|error| EngineOpenError::new(error.0))?;
        }
        Ok(Arc::new(whole))
    }

    /// Returns an error that names this database.
    pub(super) fn failed(&self, why: &str) -> BulkError {
        BulkError(format!("the Redis of {}: {why}", self.target.describe()))
    }

    /// Returns the key in Redis for a key without the prefix.
    fn full_key(&self, rest: &[u8]) -> Vec<u8> {
        [self.form.prefix().as_bytes(), rest].concat()
    }

    /// Reads the values of keys without their prefix.
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

    /// Returns the outcome that the script has replied.
    fn swap_outcome(&self, job: &KeyJob) -> Result<ChangeOutcome, BulkError> {
        match job.replies.as_slice() {
            [Value::Int(1)] => Ok(ChangeOutcome::Done),
            [Value::Int(0)] => Ok(ChangeOutcome::Changed),
            _ => Err(self.failed("unexpected reply of the script")),
        }
    }
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
                        "the account may not run INFO, which is needed to see whether source and destination are the \
                         same database ({}): allow it",
                        failure.why
                    )));
                }
                let texts = replies.into_iter().filter_map(|reply| redis::from_redis_value(reply).ok());
                let text: String = texts.collect::<Vec<String>>().join("\n");
                // A replica has the records of its master.
                let ids = text.lines().filter_map(|line| {
                    line.strip_prefix("run_id:").or_else(|| line.strip_prefix("master_replid:"))
                });
                let (engine, database) = (self.form.engine(), self.target.access.database);
                names.extend(ids.map(|id| format!("{engine} {} {database}", id.trim())));
            }
            Ok(names)
        })
    }

    fn names(&self) -> BulkFuture<'_, Vec<String>> {
        Box::pin(async {
            let mut names = self.identity("", false).await?;
            let (engine, database) = (self.form.engine(), self.target.access.database);
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
            let overwrites: Vec<KeyJob> = jobs
                .into_iter()
                .filter(KeyJob::has_wrong_type)
                .map(|job| {
                    let delete = redis::cmd("DEL").arg(&job.key).take();
                    KeyJob::new(job.key, [vec![delete], job.commands].concat())
                })
                .collect();
            self.run(overwrites).await?;
            Ok(vec![ChangeOutcome::Done; count])
        })
    }

    fn add(&self, additions: Vec<Addition>) -> BulkFuture<'_, Vec<ChangeOutcome>> {
        Box::pin(async move {
            let mut outcomes = vec![ChangeOutcome::Changed; additions.len()];
            let mut indexes = Vec::new();
            let mut jobs = Vec::new();
            for (at, addition) in additions.iter().enumerate() {
                let (held, present) = match &addition.seen {
                    None => (self.form.held_if_absent(), Record::default()),
                    Some(Item { held, record: Ok(record), .. }) => (held.clone(), *record),
                    Some(Item { record: Err(why), .. }) => {
                        outcomes[at] = ChangeOutcome::Refused(format!("in the destination: {why}"));
                        continue;
                    }
                };
                let key = self.form.key(addition.digest);
                let sum = self.clamp(&united(&present, &addition.record));
                let command = self.form.replace(&key, &held, &sum, addition.expires);
                indexes.push(at);
                jobs.push(KeyJob::new(key, vec![command]));
            }
            for (at, job) in indexes.into_iter().zip(self.run(jobs).await?) {
                outcomes[at] = self.swap_outcome(&job)?;
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
            jobs.iter().map(|job| self.swap_outcome(job)).collect()
        })
    }

    /// Only checks for failovers, after which records may be lost. Redis decides itself when it writes to its disk.
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

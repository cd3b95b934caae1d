//! Durability: servers that keep nothing on disk are refused, and writes are flushed to disk before records are deleted
//! elsewhere.

use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, Value};
use tracing::warn;

use super::bulk::{LIMIT, PAUSE, ROUNDS, RedisBulk};
use super::key_scan::{REPETITIONS, SLOTS_MOVE};
use super::node::RedisNode;
use super::topology::SLOTS;
use crate::record::Record;
use crate::storage::bulk::BulkError;

/// Maximum wait for an fsync of the append-only file. With `appendfsync no` there is none.
const SYNC: Duration = Duration::from_secs(5);
/// Number of keys to try for a write to a node, because slots of some may be moving.
const PROBES: usize = 16;
/// The end of error messages about servers that cannot be made durable.
const OVERRIDE: &str =
    "or run this with --no-durability, which deletes records before they are on the disk of the destination";

impl RedisBulk {
    /// Returns an error if a server keeps nothing on disk, or evicts records when its memory is full.
    pub(super) async fn refuse_volatile(&self) -> Result<(), BulkError> {
        for node in self.topology().nodes() {
            let mut question = redis::pipe();
            question.cmd("INFO").arg("memory");
            let memory = match self.ask(node, &question).await? {
                // A refused INFO is reported below.
                Value::ServerError(_) => InfoReply(String::new()),
                reply => InfoReply(redis::from_redis_value(reply).unwrap_or_default()),
            };
            let is_limited = memory.value("maxmemory").is_some_and(|limit| limit != "0");
            let policy = memory.value("maxmemory_policy").unwrap_or_default();
            if is_limited && !policy.is_empty() && policy != "noeviction" {
                return Err(self.failed(&format!(
                    "{} evicts records when its memory is full (maxmemory-policy {policy}), so that --delete can lose \
                     them: set maxmemory-policy noeviction there, {OVERRIDE}",
                    self.name(node)
                )));
            }
            if self.persistence(node).await?.is("aof_enabled", "1") {
                continue;
            }
            let mut question = redis::pipe();
            question.cmd("CONFIG").arg("GET").arg("save");
            let save = match self.ask(node, &question).await? {
                Value::ServerError(error) => {
                    let name = self.name(node);
                    let why = error.details().unwrap_or_default();
                    warn!(
                        "cannot determine whether {name} writes snapshots: CONFIG GET save is refused ({why}): check \
                         that save is set there"
                    );
                    continue;
                }
                reply => redis::from_redis_value::<Vec<String>>(reply).unwrap_or_default(),
            };
            if save.get(1).is_none_or(String::is_empty) {
                return Err(self.failed(&format!(
                    "{} keeps nothing on its disk, so that --delete would leave the records only in its memory: set \
                     appendonly yes or save there, {OVERRIDE}",
                    self.name(node)
                )));
            }
        }
        Ok(())
    }

    /// Waits until everything that was stored is on the disks of all servers.
    pub(super) async fn bring_to_disk(&self) -> Result<(), BulkError> {
        let mut before = Vec::new();
        // Keys may move from a server that has not been flushed yet to one that has.
        for _ in 0..=REPETITIONS {
            let nodes = self.changed_servers(&mut before).await?;
            if nodes.is_empty() {
                return self.check_masters().await;
            }
            for node in nodes {
                if !self.persistence(&node).await?.is("aof_enabled", "1") {
                    self.save(&node).await?;
                } else if !self.sync_file(&node).await? {
                    self.rewrite_file(&node).await?;
                }
            }
        }
        Err(self.failed(SLOTS_MOVE))
    }

    /// Waits for an fsync of the append-only file. Returns false if the server makes none.
    async fn sync_file(&self, node: &Arc<RedisNode>) -> Result<bool, BulkError> {
        // WAITAOF waits for the last write of this connection, so write something: other nodes may have sent keys
        // since.
        let topology = self.topology();
        let keys = (0..SLOTS * 4).map(|number| format!("pyzord.probe.{number}").into_bytes());
        let own = keys.filter(|key| topology.route(key).is_some_and(|owner| Arc::ptr_eq(owner, node)));
        for key in own.take(PROBES) {
            let mut waiting = redis::pipe();
            for command in self.form.store(&key, &Record::default(), None) {
                waiting.add_command(command);
            }
            waiting.cmd("EXPIRE").arg(&key).arg(0);
            waiting.cmd("WAITAOF").arg(1).arg(0).arg(SYNC.as_millis().to_string());
            let replies =
                node.exchange(&waiting, LIMIT).await.map_err(|failure| self.failed(&failure.why))?;
            let Some((reply, changes)) = replies.split_last() else { return Ok(false) };
            let refused = changes.iter().find_map(|reply| match reply {
                Value::ServerError(error) => Some(error),
                _ => None,
            });
            match refused {
                // WAITAOF itself fails on older servers, or if the account may not run it.
                None => {
                    let has_synced = |synced: &Vec<Value>| synced.first() == Some(&Value::Int(1));
                    return Ok(matches!(reply, Value::Array(synced) if has_synced(synced)));
                }
                Some(error) if matches!(error.code(), "MOVED" | "ASK") => {}
                Some(error) => {
                    let (name, why) = (self.name(node), error.details().unwrap_or_default());
                    return Err(self.failed(&format!("{name} refuses a write: {} {why}", error.code())));
                }
            }
        }
        Ok(false)
    }

    /// Makes the server rewrite the append-only file, which ends with an fsync.
    async fn rewrite_file(&self, node: &RedisNode) -> Result<(), BulkError> {
        let mut rewriting = redis::pipe();
        rewriting.cmd("BGREWRITEAOF");
        self.start(node, &rewriting, "WAITAOF or BGREWRITEAOF").await?;
        self.ended(node, &["aof_rewrite_in_progress", "aof_rewrite_scheduled"], "aof_last_bgrewrite_status")
            .await
    }

    /// Makes the server write a snapshot, which ends with an fsync.
    async fn save(&self, node: &RedisNode) -> Result<(), BulkError> {
        let mut saving = redis::pipe();
        saving.cmd("BGSAVE");
        for _ in 0..ROUNDS {
            let before = self.persistence(node).await?.value("rdb_last_save_time");
            // The time of the last save is in whole seconds.
            tokio::time::sleep(Duration::from_millis(1100)).await;
            self.start(node, &saving, "BGSAVE").await?;
            self.ended(node, &["rdb_bgsave_in_progress"], "rdb_last_bgsave_status").await?;
            // Another command may have aborted the save, without a failed status.
            if self.persistence(node).await?.value("rdb_last_save_time") != before {
                return Ok(());
            }
        }
        Err(self.failed(&format!(
            "{}: each BGSAVE was aborted before it finished: run this again later",
            self.name(node)
        )))
    }

    /// Starts a background job of the server, when no other one is running.
    async fn start(&self, node: &RedisNode, command: &Pipeline, needed: &str) -> Result<(), BulkError> {
        loop {
            let Value::ServerError(error) = self.ask(node, command).await? else { return Ok(()) };
            let why = error.details().unwrap_or_default();
            if !why.contains("in progress") && !why.contains("process is active") {
                return Err(self.failed(&format!(
                    "{} refuses to write to its disk ({} {why}): allow the account {needed}, {OVERRIDE}",
                    self.name(node),
                    error.code()
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits for the end of a background job: until no field of `busy` is 1. Then the field `status` must be ok.
    async fn ended(&self, node: &RedisNode, busy: &[&str], status: &str) -> Result<(), BulkError> {
        loop {
            let now = self.persistence(node).await?;
            if busy.iter().all(|name| !now.is(name, "1")) {
                return match now.is(status, "ok") {
                    true => Ok(()),
                    false => Err(self.failed(&format!(
                        "{} could not write to its disk ({status} of INFO): see its log",
                        self.name(node)
                    ))),
                };
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn persistence(&self, node: &RedisNode) -> Result<InfoReply, BulkError> {
        let mut question = redis::pipe();
        question.cmd("INFO").arg("persistence");
        match self.ask(node, &question).await? {
            Value::ServerError(error) => Err(self.failed(&format!(
                "the account may not run INFO, which is needed to see what is on the disk ({}): allow it, {OVERRIDE}",
                error.details().unwrap_or_default()
            ))),
            reply => Ok(InfoReply(redis::from_redis_value(reply).unwrap_or_default())),
        }
    }

    /// Sends commands to a server and returns the last reply.
    pub(super) async fn ask(&self, node: &RedisNode, question: &Pipeline) -> Result<Value, BulkError> {
        let replies = node.exchange(question, LIMIT).await.map_err(|failure| self.failed(&failure.why))?;
        Ok(replies.into_iter().next_back().unwrap_or(Value::Nil))
    }

    /// Returns a server's name for messages that also name the database.
    pub(super) fn name(&self, node: &RedisNode) -> String {
        node.address().map_or_else(|| "the master".to_owned(), ToString::to_string)
    }
}

/// The fields of a reply to `INFO`.
struct InfoReply(String);

impl InfoReply {
    fn value(&self, name: &str) -> Option<String> {
        let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
        self.0.lines().find_map(value)
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.value(name).as_deref() == Some(value)
    }
}

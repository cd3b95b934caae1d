//! Execution of a batch: plans the commands, sends them to their servers, and interprets the replies.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use redis::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connection::in_words;
use super::node::{NodeRole, RedisNode};
use super::record_form::RecordForm;
use super::refusal::RedisRefusal;
use super::target::{RedisAddress, RedisTarget};
use super::topology::Topology;
use crate::storage::remote::findings::StoreFindings;
use crate::storage::remote::presence::time_left;
use crate::storage::remote::refusals::Refusals;
use crate::storage::{Batch, BatchEntry, StorageError};

/// Maximum number of times that a command is sent, because of referrals and of a server that does not have the script.
const ROUNDS: usize = 5;

/// Maximum number of digests that one call of the script counts. Redis does nothing else during the call. In a cluster
/// a call has one digest, because all its keys must be in the same slot.
const CALL: usize = 256;

/// The addresses of nodes without a host name, by referring node, slot, and whether the referral was an `ASK`; each
/// with the time of the query.
type UnnamedNodes = HashMap<(RedisAddress, usize, bool), (Instant, RedisAddress)>;

/// The state shared between the engine and its background tasks.
pub(super) struct RedisCore {
    pub(super) target: RedisTarget,
    pub(super) form: RecordForm,
    /// Seconds after which records expire; none: never.
    pub(super) age: Option<u64>,
    pub(super) topology: ArcSwap<Topology>,
    /// Triggers a survey of the cluster.
    pub(super) stale: Notify,
    /// Nodes found by referral since the last survey.
    pub(super) referred_nodes: Mutex<Vec<Arc<RedisNode>>>,
    /// Nodes without a host name found by referral since the last survey.
    pub(super) unnamed: Mutex<UnnamedNodes>,
    pub(super) refusals: Refusals,
    pub(super) findings: StoreFindings,
}

/// One command for one digest of a batch.
pub(super) struct BatchCommand {
    /// Index of the digest's entry in the batch.
    entry: usize,
    kind: CommandKind,
    node: Arc<RedisNode>,
    /// Whether another node referred to this one with `ASK`.
    asking: bool,
    /// Whether the node does not have the script.
    unscripted: bool,
    /// Whether it needs a script call of its own: in a cluster, or because the account may not access some key of a
    /// larger call.
    alone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CommandKind {
    LookUp,
    Count,
}

impl RedisCore {
    /// Returns the role of all servers: counting.
    pub(super) fn role(&self) -> NodeRole {
        NodeRole::Change(self.form.trial(self.age))
    }

    /// Returns the commands of a batch, without those whose server is unavailable or unknown.
    pub(super) fn plan(&self, batch: &Batch) -> Vec<BatchCommand> {
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
            let kinds = [(CommandKind::LookUp, entry.look_up), (CommandKind::Count, entry.changes())];
            for (kind, _) in kinds.into_iter().filter(|(_, is_needed)| *is_needed) {
                tasks.push(BatchCommand {
                    entry: at,
                    kind,
                    node: Arc::clone(node),
                    asking: false,
                    unscripted: false,
                    alone: node.is_of_cluster(),
                });
            }
        }
        tasks
    }

    /// Executes the commands of a batch, and stores the outcomes in it.
    pub(super) async fn serve(&self, mut batch: Batch, mut tasks: Vec<BatchCommand>) -> Batch {
        let deadline = Instant::now() + time_left(batch.since());
        let moment = self.form.moment(batch.now());
        for _ in 0..ROUNDS {
            let groups = by_node(std::mem::take(&mut tasks));
            let entries = batch.entries();
            let runs = groups.iter().map(|group| self.run_group(group, entries, &moment, deadline));
            let replies = join_all(runs).await;
            for (group, replies) in groups.into_iter().zip(replies) {
                if replies == Err(StorageError::InDoubt) {
                    let counts = group.iter().filter(|task| task.kind == CommandKind::Count);
                    counts.for_each(|task| batch.entries_mut()[task.entry].doubt());
                }
                for (task, reply) in group.into_iter().zip(replies.unwrap_or_default()) {
                    tasks.extend(
                        self.apply_reply(&mut batch.entries_mut()[task.entry], task, reply, deadline).await,
                    );
                }
            }
            if tasks.is_empty() {
                break;
            }
        }
        batch
    }

    /// Sends the commands for one server, and returns the replies in the order of the commands.
    ///
    /// # Errors
    ///
    /// Those of [`RedisNode::run`].
    async fn run_group(
        &self,
        group: &[BatchCommand],
        entries: &[BatchEntry],
        moment: &str,
        deadline: Instant,
    ) -> Result<Vec<Value>, StorageError> {
        let Some(BatchCommand { node, .. }) = group.first() else { return Ok(Vec::new()) };
        let mut pipeline = redis::Pipeline::with_capacity(group.len());
        if group.iter().any(|task| task.unscripted) {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(self.form.script());
        }
        // Look-ups come first, because they must return the records as they were before the batch.
        let (look_ups, counts): (Vec<usize>, Vec<usize>) =
            (0..group.len()).partition(|at| group[*at].kind == CommandKind::LookUp);
        let (alone, counts): (Vec<usize>, Vec<usize>) = counts.into_iter().partition(|at| group[*at].alone);
        let mut calls: Vec<(usize, &[usize])> = Vec::with_capacity(group.len());
        for call in look_ups.chunks(1).chain(alone.chunks(1)).chain(counts.chunks(CALL)) {
            let task = &group[call[0]];
            if task.asking {
                pipeline.cmd("ASKING");
            }
            calls.push((pipeline.len(), call));
            let entry = &entries[task.entry];
            pipeline.add_command(match task.kind {
                CommandKind::LookUp if entry.times => self.form.look_up(&self.form.key(entry.digest)),
                CommandKind::LookUp => self.form.look_up_counts(&self.form.key(entry.digest)),
                CommandKind::Count => {
                    let entries = call.iter().map(|at| &entries[group[*at].entry]);
                    let changes = entries.map(|entry| (entry.digest, [entry.reports, entry.whitelists]));
                    self.form.count(&changes.collect::<Vec<_>>(), moment, self.age)
                }
            });
        }
        let mut replies = node.run(&pipeline, deadline).await?;
        let mut taken = vec![Value::Nil; group.len()];
        for (at, call) in calls {
            match (group[call[0]].kind, replies.get_mut(at).map(std::mem::take).unwrap_or_default()) {
                (CommandKind::Count, Value::Array(outcomes)) if outcomes.len() == call.len() => {
                    call.iter().zip(outcomes).for_each(|(at, outcome)| taken[*at] = outcome);
                }
                (CommandKind::LookUp, reply) => taken[call[0]] = reply,
                // The whole call was refused.
                (CommandKind::Count, reply) => call.iter().for_each(|at| taken[*at] = reply.clone()),
            }
        }
        Ok(taken)
    }

    /// Stores the outcome of a reply in the batch, or returns the command to send again if it was not executed.
    async fn apply_reply(
        &self,
        entry: &mut BatchEntry,
        task: BatchCommand,
        reply: Value,
        deadline: Instant,
    ) -> Option<BatchCommand> {
        let outcome = match (task.kind, reply) {
            (_, Value::ServerError(error)) => match RedisRefusal::of(&error) {
                RedisRefusal::NoScript => return Some(BatchCommand { unscripted: true, ..task }),
                meaning @ (RedisRefusal::Moved | RedisRefusal::Ask) => {
                    let asking = meaning == RedisRefusal::Ask;
                    let node = self.follow(&task.node, error.details(), asking, deadline).await?;
                    return Some(BatchCommand { node, asking, ..task });
                }
                // The call has changed nothing: repeat it for each digest alone.
                RedisRefusal::ForbiddenKey if task.kind == CommandKind::Count && !task.alone => {
                    return Some(BatchCommand { alone: true, ..task });
                }
                RedisRefusal::WrongType => Err(StorageError::Damaged),
                meaning => {
                    let why = in_words(&redis::RedisError::from(error));
                    let is_unusable = matches!(meaning, RedisRefusal::Temporary | RedisRefusal::Forbidden);
                    if is_unusable && let Some(epoch) = task.node.presence().epoch() {
                        task.node.presence().lost(epoch, &why);
                    }
                    if is_unusable || meaning == RedisRefusal::NoSlot {
                        self.stale.notify_one();
                    }
                    if meaning == RedisRefusal::ReadOnly && task.kind == CommandKind::Count {
                        task.node.changes().refused(&why);
                    }
                    Err(self.refusals.refused(&why))
                }
            },
            (CommandKind::LookUp, reply) => {
                entry.found = self.form.decode(&reply).map(Option::unwrap_or_default);
                entry.found.map(|_| ())
            }
            (CommandKind::Count, Value::Int(1)) => {
                task.node.changes().accepted();
                Ok(())
            }
            (CommandKind::Count, Value::Int(0)) => Err(StorageError::Damaged),
            (CommandKind::Count, _) => {
                self.refusals.refused("unexpected reply of the script");
                Err(StorageError::InDoubt)
            }
        };
        match task.kind {
            CommandKind::LookUp => entry.found = outcome.and(entry.found),
            CommandKind::Count => (entry.reported, entry.whitelisted) = (outcome, outcome),
        }
        if outcome == Err(StorageError::Damaged) {
            self.refusals.damaged(entry.digest);
        }
        None
    }

    pub(super) fn unnamed(&self) -> MutexGuard<'_, UnnamedNodes> {
        self.unnamed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the node with this address, if it is in the topology or was found by referral.
    pub(super) fn node_at(&self, address: &RedisAddress) -> Option<Arc<RedisNode>> {
        if let Some(node) = self.topology.load().node(address) {
            return Some(Arc::clone(node));
        }
        self.referred_nodes().iter().find(|node| node.address() == Some(address)).cloned()
    }

    pub(super) fn referred_nodes(&self) -> MutexGuard<'_, Vec<Arc<RedisNode>>> {
        self.referred_nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Groups the commands by server.
fn by_node(tasks: Vec<BatchCommand>) -> Vec<Vec<BatchCommand>> {
    let mut groups: Vec<Vec<BatchCommand>> = Vec::new();
    for task in tasks {
        match groups.iter_mut().find(|group| Arc::ptr_eq(&group[0].node, &task.node)) {
            Some(group) => group.push(task),
            None => groups.push(vec![task]),
        }
    }
    groups
}

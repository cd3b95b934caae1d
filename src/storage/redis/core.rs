//! What a batch asks of the servers: which commands, to whom, and what their replies mean.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
use super::topology::{Referral, Topology, ask_nodes, referred, unnamed};
use crate::storage::remote::presence::time_left;
use crate::storage::remote::refusals::Refusals;
use crate::storage::{Batch, BatchEntry, StorageError};

/// How long a node that another one referred to may take to be connected to.
const REFERRED_NODE_LIMIT: Duration = Duration::from_millis(300);
/// How often a command is sent at most: referred from node to node, and once more when a server did
/// not know the script.
const ROUNDS: usize = 5;

/// For how many digests a script counts in one call, during which Redis does nothing else. In a cluster all
/// keys of a call must have one slot, which those of a batch hardly ever do: there it is one.
const CALL: usize = 256;

/// How long it is known which node without a name another one means.
const UNNAMED_PERIOD: Duration = Duration::from_secs(1);

/// What has been asked, of which node, for which slot and whether for one on its way; and the answer.
type Unnamed = HashMap<(RedisAddress, usize, bool), (Instant, RedisAddress)>;

/// The servers and all that is known of them.
pub(super) struct RedisCore {
    pub(super) target: RedisTarget,
    pub(super) form: RecordForm,
    pub(super) age: Option<u64>,
    pub(super) topology: ArcSwap<Topology>,
    /// Asks for a look at who has which slots.
    pub(super) stale: Notify,
    /// Nodes that others have referred to since the last such look.
    pub(super) referred_nodes: Mutex<Vec<Arc<RedisNode>>>,
    /// Which nodes without a name others have referred to since then.
    pub(super) unnamed: Mutex<Unnamed>,
    pub(super) refusals: Refusals,
}

/// One command for one digest of a batch.
pub(super) struct BatchCommand {
    entry: usize,
    step: CommandKind,
    node: Arc<RedisNode>,
    /// Whether the node was told by another one to take it.
    asking: bool,
    /// Whether the node did not know the script.
    unscripted: bool,
    /// Whether it is to be counted by a call of its own, since the account may not touch some key of the last one.
    alone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CommandKind {
    LookUp,
    Count,
}

impl RedisCore {
    /// What servers are wanted for.
    pub(super) fn role(&self) -> NodeRole {
        NodeRole::Change(self.form.trial(self.age))
    }

    /// What to send for a batch; nothing for what cannot be had now.
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
            let steps = [(CommandKind::LookUp, entry.look_up), (CommandKind::Count, entry.changes())];
            for (step, _) in steps.into_iter().filter(|(_, wanted)| *wanted) {
                tasks.push(BatchCommand {
                    entry: at,
                    step,
                    node: Arc::clone(node),
                    asking: false,
                    unscripted: false,
                    alone: node.is_of_cluster(),
                });
            }
        }
        tasks
    }

    pub(super) async fn serve(&self, mut batch: Batch, mut tasks: Vec<BatchCommand>) -> Batch {
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
        group: &[BatchCommand],
        entries: &[BatchEntry],
        moment: &str,
        deadline: Instant,
    ) -> Option<Vec<Value>> {
        let node = &group.first()?.node;
        let mut pipeline = redis::Pipeline::with_capacity(group.len());
        if group.iter().any(|task| task.unscripted) {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(self.form.script());
        }
        // All records are wanted as they were before the batch.
        let (look_ups, counts): (Vec<usize>, Vec<usize>) =
            (0..group.len()).partition(|at| group[*at].step == CommandKind::LookUp);
        let (alone, counts): (Vec<usize>, Vec<usize>) = counts.into_iter().partition(|at| group[*at].alone);
        let mut calls: Vec<(usize, &[usize])> = Vec::with_capacity(group.len());
        for call in look_ups.chunks(1).chain(alone.chunks(1)).chain(counts.chunks(CALL)) {
            let task = &group[call[0]];
            if task.asking {
                pipeline.cmd("ASKING");
            }
            calls.push((pipeline.len(), call));
            let entry = &entries[task.entry];
            pipeline.add_command(match task.step {
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
            match (group[call[0]].step, std::mem::take(replies.get_mut(at)?)) {
                (CommandKind::Count, Value::Array(outcomes)) if outcomes.len() == call.len() => {
                    call.iter().zip(outcomes).for_each(|(at, outcome)| taken[*at] = outcome);
                }
                (CommandKind::LookUp, reply) => taken[call[0]] = reply,
                // The whole call was refused.
                (CommandKind::Count, reply) => call.iter().for_each(|at| taken[*at] = reply.clone()),
            }
        }
        Some(taken)
    }

    /// Takes one reply; returns what is to be sent again, since it was not done.
    async fn take(
        &self,
        entry: &mut BatchEntry,
        task: BatchCommand,
        reply: Value,
        deadline: Instant,
    ) -> Option<BatchCommand> {
        let outcome = match (task.step, reply) {
            (_, Value::ServerError(error)) => match RedisRefusal::of(&error) {
                RedisRefusal::NoScript => return Some(BatchCommand { unscripted: true, ..task }),
                meaning @ (RedisRefusal::Moved | RedisRefusal::Ask) => {
                    let asking = meaning == RedisRefusal::Ask;
                    let node = self.refer(&task.node, error.details(), asking, deadline).await?;
                    return Some(BatchCommand { node, asking, ..task });
                }
                // Nothing of the call was done.
                RedisRefusal::ForbiddenKey if task.step == CommandKind::Count && !task.alone => {
                    return Some(BatchCommand { alone: true, ..task });
                }
                RedisRefusal::WrongType => Err(StorageError::Damaged),
                meaning => {
                    let why = in_words(&redis::RedisError::from(error));
                    let is_absent = matches!(meaning, RedisRefusal::Passing | RedisRefusal::Forbidden);
                    if is_absent && let Some(epoch) = task.node.presence().epoch() {
                        task.node.presence().lost(epoch, &why);
                    }
                    if is_absent || meaning == RedisRefusal::NoSlot {
                        self.stale.notify_one();
                    }
                    Err(self.refusals.refused(&why))
                }
            },
            (CommandKind::LookUp, reply) => {
                entry.found = self.form.decode(&reply).map(Option::unwrap_or_default);
                entry.found.map(|_| ())
            }
            (CommandKind::Count, Value::Int(1)) => Ok(()),
            (CommandKind::Count, Value::Int(0)) => Err(StorageError::Damaged),
            (CommandKind::Count, _) => Err(self.refusals.refused("an unknown reply of the script")),
        };
        match task.step {
            CommandKind::LookUp => entry.found = outcome.and(entry.found),
            CommandKind::Count => (entry.reported, entry.whitelisted) = (outcome, outcome),
        }
        if outcome == Err(StorageError::Damaged) {
            self.refusals.damaged(entry.digest);
        }
        None
    }

    /// The node to which another one refers for a key.
    async fn refer(
        &self,
        from: &RedisNode,
        details: Option<&str>,
        asking: bool,
        deadline: Instant,
    ) -> Option<Arc<RedisNode>> {
        if !asking {
            self.stale.notify_one();
        }
        let address = match referred(details?, from)? {
            Referral::To(address) => address,
            Referral::Unnamed(slot) => self.address_of(from, slot, asking, deadline).await?,
        };
        match self.known(&address) {
            Some(node) => Some(node),
            None => self.connect_referred(address, deadline).await,
        }
    }

    /// The address of the node without a name that another one means, for a key of this slot.
    async fn address_of(
        &self,
        from: &RedisNode,
        slot: usize,
        asking: bool,
        deadline: Instant,
    ) -> Option<RedisAddress> {
        let question = (from.address()?.clone(), slot, asking);
        if let Some((since, known)) = self.unnamed().get(&question)
            && since.elapsed() < UNNAMED_PERIOD
        {
            return Some(known.clone());
        }
        let replies = from.run(&ask_nodes(), deadline).await?;
        let found = unnamed(&replies, slot, asking);
        if found.is_none() {
            self.refusals
                .refused("a node refers to one without a name, and CLUSTER NODES does not tell which");
        }
        self.unnamed().insert(question, (Instant::now(), found.clone()?));
        found
    }

    pub(super) fn unnamed(&self) -> MutexGuard<'_, Unnamed> {
        self.unnamed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of this address, if there is a connection to it.
    pub(super) fn known(&self, address: &RedisAddress) -> Option<Arc<RedisNode>> {
        if let Some(node) = self.topology.load().node(address) {
            return Some(Arc::clone(node));
        }
        self.referred_nodes().iter().find(|node| node.address() == Some(address)).cloned()
    }

    /// A connection to a node that has just joined; the next survey will find it, too. One that cannot be
    /// reached is away, so that it is not tried for each digest.
    async fn connect_referred(&self, address: RedisAddress, deadline: Instant) -> Option<Arc<RedisNode>> {
        let node = RedisNode::of_cluster(address, &self.target.access, &self.role());
        let limit = deadline.min(Instant::now() + REFERRED_NODE_LIMIT);
        let unreachable = match tokio::time::timeout_at(limit, node.open()).await {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure.why),
            Err(_) => Some("it does not answer in time".to_owned()),
        };
        node.keep(unreachable.as_deref());
        self.referred_nodes().push(Arc::clone(&node));
        unreachable.is_none().then_some(node)
    }

    pub(super) fn referred_nodes(&self) -> MutexGuard<'_, Vec<Arc<RedisNode>>> {
        self.referred_nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tasks of each server together.
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

//! Commands for single keys, sent to whichever servers have them.

use std::sync::Arc;

use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use redis::{Cmd, Pipeline, RedisError, ServerError, Value};

use super::bulk::{LIMIT, PAUSE, ROUNDS, RedisBulk};
use super::node::RedisNode;
use super::refusal::RedisRefusal;
use crate::storage::bulk::BulkError;
use crate::storage::remote::start::ConnectError;

/// How many changes are sent at once, and how often, before the first replies are there.
const TOGETHER: usize = 500;
const AHEAD: usize = 4;

/// Commands for one key, which are sent in a row.
pub(super) struct KeyJob {
    pub(super) key: Vec<u8>,
    pub(super) commands: Vec<Cmd>,
    /// The node that another one has named for it, which has to be told so.
    asking: Option<Arc<RedisNode>>,
    pub(super) replies: Vec<Value>,
}

impl KeyJob {
    /// Nothing has been sent yet.
    pub(super) fn new(key: Vec<u8>, commands: Vec<Cmd>) -> Self {
        Self { key, commands, asking: None, replies: Vec::new() }
    }

    /// The first refusal, but for that of a value of another type.
    fn refused(&self) -> Option<(RedisRefusal, &ServerError)> {
        let mut refused = self.replies.iter().filter_map(|reply| match reply {
            Value::ServerError(error) => Some((RedisRefusal::of(error), error)),
            _ => None,
        });
        refused.find(|(meaning, _)| *meaning != RedisRefusal::WrongType)
    }

    /// Whether another type of value is in the way.
    pub(super) fn has_wrong_type(&self) -> bool {
        self.replies.iter().any(
            |reply| matches!(reply, Value::ServerError(error) if RedisRefusal::of(error) == RedisRefusal::WrongType),
        )
    }
}

impl RedisBulk {
    /// Has all jobs done, wherever their keys are.
    pub(super) async fn run(&self, mut jobs: Vec<KeyJob>) -> Result<Vec<KeyJob>, BulkError> {
        let mut pending: Vec<usize> = (0..jobs.len()).collect();
        for _ in 0..ROUNDS {
            let topology = self.topology();
            let mut groups: Vec<(Arc<RedisNode>, Vec<usize>)> = Vec::new();
            for at in pending.drain(..) {
                let node = jobs[at].asking.as_ref().or_else(|| topology.route(&jobs[at].key));
                let node = node.ok_or_else(|| self.failed("no node has some of the slots"))?;
                match groups
                    .iter_mut()
                    .find(|(known, group)| Arc::ptr_eq(known, node) && group.len() < TOGETHER)
                {
                    Some((_, group)) => group.push(at),
                    None => groups.push((Arc::clone(node), vec![at])),
                }
            }
            let sent = groups.iter().map(|(node, group)| send(node, group, &jobs));
            let sent: Vec<_> = iter(sent.collect::<Vec<_>>())
                .buffered(AHEAD)
                .try_collect()
                .await
                .map_err(|failure: ConnectError| self.failed(&failure.why))?;
            for ((_, group), replies) in groups.iter().zip(sent) {
                for (at, replies) in group.iter().zip(replies) {
                    jobs[*at].replies = replies;
                }
            }
            let (mut moved, mut wait, mut unscripted) = (false, false, false);
            for (node, group) in groups {
                for at in group {
                    let job = &mut jobs[at];
                    job.asking = None;
                    let Some((meaning, error)) = job.refused() else { continue };
                    match meaning {
                        RedisRefusal::Moved => moved = true,
                        RedisRefusal::Ask => {
                            job.asking = Some(
                                self.connect_referred(error.details().unwrap_or_default(), &node).await?,
                            );
                        }
                        RedisRefusal::Passing | RedisRefusal::NoSlot => wait = true,
                        RedisRefusal::NoScript => unscripted = true,
                        _ => return Err(self.failed(&RedisError::from(error.clone()).to_string())),
                    }
                    pending.push(at);
                }
            }
            if pending.is_empty() {
                return Ok(jobs);
            }
            if moved || unscripted {
                // Who is met anew is told the script.
                self.survey_or_reopen().await?;
            }
            if wait || moved {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Err(self.failed("it has been busy with itself for too long"))
    }
}

/// Sends the commands of some jobs; their replies are in the order of the jobs.
async fn send(node: &RedisNode, group: &[usize], jobs: &[KeyJob]) -> Result<Vec<Vec<Value>>, ConnectError> {
    let mut pipeline = Pipeline::with_capacity(group.len() * 2);
    for at in group {
        for command in &jobs[*at].commands {
            // It holds for one command.
            if jobs[*at].asking.is_some() {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(command.clone());
        }
    }
    let mut replies = node.exchange(&pipeline, LIMIT).await?.into_iter();
    let mut of_job = |at: &usize| {
        let asking = usize::from(jobs[*at].asking.is_some());
        let count = jobs[*at].commands.len();
        (0..count).filter_map(|_| replies.nth(asking)).collect()
    };
    Ok(group.iter().map(&mut of_job).collect())
}

//! Commands for single keys, sent to the servers that have the keys.

use std::sync::Arc;

use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use redis::{Cmd, Pipeline, RedisError, ServerError, Value};

use super::bulk::{LIMIT, PAUSE, ROUNDS, RedisBulk};
use super::node::RedisNode;
use super::refusal::RedisRefusal;
use crate::storage::bulk::BulkError;
use crate::storage::remote::start::ConnectError;

/// Maximum number of jobs in one pipeline.
const JOBS_PER_PIPELINE: usize = 500;
/// Number of pipelines that are sent before the replies to the first are awaited.
const PIPELINES_IN_FLIGHT: usize = 4;

/// Commands for one key, which are sent in order, and their replies.
pub(super) struct KeyJob {
    pub(super) key: Vec<u8>,
    pub(super) commands: Vec<Cmd>,
    /// The node to which another one referred with `ASK`; it takes the commands only after `ASKING`.
    asking: Option<Arc<RedisNode>>,
    pub(super) replies: Vec<Value>,
}

impl KeyJob {
    /// A job that has not been sent yet.
    pub(super) fn new(key: Vec<u8>, commands: Vec<Cmd>) -> Self {
        Self { key, commands, asking: None, replies: Vec::new() }
    }

    /// Returns the first refusal other than a wrong type of value.
    fn refused(&self) -> Option<(RedisRefusal, &ServerError)> {
        let mut refused = self.replies.iter().filter_map(|reply| match reply {
            Value::ServerError(error) => Some((RedisRefusal::of(error), error)),
            _ => None,
        });
        refused.find(|(meaning, _)| *meaning != RedisRefusal::WrongType)
    }

    /// Whether the key holds another type of value.
    pub(super) fn has_wrong_type(&self) -> bool {
        self.replies.iter().any(
            |reply| matches!(reply, Value::ServerError(error) if RedisRefusal::of(error) == RedisRefusal::WrongType),
        )
    }
}

/// Jobs for one server in one pipeline, as indexes into the list of jobs.
type JobGroup = (Arc<RedisNode>, Vec<usize>);

/// The steps before refused jobs are sent again.
#[derive(Default)]
struct BeforeRetry {
    needs_survey: bool,
    needs_pause: bool,
}

impl RedisBulk {
    /// Executes all jobs, and repeats those that a server could not execute at that moment.
    pub(super) async fn run(&self, mut jobs: Vec<KeyJob>) -> Result<Vec<KeyJob>, BulkError> {
        let mut pending: Vec<usize> = (0..jobs.len()).collect();
        for _ in 0..ROUNDS {
            let groups = self.by_node(std::mem::take(&mut pending), &jobs)?;
            let sent = groups.iter().map(|(node, group)| send(node, group, &jobs));
            let sent: Vec<_> = iter(sent.collect::<Vec<_>>())
                .buffered(PIPELINES_IN_FLIGHT)
                .try_collect()
                .await
                .map_err(|failure: ConnectError| self.failed(&failure.why))?;
            let mut before_retry = BeforeRetry::default();
            for ((node, group), replies) in groups.iter().zip(sent) {
                for (at, replies) in group.iter().zip(replies) {
                    jobs[*at].replies = replies;
                    if self.must_repeat(&mut jobs[*at], node, &mut before_retry).await? {
                        pending.push(*at);
                    }
                }
            }
            if pending.is_empty() {
                return Ok(jobs);
            }
            if before_retry.needs_survey {
                self.survey_or_reopen().await?;
            }
            if before_retry.needs_pause {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Err(self.failed("a server was loading, busy or failing over for too long: run this again later"))
    }

    fn by_node(&self, pending: Vec<usize>, jobs: &[KeyJob]) -> Result<Vec<JobGroup>, BulkError> {
        let topology = self.topology();
        let mut groups: Vec<JobGroup> = Vec::new();
        for at in pending {
            let node = jobs[at].asking.as_ref().or_else(|| topology.route(&jobs[at].key));
            let node =
                node.ok_or_else(|| self.failed("no node owns some of the slots: repair the cluster first"))?;
            match groups
                .iter_mut()
                .find(|(known, group)| Arc::ptr_eq(known, node) && group.len() < JOBS_PER_PIPELINE)
            {
                Some((_, group)) => group.push(at),
                None => groups.push((Arc::clone(node), vec![at])),
            }
        }
        Ok(groups)
    }

    /// Whether a job was refused temporarily and must be sent again. Any other refusal is an error.
    async fn must_repeat(
        &self,
        job: &mut KeyJob,
        node: &RedisNode,
        before_retry: &mut BeforeRetry,
    ) -> Result<bool, BulkError> {
        job.asking = None;
        let Some((meaning, error)) = job.refused() else { return Ok(false) };
        match meaning {
            RedisRefusal::Moved => {
                before_retry.needs_survey = true;
                before_retry.needs_pause = true;
            }
            RedisRefusal::Ask => {
                job.asking = Some(self.connect_referred(error.details().unwrap_or_default(), node).await?);
            }
            RedisRefusal::Temporary | RedisRefusal::NoSlot => before_retry.needs_pause = true,
            // New connections load the script.
            RedisRefusal::NoScript => before_retry.needs_survey = true,
            _ => return Err(self.failed(&RedisError::from(error.clone()).to_string())),
        }
        Ok(true)
    }
}

/// Sends the commands of some jobs, and returns their replies in the order of the jobs.
async fn send(node: &RedisNode, group: &[usize], jobs: &[KeyJob]) -> Result<Vec<Vec<Value>>, ConnectError> {
    let mut pipeline = Pipeline::with_capacity(group.len() * 2);
    for at in group {
        for command in &jobs[*at].commands {
            // ASKING applies to the next command only.
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

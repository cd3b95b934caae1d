//! The number of records and the memory of all servers, measured in the background for operators.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use redis::Value;
use tokio::time::sleep;

use super::core::RedisCore;
use super::node::RedisNode;
use super::refusal::RedisRefusal;
use super::target::RedisAddress;
use crate::storage::remote::findings::{MEASURING_PERIOD, MEASURING_STEP, StoreSize};
use crate::storage::remote::presence::LIMIT;

/// The line of `INFO memory` with the memory that the server has allocated.
const MEMORY: &str = "used_memory:";

/// The servers and their connections at one moment.
type Connections = Vec<(Option<RedisAddress>, Option<u64>)>;

/// Commands that a server does not permit. They are not sent again on the same connections, because servers log that.
#[derive(Clone, Copy, Debug, Default)]
struct DeniedCommands {
    dbsize: bool,
    info: bool,
}

/// Measures all servers every minute, and soon after a server has become available or unavailable.
pub(super) async fn keep(shared: Arc<RedisCore>) {
    let mut measured: Option<(Instant, Connections)> = None;
    let mut denied = DeniedCommands::default();
    loop {
        let topology = shared.topology.load_full();
        let connections: Connections =
            topology.nodes().iter().map(|node| (node.address().cloned(), node.presence().epoch())).collect();
        let is_new = measured.as_ref().is_none_or(|(_, before)| *before != connections);
        if is_new {
            denied = DeniedCommands::default();
        }
        if is_new || measured.as_ref().is_some_and(|(at, _)| at.elapsed() >= MEASURING_PERIOD) {
            shared.findings.measured(measure(topology.nodes(), &mut denied).await);
            measured = Some((Instant::now(), connections));
        }
        drop(topology);
        sleep(MEASURING_STEP).await;
    }
}

/// Returns the sums of all servers. A sum is unknown if that of one server is.
async fn measure(nodes: &[Arc<RedisNode>], denied: &mut DeniedCommands) -> StoreSize {
    let sizes = join_all(nodes.iter().map(|node| measure_one(node, *denied))).await;
    for (_, also) in &sizes {
        denied.dbsize |= also.dbsize;
        denied.info |= also.info;
    }
    let sum = |one: fn(&StoreSize) -> Option<u64>| {
        sizes.iter().map(|(size, _)| one(size)).sum::<Option<u64>>().filter(|_| !sizes.is_empty())
    };
    StoreSize { records: sum(|size| size.records), bytes: sum(|size| size.bytes) }
}

async fn measure_one(node: &RedisNode, denied: DeniedCommands) -> (StoreSize, DeniedCommands) {
    let mut question = redis::pipe();
    if !denied.dbsize {
        question.cmd("DBSIZE");
    }
    if !denied.info {
        question.cmd("INFO").arg("memory");
    }
    if question.is_empty() || node.presence().epoch().is_none() {
        return (StoreSize::default(), denied);
    }
    // A failure does not make the server unavailable: the check of its connection decides that.
    let Ok(replies) = node.exchange(&question, LIMIT).await else {
        return (StoreSize::default(), denied);
    };
    let mut replies = replies.into_iter();
    let mut next = |is_denied: &mut bool| {
        let reply = if *is_denied { None } else { replies.next() };
        *is_denied |= reply.as_ref().is_some_and(is_forbidden);
        reply
    };
    let mut denied = denied;
    let records = next(&mut denied.dbsize);
    let memory = next(&mut denied.info);
    let size = StoreSize {
        records: records.and_then(|reply| redis::from_redis_value(reply).ok()),
        bytes: memory
            .and_then(|reply| redis::from_redis_value::<String>(reply).ok())
            .and_then(|info| memory_of(&info)),
    };
    (size, denied)
}

fn is_forbidden(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if matches!(RedisRefusal::of(error), RedisRefusal::Forbidden))
}

/// Returns the allocated memory in a reply to `INFO memory`.
fn memory_of(info: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix(MEMORY))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_in_info() {
        let info = "# Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\n";
        assert_eq!(memory_of(info), Some(1_048_576));
        for other in ["", "used_memory_rss:5\r\n", "used_memory:\r\n", "used_memory:-1\r\n", "used_memory:x"]
        {
            assert_eq!(memory_of(other), None, "{other}");
        }
    }
}

//! `SCAN` of one server.

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::connection;
use super::core::RedisCore;
use super::node::RedisNode;
use crate::storage::StorageError;

/// Returns the command that lists some keys with a prefix.
pub(super) fn command(prefix: &str, cursor: &str, limit: usize) -> Cmd {
    let mut cmd = redis::cmd("SCAN");
    cmd.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(limit.max(1));
    cmd
}

impl RedisCore {
    /// Returns the next cursor and some keys with this prefix.
    pub(super) async fn scan_keys(
        &self,
        node: &RedisNode,
        prefix: &str,
        cursor: &str,
        limit: usize,
        deadline: Instant,
    ) -> Result<(String, Vec<Vec<u8>>), StorageError> {
        let mut pipeline = redis::pipe();
        pipeline.add_command(command(prefix, cursor, limit));
        let mut replies = node.run(&pipeline, deadline).await?;
        let reply = replies.pop().unwrap_or(Value::Nil);
        if let Some(failure) = connection::refusal(&reply) {
            return Err(self.refusals.refused(&failure.why));
        }
        redis::from_redis_value(reply).map_err(|error| self.refusals.refused(&error.to_string()))
    }
}

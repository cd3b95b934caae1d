//! Walking through all keys, server by server.

use redis::Value;
use tokio::time::Instant;

use super::node::Node;
use super::place;
use super::work::Shared;
use crate::storage::presence::LIMIT;
use crate::storage::{Cursor, Page, StorageError};

impl Shared {
    /// Some keys of one server after the other, and what is under them.
    pub(super) async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Page, StorageError> {
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
    pub(super) async fn scan_keys(
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

    #[test]
    fn a_cursor_survives() {
        assert_eq!(parse_cursor(&cursor_of(3, "17")), Some((3, "17".to_owned())));
        assert_eq!(parse_cursor(&Cursor(b"x".to_vec())), None);
    }
}

//! Mutual exclusion of runs that write into the same database, by the names of their connections (`CLIENT LIST`).

use std::time::Duration;

use redis::Value;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::bulk::{PAUSE, RedisBulk};
use crate::record::Timestamp;
use crate::storage::bulk::BulkError;

/// Prefix of the connection names of all runs.
const PREFIX: &str = "pyzor-migrate.";
/// Maximum wait for another run. The connection of a killed run stays until the server has executed its commands.
const OTHERS_LIMIT: Duration = Duration::from_secs(60);

impl RedisBulk {
    /// Waits until no other run writes into this database, and makes others wait for this one.
    pub(super) async fn become_only_writer(&self) -> Result<(), BulkError> {
        let name = format!("{PREFIX}{}.{}", std::process::id(), Timestamp::now().micros());
        let (end, mut is_logged) = (Instant::now() + OTHERS_LIMIT, false);
        loop {
            let mut others = self.others(&name).await?;
            if others.as_ref().is_some_and(Vec::is_empty) {
                self.name_connections(&name).await?;
                others = self.others(&name).await?;
            }
            let Some(others) = others else { return Ok(()) };
            let Some(other) = others.first() else {
                let _ = self.writer_name.set(name);
                return Ok(());
            };
            // Two runs that started at the same time see each other only now: both withdraw and retry.
            self.name_connections("").await?;
            let what = format!(
                "another pyzor-migrate, or the connection of a killed one, is writing to this database ({other})"
            );
            if Instant::now() >= end {
                return Err(self.failed(&format!("{what}: wait until it has ended")));
            }
            if !std::mem::replace(&mut is_logged, true) {
                warn!("{}: waiting for up to {} s", self.failed(&what), OTHERS_LIMIT.as_secs());
            }
            sleep(PAUSE + Duration::from_millis(u64::from(std::process::id() % 200))).await;
        }
    }

    /// Gives new connections the name of this run, if it is the only writer.
    pub(super) async fn name_new_connections(&self) -> Result<(), BulkError> {
        match self.writer_name.get() {
            Some(name) => self.name_connections(name).await,
            None => Ok(()),
        }
    }

    async fn name_connections(&self, name: &str) -> Result<(), BulkError> {
        let mut naming = redis::pipe();
        naming.cmd("CLIENT").arg("SETNAME").arg(name);
        for node in self.topology().nodes() {
            if let Value::ServerError(error) = self.ask(node, &naming).await? {
                self.warn_unchecked(&error);
                break;
            }
        }
        Ok(())
    }

    /// Returns the addresses of other runs' connections, or none if the account may not list connections.
    async fn others(&self, own: &str) -> Result<Option<Vec<String>>, BulkError> {
        let mut others = Vec::new();
        let mut question = redis::pipe();
        question.cmd("CLIENT").arg("LIST");
        for node in self.topology().nodes() {
            let clients: String = match self.ask(node, &question).await? {
                Value::ServerError(error) => {
                    self.warn_unchecked(&error);
                    return Ok(None);
                }
                reply => redis::from_redis_value(reply).unwrap_or_default(),
            };
            let database = format!("db={}", self.target.access.database);
            let is_other = |line: &&str| {
                let mut fields = line.split(' ');
                fields.clone().any(|field| field == database)
                    && fields.any(|field| {
                        field
                            .strip_prefix("name=")
                            .is_some_and(|name| name.starts_with(PREFIX) && name != own)
                    })
            };
            others.extend(clients.lines().filter(is_other).map(|line| {
                let address = line.split(' ').find(|field| field.starts_with("addr="));
                address.unwrap_or("unknown address").to_owned()
            }));
        }
        Ok(Some(others))
    }

    fn warn_unchecked(&self, error: &redis::ServerError) {
        warn!(
            "{}",
            self.failed(&format!(
                "cannot determine whether another pyzor-migrate is writing to this database: {} {}: allow the \
                 account CLIENT SETNAME and CLIENT LIST",
                error.code(),
                error.details().unwrap_or_default()
            ))
        );
    }
}

//! One run at a time writes: its connections have a name, by which another one knows them.

use std::time::Duration;

use redis::Value;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::bulk::{PAUSE, RedisBulk};
use crate::record::Timestamp;
use crate::storage::bulk::BulkError;

/// What all these names begin with.
const PREFIX: &str = "pyzor-migrate.";
/// How long another run is waited for. One that was killed is there until the server has done what it had sent.
const OTHERS_LIMIT: Duration = Duration::from_secs(60);

impl RedisBulk {
    /// Waits until no other run writes into this database, and has others wait for this one.
    pub(super) async fn take_turn(&self) -> Result<(), BulkError> {
        let name = format!("{PREFIX}{}.{}", std::process::id(), Timestamp::now().micros());
        let (end, mut is_told) = (Instant::now() + OTHERS_LIMIT, false);
        loop {
            let mut others = self.others(&name).await?;
            if others.as_ref().is_some_and(Vec::is_empty) {
                self.call(&name).await?;
                others = self.others(&name).await?;
            }
            let Some(others) = others else { return Ok(()) };
            let Some(other) = others.first() else {
                // Connections that are made later are named, too.
                let _ = self.turn.set(name);
                return Ok(());
            };
            // Of two that begin at the same time neither sees the other before.
            self.call("").await?;
            let what = format!(
                "another pyzor-migrate, or what is left of one that was killed, writes there ({other})"
            );
            if Instant::now() >= end {
                return Err(self.failed(&format!("{what}: wait for its end")));
            }
            if !std::mem::replace(&mut is_told, true) {
                warn!("{}: waiting for up to {} s", self.failed(&what), OTHERS_LIMIT.as_secs());
            }
            sleep(PAUSE + Duration::from_millis(u64::from(std::process::id() % 200))).await;
        }
    }

    /// Names the connections to all servers by the name of this run, if it has one.
    pub(super) async fn call_again(&self) -> Result<(), BulkError> {
        match self.turn.get() {
            Some(name) => self.call(name).await,
            None => Ok(()),
        }
    }

    async fn call(&self, name: &str) -> Result<(), BulkError> {
        let mut naming = redis::pipe();
        naming.cmd("CLIENT").arg("SETNAME").arg(name);
        for node in self.topology().nodes() {
            if let Value::ServerError(error) = self.ask(node, &naming).await? {
                self.cannot_tell(&error);
                break;
            }
        }
        Ok(())
    }

    /// Connections of other runs; none if the servers do not tell.
    async fn others(&self, own: &str) -> Result<Option<Vec<String>>, BulkError> {
        let mut others = Vec::new();
        let mut question = redis::pipe();
        question.cmd("CLIENT").arg("LIST");
        for node in self.topology().nodes() {
            let clients: String = match self.ask(node, &question).await? {
                Value::ServerError(error) => {
                    self.cannot_tell(&error);
                    return Ok(None);
                }
                reply => redis::from_redis_value(reply).unwrap_or_default(),
            };
            let database = format!("db={}", self.target.access.database());
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
                address.unwrap_or("a client of it").to_owned()
            }));
        }
        Ok(Some(others))
    }

    fn cannot_tell(&self, error: &redis::ServerError) {
        warn!(
            "{}: cannot tell whether another pyzor-migrate writes there: {} {}",
            self.failed("allow CLIENT SETNAME and CLIENT LIST"),
            error.code(),
            error.details().unwrap_or_default()
        );
    }
}

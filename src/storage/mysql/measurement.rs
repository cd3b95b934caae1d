//! The size of the table, and whether the server accepts changes, measured in the background for operators.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Error, Row};
use tokio::time::{sleep, timeout};

use super::core::MySqlCore;
use super::errors::is_denied;
use crate::storage::remote::findings::{MEASURING_PERIOD, MEASURING_STEP, StoreSize};
use crate::storage::remote::presence::{LIMIT, RemoteStore};

/// Time between two trials of a server that refuses changes.
const TRIAL_PERIOD: Duration = Duration::from_secs(5);
/// Makes MySQL 8 return numbers that are not up to a day old. Other servers refuse it.
const FRESH: &str = "SET SESSION information_schema_stats_expiry = 0";
/// The estimates of the server.
const SIZE: &str = "SELECT TABLE_ROWS, DATA_LENGTH + INDEX_LENGTH FROM information_schema.TABLES WHERE TABLE_SCHEMA = \
                    ? AND TABLE_NAME = ?";

/// Measures the table every minute, and soon after the server has become available or unavailable.
pub(super) async fn keep(shared: Arc<MySqlCore>) {
    let mut measured: Option<(Instant, Option<u64>)> = None;
    let mut tried = Instant::now();
    loop {
        let epoch = shared.pool.presence().epoch();
        let is_due = measured.is_none_or(|(at, before)| before != epoch || at.elapsed() >= MEASURING_PERIOD);
        if is_due {
            let size = if epoch.is_some() { measure(&shared).await } else { None };
            shared.findings.measured(size.unwrap_or_default());
            measured = Some((Instant::now(), epoch));
        }
        let is_refused = tried.elapsed() >= TRIAL_PERIOD && shared.changes.refusal().is_some();
        if epoch.is_some() && (is_due || is_refused) {
            try_change(&shared).await;
            tried = Instant::now();
        }
        sleep(MEASURING_STEP).await;
    }
}

/// Returns the estimated size of the table; none if the server does not answer. That does not make it unavailable: the
/// check of its connections decides that.
async fn measure(shared: &MySqlCore) -> Option<StoreSize> {
    let measured = timeout(LIMIT, async {
        let mut lease = shared.pool.take().await.ok()?;
        match lease.connection.query_drop(FRESH).await {
            Ok(()) | Err(Error::Server(_)) => {}
            Err(_) => return None,
        }
        let rows: Option<Row> = match lease.connection.exec_first(SIZE, shared.pool.target.names()).await {
            Ok(row) => row,
            Err(Error::Server(_)) => None,
            Err(_) => return None,
        };
        lease.put_back();
        rows
    });
    let row = measured.await.ok()??;
    let number = |at: usize| row.get_opt::<Option<u64>, _>(at).and_then(Result::ok).flatten();
    Some(StoreSize { records: number(0), bytes: number(1) })
}

/// Tries a change of no rows, which a read-only server refuses, and an account without the privilege.
async fn try_change(shared: &MySqlCore) {
    let statement = format!("UPDATE {} SET r_count = r_count WHERE FALSE", shared.pool.table().name);
    // Ends early, and leaves the connection unused, if the server does not answer.
    let _ = timeout(LIMIT, async {
        let Ok(mut lease) = shared.pool.take().await else { return };
        match lease.connection.query_drop(statement).await {
            Ok(()) => {
                shared.changes.trial_accepted();
                lease.put_back();
            }
            Err(Error::Server(error)) if is_denied(error.code) => {
                shared.changes.trial_refused(&error.to_string());
                // Only new connections see privileges that are granted later.
                if shared.may_renew() {
                    shared.pool.forget();
                }
            }
            Err(Error::Server(_)) => lease.put_back(),
            Err(_) => {}
        }
    })
    .await;
}

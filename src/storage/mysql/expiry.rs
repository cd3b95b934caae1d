//! Deleting expired records in small slices, and a check for keys that are not digests.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Error, Params, Row, Value};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::core::MySqlCore;
use super::errors::is_timeout;
use super::pool::Lease;
use super::rows::{decode_age, decode_held, digest_of};
use super::statement_size::StatementSize;
use super::table::{TIMES, within};
use crate::record::Timestamp;
use crate::storage::remote::presence::{LIMIT, RemoteStore};
use crate::storage::{ExpiryStatus, one_line};
use pyzor_wire::digest::Digest;

/// The time between two runs.
const PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
/// The time until the next run if one has failed.
const RETRY: Duration = Duration::from_secs(60);
/// The most records that one statement reads.
const SLICE: usize = 1000;
/// The most records that one statement deletes. Other clients wait for its locks.
const DELETED_AT_ONCE: usize = 100;
/// Number of expired rows locked by other clients above which a run fails.
const MOST_LOCKED: u64 = 10;
/// The shortest pause between two statements. A pause is at least as long as the statement before it.
const PAUSE: Duration = Duration::from_millis(2);
/// The most time that a deletion may take. It may wait for a locked row while batches wait for its connection.
const DELETION_LIMIT: Duration = Duration::from_millis(300);
/// The difference between the clocks of both machines above which a warning is logged, in seconds.
const MOST_APART: u64 = 3600;
/// The number of keys that are checked at startup for keys that are not digests.
const SAMPLE: usize = 1000;

/// Totals of one run through the table.
#[derive(Default)]
struct ExpiryTotals {
    records: u64,
    deleted: u64,
    /// Expired records that were locked by other clients.
    locked: u64,
    longest: Duration,
}

impl ExpiryTotals {
    /// Returns the result for operators.
    fn status(&self, error: Option<&String>) -> ExpiryStatus {
        ExpiryStatus {
            removed: self.deleted,
            visited: self.records,
            error: error.map(|why| one_line(why)),
            ..ExpiryStatus::default()
        }
    }
}

/// Checks the keys of the table once, then expires records once a day, until the task is aborted.
pub(super) async fn keep(shared: Arc<MySqlCore>, age: Option<Duration>) {
    let name = shared.pool.target.describe();
    if let Err(why) = check_keys(&shared).await {
        warn!("cannot check the keys of the MySQL server {name}: {why}");
    }
    let Some(age) = age else { return };
    loop {
        let start = Instant::now();
        shared.findings.expiry_planned(start);
        let (totals, outcome) = sweep(&shared, age).await;
        let period = if outcome.is_ok() { PERIOD } else { RETRY };
        shared.findings.expiry_ended(totals.status(outcome.as_ref().err()), Instant::now() + period);
        match outcome {
            Ok(()) => {
                info!(
                    "Expiry: removed {} of {} records in {:.1} s (longest statement {} µs){}",
                    totals.deleted,
                    totals.records,
                    start.elapsed().as_secs_f64(),
                    totals.longest.as_micros(),
                    match totals.locked {
                        0 => String::new(),
                        locked => format!("; {locked} locked by other clients, left for the next run"),
                    },
                );
            }
            Err(why) => {
                if shared.pool.presence().epoch().is_some() {
                    warn!(
                        "cannot expire records of the MySQL server {name}: {why}; retrying in {} s",
                        RETRY.as_secs()
                    );
                }
            }
        }
        sleep(period).await;
    }
}

/// A random number from 0 to 1.
pub(super) fn random_share() -> f64 {
    (random() >> 32) as f64 / f64::from(u32::MAX)
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Deletes the expired records of the whole table. Begins at a random key, so that servers that share a table and start
/// together work on different rows. Returns what was done, even after an error.
async fn sweep(shared: &MySqlCore, age: Duration) -> (ExpiryTotals, Result<(), String>) {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    let mut sweep = TableExpiry {
        shared,
        horizon: Timestamp::from_micros(0),
        reading: StatementSize::new(SLICE),
        deleting: StatementSize::new(DELETED_AT_ONCE),
        totals: ExpiryTotals::default(),
    };
    let outcome = sweep.run_whole(age).await;
    (sweep.totals, outcome)
}

/// A run of expiry through the table.
struct TableExpiry<'a> {
    shared: &'a MySqlCore,
    /// Records that last changed before this time expire.
    horizon: Timestamp,
    reading: StatementSize,
    deleting: StatementSize,
    totals: ExpiryTotals,
}

impl TableExpiry<'_> {
    async fn run_whole(&mut self, age: i64) -> Result<(), String> {
        self.horizon = Timestamp::from_micros(self.now().await?.micros().saturating_sub(age));
        let middle = format!("{:016x}", random()).into_bytes();
        self.walk(middle.clone(), None).await?;
        self.walk(Vec::new(), Some(middle)).await
    }

    /// Returns the earlier one of this machine's time and the server's, so that one clock that is ahead cannot delete
    /// recent records.
    async fn now(&mut self) -> Result<Timestamp, String> {
        let (outcome, _) = self.run("SELECT UNIX_TIMESTAMP()".to_owned(), Vec::new()).await?;
        let row = outcome.and_then(|(rows, _)| rows.into_iter().next());
        let there = row.and_then(|row| row.get::<Option<i64>, _>(0).flatten());
        let there = there.ok_or("the server returned no time")?;
        let here = Timestamp::now().seconds();
        if here.abs_diff(there) > MOST_APART {
            warn!(
                "this machine's clock is {} s {} the clock of the MySQL server {}: correct the wrong one; until then \
                 records expire by the earlier one",
                here.abs_diff(there),
                if here > there { "ahead of" } else { "behind" },
                self.shared.pool.target.describe(),
            );
        }
        let now = here.min(there);
        if !TIMES.contains(&now) {
            return Err(
                "this machine's clock or the server's is before 1970 or after 2038: set it".to_owned()
            );
        }
        Ok(Timestamp::from_seconds(now))
    }

    /// Deletes the expired records after a key, up to `end` if it is given.
    async fn walk(&mut self, mut from: Vec<u8>, end: Option<Vec<u8>>) -> Result<(), String> {
        loop {
            let limit = self.reading.rows();
            let query = self.shared.pool.table().ages(self.horizon, limit, end.is_some());
            let bounds: Vec<Value> =
                [Some(from.clone()), end.clone()].into_iter().flatten().map(Value::from).collect();
            let (outcome, taken) = self.run(query, bounds).await?;
            note(&mut self.reading, limit, taken, outcome.is_some());
            let Some((rows, _)) = outcome else {
                if limit == 1 {
                    return Err("reading a single row timed out".to_owned());
                }
                continue;
            };
            let rows: Vec<(Vec<u8>, bool)> = rows.into_iter().map(decode_age).collect();
            self.totals.records += rows.len() as u64;
            let is_last = rows.len() < limit;
            if let Some((key, _)) = rows.last() {
                from.clone_from(key);
            }
            // Rows with other keys belong to another program: keep them.
            let expired = rows.iter().filter(|(_, is_expired)| *is_expired);
            let expired: Vec<Digest> = expired.filter_map(|(key, _)| digest_of(key)).collect();
            self.delete(&expired).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn delete(&mut self, mut digests: &[Digest]) -> Result<(), String> {
        while !digests.is_empty() {
            let table = self.shared.pool.table();
            let rows = digests.len().min(self.deleting.rows()).min(table.rows);
            let (part, rest) = digests.split_at(rows);
            let (outcome, taken) =
                self.run(within(DELETION_LIMIT, &table.expire(part, self.horizon)), Vec::new()).await?;
            note(&mut self.deleting, rows, taken, outcome.is_some());
            match outcome {
                Some((_, deleted)) => self.totals.deleted += deleted,
                // The next statement is smaller.
                None if rows > 1 => continue,
                None => self.totals.locked += 1,
            }
            if self.totals.locked > MOST_LOCKED {
                return Err("too many rows are locked by other clients".to_owned());
            }
            digests = rest;
        }
        Ok(())
    }

    /// Runs one statement, then pauses for as long as it took. Returns the rows and how many were changed, `None` if
    /// the statement timed out; and how long it took.
    async fn run(
        &mut self,
        statement: String,
        parameters: Vec<Value>,
    ) -> Result<(Option<(Vec<Row>, u64)>, Duration), String> {
        // Shares the pool with batches, so that expiry needs no connection of its own.
        let lease = limited(async { self.shared.pool.take().await.map_err(|failure| failure.why) });
        let mut lease = lease.await?;
        let start = Instant::now();
        let outcome = timeout(LIMIT, async {
            match parameters.is_empty() {
                true => lease.connection.query(statement).await,
                false => lease.connection.exec(statement, Params::Positional(parameters)).await,
            }
        });
        let outcome = outcome.await.ok();
        let taken = start.elapsed();
        let outcome = match outcome {
            Some(Ok(rows)) => {
                let changed = lease.connection.affected_rows();
                self.seen(lease);
                Some((rows, changed))
            }
            Some(Err(Error::Server(error))) if is_timeout(&error) => {
                self.seen(lease);
                None
            }
            Some(Err(error)) => return Err(error.to_string()),
            None => None,
        };
        self.totals.longest = self.totals.longest.max(taken);
        sleep(PAUSE.max(taken)).await;
        Ok((outcome, taken))
    }

    /// Notes that the server has answered, and returns the connection to the pool.
    fn seen(&self, lease: Lease<'_>) {
        self.shared.pool.presence().seen();
        lease.put_back();
    }
}

/// Records how long a statement took, or that it timed out.
fn note(statement_size: &mut StatementSize, rows: usize, taken: Duration, has_ended: bool) {
    match has_ended {
        true => statement_size.took(rows, taken, Instant::now()),
        false => statement_size.timed_out(rows, Instant::now()),
    }
}

async fn limited<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match timeout(LIMIT, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {} ms", LIMIT.as_millis())),
    }
}

/// Warns if some of the first keys of the table are not digests; this engine ignores their rows.
async fn check_keys(shared: &MySqlCore) -> Result<(), String> {
    let mut foreign = 0;
    let text = |error: Error| error.to_string();
    limited(async {
        let mut lease = shared.pool.take().await.map_err(|failure| failure.why)?;
        let rows: Vec<Row> = lease
            .connection
            .exec(shared.pool.table().page(SAMPLE, true), (String::new(),))
            .await
            .map_err(text)?;
        lease.put_back();
        foreign = rows.into_iter().filter(|row| digest_of(&decode_held(row.clone()).key).is_none()).count();
        Ok(())
    })
    .await?;
    if foreign > 0 {
        let problem = format!(
            "{foreign} of the first {SAMPLE} keys of the MySQL server {} are not digests and are ignored: migrate to \
             another database with pyzor-migrate to repair, merge or skip them",
            shared.pool.target.describe()
        );
        warn!("{problem}");
        shared.findings.problem(&problem);
    }
    Ok(())
}

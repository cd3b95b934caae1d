//! Deleting what has expired, in slices that hold nobody up, and the look for foreign keys.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Error, Params, Row, Value};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::core::{MySqlCore, is_timeout};
use super::pool::Lease;
use super::statement_size::StatementSize;
use super::table::{TIMES, decode_age, decode_held, digest_of, within};
use crate::record::Timestamp;
use crate::storage::remote::presence::{LIMIT, RemoteStore};
use pyzor_wire::digest::Digest;

/// How often expired records are looked for.
const PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
/// How soon that is tried again when it did not succeed.
const RETRY: Duration = Duration::from_secs(60);
/// How many records are looked at at a time at most, and how many are deleted by one statement, whose locks
/// others wait for.
const SLICE: usize = 1000;
const DELETED_AT_ONCE: usize = 100;
/// A walk is given up when others hold more expired rows locked.
const MOST_LOCKED: u64 = 10;
/// How long others have the table at least between two statements. As long as one took, at least.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a deletion may take, which may wait for a row that others hold while the service waits for its
/// connection.
const DELETION_LIMIT: Duration = Duration::from_millis(300);
/// How many seconds two clocks may be apart without a warning.
const MOST_APART: u64 = 3600;
/// How many keys are looked at at the start, to tell whether some are no digests.
const SAMPLE: usize = 1000;

/// What one walk through the table did.
#[derive(Default)]
struct ExpiryTotals {
    records: u64,
    deleted: u64,
    /// Expired ones that others held locked, and that are left to the next walk.
    locked: u64,
    longest: Duration,
}

/// Looks after a table until the engine is closed.
pub(super) async fn keep(shared: Arc<MySqlCore>, age: Option<Duration>) {
    let name = shared.pool.target.describe();
    if let Err(why) = look_for_foreign_keys(&shared).await {
        warn!("looking at the keys of {name} was given up: {why}");
    }
    let Some(age) = age else { return };
    loop {
        let start = Instant::now();
        match sweep(&shared, age).await {
            Ok(walked) => {
                info!(
                    "Expired {} of {} records in {:.1} s; no statement took longer than {} us{}",
                    walked.deleted,
                    walked.records,
                    start.elapsed().as_secs_f64(),
                    walked.longest.as_micros(),
                    match walked.locked {
                        0 => String::new(),
                        locked => format!("; {locked} were locked by others and stay until the next time"),
                    },
                );
                sleep(PERIOD).await;
            }
            Err(why) => {
                if shared.pool.presence().epoch().is_some() {
                    warn!("looking for expired records in {name} was given up: {why}");
                }
                sleep(RETRY).await;
            }
        }
    }
}

/// A number from 0 to 1 that nobody can tell before.
pub(super) fn random_share() -> f64 {
    (random() >> 32) as f64 / f64::from(u32::MAX)
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Walks through the whole table once, from some place in the middle to the end and from the
/// beginning to there: servers that share a table and start together are not in each other's way.
async fn sweep(shared: &MySqlCore, age: Duration) -> Result<ExpiryTotals, String> {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    let mut sweep = TableExpiry {
        shared,
        horizon: Timestamp::from_micros(0),
        reading: StatementSize::new(SLICE),
        deleting: StatementSize::new(DELETED_AT_ONCE),
        walked: ExpiryTotals::default(),
    };
    sweep.horizon = Timestamp::from_micros(sweep.now().await?.micros().saturating_sub(age));
    let middle = format!("{:016x}", random()).into_bytes();
    sweep.walk(middle.clone(), None).await?;
    sweep.walk(Vec::new(), Some(middle)).await?;
    Ok(sweep.walked)
}

/// A walk under way.
struct TableExpiry<'a> {
    shared: &'a MySqlCore,
    horizon: Timestamp,
    /// How many rows a statement may have.
    reading: StatementSize,
    deleting: StatementSize,
    walked: ExpiryTotals,
}

impl TableExpiry<'_> {
    /// The earlier one of this machine's time and the server's: one clock that is wrong must not delete what is recent.
    async fn now(&mut self) -> Result<Timestamp, String> {
        let (outcome, _) = self.run("SELECT UNIX_TIMESTAMP()".to_owned(), Vec::new()).await?;
        let row = outcome.and_then(|(rows, _)| rows.into_iter().next());
        let there = row.and_then(|row| row.get::<Option<i64>, _>(0).flatten());
        let there = there.ok_or("it did not tell the time")?;
        let here = Timestamp::now().seconds();
        if here.abs_diff(there) > MOST_APART {
            warn!(
                "this machine's clock is {} s {} that of the MySQL server {}; records expire by the earlier one",
                here.abs_diff(there),
                if here > there { "ahead of" } else { "behind" },
                self.shared.pool.target.describe(),
            );
        }
        let now = here.min(there);
        if !TIMES.contains(&now) {
            return Err("by this machine's clock it is before 1970 or after 2038: set it".to_owned());
        }
        Ok(Timestamp::from_seconds(now))
    }

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
                    return Err("it took too long to read one row".to_owned());
                }
                continue;
            };
            let rows: Vec<(Vec<u8>, bool)> = rows.into_iter().map(decode_age).collect();
            self.walked.records += rows.len() as u64;
            let is_last = rows.len() < limit;
            if let Some((key, _)) = rows.last() {
                from.clone_from(key);
            }
            // What is no digest is left alone.
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
                Some((_, deleted)) => self.walked.deleted += deleted,
                // It is done again in smaller parts.
                None if rows > 1 => continue,
                None => self.walked.locked += 1,
            }
            if self.walked.locked > MOST_LOCKED {
                return Err("many rows are locked by others".to_owned());
            }
            digests = rest;
        }
        Ok(())
    }

    /// Runs one statement and leaves the table to others for as long. Returns its rows and how many it has
    /// changed, unless it took too long; and how long it took.
    async fn run(
        &mut self,
        statement: String,
        parameters: Vec<Value>,
    ) -> Result<(Option<(Vec<Row>, u64)>, Duration), String> {
        // Of those of the service, so that no server needs room for more.
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
        self.walked.longest = self.walked.longest.max(taken);
        sleep(PAUSE.max(taken)).await;
        Ok((outcome, taken))
    }

    /// Gives back a connection whose server has answered.
    fn seen(&self, lease: Lease<'_>) {
        self.shared.pool.presence().seen();
        lease.put_back();
    }
}

/// Takes note of how long a statement took, or that it was given up.
fn note(statement_size: &mut StatementSize, rows: usize, taken: Duration, has_ended: bool) {
    match has_ended {
        true => statement_size.took(rows, taken, Instant::now()),
        false => statement_size.gave_up(rows, Instant::now()),
    }
}

async fn limited<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match timeout(LIMIT, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err("it took too long".to_owned()),
    }
}

/// Says when some of the first keys are no digests, which this engine does not serve.
async fn look_for_foreign_keys(shared: &MySqlCore) -> Result<(), String> {
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
        warn!(
            "the table of {} has keys that are no digests, {foreign} of the first {SAMPLE}; they are left alone; \
             pyzor-migrate to another database repairs, merges or skips them",
            shared.pool.target.describe()
        );
    }
    Ok(())
}

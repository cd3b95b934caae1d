//! Deleting what has expired, in slices that hold nobody up, and the look for foreign keys.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Params, Row, Value};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::table::{decode_age, decode_held, digest_of};
use super::work::Shared;
use crate::digest::Digest;
use crate::record::Timestamp;
use crate::storage::presence::{LIMIT, Link};
use crate::storage::start::Failure;

/// How often expired records are looked for.
const PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
/// How soon that is tried again when it did not succeed.
const RETRY: Duration = Duration::from_secs(60);
/// How many records are looked at at a time, and how many are deleted by one statement, whose locks
/// others wait for.
const SLICE: usize = 1000;
const DELETED_AT_ONCE: usize = 100;
/// How long others have the table at least between two statements. As long as one took, at least.
const PAUSE: Duration = Duration::from_millis(2);
/// How many keys are looked at at the start, to tell whether some are no digests.
const SAMPLE: usize = 1000;

/// What one walk through the table did.
#[derive(Default)]
struct Walked {
    records: u64,
    deleted: u64,
    longest: Duration,
}

/// Looks after a table until the engine is closed.
pub(super) async fn keep(shared: Arc<Shared>, age: Option<Duration>) {
    let name = shared.pool.place.describe();
    if let Err(why) = look_for_foreign_keys(&shared).await {
        warn!("looking at the keys of {name} was given up: {why}");
    }
    let Some(age) = age else { return };
    loop {
        let start = Instant::now();
        match sweep(&shared, age).await {
            Ok(walked) => {
                info!(
                    "Expired {} of {} records in {:.1} s; no statement took longer than {} us",
                    walked.deleted,
                    walked.records,
                    start.elapsed().as_secs_f64(),
                    walked.longest.as_micros(),
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
async fn sweep(shared: &Shared, age: Duration) -> Result<Walked, String> {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    let horizon = Timestamp::from_micros(Timestamp::now().micros().saturating_sub(age));
    let middle = format!("{:016x}", random()).into_bytes();
    let mut connection =
        limited(async { shared.pool.place.connect().await.map_err(|error| Failure::from(error).why) })
            .await?;
    let mut walked = Walked::default();
    walk(shared, &mut connection, horizon, middle.clone(), None, &mut walked).await?;
    walk(shared, &mut connection, horizon, Vec::new(), Some(middle), &mut walked).await?;
    // It has done its work.
    let _ = limited(async { connection.disconnect().await.map_err(|error| error.to_string()) }).await;
    Ok(walked)
}

async fn walk(
    shared: &Shared,
    connection: &mut Conn,
    horizon: Timestamp,
    mut from: Vec<u8>,
    end: Option<Vec<u8>>,
    walked: &mut Walked,
) -> Result<(), String> {
    loop {
        let query = shared.pool.table().ages(horizon, SLICE, end.is_some());
        let bounds: Vec<Value> =
            [Some(from.clone()), end.clone()].into_iter().flatten().map(Value::from).collect();
        let rows: Vec<Row> = timed(walked, async {
            connection.exec(query, Params::Positional(bounds)).await.map_err(|error| error.to_string())
        })
        .await?;
        let rows: Vec<(Vec<u8>, bool)> = rows.into_iter().map(decode_age).collect();
        walked.records += rows.len() as u64;
        let is_last = rows.len() < SLICE;
        if let Some((key, _)) = rows.last() {
            from.clone_from(key);
        }
        // What is no digest is left alone.
        let expired: Vec<Digest> =
            rows.iter().filter(|(_, is_expired)| *is_expired).filter_map(|(key, _)| digest_of(key)).collect();
        let table = shared.pool.table();
        for digests in expired.chunks(DELETED_AT_ONCE.min(table.rows)) {
            let statement = table.expire(digests, horizon);
            let deleted = timed(walked, async {
                connection.query_drop(statement).await.map_err(|error| error.to_string())?;
                Ok(connection.affected_rows())
            });
            walked.deleted += deleted.await?;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Runs one statement, and leaves the table to others for as long.
async fn timed<T>(
    walked: &mut Walked,
    statement: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let start = Instant::now();
    let outcome = limited(statement).await;
    let taken = start.elapsed();
    walked.longest = walked.longest.max(taken);
    sleep(PAUSE.max(taken)).await;
    outcome
}

async fn limited<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match timeout(LIMIT, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err("it took too long".to_owned()),
    }
}

/// Says when some of the first keys are no digests, which this engine does not serve.
async fn look_for_foreign_keys(shared: &Shared) -> Result<(), String> {
    let mut foreign = 0;
    let text = |error: mysql_async::Error| error.to_string();
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
            shared.pool.place.describe()
        );
    }
    Ok(())
}

//! A table as a whole.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row, ServerError};
use sha1::Digest as _;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::warn;

use super::connect::failure_of;
use super::core::{is_conflict, is_of_data};
use super::schema::TableUse;
use super::table::{MySqlTable, decode_held, digest_of};
use super::target::MySqlTarget;
use crate::record::{Record, Tally, Timestamp};
use crate::storage::bulk::Cursor;
use crate::storage::bulk::{
    Addition, Bulk, BulkError, BulkFuture, BulkPurpose, ChangeOutcome, Item, Items, Put, map_tallies,
};
use crate::storage::remote::start::connect_once;
use crate::storage::{BulkOpening, EngineOpenError, EngineOptions};
use pyzor_wire::digest::{Digest, hex};

/// How long a statement may take before the server counts as gone.
const LIMIT: Duration = Duration::from_secs(60);
/// How often a statement is repeated when others were in its way, and after which pause, which grows.
const REPETITIONS: u32 = 20;
const BACK_OFF: Duration = Duration::from_millis(50);
/// How many records' times one question has; a server has a limit of columns.
const TIMES_TOGETHER: usize = 200;

/// A whole table.
struct MySqlBulk {
    target: MySqlTarget,
    table: MySqlTable,
    /// One connection for reading on and one for all else, so that both go on at a time.
    scanning: Mutex<Conn>,
    working: Mutex<Conn>,
}

/// Opens a table for [`crate::storage::bulk::open`].
pub(in crate::storage) fn open_bulk(options: &EngineOptions, purpose: BulkPurpose) -> BulkOpening<'_> {
    Box::pin(async move {
        let target =
            MySqlTarget::parse(&options.dsn).map_err(|error| EngineOpenError::new(error.to_string()))?;
        let name = format!("the MySQL server {}", target.describe());
        let used = if purpose == BulkPurpose::Fill { TableUse::Making } else { TableUse::Reading };
        let opened = connect_once(&name, async {
            let mut scanning = target.connect().await?;
            let table = MySqlTable::inspect(&mut scanning, &target, used).await?;
            Ok((scanning, target.connect().await?, table))
        });
        let (scanning, working, table) = opened.await?;
        let table = table.ok_or_else(|| {
            EngineOpenError::absent(format!("{name}: the table {} is not there", target.quoted_table()))
        })?;
        let mut working = working;
        if purpose == BulkPurpose::Fill {
            take_turn(&mut working, &target)
                .await
                .map_err(|why| EngineOpenError::new(format!("{name}: {why}")))?;
        }
        let (scanning, working) = (Mutex::new(scanning), Mutex::new(working));
        Ok(Arc::new(MySqlBulk { target, table, scanning, working }) as Arc<dyn Bulk>)
    })
}

/// Locks the table against other runs, by a lock that the server keeps until this connection has ended and the
/// statement that it runs then, too.
///
/// A process that is killed leaves a statement behind, which the server goes on with, waits with for a replica, or
/// takes back. Nothing that is read before its end tells what becomes of it.
async fn take_turn(connection: &mut Conn, target: &MySqlTarget) -> Result<(), String> {
    let (database, table) = target.names();
    // Names of locks have 64 characters at most, and are the same in either case.
    let name = format!("{database}.{table}").to_lowercase();
    let name = format!("pyzor-migrate {}", String::from_utf8_lossy(&hex(&sha1::Sha1::digest(name).into())));
    for patience in [0, LIMIT.as_secs()] {
        let locks = format!("SELECT GET_LOCK('{name}', {patience}), IS_USED_LOCK('{name}')");
        let locked = timeout(2 * LIMIT, connection.query_first::<(Option<i64>, Option<u64>), _>(locks)).await;
        let locked = locked.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
        let holder = match locked {
            Some((Some(1), _)) => return Ok(()),
            Some((_, Some(holder))) => format!("its connection {holder}"),
            _ => "a connection of it".to_owned(),
        };
        let what = format!(
            "another pyzor-migrate, or a statement of one that was killed, writes into this table ({holder})"
        );
        if patience > 0 {
            return Err(format!("{what}: wait for its end, or end it with KILL"));
        }
        warn!("{what}: waiting for up to {} s", LIMIT.as_secs());
    }
    Ok(())
}

impl MySqlBulk {
    fn failed(&self, why: &str) -> BulkError {
        BulkError(format!("the MySQL server {}: {why}", self.target.describe()))
    }

    fn broken(&self, error: &Error) -> BulkError {
        match error {
            Error::Server(error) => self.failed(&error.to_string()),
            error => self.failed(&failure_of(error).why),
        }
    }

    /// Waits for a statement, but not for ever.
    async fn limited<T>(
        &self,
        statement: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, BulkError> {
        timeout(LIMIT, statement)
            .await
            .map_err(|_| self.failed(&format!("no answer within {} s", LIMIT.as_secs())))
    }

    /// Runs a statement that changes all of its rows or none, again when others were in its way. What it
    /// says of its rows alone is returned; how many rows it has changed otherwise.
    async fn change(&self, connection: &mut Conn, sql: &str) -> Result<Result<u64, ServerError>, BulkError> {
        let mut repetition = 0;
        loop {
            match self.limited(connection.query_drop(sql)).await? {
                Ok(()) => return Ok(Ok(connection.affected_rows())),
                Err(Error::Server(error)) if is_conflict(&error) && repetition < REPETITIONS => {
                    repetition += 1;
                    tokio::time::sleep(BACK_OFF * repetition).await;
                }
                Err(Error::Server(error)) if is_of_data(&error) => return Ok(Err(error)),
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }

    /// Runs a statement of many rows for each part of them; those that are refused one by one.
    async fn change_all(
        &self,
        rows: &[(Digest, Record)],
        at_a_time: usize,
        statement: impl Fn(&[(Digest, Record)]) -> String,
    ) -> Result<Vec<ChangeOutcome>, BulkError> {
        // In the order of the keys, in which neighbours are in one block.
        let mut ordered: Vec<usize> = (0..rows.len()).collect();
        ordered.sort_unstable_by_key(|at| rows[*at].0);
        let mut outcomes = vec![ChangeOutcome::Done; rows.len()];
        let mut connection = self.working.lock().await;
        for places in ordered.chunks(at_a_time) {
            let part: Vec<_> = places.iter().map(|at| rows[*at]).collect();
            if self.change(&mut connection, &statement(&part)).await?.is_ok() {
                continue;
            }
            for at in places {
                if let Err(error) = self.change(&mut connection, &statement(&rows[*at..=*at])).await? {
                    outcomes[*at] = ChangeOutcome::Refused(error.to_string());
                }
            }
        }
        Ok(outcomes)
    }

    async fn query(&self, connection: &mut Conn, sql: String) -> Result<Vec<Row>, BulkError> {
        self.limited(connection.query(sql)).await?.map_err(|error| self.broken(&error))
    }

    async fn read_on(&self, connection: &mut Conn, keys: &[Vec<u8>]) -> Result<Vec<Option<Item>>, BulkError> {
        let mut items = Vec::with_capacity(keys.len());
        for part in keys.chunks(self.table.long_rows) {
            let sql = self.table.read(part.iter().map(Vec::as_slice));
            let rows = self.query(connection, sql).await?.into_iter().map(decode_held);
            let (mut by_key, mut by_digest) = (HashMap::new(), HashMap::new());
            for item in rows {
                // Most collations ignore case.
                if let Some(digest) = digest_of(&item.key) {
                    by_digest.insert(digest, item.clone());
                }
                by_key.insert(item.key.clone(), item);
            }
            items.extend(part.iter().map(|key| {
                let found = by_key.get(key).cloned();
                found.or_else(|| by_digest.get(&digest_of(key)?).cloned())
            }));
        }
        Ok(items)
    }

    fn rows_of(&self, records: impl Iterator<Item = (Digest, Record)>) -> Vec<(Digest, Record)> {
        records.map(|(digest, record)| (digest, self.table.clamp(&record))).collect()
    }

    async fn token_names(&self, token: &str, first: bool) -> Result<Vec<String>, BulkError> {
        let mut connection = self.scanning.lock().await;
        let question = match first {
            true => format!("SELECT GET_LOCK('{token}', 0) = 1, @@lower_case_table_names"),
            false => format!("SELECT IS_USED_LOCK('{token}') IS NOT NULL, @@lower_case_table_names"),
        };
        let (database, table) = self.target.names();
        let mut name = format!("{database}.{table}");
        let mut names = Vec::new();
        if let Ok(Some((locked, folds))) =
            self.limited(connection.query_first::<(i64, i64), _>(question)).await?
        {
            if folds != 0 {
                name = name.to_lowercase();
            }
            if locked == 1 {
                names.push(format!("mysql {token} {name}"));
            }
        }
        let question = "SHOW GLOBAL STATUS LIKE 'wsrep_cluster_state_uuid'";
        if let Ok(Some((_, uuid))) =
            self.limited(connection.query_first::<(String, String), _>(question)).await?
            && !uuid.is_empty()
        {
            names.push(format!("galera {uuid} {name}"));
        }
        Ok(names)
    }

    /// What comes back of times is the server's to say: it has its own time zone.
    async fn ask_back(&self, records: Vec<Record>) -> Result<Vec<Record>, BulkError> {
        let mut back = Vec::with_capacity(records.len());
        let mut connection = self.working.lock().await;
        for part in records.chunks(TIMES_TOGETHER) {
            let mut sql = String::from("SELECT 0");
            let mut times = Vec::new();
            for record in part {
                let clamped = self.table.clamp(record);
                for tally in [clamped.reports, clamped.whitelists] {
                    for time in [tally.first, tally.last].into_iter().flatten() {
                        let _ = write!(sql, ",UNIX_TIMESTAMP(FROM_UNIXTIME({}))", time.seconds());
                    }
                }
            }
            for row in self.query(&mut connection, sql).await? {
                times.extend(
                    (1..row.len()).map(|at| row.get::<Option<i64>, _>(at).flatten().unwrap_or_default()),
                );
            }
            let mut times = times.into_iter();
            for record in part {
                back.push(map_tallies(&self.table.clamp(record), |_, tally| {
                    let mut time = |time: Option<Timestamp>| {
                        let asked = time.and_then(|_| times.next());
                        let none = self.table.wants_all_times.then_some(1);
                        asked.or(none).filter(|seconds| *seconds != 0).map(Timestamp::from_seconds)
                    };
                    let tally =
                        Tally { count: tally.count, first: time(tally.first), last: time(tally.last) };
                    if tally.count == 0 { Tally::default() } else { tally }
                }));
            }
        }
        Ok(back)
    }
}

impl Bulk for MySqlBulk {
    fn engine(&self) -> &'static str {
        "mysql"
    }

    fn describe(&self) -> String {
        format!("mysql, {}", self.target.describe())
    }

    fn identity(&self, token: &str, first: bool) -> BulkFuture<'_, Vec<String>> {
        let token = token.to_owned();
        Box::pin(async move { self.token_names(&token, first).await })
    }

    fn names(&self) -> BulkFuture<'_, Vec<String>> {
        Box::pin(async {
            let (database, table) = self.target.names();
            let name = format!("{database}.{table}").to_lowercase();
            let question = "SELECT CONCAT_WS(' ', @@hostname, @@port, @@datadir, @@server_id)";
            let mut connection = self.scanning.lock().await;
            let asked = self.limited(connection.query_first::<String, _>(question)).await?;
            let server = asked.map_err(|error| self.broken(&error))?.unwrap_or_default();
            Ok(vec![format!("mysql {server} {name}")])
        })
    }

    /// Its dates are made of seconds and read as seconds, by the server.
    fn zone(&self) -> Option<TimeZone> {
        None
    }

    /// Its lock is waited for.
    fn has_stragglers(&self) -> bool {
        false
    }

    fn estimate(&self) -> BulkFuture<'_, Option<u64>> {
        Box::pin(async {
            let (database, table) = self.target.names();
            let question =
                "SELECT TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
            let mut connection = self.scanning.lock().await;
            let asked = connection.exec_first::<Option<u64>, _, _>(question, (database, table));
            let rows = self.limited(asked).await?;
            Ok(rows.map_err(|error| self.broken(&error))?.flatten())
        })
    }

    fn has_whole_seconds(&self) -> bool {
        true
    }

    fn clamp(&self, record: &Record) -> Record {
        self.table.clamp(record)
    }

    fn read_back(&self, records: Vec<Record>) -> BulkFuture<'_, Vec<Record>> {
        Box::pin(self.ask_back(records))
    }

    fn scan(&self, from: Option<Cursor>, limit: usize) -> BulkFuture<'_, Items> {
        Box::pin(async move {
            let query = self.table.page(limit, from.is_none());
            let from = from.map(|cursor| cursor.0).unwrap_or_default();
            let mut connection = self.scanning.lock().await;
            let rows: Vec<Row> =
                self.limited(connection.exec(query, (from,))).await?.map_err(|error| self.broken(&error))?;
            let items: Vec<Item> = rows.into_iter().map(decode_held).collect();
            let next = items.last().filter(|_| items.len() == limit).map(|item| Cursor(item.key.clone()));
            Ok(Items { items, next })
        })
    }

    fn read(&self, keys: Vec<Vec<u8>>) -> BulkFuture<'_, Vec<Option<Item>>> {
        Box::pin(async move { self.read_on(&mut *self.working.lock().await, &keys).await })
    }

    fn store(&self, records: Vec<Put>) -> BulkFuture<'_, Vec<ChangeOutcome>> {
        Box::pin(async move {
            let rows = self.rows_of(records.iter().map(|put| (put.digest, put.record)));
            self.change_all(&rows, self.table.long_rows, |rows| self.table.store(rows)).await
        })
    }

    fn add(&self, additions: Vec<Addition>) -> BulkFuture<'_, Vec<ChangeOutcome>> {
        Box::pin(async move {
            let rows = self.rows_of(additions.iter().map(|addition| (addition.digest, addition.record)));
            // What fails in the middle must not have done anything.
            let at_a_time = if self.table.is_transactional { self.table.long_rows } else { 1 };
            self.change_all(&rows, at_a_time, |rows| self.table.add(rows)).await
        })
    }

    fn delete(&self, items: Vec<Item>) -> BulkFuture<'_, Vec<ChangeOutcome>> {
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(items.len());
            let mut connection = self.working.lock().await;
            for part in items.chunks(self.table.long_rows) {
                let done = self.change(&mut connection, &self.table.delete(part)).await?;
                let deleted = done.map_err(|error| self.failed(&error.to_string()))?;
                if deleted == part.len() as u64 {
                    outcomes.extend(part.iter().map(|_| ChangeOutcome::Done));
                    continue;
                }
                let keys: Vec<Vec<u8>> = part.iter().map(|item| item.key.clone()).collect();
                for (item, left) in part.iter().zip(self.read_on(&mut connection, &keys).await?) {
                    let is_left = left.is_some_and(|left| left.key == item.key);
                    outcomes.push(if is_left { ChangeOutcome::Changed } else { ChangeOutcome::Done });
                }
            }
            Ok(outcomes)
        })
    }

    /// What the server has accepted is as durable as it makes things.
    fn sync(&self) -> BulkFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> BulkFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

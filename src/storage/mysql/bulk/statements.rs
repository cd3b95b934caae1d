//! The statements of [`MySqlBulk`], with their retries and time limits.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row, ServerError};
use pyzor_wire::digest::Digest;
use tokio::time::timeout;

use super::{LIMIT, MySqlBulk};
use crate::record::{Record, Tally, Timestamp};
use crate::storage::bulk::{BulkError, ChangeOutcome, Item, map_tallies};
use crate::storage::mysql::connect::connect_error;
use crate::storage::mysql::errors::{is_conflict, is_row_error};
use crate::storage::mysql::rows::{decode_held, digest_of};

/// The most retries of a statement after conflicts with other clients.
const RETRIES: u32 = 20;
/// The pause before the first retry; it grows with each one.
const BACK_OFF: Duration = Duration::from_millis(50);
/// The most records whose times one query converts; servers limit the number of columns.
const RECORDS_PER_QUERY: usize = 200;

impl MySqlBulk {
    pub(super) fn failed(&self, why: &str) -> BulkError {
        BulkError(format!("the MySQL server {}: {why}", self.target.describe()))
    }

    pub(super) fn broken(&self, error: &Error) -> BulkError {
        match error {
            Error::Server(error) => self.failed(&error.to_string()),
            error => self.failed(&connect_error(error).why),
        }
    }

    /// Waits for a statement for at most [`LIMIT`].
    pub(super) async fn limited<T>(
        &self,
        statement: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, BulkError> {
        timeout(LIMIT, statement)
            .await
            .map_err(|_| self.failed(&format!("no answer within {} s", LIMIT.as_secs())))
    }

    /// Runs a statement that changes all of its rows or none, with retries after conflicts. Returns how many rows have
    /// changed, or the server's error if it refused the content of a row.
    pub(super) async fn change(
        &self,
        connection: &mut Conn,
        sql: &str,
    ) -> Result<Result<u64, ServerError>, BulkError> {
        let mut retry = 0;
        loop {
            match self.limited(connection.query_drop(sql)).await? {
                Ok(()) => return Ok(Ok(connection.affected_rows())),
                Err(Error::Server(error)) if is_conflict(&error) && retry < RETRIES => {
                    retry += 1;
                    tokio::time::sleep(BACK_OFF * retry).await;
                }
                Err(Error::Server(error)) if is_row_error(&error) => return Ok(Err(error)),
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }

    /// Changes rows by statements of `at_a_time` rows each. If the server refuses one, its rows go one by one.
    pub(super) async fn change_all(
        &self,
        rows: &[(Digest, Record)],
        at_a_time: usize,
        statement: impl Fn(&[(Digest, Record)]) -> String,
    ) -> Result<Vec<ChangeOutcome>, BulkError> {
        // In the order of the keys, so that neighbouring rows are in the same block of the table.
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

    pub(super) async fn query(&self, connection: &mut Conn, sql: String) -> Result<Vec<Row>, BulkError> {
        self.limited(connection.query(sql)).await?.map_err(|error| self.broken(&error))
    }

    /// Reads the items of keys, in their order.
    pub(super) async fn read_keys(
        &self,
        connection: &mut Conn,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Item>>, BulkError> {
        let mut items = Vec::with_capacity(keys.len());
        for part in keys.chunks(self.table.long_rows) {
            let sql = self.table.read(part.iter().map(Vec::as_slice));
            let rows = self.query(connection, sql).await?.into_iter().map(decode_held);
            let (mut by_key, mut by_digest) = (HashMap::new(), HashMap::new());
            for item in rows {
                // Most collations ignore case, so the row may have the key in another case.
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

    pub(super) fn rows_of(&self, records: impl Iterator<Item = (Digest, Record)>) -> Vec<(Digest, Record)> {
        records.map(|(digest, record)| (digest, self.table.clamp(&record))).collect()
    }

    /// Returns names that two connections to the same table share. One is for the server: the first connection takes
    /// the lock `token`, and the second has the name if it sees that lock. The other is for the Galera cluster.
    pub(super) async fn token_names(&self, token: &str, first: bool) -> Result<Vec<String>, BulkError> {
        let mut connection = self.scanning.lock().await;
        let query = match first {
            true => format!("SELECT GET_LOCK('{token}', 0) = 1, @@lower_case_table_names"),
            false => format!("SELECT IS_USED_LOCK('{token}') IS NOT NULL, @@lower_case_table_names"),
        };
        let (database, table) = self.target.names();
        let mut name = format!("{database}.{table}");
        let mut names = Vec::new();
        if let Ok(Some((locked, ignores_case))) =
            self.limited(connection.query_first::<(i64, i64), _>(query)).await?
        {
            if ignores_case != 0 {
                name = name.to_lowercase();
            }
            if locked == 1 {
                names.push(format!("mysql {token} {name}"));
            }
        }
        let query = "SHOW GLOBAL STATUS LIKE 'wsrep_cluster_state_uuid'";
        if let Ok(Some((_, uuid))) =
            self.limited(connection.query_first::<(String, String), _>(query)).await?
            && !uuid.is_empty()
        {
            names.push(format!("galera {uuid} {name}"));
        }
        Ok(names)
    }

    /// Returns the records as they will be read after they have been stored. The server converts the times, because it
    /// stores them in its own time zone.
    pub(super) async fn convert_times(&self, records: Vec<Record>) -> Result<Vec<Record>, BulkError> {
        let mut back = Vec::with_capacity(records.len());
        let mut connection = self.working.lock().await;
        for part in records.chunks(RECORDS_PER_QUERY) {
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
                        let converted = time.and_then(|_| times.next());
                        let none = self.table.wants_all_times.then_some(1);
                        converted.or(none).filter(|seconds| *seconds != 0).map(Timestamp::from_seconds)
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

//! Access to a whole table, for migrations.

mod lock;
mod statements;

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use tokio::sync::Mutex;

use super::rows::decode_held;
use super::schema::TableUse;
use super::table::MySqlTable;
use super::target::MySqlTarget;
use crate::record::Record;
use crate::storage::bulk::{
    Addition, Bulk, BulkFuture, BulkPurpose, ChangeOutcome, Cursor, Item, Items, Put,
};
use crate::storage::remote::start::connect_once;
use crate::storage::{BulkOpening, EngineOpenError, EngineOptions};

/// The time after which a statement without an answer makes the migration fail.
const LIMIT: Duration = Duration::from_secs(60);

/// A whole table. Scans have a connection of their own, so that they run in parallel with all other statements.
struct MySqlBulk {
    target: MySqlTarget,
    table: MySqlTable,
    scanning: Mutex<Conn>,
    working: Mutex<Conn>,
}

/// Opens a table for [`crate::storage::bulk::open`].
pub(in crate::storage) fn open_bulk(options: &EngineOptions, purpose: BulkPurpose) -> BulkOpening<'_> {
    Box::pin(async move {
        let target =
            MySqlTarget::parse(&options.dsn).map_err(|error| EngineOpenError::new(error.to_string()))?;
        let name = format!("the MySQL server {}", target.describe());
        let used = if purpose == BulkPurpose::Fill { TableUse::Creating } else { TableUse::Reading };
        let opened = connect_once(&name, async {
            let mut scanning = target.connect().await?;
            let table = MySqlTable::inspect(&mut scanning, &target, used).await?;
            Ok((scanning, target.connect().await?, table))
        });
        let (scanning, mut working, table) = opened.await?;
        let table = table.ok_or_else(|| {
            EngineOpenError::absent(format!("{name}: the table {} does not exist", target.quoted_table()))
        })?;
        if purpose == BulkPurpose::Fill {
            lock::lock(&mut working, &target)
                .await
                .map_err(|why| EngineOpenError::new(format!("{name}: {why}")))?;
        }
        let (scanning, working) = (Mutex::new(scanning), Mutex::new(working));
        Ok(Arc::new(MySqlBulk { target, table, scanning, working }) as Arc<dyn Bulk>)
    })
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
            let query = "SELECT CONCAT_WS(' ', @@hostname, @@port, @@datadir, @@server_id)";
            let mut connection = self.scanning.lock().await;
            let asked = self.limited(connection.query_first::<String, _>(query)).await?;
            let server = asked.map_err(|error| self.broken(&error))?.unwrap_or_default();
            Ok(vec![format!("mysql {server} {name}")])
        })
    }

    /// Returns none, because the server converts all dates from and to seconds since the epoch.
    fn zone(&self) -> Option<TimeZone> {
        None
    }

    /// Returns false, because opening waits for the lock that a killed run's last statement holds.
    fn has_stragglers(&self) -> bool {
        false
    }

    fn estimate(&self) -> BulkFuture<'_, Option<u64>> {
        Box::pin(async {
            let (database, table) = self.target.names();
            let query =
                "SELECT TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
            let mut connection = self.scanning.lock().await;
            let asked = connection.exec_first::<Option<u64>, _, _>(query, (database, table));
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
        Box::pin(self.convert_times(records))
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
        Box::pin(async move { self.read_keys(&mut *self.working.lock().await, &keys).await })
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
            // Without transactions a failed statement may have added some of its rows: add them one by one.
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
                for (item, left) in part.iter().zip(self.read_keys(&mut connection, &keys).await?) {
                    let is_left = left.is_some_and(|left| left.key == item.key);
                    outcomes.push(if is_left { ChangeOutcome::Changed } else { ChangeOutcome::Done });
                }
            }
            Ok(outcomes)
        })
    }

    /// Does nothing: the server's own settings decide when committed changes reach the disk.
    fn sync(&self) -> BulkFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> BulkFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

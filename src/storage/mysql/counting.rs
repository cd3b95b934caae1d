//! Statements that count: retried on conflicts, and split when some of their rows are refused.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, ServerError};

use super::core::MySqlCore;
use super::errors::{StatementError, concerns_all_changes, is_conflict, is_row_error, is_timeout};
use super::expiry;
use super::hung_rows::RowAmount;
use super::schema::is_transactional;
use super::table::{MySqlTable, within};
use crate::record::TallyKind;
use crate::storage::remote::presence::{LIMIT, RemoteStore};
use crate::storage::{Batch, BatchEntry};
use pyzor_wire::digest::Digest;

/// The most halvings of the parts of a refused statement. After that the remaining rows go one by one.
const MOST_HALVINGS: u32 = 16;
/// The most retries of a statement after conflicts with other clients, before it is split.
const RETRIES: u32 = 3;
/// The pause before the first retry; it grows with each one.
const BACK_OFF: Duration = Duration::from_millis(3);
/// The share of the remaining time after which the server itself must end a statement.
const SHARE: f64 = 0.9;

/// The connection epoch of a batch and its deadline.
#[derive(Clone, Copy)]
pub(super) struct StatementContext {
    pub(super) epoch: u64,
    pub(super) end: Instant,
}

impl MySqlCore {
    /// Counts rows, which must be sorted by digest.
    pub(super) async fn count(
        &self,
        connection: &mut Conn,
        table: &MySqlTable,
        batch: &mut Batch,
        kind: TallyKind,
        rows: &[RowAmount],
        StatementContext { epoch, end }: StatementContext,
    ) -> Result<(), String> {
        let now = batch.now();
        let mut parts = vec![rows];
        let mut halvings = 0;
        while let Some(part) = parts.pop() {
            let is_whole = part.len() == rows.len();
            if !is_whole && Instant::now() + self.least() > end {
                self.refusals
                    .refused("no time is left to retry a statement in which rows are refused or locked");
                break;
            }
            let retries = if is_whole || part.len() == 1 { RETRIES } else { 0 };
            let statement = table.count(kind, part, now);
            match self.upsert(connection, table, (&statement, part.len()), end, retries).await {
                Ok(()) => self.counted(batch, kind, part),
                Err(StatementError::ConnectionLost(why)) => return Err(why),
                Err(StatementError::Refused(error))
                    if part.len() > 1
                        && (is_row_error(&error) || is_conflict(&error))
                        && self.has_done_nothing(connection, table).await? =>
                {
                    // Usually few rows are refused, and halving finds them with few commits, which are slow. If many
                    // are refused, halving would take more statements than there are rows.
                    halvings += 1;
                    let rows = if halvings <= MOST_HALVINGS { part.len().div_ceil(2) } else { 1 };
                    parts.extend(part.chunks(rows).rev());
                }
                Err(StatementError::Refused(error)) => {
                    if !table.is_transactional {
                        // A part of the rows may have been counted.
                        for (digest, _) in part {
                            batch.entry_mut(digest).into_iter().for_each(BatchEntry::doubt);
                        }
                    }
                    self.not_counted(epoch, part, &error);
                }
            }
        }
        Ok(())
    }

    /// Notes that the server has counted these rows.
    fn counted(&self, batch: &mut Batch, kind: TallyKind, rows: &[RowAmount]) {
        for (digest, _) in rows {
            if let Some(entry) = batch.entry_mut(digest) {
                match kind {
                    TallyKind::Report => entry.reported = Ok(()),
                    TallyKind::Whitelist => entry.whitelisted = Ok(()),
                }
            }
        }
        self.hung_rows().clear(rows);
        self.changes.accepted();
    }

    /// Notes that the server, which is available, has not counted these rows.
    fn not_counted(&self, epoch: u64, rows: &[RowAmount], error: &ServerError) {
        if !is_timeout(error) {
            self.refused(epoch, error);
            if concerns_all_changes(error.code) {
                self.changes.refused(&error.to_string());
            }
            return;
        }
        let digests: Vec<Digest> = rows.iter().map(|(digest, _)| *digest).collect();
        // Only logs the timeout: the server has just answered, so it stays available.
        self.pool.presence().timed_out(epoch, LIMIT);
        self.note_timeout(&digests);
    }

    /// Runs one statement that counts `rows` rows, and retries it up to `retries` times after conflicts.
    async fn upsert(
        &self,
        connection: &mut Conn,
        table: &MySqlTable,
        (statement, rows): (&str, usize),
        end: Instant,
        retries: u32,
    ) -> Result<(), StatementError> {
        let mut retry = 0;
        loop {
            let start = Instant::now();
            // The server ends the statement a little before it would time out here. Then its outcome is known, and
            // the connection stays usable.
            let limit = end.saturating_duration_since(start).mul_f64(SHARE);
            let outcome = connection.query_drop(within(limit, statement)).await.map_err(StatementError::from);
            if !matches!(outcome, Err(StatementError::ConnectionLost(_))) {
                self.pool.presence().seen();
            }
            // The time of a refused statement is no measure of a complete one.
            if outcome.is_ok() {
                self.statement_size().took(rows, start.elapsed(), Instant::now());
            }
            match outcome {
                Err(StatementError::Refused(error))
                    if is_conflict(&error)
                        && retry < retries
                        && self
                            .has_done_nothing(connection, table)
                            .await
                            .map_err(StatementError::ConnectionLost)? => {}
                outcome => return outcome,
            }
            retry += 1;
            tokio::time::sleep(BACK_OFF * retry + BACK_OFF.mul_f64(expiry::random_share())).await;
        }
    }

    /// Whether a failed statement has certainly changed nothing. Asks the server, because the table's storage engine
    /// may have been changed since the last inspection.
    async fn has_done_nothing(&self, connection: &mut Conn, table: &MySqlTable) -> Result<bool, String> {
        if !table.is_transactional {
            return Ok(false);
        }
        match is_transactional(connection, &self.pool.target).await.map_err(StatementError::from) {
            Ok(is_transactional) => Ok(is_transactional),
            Err(StatementError::Refused(_)) => Ok(false),
            Err(StatementError::ConnectionLost(why)) => Err(why),
        }
    }
}

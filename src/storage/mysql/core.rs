//! Serving a batch: one query for its look-ups, then statements that count. See [`super::counting`] for the latter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, ServerError};

use super::counting::StatementContext;
use super::errors::{StatementError, is_absence, is_denied};
use super::hung_rows::{HungRows, RowAmount, RowPlan};
use super::pool::ConnectionPool;
use super::rows::{decode, digest_of};
use super::statement_size::StatementSize;
use super::table::{MAX_ROWS, MySqlTable, TIMES};
use crate::record::{Record, TallyKind};
use crate::storage::remote::changes::ChangeAcceptance;
use crate::storage::remote::findings::StoreFindings;
use crate::storage::remote::presence::RemoteStore;
use crate::storage::remote::refusals::Refusals;
use crate::storage::{Batch, BatchEntry};
use pyzor_wire::digest::Digest;

/// The connection pool, and the results of earlier statements: hung rows and statement sizes.
pub(super) struct MySqlCore {
    pub(super) pool: Arc<ConnectionPool>,
    statement_size: Mutex<StatementSize>,
    hung_rows: Mutex<HungRows>,
    pub(super) refusals: Refusals,
    pub(super) changes: ChangeAcceptance,
    pub(super) findings: StoreFindings,
    /// Whether the server denied a statement that a new connection might be allowed to run.
    is_denied: AtomicBool,
    /// Time at which all connections were last replaced because of a denied statement.
    renewed: Mutex<Option<Instant>>,
}

impl MySqlCore {
    pub(super) fn new(pool: Arc<ConnectionPool>, name: String) -> Self {
        Self {
            pool,
            statement_size: Mutex::new(StatementSize::new(MAX_ROWS)),
            hung_rows: Mutex::default(),
            refusals: Refusals::new(name),
            changes: ChangeAcceptance::default(),
            findings: StoreFindings::default(),
            is_denied: AtomicBool::new(false),
            renewed: Mutex::new(None),
        }
    }

    /// Notes that a statement that counts for these digests timed out although the server is available.
    pub(super) fn note_timeout(&self, in_flight: &[Digest]) {
        if !in_flight.is_empty() {
            self.hung_rows().blame(in_flight, Instant::now());
            self.statement_size().timed_out(in_flight.len(), Instant::now());
        }
    }

    /// Serves a batch until `end`. While a statement that counts runs, `in_flight` has its digests.
    ///
    /// # Errors
    ///
    /// Fails if the connection is lost, so that the outcome of a statement is unknown.
    pub(super) async fn serve(
        &self,
        batch: &mut Batch,
        epoch: u64,
        end: Instant,
        in_flight: &mut Vec<Digest>,
    ) -> Result<(), String> {
        let (reports, whitelists) =
            (self.plan(batch, TallyKind::Report), self.plan(batch, TallyKind::Whitelist));
        let mut statements = [
            (TallyKind::Report, &reports.together[..], MAX_ROWS),
            (TallyKind::Whitelist, &whitelists.together[..], MAX_ROWS),
            (TallyKind::Report, &reports.apart[..], reports.apart_at_a_time),
            (TallyKind::Whitelist, &whitelists.apart[..], whitelists.apart_at_a_time),
        ];
        let counts = statements.iter().any(|(_, rows, _)| !rows.is_empty());
        // An empty batch sends nothing, so it must not mark the server as available.
        if !counts && !batch.entries().iter().any(|entry| entry.look_up) {
            return Ok(());
        }
        let mut lease = self.pool.take().await.map_err(|failure| failure.why)?;
        let connection = &mut lease.connection;
        // One description for the whole batch, even if the table is inspected again meanwhile.
        let table = &*self.pool.table();
        self.look_up(connection, table, batch, epoch).await?;
        let mut longest = Duration::ZERO;
        'all: for (kind, left, most) in &mut statements {
            while !left.is_empty() {
                let start = Instant::now();
                // A statement that times out may have been counted although its requests are refused, and it delays
                // other batches. Do not start one that is unlikely to finish.
                if start + longest.max(self.least()) > end {
                    self.refusals.refused("its statements are too slow for the number of reports");
                    break 'all;
                }
                let rows = left.len().min(*most).min(table.rows).min(self.statement_size().rows());
                let (part, rest) = left.split_at(rows);
                *left = rest;
                in_flight.clear();
                in_flight.extend(part.iter().map(|(digest, _)| *digest));
                self.count(connection, table, batch, *kind, part, StatementContext { epoch, end }).await?;
                longest = longest.max(start.elapsed());
            }
        }
        in_flight.clear();
        // Existing connections do not see privileges granted later, and the name of a read-only server may by now
        // resolve to another server: only new connections can tell.
        if self.is_denied.swap(false, Ordering::Relaxed) && self.may_renew() {
            self.pool.forget();
        } else {
            lease.put_back();
        }
        Ok(())
    }

    /// Returns the changes of a kind to try now. Refuses all others.
    fn plan(&self, batch: &Batch, kind: TallyKind) -> RowPlan {
        let amount = |entry: &BatchEntry| match kind {
            TallyKind::Report => entry.reports,
            TallyKind::Whitelist => entry.whitelists,
        };
        let rows = batch.entries().iter().map(|entry| (entry.digest, amount(entry)));
        let mut rows: Vec<RowAmount> = rows.filter(|(_, amount)| *amount > 0).collect();
        if !rows.is_empty() && !TIMES.contains(&batch.now().seconds()) {
            self.refuse_changes(
                "this machine's clock is before 1970 or after 2038, which the table cannot store: set the clock",
            );
            return RowPlan::default();
        }
        // Statements that lock rows in the same order cannot deadlock.
        rows.sort_unstable();
        self.hung_rows().plan(rows, Instant::now()).unwrap_or_else(|| {
            self.refuse_changes("the last statements that count all timed out: the table may be locked");
            RowPlan::default()
        })
    }

    /// Logs and records a reason for which all changes are refused.
    fn refuse_changes(&self, why: &str) {
        self.refusals.refused(why);
        self.changes.refused(why);
    }

    /// Whether all connections may be replaced again. Limits that to once a second.
    pub(super) fn may_renew(&self) -> bool {
        const PERIOD: Duration = Duration::from_secs(1);
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let may = renewed.is_none_or(|renewed| renewed.elapsed() >= PERIOD);
        if may {
            *renewed = Some(Instant::now());
        }
        may
    }

    /// The shortest time that a statement that counts has taken recently.
    pub(super) fn least(&self) -> Duration {
        self.statement_size().least(Instant::now())
    }

    pub(super) fn statement_size(&self) -> MutexGuard<'_, StatementSize> {
        self.statement_size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hung_rows(&self) -> MutexGuard<'_, HungRows> {
        self.hung_rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_up(
        &self,
        connection: &mut Conn,
        table: &MySqlTable,
        batch: &mut Batch,
        epoch: u64,
    ) -> Result<(), String> {
        let wanted: Vec<Digest> =
            batch.entries().iter().filter(|entry| entry.look_up).map(|entry| entry.digest).collect();
        for digests in wanted.chunks(table.rows) {
            let rows: Vec<Row> = match connection.query(table.look_up(digests.iter().copied())).await {
                Ok(rows) => {
                    self.pool.presence().seen();
                    rows
                }
                Err(error) => match StatementError::from(error) {
                    StatementError::ConnectionLost(why) => return Err(why),
                    StatementError::Refused(error) => {
                        self.refused(epoch, &error);
                        continue;
                    }
                },
            };
            for digest in digests {
                if let Some(entry) = batch.entry_mut(digest) {
                    entry.found = Ok(Record::default());
                }
            }
            for (key, record) in rows.into_iter().map(decode) {
                // Most collations ignore case, so the key may be in upper case.
                let Some(digest) = digest_of(&key) else { continue };
                if let Some(entry) = batch.entry_mut(&digest) {
                    entry.found = record.ok_or_else(|| self.refusals.damaged(digest));
                }
            }
        }
        Ok(())
    }

    /// Logs a refusal by the server, or marks the server as unavailable if the refusal means that.
    pub(super) fn refused(&self, epoch: u64, error: &ServerError) {
        if is_absence(error.code) {
            self.pool.presence().lost(epoch, &error.to_string());
            return;
        }
        if is_denied(error.code) {
            self.is_denied.store(true, Ordering::Relaxed);
        }
        self.refusals.refused(&error.to_string());
    }
}

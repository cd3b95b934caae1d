//! What a batch asks of the table: one query, and statements that count.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row, ServerError};

use super::connect::failure_of;
use super::expiry;
use super::hung_rows::{HungRows, RowAmount, RowPlan};
use super::pool::ConnectionPool;
use super::schema::is_transactional;
use super::statement_size::StatementSize;
use super::table::{MAX_ROWS, MySqlTable, TIMES, decode, digest_of, within};
use crate::record::{Record, TallyKind};
use crate::storage::remote::presence::{LIMIT, RemoteStore};
use crate::storage::remote::refusals::Refusals;
use crate::storage::{Batch, BatchEntry};
use pyzor_wire::digest::Digest;

const COMMAND_DENIED: u16 = 1142;
const COLUMN_DENIED: u16 = 1143;
const READ_ONLY: u16 = 1290;
const READ_ONLY_MODE: u16 = 1836;
const READ_ONLY_TRANSACTION: u16 = 1792;
/// How often the rows of statements that are refused for one of them are halved, before they go one by one.
const DIVISIONS: u32 = 16;
/// How often a statement is repeated that others were in the way of, before it is split.
const REPETITIONS: u32 = 3;
/// The part of the time that is left in which the server is to end a statement.
const SHARE: f64 = 0.9;
/// How long to wait before that, more with each time.
const BACK_OFF: Duration = Duration::from_millis(3);

/// The table and all that is known of it.
pub(super) struct MySqlCore {
    pub(super) pool: Arc<ConnectionPool>,
    /// How many rows a statement that counts may have.
    statement_size: Mutex<StatementSize>,
    hung_rows: Mutex<HungRows>,
    pub(super) refusals: Refusals,
    /// Whether something was refused that another connection might do.
    is_denied: AtomicBool,
    /// When there were other connections for that reason last.
    renewed: Mutex<Option<Instant>>,
}

/// The connections that a batch is on, and until when it is waited for.
#[derive(Clone, Copy)]
struct StatementContext {
    epoch: u64,
    end: Instant,
}

/// Why a batch cannot go on.
pub(super) enum StatementError {
    /// The store has gone, or what was sent to it is in doubt.
    ConnectionLost(String),
    /// The server has refused one statement, and has done nothing of it.
    Refused(ServerError),
}

impl MySqlCore {
    /// What is known of a table at the start.
    pub(super) fn new(pool: Arc<ConnectionPool>, name: String) -> Self {
        Self {
            pool,
            statement_size: Mutex::new(StatementSize::new(MAX_ROWS)),
            hung_rows: Mutex::default(),
            refusals: Refusals::new(name),
            is_denied: AtomicBool::new(false),
            renewed: Mutex::new(None),
        }
    }

    /// Takes note that a statement for these digests was given up, of a server that is there.
    pub(super) fn note_given_up(&self, under_way: &[Digest]) {
        if !under_way.is_empty() {
            self.hung_rows().blame(under_way, Instant::now());
            self.statement_size().gave_up(under_way.len(), Instant::now());
        }
    }

    /// Does all that a batch asks until `end`; `under_way` are the digests that are being counted. Fails when
    /// it is not known what became of the rest.
    pub(super) async fn serve(
        &self,
        batch: &mut Batch,
        epoch: u64,
        end: Instant,
        under_way: &mut Vec<Digest>,
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
        // What asks for nothing must not make a server seem to be there that has gone meanwhile.
        if !counts && !batch.entries().iter().any(|entry| entry.look_up) {
            return Ok(());
        }
        let mut lease = self.pool.take().await.map_err(|failure| failure.why)?;
        let connection = &mut lease.connection;
        // The one that was inspected last, for the whole batch.
        let table = &*self.pool.table();
        self.look_up(connection, table, batch, epoch).await?;
        let mut longest = Duration::ZERO;
        'all: for (kind, left, most) in &mut statements {
            while !left.is_empty() {
                let start = Instant::now();
                // One that is given up in the middle may have counted what is then refused, and takes the time
                // that others have.
                if start + longest.max(self.least()) > end {
                    self.refusals.refused("its statements take too long for all that is asked of it");
                    break 'all;
                }
                let rows = left.len().min(*most).min(table.rows).min(self.statement_size().rows());
                let (part, rest) = left.split_at(rows);
                *left = rest;
                under_way.clear();
                under_way.extend(part.iter().map(|(digest, _)| *digest));
                self.count(connection, table, batch, *kind, part, StatementContext { epoch, end }).await?;
                longest = longest.max(start.elapsed());
            }
        }
        under_way.clear();
        // A right that is granted later is not had by connections that there are, and a server that takes
        // no changes any more may have been replaced under its name.
        if self.is_denied.swap(false, Ordering::Relaxed) && self.may_renew() {
            self.pool.forget();
        } else {
            lease.put_back();
        }
        Ok(())
    }

    /// Which changes of a kind that a batch asks for are to be tried.
    fn plan(&self, batch: &Batch, kind: TallyKind) -> RowPlan {
        let amount = |entry: &BatchEntry| match kind {
            TallyKind::Report => entry.reports,
            TallyKind::Whitelist => entry.whitelists,
        };
        let rows = batch.entries().iter().map(|entry| (entry.digest, amount(entry)));
        let mut rows: Vec<RowAmount> = rows.filter(|(_, amount)| *amount > 0).collect();
        if !rows.is_empty() && !TIMES.contains(&batch.now().seconds()) {
            self.refusals.refused("by this machine's clock it is before 1970 or after 2038, which dates there cannot be: set it");
            return RowPlan::default();
        }
        // Servers that lock rows in one order never wait for each other in a circle.
        rows.sort_unstable();
        self.hung_rows().plan(rows, Instant::now()).unwrap_or_else(|| {
            self.refusals.refused("nothing could be counted lately, as if the table were locked");
            RowPlan::default()
        })
    }

    /// Whether it is long enough ago that all connections were replaced.
    fn may_renew(&self) -> bool {
        const PERIOD: Duration = Duration::from_secs(1);
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let may = renewed.is_none_or(|renewed| renewed.elapsed() >= PERIOD);
        if may {
            *renewed = Some(Instant::now());
        }
        may
    }

    /// The least time that a statement that counts took lately.
    pub(super) fn least(&self) -> Duration {
        self.statement_size().least(Instant::now())
    }

    fn statement_size(&self) -> MutexGuard<'_, StatementSize> {
        self.statement_size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hung_rows(&self) -> MutexGuard<'_, HungRows> {
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
                // Most collations ignore case.
                let Some(digest) = digest_of(&key) else { continue };
                if let Some(entry) = batch.entry_mut(&digest) {
                    entry.found = record.ok_or_else(|| self.refusals.damaged(digest));
                }
            }
        }
        Ok(())
    }

    /// Counts for some digests, whose rows are in order.
    async fn count(
        &self,
        connection: &mut Conn,
        table: &MySqlTable,
        batch: &mut Batch,
        kind: TallyKind,
        rows: &[RowAmount],
        turn: StatementContext,
    ) -> Result<(), String> {
        let StatementContext { epoch, end } = turn;
        let now = batch.now();
        let mut accept = |rows: &[RowAmount]| {
            for (digest, _) in rows {
                if let Some(entry) = batch.entry_mut(digest) {
                    match kind {
                        TallyKind::Report => entry.reported = Ok(()),
                        TallyKind::Whitelist => entry.whitelisted = Ok(()),
                    }
                }
            }
            self.hung_rows().clear(rows);
        };
        let mut parts = vec![rows];
        let mut divisions = 0;
        while let Some(part) = parts.pop() {
            let is_whole = part.len() == rows.len();
            if !is_whole && Instant::now() + self.least() > end {
                self.refusals.refused(
                    "there is no time left for the rest of a statement in which rows are refused or locked",
                );
                break;
            }
            let repetitions = if is_whole || part.len() == 1 { REPETITIONS } else { 0 };
            let statement = table.count(kind, part, now);
            match self.upsert(connection, table, (&statement, part.len()), end, repetitions).await {
                Ok(()) => accept(part),
                Err(StatementError::ConnectionLost(why)) => return Err(why),
                Err(StatementError::Refused(error))
                    if part.len() > 1
                        && (is_of_data(&error) || is_conflict(&error))
                        && self.has_done_nothing(connection, table).await? =>
                {
                    // Each statement is committed, which is slow, and few rows are to blame as a rule. Where there are
                    // many, halving them would take more statements than there are rows.
                    divisions += 1;
                    let rows = if divisions <= DIVISIONS { part.len().div_ceil(2) } else { 1 };
                    parts.extend(part.chunks(rows).rev());
                }
                Err(StatementError::Refused(error)) => self.not_counted(epoch, part, &error),
            }
        }
        Ok(())
    }

    /// Takes note that rows were not counted, by a server that is there.
    fn not_counted(&self, epoch: u64, rows: &[RowAmount], error: &ServerError) {
        if !is_timeout(error) {
            self.refused(epoch, error);
            return;
        }
        let digests: Vec<Digest> = rows.iter().map(|(digest, _)| *digest).collect();
        // It has just answered.
        self.pool.presence().timed_out(epoch, LIMIT);
        self.note_given_up(&digests);
    }

    /// Counts by one statement of so many rows, which is repeated so often when others were in its way.
    async fn upsert(
        &self,
        connection: &mut Conn,
        table: &MySqlTable,
        (statement, rows): (&str, usize),
        end: Instant,
        repetitions: u32,
    ) -> Result<(), StatementError> {
        let mut repetition = 0;
        loop {
            let start = Instant::now();
            // The server ends it a little before it is given up here: then it is known what became of it, and
            // the connection is not lost.
            let limit = end.saturating_duration_since(start).mul_f64(SHARE);
            let outcome = connection.query_drop(within(limit, statement)).await.map_err(StatementError::from);
            if !matches!(outcome, Err(StatementError::ConnectionLost(_))) {
                self.pool.presence().seen();
            }
            // One that was refused has not done all its work.
            if outcome.is_ok() {
                self.statement_size().took(rows, start.elapsed(), Instant::now());
            }
            match outcome {
                Err(StatementError::Refused(error))
                    if is_conflict(&error)
                        && repetition < repetitions
                        && self
                            .has_done_nothing(connection, table)
                            .await
                            .map_err(StatementError::ConnectionLost)? => {}
                outcome => return outcome,
            }
            repetition += 1;
            tokio::time::sleep(BACK_OFF * repetition + BACK_OFF.mul_f64(expiry::random_share())).await;
        }
    }

    /// Whether a statement that has failed has certainly done nothing: the table may have another storage engine than
    /// when it was inspected.
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

    /// Takes note of a refusal, and logs it.
    pub(super) fn refused(&self, epoch: u64, error: &ServerError) {
        if is_absence(error.code) {
            self.pool.presence().lost(epoch, &error.to_string());
            return;
        }
        if matches!(
            error.code,
            COMMAND_DENIED | COLUMN_DENIED | READ_ONLY | READ_ONLY_MODE | READ_ONLY_TRANSACTION
        ) {
            self.is_denied.store(true, Ordering::Relaxed);
        }
        self.refusals.refused(&error.to_string());
    }
}

/// Whether a statement failed for what was to be stored. A trigger may refuse that with any state.
pub(super) fn is_of_data(error: &ServerError) -> bool {
    const SIGNALLED: u16 = 1644;
    const ROW_ERRORS: [u16; 3] = [1265, 1366, SIGNALLED];
    matches!(error.state.get(..2), Some("22" | "23" | "45")) || ROW_ERRORS.contains(&error.code)
}

/// Whether others were in the way of a statement, of which nothing was done then.
pub(super) fn is_conflict(error: &ServerError) -> bool {
    const DEADLOCK: u16 = 1213;
    const LOCK_WAIT_TIMEOUT: u16 = 1205;
    const CHANGED_MEANWHILE: u16 = 1020;
    [DEADLOCK, LOCK_WAIT_TIMEOUT, CHANGED_MEANWHILE].contains(&error.code)
}

/// Whether a statement was ended by the server for its time, and nothing of it was done.
pub(super) fn is_timeout(error: &ServerError) -> bool {
    const STATEMENT_TIMEOUT: u16 = 1969;
    error.code == STATEMENT_TIMEOUT
}

/// Whether a refusal means that the server does not serve at all.
fn is_absence(code: u16) -> bool {
    matches!(
        code,
        1040 // too many connections
        | 1044 | 1045 | 1049 // no access any more, no database any more
        | 1047 // a node of Galera that has lost the others
        | 1053 // it is ending
        | 1054 // no such column any more
        | 1146 // no table any more
        | 1927 | 4031 // it has closed the connection
    )
}

impl From<Error> for StatementError {
    fn from(error: Error) -> Self {
        match error {
            Error::Server(error) => Self::Refused(error),
            error => Self::ConnectionLost(failure_of(&error).why),
        }
    }
}

//! What a batch asks of the table: one query, and statements that count.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row, ServerError};

use super::place::failure_of;
use super::pool::Pool;
use super::suspects::{Suspects, Treatment};
use super::sweep;
use super::table::{Table, decode, digest_of};
use crate::digest::Digest;
use crate::record::{Kind, Record, Timestamp};
use crate::storage::presence::Link;
use crate::storage::refusals::Refusals;
use crate::storage::{Batch, Entry};

const COMMAND_DENIED: u16 = 1142;
const COLUMN_DENIED: u16 = 1143;
const READ_ONLY: u16 = 1290;
const READ_ONLY_MODE: u16 = 1836;
const READ_ONLY_TRANSACTION: u16 = 1792;
/// How often a statement is repeated that others were in the way of, before its rows go one by one.
const REPETITIONS: u32 = 3;
/// How long to wait before that, more with each time.
const BACK_OFF: Duration = Duration::from_millis(3);

/// The table and all that is known of it.
pub(super) struct Shared {
    pub(super) pool: Arc<Pool>,
    suspects: Mutex<Suspects>,
    pub(super) refusals: Refusals,
    /// Whether something was refused that another connection might do.
    is_denied: AtomicBool,
    /// When there were other connections for that reason last.
    renewed: Mutex<Option<Instant>>,
    patience: Mutex<Patience>,
}

/// Whether the table lets anything be counted at all.
#[derive(Debug, Default)]
struct Patience {
    /// How many batches in a row could count nothing in time.
    failures: u32,
    tried: Option<Instant>,
}

impl Patience {
    /// After so many nothing is tried but once in a while, so that look-ups need not wait for counts.
    const FAILURES: u32 = 3;
    const RETRY: Duration = Duration::from_secs(1);

    /// Whether to try to count.
    fn is_given(&mut self, now: Instant) -> bool {
        if self.failures < Self::FAILURES {
            return true;
        }
        let is_due = self.tried.is_none_or(|tried| now.saturating_duration_since(tried) >= Self::RETRY);
        if is_due {
            self.tried = Some(now);
        }
        is_due
    }
}

/// Why a batch cannot go on.
pub(super) enum Trouble {
    /// The store has gone, or what was sent to it is in doubt.
    Lost(String),
    /// The server has refused one statement, and has done nothing of it.
    Refused(ServerError),
}

impl Shared {
    /// What is known of a table at the start.
    pub(super) fn new(pool: Arc<Pool>, name: String) -> Self {
        Self {
            pool,
            suspects: Mutex::default(),
            refusals: Refusals::new(name),
            is_denied: AtomicBool::new(false),
            renewed: Mutex::new(None),
            patience: Mutex::default(),
        }
    }

    /// Takes note that these digests could not be counted in time, by a server that is there.
    pub(super) fn was_slow(&self, under_way: &[Digest]) {
        // What one row that is known to be locked does says nothing of the table.
        if self.suspects().blame(under_way, Instant::now()) {
            self.patience().failures += 1;
        }
    }

    /// Does all that a batch asks; `under_way` are the digests that are being counted. Fails when nobody
    /// can tell what became of the rest.
    pub(super) async fn serve(
        &self,
        batch: &mut Batch,
        epoch: u64,
        under_way: &mut Vec<Digest>,
    ) -> Result<(), String> {
        let mut counts = batch.entries().iter().any(Entry::changes);
        if counts && !self.patience().is_given(Instant::now()) {
            self.refusals.refused("nothing could be counted lately, as if somebody held the table locked");
            counts = false;
        }
        // What asks for nothing must not make a server seem to be there that has gone meanwhile.
        if !counts && !batch.entries().iter().any(|entry| entry.look_up) {
            return Ok(());
        }
        let mut lease = self.pool.take().await.map_err(|failure| failure.why)?;
        let connection = &mut lease.connection;
        // The one that was inspected last, for the whole batch.
        let table = &*self.pool.table();
        self.look_up(connection, table, batch, epoch).await?;
        if !counts {
            lease.put_back();
            return Ok(());
        }
        for kind in [Kind::Report, Kind::Whitelist] {
            let mut rows: Vec<(Digest, u32)> = batch
                .entries()
                .iter()
                .map(|entry| match kind {
                    Kind::Report => (entry.digest, entry.reports),
                    Kind::Whitelist => (entry.digest, entry.whitelists),
                })
                .filter(|(_, amount)| *amount > 0)
                .collect();
            // Whoever locks rows in one order never waits for somebody who waits for him.
            rows.sort_unstable();
            let alone = self.set_apart(&mut rows);
            for rows in rows.chunks(table.rows).chain(alone.chunks(1)) {
                under_way.clear();
                under_way.extend(rows.iter().map(|(digest, _)| *digest));
                self.count(connection, table, batch, kind, rows, epoch).await?;
                if let [(digest, _)] = rows {
                    self.suspects().clear(digest);
                }
            }
            under_way.clear();
        }
        // A right that is granted later is not had by connections that there are, and a server that takes
        // no changes any more may have been replaced under its name.
        if self.is_denied.swap(false, Ordering::Relaxed) && self.may_renew() {
            self.pool.forget();
        } else {
            lease.put_back();
        }
        Ok(())
    }

    /// Takes out the rows that may be locked, and returns those of them that are to be tried.
    fn set_apart(&self, rows: &mut Vec<(Digest, u32)>) -> Vec<(Digest, u32)> {
        let mut suspects = self.suspects();
        let mut alone = Vec::new();
        if !suspects.is_empty() {
            let now = Instant::now();
            rows.retain(|row| match suspects.treatment(&row.0, now) {
                Treatment::Together => true,
                Treatment::Alone => {
                    alone.push(*row);
                    false
                }
                Treatment::Refused => false,
            });
        }
        alone
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

    fn patience(&self) -> MutexGuard<'_, Patience> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_up(
        &self,
        connection: &mut Conn,
        table: &Table,
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
                Err(error) => match Trouble::from(error) {
                    Trouble::Lost(why) => return Err(why),
                    Trouble::Refused(error) => {
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
        table: &Table,
        batch: &mut Batch,
        kind: Kind,
        rows: &[(Digest, u32)],
        epoch: u64,
    ) -> Result<(), String> {
        let now = batch.now();
        let mut accept = |rows: &[(Digest, u32)]| {
            for (digest, _) in rows {
                if let Some(entry) = batch.entry_mut(digest) {
                    match kind {
                        Kind::Report => entry.reported = Ok(()),
                        Kind::Whitelist => entry.whitelisted = Ok(()),
                    }
                }
            }
            self.refusals.accepted();
            self.patience().failures = 0;
        };
        match self.upsert(connection, table, kind, rows, now).await {
            Ok(()) => accept(rows),
            Err(Trouble::Lost(why)) => return Err(why),
            Err(Trouble::Refused(error)) if rows.len() > 1 && is_of_one_row(table, &error) => {
                for row in rows.chunks(1) {
                    match self.upsert(connection, table, kind, row, now).await {
                        Ok(()) => accept(row),
                        Err(Trouble::Lost(why)) => return Err(why),
                        Err(Trouble::Refused(error)) => self.refused(epoch, &error),
                    }
                }
            }
            Err(Trouble::Refused(error)) => self.refused(epoch, &error),
        }
        Ok(())
    }

    /// Counts by one statement, which is repeated when others were in its way.
    async fn upsert(
        &self,
        connection: &mut Conn,
        table: &Table,
        kind: Kind,
        rows: &[(Digest, u32)],
        now: Timestamp,
    ) -> Result<(), Trouble> {
        let statement = table.count(kind, rows, now);
        let mut repetition = 0;
        loop {
            let outcome = connection.query_drop(&statement).await.map_err(Trouble::from);
            if !matches!(outcome, Err(Trouble::Lost(_))) {
                self.pool.presence().seen();
            }
            match outcome {
                Err(Trouble::Refused(error)) if is_conflict(&error) && table.is_transactional => {
                    if repetition == REPETITIONS {
                        return Err(Trouble::Refused(error));
                    }
                }
                outcome => return outcome,
            }
            repetition += 1;
            tokio::time::sleep(BACK_OFF * repetition + BACK_OFF.mul_f64(sweep::random_share())).await;
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

/// Whether a statement for many rows failed for one of them, and has done nothing of the others.
fn is_of_one_row(table: &Table, error: &ServerError) -> bool {
    table.is_transactional && (is_of_data(error) || is_conflict(error))
}

/// Whether a statement failed for what was to be stored.
pub(super) fn is_of_data(error: &ServerError) -> bool {
    const ROW_ERRORS: [u16; 2] = [1265, 1366];
    matches!(error.state.get(..2), Some("22" | "23")) || ROW_ERRORS.contains(&error.code)
}

/// Whether others were in the way of a statement, of which nothing was done then.
pub(super) fn is_conflict(error: &ServerError) -> bool {
    const DEADLOCK: u16 = 1213;
    const LOCK_WAIT_TIMEOUT: u16 = 1205;
    const CHANGED_MEANWHILE: u16 = 1020;
    [DEADLOCK, LOCK_WAIT_TIMEOUT, CHANGED_MEANWHILE].contains(&error.code)
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

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Server(error) => Self::Refused(error),
            error => Self::Lost(failure_of(&error).why),
        }
    }
}

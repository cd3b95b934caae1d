//! Errors of statements, classified by their effect on the batch.

use mysql_async::{Error, ServerError};

use super::connect::connect_error;

/// Reason why a statement failed.
pub(super) enum StatementError {
    /// The connection failed, so the outcome of the statement is unknown.
    ConnectionLost(String),
    /// The server refused the statement.
    Refused(ServerError),
}

/// Whether the server refused the content of a row. A trigger may do that with any SQLSTATE.
pub(super) fn is_row_error(error: &ServerError) -> bool {
    const SIGNALLED: u16 = 1644;
    const ROW_ERRORS: [u16; 3] = [1265, 1366, SIGNALLED];
    matches!(error.state.get(..2), Some("22" | "23" | "45")) || ROW_ERRORS.contains(&error.code)
}

/// Whether a statement failed because of concurrent changes. It has changed nothing if the table is transactional.
pub(super) fn is_conflict(error: &ServerError) -> bool {
    const DEADLOCK: u16 = 1213;
    const LOCK_WAIT_TIMEOUT: u16 = 1205;
    const CHANGED_MEANWHILE: u16 = 1020;
    [DEADLOCK, LOCK_WAIT_TIMEOUT, CHANGED_MEANWHILE].contains(&error.code)
}

/// Whether the server ended a statement at the time limit of [`super::table::within`].
pub(super) fn is_timeout(error: &ServerError) -> bool {
    const STATEMENT_TIMEOUT: u16 = 1969;
    error.code == STATEMENT_TIMEOUT
}

/// Whether a statement was denied that a new connection might be allowed to run: privileges may have been granted
/// since, and the server's name may resolve to another server by now.
pub(super) fn is_denied(code: u16) -> bool {
    const COMMAND_DENIED: u16 = 1142;
    const COLUMN_DENIED: u16 = 1143;
    const READ_ONLY: u16 = 1290;
    const READ_ONLY_TRANSACTION: u16 = 1792;
    const READ_ONLY_MODE: u16 = 1836;
    [COMMAND_DENIED, COLUMN_DENIED, READ_ONLY, READ_ONLY_TRANSACTION, READ_ONLY_MODE].contains(&code)
}

/// Whether an error with which a statement that counts was refused will meet all others, too.
pub(super) fn concerns_all_changes(code: u16) -> bool {
    const DISK_FULL: u16 = 1021;
    const STORAGE_ENGINE_ERROR: u16 = 1030;
    const TABLE_READ_ONLY: u16 = 1036;
    const TABLE_FULL: u16 = 1114;
    is_denied(code) || [DISK_FULL, STORAGE_ENGINE_ERROR, TABLE_READ_ONLY, TABLE_FULL].contains(&code)
}

/// Whether an error means that the server or the table is unavailable.
pub(super) fn is_absence(code: u16) -> bool {
    matches!(
        code,
        1040 // too many connections
        | 1044 | 1045 | 1049 // access revoked, database dropped
        | 1047 // a Galera node without quorum
        | 1053 // shutting down
        | 1054 // column dropped
        | 1146 // table dropped
        | 1927 | 4031 // connection killed or closed by the server
    )
}

impl From<Error> for StatementError {
    fn from(error: Error) -> Self {
        match error {
            Error::Server(error) => Self::Refused(error),
            error => Self::ConnectionLost(connect_error(&error).why),
        }
    }
}

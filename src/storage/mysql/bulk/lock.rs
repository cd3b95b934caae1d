//! The lock that keeps two migrations from writing to the same table.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use pyzor_wire::digest::hex;
use sha1::Digest as _;
use tokio::time::timeout;
use tracing::warn;

use super::LIMIT;
use crate::storage::mysql::target::MySqlTarget;

/// Takes the lock of the table. The server holds it until this connection and its last statement have ended.
///
/// If a migration is killed, the server may still run, commit or roll back its last statement. The outcome cannot be
/// read before that statement has ended.
///
/// # Errors
///
/// Fails if another connection holds the lock for more than [`LIMIT`].
pub(super) async fn lock(connection: &mut Conn, target: &MySqlTarget) -> Result<(), String> {
    let (database, table) = target.names();
    // MySQL ignores case in the names of locks and limits them to 64 characters: hence the hash.
    let name = format!("{database}.{table}").to_lowercase();
    let name = format!("pyzor-migrate {}", String::from_utf8_lossy(&hex(&sha1::Sha1::digest(name).into())));
    for patience in [0, LIMIT.as_secs()] {
        let locks = format!("SELECT GET_LOCK('{name}', {patience}), IS_USED_LOCK('{name}')");
        let locked = timeout(2 * LIMIT, connection.query_first::<(Option<i64>, Option<u64>), _>(locks)).await;
        let locked = locked
            .map_err(|_| format!("no answer within {} s", 2 * LIMIT.as_secs()))?
            .map_err(|error| error.to_string())?;
        let holder = match locked {
            Some((Some(1), _)) => return Ok(()),
            Some((_, Some(holder))) => format!("connection {holder}"),
            _ => "unknown connection".to_owned(),
        };
        let what = format!(
            "another pyzor-migrate, or the last statement of one that was killed, is writing to this table ({holder})"
        );
        if patience > 0 {
            return Err(format!("{what}: wait until it has finished, or stop it with KILL"));
        }
        warn!("{what}: waiting for up to {} s", LIMIT.as_secs());
    }
    Ok(())
}

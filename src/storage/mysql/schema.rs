//! Inspecting the table of records, and creating it.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row, Value};

use super::connect::connect_error;
use super::shape::{IndexPart, TableColumn, TableShape, UniqueIndex};
use super::table::{FRAME, LONG_ROW, MAX_ROWS, MySqlTable, ROW};
use super::target::MySqlTarget;
use crate::storage::remote::start::ConnectError;

const NO_SUCH_TABLE: u16 = 1146;

/// The purpose for which a table is inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableUse {
    /// Records are read and may be deleted.
    Reading,
    /// Records are read and changed.
    Changing,
    /// Records are read and changed, and a missing table is created.
    Creating,
}

impl MySqlTable {
    /// Inspects the table and tests whether it can be read. Returns `None` if it does not exist and must not be
    /// created.
    ///
    /// # Errors
    ///
    /// A table that does not suit its purpose is a permanent error.
    pub(super) async fn inspect(
        connection: &mut Conn,
        target: &MySqlTarget,
        purpose: TableUse,
    ) -> Result<Option<Self>, ConnectError> {
        let name = target.quoted_table();
        let found = match shape(connection, &name).await {
            Err(Error::Server(error)) if error.code == NO_SUCH_TABLE && purpose != TableUse::Creating => {
                return Ok(None);
            }
            Err(Error::Server(error)) if error.code == NO_SUCH_TABLE => {
                create(connection, &name).await?;
                shape(connection, &name).await
            }
            found => found,
        };
        let failure = |error| connect_error(&error);
        let shape = found.map_err(failure)?;
        let mut why = shape.why_unreadable();
        if purpose != TableUse::Reading {
            why = why.or_else(|| shape.why_unchangeable());
        }
        if let Some(why) = why {
            return Err(ConnectError::permanent(why));
        }
        let probe = format!("SELECT r_count, wl_updated FROM {name} WHERE digest = ''");
        connection.query_drop(probe).await.map_err(failure)?;
        let packet: Option<u64> =
            connection.query_first("SELECT @@max_allowed_packet").await.map_err(failure)?;
        let packet = packet.map_or(usize::MAX, |packet| usize::try_from(packet).unwrap_or(usize::MAX));
        let limits = shape.limits();
        Ok(Some(Self {
            limits: limits.map(|(_, largest)| largest),
            floors: limits.map(|(smallest, _)| smallest),
            wants_all_times: shape.wants_all_times(),
            updates_times: shape.updates_times(),
            is_transactional: is_transactional(connection, target).await.map_err(failure)?,
            rows: (packet.saturating_sub(FRAME + 2 * name.len()) / ROW).clamp(1, MAX_ROWS),
            long_rows: (packet.saturating_sub(4 * FRAME + 2 * name.len()) / LONG_ROW).clamp(1, MAX_ROWS),
            name,
        }))
    }
}

/// The text of a column of a row; `None` for NULL and for a column that does not exist.
fn text(row: &Row, at: Option<usize>) -> Option<String> {
    match row.as_ref(at?)? {
        Value::NULL => None,
        Value::Bytes(text) => Some(String::from_utf8_lossy(text).into_owned()),
        other => Some(other.as_sql(true)),
    }
}

async fn shape(connection: &mut Conn, name: &str) -> Result<TableShape, Error> {
    let rows: Vec<Row> = connection.query(format!("SHOW COLUMNS FROM {name}")).await?;
    let column = |row: &Row| TableColumn {
        name: text(row, Some(0)).unwrap_or_default(),
        kind: text(row, Some(1)).unwrap_or_default(),
        is_nullable: text(row, Some(2)).as_deref() != Some("NO"),
        default: text(row, Some(4)),
        extra: text(row, Some(5)).unwrap_or_default(),
    };
    let columns = rows.iter().map(column).collect();
    Ok(TableShape { table: name.to_owned(), columns, unique: unique_indexes(connection, name).await? })
}

async fn unique_indexes(connection: &mut Conn, name: &str) -> Result<Vec<UniqueIndex>, Error> {
    let rows: Vec<Row> = connection.query(format!("SHOW INDEX FROM {name}")).await?;
    let text = |row: &Row, column: &str| {
        text(row, row.columns_ref().iter().position(|named| named.name_str() == column)).unwrap_or_default()
    };
    let mut indexes: Vec<UniqueIndex> = Vec::new();
    // One row per part; the parts of an index follow each other.
    for row in rows.iter().filter(|row| text(row, "Non_unique") == "0") {
        let part = IndexPart { column: text(row, "Column_name"), is_whole: text(row, "Sub_part").is_empty() };
        let name = text(row, "Key_name");
        match indexes.last_mut() {
            Some(index) if index.name == name => index.parts.push(part),
            _ => indexes.push(UniqueIndex { name, parts: vec![part] }),
        }
    }
    Ok(indexes)
}

/// Whether the table's present storage engine has transactions, so that a failed statement changes nothing.
pub(super) async fn is_transactional(connection: &mut Conn, target: &MySqlTarget) -> Result<bool, Error> {
    let (database, table) = target.names();
    let query = "SELECT e.TRANSACTIONS FROM information_schema.TABLES t JOIN information_schema.ENGINES e ON \
                    e.ENGINE = t.ENGINE WHERE t.TABLE_SCHEMA = ? AND t.TABLE_NAME = ?";
    let answer: Option<String> = connection.exec_first(query, (database, table)).await?;
    Ok(answer.as_deref() == Some("YES"))
}

/// The statement that creates the table as in Pyzor's manual, but with a key that is `NOT NULL`, which newer servers
/// demand.
fn schema(name: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {name} (`digest` char(40) NOT NULL, `r_count` int(11) default NULL, `wl_count` \
         int(11) default NULL, `r_entered` datetime default NULL, `wl_entered` datetime default NULL, `r_updated` \
         datetime default NULL, `wl_updated` datetime default NULL, PRIMARY KEY (`digest`))"
    )
}

async fn create(connection: &mut Conn, name: &str) -> Result<(), ConnectError> {
    let statement = schema(name);
    match connection.query_drop(&statement).await {
        Ok(()) => {
            tracing::info!("created the table {name}, which did not exist");
            Ok(())
        }
        Err(Error::Server(error)) => Err(ConnectError {
            why: format!(
                "the table {name} does not exist and cannot be created ({error}): as an account that may create it, \
                 run: {statement};"
            ),
            is_permanent: true,
        }),
        Err(error) => Err(connect_error(&error)),
    }
}

//! The shape of the table of records: looking at it, and making it.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row, Value};

use super::place::{Place, failure_of};
use super::table::{FRAME, LONG_ROW, MAX_ROWS, ROW, Table};
use crate::digest::HEX_LEN;
use crate::storage::start::Failure;

const NO_SUCH_TABLE: u16 = 1146;
const TIMES: [&str; 4] = ["r_entered", "wl_entered", "r_updated", "wl_updated"];

impl Table {
    /// Looks at the table, and whether it can be read. If it is not there it is made, where that is wanted;
    /// otherwise there is none. A table that cannot be counted in is a final failure.
    pub(super) async fn inspect(
        connection: &mut Conn,
        place: &Place,
        may_create: bool,
    ) -> Result<Option<Self>, Failure> {
        let name = place.quoted_table();
        let columns = match columns(connection, &name).await {
            Err(Error::Server(error)) if error.code == NO_SUCH_TABLE && !may_create => return Ok(None),
            Err(Error::Server(error)) if error.code == NO_SUCH_TABLE => {
                create(connection, &name).await?;
                columns(connection, &name).await
            }
            columns => columns,
        };
        let columns = columns.map_err(|error| failure_of(&error))?;
        let column = |wanted: &str| columns.iter().find(|column| column.name.eq_ignore_ascii_case(wanted));
        let wanted = [&["digest", "r_count", "wl_count"][..], &TIMES].concat();
        if let Some(missing) = wanted.into_iter().find(|name| column(name).is_none()) {
            return Err(Failure::fatal(format!("the table {name} has no column {missing}")));
        }
        // What others have stored there, and what is compared, is filled up with zero bytes.
        if let Some(padded) = column("digest").filter(|column| {
            column.kind.to_ascii_lowercase().starts_with("binary(") && width(&column.kind) > Some(HEX_LEN)
        }) {
            let why = format!(
                "the column digest of the table {name} is {}, which fills digests up with zero bytes: run ALTER TABLE \
                 {name} MODIFY digest char({HEX_LEN}) CHARACTER SET ascii NOT NULL, after its zero bytes have been removed",
                padded.kind
            );
            return Err(Failure::fatal(why));
        }
        if let Some(narrow) =
            column("digest").filter(|column| width(&column.kind).is_some_and(|width| width < HEX_LEN))
        {
            let why =
                format!("the column digest of the table {name} is {}, too narrow for 40 digits", narrow.kind);
            return Err(Failure::fatal(why));
        }
        let failure = |error| failure_of(&error);
        if !is_unique(connection, &name).await.map_err(failure)? {
            let why = format!(
                "the table {name} has no unique index of whole digests, so it may have several rows for one digest, or one \
                 for several, whose counts would be wrong: run ALTER TABLE {name} ADD PRIMARY KEY (digest)"
            );
            return Err(Failure::fatal(why));
        }
        let probe = format!("SELECT r_count, wl_updated FROM {name} WHERE digest = ''");
        connection.query_drop(probe).await.map_err(failure)?;
        let packet: Option<u64> =
            connection.query_first("SELECT @@max_allowed_packet").await.map_err(failure)?;
        let packet = packet.map_or(usize::MAX, |packet| usize::try_from(packet).unwrap_or(usize::MAX));
        let counts = ["r_count", "wl_count"].map(|name| column(name).map_or("int", |column| &column.kind));
        Ok(Some(Self {
            limits: counts.map(limit),
            floors: counts.map(floor),
            wants_all_times: TIMES.iter().any(|name| column(name).is_some_and(|column| column.is_demanded)),
            is_transactional: is_transactional(connection, place).await.map_err(failure)?,
            rows: (packet.saturating_sub(FRAME + 2 * name.len()) / ROW).clamp(1, MAX_ROWS),
            long_rows: (packet.saturating_sub(4 * FRAME + 2 * name.len()) / LONG_ROW).clamp(1, MAX_ROWS),
            name,
        }))
    }
}

/// One column of the table.
struct Column {
    name: String,
    kind: String,
    /// Whether every new row must name a value for it.
    is_demanded: bool,
}

/// What is at a place of a row, where it is something.
fn text(row: &Row, at: Option<usize>) -> Option<String> {
    match row.as_ref(at?)? {
        Value::NULL => None,
        Value::Bytes(text) => Some(String::from_utf8_lossy(text).into_owned()),
        other => Some(other.as_sql(true)),
    }
}

async fn columns(connection: &mut Conn, name: &str) -> Result<Vec<Column>, Error> {
    let rows: Vec<Row> = connection.query(format!("SHOW COLUMNS FROM {name}")).await?;
    let column = |row: &Row| Column {
        name: text(row, Some(0)).unwrap_or_default(),
        kind: text(row, Some(1)).unwrap_or_default(),
        is_demanded: text(row, Some(2)).as_deref() == Some("NO") && text(row, Some(4)).is_none(),
    };
    Ok(rows.iter().map(column).collect())
}

/// Whether there can be only one row for a digest.
async fn is_unique(connection: &mut Conn, name: &str) -> Result<bool, Error> {
    let rows: Vec<Row> = connection.query(format!("SHOW INDEX FROM {name}")).await?;
    let text = |row: &Row, column: &str| {
        text(row, row.columns_ref().iter().position(|named| named.name_str() == column)).unwrap_or_default()
    };
    let parts = |key: &str| rows.iter().filter(|row| text(row, "Key_name") == key).count();
    Ok(rows.iter().any(|row| {
        text(row, "Non_unique") == "0"
            && text(row, "Column_name").eq_ignore_ascii_case("digest")
            // Of some characters alone: digests that begin alike would be one.
            && text(row, "Sub_part").is_empty()
            && parts(&text(row, "Key_name")) == 1
    }))
}

async fn is_transactional(connection: &mut Conn, place: &Place) -> Result<bool, Error> {
    let (database, table) = place.names();
    let question = "SELECT e.TRANSACTIONS FROM information_schema.TABLES t JOIN information_schema.ENGINES e ON \
                    e.ENGINE = t.ENGINE WHERE t.TABLE_SCHEMA = ? AND t.TABLE_NAME = ?";
    let answer: Option<String> = connection.exec_first(question, (database, table)).await?;
    Ok(answer.as_deref() == Some("YES"))
}

/// The schema of the manual; a primary key is never NULL, which newer servers want to be told.
fn schema(name: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {name} (`digest` char(40) NOT NULL, `r_count` int(11) default NULL, `wl_count` \
         int(11) default NULL, `r_entered` datetime default NULL, `wl_entered` datetime default NULL, `r_updated` \
         datetime default NULL, `wl_updated` datetime default NULL, PRIMARY KEY (`digest`))"
    )
}

async fn create(connection: &mut Conn, name: &str) -> Result<(), Failure> {
    let statement = schema(name);
    match connection.query_drop(&statement).await {
        Ok(()) => {
            tracing::info!("The table {name} was not there and has been created.");
            Ok(())
        }
        Err(Error::Server(error)) => Err(Failure {
            why: format!(
                "the table {name} is not there, and may not be created ({error}): as another account, run: {statement};"
            ),
            is_final: true,
        }),
        Err(error) => Err(failure_of(&error)),
    }
}

/// How many characters a column of this type holds, where its name tells.
fn width(kind: &str) -> Option<usize> {
    kind.split_once('(')?.1.split_once(')')?.0.parse().ok()
}

/// The largest number that a column of this type holds.
fn limit(kind: &str) -> i64 {
    let kind = kind.to_ascii_lowercase();
    let is_unsigned = kind.contains("unsigned");
    let name = kind.split(|byte: char| !byte.is_ascii_alphabetic()).next().unwrap_or_default();
    let bits = match name {
        "tinyint" => 8,
        "smallint" => 16,
        "mediumint" => 24,
        "bigint" => return i64::MAX,
        _ => 32,
    };
    (1 << (if is_unsigned { bits } else { bits - 1 })) - 1
}

/// The smallest number that a column of this type holds.
fn floor(kind: &str) -> i64 {
    if kind.to_ascii_lowercase().contains("unsigned") { 0 } else { -limit(kind) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest count of an `int(11)`.
    const INT: i64 = i32::MAX as i64;

    #[test]
    fn a_column_limits_the_count() {
        for (kind, expected) in [
            ("int(11)", INT),
            ("int", INT),
            ("int(10) unsigned", 4_294_967_295),
            ("bigint(20)", i64::MAX),
            ("bigint(20) unsigned", i64::MAX),
            ("MEDIUMINT(9)", 8_388_607),
            ("smallint(5) unsigned", 65_535),
            ("tinyint(4)", 127),
        ] {
            assert_eq!(limit(kind), expected, "{kind}");
            let lowest = if kind.contains("unsigned") { 0 } else { -expected - 1 };
            assert_eq!(floor(kind), lowest, "{kind}");
        }
    }
}

//! The statements on the table of records, and what its rows hold.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use mysql_async::{Row, Value};

use crate::record::{Record, Tally, TallyKind, Timestamp};
use crate::storage::bulk::{Item, map_tallies, map_times};
use pyzor_wire::digest::{Digest, HEX_LEN};

/// How many rows one statement has at most.
pub(super) const MAX_ROWS: usize = 1000;
/// The seconds since the epoch that every server converts into a date; others become NULL. 0 is no time at all.
pub(super) const TIMES: RangeInclusive<i64> = 1..=i32::MAX as i64;
/// Room for a statement's text that is not rows, and for one row of the longest kind.
pub(super) const FRAME: usize = 900;
pub(super) const ROW: usize = 180;
/// Room for one row with all that a record has, or for a key with all that was read of it.
pub(super) const LONG_ROW: usize = 320;

/// What is known of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MySqlTable {
    pub(super) name: String,
    /// The largest counts of the two columns.
    pub(super) limits: [i64; 2],
    /// The smallest ones.
    pub(super) floors: [i64; 2],
    /// Whether a new row must have all its times, as the established server fills them in.
    pub(super) wants_all_times: bool,
    /// Whether the server sets times that a change of a row does not mention.
    pub(super) updates_times: bool,
    /// Whether a statement that failed has changed nothing.
    pub(super) is_transactional: bool,
    /// How many rows a statement may have, and how many with all that a record has.
    pub(super) rows: usize,
    pub(super) long_rows: usize,
}

impl MySqlTable {
    /// The largest count of a record of either kind.
    pub(super) fn limit(&self) -> i64 {
        self.limits[0].min(self.limits[1])
    }

    /// Looks digests up.
    pub(super) fn look_up(&self, digests: impl Iterator<Item = Digest>) -> String {
        format!("SELECT {COLUMNS} FROM {} WHERE digest IN ({})", self.name, list(digests))
    }

    /// Counts amounts for digests, all at one moment.
    ///
    /// Assignments run from left to right and see what those before them did, so the first time, which
    /// depends on the count, comes before it.
    pub(super) fn count(&self, kind: TallyKind, rows: &[(Digest, u32)], now: Timestamp) -> String {
        let (name, other, limit) = match kind {
            TallyKind::Report => ("r", "wl", self.limits[0]),
            TallyKind::Whitelist => ("wl", "r", self.limits[1]),
        };
        let now = format!("FROM_UNIXTIME({})", now.seconds());
        // With a count of 0 they are no times of anything.
        let (other_columns, other_times) = match self.wants_all_times {
            true => (format!(",{other}_entered,{other}_updated"), format!(",{now},{now}")),
            false => (String::new(), String::new()),
        };
        let mut sql = format!(
            "INSERT INTO {} (digest,{name}_count,{other}_count,{name}_entered,{name}_updated{other_columns}) VALUES ",
            self.name
        );
        for (at, (digest, amount)) in rows.iter().enumerate() {
            let amount = i64::from(*amount).min(limit);
            let separator = if at == 0 { "" } else { "," };
            let _ = write!(sql, "{separator}('{digest}',{amount},0,{now},{now}{other_times})");
        }
        let count = format!("COALESCE({name}_count, 0)");
        let sum = of_one_digest(&format!(
            "IF({count} > {limit} - VALUES({name}_count), GREATEST({count}, {limit}), {count} + VALUES({name}_count))"
        ));
        let _ = write!(
            sql,
            " ON DUPLICATE KEY UPDATE {name}_entered = IF({count} = 0 OR COALESCE(UNIX_TIMESTAMP({name}_entered), 0) \
             = 0, VALUES({name}_entered), {name}_entered), {name}_updated = VALUES({name}_updated), {other}_count = \
             COALESCE({other}_count, 0), {name}_count = {sum}"
        );
        if self.updates_times {
            let _ = write!(sql, ", {other}_entered = {other}_entered, {other}_updated = {other}_updated");
        }
        sql
    }

    /// Stores records whole, which are such as the columns hold.
    pub(super) fn store(&self, rows: &[(Digest, Record)]) -> String {
        let mut sql = self.insert(rows);
        for (at, column) in COLUMN_NAMES.iter().enumerate() {
            let separator = if at == 0 { "" } else { "," };
            let value = of_one_digest(&format!("VALUES({column})"));
            let _ = write!(sql, "{separator} {column} = {value}");
        }
        sql
    }

    /// Adds records: counts stop at what the columns hold, the first of all times is the first, and the
    /// last of all the last. Assignments run from left to right, so times, which depend on counts, come
    /// before them.
    pub(super) fn add(&self, rows: &[(Digest, Record)]) -> String {
        let mut sql = self.insert(rows);
        let mut separator = "";
        for (name, limit) in ["r", "wl"].into_iter().zip(self.limits) {
            let count = format!("COALESCE({name}_count, 0)");
            for (time, order) in [("entered", "<"), ("updated", ">")] {
                let column = format!("{name}_{time}");
                let _ = write!(
                    sql,
                    "{separator} {column} = IF(VALUES({name}_count) <> 0 AND COALESCE(UNIX_TIMESTAMP(VALUES({column})), \
                     0) <> 0 AND ({count} = 0 OR COALESCE(UNIX_TIMESTAMP({column}), 0) = 0 OR \
                     UNIX_TIMESTAMP(VALUES({column})) {order} UNIX_TIMESTAMP({column})), VALUES({column}), {column})"
                );
                separator = ",";
            }
            let sum = of_one_digest(&format!(
                "IF(VALUES({name}_count) > 0 AND {count} > {limit} - VALUES({name}_count), GREATEST({count}, {limit}), \
                 {count} + VALUES({name}_count))"
            ));
            let _ = write!(sql, ", {name}_count = {sum}");
        }
        sql
    }

    fn insert(&self, rows: &[(Digest, Record)]) -> String {
        let time = |sql: &mut String, time: Option<Timestamp>| {
            let _ = match time {
                Some(time) => write!(sql, ",FROM_UNIXTIME({})", time.seconds()),
                // With a count of 0 it is no time of anything.
                None if self.wants_all_times => write!(sql, ",FROM_UNIXTIME(1)"),
                None => write!(sql, ",NULL"),
            };
        };
        let mut sql = String::with_capacity(FRAME + rows.len() * LONG_ROW);
        let _ = write!(sql, "INSERT INTO {} (digest,{}) VALUES ", self.name, COLUMN_NAMES.join(","));
        for (at, (digest, record)) in rows.iter().enumerate() {
            let separator = if at == 0 { "" } else { "," };
            let _ = write!(sql, "{separator}('{digest}'");
            for tally in [record.reports, record.whitelists] {
                let _ = write!(sql, ",{}", tally.count);
                time(&mut sql, tally.first);
                time(&mut sql, tally.last);
            }
            sql.push(')');
        }
        sql.push_str(" ON DUPLICATE KEY UPDATE");
        sql
    }

    /// The nearest record that can be stored.
    pub(super) fn clamp(&self, record: &Record) -> Record {
        let (first, last) = TIMES.into_inner();
        let time = |time: Timestamp| Some(Timestamp::from_seconds(time.seconds().clamp(first, last)));
        map_tallies(record, |at, tally| match tally.count.clamp(self.floors[at], self.limits[at]) {
            // Nobody takes its times for any.
            0 => Tally::default(),
            count => map_times(&Tally { count, ..*tally }, time),
        })
    }

    /// Deletes records that are still what they were.
    pub(super) fn delete(&self, items: &[Item]) -> String {
        let keys = literals(items.iter().map(|item| item.key.as_slice()));
        let mut sql = format!(
            "DELETE FROM {} WHERE digest IN ({keys}) AND CONCAT_WS('|',HEX(CONVERT(digest USING \
             utf8mb4)),{}) IN (",
            self.name,
            held()
        );
        for (at, item) in items.iter().enumerate() {
            let separator = if at == 0 { "'" } else { ",'" };
            sql.push_str(separator);
            push_hex(&mut sql, &item.key);
            // Numbers only, as the server has told them.
            sql.push('|');
            sql.push_str(&String::from_utf8_lossy(&item.held));
            sql.push('\'');
        }
        sql.push(')');
        sql
    }

    /// Reads rows behind a key, whose value is to be given, in the order of the keys; with `from_start`
    /// from that key on.
    pub(super) fn page(&self, limit: usize, from_start: bool) -> String {
        let behind = if from_start { ">=" } else { ">" };
        format!(
            "SELECT digest,CONCAT_WS('|',{}) FROM {} WHERE digest {behind} ? ORDER BY digest LIMIT {limit}",
            held(),
            self.name
        )
    }

    /// Reads the rows of some keys.
    pub(super) fn read<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> String {
        let keys = literals(keys);
        format!("SELECT digest,CONCAT_WS('|',{}) FROM {} WHERE digest IN ({keys})", held(), self.name)
    }

    /// Reads keys behind one and up to another one, whose values are to be given, with whether their
    /// records changed last before `horizon`. Locks nothing. What is up to a key only the server knows,
    /// which has an order of its own; without an end there is one value only.
    pub(super) fn ages(&self, horizon: Timestamp, limit: usize, has_end: bool) -> String {
        let end = if has_end { " AND digest <= ?" } else { "" };
        format!(
            "SELECT digest, {} FROM {} WHERE digest > ?{end} ORDER BY digest LIMIT {limit}",
            expired(horizon),
            self.name
        )
    }

    /// Deletes those of some records that changed last before `horizon`, still. By their keys, since
    /// a range would lock all of it.
    pub(super) fn expire(&self, digests: &[Digest], horizon: Timestamp) -> String {
        let list = list(digests.iter().copied());
        format!("DELETE FROM {} WHERE digest IN ({list}) AND {}", self.name, expired(horizon))
    }
}

/// A statement that MariaDB ends after so long, and has then done nothing of. To MySQL, which has nothing of
/// the kind, that is a comment.
pub(super) fn within(limit: Duration, statement: &str) -> String {
    // 0 would mean no limit.
    let seconds = limit.as_secs_f64().max(0.001);
    format!("/*M!100300 SET STATEMENT max_statement_time={seconds:.3} FOR */ {statement}")
}

/// The columns of a record.
pub(super) const COLUMN_NAMES: [&str; 6] =
    ["r_count", "r_entered", "r_updated", "wl_count", "wl_entered", "wl_updated"];

/// A value for the row of the same digest; the statement fails where another unique index has led it to another's.
fn of_one_digest(value: &str) -> String {
    format!("IF(digest = VALUES(digest), {value}, 18446744073709551615 + LENGTH(VALUES(digest)))")
}

/// The same as expressions of which each has a text; where there is nothing, `N`.
fn held() -> String {
    let text = |name: &&str| match name.ends_with("_count") {
        true => format!("IFNULL({name},'N')"),
        false => format!("IFNULL(UNIX_TIMESTAMP({name}),'N')"),
    };
    COLUMN_NAMES.iter().map(text).collect::<Vec<_>>().join(",")
}

/// A list of texts.
fn literals<'a>(keys: impl Iterator<Item = &'a [u8]>) -> String {
    let mut list = String::with_capacity(MAX_ROWS * (HEX_LEN + 3));
    for key in keys {
        if !list.is_empty() {
            list.push(',');
        }
        match std::str::from_utf8(key) {
            Ok(key) if key.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                let _ = write!(list, "'{key}'");
            }
            _ => {
                list.push_str("_utf8mb4 X'");
                push_hex(&mut list, key);
                list.push('\'');
            }
        }
    }
    list
}

fn push_hex(sql: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(sql, "{byte:02X}");
    }
}

/// The columns of a record, times as seconds since the epoch, which no time zone can skew.
const COLUMNS: &str = "digest, r_count, UNIX_TIMESTAMP(r_entered), UNIX_TIMESTAMP(r_updated), wl_count, \
                       UNIX_TIMESTAMP(wl_entered), UNIX_TIMESTAMP(wl_updated)";

/// Whether a record has a time and changed last before `horizon`.
fn expired(horizon: Timestamp) -> String {
    let last = "GREATEST(COALESCE(UNIX_TIMESTAMP(r_updated), 0), COALESCE(UNIX_TIMESTAMP(wl_updated), 0))";
    format!("{last} BETWEEN 1 AND {}", horizon.seconds() - 1)
}

fn list(digests: impl Iterator<Item = Digest>) -> String {
    let mut list = String::with_capacity(MAX_ROWS * (HEX_LEN + 3));
    for digest in digests {
        let separator = if list.is_empty() { "" } else { "," };
        let _ = write!(list, "{separator}'{digest}'");
    }
    list
}

/// The key of a row and whether it has expired, as [`MySqlTable::ages`] has them.
pub(super) fn decode_age(row: Row) -> (Vec<u8>, bool) {
    let mut values = row.unwrap().into_iter();
    let key = key(values.next());
    (key, values.next().and_then(|value| number(&value)) == Some(1))
}

/// A key; what a wide column has behind it is nothing.
fn key(value: Option<Value>) -> Vec<u8> {
    match value {
        Some(Value::Bytes(key)) => key,
        _ => Vec::new(),
    }
}

/// The digest that a key is, of either case. Some modes fill keys up to the width of their column.
pub(super) fn digest_of(key: &[u8]) -> Option<Digest> {
    Digest::from_hex(key.trim_ascii_end())
}

/// The key and the record of a row of [`COLUMNS`].
pub(super) fn decode(row: Row) -> (Vec<u8>, Option<Record>) {
    of_columns(row.unwrap().into_iter())
}

/// The same of the columns' values.
pub(super) fn of_columns(mut values: impl Iterator<Item = Value>) -> (Vec<u8>, Option<Record>) {
    (key(values.next()), of_record(values))
}

/// The record of the columns behind the key.
pub(super) fn of_record(mut values: impl Iterator<Item = Value>) -> Option<Record> {
    record(|| values.next().and_then(|value| number(&value)))
}

/// The record that six numbers are.
fn record(mut next: impl FnMut() -> Option<i64>) -> Option<Record> {
    let mut tally = || {
        let (count, first, last) = (next()?, next()?, next()?);
        let time = |seconds: i64| (seconds != 0).then(|| Timestamp::from_seconds(seconds));
        // The established server fills in the times of the other tally, too.
        Some(match count {
            0 => Tally::default(),
            count => Tally { count, first: time(first), last: time(last) },
        })
    };
    Some(Record { reports: tally()?, whitelists: tally()? })
}

/// The key and the record of a row of [`MySqlTable::page`] or [`MySqlTable::read`].
pub(super) fn decode_held(row: Row) -> Item {
    of_held(row.unwrap().into_iter())
}

/// The same of the columns' values.
pub(super) fn of_held(mut values: impl Iterator<Item = Value>) -> Item {
    let key = key(values.next());
    let held = match values.next() {
        Some(Value::Bytes(held)) => held,
        _ => Vec::new(),
    };
    let record = {
        let mut texts = held.split(|byte| *byte == b'|').map(|text| match text {
            b"N" => Some(0),
            text => number(&Value::Bytes(text.to_vec())),
        });
        // What was read may become a part of a statement, and has to be numbers to its end.
        record(|| texts.next().flatten()).filter(|_| texts.next().is_none())
    };
    let record = record.ok_or_else(|| format!("cannot decode '{}'", held.escape_ascii()));
    Item { key, held, record }
}

/// A whole number, with its fraction cut off; that of nothing is 0.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::NULL => Some(0),
        Value::Int(number) => Some(*number),
        Value::UInt(number) => Some(i64::try_from(*number).unwrap_or(i64::MAX)),
        Value::Bytes(text) => {
            let text = std::str::from_utf8(text).ok()?;
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            // Digits and nothing else, since what was read may become a part of a statement.
            if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let number = whole.parse::<i128>().ok()?;
            Some(number.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_as_one_text_is_numbers_to_its_end() {
        let item = |held: &str| of_held([Value::from("key"), Value::from(held)].into_iter());
        assert!(item("1|2|3.5|N|N|N").record.is_ok());
        for odd in ["1|2|3|N|N|N|'", "1|2|3.'|N|N|N", "1|2|3|N|N", ""] {
            assert!(item(odd).record.is_err(), "{odd:?}");
        }
    }

    #[test]
    fn numbers_of_all_columns_are_read() {
        let bytes = |text: &str| Value::Bytes(text.as_bytes().to_vec());
        for (value, expected) in [
            (Value::NULL, Some(0)),
            (bytes("17"), Some(17)),
            (bytes("-3"), Some(-3)),
            (bytes("1795343207.999999"), Some(1_795_343_207)),
            (bytes("18446744073709551615"), Some(i64::MAX)),
            (Value::UInt(u64::MAX), Some(i64::MAX)),
            (bytes("-99999999999999999999"), Some(i64::MIN)),
            (bytes("1.5'"), None),
            (bytes("x"), None),
        ] {
            assert_eq!(number(&value), expected, "{value:?}");
        }
    }
}

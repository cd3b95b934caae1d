//! The SQL statements on the table of records. See [`super::rows`] for decoding their results.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::record::{Record, Tally, TallyKind, Timestamp};
use crate::storage::bulk::{Item, map_tallies, map_times};
use pyzor_wire::digest::{Digest, HEX_LEN};

/// The most rows of one statement.
pub(super) const MAX_ROWS: usize = 1000;
/// The seconds since the epoch that every server converts into a date. Others become NULL, and 0 means "no time".
pub(super) const TIMES: RangeInclusive<i64> = 1..=i32::MAX as i64;
/// The most bytes of a statement's text without its rows.
pub(super) const FRAME: usize = 900;
/// The most bytes of one row in a statement that looks up, counts or expires.
pub(super) const ROW: usize = 180;
/// The most bytes of one row with a whole record, or with a key and its `held` text.
pub(super) const LONG_ROW: usize = 320;

/// A table, as last inspected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MySqlTable {
    /// The quoted name, with the database.
    pub(super) name: String,
    /// The largest values of the columns `r_count` and `wl_count`.
    pub(super) limits: [i64; 2],
    /// The smallest values of the columns `r_count` and `wl_count`.
    pub(super) floors: [i64; 2],
    /// Whether a new row needs a value for every time, because a column is `NOT NULL` without a default.
    pub(super) wants_all_times: bool,
    /// Whether the server changes times that an update does not mention (`ON UPDATE CURRENT_TIMESTAMP`).
    pub(super) updates_times: bool,
    /// Whether a failed statement changes nothing.
    pub(super) is_transactional: bool,
    /// The most rows of a statement that fit into a packet, at most [`MAX_ROWS`].
    pub(super) rows: usize,
    /// The most rows with whole records that fit into a packet, at most [`MAX_ROWS`].
    pub(super) long_rows: usize,
}

impl MySqlTable {
    /// The largest count that fits both columns.
    pub(super) fn limit(&self) -> i64 {
        self.limits[0].min(self.limits[1])
    }

    pub(super) fn look_up(&self, digests: impl Iterator<Item = Digest>) -> String {
        format!("SELECT {COLUMNS} FROM {} WHERE digest IN ({})", self.name, list(digests))
    }

    /// Returns the statement that adds amounts to the counts of digests, with `now` as the time of all of them.
    ///
    /// MySQL runs assignments from left to right, and each sees the values assigned before it. `entered` depends on
    /// the old count, so it is assigned before the count.
    pub(super) fn count(&self, kind: TallyKind, rows: &[(Digest, u32)], now: Timestamp) -> String {
        let (name, other, limit) = match kind {
            TallyKind::Report => ("r", "wl", self.limits[0]),
            TallyKind::Whitelist => ("wl", "r", self.limits[1]),
        };
        let now = format!("FROM_UNIXTIME({})", now.seconds());
        // The values do not matter: times of a count of 0 are ignored.
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

    /// Returns the statement that replaces whole records, which must be clamped.
    pub(super) fn store(&self, rows: &[(Digest, Record)]) -> String {
        let mut sql = self.insert(rows);
        for (at, column) in COLUMN_NAMES.iter().enumerate() {
            let separator = if at == 0 { "" } else { "," };
            let value = of_one_digest(&format!("VALUES({column})"));
            let _ = write!(sql, "{separator} {column} = {value}");
        }
        sql
    }

    /// Returns the statement that merges records into existing ones: counts add up to at most the column's limit,
    /// `entered` becomes the earliest time and `updated` the latest.
    ///
    /// MySQL runs assignments from left to right. Times depend on the old counts, so they are assigned before them.
    pub(super) fn add(&self, rows: &[(Digest, Record)]) -> String {
        let mut sql = self.insert(rows);
        let mut separator = "";
        for (name, limit) in ["r", "wl"].into_iter().zip(self.limits) {
            let count = format!("COALESCE({name}_count, 0)");
            for (time, order) in [("entered", "<"), ("updated", ">")] {
                let column = format!("{name}_{time}");
                let _ = write!(
                    sql,
                    "{separator} {column} = IF(VALUES({name}_count) <> 0 AND \
                     COALESCE(UNIX_TIMESTAMP(VALUES({column})), 0) <> 0 AND ({count} = 0 OR \
                     COALESCE(UNIX_TIMESTAMP({column}), 0) = 0 OR UNIX_TIMESTAMP(VALUES({column})) {order} \
                     UNIX_TIMESTAMP({column})), VALUES({column}), {column})"
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
                // The value does not matter: times of a count of 0 are ignored.
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

    /// Returns the nearest record that the columns can store.
    pub(super) fn clamp(&self, record: &Record) -> Record {
        let (first, last) = TIMES.into_inner();
        let time = |time: Timestamp| Some(Timestamp::from_seconds(time.seconds().clamp(first, last)));
        map_tallies(record, |at, tally| match tally.count.clamp(self.floors[at], self.limits[at]) {
            // Times of a count of 0 are ignored.
            0 => Tally::default(),
            count => map_times(&Tally { count, ..*tally }, time),
        })
    }

    /// Returns the statement that deletes records if they have not changed since they were read.
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
            // Safe to write as it is: a decoded item's `held` consists of numbers.
            sql.push('|');
            sql.push_str(&String::from_utf8_lossy(&item.held));
            sql.push('\'');
        }
        sql.push(')');
        sql
    }

    /// Returns the statement that reads up to `limit` rows in the order of their keys. Its parameter is a key: rows
    /// after it are read, with `from_start` also its own row.
    pub(super) fn page(&self, limit: usize, from_start: bool) -> String {
        let behind = if from_start { ">=" } else { ">" };
        format!(
            "SELECT digest,CONCAT_WS('|',{}) FROM {} WHERE digest {behind} ? ORDER BY digest LIMIT {limit}",
            held(),
            self.name
        )
    }

    /// Returns the statement that reads the rows of some keys.
    pub(super) fn read<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> String {
        let keys = literals(keys);
        format!("SELECT digest,CONCAT_WS('|',{}) FROM {} WHERE digest IN ({keys})", held(), self.name)
    }

    /// Returns the statement that reads up to `limit` keys after one key, with `has_end` up to another key, and whether
    /// their records last changed before `horizon`. The keys are its parameters, because only the server knows the
    /// collation's order. It locks nothing.
    pub(super) fn ages(&self, horizon: Timestamp, limit: usize, has_end: bool) -> String {
        let end = if has_end { " AND digest <= ?" } else { "" };
        format!(
            "SELECT digest, {} FROM {} WHERE digest > ?{end} ORDER BY digest LIMIT {limit}",
            expired(horizon),
            self.name
        )
    }

    /// Returns the statement that deletes those of some records that last changed before `horizon`. It names keys,
    /// because a range would be locked as a whole.
    pub(super) fn expire(&self, digests: &[Digest], horizon: Timestamp) -> String {
        let list = list(digests.iter().copied());
        format!("DELETE FROM {} WHERE digest IN ({list}) AND {}", self.name, expired(horizon))
    }
}

/// Returns the statement with a time limit: MariaDB ends it after `limit` and rolls it back. MySQL has no such limit
/// and ignores the prefix as a comment.
pub(super) fn within(limit: Duration, statement: &str) -> String {
    // 0 would mean no limit.
    let seconds = limit.as_secs_f64().max(0.001);
    format!("/*M!100300 SET STATEMENT max_statement_time={seconds:.3} FOR */ {statement}")
}

/// The columns of a record, in the order in which all statements read and write them.
pub(super) const COLUMN_NAMES: [&str; 6] =
    ["r_count", "r_entered", "r_updated", "wl_count", "wl_entered", "wl_updated"];

/// Wraps a value so that the statement fails with an overflow if a unique index has matched the row of another digest.
fn of_one_digest(value: &str) -> String {
    format!("IF(digest = VALUES(digest), {value}, 18446744073709551615 + LENGTH(VALUES(digest)))")
}

/// The columns of a record as SQL expressions, `N` for NULL. Joined by `|`, they are the text `held` of an item.
pub(super) fn held() -> String {
    let text = |name: &&str| match name.ends_with("_count") {
        true => format!("IFNULL({name},'N')"),
        false => format!("IFNULL(UNIX_TIMESTAMP({name}),'N')"),
    };
    COLUMN_NAMES.iter().map(text).collect::<Vec<_>>().join(",")
}

/// A list of SQL string literals.
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

/// The key and the columns of a record, with times as seconds since the epoch, which do not depend on the time zone.
pub(super) const COLUMNS: &str = "digest, r_count, UNIX_TIMESTAMP(r_entered), UNIX_TIMESTAMP(r_updated), wl_count, \
                       UNIX_TIMESTAMP(wl_entered), UNIX_TIMESTAMP(wl_updated)";

/// The SQL condition that a record has a time and last changed before `horizon`.
fn expired(horizon: Timestamp) -> String {
    let last = "GREATEST(COALESCE(UNIX_TIMESTAMP(r_updated), 0), COALESCE(UNIX_TIMESTAMP(wl_updated), 0))";
    format!("{last} BETWEEN 1 AND {}", horizon.seconds() - 1)
}

/// A list of digests as SQL string literals.
fn list(digests: impl Iterator<Item = Digest>) -> String {
    let mut list = String::with_capacity(MAX_ROWS * (HEX_LEN + 3));
    for digest in digests {
        let separator = if list.is_empty() { "" } else { "," };
        let _ = write!(list, "{separator}'{digest}'");
    }
    list
}

//! The statements on the table of records, and what its rows hold.

use std::fmt::Write as _;

use mysql_async::{Row, Value};

use crate::digest::{Digest, HEX_LEN};
use crate::record::{Kind, Record, Tally, Timestamp};

/// How many rows one statement has at most.
pub(super) const MAX_ROWS: usize = 1000;
/// Room for a statement's text that is not rows, and for one row of the longest kind.
pub(super) const FRAME: usize = 900;
pub(super) const ROW: usize = 180;

/// What is known of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    /// The largest counts of the two columns.
    pub(super) limits: [i64; 2],
    /// Whether a new row must have all its times, as the established server fills them in.
    pub(super) wants_all_times: bool,
    /// Whether a statement that failed has changed nothing.
    pub(super) is_transactional: bool,
    /// How many rows a statement may have.
    pub(super) rows: usize,
}

impl Table {
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
    pub(super) fn count(&self, kind: Kind, rows: &[(Digest, u32)], now: Timestamp) -> String {
        let (name, other, limit) = match kind {
            Kind::Report => ("r", "wl", self.limits[0]),
            Kind::Whitelist => ("wl", "r", self.limits[1]),
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
        let _ = write!(
            sql,
            " ON DUPLICATE KEY UPDATE {name}_entered = IF({count} = 0 OR COALESCE(UNIX_TIMESTAMP({name}_entered), 0) \
             = 0, VALUES({name}_entered), {name}_entered), {name}_updated = VALUES({name}_updated), {other}_count = \
             COALESCE({other}_count, 0), {name}_count = IF({count} > {limit} - VALUES({name}_count), GREATEST({count}, \
             {limit}), {count} + VALUES({name}_count))"
        );
        sql
    }

    /// Stores a record whole; counts stop at what the columns hold.
    pub(super) fn store(&self, digest: Digest, record: &Record) -> String {
        let time = |time: Option<Timestamp>| match time {
            Some(time) => format!("FROM_UNIXTIME({})", time.seconds()),
            // With a count of 0 it is no time of anything.
            None if self.wants_all_times => "FROM_UNIXTIME(1)".to_owned(),
            None => "NULL".to_owned(),
        };
        let Record { reports, whitelists } = record;
        format!(
            "INSERT INTO {} (digest, r_count, wl_count, r_entered, wl_entered, r_updated, wl_updated) VALUES \
             ('{digest}', {}, {}, {}, {}, {}, {}) ON DUPLICATE KEY UPDATE r_count = VALUES(r_count), wl_count = \
             VALUES(wl_count), r_entered = VALUES(r_entered), wl_entered = VALUES(wl_entered), r_updated = \
             VALUES(r_updated), wl_updated = VALUES(wl_updated)",
            self.name,
            reports.count.min(self.limits[0]),
            whitelists.count.min(self.limits[1]),
            time(reports.first),
            time(whitelists.first),
            time(reports.last),
            time(whitelists.last),
        )
    }

    /// Deletes a record.
    pub(super) fn delete(&self, digest: Digest) -> String {
        format!("DELETE FROM {} WHERE digest = '{digest}'", self.name)
    }

    /// Reads rows behind a key, whose value is to be given, in the order of the keys; with `from_start`
    /// from that key on.
    pub(super) fn page(&self, limit: usize, from_start: bool) -> String {
        let behind = if from_start { ">=" } else { ">" };
        format!("SELECT {COLUMNS} FROM {} WHERE digest {behind} ? ORDER BY digest LIMIT {limit}", self.name)
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

/// The key of a row and whether it has expired, as [`Table::ages`] has them.
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
    let mut values = row.unwrap().into_iter();
    let key = key(values.next());
    let mut next = || values.next().and_then(|value| number(&value));
    let mut tally = || {
        let (count, first, last) = (next()?, next()?, next()?);
        let time = |seconds: i64| (seconds != 0).then(|| Timestamp::from_seconds(seconds));
        // The established server fills in the times of the other tally, too.
        Some(match count {
            0 => Tally::default(),
            count => Tally { count, first: time(first), last: time(last) },
        })
    };
    let record = tally().and_then(|reports| Some(Record { reports, whitelists: tally()? }));
    (key, record)
}

/// A whole number, with its fraction cut off; that of nothing is 0.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::NULL => Some(0),
        Value::Int(number) => Some(*number),
        Value::UInt(number) => Some(i64::try_from(*number).unwrap_or(i64::MAX)),
        Value::Bytes(text) => {
            let text = std::str::from_utf8(text).ok()?;
            let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
            match whole.parse::<i128>() {
                Ok(number) => Some(i64::try_from(number).unwrap_or(i64::MAX)),
                Err(_) => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (bytes("x"), None),
        ] {
            assert_eq!(number(&value), expected, "{value:?}");
        }
    }
}

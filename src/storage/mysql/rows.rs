//! Decoding rows of the table into keys, records and items.

use mysql_async::{Row, Value};

use crate::record::{Record, Tally, Timestamp};
use crate::storage::bulk::Item;
use pyzor_wire::digest::Digest;

/// Decodes a row of [`MySqlTable::ages`](super::table::MySqlTable::ages): the key, and whether its record has expired.
pub(super) fn decode_age(row: Row) -> (Vec<u8>, bool) {
    let mut values = row.unwrap().into_iter();
    let key = key(values.next());
    (key, values.next().and_then(|value| number(&value)) == Some(1))
}

fn key(value: Option<Value>) -> Vec<u8> {
    match value {
        Some(Value::Bytes(key)) => key,
        _ => Vec::new(),
    }
}

/// The digest of a key in upper or lower case; `None` for other keys. Trailing blanks are ignored, because the SQL mode
/// `PAD_CHAR_TO_FULL_LENGTH` pads keys to the width of their column.
pub(super) fn digest_of(key: &[u8]) -> Option<Digest> {
    Digest::from_hex(key.trim_ascii_end())
}

/// Decodes a row of [`COLUMNS`](super::table::COLUMNS): the key and the record, `None` for values that are no record.
pub(super) fn decode(row: Row) -> (Vec<u8>, Option<Record>) {
    of_columns(row.unwrap().into_iter())
}

/// Decodes the values of [`COLUMNS`](super::table::COLUMNS).
pub(super) fn of_columns(mut values: impl Iterator<Item = Value>) -> (Vec<u8>, Option<Record>) {
    (key(values.next()), of_record(values))
}

/// Decodes the values of the columns after the key.
pub(super) fn of_record(mut values: impl Iterator<Item = Value>) -> Option<Record> {
    record(|| values.next().and_then(|value| number(&value)))
}

/// Builds a record from six numbers, in the order of [`COLUMN_NAMES`](super::table::COLUMN_NAMES).
fn record(mut next: impl FnMut() -> Option<i64>) -> Option<Record> {
    let mut tally = || {
        let (count, first, last) = (next()?, next()?, next()?);
        let time = |seconds: i64| (seconds != 0).then(|| Timestamp::from_seconds(seconds));
        // The Python server fills in the times of both tallies: without a count they mean nothing.
        Some(match count {
            0 => Tally::default(),
            count => Tally { count, first: time(first), last: time(last) },
        })
    };
    Some(Record { reports: tally()?, whitelists: tally()? })
}

/// Decodes a row of [`MySqlTable::page`](super::table::MySqlTable::page) or
/// [`MySqlTable::read`](super::table::MySqlTable::read).
pub(super) fn decode_held(row: Row) -> Item {
    of_held(row.unwrap().into_iter())
}

/// Decodes the values of a key and of the text [`held`](super::table::held).
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
        // The text may be written into a statement, so it must consist of six numbers and nothing else.
        record(|| texts.next().flatten()).filter(|_| texts.next().is_none())
    };
    let record = record.ok_or_else(|| format!("cannot decode '{}'", held.escape_ascii()));
    Item { key, held, record }
}

/// Reads a number and drops its fraction; `NULL` is 0.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::NULL => Some(0),
        Value::Int(number) => Some(*number),
        Value::UInt(number) => Some(i64::try_from(*number).unwrap_or(i64::MAX)),
        Value::Bytes(text) => {
            let text = std::str::from_utf8(text).ok()?;
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            // The text may be written into a statement, so only digits are allowed.
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
    fn held_text_must_be_six_numbers() {
        let item = |held: &str| of_held([Value::from("key"), Value::from(held)].into_iter());
        assert!(item("1|2|3.5|N|N|N").record.is_ok());
        for odd in ["1|2|3|N|N|N|'", "1|2|3.'|N|N|N", "1|2|3|N|N", ""] {
            assert!(item(odd).record.is_err(), "{odd:?}");
        }
    }

    #[test]
    fn numbers_of_all_column_types_are_read() {
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

//! Encoding and decoding of records in both forms.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use redis::{Cmd, Value};

use super::record_form::{FIELDS, FormKind, RecordForm};
use crate::record::{Record, Tally, Timestamp};
use crate::storage::StorageError;
use crate::storage::gdbm::in_calendar;
use pyzor_wire::number::integer;

const DATE: &str = "%Y-%m-%d %H:%M:%S";

impl RecordForm {
    /// Encodes a time as the script takes it.
    pub(super) fn moment(&self, time: Timestamp) -> String {
        match &self.kind {
            FormKind::Hash => time.seconds().to_string(),
            FormKind::Text(zone) => date(zone, time),
        }
    }

    /// Appends the encoded record to a command: fields and values, or a text.
    pub(super) fn push_values(&self, cmd: &mut Cmd, record: &Record) {
        let tallies = [record.reports, record.whitelists];
        match &self.kind {
            FormKind::Hash => {
                let seconds = |time: Option<Timestamp>| time.map_or(0, Timestamp::seconds);
                let values = tallies.map(|tally| [tally.count, seconds(tally.first), seconds(tally.last)]);
                for (field, value) in FIELDS.iter().zip(values.as_flattened()) {
                    cmd.arg(field).arg(value);
                }
            }
            FormKind::Text(zone) => {
                let text = |time: Option<Timestamp>| time.map(|time| date(zone, time)).unwrap_or_default();
                let values = tallies
                    .map(|tally| format!("{},{},{}", tally.count, text(tally.first), text(tally.last)));
                cmd.arg(values.join(","));
            }
        }
    }

    /// Encodes the reply of a look-up as the swapping script compares it, or returns none if nothing is stored.
    pub(super) fn held(&self, reply: &Value) -> Option<Vec<u8>> {
        match reply {
            Value::BulkString(text) => Some(text.clone()),
            Value::Array(values) if values.iter().any(|value| *value != Value::Nil) => {
                let mut held = Vec::new();
                for value in values {
                    match value {
                        Value::BulkString(text) => {
                            held.extend_from_slice(format!("={}:", text.len()).as_bytes());
                            held.extend_from_slice(text);
                        }
                        _ => held.push(b'-'),
                    }
                }
                Some(held)
            }
            _ => None,
        }
    }

    /// The `held` value of an absent record.
    pub(super) fn held_if_absent(&self) -> Vec<u8> {
        match self.kind {
            FormKind::Hash => vec![b'-'; FIELDS.len()],
            FormKind::Text(_) => Vec::new(),
        }
    }

    /// Returns a time as it is after being stored in this form and read again.
    pub(super) fn read_back(&self, time: Timestamp) -> Option<Timestamp> {
        match &self.kind {
            FormKind::Hash => {
                Some(time.seconds()).filter(|seconds| *seconds != 0).map(Timestamp::from_seconds)
            }
            FormKind::Text(zone) => {
                let moment = jiff::Timestamp::from_second(time.seconds()).ok()?;
                let moment = zone.to_timestamp(zone.to_datetime(moment)).ok()?;
                Some(Timestamp::from_seconds(moment.as_second()))
            }
        }
    }

    /// Returns the nearest time that this form can store.
    pub(super) fn clamp(&self, time: Timestamp) -> Timestamp {
        match &self.kind {
            FormKind::Hash => time,
            FormKind::Text(zone) => in_calendar(zone, time),
        }
    }

    /// Decodes the reply to either look-up, or returns none if nothing is stored.
    ///
    /// # Errors
    ///
    /// [`StorageError::Damaged`] if the reply cannot be decoded.
    pub(super) fn decode(&self, reply: &Value) -> Result<Option<Record>, StorageError> {
        let record = match (&self.kind, reply) {
            (_, Value::Nil) => return Ok(None),
            (FormKind::Hash, Value::Array(values)) if values.iter().all(|value| *value == Value::Nil) => {
                return Ok(None);
            }
            (FormKind::Hash, Value::Array(values)) => decode_hash(values),
            (FormKind::Text(zone), Value::BulkString(text)) => decode_text(text, zone),
            _ => None,
        };
        record.map(Some).ok_or(StorageError::Damaged)
    }
}

/// Decodes the replies for all fields, or for the two counts alone.
fn decode_hash(values: &[Value]) -> Option<Record> {
    if let [reports, whitelists] = values {
        let values = [reports, &Value::Nil, &Value::Nil, whitelists, &Value::Nil, &Value::Nil];
        return decode_hash(&values.map(Value::clone));
    }
    let mut numbers = [0; 6];
    for (number, value) in numbers.iter_mut().zip(values) {
        match value {
            Value::Nil => {}
            Value::BulkString(text) => *number = integer(text)?,
            _ => return None,
        }
    }
    let time = |seconds| (seconds != 0).then(|| Timestamp::from_seconds(seconds));
    let tally =
        |at: usize| Tally { count: numbers[at], first: time(numbers[at + 1]), last: time(numbers[at + 2]) };
    Some(Record { reports: tally(0), whitelists: tally(3) })
}

fn decode_text(text: &[u8], zone: &TimeZone) -> Option<Record> {
    let mut fields = text.split(|byte| *byte == b',');
    let mut tally = || {
        let count = integer(fields.next()?)?;
        let mut time = || match fields.next()? {
            b"" => Some(None),
            text => {
                let date = DateTime::strptime(DATE, text).ok()?;
                let time = zone.to_timestamp(date).ok();
                Some(time.map(|time| Timestamp::from_seconds(time.as_second())))
            }
        };
        Some(Tally { count, first: time()?, last: time()? })
    };
    // Like the Python server, ignores further fields.
    Some(Record { reports: tally()?, whitelists: tally()? })
}

fn date(zone: &TimeZone, time: Timestamp) -> String {
    // Times beyond the calendar can only come from other programs.
    let time = jiff::Timestamp::from_second(time.seconds()).unwrap_or_default();
    zone.to_datetime(time).strftime(DATE).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn tally(count: i64, first: Option<i64>, last: Option<i64>) -> Tally {
        Tally { count, first: first.map(Timestamp::from_seconds), last: last.map(Timestamp::from_seconds) }
    }

    #[test]
    fn zero_and_missing_times_of_a_hash_are_decoded_as_none() {
        let form = RecordForm::hash();
        let reply = [bulk("5"), bulk("100"), bulk("-7"), Value::Nil, bulk("0"), Value::Nil];
        let record = form.decode(&Value::Array(reply.to_vec())).unwrap().unwrap();
        assert_eq!(record.reports, tally(5, Some(100), Some(-7)));
        assert_eq!(record.whitelists, Tally::default());
        assert_eq!(form.decode(&Value::Array(vec![Value::Nil; 6])), Ok(None));
        let damaged = [bulk("x"), Value::Nil, Value::Nil, Value::Nil, Value::Nil, Value::Nil];
        assert_eq!(form.decode(&Value::Array(damaged.to_vec())), Err(StorageError::Damaged));
    }

    #[test]
    fn hash_takes_whole_seconds() {
        assert_eq!(RecordForm::hash().moment(Timestamp::from_micros(1_999_999)), "1");
    }

    #[test]
    fn text_is_decoded_with_local_dates() {
        let form = RecordForm::text(TimeZone::get("America/New_York").unwrap());
        let record =
            form.decode(&bulk("3,2026-11-22 05:37:12,2026-11-22 05:37:13,0,,,more")).unwrap().unwrap();
        assert_eq!(record.reports, tally(3, Some(1_795_343_832), Some(1_795_343_833)));
        assert_eq!(record.whitelists, Tally::default());
        assert_eq!(form.moment(Timestamp::from_seconds(1_795_343_832)), "2026-11-22 05:37:12");
        for damaged in ["", "1,,,2,", "1,2026-11-22 05:37:12.5,,0,,", "1,yesterday,,0,,", "x,,,0,,"] {
            assert_eq!(form.decode(&bulk(damaged)), Err(StorageError::Damaged), "{damaged:?}");
        }
        assert_eq!(form.decode(&Value::Nil), Ok(None));
    }
}

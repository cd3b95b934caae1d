//! Fuzz target of the Redis engines: replies as records, records as commands, and `DigestDB` values.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use redis::{Arg, Cmd, Value};

use super::record_form::RecordForm;
use super::target::RedisTarget;
use crate::fuzz_models::{FuzzInput, any_record, model_integer};
use crate::record::{Record, Timestamp};
use crate::storage::bulk::{map_tallies, map_times};
use crate::storage::gdbm::fuzzing::zone;
use pyzor_wire::digest::Digest;

/// Returns a record as the engine `redis` stores it, and as it reads it back.
pub fn through_hash(record: &Record) -> (String, Option<Record>) {
    through(&RecordForm::hash(), record)
}

/// Returns a record as the engine `redis_v0` stores it in this time zone, and as it reads it back.
pub fn through_text(zone: &TimeZone, record: &Record) -> (String, Option<Record>) {
    through(&RecordForm::text(zone.clone()), record)
}

fn through(form: &RecordForm, record: &Record) -> (String, Option<Record>) {
    let reply = stored(form, record);
    (format!("{reply:?}"), form.decode(&reply).ok().flatten())
}

/// Parses a `DigestDB` value. Returns its description for messages, and its debug text with the password.
pub(crate) fn parse_dsn(dsn: &str) -> Result<(String, String), String> {
    RedisTarget::parse(dsn).map(|target| (target.describe(), format!("{target:?}"))).map_err(|error| error.0)
}

/// Decodes arbitrary replies and encodes arbitrary records, in either form.
pub(crate) fn target(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    let choice = input.byte();
    let form = if choice & 1 > 0 { RecordForm::hash() } else { RecordForm::text(zone(choice >> 1)) };
    if input.flip() {
        check_written(&form, &any_record(&mut input));
    }
    while !input.is_empty() {
        let reply = value(&mut input, 2);
        check_held(&form, &reply);
        if let Ok(Some(record)) = form.decode(&reply) {
            if let Value::Array(values) = &reply
                && values.len() == 6
            {
                check_numbers(values, &record);
            }
            check_written(&form, &record);
        }
    }
}

/// Returns an arbitrary reply.
fn value(input: &mut FuzzInput<'_>, depth: u8) -> Value {
    match input.byte() % 12 {
        0 => Value::Nil,
        1 => Value::Int(input.number()),
        2 => Value::SimpleString(input.text_until(0)),
        3 => Value::Okay,
        4 => Value::Double(f64::from_bits(input.number() as u64)),
        5 if depth > 0 => {
            let length = input.byte() % 8;
            Value::Array((0..length).map(|_| value(input, depth - 1)).collect())
        }
        6 | 7 if depth > 0 => {
            let mut field = || match input.byte() % 4 {
                0 => Value::Nil,
                1 => Value::BulkString(input.number().to_string().into_bytes()),
                _ => Value::BulkString(input.until(0).to_vec()),
            };
            Value::Array((0..6).map(|_| field()).collect())
        }
        _ => Value::BulkString(input.until(0).to_vec()),
    }
}

/// Checks a decoded hash against a model: fields are numbers, a missing one is 0, and a time of 0 is none.
fn check_numbers(values: &[Value], record: &Record) {
    let number = |at: usize| match &values[at] {
        Value::BulkString(text) => model_integer(text),
        _ => Some(0),
    };
    let time = |at: usize| number(at).filter(|seconds| *seconds != 0).map(Timestamp::from_seconds);
    for (tally, at) in [(record.reports, 0), (record.whitelists, 3)] {
        assert_eq!((Some(tally.count), tally.first, tally.last), (number(at), time(at + 1), time(at + 2)));
    }
}

/// Checks that a stored record is read back as [`RecordForm::read_back`] predicts.
fn check_written(form: &RecordForm, record: &Record) {
    let record = map_tallies(record, |_, tally| map_times(tally, |time| Some(form.clamp(time))));
    let expected = map_tallies(&record, |_, tally| map_times(tally, |time| form.read_back(time)));
    let reply = stored(form, &record);
    assert_eq!(form.decode(&reply), Ok(Some(expected)), "{reply:?}");
    assert_eq!(map_tallies(&expected, |_, tally| map_times(tally, |time| form.read_back(time))), expected);
    // The swapping script gets the same values.
    let replace = arguments(&form.replace(b"key", b"held", &record, None));
    let store = arguments(&form.store(b"key", &record, None)[0]);
    assert_eq!(replace[replace.len() - (store.len() - 2)..], store[2..]);
}

/// Returns the reply to a look-up after a record has been stored.
fn stored(form: &RecordForm, record: &Record) -> Value {
    let key = form.key(Digest::from_bytes([7; 20]));
    assert_eq!(form.without_prefix(&key), Digest::from_bytes([7; 20]).to_hex());
    let arguments = arguments(&form.store(&key, record, None)[0]);
    assert_eq!(arguments[1], key);
    match arguments[0].as_slice() {
        b"SET" => Value::BulkString(arguments[2].clone()),
        b"HSET" => {
            let fields: BTreeMap<&[u8], &[u8]> =
                arguments[2..].chunks(2).map(|pair| (pair[0].as_slice(), pair[1].as_slice())).collect();
            let asked = self::arguments(&form.look_up(&key));
            Value::Array(
                asked[2..].iter().map(|name| Value::BulkString(fields[name.as_slice()].to_vec())).collect(),
            )
        }
        other => panic!("stored by {}", other.escape_ascii()),
    }
}

fn arguments(cmd: &Cmd) -> Vec<Vec<u8>> {
    let argument = |argument: Arg<&[u8]>| match argument {
        Arg::Simple(bytes) => bytes.to_vec(),
        _ => panic!("the argument is a cursor"),
    };
    cmd.args_iter().map(argument).collect()
}

/// Checks that the `held` value of a reply is unambiguous.
fn check_held(form: &RecordForm, reply: &Value) {
    let Some(held) = form.held(reply) else { return };
    let Value::Array(values) = reply else {
        return assert_eq!(*reply, Value::BulkString(held));
    };
    let mut rest = held.as_slice();
    for value in values {
        let Value::BulkString(text) = value else {
            rest = rest.strip_prefix(b"-").unwrap_or_else(|| panic!("{value:?} is encoded as a value"));
            continue;
        };
        let colon = rest.iter().position(|byte| *byte == b':').unwrap_or_default();
        assert_eq!(rest[..colon], *format!("={}", text.len()).as_bytes());
        rest = &rest[colon + 1..];
        assert_eq!(rest[..text.len()], **text);
        rest = &rest[text.len()..];
    }
    assert!(rest.is_empty());
}

//! The two forms of records in a Redis: a hash of seconds since the epoch, and, before that, a text of
//! local dates.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use redis::{Cmd, Value};
use sha1::Digest as _;

use super::scan;
use crate::record::{Record, Tally, Timestamp};
use crate::storage::StorageError;
use crate::storage::gdbm::in_calendar;
use pyzor_wire::digest::{Digest, hex};
use pyzor_wire::number::integer;

const FIELDS: [&str; 6] = ["r_count", "r_entered", "r_updated", "wl_count", "wl_entered", "wl_updated"];
const DATE: &str = "%Y-%m-%d %H:%M:%S";
/// Redis fails beyond what milliseconds in 64 bits can hold; this is 30,000 years.
const LONGEST: u64 = 1_000_000_000_000;

/// A key under which nothing stays, and whose commands need no right that counting does not need.
pub(super) const PROBE: &[u8] = b"pyzord.probe";

/// How records are stored.
#[derive(Debug)]
pub(super) struct RecordForm {
    kind: FormKind,
    counting: LuaScript,
    swapping: LuaScript,
}

/// What the server runs by itself.
#[derive(Debug)]
struct LuaScript {
    text: String,
    /// By which it is called.
    hash: String,
}

impl LuaScript {
    fn new(text: String) -> Self {
        let hash = hex(&sha1::Sha1::digest(&text).into());
        Self { hash: String::from_utf8_lossy(&hash).into_owned(), text }
    }
}

#[derive(Debug)]
enum FormKind {
    /// As the established server does.
    Hash,
    /// As its engine `redis_v0` does; dates are of this time zone.
    Text(TimeZone),
}

impl RecordForm {
    /// Hashes, the form of the engine `redis`.
    pub(super) fn hash() -> Self {
        Self::new(FormKind::Hash, include_str!("hash.lua"), include_str!("swap_hash.lua"))
    }

    /// Texts, the form of the engine `redis_v0`.
    pub(super) fn text(zone: TimeZone) -> Self {
        Self::new(FormKind::Text(zone), include_str!("text.lua"), include_str!("swap_text.lua"))
    }

    fn new(kind: FormKind, counting: &str, swapping: &str) -> Self {
        Self {
            kind,
            counting: LuaScript::new(format!("{}\n{counting}", include_str!("counting.lua"))),
            swapping: LuaScript::new(swapping.to_owned()),
        }
    }

    /// The engine's name.
    pub(super) fn engine(&self) -> &'static str {
        match self.kind {
            FormKind::Hash => "redis",
            FormKind::Text(_) => "redis_v0",
        }
    }

    /// The time zone of its dates, if it has any.
    pub(super) fn zone(&self) -> Option<&TimeZone> {
        match &self.kind {
            FormKind::Hash => None,
            FormKind::Text(zone) => Some(zone),
        }
    }

    /// What is before the digest in a key.
    pub(super) fn prefix(&self) -> &'static str {
        match self.kind {
            FormKind::Hash => "pyzord.digest_v1.",
            FormKind::Text(_) => "pyzord.digest.",
        }
    }

    /// A digest's key.
    pub(super) fn key(&self, digest: Digest) -> Vec<u8> {
        [self.prefix().as_bytes(), &digest.to_hex()].concat()
    }

    /// What of a key is behind the prefix.
    pub(super) fn rest<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        key.strip_prefix(self.prefix().as_bytes()).unwrap_or(key)
    }

    /// The script that counts.
    pub(super) fn script(&self) -> &str {
        &self.counting.text
    }

    /// All commands that counting needs, for a key of their own. The second half is for where the first one
    /// is permitted: it stores something, and removes it.
    pub(super) fn trial(&self, age: Option<u64>) -> Vec<Vec<Cmd>> {
        let store = match self.kind {
            FormKind::Hash => redis::cmd("HSET").arg(PROBE).arg(FIELDS[0]).arg(0).take(),
            FormKind::Text(_) => redis::cmd("SET").arg(PROBE).arg("").take(),
        };
        let mut first = may_expire();
        first.push(self.look_up(PROBE));
        first.push(scan::command(self.prefix(), "0", 1));
        first.push(redis::cmd("SCRIPT").arg("LOAD").arg(self.script()).take());
        first.push(self.count(&[], "0", age));
        vec![first, vec![store, redis::cmd("EXPIRE").arg(PROBE).arg(0).take()]]
    }

    /// The commands that bring the script which replaces and deletes to a server.
    pub(super) fn swapping_trial(&self) -> Vec<Vec<Cmd>> {
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(&self.swapping.text).take();
        vec![may_expire(), vec![load]]
    }

    /// The command that looks a record up.
    pub(super) fn look_up(&self, key: &[u8]) -> Cmd {
        match self.kind {
            FormKind::Hash => redis::cmd("HMGET").arg(key).arg(&FIELDS).take(),
            FormKind::Text(_) => redis::cmd("GET").arg(key).take(),
        }
    }

    /// The command that looks a record's counts up: a third of the work, for both servers.
    pub(super) fn look_up_counts(&self, key: &[u8]) -> Cmd {
        match self.kind {
            FormKind::Hash => redis::cmd("HMGET").arg(key).arg(FIELDS[0]).arg(FIELDS[3]).take(),
            FormKind::Text(_) => self.look_up(key),
        }
    }

    /// A moment as a script gets it.
    pub(super) fn moment(&self, time: Timestamp) -> String {
        match &self.kind {
            FormKind::Hash => time.seconds().to_string(),
            FormKind::Text(zone) => date(zone, time),
        }
    }

    /// The command that counts reports and whitelistings for digests; `moment` is the present one. The
    /// records expire after so many seconds, or never.
    pub(super) fn count(&self, changes: &[(Digest, [u32; 2])], moment: &str, age: Option<u64>) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.counting.hash).arg(changes.len());
        for (digest, _) in changes {
            cmd.arg(self.key(*digest));
        }
        cmd.arg(moment).arg(age.map_or(0, |age| age.min(LONGEST)));
        for (_, amounts) in changes {
            cmd.arg(amounts);
        }
        cmd
    }

    /// The commands that store a record whole, which expires at that moment or never.
    pub(super) fn store(&self, key: &[u8], record: &Record, expires: Option<Timestamp>) -> Vec<Cmd> {
        let mut store = match &self.kind {
            FormKind::Hash => redis::cmd("HSET"),
            FormKind::Text(_) => redis::cmd("SET"),
        };
        store.arg(key);
        self.push_values(&mut store, record);
        let expiry = match (&self.kind, expires) {
            (_, Some(moment)) => redis::cmd("EXPIREAT").arg(key).arg(moment.seconds()).take(),
            // A text that is replaced has none any more.
            (FormKind::Text(_), None) => return vec![store],
            (FormKind::Hash, None) => redis::cmd("PERSIST").arg(key).take(),
        };
        vec![store, expiry]
    }

    /// The command that puts a record in the place of what was found, if it is still that.
    pub(super) fn replace(
        &self,
        key: &[u8],
        held: &[u8],
        record: &Record,
        expires: Option<Timestamp>,
    ) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.swapping.hash).arg(1).arg(key).arg(held);
        cmd.arg(expires.map_or(0, Timestamp::seconds));
        self.push_values(&mut cmd, record);
        cmd
    }

    /// The command that deletes what was found, if it is still that.
    pub(super) fn delete(&self, key: &[u8], held: &[u8]) -> Cmd {
        redis::cmd("EVALSHA").arg(&self.swapping.hash).arg(1).arg(key).arg(held).take()
    }

    fn push_values(&self, cmd: &mut Cmd, record: &Record) {
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

    /// What was found by a look-up, as the script compares it; none where nothing is stored.
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

    /// The same of what is not there.
    pub(super) fn held_of_nothing(&self) -> Vec<u8> {
        match self.kind {
            FormKind::Hash => vec![b'-'; FIELDS.len()],
            FormKind::Text(_) => Vec::new(),
        }
    }

    /// A moment as a record of this form gives it back.
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

    /// The nearest moment that a record of this form can have.
    pub(super) fn clamp(&self, time: Timestamp) -> Timestamp {
        match &self.kind {
            FormKind::Hash => time,
            FormKind::Text(zone) => in_calendar(zone, time),
        }
    }

    /// The record in the reply to a look-up of either kind; none where nothing is stored.
    ///
    /// # Errors
    ///
    /// It cannot be decoded.
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

/// The command that shows whether a server accepts changes, though it changes nothing.
pub(super) fn renewal() -> Cmd {
    redis::cmd("PERSIST").arg(PROBE).take()
}

/// Commands that show whether a server lets records expire.
fn may_expire() -> Vec<Cmd> {
    vec![renewal(), redis::cmd("EXPIRE").arg(PROBE).arg(1).take()]
}

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
    // What comes behind the sixth is nothing to the established server either.
    Some(Record { reports: tally()?, whitelists: tally()? })
}

fn date(zone: &TimeZone, time: Timestamp) -> String {
    // A moment beyond the calendar can only come from a foreign program.
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
    fn a_hash_is_decoded_with_zero_and_nothing_as_no_time() {
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
    fn a_moment_is_seconds() {
        assert_eq!(RecordForm::hash().moment(Timestamp::from_micros(1_999_999)), "1");
    }

    #[test]
    fn a_text_has_local_dates_or_none() {
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

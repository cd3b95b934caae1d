//! Redis, with records as hashes (engine `redis`) and as texts (engine `redis_v0`).

use super::{COUNTS, counted_down, escaped, half_timed, numbered, timeless, whitelisted};
use crate::harness::{Redis, from_hex};
use crate::ours::migrate::{Content, PASSWORD, Planted, Record, SECOND, Side, Tally, local_date};

/// Quotes bytes for redis-cli.
fn quoted(bytes: &[u8]) -> String {
    let bytes: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("\"{bytes}\"")
}

/// A Redis with a password.
pub(crate) fn redis() -> Redis {
    Redis::with(&format!("--requirepass {PASSWORD}"), &["--no-auth-warning", "-a", PASSWORD])
}

/// Returns everything in a Redis: hashes with sorted fields, texts, and the type's name for other types; and whether the
/// key expires.
pub(crate) fn everything(redis: &Redis) -> Content {
    const SHOW: &str = "
        local function hex(text)
            return (string.gsub(text, '.', function(c) return string.format('%02x', string.byte(c)) end))
        end
        local all = {}
        for _, key in ipairs(redis.call('KEYS', '*')) do
            local kind, text = redis.call('TYPE', key).ok, nil
            if kind == 'hash' then
                local fields, pairs = redis.call('HGETALL', key), {}
                for at = 1, #fields, 2 do
                    pairs[#pairs + 1] = fields[at] .. '=' .. fields[at + 1]
                end
                table.sort(pairs)
                text = table.concat(pairs, ' ')
            elseif kind == 'string' then
                text = redis.call('GET', key)
            else
                text = 'a ' .. kind
            end
            if redis.call('PTTL', key) >= 0 then
                text = text .. ' for a time'
            end
            all[#all + 1] = hex(key) .. ' ' .. hex(text)
        end
        return all";
    let output = redis.cli(&["eval", SHOW, "0"]);
    let record = |line: &str| {
        let (key, text) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        (escaped(&from_hex(key)), escaped(&from_hex(text)))
    };
    output.lines().filter(|line| !line.is_empty()).map(record).collect()
}

/// Runs commands on keys; `KEY` in a command stands for the key.
pub(crate) fn on_keys(redis: &Redis, prefix: &str, records: &[(Vec<u8>, Vec<u8>)]) {
    let command = |(key, raw): &(Vec<u8>, Vec<u8>)| {
        let key = quoted(&[prefix.as_bytes(), key].concat());
        String::from_utf8(raw.clone()).unwrap().replace("KEY", &key) + "\n"
    };
    redis.feed(&records.iter().map(command).collect::<String>());
}

/// A Redis with records as hashes. The raw form is redis-cli commands.
pub(crate) struct Hashes {
    pub(crate) redis: Redis,
}

impl Hashes {
    pub(crate) fn redis(&self) -> &Redis {
        &self.redis
    }
}

impl Side for Hashes {
    fn new() -> Self {
        Self { redis: redis() }
    }

    fn engine(&self) -> &'static str {
        "redis"
    }

    fn dsn(&self) -> String {
        format!("127.0.0.1,{},{PASSWORD},0", self.redis.port())
    }

    fn has_ttl(&self) -> bool {
        true
    }

    fn raw(&self, record: &Record, zone: &str) -> Vec<u8> {
        format!("HSET KEY {}", self.shows(record, zone).replace('=', " ")).into_bytes()
    }

    fn awkward(&self, zone: &str) -> Vec<Planted> {
        let own = |record: Record| (String::from_utf8(self.raw(&record, zone)).unwrap(), record);
        let hash = |fields: &str, record: Record| (format!("HSET KEY {fields}"), record);
        let mut records = vec![
            own(Record::full(5)),
            own(Record::default()),
            own(timeless()),
            own(half_timed()),
            own(counted_down()),
            // The Python server writes only the fields of a tally that has been counted.
            hash("r_count 5 r_entered 1300000000 r_updated 1300000001", Record::reported(5)),
            hash("wl_count 2 wl_entered 1300000000 wl_updated 1300000001", whitelisted()),
            hash("r_count 4 wl_count 2", timeless()),
            hash("r_count 0", Record::default()),
            hash(
                "r_count \" 5 \" r_entered +1300000000 r_updated 1_300_000_001 note mine",
                Record::reported(5),
            ),
        ];
        records.extend(COUNTS.map(Record::reported).map(own));
        numbered(records)
    }

    fn damaged(&self) -> Vec<Vec<u8>> {
        let commands = [
            "SET KEY 5,,,0,,",
            "RPUSH KEY 5",
            "ZADD KEY 5 r_count",
            "HSET KEY r_count x",
            "HSET KEY r_count 1 r_entered 1300000000.5",
            "HSET KEY r_count 1 wl_updated \"\"",
        ];
        commands.map(|command| command.as_bytes().to_vec()).to_vec()
    }

    fn put(&self, records: &[(Vec<u8>, Vec<u8>)]) {
        on_keys(&self.redis, "pyzord.digest_v1.", records);
    }

    fn key(&self, digest: &str) -> String {
        format!("pyzord.digest_v1.{digest}")
    }

    fn all(&self) -> Content {
        everything(&self.redis)
    }

    fn shows(&self, record: &Record, _zone: &str) -> String {
        let seconds = |time: Option<i64>| time.map_or(0, |micros| micros.div_euclid(SECOND));
        let tally = |name: &str, tally: &Tally| {
            let (first, last) = (seconds(tally.first), seconds(tally.last));
            format!("{name}_count={} {name}_entered={first} {name}_updated={last}", tally.count)
        };
        format!("{} {}", tally("r", &record.reports), tally("wl", &record.whitelists))
    }
}

/// A Redis with records as texts. The raw form is redis-cli commands.
pub(crate) struct Texts {
    pub(crate) redis: Redis,
}

impl Texts {
    pub(crate) fn redis(&self) -> &Redis {
        &self.redis
    }
}

impl Side for Texts {
    fn new() -> Self {
        Self { redis: redis() }
    }

    fn engine(&self) -> &'static str {
        "redis_v0"
    }

    fn dsn(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}/0", self.redis.port())
    }

    fn has_ttl(&self) -> bool {
        true
    }

    fn raw(&self, record: &Record, zone: &str) -> Vec<u8> {
        format!("SET KEY \"{}\"", self.shows(record, zone)).into_bytes()
    }

    fn awkward(&self, zone: &str) -> Vec<Planted> {
        let own = |record: Record| (String::from_utf8(self.raw(&record, zone)).unwrap(), record);
        let text = self.shows(&Record::full(5), zone);
        let mut records = vec![
            own(Record::full(5)),
            own(Record::reported(5)),
            own(whitelisted()),
            own(Record::default()),
            own(timeless()),
            own(half_timed()),
            own(counted_down()),
            // Fields after the sixth are ignored.
            (format!("SET KEY \"{text},more,and more\""), Record::full(5)),
        ];
        records.extend(COUNTS.map(Record::reported).map(own));
        numbered(records)
    }

    fn damaged(&self) -> Vec<Vec<u8>> {
        let commands = [
            "SET KEY garbage",
            "SET KEY \"\"",
            "SET KEY 1,,,2,",
            "SET KEY \"1,2011-03-13 07:06:40.5,,0,,\"",
            "SET KEY \"x,,,0,,\"",
            "SET KEY \"\\xff\\xfe,,,0,,\"",
            "HSET KEY r_count 1",
            "RPUSH KEY 1",
        ];
        commands.map(|command| command.as_bytes().to_vec()).to_vec()
    }

    fn put(&self, records: &[(Vec<u8>, Vec<u8>)]) {
        on_keys(&self.redis, "pyzord.digest.", records);
    }

    fn key(&self, digest: &str) -> String {
        format!("pyzord.digest.{digest}")
    }

    fn all(&self) -> Content {
        everything(&self.redis)
    }

    fn shows(&self, record: &Record, zone: &str) -> String {
        let date = |time: Option<i64>| {
            time.map(|micros| local_date(zone, micros.div_euclid(SECOND) * SECOND)).unwrap_or_default()
        };
        let tally = |tally: &Tally| format!("{},{},{}", tally.count, date(tally.first), date(tally.last));
        format!("{},{}", tally(&record.reports), tally(&record.whitelists))
    }
}

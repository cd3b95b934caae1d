//! The databases of the four engines.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Content, PASSWORD, Planted, Record, SECOND, Side, THEN, Tally, digest, local_date, tally};
use crate::harness::{Home, MariaDb, Redis, from_hex, hex};

/// Gives records the digests of their places.
fn numbered(records: Vec<(String, Record)>) -> Vec<Planted> {
    let planted = |(at, (raw, says)): (usize, (String, Record))| Planted {
        key: digest(u32::try_from(at).unwrap() + 1).into_bytes(),
        raw: raw.into_bytes(),
        says: Some(says),
    };
    records.into_iter().enumerate().map(planted).collect()
}

/// Bytes as a quoted text of redis-cli.
fn quoted(bytes: &[u8]) -> String {
    let bytes: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("\"{bytes}\"")
}

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Counts at the limits of the engines, and a number below zero.
const COUNTS: [i64; 6] = [1, 2_147_483_647, 2_147_483_648, 4_294_967_296, i64::MAX, -7];

/// Whitelisted only.
fn whitelisted() -> Record {
    Record { whitelists: tally(2, THEN, THEN + SECOND), ..Record::default() }
}

/// Counts without times.
fn timeless() -> Record {
    let count = |count| Tally { count, ..Tally::default() };
    Record { reports: count(4), whitelists: count(2) }
}

/// A first time only, and a last one only.
fn half_timed() -> Record {
    let reports = Tally { count: 4, first: Some(THEN), last: None };
    Record { reports, whitelists: Tally { count: 3, first: None, last: Some(THEN) } }
}

/// A count of 0 with times.
fn counted_down() -> Record {
    Record { reports: tally(0, THEN, THEN + SECOND), whitelists: tally(1, THEN, THEN) }
}

/// A gdbm file in a homedir of its own.
pub(super) struct Gdbm {
    home: Home,
}

impl Gdbm {
    /// The homedir.
    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    /// The file.
    pub(super) fn path(&self) -> PathBuf {
        self.home.path("pyzord.db")
    }
}

impl Side for Gdbm {
    fn new() -> Self {
        Self { home: Home::open() }
    }

    fn is_there(&self) -> bool {
        self.path().exists()
    }

    fn engine(&self) -> &'static str {
        "gdbm"
    }

    fn dsn(&self) -> String {
        self.path().display().to_string()
    }

    fn raw(&self, record: &Record, zone: &str) -> Vec<u8> {
        self.shows(record, zone).into_bytes()
    }

    fn awkward(&self, zone: &str) -> Vec<Planted> {
        let date = |micros| local_date(zone, micros);
        let (then, later) = (date(THEN), date(THEN + SECOND));
        let own = |record: Record| (self.shows(&record, zone), record);
        let old = |count, first, last| Record { reports: Tally { count, first, last }, ..Record::default() };
        let micros = Record {
            reports: tally(5, THEN + 250_000, THEN + SECOND + 999_999),
            whitelists: tally(3, THEN + 1, THEN + 3 * SECOND + 1),
        };
        let mut records = vec![
            own(Record::full(5)),
            own(micros),
            own(whitelisted()),
            own(Record::default()),
            own(timeless()),
            own(half_timed()),
            own(counted_down()),
            (
                format!("1,3,{then}.5,{later}.25,0,None,None"),
                old(3, Some(THEN + 500_000), Some(THEN + SECOND + 250_000)),
            ),
            (format!("1, 1 ,{then},{later},+0,None,None"), Record::reported(1)),
            (format!("1,+1_000,{then},{later},0,None,None"), Record::reported(1000)),
            // What the established program makes of a row of a table that has nothing but its key.
            ("1,None,None,None,None,None,None".to_owned(), Record::default()),
            // The version before, with one that begins as the newer version does.
            ("5,1300000000,1300000001".to_owned(), Record::reported(5)),
            ("1,1300000000,1300000001".to_owned(), Record::reported(1)),
            ("7,1300000000,-1".to_owned(), old(7, Some(THEN), None)),
            // Half of the way from that one to the newer one, and all of it with numbers.
            (
                format!("1,6,1300000000,{later}.500000,0,None,None"),
                old(6, Some(THEN), Some(THEN + SECOND + 500_000)),
            ),
            ("1,6,1300000000,1300000001,7,1300000002,1300000003".to_owned(), Record::full(6)),
        ];
        records.extend(COUNTS.map(Record::reported).map(own));
        numbered(records)
    }

    fn damaged(&self) -> Vec<Vec<u8>> {
        let texts: [&[u8]; 8] = [
            b"garbage",
            b"",
            b"2,1,None,None,0,None,None",
            b"1,1,None,None,0,None",
            b"1,x,None,None,0,None,None",
            b"1,1,2011-13-13 07:06:40,None,0,None,None",
            b"1,1,None,None,0,None,None,0",
            b"\xff\xfe,1,2",
        ];
        texts.map(<[u8]>::to_vec).to_vec()
    }

    fn put(&self, records: &[(Vec<u8>, Vec<u8>)]) {
        self.home.database().write(records);
    }

    fn all(&self) -> Content {
        if !self.is_there() {
            return Content::new();
        }
        let all = self.home.database().read();
        all.into_iter().map(|(key, value)| (escaped(&key), escaped(&value))).collect()
    }

    fn shows(&self, record: &Record, zone: &str) -> String {
        let date = |time: Option<i64>| time.map_or("None".to_owned(), |time| local_date(zone, time));
        let tally = |tally: &Tally| format!("{},{},{}", tally.count, date(tally.first), date(tally.last));
        format!("1,{},{}", tally(&record.reports), tally(&record.whitelists))
    }

    fn settings(&self) -> String {
        String::new()
    }
}

/// A Redis that asks for a password.
fn redis() -> Redis {
    Redis::with(&format!("--requirepass {PASSWORD}"), &["--no-auth-warning", "-a", PASSWORD])
}

/// Everything in a Redis: hashes with their fields in order, texts, of other types the name; and whether it
/// expires.
fn everything(redis: &Redis) -> Content {
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

/// Runs commands on keys, `KEY` in which stands for the key.
fn on_keys(redis: &Redis, prefix: &str, records: &[(Vec<u8>, Vec<u8>)]) {
    let command = |(key, raw): &(Vec<u8>, Vec<u8>)| {
        let key = quoted(&[prefix.as_bytes(), key].concat());
        String::from_utf8(raw.clone()).unwrap().replace("KEY", &key) + "\n"
    };
    redis.feed(&records.iter().map(command).collect::<String>());
}

/// A Redis with records as hashes. What is raw is commands of redis-cli.
pub(super) struct Hashes {
    redis: Redis,
}

impl Hashes {
    /// The server.
    pub(super) fn redis(&self) -> &Redis {
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
            // The established server writes the fields of what has been counted.
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

/// A Redis with records as texts. What is raw is commands of redis-cli.
pub(super) struct Texts {
    redis: Redis,
}

impl Texts {
    /// The server.
    pub(super) fn redis(&self) -> &Redis {
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
            // What is behind the sixth field is nothing.
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

/// The columns of the manual's own table.
pub(super) const COLUMNS: &str = "`digest` char(40) default NULL, `r_count` int(11) default NULL, `wl_count` \
                                  int(11) default NULL, `r_entered` datetime default NULL, `wl_entered` datetime \
                                  default NULL, `r_updated` datetime default NULL, `wl_updated` datetime default \
                                  NULL, PRIMARY KEY (`digest`)";

/// A database of its own in a MariaDB, and a user of the same name whose it is. What is raw is the values of
/// a row, those of the reports first.
pub(super) struct MySql {
    mariadb: Arc<MariaDb>,
    name: String,
    limit: i64,
}

impl MySql {
    /// One without a table.
    pub(super) fn bare() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mariadb = MariaDb::shared();
        let name = format!("moved_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        mariadb.sql(&format!(
            "CREATE DATABASE {name}; CREATE USER {name} IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON {name}.* TO {name}"
        ));
        Self { mariadb, name, limit: i32::MAX.into() }
    }

    /// One with a table of these columns, that counts so far.
    pub(super) fn table(columns: &str, limit: i64) -> Self {
        let mut side = Self::bare();
        side.sql(&format!("CREATE TABLE digests ({columns})"));
        side.limit = limit;
        side
    }

    /// The server.
    pub(super) fn mariadb(&self) -> &MariaDb {
        &self.mariadb
    }

    /// The database's name, and the user's.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs statements in the database, as root.
    #[track_caller]
    pub(super) fn sql(&self, statements: &str) -> String {
        // Dates of nothing are from servers that take them.
        self.mariadb.sql(&format!("SET sql_mode = ''; USE {}; {statements}", self.name))
    }

    /// A URL that leads to the table by TCP, for this user.
    pub(super) fn url_of(&self, user: &str) -> String {
        format!("mysql://{user}:{PASSWORD}@127.0.0.1:{}/{}/digests", self.mariadb.port(), self.name)
    }
}

impl Side for MySql {
    fn new() -> Self {
        Self::table(COLUMNS, i32::MAX.into())
    }

    fn absent() -> Self {
        Self::bare()
    }

    fn is_there(&self) -> bool {
        !self.sql("SHOW TABLES LIKE 'digests'").is_empty()
    }

    fn lenient() -> Self {
        // The collation of the usual table takes upper case for lower case.
        let columns = COLUMNS.replace("char(40) default NULL", "varbinary(64) NOT NULL");
        let columns = columns.replace("`r_count` int(11)", "`r_count` varchar(30)");
        Self::table(&columns, i32::MAX.into())
    }

    fn engine(&self) -> &'static str {
        "mysql"
    }

    fn dsn(&self) -> String {
        self.url_of(&self.name)
    }

    fn limit(&self) -> i64 {
        self.limit
    }

    fn raw(&self, record: &Record, zone: &str) -> Vec<u8> {
        let value = |text: &str| match text {
            "NULL" => text.to_owned(),
            text => format!("'{text}'"),
        };
        self.shows(record, zone).split('\t').map(value).collect::<Vec<_>>().join(",").into_bytes()
    }

    fn awkward(&self, zone: &str) -> Vec<Planted> {
        let own = |record: Record| (String::from_utf8(self.raw(&record, zone)).unwrap(), record);
        let row = |values: &str, record: Record| (values.to_owned(), record);
        let dates = "'2011-03-13 07:06:40','2011-03-13 07:06:41'";
        let nothing = "'0000-00-00 00:00:00'";
        let mut records = vec![
            own(Record::full(5)),
            own(timeless()),
            own(half_timed()),
            row("NULL,NULL,NULL,NULL,NULL,NULL", Record::default()),
            row("0,NULL,NULL,0,NULL,NULL", Record::default()),
            row(&format!("NULL,{dates},NULL,{dates}"), Record::default()),
            // The established server fills in the times of the other tally, too.
            row(&format!("5,{dates},0,{dates}"), Record::reported(5)),
            row(&format!("0,{dates},2,{dates}"), whitelisted()),
            row(&format!("NULL,{dates},2,{dates}"), whitelisted()),
            row(&format!("4,{nothing},{nothing},2,NULL,{nothing}"), timeless()),
        ];
        let counts = COUNTS.into_iter().filter(|count| *count <= self.limit);
        records.extend(counts.map(Record::reported).map(own));
        numbered(records)
    }

    fn damaged(&self) -> Vec<Vec<u8>> {
        ["'x',NULL,NULL,0,NULL,NULL", "'',NULL,NULL,0,NULL,NULL"].map(|row| row.as_bytes().to_vec()).to_vec()
    }

    fn put(&self, records: &[(Vec<u8>, Vec<u8>)]) {
        let row = |(key, raw): &(Vec<u8>, Vec<u8>)| {
            format!("(x'{}',{})", hex(key), String::from_utf8(raw.clone()).unwrap())
        };
        self.sql(&format!(
            "REPLACE INTO digests (digest, r_count, r_entered, r_updated, wl_count, wl_entered, wl_updated) VALUES {}",
            records.iter().map(row).collect::<Vec<_>>().join(",")
        ));
    }

    fn all(&self) -> Content {
        if !self.is_there() {
            return Content::new();
        }
        let rows = self.sql(
            "SELECT CONCAT('k', HEX(digest)), r_count, r_entered, r_updated, wl_count, wl_entered, wl_updated FROM \
             digests",
        );
        let record = |row: &str| {
            let (key, rest) = row.split_once('\t').unwrap();
            (escaped(&from_hex(&key[1..])), rest.to_owned())
        };
        rows.lines().map(record).collect()
    }

    fn shows(&self, record: &Record, _zone: &str) -> String {
        let date = |time: Option<i64>| {
            time.map_or("NULL".to_owned(), |micros| local_date("UTC", micros.div_euclid(SECOND) * SECOND))
        };
        let tally = |tally: &Tally| {
            // A count of 0 has no times.
            let tally = if tally.count == 0 { &Tally::default() } else { tally };
            format!("{}\t{}\t{}", tally.count.min(self.limit), date(tally.first), date(tally.last))
        };
        format!("{}\t{}", tally(&record.reports), tally(&record.whitelists))
    }
}

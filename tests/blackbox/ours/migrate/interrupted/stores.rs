//! Source and destination databases, filled and read by other programs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::counted::{Content, Tally};
use crate::harness::{Home, MariaDb, Redis, Service, run};

/// A database of one engine.
pub(crate) trait Store: Send + Sync {
    /// The engine's name.
    fn engine(&self) -> &'static str;

    fn dsn(&self) -> String;

    /// The homedir of a server that uses the database.
    fn home(&self) -> Home;

    /// Stores records that do not exist yet.
    fn add(&self, content: &Content);

    /// Returns all records.
    fn read(&self) -> Content;

    /// Returns the number of records without reading them; for a file, 0 or 1 by its size, without opening the database.
    fn count(&self) -> usize;

    /// Whether a server can use the database during a migration.
    fn is_shared(&self) -> bool {
        true
    }

    /// The process of the database server.
    fn service(&mut self) -> &mut Service {
        panic!("{} has none", self.engine());
    }

    /// Restarts the database server on its data and waits until it is ready.
    fn restart(&mut self) {}
}

/// Creates an empty database of this engine.
pub(crate) fn store(engine: &str) -> Box<dyn Store> {
    match engine {
        "gdbm" => Box::new(Gdbm::new()),
        "redis" => Box::new(RedisStore { redis: Redis::start(), form: &HASHES }),
        "redis_v0" => Box::new(RedisStore { redis: Redis::start(), form: &TEXTS }),
        "mysql" => Box::new(Table::new(MariaDb::shared())),
        _ => panic!("no engine {engine}"),
    }
}

/// Returns a homedir without usage log, in which records do not expire.
pub(crate) fn home(settings: &str) -> Home {
    Home::open().file("config", format!("[server]\nLogFile = pyzord.log\nCleanupAge = 0\n{settings}"))
}

/// Creates an empty database with its own server, which the test may kill.
pub(crate) fn fragile_store(engine: &str) -> Box<dyn Store> {
    match engine {
        "mysql" => Box::new(Table::new(Arc::new(MariaDb::start()))),
        _ => store(engine),
    }
}

/// Formats a UTC date as in gdbm files and redis_v0.
fn date(seconds: Option<i64>, none: &str) -> String {
    seconds.map_or(none.to_owned(), |seconds| {
        let time = Timestamp::from_second(seconds).unwrap().to_zoned(TimeZone::UTC);
        time.strftime("%Y-%m-%d %H:%M:%S").to_string()
    })
}

fn parse_date(text: &str) -> Option<i64> {
    if text.is_empty() || text == "None" {
        return None;
    }
    let date: DateTime = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    Some(date.to_zoned(TimeZone::UTC).unwrap().timestamp().as_second())
}

/// Parses a count and two times from a row.
fn tally<'a>(fields: &[&'a str], time: impl Fn(&'a str) -> Option<i64>) -> Tally {
    Tally { count: fields[0].parse().unwrap(), first: time(fields[1]), last: time(fields[2]) }
}

/// A gdbm file in the homedir of a server.
pub(crate) struct Gdbm {
    home: Home,
}

impl Gdbm {
    pub(crate) fn new() -> Self {
        Self { home: home("") }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.home.path("pyzord.db")
    }

    /// Reads the file while it is open or after a kill.
    pub(crate) fn marker(&self) -> PathBuf {
        self.home.path("pyzord.db.open")
    }
}

impl Store for Gdbm {
    fn engine(&self) -> &'static str {
        "gdbm"
    }

    fn dsn(&self) -> String {
        self.path().display().to_string()
    }

    fn home(&self) -> Home {
        self.home.clone()
    }

    fn add(&self, content: &Content) {
        let value = |tallies: &[Tally; 2]| {
            let tally = |tally: &Tally| {
                format!("{},{},{}", tally.count, date(tally.first, "None"), date(tally.last, "None"))
            };
            format!("1,{},{}", tally(&tallies[0]), tally(&tallies[1]))
        };
        let records: Vec<(&String, String)> =
            content.iter().map(|(digest, tallies)| (digest, value(tallies))).collect();
        self.home.database().write(&records);
    }

    fn read(&self) -> Content {
        if !self.path().exists() {
            return Content::new();
        }
        if self.marker().exists() {
            // The content is certain only after a repair. The program under test will repair the file, so a copy is
            // repaired here.
            let copy = Self::new();
            fs::copy(self.path(), copy.path()).unwrap();
            fs::copy(self.marker(), copy.marker()).unwrap();
            assert!(copy.home.start().stop().success());
            return copy.read();
        }
        let record = |(key, value): (Vec<u8>, Vec<u8>)| {
            let (key, value) = (String::from_utf8(key).unwrap(), String::from_utf8(value).unwrap());
            let fields: Vec<&str> = value.split(',').collect();
            assert_eq!((fields.len(), fields[0]), (7, "1"), "{value}");
            (key, [tally(&fields[1..4], parse_date), tally(&fields[4..7], parse_date)])
        };
        self.home.database().read().into_iter().map(record).collect()
    }

    fn count(&self) -> usize {
        // A new file has four blocks of 4 KiB.
        usize::from(fs::metadata(self.path()).is_ok_and(|file| file.len() > 100_000))
    }

    fn is_shared(&self) -> bool {
        false
    }
}

/// The form of records in Redis.
struct Form {
    engine: &'static str,
    prefix: &'static str,
    write: fn(&mut Vec<u8>, &str, &[Tally; 2]),
}

const HASHES: Form = Form { engine: "redis", prefix: "pyzord.digest_v1.", write: write_hash };
const TEXTS: Form = Form { engine: "redis_v0", prefix: "pyzord.digest.", write: write_text };

/// A Redis used by one test.
struct RedisStore {
    redis: Redis,
    form: &'static Form,
}

/// Returns the command that stores a hash, with only the fields that a server would have written.
pub(crate) fn write_hash(commands: &mut Vec<u8>, key: &str, tallies: &[Tally; 2]) {
    let mut words = vec!["HSET".to_owned(), key.to_owned()];
    for (prefix, tally) in ["r", "wl"].into_iter().zip(tallies).filter(|(_, tally)| tally.count != 0) {
        words.extend([format!("{prefix}_count"), tally.count.to_string()]);
        for (name, time) in [("entered", tally.first), ("updated", tally.last)] {
            words.extend([format!("{prefix}_{name}"), time.unwrap_or_default().to_string()]);
        }
    }
    write_command(commands, &words);
}

fn write_text(commands: &mut Vec<u8>, key: &str, tallies: &[Tally; 2]) {
    let tally = |tally: &Tally| format!("{},{},{}", tally.count, date(tally.first, ""), date(tally.last, ""));
    let text = format!("{},{}", tally(&tallies[0]), tally(&tallies[1]));
    write_command(commands, &["SET".to_owned(), key.to_owned(), text]);
}

fn write_command(commands: &mut Vec<u8>, words: &[String]) {
    commands.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        commands.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
}

impl RedisStore {
    fn python(&self, program: &str) -> String {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", program, &self.redis.port().to_string(), self.form.prefix]);
        let output = run(&mut python, b"");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}: run tests/setup.sh");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Store for RedisStore {
    fn engine(&self) -> &'static str {
        self.form.engine
    }

    fn dsn(&self) -> String {
        format!("127.0.0.1,{},,0", self.redis.port())
    }

    fn home(&self) -> Home {
        let (engine, dsn) = (self.engine(), self.dsn());
        home(&format!("Engine = {engine}\nDigestDB = {dsn}\n"))
    }

    fn add(&self, content: &Content) {
        let mut commands = Vec::new();
        for (digest, tallies) in content {
            (self.form.write)(&mut commands, &format!("{}{digest}", self.form.prefix), tallies);
        }
        let mut client = Command::new("redis-cli");
        let output = run(client.args(["-p", &self.redis.port().to_string(), "--pipe"]), &commands);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(&format!("errors: 0, replies: {}", content.len())), "{said}");
    }

    fn read(&self) -> Content {
        const DUMP: &str = "
import redis, sys
server, prefix = redis.Redis(port=int(sys.argv[1]), decode_responses=True), sys.argv[2]
fields = ['r_count', 'r_entered', 'r_updated', 'wl_count', 'wl_entered', 'wl_updated']
cursor, seen = None, set()
while cursor != 0:
    cursor, keys = server.scan(cursor or 0, match=prefix + '*', count=1000)
    keys = [key for key in set(keys) if key not in seen]
    seen.update(keys)
    pipeline = server.pipeline(transaction=False)
    for key in keys:
        pipeline.get(key) if prefix == 'pyzord.digest.' else pipeline.hmget(key, fields)
    for key, value in zip(keys, pipeline.execute()):
        print(key[len(prefix):], value if type(value) is str else ','.join(field or '0' for field in value), sep=',')
";
        let record = |line: &str| {
            let fields: Vec<&str> = line.split(',').collect();
            assert_eq!(fields.len(), 7, "{line}");
            let time = |text: &str| match self.form.engine {
                "redis" => Some(text.parse().unwrap()).filter(|seconds| *seconds != 0),
                _ => parse_date(text),
            };
            // Every key with the prefix of redis_v0 counts, whether a hash or a text.
            (fields[0].to_owned(), [tally(&fields[1..4], time), tally(&fields[4..7], time)])
        };
        self.python(DUMP).lines().map(record).collect()
    }

    fn count(&self) -> usize {
        self.redis.cli(&["dbsize"]).trim().parse().unwrap()
    }

    fn service(&mut self) -> &mut Service {
        self.redis.service()
    }

    fn restart(&mut self) {
        self.redis.restart();
    }
}

/// A table in a MariaDB, used by one test.
struct Table {
    mariadb: Arc<MariaDb>,
    name: String,
}

impl Table {
    fn new(mariadb: Arc<MariaDb>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("interrupted{}", NEXT.fetch_add(1, Ordering::Relaxed));
        mariadb.sql(&format!(
            "CREATE TABLE pyzor.{name} (digest CHAR(40) PRIMARY KEY, r_count INT(11), wl_count INT(11), \
             r_entered DATETIME, wl_entered DATETIME, r_updated DATETIME, wl_updated DATETIME)"
        ));
        Self { mariadb, name }
    }
}

impl Store for Table {
    fn engine(&self) -> &'static str {
        "mysql"
    }

    fn dsn(&self) -> String {
        format!("127.0.0.1:{},pyzor,secret,pyzor,{}", self.mariadb.port(), self.name)
    }

    fn home(&self) -> Home {
        home(&format!("Engine = mysql\nDigestDB = {}\n", self.dsn()))
    }

    fn add(&self, content: &Content) {
        let time = |time: Option<i64>| time.map_or("NULL".to_owned(), |_| format!("'{}'", date(time, "")));
        let row = |(digest, [reports, whitelists]): (&String, &[Tally; 2])| {
            format!(
                "('{digest}',{},{},{},{},{},{})",
                reports.count,
                whitelists.count,
                time(reports.first),
                time(reports.last),
                time(whitelists.first),
                time(whitelists.last)
            )
        };
        let rows: Vec<String> = content.iter().map(row).collect();
        let statement = |rows: &[String]| {
            format!(
                "INSERT INTO pyzor.{} (digest, r_count, wl_count, r_entered, r_updated, wl_entered, wl_updated) \
                 VALUES {};\n",
                self.name,
                rows.join(",")
            )
        };
        self.mariadb.sql(&rows.chunks(1000).map(statement).collect::<String>());
    }

    fn read(&self) -> Content {
        let rows = self.mariadb.sql(&format!(
            "SELECT digest, COALESCE(r_count, 0), COALESCE(UNIX_TIMESTAMP(r_entered), ''), \
             COALESCE(UNIX_TIMESTAMP(r_updated), ''), COALESCE(wl_count, 0), COALESCE(UNIX_TIMESTAMP(wl_entered), ''), \
             COALESCE(UNIX_TIMESTAMP(wl_updated), '') FROM pyzor.{}",
            self.name
        ));
        let tally = |fields: &[&str]| match tally(fields, |text| text.parse().ok()) {
            // The first report sets the times of both tallies.
            Tally { count: 0, .. } => Tally::default(),
            tally => tally,
        };
        let record = |line: &str| {
            let fields: Vec<&str> = line.split('\t').collect();
            (fields[0].to_owned(), [tally(&fields[1..4]), tally(&fields[4..7])])
        };
        rows.lines().map(record).collect()
    }

    fn count(&self) -> usize {
        self.mariadb.sql(&format!("SELECT COUNT(*) FROM pyzor.{}", self.name)).trim().parse().unwrap()
    }

    fn service(&mut self) -> &mut Service {
        Arc::get_mut(&mut self.mariadb).expect("it is shared").service()
    }

    fn restart(&mut self) {
        Arc::get_mut(&mut self.mariadb).expect("it is shared").restart();
    }
}

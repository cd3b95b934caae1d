//! How fast `pyzor-migrate` is, beside what the databases' own programs do with the same records.
//!
//! `make migrations`, or `cargo bench --bench migrate`. Prints tables in Markdown. A migration can be no
//! faster than the slower of its sides: than the source's own program gives out all records, and the
//! destination's own takes them in. Both are measured in the same rounds as the migrations. A ratio of 0.5
//! says that the migration took twice as long as the slower side.
//!
//! `PYZORD_MIGRATION_RECORDS` is the number of records (a million), `PYZORD_MIGRATION_ROUNDS` of rounds (3).

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a measurement that cannot be made ends, and says where"
)]

#[path = "../tests/blackbox/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "what only tests need")]
mod harness;

use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use harness::{MariaDb, Redis, run};
use sha1::Digest as _;
use tempfile::TempDir;

/// The times of all records, as gdbm, MySQL and Redis have them.
const DATES: [&str; 4] =
    ["2026-03-04 05:06:07", "2026-10-11 12:13:14", "2026-05-04 05:06:07", "2026-09-11 12:13:14"];
const SECONDS: [&str; 4] = ["1772600767", "1791720794", "1777871167", "1789128794"];

const FIELDS: [&str; 6] = ["r_count", "r_entered", "r_updated", "wl_count", "wl_entered", "wl_updated"];
const COLUMNS: &str = "digest, r_count, r_entered, r_updated, wl_count, wl_entered, wl_updated";
const CREATE: &str = "CREATE TABLE target (digest char(40) default NULL, r_count int(11) default NULL, \
    wl_count int(11) default NULL, r_entered datetime default NULL, wl_entered datetime default NULL, \
    r_updated datetime default NULL, wl_updated datetime default NULL, PRIMARY KEY (digest))";

/// Reads all records of a Redis as a simple program would.
const PYTHON_DUMP: &str = "
import redis, sys
server = redis.Redis(port=int(sys.argv[1]))
cursor, records = None, 0
while cursor != 0:
    cursor, keys = server.scan(cursor or 0, count=1000)
    pipeline = server.pipeline(transaction=False)
    for key in keys:
        pipeline.hmget(key, sys.argv[2:])
    records += len(pipeline.execute())
print(records)
";

const PAIRS: [(&str, &str); 4] = [("gdbm", "redis"), ("redis", "mysql"), ("mysql", "gdbm"), ("gdbm", "gdbm")];

fn main() {
    let number = |name, default| env::var(name).map_or(default, |number| number.parse().unwrap());
    let (records, rounds) =
        (number("PYZORD_MIGRATION_RECORDS", 1_000_000), number("PYZORD_MIGRATION_ROUNDS", 3));
    let arena = Arena::new(records);
    let mut references: Vec<(Reference, Vec<Duration>)> =
        REFERENCES.into_iter().map(|reference| (reference, Vec::new())).collect();
    let mut migrations: Vec<Vec<Migration>> = PAIRS.map(|_| Vec::new()).into();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for (reference, times) in &mut references {
            times.push((reference.run)(&arena));
            eprintln!("  {} {}: {:.2} s", reference.engine, reference.name, seconds(times[times.len() - 1]));
        }
        for (pair, results) in PAIRS.iter().zip(&mut migrations) {
            let migration = arena.migrate(*pair);
            eprintln!("  {} to {}: {:.2} s", pair.0, pair.1, seconds(migration.time));
            results.push(migration);
        }
    }
    let references: Vec<(Reference, Duration)> =
        references.into_iter().map(|(reference, times)| (reference, median(times))).collect();
    print(&arena, rounds, &references, migrations);
}

/// Which way records go in a database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    In,
}

/// What a program of a database does with all records.
struct Reference {
    engine: &'static str,
    way: Way,
    name: &'static str,
    /// Whether it is what one would use, and not a faster way that one has to know.
    is_usual: bool,
    run: fn(&Arena) -> Duration,
}

const REFERENCES: [Reference; 12] = [
    Reference {
        engine: "gdbm",
        way: Way::Out,
        name: "gdbm_dump",
        is_usual: true,
        run: |arena| arena.gdbm_dump(&[]),
    },
    Reference {
        engine: "gdbm",
        way: Way::Out,
        name: "gdbm_dump -H binary",
        is_usual: false,
        run: |arena| arena.gdbm_dump(&["-H", "binary"]),
    },
    Reference {
        engine: "gdbm",
        way: Way::In,
        name: "gdbm_load of a gdbm_dump",
        is_usual: true,
        run: |arena| arena.gdbm_load("dump", &[]),
    },
    Reference {
        engine: "gdbm",
        way: Way::In,
        name: "gdbm_load of records in the order of their digests",
        is_usual: false,
        run: |arena| arena.gdbm_load("sorted", &[]),
    },
    Reference {
        engine: "gdbm",
        way: Way::In,
        name: "gdbm_load -M of a gdbm_dump -H binary",
        is_usual: false,
        run: |arena| arena.gdbm_load("binary", &["-M"]),
    },
    Reference {
        engine: "redis",
        way: Way::Out,
        name: "SCAN and HMGET, 1000 at once, by redis-py",
        is_usual: true,
        run: |arena| {
            let mut python = Command::new("/usr/bin/python3");
            python.args(["-c", PYTHON_DUMP, &arena.redis_source.port().to_string()]).args(FIELDS);
            arena.timed(&mut python, &arena.records.to_string())
        },
    },
    Reference {
        engine: "redis",
        way: Way::Out,
        name: "redis-cli --pipe of HMGET, without any SCAN",
        is_usual: true,
        run: |arena| arena.redis_pipe(&arena.redis_source, "hmget"),
    },
    Reference {
        engine: "redis",
        way: Way::In,
        name: "redis-benchmark -P 100 of HSET",
        is_usual: true,
        run: |arena| {
            arena.clear();
            let mut benchmark = Command::new("redis-benchmark");
            benchmark.args(["-p", &arena.redis_target.port().to_string(), "-P", "100", "-q"]);
            // Keys of the same length, of which hardly any comes twice. It counts to 2^31.
            benchmark.args(["-n", &arena.records.to_string(), "-r", "2000000000", "HSET"]);
            benchmark.arg(format!("pyzord.digest_v1.{}__rand_int__", "0".repeat(28))).args(hash(500));
            let time = arena.timed(&mut benchmark, " requests per second");
            assert!(arena.stored("redis") > arena.records / 100 * 98, "keys that came twice");
            time
        },
    },
    Reference {
        engine: "redis",
        way: Way::In,
        name: "redis-cli --pipe of HSET",
        is_usual: false,
        run: |arena| {
            arena.clear();
            arena.redis_pipe(&arena.redis_target, "hset")
        },
    },
    Reference {
        engine: "mysql",
        way: Way::Out,
        name: "mariadb -e SELECT",
        is_usual: true,
        run: |arena| {
            let mut client = arena.mariadb_client();
            client.args(["--quick", "-e", &format!("SELECT {COLUMNS} FROM source")]);
            client.stdout(arena.output());
            arena.timed(&mut client, "")
        },
    },
    Reference {
        engine: "mysql",
        way: Way::In,
        name: "mariadb reading INSERTs of 1000 rows",
        is_usual: true,
        run: |arena| {
            arena.clear();
            arena.timed(arena.mariadb_client().stdin(arena.input("random.sql")), "")
        },
    },
    Reference {
        engine: "mysql",
        way: Way::In,
        name: "the same in the order of the digests",
        is_usual: false,
        run: |arena| {
            arena.clear();
            arena.timed(arena.mariadb_client().stdin(arena.input("sorted.sql")), "")
        },
    },
];

/// The sources, with all records, and room for destinations.
struct Arena {
    folder: TempDir,
    records: u32,
    redis_source: Redis,
    redis_target: Redis,
    mariadb: MariaDb,
}

impl Arena {
    fn new(records: u32) -> Self {
        let redis = || {
            // What is measured is Redis, and not its disk.
            let redis = Redis::with("--appendonly no", &[]);
            redis.cli(&["config", "set", "save", ""]);
            redis
        };
        let arena = Self {
            folder: tempfile::Builder::new().prefix("pyzord-bench-").tempdir().unwrap(),
            records,
            redis_source: redis(),
            redis_target: redis(),
            // Each statement is on the disk when it is acknowledged, and all rows have room in memory.
            mariadb: MariaDb::with(
                "--innodb-buffer-pool-size=512M --innodb-log-file-size=96M --innodb-flush-method=O_DIRECT",
            ),
        };
        arena.write_inputs();
        arena.fill_sources();
        arena
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn input(&self, name: &str) -> Stdio {
        File::open(self.path(name)).unwrap().into()
    }

    fn output(&self) -> Stdio {
        File::create(self.path("output")).unwrap().into()
    }

    /// The same records in the form that each program reads.
    fn write_inputs(&self) {
        let mut digests: Vec<String> = (0..self.records).map(digest).collect();
        self.write_dump("random", &digests);
        self.write_rows("random.sql", &digests);
        let file = |name: &str| BufWriter::new(File::create(self.path(name)).unwrap());
        let (mut hset, mut hmget) = (file("hset"), file("hmget"));
        for (number, digest) in (1..).zip(&digests) {
            let key = format!("pyzord.digest_v1.{digest}");
            let fields = hash(count(number));
            write_command(&mut hset, ["HSET", &key].into_iter().chain(fields.iter().map(String::as_str)));
            write_command(&mut hmget, ["HMGET", &key].into_iter().chain(FIELDS));
        }
        hset.flush().unwrap();
        hmget.flush().unwrap();
        digests.sort_unstable();
        self.write_dump("sorted", &digests);
        self.write_rows("sorted.sql", &digests);
    }

    /// What `gdbm_load` reads.
    fn write_dump(&self, name: &str, digests: &[String]) {
        let mut file = BufWriter::new(File::create(self.path(name)).unwrap());
        writeln!(file, "# GDBM dump file\n#:version=1.1\n#:format=standard\n# End of header").unwrap();
        for (number, digest) in (1..).zip(digests) {
            let [entered, updated, wl_entered, wl_updated] = DATES;
            let value = format!(
                "1,{},{entered}.123456,{updated}.654321,1,{wl_entered}.123456,{wl_updated}.654321",
                count(number)
            );
            for datum in [digest.as_bytes(), value.as_bytes()] {
                writeln!(file, "#:len={}", datum.len()).unwrap();
                // Lines of 76 characters, each of three quarters as many bytes.
                for line in datum.chunks(57) {
                    writeln!(file, "{}", base64(line)).unwrap();
                }
            }
        }
        writeln!(file, "#:count={}\n# End of data", digests.len()).unwrap();
        file.flush().unwrap();
    }

    /// Statements that insert 1000 rows each.
    fn write_rows(&self, name: &str, digests: &[String]) {
        let mut file = BufWriter::new(File::create(self.path(name)).unwrap());
        for (start, digests) in (1..).step_by(1000).zip(digests.chunks(1000)) {
            let [entered, updated, wl_entered, wl_updated] = DATES;
            let row = |(number, digest): (u32, &String)| {
                format!(
                    "('{digest}',{},'{entered}','{updated}',1,'{wl_entered}','{wl_updated}')",
                    count(number)
                )
            };
            let rows: Vec<String> = (start..).zip(digests).map(row).collect();
            writeln!(file, "INSERT INTO target ({COLUMNS}) VALUES {};", rows.join(",")).unwrap();
        }
        file.flush().unwrap();
    }

    fn fill_sources(&self) {
        let load = run(Command::new("gdbm_load").arg(self.path("random")).arg(self.path("source.db")), b"");
        assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
        for (format, name) in [("ascii", "dump"), ("binary", "binary")] {
            let mut dump = Command::new("gdbm_dump");
            dump.args(["-H", format]).arg(self.path("source.db")).arg(self.path(name));
            self.timed(&mut dump, "");
        }
        self.redis_pipe(&self.redis_source, "hset");
        self.clear();
        self.timed(self.mariadb_client().stdin(self.input("random.sql")), "");
        self.mariadb.sql("RENAME TABLE pyzor.target TO pyzor.source");
    }

    /// Empties all destinations.
    fn clear(&self) {
        for name in ["target.db", "output"] {
            // It need not be there.
            let _ = fs::remove_file(self.path(name));
        }
        self.redis_target.cli(&["flushall"]);
        self.mariadb.sql(&format!("USE pyzor; DROP TABLE IF EXISTS target; {CREATE}"));
    }

    fn gdbm_dump(&self, options: &[&str]) -> Duration {
        self.clear();
        let mut dump = Command::new("gdbm_dump");
        self.timed(dump.args(options).arg(self.path("source.db")).arg(self.path("output")), "")
    }

    fn gdbm_load(&self, dump: &str, options: &[&str]) -> Duration {
        self.clear();
        let mut load = Command::new("gdbm_load");
        let time = self.timed(load.args(options).arg(self.path(dump)).arg(self.path("target.db")), "");
        assert_eq!(self.stored("gdbm"), self.records);
        time
    }

    fn redis_pipe(&self, redis: &Redis, commands: &str) -> Duration {
        let mut pipe = Command::new("redis-cli");
        pipe.args(["-p", &redis.port().to_string(), "--pipe"]).stdin(self.input(commands));
        self.timed(&mut pipe, &format!("errors: 0, replies: {}", self.records))
    }

    fn mariadb_client(&self) -> Command {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-h", "127.0.0.1", "-P", &self.mariadb.port().to_string()]);
        client.args(["-u", "pyzor", "-psecret", "--batch", "--skip-column-names", "pyzor"]);
        client
    }

    /// How long a program takes that says this in the end.
    fn timed(&self, command: &mut Command, says: &str) -> Duration {
        let name = command.get_program().display().to_string();
        let start = Instant::now();
        let output = command.stderr(Stdio::piped()).output();
        let time = start.elapsed();
        let output = output.unwrap_or_else(|error| panic!("{name}: {error}: run tests/setup.sh"));
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && stdout.contains(says), "{name}: {stdout}{stderr}");
        time
    }

    /// How many records there are in a destination.
    fn stored(&self, engine: &str) -> u32 {
        let number = match engine {
            "gdbm" => {
                let count =
                    run(Command::new("gdbmtool").args(["-q", "-N"]).arg(self.path("target.db")), b"count\n");
                let text = String::from_utf8(count.stdout).unwrap();
                text.split_whitespace().find(|word| word.parse::<u32>().is_ok()).unwrap().to_owned()
            }
            "redis" => self.redis_target.cli(&["dbsize"]),
            _ => self.mariadb.sql("SELECT COUNT(*) FROM pyzor.target"),
        };
        number.trim().parse().unwrap()
    }
}

fn digest(number: u32) -> String {
    sha1::Sha1::digest(number.to_be_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How often the record of this number has been reported.
fn count(number: u32) -> u32 {
    number % 1000 + 1
}

/// The fields and values of a hash.
fn hash(count: u32) -> Vec<String> {
    let count = count.to_string();
    let values = [&count, SECONDS[0], SECONDS[1], "1", SECONDS[2], SECONDS[3]];
    FIELDS.iter().zip(values).flat_map(|(field, value)| [field.to_string(), value.to_owned()]).collect()
}

fn write_command<'a>(file: &mut impl Write, words: impl Iterator<Item = &'a str>) {
    let words: Vec<&str> = words.collect();
    write!(file, "*{}\r\n", words.len()).unwrap();
    words.iter().for_each(|word| write!(file, "${}\r\n{word}\r\n", word.len()).unwrap());
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            (0..3).fold(0, |bits, at| bits << 8 | usize::from(chunk.get(at).copied().unwrap_or_default()));
        for at in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * at) & 63]);
            text.push(if at <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

/// What a migration of all records took.
struct Migration {
    time: Duration,
    memory: Memory,
}

/// The largest sizes in memory, in KiB.
#[derive(Clone, Copy, Default)]
struct Memory {
    /// With what is in memory of gdbm files, which the kernel takes back when it needs room.
    all: u64,
    /// Of its own, as far as it was seen.
    own: u64,
}

impl Arena {
    fn dsn(&self, engine: &str, name: &str) -> String {
        match engine {
            "gdbm" => self.path(&format!("{name}.db")).display().to_string(),
            "redis" => {
                let redis = if name == "source" { &self.redis_source } else { &self.redis_target };
                format!("127.0.0.1,{},,0", redis.port())
            }
            _ => format!("127.0.0.1:{},pyzor,secret,pyzor,{name}", self.mariadb.port()),
        }
    }

    fn migrate(&self, (from, to): (&str, &str)) -> Migration {
        self.clear();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pyzor-migrate"));
        command.args(["--se", from, "--sd", &self.dsn(from, "source")]);
        command.args(["--de", to, "--dd", &self.dsn(to, "target")]);
        command.env("TZ", "UTC").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = command.spawn().unwrap();
        let mut memory = Memory::default();
        while child.try_wait().unwrap().is_none() {
            memory.look(child.id());
            thread::sleep(Duration::from_millis(5));
        }
        let time = start.elapsed();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complete = format!(
            "Migration complete, {} records transferred successfully, 0 records failed",
            self.records
        );
        assert!(
            output.status.success() && said.contains(&complete),
            "{from} to {to}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(self.stored(to), self.records);
        Migration { time, memory }
    }
}

impl Memory {
    /// Looks at a process, which has none any more when it has just ended.
    fn look(&mut self, pid: u32) {
        let path = Path::new("/proc").join(pid.to_string()).join("status");
        let status = fs::read_to_string(path).unwrap_or_default();
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        };
        self.all = field("VmHWM:").unwrap_or(self.all);
        self.own = self.own.max(field("RssAnon:").unwrap_or_default());
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn print(arena: &Arena, rounds: u32, references: &[(Reference, Duration)], migrations: Vec<Vec<Migration>>) {
    let speed = |time: Duration| (f64::from(arena.records) / seconds(time)).round();
    println!("{} records, medians of {rounds} rounds, {} processors\n", arena.records, processors());
    println!("| engine | what its own program does | seconds | records/s |\n| --- | --- | ---: | ---: |");
    for (reference, time) in references {
        println!("| {} | {} | {:.2} | {} |", reference.engine, reference.name, seconds(*time), speed(*time));
    }
    println!(
        "\n| from | to | seconds | records/s | slower side | its records/s | ratio | ratio to its fastest | peak MiB | without files |\n\
         | --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    );
    for ((from, to), results) in PAIRS.into_iter().zip(migrations) {
        let peak =
            |size: fn(&Memory) -> u64| results.iter().map(|result| size(&result.memory)).max().unwrap_or(0);
        let [all, own] = [peak(|memory| memory.all), peak(|memory| memory.own)];
        let time = median(results.into_iter().map(|result| result.time).collect());
        let slower = |usual_only: bool| {
            let best = |engine: &str, way: Way| {
                let of_side = references.iter().filter(|(reference, _)| {
                    reference.engine == engine && reference.way == way && (reference.is_usual || !usual_only)
                });
                of_side.min_by_key(|(_, time)| *time).unwrap()
            };
            let (source, destination) = (best(from, Way::Out), best(to, Way::In));
            if source.1 > destination.1 { source } else { destination }
        };
        let ((reference, usual), (_, fastest)) = (slower(true), slower(false));
        println!(
            "| {from} | {to} | {:.2} | {} | {} | {} | {:.2} | {:.2} | {:.1} | {:.1} |",
            seconds(time),
            speed(time),
            reference.name,
            speed(*usual),
            seconds(*usual) / seconds(time),
            seconds(*fastest) / seconds(time),
            all as f64 / 1024.0,
            own as f64 / 1024.0
        );
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(0, usize::from)
}

//! The source and destination databases, and runs of their own programs on them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{MariaDb, Redis, run};

const CREATE: &str = "CREATE TABLE target (digest char(40) default NULL, r_count int(11) default NULL, \
    wl_count int(11) default NULL, r_entered datetime default NULL, wl_entered datetime default NULL, \
    r_updated datetime default NULL, wl_updated datetime default NULL, PRIMARY KEY (digest))";

/// Sources with all records, and empty destinations.
pub(crate) struct Arena {
    directory: TempDir,
    pub(crate) records: u32,
    pub(crate) redis_source: Redis,
    pub(crate) redis_target: Redis,
    pub(crate) mariadb: MariaDb,
}

impl Arena {
    pub(crate) fn new(records: u32) -> Self {
        let redis = || {
            // Measures Redis, not its disk.
            let redis = Redis::with("--appendonly no", &[]);
            redis.cli(&["config", "set", "save", ""]);
            redis
        };
        let arena = Self {
            directory: tempfile::Builder::new().prefix("pyzord-bench-").tempdir().unwrap(),
            records,
            redis_source: redis(),
            redis_target: redis(),
            // Each acknowledged statement is on disk, and all rows fit into memory.
            mariadb: MariaDb::with(
                "--innodb-buffer-pool-size=512M --innodb-log-file-size=96M --innodb-flush-method=O_DIRECT",
            ),
        };
        arena.write_inputs();
        arena.fill_sources();
        arena
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn input(&self, name: &str) -> Stdio {
        File::open(self.path(name)).unwrap().into()
    }

    pub(crate) fn output(&self) -> Stdio {
        File::create(self.path("output")).unwrap().into()
    }

    pub(crate) fn fill_sources(&self) {
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
    pub(crate) fn clear(&self) {
        for name in ["target.db", "output"] {
            // The file may not exist.
            let _ = fs::remove_file(self.path(name));
        }
        self.redis_target.cli(&["flushall"]);
        self.mariadb.sql(&format!("USE pyzor; DROP TABLE IF EXISTS target; {CREATE}"));
    }

    pub(crate) fn gdbm_dump(&self, options: &[&str]) -> Duration {
        self.clear();
        let mut dump = Command::new("gdbm_dump");
        self.timed(dump.args(options).arg(self.path("source.db")).arg(self.path("output")), "")
    }

    pub(crate) fn gdbm_load(&self, dump: &str, options: &[&str]) -> Duration {
        self.clear();
        let mut load = Command::new("gdbm_load");
        let time = self.timed(load.args(options).arg(self.path(dump)).arg(self.path("target.db")), "");
        assert_eq!(self.stored("gdbm"), self.records);
        time
    }

    pub(crate) fn redis_pipe(&self, redis: &Redis, commands: &str) -> Duration {
        let mut pipe = Command::new("redis-cli");
        pipe.args(["-p", &redis.port().to_string(), "--pipe"]).stdin(self.input(commands));
        self.timed(&mut pipe, &format!("errors: 0, replies: {}", self.records))
    }

    pub(crate) fn mariadb_client(&self) -> Command {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-h", "127.0.0.1", "-P", &self.mariadb.port().to_string()]);
        client.args(["-u", "pyzor", "-psecret", "--batch", "--skip-column-names", "pyzor"]);
        client
    }

    /// Returns the run time of a program, and asserts that it succeeds and prints this text.
    pub(crate) fn timed(&self, command: &mut Command, expected: &str) -> Duration {
        let name = command.get_program().display().to_string();
        let start = Instant::now();
        let output = command.stderr(Stdio::piped()).output();
        let time = start.elapsed();
        let output = output.unwrap_or_else(|error| panic!("{name}: {error}: run tests/setup.sh"));
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && stdout.contains(expected), "{name}: {stdout}{stderr}");
        time
    }

    /// Returns the number of records in a destination.
    pub(crate) fn stored(&self, engine: &str) -> u32 {
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

//! Measurements of the databases' own programs on the same records.

use std::process::Command;
use std::time::Duration;

use crate::arena::Arena;
use crate::inputs::{COLUMNS, FIELDS, hash};

/// A simple program that reads all records of a Redis.
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

/// The direction of records: out of a database or into it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Out,
    In,
}

/// A measurement of one program on all records.
pub(crate) struct Reference {
    pub(crate) engine: &'static str,
    pub(crate) way: Way,
    pub(crate) name: &'static str,
    /// Whether this is the usual way, not a faster one for experts.
    pub(crate) is_usual: bool,
    pub(crate) run: fn(&Arena) -> Duration,
}

pub(crate) const REFERENCES: [Reference; 12] = [
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
            // Keys of the same length, hardly any of them repeated. The range is limited to 2^31.
            benchmark.args(["-n", &arena.records.to_string(), "-r", "2000000000", "HSET"]);
            benchmark.arg(format!("pyzord.digest_v1.{}__rand_int__", "0".repeat(28))).args(hash(500));
            let time = arena.timed(&mut benchmark, " requests per second");
            assert!(arena.stored("redis") > arena.records / 100 * 98, "repeated keys");
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
        name: "mariadb reading INSERTs in the order of the digests",
        is_usual: false,
        run: |arena| {
            arena.clear();
            arena.timed(arena.mariadb_client().stdin(arena.input("sorted.sql")), "")
        },
    },
];

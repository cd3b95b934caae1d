//! Records are deleted from the source only when they are on the destination's disk.

use super::sides::Gdbm;
use super::{Place, Record, Side, digest};
use crate::harness::{Finished, Redis, RedisCluster};

const COUNT: u32 = 200;

/// A Redis that saves snapshots, but not during the test.
const SNAPSHOTS: &str = "--appendonly no --save 3600 1";
/// A Redis that stores nothing on disk.
const NOTHING: &str = "--appendonly no --save \"\"";

fn source() -> Gdbm {
    let source = Gdbm::new();
    let digests: Vec<String> = (0..COUNT).map(digest).collect();
    let records: Vec<_> = digests.iter().map(|digest| (digest.as_str(), Record::full(5))).collect();
    source.plant(&records, "UTC");
    source
}

fn move_to(place: &Place, source: &Gdbm, dsn: &str, options: &[&str]) -> Finished {
    let ends = ["--se=gdbm", "--sd", &source.dsn(), "--de=redis", "--dd", dsn, "--delete"];
    place.run(&[&ends[..], options].concat())
}

fn dsn(redis: &Redis) -> String {
    format!("127.0.0.1,{},,0", redis.port())
}

fn size(redis: &Redis) -> u32 {
    redis.cli(&["dbsize"]).trim().parse().unwrap()
}

#[track_caller]
fn expect_moved(finished: &Finished, source: &Gdbm) {
    let moved = format!("{COUNT} records deleted from the source\n");
    assert!(finished.code == Some(0) && finished.stdout.contains(&moved), "{finished:?}");
    assert!(source.all().is_empty());
}

/// Moves records, kills the Redis at once, and returns it restarted from its disk.
#[track_caller]
fn outlives_a_kill(mut redis: Redis) -> Redis {
    let (source, place) = (source(), Place::new());
    let finished = move_to(&place, &source, &dsn(&redis), &[]);
    redis.service().kill();
    expect_moved(&finished, &source);
    redis.restart();
    assert_eq!(size(&redis), COUNT);
    redis
}

/// Returns the number of calls of a command since the server was started.
fn calls(redis: &Redis, command: &str) -> u32 {
    let stats = redis.cli(&["info", "commandstats"]);
    let calls = stats.split_once(&format!("cmdstat_{command}:calls=")).map(|(_, rest)| rest);
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

#[test]
fn moved_records_are_in_a_snapshot() {
    outlives_a_kill(Redis::with(SNAPSHOTS, &[]));
}

#[test]
fn moved_records_are_in_the_append_only_file() {
    outlives_a_kill(Redis::with("", &[]));
    outlives_a_kill(Redis::valkey("--appendfsync everysec"));
}

#[test]
fn the_append_only_file_is_synced_before_the_first_deletion() {
    let servers = [
        (Redis::with("", &[]), "bgrewriteaof"),
        (Redis::valkey("--appendfsync everysec"), "waitaof"),
        // The wait times out.
        (Redis::valkey("--appendfsync no"), "bgrewriteaof"),
    ];
    for (redis, command) in servers {
        let (source, place) = (source(), Place::new());
        expect_moved(&move_to(&place, &source, &dsn(&redis), &["--no-durability"]), &source);
        assert_eq!(calls(&redis, command), 0);
        let source = self::source();
        redis.cli(&["flushall"]);
        expect_moved(&move_to(&place, &source, &dsn(&redis), &[]), &source);
        assert!(calls(&redis, command) > 0, "{command}");
        assert_eq!(size(&redis), COUNT);
    }
}

#[test]
fn moved_records_are_in_the_snapshots_of_all_nodes() {
    let mut cluster = RedisCluster::with(None, |port| format!("--port {port} {SNAPSHOTS}"), &[]);
    let (source, place) = (source(), Place::new());
    let finished = move_to(&place, &source, &cluster.dsn(), &[]);
    (0..3).for_each(|node| cluster.kill(node));
    expect_moved(&finished, &source);
    (0..3).for_each(|node| cluster.restart(node));
    assert_eq!(cluster.nodes().iter().map(size).sum::<u32>(), COUNT);
}

#[test]
fn redis_without_persistence_is_refused() {
    let (redis, source, place) = (Redis::with(NOTHING, &[]), source(), Place::new());
    let finished = move_to(&place, &source, &dsn(&redis), &[]);
    finished.expect_refusal(&["keeps nothing on its disk", "appendonly yes", "save", "--no-durability"]);
    assert_eq!((source.all().len(), size(&redis)), (COUNT as usize, 0));
    assert!(place.kept().is_empty());
    // A copy may go to such a Redis: the source keeps everything.
    let ends = ["--se=gdbm", "--sd", &source.dsn(), "--de=redis", "--dd", &dsn(&redis)];
    assert_eq!(place.run(&ends).code, Some(0));
    redis.cli(&["flushall"]);
    expect_moved(&move_to(&place, &source, &dsn(&redis), &["--no-durability"]), &source);
}

#[test]
fn redis_with_hidden_save_settings_is_saved() {
    let mut redis = Redis::with(&format!("{SNAPSHOTS} --rename-command CONFIG \"\""), &[]);
    let (source, place) = (source(), Place::new());
    let finished = move_to(&place, &source, &dsn(&redis), &[]);
    redis.service().kill();
    expect_moved(&finished, &source);
    assert!(finished.stderr.contains("CONFIG GET save is refused"), "{finished:?}");
    redis.restart();
    assert_eq!(size(&redis), COUNT);
}

#[test]
fn nothing_is_deleted_if_the_snapshot_fails() {
    let mut redis = Redis::with(SNAPSHOTS, &[]);
    let (source, place) = (source(), Place::new());
    // A directory in place of the snapshot file makes saving fail.
    let obstacle = redis.service().directory().join("dump.rdb");
    std::fs::create_dir_all(obstacle.join("full")).unwrap();
    let finished = move_to(&place, &source, &dsn(&redis), &[]);
    let is_reported = finished.stderr.contains("could not write to its disk");
    assert!(finished.code == Some(1) && is_reported, "{finished:?}");
    assert_eq!(source.all().len(), COUNT as usize);
    std::fs::remove_dir_all(&obstacle).unwrap();
    // A Redis whose last snapshot failed refuses writes until one succeeds.
    assert!(redis.cli(&["save"]).contains("OK"));
    expect_moved(&move_to(&place, &source, &dsn(&redis), &[]), &source);
}

#[test]
fn an_account_that_may_not_start_a_snapshot_deletes_nothing() {
    let redis = Redis::with(SNAPSHOTS, &[]);
    redis.cli(&["acl", "setuser", "mover", "on", ">secret", "~*", "+@all", "-bgsave"]);
    let (source, place) = (source(), Place::new());
    let dsn = format!("127.0.0.1,{},secret,0,mover", redis.port());
    let finished = move_to(&place, &source, &dsn, &[]);
    let is_reported =
        finished.stderr.contains("allow the account BGSAVE") && finished.stderr.contains("--no-durability");
    assert!(finished.code == Some(1) && is_reported, "{finished:?}");
    assert_eq!(source.all().len(), COUNT as usize);
    expect_moved(&move_to(&place, &source, &dsn, &["--no-durability"]), &source);
}

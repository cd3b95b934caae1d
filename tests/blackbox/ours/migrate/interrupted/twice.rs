//! Keys that `SCAN` returns twice.

use super::proxy::Repeating;
use super::stores::store;
use super::{Run, Scene};

fn counts_once(from: &str, to: &str, arguments: &[&str]) {
    const RECORDS: u32 = 12_000;
    let source = store(from);
    let redis: u16 = source.dsn().split(',').nth(1).unwrap().parse().unwrap();
    let repeating = Repeating::before(redis);
    let mut scene = Scene::between(source, store(to), RECORDS, arguments);
    scene = if arguments.contains(&"--merge") { scene.with_before() } else { scene }.journalled();
    let dsn = format!("127.0.0.1,{},,0", repeating.port());
    let finished = Run::start(scene.command_from(from, &dsn), scene.directory.path()).finished();
    let complete =
        format!("Migration complete, {RECORDS} records transferred successfully, 0 records failed\n");
    assert!(finished.code == Some(0) && finished.stdout.starts_with(&complete), "{finished:#?}");
    assert!(repeating.repeated() > RECORDS as usize, "only {} keys were repeated", repeating.repeated());
    scene.expect_done();
}

#[test]
fn key_returned_twice_is_added_once() {
    counts_once("redis", "gdbm", &["--merge"]);
}

#[test]
fn key_returned_twice_is_moved_once() {
    counts_once("redis_v0", "redis", &["--delete"]);
}

#[test]
fn key_returned_twice_is_moved_and_added_once() {
    counts_once("redis", "mysql", &["--delete", "--merge"]);
}

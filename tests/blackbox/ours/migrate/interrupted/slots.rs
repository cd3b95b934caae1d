//! A Redis Cluster whose slots move during a scan: no key is missed, and a key that is met twice counts once.

use std::ops::Range;
use std::sync::Arc;

use nix::sys::signal::Signal;

use super::cluster::ClusterStore;
use super::stores::store;
use super::{Run, Scene};
use crate::harness::{RedisCluster, eventually};

const RECORDS: u32 = 24_000;
/// Slots of the last node, which is scanned last.
const SLOTS: Range<u16> = 12_000..12_040;

/// Returns the number of SCAN calls of a node since its start.
fn scans(cluster: &RedisCluster, node: usize) -> u32 {
    let stats = cluster.nodes()[node].cli(&["info", "commandstats"]);
    let calls = stats.split_once("cmdstat_scan:calls=").map(|(_, rest)| rest.split(',').next().unwrap());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// Stops the program after this number of SCAN calls to a node, runs an action, and continues the program.
fn meanwhile(run: &mut Run, cluster: &RedisCluster, (node, calls): (usize, u32), act: impl FnOnce()) {
    eventually("the scan", || {
        assert!(!run.has_ended(), "it has ended: {:#?}", run.said(None));
        (scans(cluster, node) >= calls).then_some(())
    });
    run.signal(Signal::SIGSTOP);
    act();
    run.signal(Signal::SIGCONT);
}

/// Actions at two points of the first scan: during the scan of the second node, and in the middle of that of the third.
type Moves = [fn(&RedisCluster); 2];

/// Slots move to a node that has been scanned already.
const AWAY: Moves = [|cluster| cluster.move_slots(SLOTS, 2, 0), |_| {}];
/// Slots move away and come back before the end, so that each node has its original slots.
const AWAY_AND_BACK: Moves =
    [|cluster| cluster.move_slots(SLOTS, 2, 0), |cluster| cluster.move_slots(SLOTS, 0, 2)];
/// Only keys move away and come back: an aborted migration of slots.
const GIVEN_UP: Moves =
    [|cluster| cluster.move_keys_of(SLOTS, 2, 0), |cluster| cluster.return_keys_of(SLOTS, 0, 2)];
/// An unfinished migration of slots.
const HALF: Moves = [|cluster| cluster.move_keys_of(SLOTS, 2, 0), |_| {}];

/// The nodes move slots away and back by themselves.
const WHOLE: Moves =
    [|cluster| cluster.migrate_slots(SLOTS, 2, 0), |cluster| cluster.migrate_slots(SLOTS, 0, 2)];

fn scene(to: &str, arguments: &[&str]) -> (Arc<RedisCluster>, Scene) {
    scene_of(RedisCluster::start(None), to, arguments)
}

fn scene_of(cluster: RedisCluster, to: &str, arguments: &[&str]) -> (Arc<RedisCluster>, Scene) {
    let cluster = Arc::new(cluster);
    let source = Box::new(ClusterStore(Arc::clone(&cluster)));
    (cluster, Scene::between(source, store(to), RECORDS, arguments))
}

/// Runs the migration while slots move.
fn run(scene: &Scene, cluster: &RedisCluster, moves: Moves) -> crate::harness::Finished {
    // Scans of an earlier run do not count.
    cluster.nodes().iter().for_each(|node| assert_eq!(node.cli(&["config", "resetstat"]), "OK\n"));
    let mut run = scene.start();
    meanwhile(&mut run, cluster, (1, 1), || {
        assert_eq!(scans(cluster, 2), 0, "the migration ended too early to be interrupted");
        moves[0](cluster);
    });
    meanwhile(&mut run, cluster, (2, 4), || moves[1](cluster));
    run.finished()
}

#[track_caller]
fn loses_nothing(moves: Moves, scene: &Scene, cluster: &RedisCluster) {
    let finished = run(scene, cluster, moves);
    let complete =
        format!("Migration complete, {RECORDS} records transferred successfully, 0 records failed\n");
    assert!(finished.code == Some(0) && finished.stdout.contains(&complete), "{finished:#?}");
    if cluster.nodes()[0].cli(&["cluster", "nodes"]).contains("-<-") {
        cluster.give_slots(SLOTS, 0);
    }
    scene.expect_done();
}

fn copies(moves: Moves) {
    let (cluster, scene) = scene("gdbm", &[]);
    loses_nothing(moves, &scene, &cluster);
}

#[test]
fn slots_that_move_during_a_copy_are_copied() {
    copies(AWAY);
}

#[test]
fn slots_that_come_back_during_a_copy_are_copied() {
    copies(AWAY_AND_BACK);
}

#[test]
fn keys_that_come_back_during_a_copy_are_copied() {
    copies(GIVEN_UP);
}

#[test]
fn keys_of_slots_that_are_being_moved_are_copied() {
    copies(HALF);
}

#[test]
fn slots_migrated_by_the_nodes_during_a_copy_are_copied() {
    let (cluster, scene) = scene_of(RedisCluster::of_valkeys(), "gdbm", &[]);
    loses_nothing(WHOLE, &scene, &cluster);
}

#[test]
fn slots_that_move_during_a_move_are_moved() {
    let (cluster, scene) = scene("redis", &["--delete"]);
    let scene = scene.journalled();
    loses_nothing(AWAY, &scene, &cluster);
}

#[test]
fn slots_that_come_back_during_a_merge_are_added_once() {
    let (cluster, scene) = scene("redis", &[]);
    let scene = scene.merging().journalled();
    loses_nothing(AWAY_AND_BACK, &scene, &cluster);
}

#[test]
fn slots_that_move_during_a_verification_are_compared() {
    let (cluster, mut scene) = scene("redis", &[]);
    scene.complete();
    // One record in the moving slots has another count in the destination. The difference is found only if the slots
    // are scanned.
    scene.arguments.push("--verify-only".to_owned());
    let key = cluster.nodes()[2].cli(&["cluster", "getkeysinslot", &SLOTS.start.to_string(), "1"]);
    let port = scene.target.dsn().split(',').nth(1).unwrap().to_owned();
    let mut client = std::process::Command::new("redis-cli");
    crate::harness::run(
        client.args(["-p", &port, "hset", key.trim(), "r_count", "77", "wl_count", "77"]),
        b"",
    );
    let finished = run(&scene, &cluster, AWAY);
    let found = format!("Verification complete, {RECORDS} records compared, 1 differ\n");
    assert!(finished.code == Some(1) && finished.stdout.contains(&found), "{finished:#?}");
}

#[test]
fn slots_of_the_destination_that_move_lose_nothing() {
    let cluster = Arc::new(RedisCluster::start(None));
    let target = Box::new(ClusterStore(Arc::clone(&cluster)));
    let scene = Scene::between(store("gdbm"), target, RECORDS, &["--delete"]).journalled();
    let mut run = scene.start();
    eventually("some thousand records", || {
        assert!(!run.has_ended(), "it has ended: {:#?}", run.said(None));
        (scene.target.count() > 5000).then_some(())
    });
    run.signal(Signal::SIGSTOP);
    cluster.move_slots(SLOTS, 2, 0);
    // Other slots stay in migration.
    cluster.move_keys_of(SLOTS.end..SLOTS.end + 40, 2, 1);
    run.signal(Signal::SIGCONT);
    let finished = run.finished();
    let complete = format!("Migration complete, {RECORDS} records transferred successfully");
    assert!(finished.code == Some(0) && finished.stdout.contains(&complete), "{finished:#?}");
    cluster.give_slots(SLOTS.end..SLOTS.end + 40, 1);
    scene.expect_done();
}

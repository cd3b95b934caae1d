//! Redis Clusters, and slots that move between nodes.

use crate::engines::redis::{dsn, home, key, refusal};
use crate::engines::{digests, done};
use crate::harness::{RedisCluster, eventually};

#[test]
fn cluster_counts_exactly_while_a_slot_is_moved() {
    count_while_a_slot_moves(&RedisCluster::start(None));
}

#[test]
fn nodes_without_their_preferred_host_names_are_found_by_address() {
    // Each node has its own address, and does not listen on the addresses of other nodes.
    let options = |port: u16| {
        let own = format!("127.0.0.{}", 2 + port % 250);
        format!(
            "--port {port} --cluster-preferred-endpoint-type hostname --bind 127.0.0.1 {own} \
             --cluster-announce-ip {own}"
        )
    };
    let cluster = RedisCluster::with(None, options, &[]);
    let slots = cluster.nodes()[0].cli(&["cluster", "slots"]);
    assert_eq!(slots.lines().filter(|line| *line == "?").count(), 3, "{slots}");
    count_while_a_slot_moves(&cluster);
}

fn count_while_a_slot_moves(cluster: &RedisCluster) {
    let home = home(&cluster.dsn(), "");
    let server = home.start();
    let digests = digests(60);
    let all: Vec<&str> = digests.iter().map(String::as_str).collect();
    let report = || assert_eq!(server.request("report", &all).code(), 200);
    report();
    for node in cluster.nodes() {
        assert!(node.cli(&["dbsize"]).trim().parse::<u32>().unwrap() > 5, "a node without records");
    }
    let moved = key(&digests[0]);
    let from = cluster.owner(&moved);
    let to = (from + 1) % 3;
    cluster.begin_to_move(&moved, from, to);
    // The key is first at the old node, then at the new one while the slot is not, then there with its slot.
    report();
    cluster.move_key(&moved, from, to);
    report();
    // The connection to the new node, known only by referral, is replaced when lost.
    cluster.nodes()[to].cli(&["client", "kill", "type", "normal"]);
    eventually("another connection", || {
        (server.request("check", &[&digests[0]]).code() == 200).then_some(())
    });
    assert_eq!(done(&server, "check", &digests[0]).counts(), (3, 0));
    cluster.finish_to_move(&moved, to);
    report();
    report();
    for digest in &digests {
        assert_eq!(done(&server, "check", digest).counts(), (5, 0), "{digest}");
        assert_eq!(cluster.field(&key(digest), "r_count"), "5");
    }
    assert_eq!(cluster.owner(&moved), to);
}

#[test]
fn incomplete_cluster_serves_the_slots_it_has() {
    let mut cluster = RedisCluster::start(None);
    for node in cluster.nodes() {
        node.cli(&["config", "set", "cluster-require-full-coverage", "no"]);
    }
    let digests = digests(60);
    let (there, gone): (Vec<_>, Vec<_>) = digests.iter().partition(|digest| cluster.owner(&key(digest)) > 0);
    let before = home(&cluster.dsn(), "").start();
    cluster.kill(0);
    let home = home(&cluster.dsn(), "");
    let after = home.start();
    for server in [&before, &after] {
        for digest in &there {
            eventually("service", || (server.request("report", &[digest]).code() == 200).then_some(()));
        }
        assert_eq!(server.request("report", &[gone[0]]).code(), 500);
    }
    assert_eq!(home.log().matches(" is unavailable: ").count(), 1, "{}", home.log());
}

#[test]
fn slot_without_an_owner_fails_only_its_own_digests() {
    let cluster = RedisCluster::start(None);
    let digests = digests(30);
    // The slot of the trial key, and another slot.
    for key in ["pyzord.probe", &key(&digests[0])] {
        let slot = cluster.slot(key);
        for node in cluster.nodes() {
            node.cli(&["config", "set", "cluster-require-full-coverage", "no"]);
            node.cli(&["cluster", "delslots", &slot]);
        }
    }
    let home = home(&cluster.dsn(), "");
    let server = home.start();
    for digest in &digests[1..] {
        eventually("service", || (server.request("report", &[digest]).code() == 200).then_some(()));
    }
    for _ in 0..10 {
        assert_eq!(server.request("report", &[&digests[0]]).code(), 500);
        done(&server, "check", &digests[1]);
    }
    assert!(!home.log().contains(" is unavailable"), "{}", home.log());
}

#[test]
fn node_of_a_cluster_is_refused_as_a_single_server() {
    let cluster = RedisCluster::start(None);
    let lines: Vec<String> = cluster.nodes().iter().map(|node| refusal(&home(&dsn(node), ""))).collect();
    assert!(lines.iter().all(|line| line.contains("redis+cluster://")), "{lines:?}");
}

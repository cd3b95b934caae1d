//! Redis servers and clusters.

use crate::harness::{Home, Redis, RedisCluster, StorageStatus, digest, eventually};

fn home(dsn: &str) -> Home {
    Home::open().config(&format!("Engine = redis\nDigestDB = {dsn}\n"))
}

fn dsn(redis: &Redis) -> String {
    format!("127.0.0.1,{},,0", redis.port())
}

/// Reports digests of these numbers, 100 per request.
fn report(home: &Home, port: u16, numbers: std::ops::Range<u32>) {
    let mut caller = crate::harness::Caller::to(port);
    for first in numbers.clone().step_by(100) {
        let digests: Vec<String> = (first..numbers.end.min(first + 100)).map(digest).collect();
        let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
        assert_eq!(caller.answered("report", &digests).code(), 200, "{}", home.log());
    }
}

fn size(redis: &Redis) -> u64 {
    redis.cli(&["dbsize"]).trim().parse().unwrap()
}

fn is(availability: &str) -> impl Fn(&StorageStatus) -> bool {
    move |status| status.availability() == availability
}

#[test]
fn killed_server_is_unavailable_until_it_is_back() {
    let mut redis = Redis::start();
    let home = home(&dsn(&redis));
    let server = home.start();
    report(&home, server.port(), 0..250);
    let status = home.storage_with("an available database", is("available"));
    assert_eq!(status.number("synced_seconds_ago"), None, "{status:?}");
    redis.service().kill();
    let status = home.storage_with("an unavailable database", is("unavailable"));
    assert!(!status.reason().is_empty() && status.number("since_seconds").is_some(), "{status:?}");
    home.storage_with("an unknown size", |status| {
        status.number("records").is_none() && status.number("bytes").is_none()
    });
    redis.restart();
    home.storage_with("an available database", is("available"));
    let status = home.storage_with("the size", |status| status.number("records").is_some());
    assert_eq!(status.number("records"), Some(size(&redis)));
    assert_eq!(size(&redis), 250);
    assert!(status.number("bytes") > Some(100_000) && status.number("since_seconds").is_some(), "{status:?}");
    assert!(status.reason().is_empty(), "{status:?}");
}

#[test]
fn full_memory_makes_it_read_only_until_a_change_is_accepted() {
    let redis = Redis::start();
    let home = home(&dsn(&redis));
    let server = home.start();
    redis.cli(&["config", "set", "maxmemory", "1"]);
    assert_eq!(server.request("report", &[&digest(1)]).code(), 500);
    let status = home.storage_status();
    assert_eq!(status.availability(), "read_only", "{status:?}");
    assert!(status.reason().contains("OOM"), "{status:?}");
    assert_eq!(server.request("check", &[&digest(1)]).code(), 200);
    assert_eq!(home.storage_status().availability(), "read_only");
    redis.cli(&["config", "set", "maxmemory", "0"]);
    assert_eq!(server.request("report", &[&digest(1)]).code(), 200);
    let status = home.storage_status();
    assert!(status.is_available() && status.reason().is_empty(), "{status:?}");
}

#[test]
fn refused_changes_and_their_end_are_noticed_without_a_request() {
    let redis = Redis::start();
    let home = home(&dsn(&redis));
    let _server = home.start();
    assert!(home.storage_status().is_available());
    redis.cli(&["config", "set", "min-replicas-to-write", "1"]);
    let status = home.storage_with("a read-only database", is("read_only"));
    assert!(status.reason().contains("NOREPLICAS"), "{status:?}");
    redis.cli(&["config", "set", "min-replicas-to-write", "0"]);
    home.storage_with("an available database", is("available"));
}

#[test]
fn account_without_the_rights_leaves_the_size_unknown() {
    let redis = Redis::start();
    redis.cli(&["set", "pyzord.digest_v1.x", "y"]);
    let rights = "reset on >secret ~pyzord.* -@all +evalsha +script|load +hmget +hset +expire +persist +scan";
    let mut command = vec!["acl", "setuser", "counter"];
    command.extend(rights.split(' '));
    redis.cli(&command);
    let home = home(&format!("127.0.0.1,{},secret,0,counter", redis.port()));
    let _server = home.start();
    // The refused commands of the first measurement.
    eventually("an entry of the ACL log", || redis.cli(&["acl", "log"]).contains("dbsize").then_some(()));
    let status = home.storage_status();
    assert!(status.is_available(), "{status:?}");
    assert_eq!((status.number("records"), status.number("bytes")), (None, None));
    redis.cli(&["acl", "setuser", "counter", "+dbsize", "+info"]);
    redis.cli(&["client", "kill", "type", "normal"]);
    let status = home.storage_with("the size", |status| status.number("bytes").is_some());
    assert_eq!(status.number("records"), Some(1));
}

#[test]
fn cluster_without_one_node_is_partial() {
    let mut cluster = RedisCluster::start(None);
    let home = home(&cluster.dsn());
    let server = home.start();
    // New connections make it measure again.
    let renew = |cluster: &RedisCluster| {
        for node in cluster.nodes() {
            node.cli(&["client", "kill", "type", "normal"]);
        }
    };
    report(&home, server.port(), 0..300);
    let all: u64 = cluster.nodes().iter().map(size).sum();
    assert_eq!(all, 300);
    renew(&cluster);
    home.storage_with("the sum of all nodes", |status| status.number("records") == Some(300));
    let address = format!("127.0.0.1:{}", cluster.nodes()[1].port());
    cluster.kill(1);
    let status = home.storage_with("a partial database", is("partial"));
    assert!(status.reason().starts_with(&format!("{address} is unavailable: ")), "{status:?}");
    assert!(status.number("since_seconds").is_some());
    home.storage_with("an unknown size", |status| status.number("records").is_none());
    cluster.restart(1);
    home.storage_with("an available database", is("available"));
    home.storage_with("the sum of all nodes", |status| status.number("records") == Some(300));
    for node in 0..cluster.nodes().len() {
        cluster.kill(node);
    }
    let status = home.storage_with("an unavailable database", is("unavailable"));
    assert!(status.reason().contains("(3 of 3 servers are affected)"), "{status:?}");
}

//! Redis on several servers: clusters whose nodes join and hang, failovers with sentinels, and both with accounts and
//! TLS.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::engines::redis::{RIGHTS, home, key, tls_options};
use crate::engines::{digests, done};
use crate::harness::{Certificate, DIGEST, Redis, RedisCluster, Sentinel, StopFlag, eventually};

/// The further rights of an account on the nodes of a cluster.
const RIGHTS_OF_CLUSTERS: &str = "+cluster|slots +asking";
/// The rights of an account on a sentinel.
const RIGHTS_OF_SENTINELS: &str = "resetchannels -@all +sentinel|get-master-addr-by-name";

/// Creates an account with a password and these rights.
fn add_account(redis: &Redis, name: &str, password: &str, rights: &str) {
    let mut command = vec!["acl", "setuser", name, "on", password];
    command.extend(rights.split(' '));
    assert_eq!(redis.cli(&command), "OK\n");
}

fn in_url(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn cluster_is_used_through_tls_with_an_account() {
    let certificate = Certificate::new();
    let authority = in_url(&certificate.authority());
    let client = ["--tls", "--cacert", &authority, "-a", "admins", "--no-auth-warning"];
    let options =
        |port| format!("{} --tls-cluster yes --requirepass admins", tls_options(&certificate, port));
    let cluster = RedisCluster::with(None, options, &client);
    for node in cluster.nodes() {
        add_account(node, "counter", ">secret/2", &format!("{RIGHTS} {RIGHTS_OF_CLUSTERS}"));
    }
    let dsn = format!("rediss+cluster://counter:secret%2F2@{}?ca={authority}", cluster.hosts());
    let home = home(&dsn, "");
    let server = home.start();
    let digests = digests(30);
    let all: Vec<&str> = digests.iter().map(String::as_str).collect();
    for _ in 0..2 {
        assert_eq!(server.request("report", &all).code(), 200);
    }
    for digest in all {
        assert_eq!(done(&server, "check", digest).counts(), (2, 0));
        assert_eq!(cluster.field(&key(digest), "r_count"), "2");
    }
    assert!(server.stop().success());
    let said = home.everything_said();
    assert!(!said.contains("secret") && !said.contains("refused"), "{said}");
}

#[test]
fn sentinels_and_their_servers_have_separate_accounts() {
    let certificate = Certificate::new();
    let authority = in_url(&certificate.authority());
    let tls = ["--tls", "--cacert", &authority];
    let options =
        |port| format!("{} --requirepass admins --masterauth admins", tls_options(&certificate, port));
    let lines = |port| {
        let options = tls_options(&certificate, port);
        let options = options.trim_start_matches("--").replace(" --", "\n");
        format!(
            "{options}\nsentinel auth-pass counts admins\n\
             user watcher on >word.secret {RIGHTS_OF_SENTINELS}\n"
        )
    };
    let client = [tls.as_slice(), &["-a", "admins", "--no-auth-warning"]].concat();
    let sentinel = Sentinel::with(options, &client, lines, &tls);
    // The tests use the sentinel's default account; the server under test has an account with the rights it needs.
    let replica = |server: &Redis| server.cli(&["role"]).starts_with("slave");
    let first = sentinel.master();
    assert!(!replica(first));
    add_account(first, "counter", ">pass.secret", RIGHTS);
    let dsn = format!(
        "rediss+sentinel://counter:pass.secret@127.0.0.1:{}/counts/2?sentinel_user=watcher\
         &sentinel_password=word.secret&ca={authority}",
        sentinel.port()
    );
    let home = home(&dsn, "");
    let server = home.start();
    done(&server, "report", DIGEST);
    assert_eq!(sentinel.master().cli(&["-n", "2", "hget", &key(DIGEST), "r_count"]), "1\n");
    assert!(server.stop().success());
    assert!(!home.everything_said().contains("secret"));
}

#[test]
fn killed_master_is_replaced() {
    let mut sentinel = Sentinel::start();
    let home = home(&format!("redis+sentinel://127.0.0.1:{}/counts", sentinel.port()), "");
    let server = home.start();
    done(&server, "report", DIGEST);
    sentinel.await_replica();
    let before = sentinel.master().port();
    sentinel.master_service().kill();
    // This report is neither counted nor acknowledged.
    assert_eq!(server.request("report", &[DIGEST]).code(), 500);
    assert_eq!(server.request("check", &[DIGEST]).code(), 500);
    sentinel.await_other(before);
    eventually("service", || (server.request("report", &[DIGEST]).code() == 200).then_some(()));
    assert_eq!(done(&server, "check", DIGEST).counts(), (2, 0));
    assert_eq!(sentinel.master().cli(&["hget", &key(DIGEST), "r_count"]), "2\n");

    // The former master returns, and acts as a master until the sentinel makes it a replica.
    sentinel.server(before).restart();
    for count in 3..20 {
        done(&server, "report", DIGEST);
        assert_eq!(done(&server, "check", DIGEST).counts(), (count, 0));
    }
    assert_eq!(sentinel.server(before).cli(&["hget", &key(DIGEST), "r_count"]), "1\n");
    assert_eq!(sentinel.master().cli(&["hget", &key(DIGEST), "r_count"]), "19\n");
}

#[test]
fn master_that_was_replaced_while_it_hung_is_not_used_any_more() {
    let mut sentinel = Sentinel::start();
    let home = home(&format!("redis+sentinel://127.0.0.1:{}/counts", sentinel.port()), "");
    let server = home.start();
    done(&server, "report", DIGEST);
    sentinel.await_replica();
    let before = sentinel.master().port();
    sentinel.master_service().signal(Signal::SIGSTOP);
    assert_eq!(server.request("report", &[DIGEST]).code(), 500);
    sentinel.await_other(before);
    let mut acknowledged = 1;
    let report = || i64::from(server.request("report", &[DIGEST]).code() == 200);
    eventually("service", || {
        acknowledged += report();
        (acknowledged > 1).then_some(())
    });
    // The former master acts as a master until the sentinel makes it a replica.
    sentinel.server(before).service().signal(Signal::SIGCONT);
    acknowledged += (0..100).map(|_| report()).sum::<i64>();
    assert!(acknowledged > 100, "the new master is lost again");
    // Only the report that was in flight may be counted there.
    let stale: i64 = sentinel.server(before).cli(&["hget", &key(DIGEST), "r_count"]).trim().parse().unwrap();
    assert!(stale <= 2, "{stale}");
    assert_eq!(sentinel.master().cli(&["hget", &key(DIGEST), "r_count"]), format!("{acknowledged}\n"));
}

#[test]
fn hanging_node_fails_only_its_own_digests() {
    let mut cluster = RedisCluster::start(None);
    let home = home(&cluster.dsn(), "");
    let server = home.start();
    let digests = digests(60);
    let (there, elsewhere): (Vec<&str>, Vec<&str>) =
        digests.iter().map(String::as_str).partition(|digest| cluster.owner(&key(digest)) == 0);
    let all: Vec<&str> = digests.iter().map(String::as_str).collect();
    assert_eq!(server.request("report", &all).code(), 200);
    cluster.service(0).signal(Signal::SIGSTOP);
    // The other digests of the datagram are counted.
    assert_eq!(server.request("report", &all).code(), 500);
    eventually("the loss to be noticed", || home.log().contains(" is unavailable").then_some(()));
    let start = Instant::now();
    for digest in &elsewhere {
        assert_eq!(done(&server, "check", digest).counts(), (2, 0), "{digest}");
    }
    for digest in &there {
        assert_eq!(server.request("check", &[digest]).code(), 500);
    }
    // Requests no longer wait for the node, which would take more than a second each.
    let taken = start.elapsed();
    let most = Duration::from_millis(500) * u32::try_from(there.len()).unwrap();
    assert!(taken < most, "{taken:?} for {} digests", there.len());
    cluster.service(0).signal(Signal::SIGCONT);
    eventually("service", || (server.request("check", &[there[0]]).code() == 200).then_some(()));
    for digest in there {
        // The node may still have executed the report it was sent, once.
        let (count, _) = done(&server, "check", digest).counts();
        assert!((1..=2).contains(&count), "{digest}: {count}");
        done(&server, "report", digest);
        assert_eq!(done(&server, "check", digest).counts(), (count + 1, 0));
    }
}

#[test]
fn reports_are_counted_while_a_new_node_takes_over_a_slot() {
    let mut cluster = RedisCluster::start(None);
    let home = home(&cluster.dsn(), "");
    let server = home.start();
    let digests = digests(20);
    let all: Vec<&str> = digests.iter().map(String::as_str).collect();
    let moved = key(&digests[0]);
    let from = cluster.owner(&moved);
    let (stop, requests) = (StopFlag::default(), AtomicI64::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.is_set() {
                    assert_eq!(server.request("report", &all).code(), 200);
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _guard = stop.set_on_drop();
        let some_more = || {
            let before = requests.load(Ordering::Relaxed);
            eventually("requests", || (requests.load(Ordering::Relaxed) > before + 10).then_some(()));
        };
        some_more();
        // The new node does not have the script yet.
        let to = cluster.join();
        for (from, to) in [(from, to), (to, from)] {
            cluster.begin_to_move(&moved, from, to);
            some_more();
            cluster.move_key(&moved, from, to);
            some_more();
            cluster.finish_to_move(&moved, to);
            some_more();
            assert_eq!(cluster.owner(&moved), to);
        }
    });
    let requests = requests.into_inner();
    for digest in all {
        assert_eq!(done(&server, "check", digest).counts(), (requests, 0), "{digest}");
        assert_eq!(cluster.field(&key(digest), "r_count"), requests.to_string());
    }
    let log = home.log();
    assert!(!log.contains(" is unavailable") && !log.contains("refused"), "{log}");
}

//! Redis on several servers: clusters whose nodes come and hang, sentinels whose masters go, and both with
//! accounts and through TLS.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::engines::redis::{RIGHTS, home, key};
use crate::engines::{digests, done};
use crate::harness::{Certificate, DIGEST, Redis, RedisCluster, Sentinel, eventually};

/// What an account needs besides on the nodes of a cluster, and what it needs on a sentinel.
const RIGHTS_OF_CLUSTERS: &str = "+cluster|slots +asking";
const RIGHTS_OF_SENTINELS: &str = "resetchannels -@all +sentinel|get-master-addr-by-name";

/// The options of a server that speaks nothing but TLS, to its like as well.
fn through_tls(certificate: &Certificate, port: u16) -> String {
    format!(
        "--port 0 --tls-port {port} --tls-auth-clients no --tls-replication yes --tls-cert-file {} \
         --tls-key-file {} --tls-ca-cert-file {}",
        certificate.server().display(),
        certificate.key().display(),
        certificate.authority().display()
    )
}

/// Makes an account with a password and these rights.
fn add_account(redis: &Redis, name: &str, password: &str, rights: &str) {
    let mut command = vec!["acl", "setuser", name, "on", password];
    command.extend(rights.split(' '));
    assert_eq!(redis.cli(&command), "OK\n");
}

/// A path as part of a URL.
fn in_url(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_cluster_is_reached_through_tls_with_an_account() {
    let certificate = Certificate::new();
    let authority = in_url(&certificate.authority());
    let client = ["--tls", "--cacert", &authority, "-a", "admins", "--no-auth-warning"];
    let options =
        |port| format!("{} --tls-cluster yes --requirepass admins", through_tls(&certificate, port));
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
fn sentinels_and_their_servers_have_accounts_of_their_own() {
    let certificate = Certificate::new();
    let authority = in_url(&certificate.authority());
    let tls = ["--tls", "--cacert", &authority];
    let options =
        |port| format!("{} --requirepass admins --masterauth admins", through_tls(&certificate, port));
    let lines = |port| {
        let options = through_tls(&certificate, port);
        let options = options.trim_start_matches("--").replace(" --", "\n");
        format!(
            "{options}\nsentinel auth-pass counts admins\n\
             user watcher on >word.secret {RIGHTS_OF_SENTINELS}\n"
        )
    };
    let client = [tls.as_slice(), &["-a", "admins", "--no-auth-warning"]].concat();
    let sentinel = Sentinel::with(options, &client, lines, &tls);
    // The sentinel's own default account stays open for the tests; ours has only what it needs.
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
fn a_master_that_dies_is_replaced() {
    let mut sentinel = Sentinel::start();
    let home = home(&format!("redis+sentinel://127.0.0.1:{}/counts", sentinel.port()), "");
    let server = home.start();
    done(&server, "report", DIGEST);
    sentinel.await_replica();
    let before = sentinel.master().port();
    sentinel.master_service().kill();
    // Neither counted nor acknowledged.
    assert_eq!(server.request("report", &[DIGEST]).code(), 500);
    assert_eq!(server.request("check", &[DIGEST]).code(), 500);
    sentinel.await_other(before);
    eventually("service", || (server.request("report", &[DIGEST]).code() == 200).then_some(()));
    assert_eq!(done(&server, "check", DIGEST).counts(), (2, 0));
    assert_eq!(sentinel.master().cli(&["hget", &key(DIGEST), "r_count"]), "2\n");

    // What was the master comes back, and takes itself for the master still.
    sentinel.server(before).restart();
    for count in 3..20 {
        done(&server, "report", DIGEST);
        assert_eq!(done(&server, "check", DIGEST).counts(), (count, 0));
    }
    assert_eq!(sentinel.server(before).cli(&["hget", &key(DIGEST), "r_count"]), "1\n");
    assert_eq!(sentinel.master().cli(&["hget", &key(DIGEST), "r_count"]), "19\n");
}

#[test]
fn a_master_that_was_replaced_while_it_hung_counts_nothing_any_more() {
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
    // For a while it takes itself for the master still.
    sentinel.server(before).service().signal(Signal::SIGCONT);
    acknowledged += (0..100).map(|_| report()).sum::<i64>();
    assert!(acknowledged > 100, "the new master is lost again");
    // What hung with it may be counted there, and nothing else.
    let stale: i64 = sentinel.server(before).cli(&["hget", &key(DIGEST), "r_count"]).trim().parse().unwrap();
    assert!(stale <= 2, "{stale}");
    assert_eq!(sentinel.master().cli(&["hget", &key(DIGEST), "r_count"]), format!("{acknowledged}\n"));
}

#[test]
fn a_node_that_hangs_fails_its_own_digests_alone() {
    let mut cluster = RedisCluster::start(None);
    let home = home(&cluster.dsn(), "");
    let server = home.start();
    let digests = digests(60);
    let (there, elsewhere): (Vec<&str>, Vec<&str>) =
        digests.iter().map(String::as_str).partition(|digest| cluster.owner(&key(digest)) == 0);
    let all: Vec<&str> = digests.iter().map(String::as_str).collect();
    assert_eq!(server.request("report", &all).code(), 200);
    cluster.service(0).signal(Signal::SIGSTOP);
    // Also those of one datagram are counted where they can be.
    assert_eq!(server.request("report", &all).code(), 500);
    eventually("the loss to be noticed", || home.log().contains(" is away").then_some(()));
    let start = Instant::now();
    for digest in &elsewhere {
        assert_eq!(done(&server, "check", digest).counts(), (2, 0), "{digest}");
    }
    for digest in &there {
        assert_eq!(server.request("check", &[digest]).code(), 500);
    }
    // Nobody waits for it any more: that would take a second and more for each.
    let taken = start.elapsed();
    let most = Duration::from_millis(500) * u32::try_from(there.len()).unwrap();
    assert!(taken < most, "{taken:?} for {} digests", there.len());
    cluster.service(0).signal(Signal::SIGCONT);
    eventually("service", || (server.request("check", &[there[0]]).code() == 200).then_some(()));
    for digest in there {
        // What it was sent it may have done after all, once.
        let (count, _) = done(&server, "check", digest).counts();
        assert!((1..=2).contains(&count), "{digest}: {count}");
        done(&server, "report", digest);
        assert_eq!(done(&server, "check", digest).counts(), (count + 1, 0));
    }
}

#[test]
fn a_node_that_joins_takes_over_a_slot_while_all_report() {
    let mut cluster = RedisCluster::start(None);
    let home = home(&cluster.dsn(), "");
    let server = home.start();
    let digests = digests(20);
    let all: Vec<&str> = digests.iter().map(String::as_str).collect();
    let moved = key(&digests[0]);
    let from = cluster.owner(&moved);
    let (over, requests) = (AtomicBool::new(false), AtomicI64::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(server.request("report", &all).code(), 200);
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Ends the others, when this panics too.
        struct Guard<'a>(&'a AtomicBool);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _guard = Guard(&over);
        let some_more = || {
            let before = requests.load(Ordering::Relaxed);
            eventually("requests", || (requests.load(Ordering::Relaxed) > before + 10).then_some(()));
        };
        some_more();
        // It has not seen the script yet.
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
    assert!(!log.contains(" is away") && !log.contains("refused"), "{log}");
}

//! Redis masters that are replaced during a migration.

use nix::sys::signal::Signal;

use super::cluster::ClusterStore;
use super::stopped::expect_incomplete;
use super::stores::{Store, home, store, write_hash};
use super::{Run, Scene};
use crate::harness::{Finished, Home, RedisCluster, Sentinel, eventually, run};

const RECORDS: u32 = 24_000;

/// The service that is monitored by a sentinel.
struct Service(std::sync::Arc<Sentinel>);

impl Store for Service {
    fn engine(&self) -> &'static str {
        "redis"
    }

    fn dsn(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/counts", self.0.port())
    }

    fn home(&self) -> Home {
        home(&format!("Engine = redis\nDigestDB = {}\n", self.dsn()))
    }

    fn add(&self, content: &super::Content) {
        let mut commands = Vec::new();
        for (digest, tallies) in content {
            write_hash(&mut commands, &format!("pyzord.digest_v1.{digest}"), tallies);
        }
        let mut client = std::process::Command::new("redis-cli");
        let said = run(client.args(["-p", &self.0.master().port().to_string(), "--pipe"]), &commands).stdout;
        assert!(String::from_utf8_lossy(&said).contains("errors: 0, "));
        self.0.await_replica();
    }

    fn read(&self) -> super::Content {
        panic!("what a replaced master has is not compared: the run ends as incomplete")
    }

    fn count(&self) -> usize {
        self.0.master().cli(&["dbsize"]).trim().parse().unwrap()
    }
}

/// Suspends the master until the sentinel has replaced it. The program is suspended meanwhile, and continues before the
/// former master knows that it was replaced.
fn replace(sentinel: &Sentinel, run: &mut Run, is_far_enough: impl Fn() -> bool) {
    eventually("the middle", || {
        assert!(!run.has_ended(), "it has ended: {:#?}", run.said(None));
        is_far_enough().then_some(())
    });
    run.signal(Signal::SIGSTOP);
    let before = sentinel.master().port();
    let master = sentinel.servers().iter().find(|server| server.port() == before).unwrap();
    master.signal(Signal::SIGSTOP);
    sentinel.await_other(before);
    master.signal(Signal::SIGCONT);
    run.signal(Signal::SIGCONT);
}

#[test]
fn master_replaced_during_a_scan_is_noticed() {
    let sentinel = std::sync::Arc::new(Sentinel::start());
    for (to, records, arguments) in [("gdbm", RECORDS, &[][..]), ("redis", 0, &["--verify-only"])] {
        let source = Box::new(Service(std::sync::Arc::clone(&sentinel)));
        let scene = Scene::between(source, store(to), records, arguments);
        let mut run = scene.start();
        let master = sentinel.master().port();
        let server = sentinel.servers().iter().find(|server| server.port() == master).unwrap();
        server.cli(&["config", "resetstat"]);
        replace(&sentinel, &mut run, || server.cli(&["info", "commandstats"]).contains("cmdstat_scan"));
        let finished = run.finished();
        assert_eq!(finished.code, Some(1), "{finished:#?}");
        assert!(finished.stderr.contains("the sentinels name another master"), "{finished:#?}");
        // The former master becomes a replica after a while.
        eventually("the replica to be in sync", || {
            server.cli(&["info", "replication"]).contains("master_link_status:up").then_some(())
        });
    }
}

/// Copies into a cluster in which one master is replaced by a replica in the middle of the copy.
fn copy_into_a_changing_cluster(changes: impl FnOnce(&RedisCluster, usize)) -> Finished {
    let mut cluster = RedisCluster::start(None);
    let replica = cluster.join();
    cluster.follow(replica, 0);
    let cluster = std::sync::Arc::new(cluster);
    let target = Box::new(ClusterStore(std::sync::Arc::clone(&cluster)));
    let scene = Scene::between(store("gdbm"), target, RECORDS, &[]);
    let mut run = scene.start();
    run.under_way(&*scene.target);
    run.signal(Signal::SIGSTOP);
    changes(&cluster, replica);
    run.signal(Signal::SIGCONT);
    run.finished()
}

#[test]
fn cluster_node_replaced_during_a_copy_is_noticed() {
    let finished = copy_into_a_changing_cluster(|cluster, replica| {
        assert_eq!(cluster.nodes()[replica].cli(&["cluster", "failover", "takeover"]), "OK\n");
        eventually("the takeover", || {
            let replication = cluster.nodes()[0].cli(&["info", "replication"]);
            replication.contains("role:slave").then_some(())
        });
    });
    expect_incomplete(&finished, &["is no longer the master that was written to"]);
}

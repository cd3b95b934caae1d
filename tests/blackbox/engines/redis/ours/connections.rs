//! Lost and hanging connections, and failovers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::engines::redis::{home, key};
use crate::engines::{digests, done};
use crate::harness::{DIGEST, RedisCluster, Sentinel, eventually, free_port};

#[test]
fn hanging_sentinels_do_not_make_the_master_unavailable() {
    let sentinel = Sentinel::start();
    let home = home(&format!("redis+sentinel://127.0.0.1:{}/counts", sentinel.port()), "");
    let server = home.start();
    sentinel.signal(Signal::SIGSTOP);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        done(&server, "report", DIGEST);
        thread::sleep(Duration::from_millis(5));
    }
    // A lost connection to the master is replaced without the sentinels.
    sentinel.servers()[0].cli(&["client", "kill", "type", "normal"]);
    eventually("another connection", || (server.request("report", &[DIGEST]).code() == 200).then_some(()));
    sentinel.signal(Signal::SIGCONT);
    assert!(home.log().matches(" is unavailable: ").count() <= 1, "{}", home.log());
}

/// A proxy before a server. Once `cut` is set, it drops the next reply to a count and closes the connection.
struct Proxy {
    cut: Arc<AtomicBool>,
}

impl Proxy {
    fn new(port: u16, server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let cut = Arc::new(AtomicBool::new(false));
        let is_armed = Arc::clone(&cut);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let is_armed = Arc::clone(&is_armed);
                // Without the server, the client's connection is closed.
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                thread::spawn(move || Self::serve(client, server, &is_armed));
            }
        });
        Self { cut }
    }

    fn serve(client: TcpStream, server: TcpStream, is_armed: &AtomicBool) {
        let (mut requests, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            // Either side may have closed its connection.
            let _ = std::io::copy(&mut requests, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Both);
        });
        let (mut client, mut server) = (client, server);
        let mut buffer = [0; 65_536];
        while let Ok(length) = server.read(&mut buffer) {
            // Only a script call that has counted one digest has this reply.
            let is_count = buffer[..length].starts_with(b"*1\r\n:1\r\n");
            if length == 0 || (is_count && is_armed.swap(false, Ordering::SeqCst)) {
                break;
            }
            if client.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    }
}

#[test]
fn command_whose_reply_is_lost_counts_once() {
    let port = free_port();
    let cluster = RedisCluster::start(Some(port));
    let proxy = Proxy::new(port, cluster.nodes()[0].port());
    let home = home(&cluster.dsn(), "CleanupAge = 0\n");
    let server = home.start();
    let digests = digests(60);
    let there = |digest: &&String| cluster.owner(&key(digest)) == 0;
    let (lost, elsewhere) =
        (digests.iter().find(there).unwrap(), digests.iter().find(|digest| !there(digest)).unwrap());
    for round in 1..=5_i64 {
        eventually("the node", || (server.request("report", &[lost]).code() == 200).then_some(()));
        let before: i64 = cluster.field(&key(lost), "r_count").parse().unwrap();
        proxy.cut.store(true, Ordering::SeqCst);
        assert_eq!(server.request("report", &[lost]).code(), 500);
        assert!(!proxy.cut.load(Ordering::SeqCst), "no reply was dropped");
        // The other nodes still serve.
        done(&server, "report", elsewhere);
        assert_eq!(cluster.field(&key(elsewhere), "r_count"), round.to_string());
        let after: i64 = cluster.field(&key(lost), "r_count").parse().unwrap();
        assert_eq!(after, before + 1, "counted more than once, or not at all");
    }
}

#[test]
fn new_master_is_used_after_a_failover() {
    let sentinel = Sentinel::start();
    let home = home(&format!("redis+sentinel://127.0.0.1:{}/counts/1", sentinel.port()), "");
    let server = home.start();
    done(&server, "report", DIGEST);
    sentinel.fail_over();
    eventually("the new master to be followed", || home.log().contains(" is back after ").then_some(()));
    done(&server, "report", DIGEST);
    assert_eq!(sentinel.master().cli(&["-n", "1", "hget", &key(DIGEST), "r_count"]), "2\n");
    let log = home.log();
    assert!(log.contains(" is unavailable: the sentinels name another master"), "{log}");
}

//! Several processes on one port that root starts for another user.

use std::net::{TcpListener, UdpSocket};

use super::privileges::{NOBODY, as_root, home_of};
use crate::harness::Redis;
use crate::shared_port::{clients, ping, start};
use crate::support::{Running, Site, finish};

fn site(redis_port: u16) -> Site {
    let database = format!("Engine = redis\nDigestDB = 127.0.0.1,{redis_port},,0\n");
    Site::at(home_of(NOBODY, &format!("User = nobody\nReusePort = True\n{database}")))
}

#[test]
fn a_process_gets_no_requests_while_it_waits_for_its_database() {
    if !as_root() {
        return;
    }
    let redis = Redis::start();
    let site = site(redis.port());
    let _first = start(&site, "one");
    let clients = clients(&site);
    ping(&clients, 2000, "of the first process");
    // Accepts connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = site.command();
    command.args(["--dsn", &format!("127.0.0.1,{},,0", silent.local_addr().unwrap().port())]);
    let mut second = Running::start(&site, command);
    let mut thread = 2000;
    while !site.home().stderr().contains("waiting for") {
        assert!(second.is_running(), "it has not waited");
        thread += 1;
        ping(&clients, thread, "before the second process has waited");
    }
    for _ in 0..20 {
        thread += 1;
        ping(&clients, thread, "while the second process waits");
    }
}

#[test]
fn a_process_gets_no_requests_while_it_waits_for_its_pid_file() {
    if !as_root() {
        return;
    }
    let redis = Redis::start();
    let site = site(redis.port());
    assert_eq!(finish(site.detached()).code, Some(0));
    let clients = clients(&site);
    ping(&clients, 2000, "of the first process");
    let mut second = Running::start(&site, site.detached());
    let mut thread = 2000;
    while second.is_running() {
        thread += 1;
        ping(&clients, thread, "while the second process waits");
    }
    assert_eq!(second.ended().code(), Some(1));
    assert!(site.home().stderr().contains("already running"), "{}", site.home().stderr());
    ping(&clients, 5000, "after the second process");
    site.daemon().stop();
}

#[test]
fn a_port_that_only_root_can_bind_is_refused() {
    if !as_root() {
        return;
    }
    let site = site(1);
    let port = (500..1000).rev().find(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    let mut command = site.bare();
    command.arg("--homedir").arg(site.home().path()).args(["-a", "127.0.0.1", "-p", &port.to_string()]);
    finish(command).expect_line(&["ReusePort", &port.to_string(), "only root can bind", "nobody"]);
}

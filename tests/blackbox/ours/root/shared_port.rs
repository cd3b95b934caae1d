//! Several processes on one port, which root starts for another user.

use std::net::{TcpListener, UdpSocket};

use super::privileges::{NOBODY, home_of, require_root};
use crate::harness::{Home, Redis, Server, finish};
use crate::ours::shared_port::{clients, ping, start};

fn home(redis_port: u16) -> Home {
    let database = format!("Engine = redis\nDigestDB = 127.0.0.1,{redis_port},,0\n");
    home_of(NOBODY, &format!("User = nobody\nReusePort = True\n{database}"))
}

#[test]
fn process_gets_no_requests_while_it_waits_for_its_database() {
    require_root();
    let redis = Redis::start();
    let home = home(redis.port());
    let _first = start(&home, "one");
    let clients = clients(&home);
    ping(&clients, 2000, "of the first process");
    // Accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = home.command();
    command.args(["--dsn", &format!("127.0.0.1,{},,0", silent.local_addr().unwrap().port())]);
    let mut second = Server::start(&home, command);
    let mut thread = 2000;
    while !home.stderr().contains("waiting for") {
        assert!(second.is_running(), "the server did not wait");
        thread += 1;
        ping(&clients, thread, "before the second process has waited");
    }
    for _ in 0..20 {
        thread += 1;
        ping(&clients, thread, "while the second process waits");
    }
}

#[test]
fn process_gets_no_requests_while_it_waits_for_its_pid_file() {
    require_root();
    let redis = Redis::start();
    let home = home(redis.port());
    assert_eq!(finish(home.detached()).code, Some(0));
    let clients = clients(&home);
    ping(&clients, 2000, "of the first process");
    let mut second = Server::start(&home, home.detached());
    let mut thread = 2000;
    while second.is_running() {
        thread += 1;
        ping(&clients, thread, "while the second process waits");
    }
    assert_eq!(second.ended().code(), Some(1));
    assert!(home.stderr().contains("already running"), "{}", home.stderr());
    ping(&clients, 5000, "after the second process");
    home.daemon().stop();
}

#[test]
fn reuse_port_with_a_privileged_port_is_refused() {
    require_root();
    let home = home(1);
    let port = (500..1000).rev().find(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    let mut command = home.bare();
    command.arg("--homedir").arg(home.directory()).args(["-a", "127.0.0.1", "-p", &port.to_string()]);
    finish(command).expect_line(&["ReusePort", &port.to_string(), "only root can bind", "nobody"]);
}

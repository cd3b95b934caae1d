//! `health`, with scripted servers and real ones.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::said;
use crate::harness::{Finished, Home, PATIENCE, Redis, free_port_at};

/// A UDP server in a thread of the test.
struct FakeServer {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl FakeServer {
    /// Starts a server that sends the datagrams which `answer` returns for each request.
    fn start(mut answer: impl FnMut(&str) -> Vec<String> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let (address, over) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let is_over = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut requests = Vec::new();
            let mut buffer = [0; 8192];
            while !is_over.load(Ordering::Relaxed) {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                let request = String::from_utf8(buffer[..length].to_vec()).unwrap();
                for reply in answer(&request) {
                    socket.send_to(reply.as_bytes(), peer).unwrap();
                }
                requests.push(request);
            }
            requests
        });
        Self { address, over, thread: Some(thread) }
    }

    fn stop(mut self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn header<'a>(request: &'a str, name: &str) -> &'a str {
    let value = request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.unwrap_or_else(|| panic!("no {name} in {request:?}"))
}

/// The reply to a request.
fn reply(request: &str, code: u16) -> String {
    let counts = if code == 200 && request.contains("Op: check") { "Count: 0\nWL-Count: 0\n" } else { "" };
    format!("Code: {code}\nDiag: x\nPV: 2.1\nThread: {}\n{counts}\n", header(request, "Thread"))
}

fn asked(address: impl ToString, arguments: &str) -> Finished {
    said(&format!("health {arguments} {}", address.to_string()))
}

#[test]
fn server_with_a_database_is_well() {
    for address in ["127.0.0.1", "0.0.0.0", "::1", "::"] {
        let server = Home::open().address(address).start();
        let hosts: &[&str] = match address {
            "::" => &["[::1]", "127.0.0.1", "localhost"],
            "::1" => &["[::1]"],
            _ => &["127.0.0.1", "localhost"],
        };
        for host in hosts {
            let said = asked(format!("{host}:{}", server.port()), "");
            let text = said.expect_report(0);
            assert!(text.starts_with("well: ") && text.contains(" answers a ping in "), "{text}");
        }
        let usage = crate::harness::eventually("the usage log", || {
            let usage = server.home().read("usage.log");
            usage.contains("check").then_some(usage)
        });
        assert!(
            usage.contains(&format!(
                "anonymous,{},check,['{}'],200",
                hosts[0].trim_matches(['[', ']']),
                "0".repeat(40)
            )),
            "{usage}"
        );
    }
}

#[test]
fn result_is_one_object_as_json() {
    let server = Home::open().start();
    let said = asked(format!("127.0.0.1:{}", server.port()), "--json");
    said.expect_report(0);
    let object = said.json();
    assert_eq!(
        (&object["health"], &object["server"]),
        (&"well".into(), &format!("127.0.0.1:{}", server.port()).into())
    );
    assert!(object["ping_micros"].is_u64() && object["check_micros"].is_u64(), "{object}");
    let closed = server.port();
    server.stop();
    let said = asked(format!("127.0.0.1:{closed}"), "--json");
    said.expect_report(2);
    let object = said.json();
    assert_eq!((&object["health"], &object["ping_micros"]), (&"critical".into(), &serde_json::Value::Null));
}

#[test]
fn unavailable_database_is_critical_and_recovers() {
    let mut redis = Redis::start();
    let home = Home::open().config(&format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port()));
    let server = home.start();
    let address = format!("127.0.0.1:{}", server.port());
    asked(&address, "").expect_report(0);
    redis.service().kill();
    crate::harness::eventually("an unavailable database", || {
        let said = asked(&address, "");
        (said.code == Some(2)).then(|| {
            assert!(said.expect_report(2).contains("its database is unavailable (code 500)"), "{said:?}");
        })
    });
    redis.restart();
    crate::harness::eventually("the database", || (asked(&address, "").code == Some(0)).then_some(()));
}

#[test]
fn hung_database_is_critical() {
    let redis = Redis::start();
    let home = Home::open().config(&format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port()));
    let server = home.start();
    redis.signal(Signal::SIGSTOP);
    let said = asked(format!("127.0.0.1:{}", server.port()), "--timeout 0.5");
    redis.signal(Signal::SIGCONT);
    assert!(said.expect_report(2).starts_with("critical: "), "{said:?}");
}

#[test]
fn absent_server_is_critical() {
    let port = free_port_at("127.0.0.1");
    let said = asked(format!("127.0.0.1:{port}"), "");
    assert_eq!(
        said.expect_report(2),
        format!("critical: 127.0.0.1:{port}: no server listens on this port\n")
    );
}

#[test]
fn server_that_never_answers_is_asked_twice() {
    let server = FakeServer::start(|_| Vec::new());
    let begin = Instant::now();
    let said = asked(server.address, "--timeout 0.3");
    assert!((Duration::from_millis(600)..PATIENCE).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    let expected = format!("critical: {}: no reply to 2 requests, each within 300.0 ms\n", server.address);
    assert_eq!(said.expect_report(2), expected);
    let requests = server.stop();
    assert_eq!(requests.len(), 2);
    assert_ne!(header(&requests[0], "Thread"), header(&requests[1], "Thread"));
}

#[test]
fn lost_datagrams_are_repeated() {
    let mut seen = 0;
    let server = FakeServer::start(move |request| {
        seen += 1;
        if seen % 2 == 1 { Vec::new() } else { vec![reply(request, 200)] }
    });
    asked(server.address, "--timeout 0.3").expect_report(0);
    assert_eq!(server.stop().len(), 4);
}

#[test]
fn forged_and_late_replies_are_ignored() {
    let mut last = String::new();
    let server = FakeServer::start(move |request| {
        // The reply to the request before this one is late.
        let late = if last.is_empty() { "x".to_owned() } else { reply(&last, 200) };
        last = request.to_owned();
        let forged = reply("Op: check\nThread: 1024", 200);
        vec![late, forged, String::new(), "\u{1b}[2J".to_owned(), "Code: 200\nThread: \n\n".to_owned()]
    });
    let said = asked(server.address, "--timeout 0.3");
    assert!(said.expect_report(2).contains("no reply to 2 requests"), "{said:?}");
    server.stop();
    // A reply from another port does not reach the socket.
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let mut buffer = [0; 8192];
        for _ in 0..2 {
            let (length, peer) = silent.recv_from(&mut buffer).unwrap();
            let request = String::from_utf8(buffer[..length].to_vec()).unwrap();
            other.send_to(reply(&request, 200).as_bytes(), peer).unwrap();
        }
        // Kept open, so that the port is not closed before the program has given up.
        (silent, other)
    });
    let said = asked(address, "--timeout 0.3");
    assert!(said.expect_report(2).contains("no reply to 2 requests"), "{said:?}");
    drop(thread.join().unwrap());
}

#[test]
fn codes_of_ping_and_check_decide() {
    for (ping, check, code, text) in [
        (200, 403, 0, "a check is forbidden to the anonymous user: the database was not tested"),
        (403, 200, 0, "answers a ping in "),
        (403, 403, 0, "the database was not tested"),
        (200, 500, 2, "its database is unavailable (code 500)"),
        (200, 400, 2, "answers a check with code 400"),
        (505, 200, 2, "answers a ping with code 505"),
    ] {
        let server = FakeServer::start(move |request| {
            vec![reply(request, if request.starts_with("Op: ping") { ping } else { check })]
        });
        let said = asked(server.address, "");
        assert!(said.expect_report(code).contains(text), "{said:?}");
    }
    let echo = FakeServer::start(|request| vec![request.to_owned()]);
    assert!(asked(echo.address, "").expect_report(2).contains("sends requests back"));
    let without = FakeServer::start(|request| vec![reply(request, 200).replace("Count", "Cnt")]);
    assert!(asked(without.address, "").expect_report(2).contains("answers a check without counts"));
}

#[test]
fn forbidden_check_of_a_real_server_is_alive() {
    let server = Home::new().access("ping : anonymous : allow\n").start();
    let said = asked(format!("127.0.0.1:{}", server.port()), "");
    assert!(said.expect_report(0).contains("the database was not tested"), "{said:?}");
}

#[test]
fn address_is_that_of_the_config() {
    let server = FakeServer::start(|request| vec![reply(request, 200)]);
    let home = TempDir::new().unwrap();
    let port = server.address.port();
    let told = |config: &str| {
        fs::write(home.path().join("config"), config).unwrap();
        said(&format!("--homedir {} health --timeout 5", home.path().display()))
    };
    for address in ["", "ListenAddress = 0.0.0.0", "ListenAddress =", "ListenAddress = localhost"] {
        let said = told(&format!("[server]\nPort = {port}\n{address}\n"));
        assert!(said.expect_report(0).starts_with("well: 127.0.0.1:"), "{said:?}");
    }
    let random = told("[server]\nPort = 0\n");
    assert!(random.expect_report(3).contains("name the server as HOST:PORT"), "{random:?}");
    let unresolved = asked("no-such-host.invalid:24441", "");
    assert!(unresolved.expect_report(3).starts_with("unknown: cannot resolve no-such-host.invalid:24441: "));
}

//! Hostile peers of the metrics, while requests go on being answered and counted.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use super::{home, metrics_of};
use crate::harness::{Caller, DIGEST, HttpResponse, Server, eventually, exchange, http_connect, http_get};

const REQUEST: &str = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
/// The maximum number of connections that the server keeps.
const KEPT: usize = 16;

/// Reports a digest some times, asserts that each report is answered and counted, and that a page is served.
#[track_caller]
fn expect_service(server: &Server, metrics: SocketAddr) {
    let mut caller = Caller::to(server.port());
    let before = caller.count(DIGEST);
    for _ in 0..20 {
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    }
    assert_eq!(caller.count(DIGEST), before + 20);
    let page = eventually("a page of metrics", || {
        HttpResponse::parse(&exchange(http_connect(metrics), REQUEST.as_bytes()))
    });
    assert_eq!(page.code, 200);
    assert!(page.metric(r#"pyzord_requests_total{op="report",code="200"}"#) >= 20.0);
}

/// Returns the number of open sockets of the server's process.
fn open_sockets(server: &Server) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().flatten();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// Returns whether the server has closed a connection that gets no response.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn thousand_silent_connections_keep_nobody_away() {
    let server = home("").start();
    let metrics = metrics_of(&server);
    let before = open_sockets(&server);
    let mut silent: Vec<_> = (0..1000).map(|_| http_connect(metrics)).collect();
    expect_service(&server, metrics);
    assert!(open_sockets(&server) <= before + KEPT);
    let closed = eventually("all but the kept connections to be closed", || {
        let closed = silent.iter_mut().filter_map(|stream| is_closed(stream).then_some(())).count();
        (closed >= 1000 - KEPT).then_some(closed)
    });
    assert!(closed >= 1000 - KEPT);
    eventually("the other connections to be closed at the time limit", || {
        silent.iter_mut().all(is_closed).then_some(())
    });
    eventually("the descriptors to be closed", || (open_sockets(&server) == before).then_some(()));
    expect_service(&server, metrics);
}

#[test]
fn slow_requests_end_at_the_time_limit() {
    let server = home("").start();
    let metrics = metrics_of(&server);
    let mut slow: Vec<_> = (0..4).map(|_| http_connect(metrics)).collect();
    let mut bytes = b"GET /metrics HTTP/1.1\r\nX: ".iter().copied().chain(std::iter::repeat(b'a'));
    eventually("slow requests to be ended", || {
        let byte = [bytes.next().unwrap()];
        // Fails once the server has closed the connection.
        slow.iter_mut().for_each(|stream| drop(stream.write(&byte)));
        server.request("ping", &[]);
        thread::sleep(Duration::from_millis(50));
        slow.iter_mut().all(is_closed).then_some(())
    });
    expect_service(&server, metrics);
}

#[test]
fn peers_that_never_read_hold_nothing() {
    let server = home("").start();
    let metrics = metrics_of(&server);
    let before = open_sockets(&server);
    let deaf: Vec<_> = (0..64)
        .map(|_| {
            let mut stream = http_connect(metrics);
            // Fails if the server has answered the first request already, and closed the connection.
            let _ = stream.write_all(REQUEST.repeat(200).as_bytes());
            stream
        })
        .collect();
    expect_service(&server, metrics);
    eventually("the connections to end", || (open_sockets(&server) == before).then_some(()));
    drop(deaf);
    expect_service(&server, metrics);
}

#[test]
fn one_connection_gets_one_response() {
    let server = home("").start();
    let metrics = metrics_of(&server);
    let host = "Host: 127.0.0.1\r\n";
    let second = format!("GET /stats.json HTTP/1.1\r\n{host}\r\n");
    for first in [
        format!("GET /healthz HTTP/1.1\r\n{host}Connection: keep-alive\r\n\r\n"),
        format!(
            "GET /healthz HTTP/1.1\r\n{host}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        format!("GET /healthz HTTP/1.1\r\n{host}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{host}X: a\n\r\n"),
    ] {
        let bytes = exchange(http_connect(metrics), format!("{first}{second}").as_bytes());
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.matches("HTTP/1.1 ").count() <= 1, "{first}\n{text}");
        assert!(!text.contains("check_hits"), "{first}\n{text}");
    }
    expect_service(&server, metrics);
}

#[test]
fn garbage_and_huge_requests_are_refused() {
    let server = home("").start();
    let metrics = metrics_of(&server);
    let fields = |field: &str, times| {
        format!("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n{}\r\n", field.repeat(times))
    };
    for request in [
        fields(&format!("A: {}\r\n", "a".repeat(1 << 20)), 1),
        fields("A: a\r\n", 50_000),
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20)),
        "a".repeat(1 << 20),
        "\0".repeat(5000),
        "\r\n".repeat(50_000),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let bytes = exchange(http_connect(metrics), request.as_bytes());
        // A connection may be reset before the response arrives.
        if let Some(response) = HttpResponse::parse(&bytes) {
            assert!((400..500).contains(&response.code), "{response:?}");
        }
    }
    expect_service(&server, metrics);
}

#[test]
fn lack_of_descriptors_is_one_warning_and_service_goes_on() {
    let server = home("").start();
    let metrics = metrics_of(&server);
    let process = format!("--pid={}", server.pid());
    let limit = |value: &str| {
        let mut command = std::process::Command::new("prlimit");
        assert!(command.args([&process, &format!("--nofile={value}:")]).status().unwrap().success());
    };
    limit("3");
    let waiting = http_connect(metrics);
    eventually("a warning", || {
        server.home().log().contains("cannot accept a connection for metrics").then_some(())
    });
    let mut caller = Caller::to(server.port());
    assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    limit("1024");
    // The connection that waited is accepted, too.
    let response = exchange(waiting, REQUEST.as_bytes());
    assert_eq!(HttpResponse::parse(&response).unwrap().code, 200);
    assert_eq!(server.home().log().matches("cannot accept a connection").count(), 1);
    assert_eq!(http_get(metrics, "/healthz").code, 200);
}

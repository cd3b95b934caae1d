//! Peers that are not there, or are no pyzord.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::fake::{FakeServer, line, stats, status};
use super::said_by;
use crate::harness::PATIENCE;

#[test]
fn missing_socket_and_stale_socket_say_what_to_do() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("pyzord.sock");
    for (text, advice) in [
        ("there is no control socket ", "name its homedir with --homedir; otherwise start it"),
        ("no server listens on ", "start it"),
    ] {
        let expected =
            |line: &str| line.starts_with(&format!("{text}{}", path.display())) && line.ends_with(advice);
        for command in ["stats", "stats --interval 1", "reload", "reopen"] {
            let said = said_by(&path, command);
            assert!(expected(said.expect_complaint(3)), "{said:?}");
        }
        let said = said_by(&path, "status");
        let line = said.expect_report(3).strip_prefix("unknown: ").unwrap();
        assert!(expected(line.trim_end()), "{said:?}");
        let said = said_by(&path, "--json status");
        said.expect_report(3);
        assert!(expected(said.json()["error"].as_str().unwrap()), "{said:?}");
        if !path.exists() {
            // Closed at once, as by a server that was killed.
            drop(UnixListener::bind(&path).unwrap());
        }
    }
}

#[test]
fn file_that_is_no_socket_is_named() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.as_path(), directory.path()] {
        let said = said_by(path, "reload");
        let expected = format!("{} is not a socket: correct ControlSocket or --socket", path.display());
        assert_eq!(said.expect_complaint(3), expected);
    }
    let long = directory.path().join("x".repeat(200));
    let said = said_by(&long, "reload");
    assert!(said.expect_complaint(3).ends_with("longer than 80 bytes: choose a shorter one"), "{said:?}");
    let deep = directory.path().join("x".repeat(120));
    fs::create_dir(&deep).unwrap();
    let said = said_by(&deep.join("socket"), "reload");
    assert!(said.expect_complaint(3).starts_with("there is no control socket "), "{said:?}");
}

#[test]
fn reply_that_is_not_understood_is_an_unknown_state() {
    let complete = line("status", &status());
    let mut wrong_type = status();
    wrong_type["pid"] = json!("x");
    let mut unknown_health = status();
    unknown_health["health"] = json!("splendid");
    for reply in [
        "\n".to_owned(),
        "{}\n".to_owned(),
        "null\n".to_owned(),
        "HTTP/1.1 400 Bad Request\r\n".to_owned(),
        "{\"status\":{\"health\":\"well\"}}\n".to_owned(),
        line("stats", &stats(1.0, 1)),
        line("status", &wrong_type),
        line("status", &unknown_health),
        format!("{}\n", "[".repeat(100_000)),
        complete.replacen('{', "{\"stats\":1,", 1),
    ] {
        let server = FakeServer::replying(&reply);
        let said = said_by(&server.socket(), "status");
        let text = said.expect_report(3);
        assert!(
            text.starts_with("unknown: the reply from ") && text.contains("is not understood"),
            "{reply}: {text}"
        );
    }
    let server = FakeServer::replying(b"\xff\xfe{}\n");
    assert!(said_by(&server.socket(), "status").expect_report(3).contains("is not understood"));
}

#[test]
fn connection_that_is_closed_early_is_an_unknown_state() {
    let complete = line("status", &status());
    for length in [0, 1, 100, complete.len() - 1] {
        let server = FakeServer::replying(&complete[..length]);
        let said = said_by(&server.socket(), "status");
        assert!(said.expect_report(3).contains("closed the connection without a complete reply"), "{said:?}");
    }
}

#[test]
fn reply_in_small_pieces_and_with_more_behind_it_is_read() {
    let complete = format!("{}garbage", line("status", &status()));
    let server = FakeServer::start(move |_, stream| {
        for piece in complete.as_bytes().chunks(7) {
            // The client stops reading at the end of the line.
            if stream.write_all(piece).is_err() {
                break;
            }
        }
    });
    said_by(&server.socket(), "status").expect_report(0);
}

#[test]
fn server_that_refuses_before_the_request_is_heard() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"{\"error\":\"only root\"}\n").unwrap();
        }
    });
    for _ in 0..20 {
        assert_eq!(said_by(&path, "reload").expect_complaint(1), "only root");
    }
}

#[test]
fn endless_reply_is_cut_off() {
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let server = FakeServer::start(move |_, stream| {
        while stream.write_all(&[b' '; 4096]).is_ok() {
            count.fetch_add(4096, Ordering::Relaxed);
        }
    });
    let said = said_by(&server.socket(), "status");
    assert!(said.expect_report(3).contains("is longer than 16777216 bytes"), "{said:?}");
    server.stop();
    assert!(written.load(Ordering::Relaxed) < 32 << 20, "{written:?} bytes were taken");
}

#[test]
fn silent_and_dripping_servers_are_given_up() {
    let silent = FakeServer::start(|_, stream| drop(stream.read(&mut [0])));
    let dripping = FakeServer::start(|_, stream| {
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    for server in [silent, dripping] {
        let begin = Instant::now();
        let said = said_by(&server.socket(), "status");
        assert!(said.expect_report(3).contains("within 5 s: the server is stopped or hung"), "{said:?}");
        assert!((Duration::from_millis(4900)..PATIENCE).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    }
}

#[test]
fn server_that_accepts_nothing_is_given_up() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    // A listener whose queue is full, as that of a stopped server.
    let listener = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    let address = nix::sys::socket::UnixAddr::new(&path).unwrap();
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &address).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _filling = UnixStream::connect(&path).unwrap();
    let begin = Instant::now();
    let said = said_by(&path, "status");
    assert!(said.expect_report(3).contains("accepts no connection"), "{said:?}");
    assert!((Duration::from_millis(4900)..PATIENCE).contains(&begin.elapsed()), "{:?}", begin.elapsed());
}

//! The effects and replies of the operations.

use std::collections::BTreeSet;

use super::{FORBIDDEN, NOT_IMPLEMENTED, ok, refusal};
use crate::harness::{DIGEST, Home, unix_time};

#[test]
fn operations_without_a_digest_succeed_and_count_nothing() {
    let server = Home::open().start();
    for operation in ["ping", "pong", "check", "info", "report", "whitelist"] {
        server.expect(format!("Op: {operation}\nPV: 2.1\nThread: 3000\n"), ok(""));
    }
    let database = server.home().database();
    server.stop();
    assert!(database.read().is_empty());
}

#[test]
fn pong_ignores_the_digest() {
    let server = Home::open().start();
    let reply = ok("Count: 9223372036854775807\nWL-Count: 0\n");
    for digest in [DIGEST.as_bytes(), b"", b"x", b"\xe9\0\x01"] {
        let request = [b"Op: pong\nOp-Digest: ", digest, b"\nPV: 2.1\nThread: 3000\n"].concat();
        server.expect(request, &reply);
    }
}

#[test]
fn unknown_digest_has_no_counts_and_no_times() {
    let server = Home::open().start();
    server.expect(
        format!("Op: check\nOp-Digest: {DIGEST}\nPV: 2.1\nThread: 3000\n\n"),
        ok("Count: 0\nWL-Count: 0\n"),
    );
    server.expect(
        format!("Op: info\nOp-Digest: {DIGEST}\nPV: 2.1\nThread: 3000\n\n"),
        ok("Entered: 0\nUpdated: 0\nWL-Entered: 0\nWL-Updated: 0\nCount: 0\nWL-Count: 0\n"),
    );
}

#[test]
fn reports_and_whitelistings_are_counted_and_dated() {
    let server = Home::open().start();
    let before = unix_time();
    let request = |operation| format!("Op: {operation}\nOp-Digest: {DIGEST}\nPV: 2.1\nThread: 3000\n\n");
    server.expect(request("report"), ok(""));
    server.expect(request("report"), ok(""));
    server.expect(request("whitelist"), ok(""));
    server.expect(request("check"), ok("Count: 2\nWL-Count: 1\n"));
    let after = unix_time();

    let info = server.request("info", &[DIGEST]);
    let times @ [entered, updated, wl_entered, wl_updated] = info.times();
    assert!(times.iter().all(|time| (before..=after).contains(time)), "{times:?}");
    let headers = format!(
        "Entered: {entered}\nUpdated: {updated}\nWL-Entered: {wl_entered}\nWL-Updated: {wl_updated}\n\
         Count: 2\nWL-Count: 1\n"
    );
    assert_eq!(String::from_utf8(info.0).unwrap(), ok(&headers));
}

#[test]
fn check_and_info_use_the_first_digest_only() {
    let server = Home::open().start();
    let other = "a".repeat(40);
    assert_eq!(server.request("report", &[&other]).code(), 200);
    for operation in ["check", "info"] {
        assert_eq!(server.request(operation, &[DIGEST, &other]).counts(), (0, 0));
        assert_eq!(server.request(operation, &[&other, DIGEST]).counts(), (1, 0));
    }
}

#[test]
fn request_may_report_as_many_digests_as_fit_a_datagram() {
    let server = Home::open().start();
    let digests: Vec<String> = (0..150).map(|number| format!("{number:040x}")).collect();
    let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
    assert_eq!(server.request("report", &digests).code(), 200);
    let database = server.home().database();
    server.stop();
    let records = database.read();
    assert_eq!(records.len(), 150);
    assert!(records.values().all(|value| value.starts_with(b"1,1,")));
}

#[test]
fn digests_are_checked_after_the_rights() {
    let access = "ping : anonymous : allow\ndance : anonymous : allow\n";
    let server = Home::new().access(access).start();
    for operation in ["check", "info", "report", "whitelist"] {
        let request = format!("Op: {operation}\nOp-Digest: x\nPV: 2.1\nThread: 3000\n\n");
        server.expect(request, refusal(403, FORBIDDEN));
    }
    let request = "Op: dance\nOp-Digest: x\nPV: 2.1\nThread: 3000\n\n";
    server.expect(request, refusal(501, NOT_IMPLEMENTED));
}

#[test]
fn every_datagram_of_a_burst_is_answered_once() {
    let server = Home::open().start();
    let socket = server.socket();
    for thread in 0..100 {
        socket.send(format!("Op: ping\nPV: 2.1\nThread: {thread:03}\n\n").as_bytes()).unwrap();
    }
    let mut replies = BTreeSet::new();
    let mut buffer = [0; 1024];
    for _ in 0..100 {
        let length = socket.recv(&mut buffer).unwrap();
        replies.insert(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    let reply = |thread| format!("Code: 200\nDiag: OK\nPV: 2.1\nThread: {thread:03}\n\n");
    assert_eq!(replies, (0..100).map(reply).collect());
}

#[test]
fn check_includes_the_reports_received_before_it() {
    let server = Home::open().start();
    let socket = server.socket();
    for thread in 1..=50 {
        for operation in ["report", "check"] {
            let request =
                format!("Op: {operation}\nOp-Digest: {DIGEST}\nPV: 2.1\nThread: {operation} {thread}\n\n");
            socket.send(request.as_bytes()).unwrap();
        }
    }
    let mut replies = BTreeSet::new();
    let mut buffer = [0; 1024];
    for _ in 0..100 {
        let length = socket.recv(&mut buffer).unwrap();
        replies.insert(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    let reply = |thread| {
        [
            format!("Code: 200\nDiag: OK\nPV: 2.1\nThread: report {thread}\n\n"),
            format!("Code: 200\nDiag: OK\nPV: 2.1\nThread: check {thread}\nCount: {thread}\nWL-Count: 0\n\n"),
        ]
    };
    assert_eq!(replies, (1..=50).flat_map(reply).collect());
}

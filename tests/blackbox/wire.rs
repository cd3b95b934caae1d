//! What goes over the wire: bytes in, bytes out, compared whole. Signatures are in `accounts`.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use crate::harness::{Account, DIGEST, Home, Server, ask_on, eventually, ours_only, unix_time};

/// A reply to `Thread: 3000` that succeeded, with these headers of the operation.
fn ok(headers: &str) -> String {
    format!("Code: 200\nDiag: OK\nPV: 2.1\nThread: 3000\n{headers}\n")
}

/// A refusal of `Thread: 3000`.
fn refusal(code: u16, diag: &str) -> String {
    format!("Code: {code}\nDiag: {diag}\nPV: 2.1\nThread: 3000\n\n")
}

const NO_VERSION: &str = "Bad request: Protocol Version not specified in request";
const BAD_VERSION: &str = "Bad request: Invalid Protocol Version";
const UNKNOWN_USER: &str = "Unauthorized: Signature Error: Unknown user.";
const BAD_TIME: &str = "Unauthorized: Signature Error: Invalid timestamp.";
const OUT_OF_TIME: &str = "Unauthorized: Signature Error: Timestamp not within allowed range.";
const BAD_SIGNATURE: &str = "Unauthorized: Signature Error: Invalid signature.";
const FORBIDDEN: &str = "Forbidden: User is not authorized to request the operation.";
const NOT_IMPLEMENTED: &str = "Not implemented: Requested operation is not implemented.";
const VERSION_NOT_SUPPORTED: &str = "Version Not Supported: ";
const BAD_DIGEST: &str = "Bad request: Invalid digest";

// Parsing.

#[test]
fn requests_are_read_in_every_layout_that_clients_send() {
    let server = Home::open().start();
    for request in [
        "Op: ping\nPV: 2.1\nThread: 3000\n\n",
        "Op: ping\nPV: 2.1\nThread: 3000\n",
        "Op: ping\nPV: 2.1\nThread: 3000",
        "Thread: 3000\nPV: 2.1\nOp: ping\n",
        "oP: ping\npv: 2.1\nTHREAD: 3000\n",
        "Op:ping\nPV:\t2.1\nThread:   3000\n",
        "Op: ping\r\nPV: 2.1\r\nThread: 3000\r\n",
        "Op: ping\r\nPV: 2.1\r\nThread: 3000\r\n\r\n",
        "Op: ping\rPV: 2.1\rThread: 3000\r",
        "Op: ping\n\nPV: 2.1\n\nThread: 3000\n\n",
        "Op: ping\nX-Unknown: 1\nPV: 2.1\nOp-Spec: 20,3,60,3\nThread: 3000\n",
        ": nameless\nOp: ping\nPV: 2.1\nThread: 3000\n",
        "From somebody\nOp: ping\nPV: 2.1\nFrom somebody\nThread: 3000\n",
        " dropped: continuation\nOp: ping\nPV: 2.1\nThread: 3000\n",
        "Op: ping\nPV: 2.1\n \nThread: 3000\n",
        "Op: ping\nPV: 2.1\nThread: 3000\n\n\nCode: in the body\n",
        "Op: ping\nPV: 2.1\nThread: 3000\nno header\nPV: 9\n",
        "Op: ping\nOp: pong\nPV: 2.1\nPV: 9\nThread: 3000\nThread: 4000\nUser: anonymous\nUser: ghost\n",
        "Op: ping\nPV: 2.1\nThread: 3000\nUser:\n",
        "Op: ping\nPV: 2.1\nThread: 3000\nUser: anonymous\nTime: never\nSig: none\n\n",
    ] {
        server.expect(request, ok(""));
    }
}

#[test]
fn what_is_no_request_is_still_answered() {
    let server = Home::open().start();
    let reply = format!("Code: 400\nDiag: {NO_VERSION}\nPV: 2.1\nThread: \n\n");
    for garbage in [
        &b"\n"[..],
        b"\0\0\0\0",
        b"garbage",
        b"\xff\xfe\xfd",
        b"\nOp: ping\nPV: 2.1\nThread: 3000\n",
        b"\n\nOp: ping\nPV: 2.1\nThread: 3000\n",
        b"Op : ping\nPV: 2.1\nThread: 3000\n",
        b"O\x01p: ping\nPV: 2.1\nThread: 3000\n",
        b">From x\nOp: ping\nPV: 2.1\nThread: 3000\n",
    ] {
        server.expect(garbage, &reply);
    }
}

#[test]
fn what_follows_an_empty_line_is_body() {
    let server = Home::open().start();
    let reply = refusal(400, NO_VERSION);
    server.expect("Op: ping\nThread: 3000\n\n\nPV: 2.1\n", &reply);
    server.expect("Op: ping\r\nThread: 3000\r\n\r\nPV: 2.1\r\n", &reply);
    server.expect("Op: ping\nThread: 3000\nFoo Bar: x\nPV: 2.1\n", &reply);
}

#[test]
fn trailing_blanks_belong_to_a_value() {
    let server = Home::open().start();
    server.expect("Op: ping \nPV: 2.1\nThread: 3000\n", refusal(403, FORBIDDEN));
    server.expect("Op: ping\nUser: anonymous \nPV: 2.1\nThread: 3000\n", refusal(401, UNKNOWN_USER));
}

#[test]
fn what_lies_beyond_8192_bytes_is_not_seen() {
    let server = Home::open().start();
    let request = |length: usize| {
        let (head, tail) = ("Op: ping\nThread: 3000\nX: ", "\nPV: 2.1");
        format!("{head}{}{tail}", "x".repeat(length - head.len() - tail.len()))
    };
    server.expect(request(8192), ok(""));
    // The version's last digits are cut off, then the whole of it.
    server.expect(request(8194), ok(""));
    server.expect(request(8195), refusal(400, BAD_VERSION));
    server.expect(request(9000), refusal(400, NO_VERSION));
}

// The order of the checks.

#[test]
fn checks_come_in_the_established_order() {
    let bob = Account::new("bob");
    let home = Home::open().passwd(bob.passwd());
    home.rewrite(
        "pyzord.access",
        "all : anonymous : allow\ndance : anonymous bob : allow\nping : bob : allow\n",
    );
    let server = home.start();
    let now = unix_time();
    let sign = |headers: &str, time| bob.sign(headers, time);

    server.expect("Op: x\nPV: 9\nThread: 3000\nUser: ghost\nTime: x\n", refusal(401, UNKNOWN_USER));
    server.expect("Op: ping\nPV: 2.1\nThread: 3000\nUser: Anonymous\n", refusal(401, UNKNOWN_USER));
    server.expect("Op: ping\nPV: 2.1\nThread: 3000\nUser: BOB\n", refusal(401, UNKNOWN_USER));
    server.expect("Op: x\nThread: 3000\nUser: bob\nTime: 1\nSig: x\n", refusal(401, OUT_OF_TIME));
    server.expect(
        format!("Op: x\nThread: 3000\nUser: bob\nTime: {now}\nSig: x\n"),
        refusal(401, BAD_SIGNATURE),
    );
    server.expect(format!("Op: x\nThread: 3000\nUser: bob\nTime: {now}\n"), refusal(401, BAD_SIGNATURE));
    server.expect(sign("Op: x\nThread: 3000\n", now - 3600), refusal(401, OUT_OF_TIME));
    server.expect(sign("Op: x\nThread: 3000\n", now), refusal(400, NO_VERSION));
    server.expect("Op: x\nThread: 3000\n", refusal(400, NO_VERSION));
    server.expect("Op: x\nThread: 3000\nPV: x\n", refusal(400, BAD_VERSION));
    server.expect("Op: x\nThread: 3000\nPV: 9\n", refusal(505, VERSION_NOT_SUPPORTED));
    server.expect(sign("Op: x\nThread: 3000\nPV: 9\n", now), refusal(505, VERSION_NOT_SUPPORTED));
    for operation in ["Op: x\n", "Op: PING\n", "Op:\n", "", "Op: all\n"] {
        server.expect(format!("{operation}Thread: 3000\nPV: 2.1\n"), refusal(403, FORBIDDEN));
    }
    server.expect(sign("Op: pong\nThread: 3000\nPV: 2.1\n", now), refusal(403, FORBIDDEN));
    server.expect("Op: dance\nThread: 3000\nPV: 2.1\n", refusal(501, NOT_IMPLEMENTED));
    server.expect(sign("Op: dance\nThread: 3000\nPV: 2.1\n", now), refusal(501, NOT_IMPLEMENTED));
    server.expect(sign("Op: ping\nThread: 3000\nPV: 2.1\n", now), ok(""));
}

#[test]
fn a_refusal_without_a_thread_has_an_empty_one() {
    let server = Home::open().start();
    for thread in ["", "Thread:\n", "Thread: \n"] {
        let reply = |code: u16, diag| format!("Code: {code}\nDiag: {diag}\nPV: 2.1\nThread: \n\n");
        server.expect(format!("Op: ping\nPV: 2.1\n{thread}"), reply(200, "OK"));
        server.expect(format!("Op: x\nPV: 2.1\n{thread}"), reply(403, FORBIDDEN));
        server.expect(format!("Op: x\nPV: 3\n{thread}"), reply(505, VERSION_NOT_SUPPORTED));
        server.expect(format!("Op: x\nUser: ghost\n{thread}"), reply(401, UNKNOWN_USER));
    }
}

#[test]
fn a_missing_or_malformed_time_is_an_invalid_timestamp() {
    if !ours_only() {
        return;
    }
    let bob = Account::new("bob");
    let server = Home::open().passwd(bob.passwd()).start();
    for time in ["", "Time:\n", "Time: abc\n", "Time: 1.5\n", "Time: 1__5\n", "Time: _15\n", "Time: + 5\n"] {
        let request = format!("Op: x\nThread: 3000\nUser: bob\n{time}Sig: x\n\n");
        server.expect(request, refusal(401, BAD_TIME));
    }
    for digits in [25, 400, 5000] {
        let request = format!("Op: ping\nThread: 3000\nUser: bob\nTime: {}\nSig: x\n\n", "9".repeat(digits));
        let reply = String::from_utf8(server.ask(request)).unwrap();
        assert!(reply.starts_with("Code: 401\nDiag: Unauthorized: Signature Error: "), "{reply}");
    }
}

// The protocol version.

#[test]
fn every_version_2_is_supported() {
    let server = Home::open().start();
    for version in [
        "2", "2.", "2.0", "2.1", "2.9", "+2.1", "002.1", "2e0", "20e-1", "2.1_0", "2_1e-1", "\t2.1 \t",
        "0.2E1",
    ] {
        server.expect(format!("Op: ping\nPV: {version}\nThread: 3000\n"), ok(""));
    }
}

#[test]
fn other_versions_are_not_supported() {
    let server = Home::open().start();
    let nines = "9".repeat(50);
    for version in [
        "1",
        "1.9999999999",
        "3.0",
        ".2",
        "-2",
        "-2.1",
        "2_0",
        &nines,
        "2.99999999999999999999",
        "0",
        "1e-400",
    ] {
        server
            .expect(format!("Op: ping\nPV: {version}\nThread: 3000\n"), refusal(505, VERSION_NOT_SUPPORTED));
    }
}

#[test]
fn a_version_that_is_no_number_is_invalid() {
    let server = Home::open().start();
    for version in
        ["", "abc", "nan", "NaN", "-nan", "0x2", "2,1", "2.1 x", "2.1\0", "2__1", "_2", "2_", "2._1", "e1"]
    {
        server.expect(format!("Op: ping\nPV: {version}\nThread: 3000\n"), refusal(400, BAD_VERSION));
    }
}

#[test]
fn an_infinite_version_is_not_supported() {
    if !ours_only() {
        return;
    }
    let server = Home::open().start();
    let nines = "9".repeat(5000);
    for version in ["inf", "-inf", "Infinity", "1e400", &nines] {
        server
            .expect(format!("Op: ping\nPV: {version}\nThread: 3000\n"), refusal(505, VERSION_NOT_SUPPORTED));
    }
}

// Operations.

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
fn pong_does_not_look_at_the_digest() {
    let server = Home::open().start();
    let reply = ok("Count: 9223372036854775807\nWL-Count: 0\n");
    for digest in [DIGEST.as_bytes(), b"", b"x", b"\xe9\0\x01"] {
        let request = [b"Op: pong\nOp-Digest: ", digest, b"\nPV: 2.1\nThread: 3000\n"].concat();
        server.expect(request, &reply);
    }
}

#[test]
fn an_unknown_digest_has_no_counts_and_no_times() {
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
fn check_and_info_look_at_the_first_digest_only() {
    let server = Home::open().start();
    let other = "a".repeat(40);
    assert_eq!(server.request("report", &[&other]).code(), 200);
    for operation in ["check", "info"] {
        assert_eq!(server.request(operation, &[DIGEST, &other]).counts(), (0, 0));
        assert_eq!(server.request(operation, &[&other, DIGEST]).counts(), (1, 0));
    }
}

#[test]
fn a_request_may_report_as_many_digests_as_fit() {
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
fn upper_case_digests_are_folded() {
    if !ours_only() {
        return;
    }
    let server = Home::open().start();
    assert_eq!(server.request("report", &[&DIGEST.to_uppercase(), DIGEST]).code(), 200);
    assert_eq!(server.request("check", &[DIGEST]).counts(), (2, 0));
    assert_eq!(server.request("check", &[&DIGEST.to_uppercase()]).counts(), (2, 0));
    let database = server.home().database();
    server.stop();
    assert_eq!(database.read().into_keys().collect::<Vec<_>>(), [DIGEST.as_bytes()]);
}

#[test]
fn what_is_no_digest_is_refused_and_not_stored() {
    if !ours_only() {
        return;
    }
    let server = Home::open().start();
    let (short, long, alien) = (&DIGEST[1..], format!("{DIGEST}0"), format!("g{}", &DIGEST[1..]));
    let (blank, folded) = (format!("{DIGEST} "), format!("{}\n {}", &DIGEST[..20], &DIGEST[20..]));
    let bad: [&[u8]; 10] = [
        b"",
        b"x",
        short.as_bytes(),
        long.as_bytes(),
        alien.as_bytes(),
        blank.as_bytes(),
        folded.as_bytes(),
        &[0xe9; 40],
        &[0; 40],
        &[b'a'; 4000],
    ];
    for digest in bad {
        for operation in ["check", "info", "report", "whitelist"] {
            let head = format!("Op: {operation}\nOp-Digest: ");
            let request = [head.as_bytes(), digest, b"\nPV: 2.1\nThread: 3000\n\n"].concat();
            server.expect(request, refusal(400, BAD_DIGEST));
        }
    }
    for operation in ["report", "whitelist"] {
        let reply = server.request(operation, &[DIGEST, short, DIGEST]);
        assert_eq!(String::from_utf8(reply.0).unwrap(), refusal(400, BAD_DIGEST));
    }
    for operation in ["check", "info"] {
        assert_eq!(server.request(operation, &[DIGEST, short]).counts(), (0, 0));
    }
    let database = server.home().database();
    server.stop();
    assert!(database.read().is_empty());
}

#[test]
fn digests_are_looked_at_after_the_rights() {
    let access = "ping : anonymous : allow\ndance : anonymous : allow\n";
    let server = Home::new().access(access).start();
    for operation in ["check", "info", "report", "whitelist"] {
        let request = format!("Op: {operation}\nOp-Digest: x\nPV: 2.1\nThread: 3000\n\n");
        server.expect(request, refusal(403, FORBIDDEN));
    }
    let request = "Op: dance\nOp-Digest: x\nPV: 2.1\nThread: 3000\n\n";
    server.expect(request, refusal(501, NOT_IMPLEMENTED));
}

// Replies.

#[test]
fn the_thread_is_echoed_as_it_came() {
    let server = Home::open().start();
    let digits = "7".repeat(100);
    let longer = "word ".repeat(400) + "end";
    for thread in [
        "0",
        "1",
        "1023",
        "-5",
        "abc def",
        "3000 \t ",
        "a,b;c=d",
        &digits,
        &longer,
        "30\x0000",
        "=?utf-8?q?a?=",
    ] {
        let reply = format!("Code: 200\nDiag: OK\nPV: 2.1\nThread: {thread}\n\n");
        server.expect(format!("Op: ping\nThread: {thread}\nPV: 2.1\n\n"), reply);
    }
    server.expect("Op: ping\nPV: 2.1\nThread: 1\r2\n", "Code: 200\nDiag: OK\nPV: 2.1\nThread: 1\n\n");
}

#[test]
fn an_odd_thread_is_echoed_byte_for_byte() {
    if !ours_only() {
        return;
    }
    let server = Home::open().start();
    for thread in
        [&b"\xe93000"[..], b"\xc3\xa9", b"30\x0b00", b"a\x0cb\x1cc\x1dd\x1ee", b"3000\x0b", b"\xff\xfe"]
    {
        let request = [b"Op: ping\nThread: ", thread, b"\nPV: 2.1\n\n"].concat();
        let reply = [b"Code: 200\nDiag: OK\nPV: 2.1\nThread: ", thread, b"\n\n"].concat();
        server.expect(request, reply);
    }
}

#[test]
fn a_folded_thread_comes_back_on_one_line() {
    if !ours_only() {
        return;
    }
    let server = Home::open().start();
    for request in
        ["Op: ping\nPV: 2.1\nThread: 30\n 00\n\n", "Op: ping\r\nPV: 2.1\r\nThread: 30\r\n\t00\r\n\r\n"]
    {
        let reply = String::from_utf8(server.ask(request)).unwrap();
        let thread = reply.strip_prefix("Code: 200\nDiag: OK\nPV: 2.1\nThread: 30 ");
        let thread = thread.and_then(|rest| rest.strip_suffix("\n\n"));
        let thread = thread.unwrap_or_else(|| panic!("{}", reply.escape_debug()));
        assert_eq!(thread.trim_start(), "00", "{}", reply.escape_debug());
    }
}

#[test]
fn eight_bit_values_are_refused_like_other_wrong_ones() {
    if !ours_only() {
        return;
    }
    let bob = Account::new("bob");
    let server = Home::open().passwd(bob.passwd()).start();
    let cases: [(&[u8], String); 4] = [
        (b"Op: p\xefng\nPV: 2.1\nThread: 3000\n", refusal(403, FORBIDDEN)),
        (b"Op: ping\nPV: 2.1\nThread: 3000\nUser: b\xf6b\n", refusal(401, UNKNOWN_USER)),
        (b"Op: ping\nPV: 2.1\xe9\nThread: 3000\n", refusal(400, BAD_VERSION)),
        (b"Op: ping\nPV: 2.1\nThread: 3000\nUser: bob\nTime: 1\xe9\nSig: x\n", refusal(401, BAD_TIME)),
    ];
    for (request, reply) in cases {
        server.expect(request, reply);
    }
    server.expect(b"Op: ping\nX: \xe9\nPV: 2.1\nThread: 3000\n", ok(""));
}

#[test]
fn replies_and_empty_datagrams_are_not_answered() {
    if !ours_only() {
        return;
    }
    let server = Home::open().start();
    for datagram in [
        "",
        "Code: 200\nDiag: OK\nPV: 2.1\nThread: 3000\n\n",
        "Code: 400\nDiag: Bad request: Invalid digest\nPV: 2.1\nThread: \n\n",
        "Op: ping\nPV: 2.1\nThread: 3000\nCode: 200\n\n",
        "Op: ping\nPV: 2.1\nThread: 3000\nDiag:\n\n",
        "cOdE:x\n",
        "Thread: 1\r\nDIAG: OK\r\n",
    ] {
        let socket = server.socket();
        socket.send(datagram.as_bytes()).unwrap();
        // The first thing to come back answers the second datagram.
        let reply = ask_on(&socket, "Op: ping\nPV: 2.1\nThread: 4000\n\n");
        let expected = "Code: 200\nDiag: OK\nPV: 2.1\nThread: 4000\n\n";
        assert_eq!(String::from_utf8_lossy(&reply), expected, "after {datagram:?}");
    }
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
fn a_check_sees_the_reports_that_came_before_it() {
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

// Clients, as they write.

/// What the clients in the field send, each for `Thread: 3000` unless it is below 1024.
fn requests_of_clients(operation: &str) -> Vec<String> {
    let signature = "0123456789abcdef0123456789abcdef01234567";
    vec![
        // The established client: the digest given with the request, or added to it later.
        format!(
            "Op: {operation}\nOp-Digest: {DIGEST}\nThread: 3000\nPV: 2.1\nUser: anonymous\nTime: 1300000000\n\
             Sig: {signature}\n\n"
        ),
        format!(
            "Op: {operation}\nOp-Digest: {DIGEST}\nOp-Spec: 20,3,60,3\nThread: 3000\nPV: 2.1\nUser: anonymous\n\
             Time: 1300000000\nSig: {signature}\n\n"
        ),
        format!(
            "Op: {operation}\nOp-Spec: 20,3,60,3\nOp-Digest: {DIGEST}\nThread: 3000\nPV: 2.1\nUser: anonymous\n\
             Time: 1300000000\nSig: {signature}\n\n"
        ),
        // SpamAssassin's own client names no user and does not sign rightly.
        format!(
            "Op: {operation}\nOp-Digest: {DIGEST}\nThread: 3000\nPV: 2.1\nTime: 1300000000\nSig: {signature}\n\n"
        ),
        // Mail::Pyzor.
        format!(
            "Op: {operation}\nOp-Digest: {DIGEST}\nOp-Spec: 20,3,60,3\nThread: 3000\nPV: 2.1\nUser: anonymous\n\
             Time: 1300000000\nSig: {signature}\n\n"
        ),
        // Stalwart ends with a single newline.
        format!("Op: {operation}\nOp-Digest: {DIGEST}\nThread: 3000\nPV: 2.1\n"),
        // Old clients double every newline; others end their lines as mail does.
        format!("Op: {operation}\n\nOp-Digest: {DIGEST}\n\nThread: 3000\n\nPV: 2.1\n\nUser: anonymous\n\n"),
        format!("Op: {operation}\r\nOp-Digest: {DIGEST}\r\nThread: 3000\r\nPV: 2.0\r\n\r\n"),
    ]
}

#[test]
fn every_client_in_the_field_is_understood() {
    let server = Home::open().start();
    let mut count = 0;
    for request in requests_of_clients("report") {
        server.expect(request, ok(""));
        count += 1;
    }
    for request in requests_of_clients("whitelist") {
        server.expect(request, ok(""));
    }
    for request in requests_of_clients("check") {
        server.expect(&request, ok(&format!("Count: {count}\nWL-Count: {count}\n")));
    }
    for request in requests_of_clients("pong") {
        server.expect(&request, ok("Count: 9223372036854775807\nWL-Count: 0\n"));
    }
    for request in requests_of_clients("ping") {
        server.expect(&request, ok(""));
    }
    // Stalwart draws its threads from below 1024, too, and reads no more than 1024 bytes.
    server.expect(
        format!("Op: check\nOp-Digest: {DIGEST}\nThread: 7\nPV: 2.1\n"),
        format!("Code: 200\nDiag: OK\nPV: 2.1\nThread: 7\nCount: {count}\nWL-Count: {count}\n\n"),
    );
}

// Addresses.

/// Whether this machine has an IPv6 loopback address; the kernel may have been built without.
fn ipv6() -> bool {
    let addresses = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let any = addresses.lines().any(|line| line.starts_with("00000000000000000000000000000001"));
    if !any {
        println!("left out: this machine has no IPv6");
    }
    any
}

fn check_from(server: &Server, address: &str, seen_as: &str) {
    let socket = server.socket_to(address.parse::<IpAddr>().unwrap());
    let reply = ask_on(&socket, format!("Op: check\nOp-Digest: {DIGEST}\nPV: 2.1\nThread: 3000\n\n"));
    assert_eq!(String::from_utf8_lossy(&reply), ok("Count: 0\nWL-Count: 0\n"));
    let line = format!("INFO anonymous,{seen_as},check,['{DIGEST}'],200\n");
    eventually("a line in the usage log", || server.home().read("usage.log").contains(&line).then_some(()));
}

#[test]
fn ipv4_clients_are_served_on_any_address() {
    let server = Home::open().address("0.0.0.0").start();
    check_from(&server, "127.0.0.1", "127.0.0.1");
}

#[test]
fn ipv6_clients_are_served() {
    if ipv6() {
        check_from(&Home::open().address("::1").start(), "::1", "::1");
    }
}

#[test]
fn ipv4_and_ipv6_clients_are_served_by_one_socket() {
    if ipv6() {
        let server = Home::open().address("::").start();
        check_from(&server, "::1", "::1");
        check_from(&server, "127.0.0.1", "::ffff:127.0.0.1");
    }
}

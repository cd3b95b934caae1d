//! The parsing of requests, and the order of the checks.

use super::{BAD_VERSION, FORBIDDEN, NOT_IMPLEMENTED, UNKNOWN_USER, VERSION_NOT_SUPPORTED, ok, refusal};
use crate::harness::{Account, DIGEST, Home, unix_time};

const NO_VERSION: &str = "Bad request: Protocol Version not specified in request";

const OUT_OF_TIME: &str = "Unauthorized: Signature Error: Timestamp not within allowed range.";

const BAD_SIGNATURE: &str = "Unauthorized: Signature Error: Invalid signature.";

// Parsing.

#[test]
fn requests_are_parsed_in_every_layout() {
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
fn garbage_is_answered_with_a_refusal() {
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
fn text_after_an_empty_line_is_body() {
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
fn requests_are_truncated_to_8192_bytes() {
    let server = Home::open().start();
    let request = |length: usize| {
        let (head, tail) = ("Op: ping\nThread: 3000\nX: ", "\nPV: 2.1");
        format!("{head}{}{tail}", "x".repeat(length - head.len() - tail.len()))
    };
    server.expect(request(8192), ok(""));
    // First the last digits of the version are cut off, then the whole version.
    server.expect(request(8194), ok(""));
    server.expect(request(8195), refusal(400, BAD_VERSION));
    server.expect(request(9000), refusal(400, NO_VERSION));
}

// The order of the checks.

#[test]
fn checks_are_made_in_the_established_order() {
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
fn refusal_without_a_thread_has_an_empty_one() {
    let server = Home::open().start();
    for thread in ["", "Thread:\n", "Thread: \n"] {
        let reply = |code: u16, diag| format!("Code: {code}\nDiag: {diag}\nPV: 2.1\nThread: \n\n");
        server.expect(format!("Op: ping\nPV: 2.1\n{thread}"), reply(200, "OK"));
        server.expect(format!("Op: x\nPV: 2.1\n{thread}"), reply(403, FORBIDDEN));
        server.expect(format!("Op: x\nPV: 3\n{thread}"), reply(505, VERSION_NOT_SUPPORTED));
        server.expect(format!("Op: x\nUser: ghost\n{thread}"), reply(401, UNKNOWN_USER));
    }
}

// The protocol version.

#[test]
fn every_version_with_integer_part_2_is_supported() {
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
fn version_that_is_not_a_number_is_invalid() {
    let server = Home::open().start();
    for version in
        ["", "abc", "nan", "NaN", "-nan", "0x2", "2,1", "2.1 x", "2.1\0", "2__1", "_2", "2_", "2._1", "e1"]
    {
        server.expect(format!("Op: ping\nPV: {version}\nThread: 3000\n"), refusal(400, BAD_VERSION));
    }
}

// Replies.

#[test]
fn thread_is_echoed_unchanged() {
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

// Requests of known clients.

/// Returns the requests of all known clients, with `Thread: 3000`.
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
        // The client built into SpamAssassin names no user, and its signature is invalid.
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
        // Old clients double every newline; others use CRLF.
        format!("Op: {operation}\n\nOp-Digest: {DIGEST}\n\nThread: 3000\n\nPV: 2.1\n\nUser: anonymous\n\n"),
        format!("Op: {operation}\r\nOp-Digest: {DIGEST}\r\nThread: 3000\r\nPV: 2.0\r\n\r\n"),
    ]
}

#[test]
fn requests_of_every_known_client_are_understood() {
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
    // Stalwart also uses threads below 1024, and reads at most 1024 bytes.
    server.expect(
        format!("Op: check\nOp-Digest: {DIGEST}\nThread: 7\nPV: 2.1\n"),
        format!("Code: 200\nDiag: OK\nPV: 2.1\nThread: 7\nCount: {count}\nWL-Count: {count}\n\n"),
    );
}

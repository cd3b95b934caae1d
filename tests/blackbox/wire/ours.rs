//! Requests that the Python server answers differently.

use super::{BAD_VERSION, FORBIDDEN, UNKNOWN_USER, VERSION_NOT_SUPPORTED, ok, refusal};
use crate::harness::{Account, DIGEST, Home, ask_on};

const BAD_TIME: &str = "Unauthorized: Signature Error: Invalid timestamp.";

const BAD_DIGEST: &str = "Bad request: Invalid digest";

#[test]
fn missing_or_malformed_time_is_an_invalid_timestamp() {
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

#[test]
fn infinite_version_is_not_supported() {
    let server = Home::open().start();
    let nines = "9".repeat(5000);
    for version in ["inf", "-inf", "Infinity", "1e400", &nines] {
        server
            .expect(format!("Op: ping\nPV: {version}\nThread: 3000\n"), refusal(505, VERSION_NOT_SUPPORTED));
    }
}

#[test]
fn upper_case_digests_are_converted_to_lower_case() {
    let server = Home::open().start();
    assert_eq!(server.request("report", &[&DIGEST.to_uppercase(), DIGEST]).code(), 200);
    assert_eq!(server.request("check", &[DIGEST]).counts(), (2, 0));
    assert_eq!(server.request("check", &[&DIGEST.to_uppercase()]).counts(), (2, 0));
    let database = server.home().database();
    server.stop();
    assert_eq!(database.read().into_keys().collect::<Vec<_>>(), [DIGEST.as_bytes()]);
}

#[test]
fn malformed_digest_is_refused_and_not_stored() {
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
fn thread_of_any_bytes_is_echoed_unchanged() {
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
fn folded_thread_is_echoed_on_one_line() {
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
fn eight_bit_values_are_refused_like_other_invalid_values() {
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
        // The first reply belongs to the second datagram.
        let reply = ask_on(&socket, "Op: ping\nPV: 2.1\nThread: 4000\n\n");
        let expected = "Code: 200\nDiag: OK\nPV: 2.1\nThread: 4000\n\n";
        assert_eq!(String::from_utf8_lossy(&reply), expected, "after {datagram:?}");
    }
}

//! The server's side of the control socket: state, counters, reloads, and hostile peers.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::harness::{Account, DIGEST, Home, Operator, Server, ask_operator, eventually, unix_time};

/// The most connections that the server accepts at a time.
const MOST: usize = 8;

fn stats(home: &Home) -> Value {
    ask_operator(home, "stats")["stats"].clone()
}

/// Returns the names with a number above zero.
fn above_zero(numbers: &Value) -> Value {
    let numbers = numbers.as_object().unwrap().iter();
    numbers
        .filter(|(_, number)| **number != json!(0))
        .map(|(name, number)| (name.clone(), number.clone()))
        .collect()
}

#[test]
fn every_reply_is_counted_by_operation_code_and_user() {
    let bob = Account::new("bob");
    let access = "check report ping pong info : anonymous : allow\nall train : bob : allow\n";
    let home = Home::new().passwd(bob.passwd()).access(access);
    let server = home.start();
    let before = stats(&home);
    for operation in ["check", "report", "report", "check", "info"] {
        server.request(operation, &[DIGEST]);
    }
    server.request("whitelist", &[DIGEST]);
    server.request("pong", &[DIGEST]);
    server.request_as(&bob, "whitelist", &[DIGEST, &"b".repeat(40)]);
    server.request_as(&bob, "train", &[DIGEST]);
    server.request("check", &["not a digest"]);
    let impostor = Account::with_key("bob", &"0".repeat(40));
    server.request_as(&impostor, "report", &[DIGEST]);
    server.socket().send(b"Code: 200\nThread: 1\n\n").unwrap();
    server.socket().send(b"").unwrap();
    server.request("ping", &[]);
    let after = stats(&home);
    let count = |operation: &str, code: &str| {
        let number = |stats: &Value| stats["requests"][operation][code].as_u64().unwrap();
        number(&after) - number(&before)
    };
    for (operation, code, expected) in [
        ("check", "200", 2),
        ("check", "400", 1),
        ("report", "200", 2),
        ("report", "401", 1),
        ("info", "200", 1),
        ("pong", "200", 1),
        ("whitelist", "200", 1),
        ("whitelist", "403", 1),
        ("other", "501", 1),
        ("ping", "200", 1),
    ] {
        assert_eq!(count(operation, code), expected, "{operation} {code}: {after}");
    }
    let since = |name: &str| after[name].as_u64().unwrap() - before[name].as_u64().unwrap();
    assert_eq!((since("check_hits"), since("check_misses")), (1, 1), "{after}");
    assert_eq!((since("anonymous"), since("accounts")), (9, 3), "{after}");
    assert_eq!(above_zero(&after["drops"]), json!({ "empty": 1, "reply": 1 }));
    let samples =
        |name: &str| after[name]["count"].as_u64().unwrap() - before[name]["count"].as_u64().unwrap();
    assert_eq!(samples("latency_micros"), 12, "{after}");
    assert_eq!(samples("engine_micros"), samples("batches"));
    assert_eq!(after["received"]["sum"].as_u64().unwrap() - before["received"]["sum"].as_u64().unwrap(), 14);
    drop(server);
}

#[test]
fn drops_are_counted_by_cause_and_limits_by_name() {
    let settings = "RateLimitWrites = 1\nRateLimitErrors = 1\nRateLimitBurst = 1\nDenyNetworks = 127.0.0.9\n";
    let home = Home::open().config(settings);
    let server = home.start();
    let denied = std::net::UdpSocket::bind("127.0.0.9:0").unwrap();
    denied.send_to(b"Op: ping\nThread: 3000\nPV: 2.1\n\n", ("127.0.0.1", server.port())).unwrap();
    let socket = server.socket();
    for thread in 3000..3020 {
        let report = format!("Op: report\nOp-Digest: {DIGEST}\nThread: {thread}\nPV: 2.1\n\n");
        socket.send(report.as_bytes()).unwrap();
        socket.send(format!("Op: check\nOp-Digest: x\nThread: {thread}\nPV: 2.1\n\n").as_bytes()).unwrap();
    }
    server.request("ping", &[]);
    eventually("counts of drops", || {
        let stats = stats(&home);
        let (drops, exceeded) = (&stats["drops"], above_zero(&stats["exceeded"]));
        let same = drops["rate_limit_writes"] == exceeded["RateLimitWrites"]
            && drops["rate_limit_errors"] == exceeded["RateLimitErrors"];
        let number = |name: &str| drops[name].as_u64().unwrap();
        (same && number("rate_limit_writes") >= 10 && number("rate_limit_errors") >= 10)
            .then(|| assert_eq!((number("denied_network"), number("rate_limit")), (1, 0), "{stats}"))
    });
}

#[test]
fn copies_of_signed_requests_are_counted_as_replays() {
    let bob = Account::new("bob");
    let home = Home::new().passwd(bob.passwd()).access("all : bob : allow\n").config("ReplayGuard = True\n");
    let server = home.start();
    let report = bob.sign(&format!("Op: report\nOp-Digest: {DIGEST}\nThread: 3000\nPV: 2.1\n"), unix_time());
    for _ in 0..3 {
        server.ask(&report);
    }
    assert_eq!(stats(&home)["replays"], 2);
}

#[test]
fn status_tells_what_runs_and_how() {
    let home = Home::open();
    let server = home.start();
    let status = &ask_operator(&home, "status")["status"];
    assert_eq!((&status["health"], &status["problems"]), (&json!("well"), &json!([])));
    assert_eq!((&status["pid"], &status["engine"]), (&json!(server.pid()), &json!("gdbm")));
    assert_eq!(status["address"], format!("127.0.0.1:{}", server.port()));
    assert_eq!(status["storage"]["availability"], "available");
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).unwrap().unwrap().name;
    assert_eq!(status["user"], user);
    assert!(status["confinement"].as_str().unwrap().contains("seccomp"), "{status}");
}

#[test]
fn reload_returns_what_changed_or_why_nothing_did() {
    let (bob, eve) = (Account::new("bob"), Account::new("eve"));
    let home = Home::new().passwd(bob.passwd()).access("all : bob : allow\n").unprivileged();
    let server = home.start();
    assert_eq!(ask_operator(&home, "reload"), json!({ "reloaded": { "changes": [], "warnings": [] } }));
    home.rewrite("pyzord.passwd", format!("{}{}nonsense\n", bob.passwd(), eve.passwd()));
    home.rewrite("pyzord.access", "all : bob eve : allow\ncheck : anonymous : allow\n");
    let reply = ask_operator(&home, "reload");
    let changes = &reply["reloaded"]["changes"];
    assert_eq!(
        changes,
        &json!(["accounts added: 1 (eve)", "the anonymous user may use: check (before: nothing)"])
    );
    assert_eq!(reply["reloaded"]["warnings"].as_array().unwrap().len(), 1, "{reply}");
    assert_eq!(server.request_as(&eve, "ping", &[]).code(), 200);
    // A directory cannot be read as a file.
    fs::remove_file(home.path("pyzord.access")).unwrap();
    fs::create_dir(home.path("pyzord.access")).unwrap();
    let reply = ask_operator(&home, "reload");
    let error = reply["error"].as_str().unwrap();
    assert!(error.contains("cannot read the access file") && error.contains("stay unchanged"), "{reply}");
    assert_eq!(server.request_as(&eve, "ping", &[]).code(), 200);
    eventually("the error in the log", || home.log().contains(error).then_some(()));
}

#[test]
fn reopen_moves_to_new_log_files_or_says_why_not() {
    let home = Home::open().unprivileged();
    let server = home.start();
    fs::rename(home.path("usage.log"), home.path("usage.log.1")).unwrap();
    let reply = ask_operator(&home, "reopen");
    assert_eq!(reply["reloaded"]["changes"], json!(["the log files were reopened"]));
    server.request("ping", &[]);
    eventually("a line in the new usage log", || home.read("usage.log").contains("ping").then_some(()));
    fs::remove_file(home.path("usage.log")).unwrap();
    fs::create_dir(home.path("usage.log")).unwrap();
    home.rewrite("pyzord.access", "check : anonymous : allow\n");
    let reply = ask_operator(&home, "reopen");
    let error = reply["error"].as_str().unwrap();
    assert!(error.contains("usage.log") && error.contains("still writing to the old file"), "{reply}");
    assert!(error.contains("the anonymous user may use: check"), "what succeeded is missing: {reply}");
}

#[test]
fn lines_that_are_no_requests_get_an_error_and_end_the_connection() {
    let home = Home::open();
    let server = home.start();
    let long = vec![b'x'; 5000];
    for bytes in [b"status\n".as_slice(), b"\n", b"{\"command\":\"stop\"}\n", b"\xff\xfe\n", &long] {
        let mut operator = Operator::connect(&home);
        operator.send(bytes);
        let reply = operator.receive();
        assert!(reply.is_some_and(|reply| reply["error"].is_string()), "{}", bytes.escape_ascii());
        assert_eq!(operator.receive(), None);
    }
    let mut operator = Operator::connect(&home);
    for byte in b"{\"command\":\"status\"}\n" {
        assert!(operator.send(&[*byte]));
    }
    assert!(operator.receive().unwrap()["status"].is_object());
    // Several requests at once are answered in order.
    operator.send(b"{\"command\":\"stats\"}\n{\"command\":\"status\"}\n");
    assert!(operator.receive().unwrap()["stats"].is_object());
    assert!(operator.receive().unwrap()["status"].is_object());
    assert_eq!(server.request("ping", &[]).code(), 200);
}

#[test]
fn connections_beyond_the_limit_hold_no_descriptors_and_delay_no_request() {
    let home = Home::open();
    let server = home.start();
    let before = server.process().descriptors().len();
    let mut held = VecDeque::new();
    for number in 0..1000 {
        held.push_back(UnixStream::connect(home.path("pyzord.sock")).unwrap());
        if held.len() > 4 * MOST {
            held.pop_front();
        }
        if number % 100 == 0 {
            assert_eq!(server.request("report", &[DIGEST]).code(), 200);
            let now = server.process().descriptors().len();
            assert!(now <= before + MOST + 1, "{before} descriptors, then {now}");
        }
    }
    assert_eq!(server.request("check", &[DIGEST]).counts(), (10, 0));
    // All places are taken by connections that ask for nothing, until they have to make room.
    eventually("a place", || {
        let mut operator = Operator::connect(&home);
        operator.send(b"{\"command\":\"status\"}\n");
        let reply = operator.receive().unwrap_or_default();
        let is_answered = reply["status"].is_object();
        assert!(is_answered || reply["unavailable"].is_string(), "{reply}");
        is_answered.then_some(())
    });
}

#[test]
fn peer_that_never_reads_is_dropped_and_delays_no_request() {
    let home = Home::open();
    let server = home.start();
    let mut mute = UnixStream::connect(home.path("pyzord.sock")).unwrap();
    mute.set_nonblocking(true).unwrap();
    // Requests until the buffers of both directions are full.
    while mute.write(&b"{\"command\":\"stats\"}\n".repeat(100)).is_ok() {}
    assert_eq!(server.request("report", &[DIGEST]).code(), 200);
    assert!(ask_operator(&home, "status")["status"].is_object());
    // The server closes the connection after 30 s. Until then, writing finds full buffers.
    eventually("the end of the connection", || {
        mute.write(b"x").err().filter(|error| error.kind() == ErrorKind::BrokenPipe)
    });
}

#[test]
fn idle_connection_ends() {
    let home = Home::open();
    let _server = home.start();
    let mut operator = Operator::connect(&home);
    operator.ask("status");
    assert_eq!(operator.receive(), None);
}

#[test]
fn server_that_waits_for_its_database_says_so() {
    let home = Home::open().config("Engine = redis\nDigestDB = 127.0.0.1,1,,0\n");
    let _server = Server::start(&home, home.command());
    eventually("the control socket", || UnixStream::connect(home.path("pyzord.sock")).ok());
    let reply = ask_operator(&home, "status");
    assert!(reply["unavailable"].as_str().unwrap().contains("starting"), "{reply}");
}

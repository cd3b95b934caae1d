//! What operators' tools read: the operator log and the usage log.

use std::net::IpAddr;

use crate::harness::{Account, DIGEST, Home, ask_on, eventually, ours_only, unix_time};

/// Splits a line into its time of day in milliseconds, process, level and message; panics when it has
/// another form than `2026-11-22 10:26:46,772 (12483) INFO text`.
#[track_caller]
fn split(line: &str) -> (i64, u32, &str, &str) {
    try_split(line).unwrap_or_else(|| panic!("not a log line: {line:?}"))
}

fn try_split(line: &str) -> Option<(i64, u32, &str, &str)> {
    let (stamp, rest) = line.split_at_checked(23)?;
    let form = stamp.replace(|character: char| character.is_ascii_digit(), "0");
    let (process, rest) = rest.strip_prefix(" (")?.split_once(") ")?;
    let (level, message) = rest.split_once(' ')?;
    let known = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"].contains(&level);
    if form != "0000-00-00 00:00:00,000" || !known {
        return None;
    }
    let number = |from: usize, to: usize| stamp[from..to].parse::<i64>().ok();
    let time = ((number(11, 13)? * 60 + number(14, 16)?) * 60 + number(17, 19)?) * 1000 + number(20, 23)?;
    Some((time, process.parse().ok()?, level, message))
}

/// The levels and messages of a log.
fn messages(log: &str) -> Vec<String> {
    log.lines()
        .map(|line| {
            let (_, _, level, message) = split(line);
            format!("{level} {message}")
        })
        .collect()
}

#[test]
fn a_usage_line_tells_user_address_operation_digests_and_code() {
    let bob = Account::new("bob");
    let home = Home::new()
        .passwd(bob.passwd())
        .access("all : bob : allow\nping pong report check info : anonymous : allow\n");
    let server = home.start();
    let other = "b".repeat(40);
    let ping = home.read("usage.log").lines().count();
    assert_eq!(server.request("report", &[DIGEST, &other]).code(), 200);
    assert_eq!(server.request("check", &[&other, DIGEST]).code(), 200);
    assert_eq!(server.request("info", &[]).code(), 200);
    assert_eq!(server.request("pong", &["a'b"]).code(), 200);
    assert_eq!(server.request("pong", &["a'b\"c\\d"]).code(), 200);
    assert_eq!(server.request_as(&bob, "whitelist", &[DIGEST]).code(), 200);
    assert_eq!(server.request("whitelist", &[DIGEST]).code(), 403);
    assert_eq!(server.request_as(&Account::new("eve"), "ping", &[]).code(), 401);
    server.ask("Op: ping\nThread: 5000\n\n");
    server.ask("Op: ping\nPV: 3.0\nThread: 5000\n\n");
    let expected = [
        format!("INFO anonymous,127.0.0.1,report,['{DIGEST}', '{other}'],200"),
        format!("INFO anonymous,127.0.0.1,check,['{other}', '{DIGEST}'],200"),
        "INFO anonymous,127.0.0.1,info,None,200".into(),
        "INFO anonymous,127.0.0.1,pong,[\"a'b\"],200".into(),
        "INFO anonymous,127.0.0.1,pong,['a\\'b\"c\\\\d'],200".into(),
        format!("INFO bob,127.0.0.1,whitelist,['{DIGEST}'],200"),
        "ERROR 403: Forbidden: User is not authorized to request the operation.".into(),
        "ERROR 401: Unauthorized: Signature Error: Unknown user.".into(),
        "ERROR 400: Bad request: Protocol Version not specified in request".into(),
        "ERROR 505: Version Not Supported: ".into(),
    ];
    let lines = eventually("all usage lines", || {
        let lines = messages(&home.read("usage.log"));
        lines.last().is_some_and(|line| line.contains("505")).then_some(lines)
    });
    // The harness may have had to ask more than once whether it is there.
    assert!(lines.len() - expected.len() >= ping);
    assert!(
        lines[..lines.len() - expected.len()].iter().all(|line| line.ends_with(",ping,None,200")),
        "{lines:#?}"
    );
    assert_eq!(lines[lines.len() - expected.len()..], expected);
}

#[test]
fn a_line_has_local_time_and_the_process() {
    // Hours that no machine of the tests has, and without a database of zones.
    let home = Home::open().environment("TZ", "XYZ-03:30");
    let server = home.start();
    server.request("ping", &[]);
    let now = unix_time();
    let log = eventually("a usage line", || Some(home.read("usage.log")).filter(|text| text.ends_with('\n')));
    let (time, process, ..) = split(log.lines().last().unwrap());
    let local = (now + 3 * 3600 + 30 * 60) % 86_400;
    let away = (local - time / 1000).rem_euclid(86_400);
    assert!(!(60..86_400 - 60).contains(&away), "{log} at {local}");
    let (_, starter, _, _) = split(home.log().lines().next().map(str::to_owned).as_deref().unwrap());
    assert_eq!(process, starter);
}

#[test]
fn the_operator_log_tells_start_accounts_and_stop() {
    if !ours_only() {
        return;
    }
    let (bob, eve) = (Account::new("bob"), Account::new("eve"));
    let home = Home::open().passwd(bob.passwd() + &eve.passwd());
    let server = home.start();
    let port = server.port();
    assert_eq!(server.stop().code(), Some(0));
    // What the engine does by itself is told whenever it is done.
    let mut lines = messages(&home.log());
    lines.retain(|line| !line.starts_with("INFO Expired "));
    assert_eq!(lines[0], "INFO Starting pyzord server.");
    assert!(lines.contains(&"INFO Accounts: bob,eve".to_owned()), "{lines:#?}");
    let listening = lines.iter().find(|line| line.contains("Listening on")).unwrap();
    assert!(listening.contains(&format!("127.0.0.1:{port}")) && listening.contains("gdbm"), "{listening}");
    assert_eq!(lines[lines.len() - 2..], ["INFO SIGTERM received. Shutting down.", "INFO Server shutdown."]);
    assert_eq!(home.stderr(), "");
}

#[test]
fn peers_appear_with_their_plain_addresses() {
    let home = Home::open().address("::");
    let server = home.start();
    for (address, shown) in [("::1", "::1"), ("127.0.0.1", "::ffff:127.0.0.1")] {
        let address: IpAddr = address.parse().unwrap();
        ask_on(&server.socket_to(address), "Op: report\nPV: 2.1\nThread: 5000\n\n");
        eventually("its usage line", || {
            home.read("usage.log")
                .contains(&format!(" INFO anonymous,{shown},report,None,200\n"))
                .then_some(())
        });
    }
}

#[test]
fn debugging_goes_to_the_log_and_to_standard_error() {
    if !ours_only() {
        return;
    }
    let home = Home::open().arguments(&["-d"]);
    let server = home.start();
    for (operation, digests) in [
        ("ping", &[][..]),
        ("pong", &[DIGEST]),
        ("check", &[DIGEST]),
        ("info", &[DIGEST]),
        ("report", &[DIGEST]),
    ] {
        assert_eq!(server.request(operation, digests).code(), 200);
    }
    let texts = [
        "DEBUG Received: ".to_owned(),
        "DEBUG Got a ping command from 127.0.0.1".to_owned(),
        format!("DEBUG Request pong for {DIGEST}"),
        format!("DEBUG Request to check digest {DIGEST}"),
        format!("DEBUG Request for information about digest {DIGEST}"),
        format!("DEBUG Request to report digests ['{DIGEST}']"),
        "DEBUG Sending: '".to_owned(),
    ];
    let usage = format!(" INFO anonymous,127.0.0.1,report,['{DIGEST}'],200");
    eventually("debugging lines", || {
        (home.log().contains("Request to report") && home.stderr().contains(&usage)).then_some(())
    });
    assert_eq!(server.stop().code(), Some(0));
    for text in texts {
        for (name, log) in [("log", home.log()), ("stderr", home.stderr())] {
            assert!(messages(&log).iter().any(|line| line.starts_with(&text)), "no {text} in {name}:\n{log}");
        }
    }
    assert!(home.stderr().contains(&usage));
    assert!(!home.log().contains(&usage), "the usage log has its own file");
}

#[test]
fn what_a_stranger_sends_stays_on_its_line() {
    if !ours_only() {
        return;
    }
    let home = Home::open().arguments(&["-d"]);
    let server = home.start();
    let forged = "2026-01-01 00:00:00,000 (1) INFO forged";
    for datagram in [
        format!("Op: ping\nPV: x\n {forged}\nThread: 5000\n\n"),
        format!("Op: ping\n {forged}\nPV: 2.1\nThread: 5000\n {forged}\n\n"),
        format!("Op: pong\nOp-Digest: x\n {forged}\nPV: 2.1\nThread: 5000\n\n"),
        format!("Op: ping\nUser: x\n {forged}\nPV: 2.1\nThread: 5000\n\n"),
        "Op: pong\nOp-Digest: \x1b[2J\u{7f}\u{85}\u{2028}\r\nPV: 2.1\nThread: 5000\n\n".to_owned(),
    ] {
        server.ask(datagram);
    }
    assert_eq!(server.stop().code(), Some(0));
    for log in [home.log(), home.read("usage.log"), home.stderr()] {
        // Panics when a line has not the form.
        assert!(!messages(&log).is_empty());
        assert!(!log.lines().any(|line| line.starts_with("2026-01-01")), "{log}");
        assert!(!log.contains(|character: char| character.is_control() && character != '\n'), "{log:?}");
    }
    assert!(home.log().lines().any(|line| line.contains(" WARNING Invalid PV: x")), "{}", home.log());
}

#[test]
fn secrets_are_in_no_log() {
    if !ours_only() {
        return;
    }
    let (bob, old) = (Account::new("bob"), Account::new("old"));
    let odd = Account::with_key("odd", "not-40-digits-but-secret");
    let twice = Account::with_key("bob", &"c0ffee".repeat(7)[..40]);
    let passwd =
        format!("{}{}{}oops {}\n{}", bob.passwd(), odd.passwd(), twice.passwd(), old.key(), old.passwd());
    let home = Home::open().passwd(passwd).arguments(&["-d"]);
    let server = home.start();
    let time = unix_time();
    let mut secrets =
        vec![bob.key().to_owned(), old.key().to_owned(), odd.key().to_owned(), twice.key().to_owned()];
    for account in [&bob, &odd, &twice, &Account::new("unknown")] {
        for time in [time, time - 1000] {
            let request = account.sign("Op: ping\nPV: 2.1\nThread: 5000\n", time);
            server.ask(&request);
            let text = String::from_utf8(request).unwrap();
            secrets.push(text.lines().find_map(|line| line.strip_prefix("Sig: ")).unwrap().to_owned());
        }
    }
    // In odd places, too.
    let signature = "5161".repeat(10);
    server.ask(format!("Op: ping\nsIG: {signature}\nPV: 2.1\nThread: 5000\nUser: bob\nTime: 1\n\n"));
    server.ask(format!("Op: ping\nPV: 2.1\nThread: 5000\nUser: bob\nTime: 1\nSig:\n {signature}\n\n"));
    server.ask(format!("Op: ping\r\nSig: {signature}\rPV: 2.1\r\nThread: 5000\r\n\r\n"));
    secrets.push(signature);
    server.signal(nix::sys::signal::Signal::SIGUSR1);
    eventually("a reload", || home.log().contains("reloaded").then_some(()));
    assert_eq!(server.stop().code(), Some(0));
    let said = home.everything_said().to_lowercase();
    assert!(said.contains("received: "), "{said}");
    for secret in secrets.iter().map(|secret| secret.to_lowercase()) {
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(&secret)).collect();
        assert!(lines.is_empty(), "{secret} is in the logs: {lines:#?}");
    }
}

#[test]
fn without_log_files_what_matters_goes_to_standard_error() {
    if !ours_only() {
        return;
    }
    let home = Home::open().file("config", "[server]\n").passwd("bob\n");
    let server = home.start();
    server.request("ping", &[]);
    home.rewrite("pyzord.passwd", "\n\neve\n");
    server.signal(nix::sys::signal::Signal::SIGUSR1);
    eventually("a warning", || home.stderr().contains("pyzord.passwd:3: ").then_some(()));
    assert_eq!(server.stop().code(), Some(0));
    assert!(home.stderr().contains("pyzord.passwd:1: "));
    assert!(!home.stderr().contains("ping"));
    assert!(!home.path("pyzord.log").exists());
}

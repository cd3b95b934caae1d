//! Log lines of this server only.

use super::messages;
use crate::harness::{Account, DIGEST, Home, eventually, unix_time};

#[test]
fn operator_log_reports_start_and_accounts_and_stop() {
    let (bob, eve) = (Account::new("bob"), Account::new("eve"));
    let home = Home::open().passwd(bob.passwd() + &eve.passwd());
    let server = home.start();
    let port = server.port();
    assert_eq!(server.stop().code(), Some(0));
    // The expiry may end at any time.
    let mut lines = messages(&home.log());
    lines.retain(|line| !line.starts_with("INFO Expiry: "));
    assert_eq!(lines[0], "INFO Starting pyzord server.");
    assert!(lines.contains(&"INFO Accounts: bob,eve".to_owned()), "{lines:#?}");
    let listening = lines.iter().find(|line| line.contains("Listening on")).unwrap();
    assert!(listening.contains(&format!("127.0.0.1:{port}")) && listening.contains("gdbm"), "{listening}");
    assert_eq!(lines[lines.len() - 2..], ["INFO SIGTERM received. Shutting down.", "INFO Server shutdown."]);
    assert_eq!(home.stderr(), "");
}

#[test]
fn debug_lines_go_to_the_log_and_to_stderr() {
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
fn request_cannot_forge_a_log_line() {
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
        // Panics if a line has not the form of a log line.
        assert!(!messages(&log).is_empty());
        assert!(!log.lines().any(|line| line.starts_with("2026-01-01")), "{log}");
        assert!(!log.contains(|character: char| character.is_control() && character != '\n'), "{log:?}");
    }
    assert!(home.log().lines().any(|line| line.contains(" WARNING Invalid PV: x")), "{}", home.log());
}

#[test]
fn secrets_are_in_no_log() {
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
    // Signatures in unusual places.
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
fn warnings_go_to_stderr_without_log_files() {
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

//! The requests that reach other servers, compared with those of the established server.

use std::time::{Duration, Instant};

use crate::harness::{Account, Caller, DIGEST, Home, Remote, digest, interop, unix_time};
use crate::ours::forwarding::{report, report_together};

fn established(home: Home) -> Home {
    home.program(interop("pyzord"))
}

/// Returns what a remote server receives when this home's server has counted reports and whitelistings and stops.
fn patterns(home: Home, account: Option<&Account>) -> Vec<String> {
    let remote = Remote::accepting();
    let home = home.forwarding_to(&[remote.name()]);
    let home = match account {
        Some(account) => home.forwarding_as(&remote.name(), account),
        None => home,
    };
    let before = unix_time();
    let server = home.start();
    report_together(server.port(), 0..25);
    let mut caller = Caller::to(server.port());
    for _ in 0..2 {
        assert_eq!(caller.answered("whitelist", &[DIGEST]).code(), 200);
    }
    let digests: Vec<String> = (100..108).map(digest).collect();
    let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
    assert_eq!(caller.answered("whitelist", &digests).code(), 200);
    remote.receives(30);
    assert!(server.stop().success());
    remote.receives(35);
    let requests = remote.requests();
    for request in &requests {
        let thread: u32 = request.header("Thread").unwrap().parse().unwrap();
        assert!((1024..=65_535).contains(&thread), "{}", request.text());
        let time: i64 = request.header("Time").unwrap().parse().unwrap();
        assert!((before..=unix_time()).contains(&time), "{}", request.text());
        request.expect_signed(account.unwrap_or(&Account::with_key("anonymous", "")));
    }
    let mut patterns: Vec<String> = requests.iter().map(|request| request.pattern()).collect();
    // The two kinds do not wait for each other.
    patterns.sort();
    patterns
}

#[test]
fn requests_are_those_of_the_established_server() {
    let bob = Account::new("bob");
    for account in [None, Some(&bob)] {
        let ours = patterns(Home::open().config("ForwardDelay = 60\n"), account);
        assert_eq!(ours.len(), 4);
        assert_eq!(ours, patterns(established(Home::open()), account));
    }
}

#[test]
fn request_has_exactly_these_headers() {
    let remote = Remote::accepting();
    let server = Home::open().forwarding_to(&[remote.name()]).start();
    report(server.port(), 7..8);
    remote.receives(1);
    let request = &remote.requests()[0];
    let value = |name: &str| request.header(name).unwrap();
    let expected = format!(
        "Op: report\nOp-Spec: 20,3,60,3\nOp-Digest: {}\nForward-Id: {}\nThread: {}\nPV: 2.1\nUser: anonymous\nTime: \
         {}\nSig: {}\n\n",
        digest(7),
        value("Forward-Id"),
        value("Thread"),
        value("Time"),
        value("Sig")
    );
    assert_eq!(request.text(), expected);
    let id: Vec<&str> = value("Forward-Id").split('-').collect();
    assert!(id.len() == 3 && id[0].len() == 16 && id[1].parse::<u64>().is_ok() && id[2] == "1", "{id:?}");
}

#[test]
fn every_accepted_digest_is_sent_and_nothing_else() {
    let remote = Remote::accepting();
    let home = Home::open().access("check report ping : anonymous : allow\n").forwarding_to(&[remote.name()]);
    let server = home.start();
    let (one, two) = (digest(1), digest(2));
    assert_eq!(server.request("report", &[&one, &two, &one]).code(), 200);
    assert_eq!(server.request("check", &[&digest(3)]).code(), 200);
    assert_eq!(server.request("whitelist", &[&digest(4)]).code(), 403);
    assert_ne!(server.request("report", &["nonsense"]).code(), 200);
    assert_eq!(server.request("report", &[&two]).code(), 200);
    remote.receives(4);
    assert!(server.stop().success());
    assert_eq!(remote.counts("report"), [(one, 2), (two, 2)].into());
    remote.receives(4);
}

/// With this delay only a full request is sent in time for the test.
#[test]
fn full_request_does_not_wait_for_the_delay() {
    let remote = Remote::accepting();
    let home = Home::open().config("ForwardDelay = 60\n").forwarding_to(&[remote.name()]);
    let server = home.start();
    report(server.port(), 0..12);
    remote.receives(10);
    home.forwarding_settled(&remote.name(), 10);
    assert!(server.stop().success());
    let sizes: Vec<usize> = remote.requests().iter().map(|request| request.digests().len()).collect();
    assert_eq!(sizes, [10, 2]);
}

/// A busy machine may need several attempts.
#[test]
fn ten_reports_arrive_within_a_second_of_the_tenth() {
    let remote = Remote::accepting();
    let server = Home::open().forwarding_to(&[remote.name()]).start();
    let mut delays = Vec::new();
    for attempt in 1..=5 {
        report(server.port(), 0..10);
        let tenth = Instant::now();
        remote.receives(attempt * 10);
        let delay = remote.requests().last().unwrap().at.saturating_duration_since(tenth);
        delays.push(delay);
        if delay < Duration::from_secs(1) {
            return;
        }
    }
    panic!("they arrived after {delays:?}");
}

/// The remote server permits only the account, so each line of its log proves a valid signature.
#[test]
fn established_server_counts_and_logs_what_is_forwarded() {
    let bob = Account::new("bob");
    let remote = established(Home::new().passwd(bob.passwd()).access("all : bob : allow\n"));
    let running = remote.start();
    let name = format!("127.0.0.1:{}", running.port());
    let home = Home::open().forwarding_to(&[&name]).forwarding_as(&name, &bob);
    let server = home.start();
    report(server.port(), 0..25);
    report(server.port(), 0..1);
    assert_eq!(server.request("whitelist", &[&digest(0)]).code(), 200);
    let forwarding = home.forwarding_settled(&name, 27);
    assert_eq!((forwarding.count("accepted"), forwarding.text("user")), (27, "bob"));
    assert!(server.stop().success());
    assert!(running.stop().success());
    let expected = (0..25).map(|number| (digest(number), if number == 0 { 2 } else { 1 })).collect();
    assert_eq!(remote.stored(), expected);
    let usage = remote.read("usage.log");
    let requests = usage.lines().filter(|line| line.contains("report") || line.contains("whitelist"));
    let requests: Vec<&str> = requests.collect();
    // At least three full requests and one of each kind; more if the reports took longer than the delay.
    assert!(requests.len() >= 4 && requests.iter().all(|line| line.contains("bob")), "{usage}");
}

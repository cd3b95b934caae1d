//! The questions that reach other servers, and the checks that cause none.

use crate::harness::{Account, DIGEST, Home, Redis, Remote, digest, eventually, unix_time};
use crate::ours::upstream::{PATIENT, asking};

#[test]
fn question_has_exactly_these_headers() {
    let bob = Account::new("bob");
    for account in [None, Some(&bob)] {
        let remote = Remote::counting(7, 2);
        let home = asking(&remote, PATIENT);
        let home = match account {
            Some(account) => home.asking_as(&remote.name(), account),
            None => home,
        };
        let server = home.start();
        let before = unix_time();
        assert_eq!(server.request("check", &[DIGEST]).counts(), (7, 2));
        let question = &remote.datagrams()[0];
        let value = |name: &str| question.header(name).unwrap();
        let expected = format!(
            "Op: check\nOp-Spec: 20,3,60,3\nOp-Digest: {DIGEST}\nLocal-Only: yes\nThread: {}\nPV: 2.1\nUser: {}\n\
             Time: {}\nSig: {}\n\n",
            value("Thread"),
            account.map_or("anonymous", Account::name),
            value("Time"),
            value("Sig")
        );
        assert_eq!(question.text(), expected);
        question.expect_signed(account.unwrap_or(&Account::with_key("anonymous", "")));
        assert!((1024..=65_535).contains(&value("Thread").parse::<u32>().unwrap()));
        assert!((before..=unix_time()).contains(&value("Time").parse().unwrap()));
        assert!(!home.everything_said().contains(bob.key()));
    }
}

/// Asserts that nothing was asked, by a check that is: it comes last.
#[track_caller]
fn expect_only_question(home: &Home, port: u16, remote: &Remote, last: u32) {
    assert_eq!(crate::harness::Caller::to(port).answered("check", &[&digest(last)]).counts(), (7, 2));
    assert_eq!(remote.counts("check"), [(digest(last), 1)].into());
    assert_eq!(home.opinions().missed(), 1, "{:?}", home.opinions());
}

#[test]
fn nothing_is_asked_about_what_has_a_count_here() {
    let remote = Remote::counting(7, 2);
    let home = asking(&remote, PATIENT);
    let server = home.start();
    for (operation, digests) in [("report", [1, 2]), ("whitelist", [2, 3])] {
        let digests = digests.map(digest);
        assert_eq!(server.request(operation, &digests.each_ref().map(String::as_str)).code(), 200);
    }
    for (number, counts) in [(1, (1, 0)), (2, (1, 1)), (3, (0, 1))] {
        assert_eq!(server.request("check", &[&digest(number)]).counts(), counts);
    }
    expect_only_question(&home, server.port(), &remote, 4);
}

#[test]
fn check_of_several_digests_asks_about_the_first_alone() {
    let remote = Remote::counting(7, 2);
    let home = asking(&remote, PATIENT);
    let server = home.start();
    assert_eq!(server.request("report", &[&digest(2)]).code(), 200);
    assert_eq!(server.request("check", &[&digest(1), &digest(3)]).counts(), (7, 2));
    assert_eq!(server.request("check", &[&digest(2), &digest(3)]).counts(), (1, 0));
    assert_eq!(server.request("check", &[&digest(4), &digest(2)]).counts(), (7, 2));
    assert_eq!(remote.counts("check"), [(digest(1), 1), (digest(4), 1)].into());
}

#[test]
fn other_operations_ask_nothing() {
    let remote = Remote::counting(7, 2);
    let home = asking(&remote, PATIENT);
    let server = home.start();
    assert_eq!(server.request("ping", &[]).code(), 200);
    let info = server.request("info", &[&digest(1)]);
    assert_eq!((info.counts(), info.times()), ((0, 0), [0; 4]));
    assert_eq!(server.request("report", &[&digest(2)]).code(), 200);
    assert_eq!(server.request("whitelist", &[&digest(2)]).code(), 200);
    // Answers with the largest count, whatever the digest.
    assert_eq!(server.request("pong", &[&digest(1)]).code(), 200);
    expect_only_question(&home, server.port(), &remote, 4);
}

#[test]
fn invalid_digests_and_refused_checks_ask_nothing() {
    let (bob, eve) = (Account::new("bob"), Account::new("eve"));
    let remote = Remote::counting(7, 2);
    let home = Home::new().passwd(bob.passwd() + &eve.passwd()).config(PATIENT).asking(&[remote.name()]);
    let home = home.access("check : anonymous eve : allow\nall : bob : deny\n");
    let server = home.start();
    let long = "a".repeat(41);
    for digest in ["", "x", "abc", &long, "g000000000000000000000000000000000000000", "anonymous", "../../x"]
    {
        let without = Home::open().start();
        let request = format!("Op: check\nOp-Digest: {digest}\nPV: 2.1\nThread: 3000\n\n");
        server.expect(&request, without.ask(&request));
    }
    assert_eq!(server.request_as(&bob, "check", &[&digest(1)]).code(), 403);
    let wrong = Account::with_key("eve", bob.key());
    assert_eq!(server.request_as(&wrong, "check", &[&digest(1)]).code(), 401);
    for request in [
        "Op: check\nPV: 2.1\nThread: 3000\n\n".to_owned(),
        format!("Op: check\nOp-Digest: {}\nThread: 3000\n\n", digest(1)),
        format!("Op: check\nOp-Digest: {}\nPV: 3.1\nThread: 3000\n\n", digest(1)),
    ] {
        server.ask(request);
    }
    expect_only_question(&home, server.port(), &remote, 4);
}

/// It is not known whether the digest has a count.
#[test]
fn nothing_is_asked_while_the_database_is_unavailable() {
    let (mut redis, remote) = (Redis::start(), Remote::counting(7, 2));
    let database = format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port());
    let home = asking(&remote, &format!("{PATIENT}{database}"));
    let server = home.start();
    redis.service().kill();
    for number in 0..5 {
        assert_eq!(server.request("check", &[&digest(number)]).code(), 500);
    }
    assert_eq!((remote.received(), home.opinions().missed()), (0, 0));
    redis.restart();
    eventually("the database", || (server.request("check", &[DIGEST]).code() == 200).then_some(()));
    assert_eq!(remote.counts("check"), [(DIGEST.to_owned(), 1)].into());
}

/// A server that asks for a second opinion wants the first one of this server.
#[test]
fn checks_with_local_only_are_answered_from_the_database_alone() {
    let remote = Remote::counting(7, 2);
    let home = asking(&remote, PATIENT);
    let server = home.start();
    let check = |number: u32, header: &str| {
        format!("Op: check\nOp-Digest: {}\n{header}Thread: 3000\nPV: 2.1\n\n", digest(number))
    };
    let missed = super::found(3000, (0, 0));
    for header in ["Local-Only: yes\n", "local-only: YES\n"] {
        server.expect(check(1, header), &missed);
    }
    assert_eq!(home.opinions().declined("local_only"), 2);
    assert!(remote.requests().is_empty());
    for (number, header) in [(2, "Local-Only: no\n"), (3, "Local-Only:\n"), (4, "Local: yes\n")] {
        server.expect(check(number, header), super::found(3000, (7, 2)));
    }
    // Not from the cache either: that is no first opinion.
    server.expect(check(2, "Local-Only: yes\n"), &missed);
    assert_eq!(server.request("report", &[&digest(2)]).code(), 200);
    server.expect(check(2, "Local-Only: yes\n"), super::found(3000, (1, 0)));
    assert_eq!(remote.received(), 3);
}

#[test]
fn nothing_is_asked_by_default() {
    let server = Home::open().start();
    assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0));
    assert!(crate::harness::ask_operator(server.home(), "status")["status"]["upstream"].is_null());
    let status = std::fs::read_dir(server.process().proc("task")).unwrap().flatten();
    let names = status.map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap());
    assert!(names.into_iter().all(|name| !name.contains("upstream")));
}

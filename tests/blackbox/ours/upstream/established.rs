//! The established server as the other one, and its client.

use crate::harness::{Account, Client, DIGEST, Home, Remote, Server, digest, interop};
use crate::ours::upstream::PATIENT;

fn name(server: &Server) -> String {
    format!("127.0.0.1:{}", server.port())
}

/// Starts an established server with three reports and a whitelisting of the first digest, two whitelistings of the
/// second, and a report of the third.
fn established(home: Home) -> Server {
    let server = home.program(interop("pyzord")).start();
    let [one, two, three] = [1, 2, 3].map(digest);
    for (operation, digest) in [
        ("report", &one),
        ("whitelist", &two),
        ("report", &one),
        ("whitelist", &one),
        ("report", &one),
        ("whitelist", &two),
        ("report", &three),
    ] {
        assert_eq!(server.request(operation, &[digest]).code(), 200);
    }
    server
}

#[test]
fn counts_of_the_established_server_are_answered_byte_for_byte() {
    let other = established(Home::open());
    let home = Home::open().config(PATIENT).asking(&[name(&other)]);
    let server = home.start();
    assert_eq!(server.request("report", &[&digest(9)]).code(), 200);
    for (number, counts) in [(1, (3, 1)), (2, (0, 2)), (3, (1, 0)), (4, (0, 0))] {
        for _ in 0..2 {
            let request =
                format!("Op: check\nOp-Digest: {}\nPV: 2.1\nThread: 1{number}000\n\n", digest(number));
            assert_eq!(server.request("check", &[&digest(number)]).counts(), counts);
            server.expect(&request, other.ask(&request));
        }
    }
    assert_eq!(server.request("check", &[&digest(9)]).counts(), (1, 0));
    let opinions = home.opinions();
    assert_eq!(["asked", "found", "not_found", "unanswered"].map(|it| opinions.count(it)), [4, 3, 1, 0]);
    assert_eq!(opinions.count_of(&name(&other), "answered"), 4);
    // A question is no report.
    assert!(server.stop().success());
    assert_eq!(home.stored(), [(digest(9), 1)].into());
    assert_eq!(other.request("check", &[&digest(1)]).counts(), (3, 1));
}

#[test]
fn established_client_finds_what_other_servers_know() {
    let bob = Account::new("bob");
    let other = established(Home::open());
    let home = Home::new().passwd(bob.passwd()).access("all : bob : allow\ncheck : anonymous : allow\n");
    let server = home.config(PATIENT).asking(&[name(&other)]).start();
    let ours = [Client::new(&server), Client::with_account(&server, &bob)];
    let theirs = Client::new(&other);
    for number in 1..5 {
        let expected = theirs.run("check", &[&digest(number)]);
        let port = |text: &[u8], server: &Server| {
            String::from_utf8_lossy(text).replace(&server.port().to_string(), "PORT")
        };
        for client in &ours {
            let got = client.run("check", &[&digest(number)]);
            assert_eq!(port(&got.stdout, &server), port(&expected.stdout, &other));
            assert_eq!((got.status.code(), got.stderr.is_empty()), (expected.status.code(), true), "{got:?}");
        }
    }
}

/// Its timeout is 5 s, which a silent server must not use up.
#[test]
fn established_client_gets_the_plain_miss_while_another_server_is_silent() {
    let silent = Remote::silent();
    let server = Home::open().config("UpstreamTimeout = 1\n").asking(&[silent.name()]).start();
    let without = Home::open().start();
    let expected = Client::new(&without).run("check", &[DIGEST]);
    let got = Client::new(&server).run("check", &[DIGEST]);
    let clean = |text: &[u8], server: &Server| {
        String::from_utf8_lossy(text).replace(&server.port().to_string(), "PORT")
    };
    assert_eq!(clean(&got.stdout, &server), clean(&expected.stdout, &without));
    assert_eq!((got.status.code(), got.stderr.is_empty()), (expected.status.code(), true), "{got:?}");
    assert_eq!(silent.counts("check"), [(DIGEST.to_owned(), 1)].into());
}

#[test]
fn account_of_the_established_server_is_used() {
    let bob = Account::new("bob");
    let home = Home::new().passwd(bob.passwd()).access("all : bob : allow\n");
    let other = home.program(interop("pyzord")).start();
    assert_eq!(other.request_as(&bob, "report", &[DIGEST]).code(), 200);
    let home = Home::open().config(PATIENT).asking(&[name(&other)]).asking_as(&name(&other), &bob);
    let server = home.start();
    assert_eq!(server.request("check", &[DIGEST]).counts(), (1, 0));

    let wrong = Account::with_key("bob", Account::new("eve").key());
    let home = Home::open().config(PATIENT).asking(&[name(&other)]).asking_as(&name(&other), &wrong);
    let server = home.start();
    assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0));
    let opinions = home.opinions();
    assert_eq!(opinions.refused(&name(&other), 401), 1, "{opinions:?}");
    assert_eq!((opinions.count("unanswered"), opinions.count_of(&name(&other), "silent")), (1, 0));
    let said = home.everything_said();
    assert!(!said.contains(bob.key()) && !said.contains(wrong.key()), "{said}");
}

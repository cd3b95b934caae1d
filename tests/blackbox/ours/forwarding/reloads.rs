//! The directory is read again while the server runs.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Account, Answer, Home, Remote, Server, accept, digest, eventually, free_port, lines};
use crate::ours::forwarding::report;

fn reload(server: &Server, home: &Home, signal: Signal, names: &[String]) {
    home.remotes_file("servers", &lines(names));
    server.signal(signal);
}

#[test]
fn reload_adds_and_removes_servers() {
    let remotes = [Remote::accepting(), Remote::accepting(), Remote::accepting()];
    let names = remotes.each_ref().map(Remote::name);
    for signal in [Signal::SIGUSR1, Signal::SIGHUP] {
        let home = Home::open().config("ForwardDelay = 60\n").forwarding_to(&names[..2]);
        let server = home.start();
        let before = remotes.each_ref().map(Remote::received);
        let new = |at: usize| remotes[at].received() - before[at];
        report(server.port(), 0..13);
        home.forwarding_settled(&names[1], 10);
        reload(&server, &home, signal, &names[1..]);
        eventually("the new server", || home.find_forwarding(&names[2]));
        // A removed server is sent what was due, once.
        eventually("the rest at the removed server", || (new(0) == 13).then_some(()));
        eventually("the removed server to be gone", || {
            home.find_forwarding(&names[0]).is_none().then_some(())
        });
        assert!(home.forwarding(&names[1]).count("accepted") >= 10);
        report(server.port(), 13..20);
        assert!(server.stop().success());
        assert_eq!([new(0), new(1), new(2)], [13, 20, 7]);
    }
}

#[test]
fn unusable_directory_changes_nothing() {
    let remote = Remote::accepting();
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[remote.name()]);
    let server = home.start();
    let mistyped = format!("{}\nother.example:2444l\n", remote.name());
    for content in ["", "# nothing\n", "bad line:x\n", &mistyped] {
        let before = home.log().len();
        reload(&server, &home, Signal::SIGUSR1, &[content.to_owned()]);
        eventually("a line that names the file", || {
            home.log()[before..].contains(home.remotes().join("servers").to_str().unwrap()).then_some(())
        });
    }
    report(server.port(), 0..5);
    home.forwarding_settled(&remote.name(), 5);
    assert_eq!(remote.counts("report"), (0..5).map(|number| (digest(number), 1)).collect());
}

/// A line with a mistake would make requests anonymous.
#[test]
fn account_is_not_lost_by_a_line_that_is_not_understood() {
    let remote = Remote::accepting();
    let (name, bob) = (remote.name(), Account::new("bob"));
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[&name]).forwarding_as(&name, &bob);
    let server = home.start();
    home.remotes_file("accounts", &bob.client_line(&name).replace(',', ";"));
    server.signal(Signal::SIGUSR1);
    let line =
        format!("requests to {name} would be anonymous; the servers that reports are forwarded to stay");
    eventually("the refusal", || home.log().contains(&line).then_some(()));
    assert!(home.log().contains("accounts:1: not an account: "), "{}", home.log());
    report(server.port(), 0..5);
    home.forwarding_settled(&name, 5);
    remote.requests().iter().for_each(|request| request.expect_signed(&bob));
    assert!(!home.everything_said().contains(bob.key()));
}

/// A line that was removed or changed by mistake is often restored soon.
#[test]
fn server_that_is_removed_in_an_outage_and_added_again_gets_everything() {
    let mut remote = Remote::closed_at("127.0.0.1", free_port(), accept);
    let other = Remote::accepting();
    let names = [remote.name(), other.name()];
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&names);
    let server = home.start();
    report(server.port(), 0..1);
    home.forwarding_with(&names[0], "an outage", |it| it.state() == "unavailable");
    report(server.port(), 1..50);
    reload(&server, &home, Signal::SIGUSR1, &names[1..]);
    eventually("the removal", || home.find_forwarding(&names[0]).is_none().then_some(()));
    reload(&server, &home, Signal::SIGUSR1, &names);
    let again =
        format!("Forwarding to {} (anonymous) begins again, with 49 digests that are queued", names[0]);
    eventually("the queue", || home.log().contains(&again).then_some(()));
    remote.open();
    let back = home.forwarding_settled(&names[0], 50);
    assert_eq!((back.count("accepted"), back.count("dropped")), (49, 0), "{back:?}");
}

/// Its counters are gone with it.
#[test]
fn what_a_removed_server_refuses_is_in_the_log() {
    let remote = Remote::start(|it| Answer::Later(Duration::from_millis(300), it.reply(403)));
    let other = Remote::accepting();
    let names = [remote.name(), other.name()];
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&names);
    let server = home.start();
    report(server.port(), 0..100);
    reload(&server, &home, Signal::SIGUSR1, &names[1..]);
    let begin = format!("Forwarding to {} since the last report: ", names[0]);
    let line = eventually("the shortfall", || {
        let log = home.log();
        log.lines().find_map(|line| line.split_once(&begin).map(|(_, rest)| rest.to_owned()))
    });
    assert_eq!(line, "100 refused with code 403, 0 accepted");
    assert_eq!(remote.received(), 100);
}

/// A wrong key or a missing accounts file is often corrected while nothing can be sent.
#[test]
fn server_whose_account_changes_keeps_its_queue_and_its_state() {
    let mut remote = Remote::closed_at("127.0.0.1", free_port(), accept);
    let name = remote.name();
    let (wrong, bob) = (Account::with_key("bob", Account::new("eve").key()), Account::new("bob"));
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[&name]).forwarding_as(&name, &wrong);
    let server = home.start();
    report(server.port(), 0..1);
    home.forwarding_with(&name, "an outage", |it| it.state() == "unavailable");
    report(server.port(), 1..50);
    let reload = |line: &str| {
        server.signal(Signal::SIGUSR1);
        eventually(line, || home.log().contains(line).then_some(()));
        let forwarding = home.forwarding(&name);
        assert_eq!((forwarding.state(), forwarding.number("queued")), ("unavailable", 49), "{forwarding:?}");
        assert_eq!(forwarding.count("requests"), 1, "{forwarding:?}");
    };
    home.remotes_file("accounts", &bob.client_line(&name));
    reload(&format!("Forwarding to {name}: the key of the account bob has changed"));
    fs::remove_file(home.remotes().join("accounts")).unwrap();
    reload(&format!("Forwarding to {name}: account changed from bob to anonymous"));
    home.remotes_file("accounts", &bob.client_line(&name));
    reload(&format!("Forwarding to {name}: account changed from anonymous to bob"));
    remote.open();
    let back = home.forwarding_settled(&name, 50);
    assert_eq!((back.count("accepted"), back.text("user")), (49, "bob"), "{back:?}");
    remote.requests().iter().for_each(|request| request.expect_signed(&bob));
    let said = home.everything_said();
    assert!(!said.contains(bob.key()) && !said.contains(wrong.key()), "{said}");
}

//! The directory is read again while the server runs.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{
    Account, Caller, Home, PATIENCE, Remote, Server, controller, digest, eventually, finish, lines,
};
use crate::ours::upstream::{PATIENT, asking, expect_before_timeout, send_checks};

/// The ways to let a server read its files again.
const WAYS: [Option<Signal>; 3] = [Some(Signal::SIGUSR1), Some(Signal::SIGHUP), None];

fn pyzorctl(home: &Home) -> Command {
    let mut command = Command::new(controller());
    command.arg("--homedir").arg(home.directory()).arg("reload");
    command
}

fn reload(server: &Server, way: Option<Signal>) {
    match way {
        Some(signal) => server.signal(signal),
        None => {
            let finished = finish(pyzorctl(server.home()));
            assert_eq!(finished.code, Some(0), "{finished:?}");
        }
    }
}

/// Checks new digests until one has these counts: a new server is asked as soon as its address is known.
#[track_caller]
fn expect_counts(server: &Server, counts: (i64, i64)) {
    let mut number = 1_000_000;
    eventually("the counts", || {
        number += 1;
        (server.request("check", &[&digest(number)]).counts() == counts).then_some(())
    });
}

#[test]
fn servers_are_replaced_while_checks_wait_and_each_is_answered() {
    for way in WAYS {
        let remotes = [Remote::silent(), Remote::counting(7, 2)];
        let [old, new] = remotes.each_ref().map(Remote::name);
        let home = asking(&remotes[0], PATIENT);
        let server = home.start();
        let caller = Caller::to(server.port());
        send_checks(&caller, 0..30);
        remotes[0].receives(30);
        home.upstream_file("servers", &lines(&[&new]));
        reload(&server, way);
        home.opinions_with("the new server", |it| it.knows(&new) && !it.knows(&old));
        expect_counts(&server, (7, 2));
        for _ in 0..30 {
            assert_eq!(caller.receive(PATIENCE).expect("no reply").counts(), (0, 0));
        }
        expect_before_timeout(remotes[0].requests()[0].at);
        home.opinions_with("no waiting check", |it| it.number("waiting") == 0);
        assert_eq!(remotes[0].received(), 30);
        // The old server did not answer, which is not kept.
        assert_eq!(server.request("check", &[&digest(0)]).counts(), (7, 2));
        assert!(server.stop().success());
    }
}

#[test]
fn server_that_stays_keeps_its_questions_and_its_counters() {
    for way in WAYS {
        let (stays, new) = (Remote::holding(7, 2), Remote::counting(1, 1));
        let home = asking(&stays, PATIENT);
        let server = home.start();
        let caller = Caller::to(server.port());
        send_checks(&caller, 0..10);
        stays.receives(10);
        home.upstream_file("servers", &lines(&[new.name(), stays.name()]));
        reload(&server, way);
        home.opinions_with("the new server", |it| it.knows(&new.name()));
        stays.release();
        for _ in 0..10 {
            assert_eq!(caller.receive(PATIENCE).expect("no reply").counts(), (7, 2));
        }
        assert_eq!(home.opinions().count_of(&stays.name(), "answered"), 10);
        stays.follow(|datagram| crate::harness::counting(datagram, (3, 0)));
        expect_counts(&server, (3, 1));
    }
}

/// What the old servers have answered says nothing about the new ones.
#[test]
fn answers_of_replaced_servers_are_forgotten() {
    let (old, new) = (Remote::counting(7, 2), Remote::counting(0, 0));
    let home = asking(&old, PATIENT);
    let server = home.start();
    for number in 0..3 {
        assert_eq!(server.request("check", &[&digest(number)]).counts(), (7, 2));
    }
    // Nothing has changed: the answers are kept.
    reload(&server, WAYS[2]);
    assert_eq!(server.request("check", &[&digest(0)]).counts(), (7, 2));
    assert_eq!(old.received(), 3);
    home.upstream_file("servers", &lines(&[new.name()]));
    let said = finish(pyzorctl(&home)).stdout;
    for line in
        [format!("from {} (anonymous) begin", new.name()), format!("from {} (anonymous) end", old.name())]
    {
        assert!(said.contains(&line), "{line}: {said}");
    }
    home.opinions_with("the new server", |it| it.knows(&new.name()));
    eventually("the end of the old answers", || {
        (server.request("check", &[&digest(0)]).counts() == (0, 0)).then_some(())
    });
    assert_eq!((old.received(), new.counts("check").len()), (3, 1));
}

/// One server has answered, and the other is waited for, when both are replaced. The check may get that answer, but what
/// was asked before says nothing about the new server.
#[test]
fn answer_of_a_replaced_server_is_not_kept_either_if_its_question_was_under_way() {
    for stays in [false, true] {
        let (old, slow, new) = (Remote::counting(7, 2), Remote::holding(0, 0), Remote::counting(1, 0));
        let home = Home::open().config(PATIENT).asking(&[old.name(), slow.name()]);
        let server = home.start();
        let caller = Caller::to(server.port());
        send_checks(&caller, 0..1);
        home.opinions_with("one answer", |it| it.count_of(&old.name(), "answered") == 1);
        slow.receives(1);
        let names = if stays { vec![new.name(), slow.name()] } else { vec![new.name()] };
        home.upstream_file("servers", &lines(&names));
        reload(&server, WAYS[2]);
        home.opinions_with("the new server", |it| it.knows(&new.name()));
        slow.release();
        let counts = caller.receive(PATIENCE).expect("no reply").counts();
        assert!([(7, 2), (0, 0)].contains(&counts), "{counts:?}");
        slow.follow(|datagram| crate::harness::counting(datagram, (0, 0)));
        expect_counts(&server, (1, 0));
        assert_eq!(server.request("check", &[&digest(0)]).counts(), (1, 0), "stays: {stays}");
    }
}

#[test]
fn broken_directory_leaves_the_old_servers() {
    let remote = Remote::counting(7, 2);
    let home = asking(&remote, PATIENT);
    let server = home.start();
    let mut number = 0;
    for content in ["", "# nothing\n", "bad line:x\n", "bad line:x\n127.0.0.1:9\n"] {
        for way in WAYS {
            let before = home.log().len();
            home.upstream_file("servers", content);
            match way {
                Some(_) => reload(&server, way),
                None => assert_eq!(finish(pyzorctl(&home)).code, Some(1)),
            }
            eventually("a line that names the file", || {
                let log = home.log();
                let file = home.upstream_directory().join("servers");
                let is_it =
                    |line: &&str| line.contains("UpstreamHomeDir") && line.contains(file.to_str().unwrap());
                log[before..].lines().find(is_it).is_some().then_some(())
            });
            number += 1;
            assert_eq!(server.request("check", &[&digest(number)]).counts(), (7, 2));
        }
    }
    std::fs::remove_dir_all(home.upstream_directory()).unwrap();
    let before = home.log().len();
    reload(&server, WAYS[0]);
    eventually("a line", || home.log()[before..].contains("UpstreamHomeDir").then_some(()));
    assert_eq!(server.request("check", &[&digest(1000)]).counts(), (7, 2));
}

#[test]
fn changed_account_signs_the_next_question() {
    let (wrong, bob) = (Account::with_key("bob", Account::new("eve").key()), Account::new("bob"));
    let remote = Remote::counting(7, 2);
    let name = remote.name();
    let home = asking(&remote, PATIENT).asking_as(&name, &wrong);
    let server = home.start();
    for (number, line) in [
        (1, format!("{name}: the key of the account bob has changed")),
        (2, format!("{name}: account changed from bob to anonymous")),
        (3, format!("{name}: account changed from anonymous to bob")),
    ] {
        assert_eq!(server.request("check", &[&digest(number)]).counts(), (7, 2));
        let accounts = if number == 2 { String::new() } else { bob.client_line(&name) };
        home.upstream_file("accounts", &accounts);
        server.signal(Signal::SIGUSR1);
        eventually(&line, || home.log().contains(&line).then_some(()));
    }
    assert_eq!(server.request("check", &[&digest(4)]).counts(), (7, 2));
    let anonymous = Account::with_key("anonymous", "");
    for (question, account) in remote.requests().iter().zip([&wrong, &bob, &anonymous, &bob]) {
        question.expect_signed(account);
    }
    let said = home.everything_said();
    assert!(!said.contains(bob.key()) && !said.contains(wrong.key()), "{said}");
}

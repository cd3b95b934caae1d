//! Servers that do not answer for a while.

use std::ops::Range;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{
    Answer, Caller, Datagram, Home, PATIENCE, Remote, Server, accept, counting, digest, eventually, free_port,
};
use crate::ours::upstream::{HASTY, PATIENT, asking, expect_before_timeout, send_checks};

/// Checks each digest, one after the other, each of which must be a miss.
#[track_caller]
fn miss(server: &Server, numbers: Range<u32>) {
    let mut caller = Caller::to(server.port());
    for number in numbers {
        assert_eq!(caller.answered("check", &[&digest(number)]).counts(), (0, 0));
    }
}

fn pings(remote: &Remote) -> Vec<Datagram> {
    remote.datagrams().into_iter().filter(|datagram| datagram.operation() == "ping").collect()
}

/// Asserts that the log has one line with the server's name and each text.
#[track_caller]
fn expect_one_line_each(home: &Home, name: &str, texts: &[&str]) {
    let log = home.log();
    for text in texts {
        let lines = log.lines().filter(|line| line.contains(name) && line.contains(text));
        assert_eq!(lines.count(), 1, "{text}: {log}");
    }
}

#[test]
fn silent_server_is_unavailable_after_three_silent_questions() {
    let remote = Remote::silent();
    let name = remote.name();
    let home = asking(&remote, HASTY);
    let server = home.start();
    miss(&server, 0..3);
    let away = home.opinions_while(&name, "unavailable");
    assert!(!away.text(&name, "reason").is_empty(), "{away:?}");
    assert_eq!((away.count("unanswered"), away.count_of(&name, "silent")), (3, 3), "{away:?}");
    // Nothing is asked any more: the number of questions shows that nothing was waited for.
    miss(&server, 3..100);
    assert_eq!(remote.received(), 3);
    assert_eq!(home.opinions().declined("unavailable"), 97, "{:?}", home.opinions());
    eventually("two pings", || (pings(&remote).len() >= 2).then_some(()));
    let ping = &pings(&remote)[0];
    assert!(ping.digests().is_empty() && ping.header("Op-Spec").is_none(), "{}", ping.text());
    assert_eq!(remote.received(), 3);

    remote.follow(|datagram| counting(datagram, (7, 2)));
    eventually("an answer", || (server.request("check", &[&digest(200)]).counts() == (7, 2)).then_some(()));
    home.opinions_while(&name, "available");
    // What was not answered is asked for again.
    assert_eq!(server.request("check", &[&digest(0)]).counts(), (7, 2));
    expect_one_line_each(&home, &name, &["is unavailable", "is available again"]);
}

/// A database that hangs, or a middlebox that drops what is larger than a ping.
#[test]
fn server_that_replies_to_pings_alone_is_tried_with_one_question_at_a_time() {
    let remote = Remote::start(|datagram| match datagram.operation() {
        "ping" => accept(datagram),
        _ => Answer::Silence,
    });
    let name = remote.name();
    let home = asking(&remote, HASTY);
    let server = home.start();
    miss(&server, 0..3);
    home.opinions_while(&name, "unavailable");
    let caller = Caller::to(server.port());
    for round in 1..4 {
        home.opinions_while(&name, "on_trial");
        let before = remote.received();
        server.signal(Signal::SIGSTOP);
        send_checks(&caller, 100 * round..100 * round + 50);
        server.signal(Signal::SIGCONT);
        for _ in 0..50 {
            assert_eq!(caller.receive(PATIENCE).expect("no reply").counts(), (0, 0));
        }
        let asked = remote.received() - before;
        assert!(asked <= 3, "{asked}");
    }
    expect_one_line_each(&home, &name, &["is unavailable"]);
    assert!(!home.log().contains("is available again"), "{}", home.log());
    remote.follow(|datagram| counting(datagram, (7, 2)));
    eventually("an answer", || (server.request("check", &[&digest(999)]).counts() == (7, 2)).then_some(()));
    home.opinions_while(&name, "available");
    expect_one_line_each(&home, &name, &["is unavailable", "is available again"]);
}

/// The kernel reports a closed port, so no timeout ends, which the counters show.
#[test]
fn closed_port_is_noticed_at_once() {
    let mut remote = Remote::closed_at("127.0.0.1", free_port(), |datagram| counting(datagram, (7, 2)));
    let name = remote.name();
    let home = asking(&remote, PATIENT);
    let server = home.start();
    miss(&server, 0..1);
    let away = home.opinions_while(&name, "unavailable");
    assert!(away.text(&name, "reason").contains("port"), "{away:?}");
    miss(&server, 1..50);
    assert_eq!(home.opinions().declined("unavailable"), 49, "{:?}", home.opinions());
    remote.open();
    eventually("an answer", || (server.request("check", &[&digest(200)]).counts() == (7, 2)).then_some(()));
    home.opinions_while(&name, "available");
    expect_one_line_each(&home, &name, &["is unavailable", "is available again"]);
}

/// A question that waits when the port closes is answered by the outage.
#[test]
fn waiting_checks_are_answered_when_the_port_closes() {
    let mut remote = Remote::silent();
    let home = asking(&remote, PATIENT);
    let server = home.start();
    let caller = Caller::to(server.port());
    send_checks(&caller, 0..20);
    remote.receives(20);
    remote.close();
    // What meets the closed port.
    miss(&server, 100..101);
    home.opinions_while(&remote.name(), "unavailable");
    for _ in 0..20 {
        assert_eq!(caller.receive(PATIENCE).expect("no reply").counts(), (0, 0));
    }
    expect_before_timeout(remote.requests()[0].at);
}

/// A burst is one occasion, however many questions it has.
#[test]
fn lost_burst_of_many_questions_is_no_outage() {
    let remote = Remote::silent();
    let name = remote.name();
    let home = asking(&remote, HASTY);
    let server = home.start();
    let caller = Caller::to(server.port());
    server.signal(Signal::SIGSTOP);
    send_checks(&caller, 0..50);
    server.signal(Signal::SIGCONT);
    for _ in 0..50 {
        assert_eq!(caller.receive(PATIENCE).expect("no reply").counts(), (0, 0));
    }
    let opinions = home.opinions();
    assert_ne!(opinions.state(&name), "unavailable", "{opinions:?}");
    assert_eq!(opinions.count_of(&name, "silent"), 50, "{opinions:?}");
    assert_eq!(opinions.declined("unavailable"), 0);
    remote.follow(|datagram| counting(datagram, (7, 2)));
    eventually("an answer", || (server.request("check", &[&digest(100)]).counts() == (7, 2)).then_some(()));
    assert!(!home.log().contains("is unavailable"), "{}", home.log());
}

/// Its replies are never of use, and cost every client the timeout.
#[test]
fn server_that_always_answers_too_late_stays_unavailable() {
    let remote = Remote::start(|datagram| match datagram.operation() {
        "ping" => Answer::Later(Duration::from_millis(1500), datagram.reply(200)),
        _ => Answer::Later(Duration::from_millis(1500), datagram.counted((7, 2))),
    });
    let name = remote.name();
    let home = asking(&remote, HASTY);
    let server = home.start();
    miss(&server, 0..3);
    home.opinions_while(&name, "unavailable");
    let mut next = 3;
    eventually("several pings", || {
        miss(&server, next..next + 5);
        next += 5;
        std::thread::sleep(Duration::from_millis(50));
        (pings(&remote).len() >= 4).then_some(())
    });
    let opinions = home.opinions();
    assert_eq!((opinions.count("found"), opinions.count_of(&name, "answered")), (0, 0), "{opinions:?}");
    assert_ne!(opinions.state(&name), "available", "{opinions:?}");
    assert!(opinions.count("asked") <= 3 + 2 * pings(&remote).len() as u64, "{opinions:?}");
    expect_one_line_each(&home, &name, &["is unavailable"]);
    assert!(!home.log().contains("is available again"), "{}", home.log());
}

/// Of two servers, one is away: checks get the answer of the other without waiting.
#[test]
fn unavailable_server_is_not_waited_for() {
    let (good, silent) = (Remote::counting(7, 2), Remote::silent());
    let home = Home::open().config("UpstreamTimeout = 2\n").asking(&[good.name(), silent.name()]);
    let server = home.start();
    let mut caller = Caller::to(server.port());
    for number in 0..3 {
        assert_eq!(caller.answered("check", &[&digest(number)]).counts(), (7, 2));
    }
    home.opinions_while(&silent.name(), "unavailable");
    for number in 3..100 {
        assert_eq!(caller.answered("check", &[&digest(number)]).counts(), (7, 2));
    }
    assert_eq!((good.received(), silent.received()), (100, 3));
    assert_eq!(home.opinions().declined("unavailable"), 0);
}

//! Real servers that are killed and return while checks are asked about, and stopped processes.

use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Caller, DIGEST, Home, PATIENCE, Remote, Server, StopFlag, digest, interop, run};
use crate::ours::upstream::{HASTY, asking};

/// How often the server is killed.
const KILLS: u64 = 3;
/// The number of clients, each with one check under way.
const CLIENTS: u64 = 4;

/// Checks a different digest each time until stopped. Each reply must be a miss, because the other server knows none.
/// Returns the number of checks.
fn load(port: u16, first: u32, over: &StopFlag) -> u32 {
    let mut caller = Caller::to(port);
    let mut sent = 0;
    while !over.is_set() {
        assert_eq!(caller.answered("check", &[&digest(first + sent)]).counts(), (0, 0));
        sent += 1;
        thread::sleep(Duration::from_millis(5));
    }
    sent
}

/// Kills and restarts the server of a home while it is asked.
fn kill_under_load(remote: &Home) {
    let name = format!("127.0.0.1:{}", remote.port());
    let home = Home::open().config("UpstreamTimeout = 2\n").asking(&[&name]);
    let server = home.start();
    let start = || {
        let mut running = Server::start(remote, remote.command());
        running.serves(&mut remote.caller());
        running
    };
    let over = StopFlag::default();
    let mut running = start();
    let checks: u32 = thread::scope(|scope| {
        let guard = over.set_on_drop();
        let port = server.port();
        let loads: Vec<_> = (0..CLIENTS as u32)
            .map(|client| {
                let over = &over;
                scope.spawn(move || load(port, 1_000_000 * client, over))
            })
            .collect();
        for kill in 0..=KILLS {
            let before = home.opinions().count("not_found");
            home.opinions_with("answers", |it| it.count("not_found") > before + 50);
            if kill < KILLS {
                running.process().signal(Signal::SIGKILL);
                home.opinions_while(&name, "unavailable");
                running = start();
            }
        }
        drop(guard);
        loads.into_iter().map(|load| load.join().unwrap()).sum()
    });
    let opinions = home.opinions();
    println!("{checks} checks, {opinions:?}");
    assert_eq!(opinions.missed(), u64::from(checks), "{opinions:?}");
    // Each client may lose a check to the queue of the killed process, one to the closed port, and one that was decided
    // on before the outage was known; twice that leaves room for a slow machine.
    assert!(opinions.count("unanswered") <= KILLS * CLIENTS * 3 * 2, "{opinions:?}");
    assert_eq!(opinions.count("asked"), opinions.count("not_found") + opinions.count("unanswered"));
    assert_eq!(opinions.count("found"), 0);
    assert!(server.stop().success());
    running.process().stop();
}

#[test]
fn checks_are_answered_while_a_server_is_killed_and_returns() {
    kill_under_load(&Home::open());
}

#[test]
fn checks_are_answered_while_an_established_server_is_killed_and_returns() {
    // Nothing is written to its database.
    kill_under_load(&Home::open().program(interop("pyzord")));
}

/// The answer came in time, and was only not read.
#[test]
fn answer_that_came_while_this_server_was_stopped_is_used() {
    let remote = Remote::holding(7, 2);
    let home = asking(&remote, HASTY);
    let server = home.start();
    let caller = Caller::to(server.port());
    caller.send("check", &[DIGEST], 2000);
    remote.receives(1);
    server.signal(Signal::SIGSTOP);
    remote.release();
    // Longer than the timeout.
    thread::sleep(Duration::from_millis(1500));
    server.signal(Signal::SIGCONT);
    assert_eq!(caller.receive(PATIENCE).expect("no reply").counts(), (7, 2));
    let opinions = home.opinions();
    assert_eq!(opinions.count_of(&remote.name(), "silent"), 0, "{opinions:?}");
}

/// A suspended machine, or one whose process was stopped.
#[test]
fn server_that_is_stopped_for_a_while_is_asked_again() {
    let remote = Home::open();
    let mut other = Server::start(&remote, remote.command());
    other.serves(&mut remote.caller());
    assert_eq!(remote.caller().answered("report", &[DIGEST]).code(), 200);
    let name = format!("127.0.0.1:{}", remote.port());
    let home = Home::open().config(HASTY).asking(&[&name]);
    let server = home.start();
    other.signal(Signal::SIGSTOP);
    let mut caller = Caller::to(server.port());
    for number in 0..4 {
        assert_eq!(caller.answered("check", &[&digest(number)]).counts(), (0, 0));
    }
    home.opinions_while(&name, "unavailable");
    other.signal(Signal::SIGCONT);
    crate::harness::eventually("an answer", || (caller.count(DIGEST) == 1).then_some(()));
    let opinions = home.opinions_while(&name, "available");
    assert_eq!(opinions.count_of(&name, "silent"), 3, "{opinions:?}");
}

/// The limit of open files is reached: no socket can be opened to ask from.
#[test]
fn lack_of_descriptors_costs_second_opinions_alone() {
    let remote = Remote::counting(7, 2);
    let home = asking(&remote, HASTY);
    let server = home.start();
    let limit = |files: u32| {
        let mut prlimit = Command::new("prlimit");
        prlimit.args([format!("--pid={}", server.pid()), format!("--nofile={files}:1024")]);
        assert!(run(&mut prlimit, b"").status.success());
    };
    // Open ones stay open.
    limit(3);
    let mut caller = Caller::to(server.port());
    for number in 0..20 {
        assert_eq!(caller.answered("check", &[&digest(number)]).counts(), (0, 0));
    }
    assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    assert_eq!(caller.count(DIGEST), 1);
    assert_eq!(remote.received(), 0);
    limit(1024);
    let mut number = 100;
    crate::harness::eventually("an answer", || {
        number += 1;
        (caller.count(&digest(number)) == 7).then_some(())
    });
    assert!(home.log().contains("open files"), "{}", home.log());
    assert!(server.stop().success());
}

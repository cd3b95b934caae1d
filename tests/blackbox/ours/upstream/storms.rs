//! Reloads, outages and checks at the same time.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Caller, Home, Remote, StopFlag, digest, lines};
use crate::ours::upstream::HASTY;

/// How long the servers are replaced.
const DURATION: Duration = Duration::from_secs(5);

/// Checks a different digest each time until stopped. Each reply has the counts of some of the servers, or none. Returns
/// the number of checks.
fn load(port: u16, first: u32, over: &StopFlag) -> u64 {
    let mut caller = Caller::to(port);
    let mut sent = 0;
    while !over.is_set() {
        let (reports, whitelistings) = caller.answered("check", &[&digest(first + sent)]).counts();
        assert!([0, 5].contains(&reports) && [0, 3].contains(&whitelistings), "{reports} {whitelistings}");
        sent += 1;
    }
    u64::from(sent)
}

#[test]
fn every_check_is_answered_while_servers_are_replaced_again_and_again() {
    let remotes = [Remote::counting(5, 0), Remote::counting(0, 3), Remote::silent()];
    let names = remotes.each_ref().map(Remote::name);
    let home: Home =
        Home::open().config(&format!("{HASTY}UpstreamRate = 1000000\nUpstreamCache = 100\n")).asking(&names);
    let server = home.start();
    let before = server.process().descriptors().len();
    let over = StopFlag::default();
    let checks: u64 = thread::scope(|scope| {
        let guard = over.set_on_drop();
        let port = server.port();
        let loads = [0, 1, 2, 3].map(|client| {
            let over = &over;
            scope.spawn(move || load(port, 10_000_000 * client, over))
        });
        let start = Instant::now();
        let mut round = 0;
        while start.elapsed() < DURATION {
            let some: Vec<&String> = names
                .iter()
                .enumerate()
                .filter(|(at, _)| (round + 1) >> at & 1 == 1)
                .map(|(_, name)| name)
                .collect();
            // Without a server the file changes nothing.
            home.upstream_file("servers", &lines(&some));
            server.signal(if round % 2 == 0 { Signal::SIGUSR1 } else { Signal::SIGHUP });
            thread::sleep(Duration::from_millis(20));
            round += 1;
        }
        drop(guard);
        loads.into_iter().map(|load| load.join().unwrap()).sum()
    });
    let opinions = home.opinions_with("no waiting check", |it| it.number("waiting") == 0);
    println!("{checks} checks, {opinions:?}");
    assert_eq!(opinions.missed(), checks, "{opinions:?}");
    let answered: u64 = ["found", "not_found", "unanswered"].iter().map(|name| opinions.count(name)).sum();
    assert_eq!(opinions.count("asked"), answered, "{opinions:?}");
    assert!(opinions.count("found") > 0, "{opinions:?}");
    assert!(opinions.number("cached") <= 100, "{opinions:?}");
    // Four sockets for each server, and some that wait for replies.
    let after = server.process().descriptors().len();
    assert!(after <= before + 3 * 20, "{before} {after}");
    assert!(!home.log().contains("panic"), "{}", home.log());
    assert!(server.stop().success());
}

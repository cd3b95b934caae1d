//! Stops while digests wait.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Answer, Home, Remote, accept, digest, free_port};
use crate::ours::forwarding::{report, report_together};

/// Returns the number of digests that were not sent, according to the log.
#[track_caller]
fn not_sent(home: &Home, name: &str) -> usize {
    let log = home.log();
    let end = format!(" digests were not sent to {name}");
    let line = log.lines().find(|line| line.contains(&end)).unwrap_or_else(|| panic!("no line: {log}"));
    let (_, rest) = line.split_once("Forwarding: ").unwrap_or_else(|| panic!("{line}"));
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn stop_sends_what_waits_and_awaits_replies() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let remote = Remote::start(|datagram| Answer::Later(Duration::from_millis(300), datagram.reply(200)));
        let home = Home::open().config("ForwardDelay = 60\n").forwarding_to(&[remote.name()]);
        let mut server = home.start();
        report(server.port(), 0..3);
        assert_eq!(server.request("whitelist", &[&digest(7)]).code(), 200);
        server.signal(signal);
        assert!(server.ended().success());
        assert_eq!(remote.counts("report"), (0..3).map(|number| (digest(number), 1)).collect());
        assert_eq!(remote.counts("whitelist"), [(digest(7), 1)].into());
        let log = home.log();
        assert!(!log.contains("not sent") && !log.contains("did not reply"), "{log}");
    }
}

/// The timeout is longer than the test's patience.
#[test]
fn stop_with_a_full_queue_logs_what_is_left() {
    let (silent, good) = (Remote::silent(), Remote::accepting());
    let home = Home::open().forwarding_to(&[silent.name(), good.name()]);
    home.remotes_file("config", "[client]\nTimeout = 600\n");
    let server = home.start();
    report_together(server.port(), 0..5000);
    assert!(server.stop().success());
    assert!(silent.requests().len() <= 32);
    assert_eq!(not_sent(&home, &silent.name()), 5000 - silent.received(), "{}", home.log());
    let log = home.log();
    let unanswered = log.lines().find(|line| line.contains("did not reply") && line.contains(&silent.name()));
    let unanswered = unanswered.unwrap_or_else(|| panic!("{log}"));
    assert!(unanswered.contains(&silent.received().to_string()), "{unanswered}");
    // The other server is not affected.
    assert_eq!(good.counts("report"), (0..5000).map(|number| (digest(number), 1)).collect());
    assert!(!log.contains(&format!("not sent to {}", good.name())), "{log}");
}

#[test]
fn stop_in_an_outage_logs_what_is_left() {
    let closed = Remote::closed_at("127.0.0.1", free_port(), accept);
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[closed.name()]);
    let server = home.start();
    report(server.port(), 0..1);
    home.forwarding_with(&closed.name(), "an outage", |it| it.state() == "unavailable");
    report(server.port(), 1..100);
    assert!(server.stop().success());
    // The first one met the closed port.
    assert_eq!(not_sent(&home, &closed.name()), 99);
}

#[test]
fn stop_logs_everything_that_was_not_counted_since_the_last_report() {
    let silent = Remote::silent();
    let home = Home::open().config("ForwardQueue = 1000\n").forwarding_to(&[silent.name()]);
    home.remotes_file("config", "[client]\nTimeout = 60\n");
    let server = home.start();
    report_together(server.port(), 0..3000);
    assert!(server.stop().success());
    let log = home.log();
    let start = format!("Forwarding to {} since the last report: ", silent.name());
    let line = log.lines().find_map(|line| line.split_once(&start)).unwrap_or_else(|| panic!("{log}")).1;
    let number = |after: &str| -> usize {
        let before = line.split_once(after).unwrap_or_else(|| panic!("{after}: {line}")).0;
        before.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(number(" digests dropped") + number(" sent without a reply"), 3000, "{line}");
}

//! Servers that are unavailable for a while.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Answer, Datagram, Home, Remote, accept, digest, free_port};
use crate::ours::forwarding::{report, report_together};

fn closed() -> Remote {
    Remote::closed_at("127.0.0.1", free_port(), accept)
}

/// Forwards one digest, which is lost, so that the outage is known.
fn await_outage(home: &Home, port: u16, remote: &Remote, lost: u32) {
    report(port, lost..lost + 1);
    let away = home.forwarding_with(&remote.name(), "an outage", |it| it.state() == "unavailable");
    assert!(!away.text("reason").is_empty(), "{away:?}");
}

/// A closed port is reported by the kernel, so no timeout ends.
#[test]
fn queue_keeps_ten_thousand_digests_in_an_outage() {
    let mut remote = closed();
    let home = Home::open().config("ForwardRate = 200\n").forwarding_to(&[remote.name()]);
    let server = home.start();
    await_outage(&home, server.port(), &remote, 1_000_000);
    report_together(server.port(), 0..12_000);
    let full = home.forwarding_with(&remote.name(), "a full queue", |it| it.count("dropped") == 2000);
    assert_eq!((full.number("queued"), full.number("dropped_last_minute")), (10_000, 2000), "{full:?}");
    remote.open();
    let back = home.forwarding_settled(&remote.name(), 12_001);
    assert_eq!((back.count("accepted"), back.count("dropped")), (10_000, 2000), "{back:?}");
    // The newest are dropped.
    assert_eq!(remote.counts("report"), (0..10_000).map(|number| (digest(number), 1)).collect());
    let requests = remote.requests();
    assert_eq!(requests.len(), 1000);
    let duration = requests.last().unwrap().at.duration_since(requests[0].at);
    // 5 s at this rate, less a window at the start.
    assert!(duration >= Duration::from_secs(4), "the rate is exceeded: {duration:?}");
    assert!(server.stop().success());
    let log = home.log();
    for text in ["is unavailable", "is available again"] {
        let lines = log.lines().filter(|line| line.contains(&remote.name()) && line.contains(text));
        assert_eq!(lines.count(), 1, "{text}: {log}");
    }
}

#[test]
fn queue_has_the_configured_length() {
    let mut remote = closed();
    let home = Home::open().config("ForwardQueue = 100\n").forwarding_to(&[remote.name()]);
    let server = home.start();
    await_outage(&home, server.port(), &remote, 1_000_000);
    report_together(server.port(), 0..250);
    home.forwarding_with(&remote.name(), "a full queue", |it| it.count("dropped") == 150);
    remote.open();
    let back = home.forwarding_settled(&remote.name(), 251);
    assert_eq!(back.count("accepted"), 100, "{back:?}");
    assert_eq!(remote.counts("report"), (0..100).map(|number| (digest(number), 1)).collect());
}

/// Silence is noticed by the timeout alone.
#[test]
fn unavailable_server_is_only_pinged() {
    let remote = Remote::silent();
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[remote.name()]);
    home.remotes_file("config", "[client]\nTimeout = 1\n");
    let server = home.start();
    report(server.port(), 0..3);
    home.forwarding_with(&remote.name(), "an outage", |it| it.state() == "unavailable");
    let sent = remote.received();
    let start = Instant::now();
    report(server.port(), 3..100);
    let pings = || remote.datagrams().into_iter().filter(|it| it.operation() == "ping").collect::<Vec<_>>();
    crate::harness::eventually("two pings", || (pings().len() >= 2).then_some(()));
    assert_eq!(remote.received(), sent);
    let pings = pings();
    // Each from a port of its own, and not sooner than every two seconds.
    assert_ne!(pings[0].from, pings[1].from);
    assert!(pings[1].at.duration_since(pings[0].at) >= Duration::from_millis(1500));
    assert!(pings.len() <= 2 + start.elapsed().as_secs() as usize / 2);
    assert!(pings.iter().all(|ping| ping.digests().is_empty() && ping.header("Op-Spec").is_none()));
    remote.follow(accept);
    let back = home.forwarding_settled(&remote.name(), 100);
    assert_eq!(back.count("silent"), sent as u64);
    assert_eq!(back.count("accepted"), 100 - sent as u64);
}

/// A refusal shows that the server is there.
#[test]
fn any_reply_ends_an_outage() {
    let mut remote = Remote::closed_at("127.0.0.1", free_port(), |it| Answer::Reply(it.reply(403)));
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[remote.name()]);
    let server = home.start();
    await_outage(&home, server.port(), &remote, 0);
    report(server.port(), 1..20);
    remote.open();
    let back = home.forwarding_settled(&remote.name(), 20);
    assert!(back.refused(403) >= 19, "{back:?}");
    assert_ne!(back.state(), "unavailable");
}

/// The port of each socket is reported unreachable again and again while reports arrive.
#[test]
fn server_that_closes_its_port_repeatedly_gets_everything_else() {
    let mut remote = Remote::accepting();
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[remote.name()]);
    let server = home.start();
    thread::scope(|scope| {
        let reports = scope.spawn(|| report(server.port(), 0..2000));
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(200));
            remote.close();
            thread::sleep(Duration::from_millis(200));
            remote.open();
        }
        reports.join().unwrap();
    });
    let forwarding = home.forwarding_settled(&remote.name(), 2000);
    let (accepted, silent) = (forwarding.count("accepted"), forwarding.count("silent"));
    assert_eq!(accepted + silent, 2000, "{forwarding:?}");
    let received = remote.received() as u64;
    assert!((accepted..=accepted + silent).contains(&received), "{received} received: {forwarding:?}");
    assert!(silent <= 3 * 320, "{forwarding:?}");
    assert!(remote.counts("report").values().all(|count| *count == 1));
}

/// Its replies take longer than the pause between two pings.
#[test]
fn slow_server_comes_back_after_an_outage() {
    let late = |datagram: &Datagram| Answer::Later(Duration::from_millis(2500), datagram.reply(200));
    let mut remote = Remote::closed_at("127.0.0.1", free_port(), late);
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[remote.name()]);
    let server = home.start();
    await_outage(&home, server.port(), &remote, 1_000_000);
    report(server.port(), 0..1);
    remote.open();
    let back = home.forwarding_settled(&remote.name(), 2);
    assert_eq!((back.count("accepted"), back.count("silent")), (1, 1), "{back:?}");
}

/// The rate applies to what was queued in the outage, and not to what comes in later.
#[test]
fn busy_server_catches_up_although_more_comes_in_than_the_rate_permits() {
    let mut remote = closed();
    let home = Home::open().config("ForwardDelay = 0\nForwardRate = 20\n").forwarding_to(&[remote.name()]);
    let server = home.start();
    await_outage(&home, server.port(), &remote, 1_000_000);
    report(server.port(), 0..10);
    remote.open();
    let mut next = 10;
    crate::harness::eventually("the end of catching up", || {
        report(server.port(), next..next + 5);
        next += 5;
        thread::sleep(Duration::from_millis(50));
        (home.forwarding(&remote.name()).state() == "available").then_some(())
    });
    let back = home.forwarding_settled(&remote.name(), u64::from(next) + 1);
    assert_eq!((back.count("accepted"), back.count("dropped")), (u64::from(next), 0), "{back:?}");
}

/// A server whose database hangs, or a middlebox that drops large datagrams.
#[test]
fn server_that_replies_to_pings_alone_does_not_drain_the_queue() {
    let answer_pings = |it: &Datagram| match it.operation() {
        "ping" => accept(it),
        _ => Answer::Silence,
    };
    let remote = Remote::start(answer_pings);
    let home = Home::open().forwarding_to(&[remote.name()]);
    home.remotes_file("config", "[client]\nTimeout = 1\n");
    let server = home.start();
    report_together(server.port(), 0..1000);
    let pings = || {
        let all = remote.datagrams().into_iter().enumerate().filter(|(_, it)| it.operation() == "ping");
        all.map(|(index, _)| index).collect::<Vec<_>>()
    };
    crate::harness::eventually("two outages", || (pings().len() >= 2).then_some(()));
    let pings = pings();
    // Requests until the outage, and until the next one.
    assert!(pings[0] <= 32, "{pings:?}");
    assert_eq!(pings[1] - pings[0] - 1, 1, "{pings:?}");
    remote.follow(accept);
    let back = home.forwarding_settled(&remote.name(), 1000);
    assert_eq!(back.count("accepted") + back.count("silent"), 1000, "{back:?}");
    assert!(back.count("silent") <= 400, "{back:?}");
    let log = home.log();
    for text in ["is unavailable", "is available again"] {
        let lines = log.lines().filter(|line| line.contains(&remote.name()) && line.contains(text));
        assert_eq!(lines.count(), 1, "{text}: {log}");
    }
}

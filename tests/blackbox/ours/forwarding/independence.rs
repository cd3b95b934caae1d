//! Several servers to forward to: none waits for another, and no client waits for any.

use std::time::Duration;

use crate::harness::{Answer, Home, Remote, accept, digest};
use crate::ours::forwarding::report;

/// The timeout is so long that nothing would arrive in time behind a request that is waited for.
const TIMEOUT: &str = "[client]\nTimeout = 600\n";

#[test]
fn silent_and_slow_servers_delay_neither_others_nor_clients() {
    let (good, silent) = (Remote::accepting(), Remote::silent());
    let slow = Remote::start(|datagram| Answer::Later(Duration::from_secs(1), datagram.reply(200)));
    let names = [silent.name(), slow.name(), good.name()];
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&names);
    home.remotes_file("config", TIMEOUT);
    let server = home.start();
    report(server.port(), 0..200);
    assert_eq!(server.request("check", &[&digest(199)]).counts(), (1, 0));
    assert_eq!(home.forwarding_settled(&good.name(), 200).count("accepted"), 200);
    assert_eq!(home.forwarding_settled(&slow.name(), 200).count("accepted"), 200);
    let counts = (0..200).map(|number| (digest(number), 1)).collect();
    assert_eq!(good.counts("report"), counts);
    assert_eq!(slow.counts("report"), counts);
    // The window: no more than this is lost with a server.
    let forwarding = home.forwarding(&silent.name());
    assert!(silent.requests().len() <= 32 && forwarding.number("in_flight") <= 32, "{forwarding:?}");
    assert_eq!(forwarding.number("queued") + silent.received() as u64, 200);
}

#[test]
fn two_silent_servers_keep_their_queues_apart() {
    let silent = [Remote::silent(), Remote::silent()];
    let home = Home::open().forwarding_to(&silent.each_ref().map(Remote::name));
    home.remotes_file("config", "[client]\nTimeout = 1\n");
    let server = home.start();
    report(server.port(), 0..50);
    for remote in &silent {
        home.forwarding_with(&remote.name(), "an outage", |it| it.state() == "unavailable");
    }
    silent[1].follow(accept);
    home.forwarding_with(&silent[1].name(), "the end of the outage", |it| it.state() == "available");
    report(server.port(), 50..80);
    let back = home.forwarding_settled(&silent[1].name(), 80);
    assert_eq!(back.count("accepted") + back.count("silent"), 80, "{back:?}");
    assert!(back.count("accepted") >= 30, "{back:?}");
    let away = home.forwarding(&silent[0].name());
    assert_eq!((away.state(), away.count("accepted")), ("unavailable", 0));
    assert_eq!(server.request("check", &[&digest(79)]).counts(), (1, 0));
}

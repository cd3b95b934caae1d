//! Servers that refuse requests.

use crate::harness::{Account, Home, Remote, digest};
use crate::ours::forwarding::report;

#[test]
fn refused_requests_are_counted_and_logged_once_a_minute() {
    for code in [400, 401, 403, 500, 505] {
        let remote = Remote::refusing(code);
        let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[remote.name()]);
        let server = home.start();
        report(server.port(), 0..40);
        home.forwarding_settled(&remote.name(), 40);
        let forwarding = home.forwarding(&remote.name());
        assert_eq!(forwarding.refused(code), 40, "{forwarding:?}");
        assert_eq!(forwarding.number("refused_last_minute"), 40, "{forwarding:?}");
        assert!(forwarding.text("reason").contains(&code.to_string()), "{forwarding:?}");
        assert!(server.stop().success());
        // Never sent again.
        assert_eq!(remote.counts("report"), (0..40).map(|number| (digest(number), 1)).collect());
        let log = home.log();
        let refusals = log.lines().filter(|line| {
            line.contains(&remote.name())
                && line.contains("refused a request")
                && line.contains(&code.to_string())
        });
        assert_eq!(refusals.count(), 1, "{log}");
    }
}

#[test]
fn repetition_is_not_for_refused_requests() {
    let remote = Remote::refusing(401);
    let home = Home::open().config("ForwardDelay = 0\nForwardRetries = 2\n").forwarding_to(&[remote.name()]);
    home.remotes_file("config", "[client]\nTimeout = 1\n");
    let server = home.start();
    report(server.port(), 0..5);
    let forwarding = home.forwarding_settled(&remote.name(), 5);
    assert_eq!((forwarding.refused(401), forwarding.count("resent")), (5, 0), "{forwarding:?}");
    assert_eq!(remote.received(), 5);
}

/// A key that the other server does not know, and no key in any log.
#[test]
fn wrong_key_is_refused_by_the_other_server() {
    let bob = Account::new("bob");
    let wrong = Account::with_key("bob", Account::new("eve").key());
    let remote = Home::new().passwd(bob.passwd()).access("all : bob : allow\n").start();
    let name = format!("127.0.0.1:{}", remote.port());
    let home = Home::open().arguments(&["-d"]).forwarding_to(&[&name]).forwarding_as(&name, &wrong);
    let server = home.start();
    report(server.port(), 0..10);
    assert_eq!(home.forwarding_settled(&name, 10).refused(401), 10);
    // The account is read again.
    home.remotes_file("accounts", &bob.client_line(&name));
    server.signal(nix::sys::signal::Signal::SIGUSR1);
    crate::harness::eventually("the new account", || {
        report(server.port(), 10..20);
        (home.forwarding(&name).count("accepted") > 0).then_some(())
    });
    assert!(server.stop().success());
    let said = home.everything_said();
    assert!(!said.contains(bob.key()) && !said.contains(wrong.key()), "{said}");
}

//! Forwarding by confined servers, as another user.

use std::fs;

use nix::sys::signal::Signal;

use crate::harness::{Account, Remote, digest, lines};
use crate::ours::forwarding::report;
use crate::ours::root::{NOBODY, home_of};

#[test]
fn confined_server_of_another_user_forwards_and_reloads() {
    let bob = Account::new("bob");
    let remotes = [Remote::accepting(), Remote::accepting()];
    // A name, so that the resolver's files are read.
    let names = remotes.each_ref().map(|remote| format!("localhost:{}", remote.port()));
    let home = home_of(NOBODY, NOBODY, "User = nobody\nForwardDelay = 0\n");
    let home = home.forwarding_to(&names[..1]).forwarding_as(&names[0], &bob);
    let daemon = home.detach();
    let status = fs::read_to_string(daemon.proc("status")).unwrap();
    assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nUid:\t65534\t65534"), "{status}");
    let count = |at: usize| remotes[at].counts("report").len();
    crate::harness::eventually("the address that replies", || {
        report(home.port(), 0..1);
        (count(0) > 0).then_some(())
    });
    report(home.port(), 1..20);
    home.forwarding_with(&names[0], "accepted reports", |it| {
        it.number("queued") + it.number("in_flight") == 0
    });
    assert_eq!(count(0), 20);
    remotes[0].requests()[0].expect_signed(&bob);
    // The directory is read again, as that user and confined.
    home.remotes_file("servers", &lines(&names));
    home.remotes_file("accounts", &bob.client_line(&names[1]));
    daemon.signal(Signal::SIGUSR1);
    home.forwarding_with(&names[1], "the new server", |it| it.text("user") == "bob");
    crate::harness::eventually("both servers", || {
        report(home.port(), 20..30);
        (count(0) == 30 && count(1) == 10).then_some(())
    });
    remotes[1].requests()[0].expect_signed(&bob);
    assert!(remotes[1].counts("report").contains_key(&digest(29)));
    daemon.stop();
    let log = home.log();
    assert!(!log.contains("ermission denied"), "{log}");
}

//! Second opinions of confined servers, as another user.

use std::fs;

use nix::sys::signal::Signal;

use crate::harness::{Account, Remote, digest, eventually, lines};
use crate::ours::root::{NOBODY, home_of};

#[test]
fn confined_server_of_another_user_asks_and_reloads() {
    let bob = Account::new("bob");
    let remotes = [Remote::counting(7, 2), Remote::counting(1, 9)];
    // A name, so that the resolver's files are read.
    let names = remotes.each_ref().map(|remote| format!("localhost:{}", remote.port()));
    let home = home_of(NOBODY, NOBODY, "User = nobody\nUpstreamTimeout = 10\n");
    let home = home.asking(&names[..1]).asking_as(&names[0], &bob);
    let daemon = home.detach();
    let status = fs::read_to_string(daemon.proc("status")).unwrap();
    assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nUid:\t65534\t65534"), "{status}");
    let mut caller = home.caller();
    let mut number = 0;
    let mut expect = |counts: (i64, i64)| {
        eventually("an answer", || {
            number += 1;
            (caller.answered("check", &[&digest(number)]).counts() == counts).then_some(())
        });
    };
    expect((7, 2));
    remotes[0].requests()[0].expect_signed(&bob);
    // The directory is read again, as that user and confined.
    home.upstream_file("servers", &lines(&names));
    home.upstream_file("accounts", &bob.client_line(&names[1]));
    daemon.signal(Signal::SIGUSR1);
    home.opinions_with("the new server", |it| it.knows(&names[1]));
    expect((7, 9));
    remotes[1].requests()[0].expect_signed(&bob);
    daemon.stop();
    let log = home.log();
    assert!(!log.contains("ermission denied") && !log.contains("not permitted"), "{log}");
    assert!(!home.everything_said().contains(bob.key()));
}

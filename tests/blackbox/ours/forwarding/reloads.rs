//! The directory is read again while the server runs.

use nix::sys::signal::Signal;

use crate::harness::{Home, Remote, Server, digest, eventually, lines};
use crate::ours::forwarding::report;

fn reload(server: &Server, home: &Home, signal: Signal, names: &[String]) {
    home.remotes_file("servers", &lines(names));
    server.signal(signal);
}

#[test]
fn reload_adds_and_removes_servers() {
    let remotes = [Remote::accepting(), Remote::accepting(), Remote::accepting()];
    let names = remotes.each_ref().map(Remote::name);
    for signal in [Signal::SIGUSR1, Signal::SIGHUP] {
        let home = Home::open().config("ForwardDelay = 60\n").forwarding_to(&names[..2]);
        let server = home.start();
        let before = remotes.each_ref().map(Remote::received);
        let new = |at: usize| remotes[at].received() - before[at];
        report(server.port(), 0..13);
        home.forwarding_settled(&names[1], 10);
        reload(&server, &home, signal, &names[1..]);
        eventually("the new server", || home.find_forwarding(&names[2]));
        // A removed server is sent what was due, once.
        eventually("the rest at the removed server", || (new(0) == 13).then_some(()));
        eventually("the removed server to be gone", || {
            home.find_forwarding(&names[0]).is_none().then_some(())
        });
        assert!(home.forwarding(&names[1]).count("accepted") >= 10);
        report(server.port(), 13..20);
        assert!(server.stop().success());
        assert_eq!([new(0), new(1), new(2)], [13, 20, 7]);
    }
}

#[test]
fn unusable_directory_changes_nothing() {
    let remote = Remote::accepting();
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[remote.name()]);
    let server = home.start();
    for content in ["", "# nothing\n", "bad line:x\n"] {
        let before = home.log().len();
        reload(&server, &home, Signal::SIGUSR1, &[content.to_owned()]);
        eventually("a line that names the file", || {
            home.log()[before..].contains(home.remotes().join("servers").to_str().unwrap()).then_some(())
        });
    }
    report(server.port(), 0..5);
    home.forwarding_settled(&remote.name(), 5);
    assert_eq!(remote.counts("report"), (0..5).map(|number| (digest(number), 1)).collect());
}

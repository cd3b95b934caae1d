//! Names whose addresses change, in a `/etc` of their own.

use std::fs;

use nix::sys::signal::Signal;

use crate::harness::{Home, Remote, Server, accept, digest, eventually, free_port};
use crate::ours::forwarding::report;
use crate::ours::mounts::Etc;

const NAME: &str = "central.example";

/// A server whose `/etc/hosts` the test writes, and which forwards to [`NAME`].
struct Scene {
    home: Home,
    etc: Etc,
    name: String,
}

impl Scene {
    fn new(port: u16, hosts: &str) -> Self {
        Self::of(Home::open(), port, hosts)
    }

    fn of(home: Home, port: u16, hosts: &str) -> Self {
        let name = format!("{NAME}:{port}");
        let home = home.config("ForwardDelay = 0\n").forwarding_to(&[&name]);
        home.remotes_file("config", "[client]\nTimeout = 1\n");
        let etc = Etc::new(&home, &home.parent().join("etc"));
        let scene = Self { home, etc, name };
        scene.hosts(hosts);
        scene
    }

    fn hosts(&self, addresses: &str) {
        let lines: String =
            addresses.split_whitespace().map(|address| format!("{address} {NAME}\n")).collect();
        fs::write(self.home.parent().join("etc/hosts"), format!("127.0.0.1 localhost\n{lines}")).unwrap();
    }

    fn start(&self) -> Server {
        let mut server = Server::start(&self.home, self.etc.inside(&self.home, &self.home.command()));
        server.serves(&mut self.home.caller());
        server
    }
}

fn closed(address: &str, port: u16) -> Remote {
    Remote::closed_at(address, port, accept)
}

#[test]
fn new_address_of_a_name_is_used_when_the_old_one_is_silent() {
    let port = free_port();
    let (mut old, mut new) = (closed("127.0.0.2", port), closed("127.0.0.3", port));
    old.open();
    let scene = Scene::new(port, "127.0.0.2");
    let (home, _server) = (&scene.home, scene.start());
    report(home.port(), 0..5);
    home.forwarding_settled(&scene.name, 5);
    old.receives(5);
    // The server moves.
    scene.hosts("127.0.0.3");
    old.close();
    new.open();
    report(home.port(), 5..30);
    let moved = home.forwarding_settled(&scene.name, 30);
    assert_eq!(moved.text("address"), format!("127.0.0.3:{port}"));
    assert_eq!(moved.count("accepted") as usize, 5 + new.received(), "{moved:?}");
    // What was sent before the old address was known to be dead.
    assert!(moved.count("silent") <= 25, "{moved:?}");
    report(home.port(), 30..40);
    assert_eq!(home.forwarding_settled(&scene.name, 40).count("accepted"), moved.count("accepted") + 10);
}

/// The old address goes on replying, as that of a server that is about to be switched off.
#[test]
fn new_address_of_a_name_is_used_after_a_reload() {
    let port = free_port();
    let [old, new] = ["127.0.0.2", "127.0.0.3"].map(|address| Remote::start_at(address, port, accept));
    let scene = Scene::new(port, "127.0.0.2");
    let (home, server) = (&scene.home, scene.start());
    report(home.port(), 0..5);
    home.forwarding_settled(&scene.name, 5);
    scene.hosts("127.0.0.2 127.0.0.3");
    let address = |text: &str| {
        let expected = format!("{text}:{port}");
        home.forwarding_with(&scene.name, text, |it| it.text("address") == expected);
    };
    for hosts in ["127.0.0.2 127.0.0.3", "127.0.0.3"] {
        scene.hosts(hosts);
        let before = home.log().matches("have been reloaded").count();
        server.signal(Signal::SIGUSR1);
        eventually("the reload", || {
            (home.log().matches("have been reloaded").count() > before).then_some(())
        });
        address(hosts.split(' ').next().unwrap());
    }
    report(home.port(), 5..10);
    assert_eq!(home.forwarding_settled(&scene.name, 10).count("accepted"), 10);
    assert_eq!((old.received(), new.received()), (5, 5));
}

#[test]
fn name_without_an_address_keeps_everything() {
    let port = free_port();
    let remote = Remote::start_at("127.0.0.2", port, accept);
    let scene = Scene::new(port, "");
    let (home, _server) = (&scene.home, scene.start());
    report(home.port(), 0..50);
    let away = home.forwarding_with(&scene.name, "an outage", |it| it.state() == "unavailable");
    assert!(!away.text("reason").is_empty() && away.count("requests") == 0, "{away:?}");
    scene.hosts("127.0.0.2");
    assert_eq!(home.forwarding_settled(&scene.name, 50).count("accepted"), 50);
    assert_eq!(remote.counts("report"), (0..50).map(|number| (digest(number), 1)).collect());
}

/// An address that moves to this machine for a moment, or a mistake of the resolver.
#[test]
fn queue_outlasts_a_name_that_has_the_address_of_this_server_for_a_while() {
    let home = Home::open();
    let port = home.port();
    let mut remote = Remote::start_at("127.0.0.2", port, accept);
    let scene = Scene::of(home, port, "127.0.0.2");
    let (home, _server) = (&scene.home, scene.start());
    report(port, 0..5);
    home.forwarding_settled(&scene.name, 5);
    remote.close();
    report(port, 5..6);
    home.forwarding_with(&scene.name, "an outage", |it| it.state() == "unavailable");
    report(port, 6..50);
    scene.hosts("127.0.0.1");
    let is_own = format!("its name has the address 127.0.0.1:{port} of this server itself");
    home.forwarding_with(&scene.name, "the own address", |it| it.text("reason") == is_own);
    report(port, 50..100);
    let own = home.forwarding(&scene.name);
    assert_eq!((own.number("queued"), own.count("dropped")), (94, 0), "{own:?}");
    scene.hosts("127.0.0.2");
    remote.open();
    let back = home.forwarding_settled(&scene.name, 100);
    assert_eq!((back.count("accepted"), back.count("dropped")), (99, 0), "{back:?}");
}

#[test]
fn every_address_of_a_name_is_tried() {
    let port = free_port();
    let addresses = ["127.0.0.2", "127.0.0.3", "::1"];
    for alive in ["127.0.0.3", "::1"] {
        let remote = Remote::start_at(alive, port, accept);
        let scene = Scene::new(port, &addresses.join(" "));
        let (home, _server) = (&scene.home, scene.start());
        report(home.port(), 0..1);
        eventually("the address that replies", || {
            report(home.port(), 1..2);
            (home.forwarding(&scene.name).count("accepted") > 0).then_some(())
        });
        assert_eq!(home.forwarding(&scene.name).text("address"), remote.name());
    }
}

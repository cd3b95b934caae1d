//! Names whose addresses change, in a `/etc` of their own.

use std::fs;

use nix::sys::signal::Signal;

use crate::harness::{Home, Remote, Server, counting, digest, eventually, free_port};
use crate::ours::mounts::Etc;
use crate::ours::upstream::HASTY;

const NAME: &str = "central.example";

/// A server whose `/etc/hosts` the test writes, and which asks [`NAME`].
struct Scene {
    home: Home,
    etc: Etc,
    name: String,
    /// The number of the next digest.
    next: u32,
}

impl Scene {
    fn new(port: u16, hosts: &str) -> Self {
        let name = format!("{NAME}:{port}");
        let home = Home::open().config(HASTY).asking(&[&name]);
        let etc = Etc::new(&home, &home.parent().join("etc"));
        let scene = Self { home, etc, name, next: 0 };
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

    /// Checks new digests until one has these counts. The others have none.
    #[track_caller]
    fn expect(&mut self, counts: (i64, i64)) {
        let mut caller = self.home.caller();
        eventually("an answer", || {
            self.next += 1;
            let got = caller.answered("check", &[&digest(self.next)]).counts();
            assert!(got == counts || got == (0, 0), "{got:?}");
            (got == counts).then_some(())
        });
    }
}

fn closed(address: &str, port: u16, counts: (i64, i64)) -> Remote {
    Remote::closed_at(address, port, move |datagram| counting(datagram, counts))
}

#[test]
fn new_address_of_a_name_is_asked_when_the_old_one_is_silent() {
    let port = free_port();
    let (mut old, mut new) = (closed("127.0.0.2", port, (7, 2)), closed("127.0.0.3", port, (5, 0)));
    old.open();
    let mut scene = Scene::new(port, "127.0.0.2");
    let _server = scene.start();
    scene.expect((7, 2));
    // The server moves.
    scene.hosts("127.0.0.3");
    old.close();
    new.open();
    let mut caller = scene.home.caller();
    // Meets the closed port.
    assert_eq!(caller.answered("check", &[&digest(1_000_000)]).counts(), (0, 0));
    scene.expect((5, 0));
    let opinions = scene.home.opinions_while(&scene.name, "available");
    assert_eq!(opinions.text(&scene.name, "address"), new.name());
}

#[test]
fn new_address_of_a_name_is_asked_after_a_reload_although_the_old_one_answers() {
    let port = free_port();
    let (mut old, mut new) = (closed("127.0.0.2", port, (7, 2)), closed("127.0.0.3", port, (5, 0)));
    old.open();
    new.open();
    let mut scene = Scene::new(port, "127.0.0.2");
    let server = scene.start();
    scene.expect((7, 2));
    scene.hosts("127.0.0.3");
    server.signal(Signal::SIGUSR1);
    let mut caller = scene.home.caller();
    eventually("an answer of the new address", || {
        scene.next += 1;
        let counts = caller.answered("check", &[&digest(scene.next)]).counts();
        (counts == (5, 0)).then_some(())
    });
}

#[test]
fn name_without_an_address_costs_no_check_any_time() {
    let port = free_port();
    let remote = Remote::start_at("127.0.0.2", port, |datagram| counting(datagram, (7, 2)));
    let mut scene = Scene::new(port, "");
    let _server = scene.start();
    let mut caller = scene.home.caller();
    for number in 1000..1050 {
        assert_eq!(caller.answered("check", &[&digest(number)]).counts(), (0, 0));
    }
    let away = scene.home.opinions_while(&scene.name, "unavailable");
    assert!(!away.text(&scene.name, "reason").is_empty(), "{away:?}");
    assert_eq!((away.count_of(&scene.name, "sent"), away.declined("unavailable")), (0, 50), "{away:?}");
    scene.hosts("127.0.0.2");
    scene.expect((7, 2));
    assert!(remote.received() >= 1);
}

#[test]
fn every_address_of_a_name_is_tried() {
    let port = free_port();
    for alive in ["127.0.0.3", "::1"] {
        let remote = Remote::start_at(alive, port, |datagram| counting(datagram, (7, 2)));
        let mut scene = Scene::new(port, "127.0.0.2 127.0.0.3 ::1");
        let _server = scene.start();
        scene.expect((7, 2));
        assert_eq!(scene.home.opinions().text(&scene.name, "address"), remote.name());
    }
}

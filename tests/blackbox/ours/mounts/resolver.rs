//! A resolver configuration that moves to a directory that did not exist when the server was confined.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::signal::Signal;

use crate::harness::{Home, MariaDb, Redis, Server, eventually};
use crate::ours::mounts::Etc;

const NAME: &str = "store.example";

#[track_caller]
fn expect_reported(engine: &str, dsn: &str, lose: impl FnOnce()) {
    let home = Home::open();
    let etc = home.parent().join("etc");
    let namespace = Etc::new(&home, &etc);
    fs::write(etc.join("hosts"), format!("127.0.0.1 localhost {NAME}\n")).unwrap();
    let config = format!("[server]\nLogFile = pyzord.log\nEngine = {engine}\nDigestDB = {dsn}\n");
    home.rewrite("config", config);
    let mut server = Server::start(&home, namespace.inside(&home, &home.command()));
    server.serves(&mut home.caller());
    // Another network manager keeps the resolver configuration in a directory of its own.
    let later = home.parent().join("later");
    fs::create_dir(&later).unwrap();
    fs::write(later.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    fs::remove_file(etc.join("resolv.conf")).unwrap();
    symlink(later.join("resolv.conf"), etc.join("resolv.conf")).unwrap();
    fs::write(etc.join("hosts"), "127.0.0.1 localhost\n").unwrap();
    lose();
    let line = eventually("the reason of the outage", || {
        let log = home.log();
        log.lines().find(|line| line.contains("is still unavailable")).map(str::to_owned)
    });
    let place = later.join("resolv.conf").display().to_string();
    for text in ["/etc/resolv.conf", &place, "Confine", "restart pyzord"] {
        assert!(line.contains(text), "{line}");
    }
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn unresolvable_name_due_to_confinement_is_reported() {
    let mut redis = Redis::start();
    expect_reported("redis", &format!("{NAME},{},,0", redis.port()), || redis.service().kill());
    let mut mariadb = MariaDb::start();
    let dsn = format!("{NAME}:{},pyzor,secret,pyzor,digests", mariadb.port());
    expect_reported("mysql", &dsn, || mariadb.service().kill());
}

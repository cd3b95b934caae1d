//! A resolver configuration that moves to a directory that did not exist when the server was confined.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::harness::{Home, MariaDb, Redis, Server, eventually};

const NAME: &str = "store.example";

/// A directory mounted over `/etc` in a mount namespace of its own.
struct Etc(Child);

impl Etc {
    fn new(home: &Home, directory: &Path) -> Self {
        fs::create_dir(directory).unwrap();
        for name in ["passwd", "group", "nsswitch.conf", "ld.so.cache"] {
            // Not every system has all of them.
            let _ = fs::copy(Path::new("/etc").join(name), directory.join(name));
        }
        fs::write(directory.join("hosts"), format!("127.0.0.1 localhost {NAME}\n")).unwrap();
        fs::write(directory.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        // The mount exists as long as this process.
        let mut command = home.mark(Command::new("unshare"));
        command.args(["-m", "sh", "-c", "mount --bind \"$1\" /etc && echo mounted && exec cat", "sh"]);
        command.arg(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        Self(holder)
    }

    fn inside(&self, home: &Home, inner: &Command) -> Command {
        let mut command = home.mark(Command::new("nsenter"));
        command.args(["-t", &self.0.id().to_string(), "-m", "--"]);
        command.arg(inner.get_program()).args(inner.get_args());
        command
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn expect_reported(engine: &str, dsn: &str, lose: impl FnOnce()) {
    let home = Home::open();
    let etc = home.parent().join("etc");
    let namespace = Etc::new(&home, &etc);
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

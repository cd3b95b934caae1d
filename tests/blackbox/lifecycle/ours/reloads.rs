//! Reloads by signal.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use std::{fs, thread};

use nix::sys::signal::Signal;

use crate::harness::{Account, DIGEST, Home, StopFlag, digest, eventually};

#[test]
fn hup_reopens_the_logs_and_reloads() {
    let account = Account::new("bob");
    let home = Home::new().passwd("").access("ping report : anonymous bob : allow\n");
    let server = home.start();
    assert_eq!(server.request("ping", &[]).code(), 200);
    let old = "usage.log.1";
    eventually("the first usage line", || home.read("usage.log").contains(",ping,").then_some(()));
    for name in ["pyzord.log", "usage.log"] {
        fs::rename(home.path(name), home.path(format!("{name}.1"))).unwrap();
    }
    home.rewrite("pyzord.passwd", account.passwd());
    server.signal(Signal::SIGHUP);
    eventually("the new account", || (server.request_as(&account, "ping", &[]).code() == 200).then_some(()));
    // Queued lines still go to the old files.
    eventually("new logs", || {
        server.signal(Signal::SIGUSR1);
        assert_eq!(server.request_as(&account, "ping", &[]).code(), 200);
        let usage = home.read("usage.log").contains("bob,127.0.0.1,ping,None,200");
        (usage && !home.log().is_empty()).then_some(())
    });
    let old_usage = home.read(old);
    assert_eq!(server.request_as(&account, "report", &[DIGEST]).code(), 200);
    eventually("a line in the new usage log", || home.read("usage.log").contains(",report,").then_some(()));
    assert_eq!(home.read(old), old_usage, "the old usage log is still written");
    let mode = fs::metadata(home.path("usage.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(server.stop().code(), Some(0));
    assert!(home.log().contains("Server shutdown."));
    assert!(!home.read("pyzord.log.1").contains("Server shutdown."));
}

#[test]
fn log_that_cannot_be_reopened_stays_in_use() {
    let home = Home::open();
    let server = home.start();
    let log = home.path("pyzord.log");
    fs::rename(&log, home.path("moved")).unwrap();
    fs::create_dir(&log).unwrap();
    server.signal(Signal::SIGHUP);
    eventually("an error in the old log", || {
        let text = home.read("moved");
        text.lines().any(|line| line.contains(" ERROR ") && line.contains("pyzord.log")).then_some(())
    });
    assert_eq!(server.request("ping", &[]).code(), 200);
    assert_eq!(server.stop().code(), Some(0));
    assert!(home.read("moved").contains("Server shutdown."));
}

#[test]
fn many_signals_under_load_lose_no_reply() {
    const REPORTS: u32 = 1500;
    let home = Home::open();
    let daemon = home.detach();
    let over = StopFlag::default();
    thread::scope(|scope| {
        let guard = over.set_on_drop();
        let storm = scope.spawn(|| {
            let mut signals = 0;
            while !over.is_set() {
                daemon.signal(if signals % 2 == 0 { Signal::SIGUSR1 } else { Signal::SIGHUP });
                signals += 1;
                thread::sleep(Duration::from_micros(300));
            }
            signals
        });
        let mut caller = home.caller();
        for number in 0..REPORTS {
            assert_eq!(caller.answered("report", &[&digest(number % 10)]).code(), 200);
        }
        drop(guard);
        assert!(storm.join().unwrap() > 20);
    });
    daemon.stop();
    assert_eq!(home.stored().values().sum::<i64>(), i64::from(REPORTS));
    assert_eq!(home.read("usage.log").lines().count(), REPORTS as usize);
}

#[test]
fn reload_under_load_adds_and_removes_accounts() {
    let (old, new) = (Account::new("old"), Account::new("new"));
    let home = Home::new().access("all : all anonymous : allow\n").passwd(old.passwd());
    let server = home.start();
    assert_eq!(server.request_as(&old, "report", &[DIGEST]).code(), 200);
    assert_eq!(server.request_as(&new, "report", &[DIGEST]).code(), 401);
    home.rewrite("pyzord.passwd", new.passwd());
    server.signal(Signal::SIGUSR1);
    let mut anonymous = 0;
    eventually("the new account", || {
        assert_eq!(server.request("report", &[DIGEST]).code(), 200);
        anonymous += 1;
        (server.request_as(&new, "ping", &[]).code() == 200).then_some(())
    });
    assert_eq!(server.request_as(&old, "report", &[DIGEST]).code(), 401);
    assert_eq!(server.request("check", &[DIGEST]).counts().0, anonymous + 1);
}

//! Faults of the machine that do their harm later: a clock by which records are expired, a homedir that
//! is elsewhere, a pid file without a number.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Account, Home, Reply, ask_on, eventually, ours_only, unix_time};
use crate::support::{Ledger, Over, Running, Site, digest};

/// So many callers report so many digests.
const CALLERS: u32 = 4;
const DIGESTS: u32 = 100;
/// How long a caller waits for a reply.
const PATIENCE: Duration = Duration::from_millis(300);

/// How many reports have been acknowledged so far.
struct Load(AtomicU64);

impl Load {
    /// Waits until so many more have been.
    #[track_caller]
    fn more(&self, reports: u64) {
        let goal = self.0.load(Ordering::Relaxed) + reports;
        eventually("reports that count", || (self.0.load(Ordering::Relaxed) >= goal).then_some(()));
    }
}

/// Lets callers report while something happens. Returns what they have seen.
fn reporting(site: &Site, happens: impl FnOnce(&Load)) -> Ledger {
    let (over, load) = (Over::default(), Load(AtomicU64::new(0)));
    let mut ledger = Ledger::default();
    thread::scope(|scope| {
        let guard = over.guard();
        let caller = |number: u32| {
            let (over, load) = (&over, &load);
            scope.spawn(move || report(site, over, load, number * DIGESTS / CALLERS))
        };
        let callers: Vec<_> = (0..CALLERS).map(caller).collect();
        load.more(100);
        happens(&load);
        load.more(100);
        drop(guard);
        callers.into_iter().for_each(|caller| ledger.add(caller.join().unwrap()));
    });
    ledger
}

fn report(site: &Site, over: &Over, load: &Load, first: u32) -> Ledger {
    let (mut ledger, mut caller) = (Ledger::default(), site.caller());
    for number in first.. {
        if over.is_over() {
            break;
        }
        let digest = digest(number % DIGESTS);
        let reply = caller.ask("report", &[&digest], PATIENCE);
        ledger.enter(&digest, reply.as_ref());
        if reply.is_some_and(|reply| reply.code() == 200) {
            load.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    ledger
}

/// A log beside the homedir.
fn log_of(site: &Site) -> PathBuf {
    site.folder().join("main.log")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A server with its log beside the homedir.
fn start(site: &Site) -> Running {
    let mut command = site.command();
    command.arg("--log-file").arg(log_of(site));
    let mut server = Running::start(site, command);
    server.serves(&mut site.caller());
    server
}

/// Ends a server, which must do that well.
#[track_caller]
fn end(server: &mut Running) {
    server.daemon().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn a_homedir_that_is_renamed_keeps_every_report() {
    if !ours_only() {
        return;
    }
    let site = Site::new();
    let mut server = start(&site);
    let home = site.home().path();
    let elsewhere = site.folder().join("elsewhere");
    let ledger = reporting(&site, |load| {
        fs::rename(&home, &elsewhere).unwrap();
        load.more(100);
        server.daemon().signal(Signal::SIGUSR1);
        server.daemon().signal(Signal::SIGHUP);
        load.more(100);
    });
    end(&mut server);
    fs::rename(&elsewhere, &home).unwrap();
    ledger.compare(&site.stored());
    // The marker could not be removed, so the next start looks for damage, and there is none.
    let mut server = start(&site);
    end(&mut server);
    ledger.compare(&site.stored());
}

fn faketime() -> PathBuf {
    let folder = format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    let path = Path::new(&folder).join("libfaketime.so.1");
    assert!(path.exists(), "{} is missing: run tests/setup.sh", path.display());
    path
}

/// A server with a clock that [`set_clock`] sets.
fn start_with_clock(site: &Site) -> Running {
    let mut command = site.command();
    command.arg("--log-file").arg(log_of(site));
    command.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", site.path("clock"));
    command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let mut server = Running::start(site, command);
    server.serves(&mut site.caller());
    server
}

/// Lets the server's clock show the time in so many hours.
fn set_clock(site: &Site, hours: i64) {
    site.home().rewrite("clock", format!("{hours:+}h\n"));
}

#[test]
fn a_start_with_a_clock_that_is_hours_wrong_expires_nothing() {
    if !ours_only() {
        return;
    }
    let bob = Account::new("bob");
    let home = Home::open().passwd(bob.passwd()).access("all : anonymous : allow\nall : bob : allow\n");
    // Four days, and no two of the clocks below are that far apart.
    let site = Site::at(home.config("CleanupAge = 345600\n"));
    set_clock(&site, 0);
    let mut server = start_with_clock(&site);
    let signed = || {
        let headers = "Op: ping\nThread: 3000\nPV: 2.1\n";
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", site.port())).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Reply(ask_on(&socket, bob.sign(headers, unix_time()))).code()
    };
    // What is first reported by each clock, and the time that this one shows.
    let mut entered = Vec::new();
    let mut ledger = Ledger::default();
    for (step, hours) in (9000..).zip([0, 9, -9, 3, -30, 30, 0]) {
        ledger.add(reporting(&site, |load| {
            set_clock(&site, hours);
            // The one time that a signature may be checked by the clock before.
            let expected = if hours == 0 { 200 } else { 401 };
            eventually("the other clock", || (signed() == expected).then_some(()));
            let mut caller = site.caller();
            let before = unix_time() + hours * 3600;
            assert_eq!(caller.answered("report", &[&digest(step)]).code(), 200);
            entered.push((digest(step), before));
            load.more(100);
            assert_eq!(signed(), expected);
        }));
        if hours == 30 || hours == -30 {
            // The next start looks for what has expired by this clock.
            end(&mut server);
            server = start_with_clock(&site);
            eventually("a look for what has expired", || {
                let log = text(&log_of(&site));
                assert!(log.matches("Expired ").count() == log.matches("Expired 0 of ").count(), "{log}");
                (log.matches("Expired 0 of ").count() == log.matches("Starting pyzord").count()).then_some(())
            });
        }
    }
    let mut caller = site.caller();
    for (digest, before) in &entered {
        let info = caller.answered("info", &[digest]);
        let shown = info.number("Entered");
        assert!((*before..before + 60).contains(&shown), "{digest}: entered {shown}, expected {before}");
        ledger.acknowledge(digest);
    }
    end(&mut server);
    ledger.compare(&site.stored());
}

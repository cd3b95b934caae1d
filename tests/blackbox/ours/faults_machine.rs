//! Faults of the machine whose effects could appear later: a homedir that is renamed, and a wrong clock, by which
//! records could expire too early.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Account, Home, Ledger, Reply, Server, StopFlag, ask_on, digest, eventually, unix_time};

/// The number of concurrent callers.
const CALLERS: u32 = 4;
/// The number of digests that they report.
const DIGESTS: u32 = 100;
/// The time that a caller waits for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_millis(300);

/// The number of reports that have been acknowledged so far.
struct Load(AtomicU64);

impl Load {
    /// Waits until this many more reports have been acknowledged.
    #[track_caller]
    fn more(&self, reports: u64) {
        let goal = self.0.load(Ordering::Relaxed) + reports;
        eventually("reports that count", || (self.0.load(Ordering::Relaxed) >= goal).then_some(()));
    }
}

/// Runs a disturbance while callers report, and returns their ledger.
fn reporting(home: &Home, happens: impl FnOnce(&Load)) -> Ledger {
    let (over, load) = (StopFlag::default(), Load(AtomicU64::new(0)));
    let mut ledger = Ledger::default();
    thread::scope(|scope| {
        let guard = over.set_on_drop();
        let caller = |number: u32| {
            let (over, load) = (&over, &load);
            scope.spawn(move || report(home, over, load, number * DIGESTS / CALLERS))
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

fn report(home: &Home, over: &StopFlag, load: &Load, first: u32) -> Ledger {
    let (mut ledger, mut caller) = (Ledger::default(), home.caller());
    for number in first.. {
        if over.is_set() {
            break;
        }
        let digest = digest(number % DIGESTS);
        let reply = caller.ask("report", &[&digest], REPLY_TIMEOUT);
        ledger.enter(&digest, reply.as_ref());
        if reply.is_some_and(|reply| reply.code() == 200) {
            load.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    ledger
}

/// The log of a server, beside the homedir.
fn log_of(home: &Home) -> PathBuf {
    home.parent().join("main.log")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Starts a server with its log beside the homedir.
fn start(home: &Home) -> Server {
    let mut command = home.command();
    command.arg("--log-file").arg(log_of(home));
    let mut server = Server::start(home, command);
    server.serves(&mut home.caller());
    server
}

/// Stops a server, and asserts that it exits with code 0.
#[track_caller]
fn end(server: &mut Server) {
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn a_homedir_that_is_renamed_keeps_every_report() {
    let home = Home::open();
    let mut server = start(&home);
    let directory = home.directory();
    let elsewhere = home.parent().join("elsewhere");
    let ledger = reporting(&home, |load| {
        fs::rename(&directory, &elsewhere).unwrap();
        load.more(100);
        server.process().signal(Signal::SIGUSR1);
        server.process().signal(Signal::SIGHUP);
        load.more(100);
    });
    end(&mut server);
    fs::rename(&elsewhere, &directory).unwrap();
    ledger.compare(&home.stored());
    // The marker could not be removed, so the next start searches the file for damage, and finds none.
    let mut server = start(&home);
    end(&mut server);
    ledger.compare(&home.stored());
}

fn faketime() -> PathBuf {
    let directory = format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    let path = Path::new(&directory).join("libfaketime.so.1");
    assert!(path.exists(), "{} is missing: run tests/setup.sh", path.display());
    path
}

/// Starts a server whose clock [`set_clock`] sets.
fn start_with_clock(home: &Home) -> Server {
    let mut command = home.command();
    command.arg("--log-file").arg(log_of(home));
    command.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", home.path("clock"));
    command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let mut server = Server::start(home, command);
    server.serves(&mut home.caller());
    server
}

/// Sets the server's clock to this many hours after the current time.
fn set_clock(home: &Home, hours: i64) {
    home.rewrite("clock", format!("{hours:+}h\n"));
}

#[test]
fn a_start_with_a_clock_that_is_hours_wrong_expires_nothing() {
    let bob = Account::new("bob");
    let home = Home::open().passwd(bob.passwd()).access("all : anonymous : allow\nall : bob : allow\n");
    // Four days, more than the difference between any two of the clocks below.
    let home = home.config("CleanupAge = 345600\n");
    set_clock(&home, 0);
    let mut server = start_with_clock(&home);
    let signed = || {
        let headers = "Op: ping\nThread: 3000\nPV: 2.1\n";
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", home.port())).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Reply(ask_on(&socket, bob.sign(headers, unix_time()))).code()
    };
    // The digest that is first reported under each clock, and the time of that clock.
    let mut entered = Vec::new();
    let mut ledger = Ledger::default();
    for (step, hours) in (9000..).zip([0, 9, -9, 3, -30, 30, 0]) {
        ledger.add(reporting(&home, |load| {
            set_clock(&home, hours);
            // The server may check a first signature by the previous clock.
            let expected = if hours == 0 { 200 } else { 401 };
            eventually("the other clock", || (signed() == expected).then_some(()));
            let mut caller = home.caller();
            let before = unix_time() + hours * 3600;
            assert_eq!(caller.answered("report", &[&digest(step)]).code(), 200);
            entered.push((digest(step), before));
            load.more(100);
            assert_eq!(signed(), expected);
        }));
        if hours == 30 || hours == -30 {
            // The next start searches for records that have expired by this clock.
            end(&mut server);
            server = start_with_clock(&home);
            eventually("the end of the expiry", || {
                let log = text(&log_of(&home));
                assert!(
                    log.matches("Expiry: removed ").count() == log.matches("Expiry: removed 0 of ").count(),
                    "{log}"
                );
                (log.matches("Expiry: removed 0 of ").count() == log.matches("Starting pyzord").count())
                    .then_some(())
            });
        }
    }
    let mut caller = home.caller();
    for (digest, before) in &entered {
        let info = caller.answered("info", &[digest]);
        let shown = info.number("Entered");
        assert!((*before..before + 60).contains(&shown), "{digest}: entered {shown}, expected {before}");
        ledger.acknowledge(digest);
    }
    end(&mut server);
    ledger.compare(&home.stored());
}
